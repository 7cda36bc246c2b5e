import Glibc
import WeftAPI
import WeftNetlink

/// A container's interface that is a TAP interface: it is in the container's namespace alone, and the forwarder opens it
/// there. It stays when the forwarder goes, without a carrier, until DEL deletes it or the namespace ends. Its alias is
/// what the forwarder calls the port, by which it is known as ours.
enum TapEnd {
  /// Makes it, configured and down, or leaves nothing.
  static func make(
    _ attachment: Attachment, _ tap: AttachmentTap, mtu: Int, namespace: borrowing NetworkNamespace, container: Netlink
  ) throws {
    let name = attachment.interface
    try namespace.createTap(name, isMultiQueue: tap.queues != 1)
    do {
      guard let link = try container.link(named: name) else {
        throw VethEnds.Failure(description: "\(name) is gone from the container as soon as it was made")
      }
      do {
        try container.changeLink(
          index: link.index, LinkChange(mtu: UInt32(mtu), mac: attachment.mac, alias: attachment.hostInterface))
        try ContainerEnd.setAddresses(attachment, namespace, container, link.index)
      } catch {
        try? container.deleteLink(index: link.index)
        throw error
      }
    }
  }

  /// Once the forwarder has it, so that it has a carrier: it comes up ready to send. Answers the routes that were set.
  static func raise(_ attachment: Attachment, container: Netlink) throws -> [AttachmentRoute] {
    guard let link = try container.link(named: attachment.interface) else {
      throw VethEnds.Failure(description: "\(attachment.interface) has gone from the container")
    }
    try container.changeLink(index: link.index, LinkChange(isUp: true))
    return try ContainerEnd.setRoutes(attachment, container, link.index)
  }

  /// Deletes it where it is still there. What is no TAP interface with that alias is left alone, but for one that has no
  /// alias yet, is down and open nowhere: a run made it that was killed before it had named it.
  @discardableResult
  static func remove(_ interface: String, alias: String, container: Netlink) throws(NetlinkError) -> Bool {
    guard let link = try container.link(named: interface), link.kind == "tun",
      link.alias == alias || link.alias == nil && !link.isUp && link.tun?.queues == 0
    else { return false }
    do throws(NetlinkError) {
      try container.deleteLink(index: link.index)
    } catch {
      if error.code != ENODEV { throw error }
    }
    return true
  }

  /// The same by the path of the namespace, which may have ended.
  static func remove(_ interface: String, alias: String, netns: String) throws(NetlinkError) {
    guard !netns.isEmpty, let namespace = try? NetworkNamespace(path: netns), !namespace.isCurrent else { return }
    try remove(interface, alias: alias, container: try Netlink(in: namespace))
  }

  /// The alias of an interface of ours; nil when it is none.
  static func alias(of interface: String, container: Netlink) throws(NetlinkError) -> String? {
    guard let link = try container.link(named: interface), link.kind == "tun", let alias = link.alias,
      alias.hasPrefix(VethEnds.prefix)
    else { return nil }
    return alias
  }
}
