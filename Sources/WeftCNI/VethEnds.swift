import CLinux
import Glibc
import WeftAPI
import WeftNetlink
import WeftWire

/// The two ends of a container's veth: one here, a port of the forwarder, and one in the container's namespace.
///
/// The kernel sees each frame that comes in on the host's end, the forwarder notwithstanding (AF_PACKET taps, it does not
/// take). So that it neither answers nor forwards any, that end has no address, no ARP, no IPv6 and no forwarding.
enum VethEnds {
  struct Failure: Error, CustomStringConvertible {
    let description: String
  }

  /// Makes both ends, up and configured. Answers the host end's MAC address and the routes that were set, or removes
  /// what it made.
  static func make(
    _ attachment: Attachment, mtu: Int, namespace: borrowing NetworkNamespace, host: Netlink, container: Netlink
  ) throws -> (hostMAC: MACAddress?, routes: [AttachmentRoute]) {
    let pair = VethPair(
      name: attachment.hostInterface, peerName: attachment.interface, peerMAC: attachment.mac, mtu: UInt32(mtu))
    try host.createVeth(pair, peerIn: namespace)
    do {
      guard let outer = try host.link(named: attachment.hostInterface) else {
        throw Failure(description: "\(attachment.hostInterface) is gone as soon as it was made")
      }
      guard let inner = try container.link(named: attachment.interface) else {
        throw Failure(description: "\(attachment.interface) is gone from the container as soon as it was made")
      }
      try silence(outer, host)
      try ContainerEnd.setAddresses(attachment, namespace, container, inner.index)
      try host.changeLink(index: outer.index, LinkChange(isUp: true))
      try container.changeLink(index: inner.index, LinkChange(isUp: true))
      return (outer.mac, try ContainerEnd.setRoutes(attachment, container, inner.index))
    } catch {
      _ = try? remove(attachment.hostInterface, host)
      throw error
    }
  }

  /// Before it comes up for the first time: nothing of it is ever seen by the kernel's own protocols.
  private static func silence(_ link: Link, _ host: Netlink) throws {
    do throws(NetlinkError) {
      try host.changeLink(index: link.index, LinkChange(generatesIPv6LinkLocal: false))
    } catch {
      // No IPv6 on that link: the kernel has none, or its MTU is below 1280.
      guard error.code == EAFNOSUPPORT || error.code == EOPNOTSUPP else { throw error }
    }
    for (key, value) in [
      ("ipv4/conf/\(link.name)/arp_ignore", "8"), ("ipv4/conf/\(link.name)/rp_filter", "0"),
      ("ipv4/conf/\(link.name)/forwarding", "0"), ("ipv6/conf/\(link.name)/disable_ipv6", "1"),
    ] { try ContainerEnd.set("net/" + key, value) }
    try disableARP(link.name)
  }

  /// IFF_NOARP: the host's kernel makes nothing of ARP that comes in there (net/ipv4/arp.c arp_rcv).
  private static func disableARP(_ name: String) throws {
    let socket = socket(AF_INET, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
    guard socket >= 0 else { throw NetlinkError("open", "a socket") }
    defer { close(socket) }
    var request = ifreq()
    withUnsafeMutableBytes(of: &request) { $0.copyBytes(from: name.utf8.prefix(15)) }
    guard weft_ioctl_ptr(socket, UInt(SIOCGIFFLAGS), &request) == 0 else {
      throw NetlinkError("read", "the flags of \(name)")
    }
    request.ifr_ifru.ifru_flags |= Int16(IFF_NOARP)
    guard weft_ioctl_ptr(socket, UInt(SIOCSIFFLAGS), &request) == 0 else {
      throw NetlinkError("set", "the flags of \(name)")
    }
  }

  /// Removes the host's end, and the other with it. Whatever is no veth of that name is left alone.
  static func remove(_ name: String, _ host: Netlink) throws(NetlinkError) -> Bool {
    guard let link = try host.link(named: name), link.kind == "veth" else { return false }
    do throws(NetlinkError) {
      try host.deleteLink(index: link.index)
    } catch {
      // It went with its other end, or with the namespace of that.
      if error.code != ENODEV { throw error }
    }
    return true
  }

  /// The host's end of a container's interface, found from its other end; nil when that is none of ours.
  static func hostEnd(of interface: String, container: Netlink, host: Netlink) throws(NetlinkError) -> String? {
    guard let inner = try container.link(named: interface), inner.kind == "veth", let peer = inner.peerIndex,
      let outer = try host.link(index: peer), outer.kind == "veth", outer.peerIndex == inner.index,
      outer.name.hasPrefix(prefix)
    else { return nil }
    return outer.name
  }

  /// What host ends' names begin with.
  static let prefix = "weft"
}
