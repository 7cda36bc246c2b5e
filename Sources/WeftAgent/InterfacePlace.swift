import Glibc
import WeftAPI
import WeftNetlink

/// A kernel interface, whatever its name.
struct InterfacePlace: Hashable, Sendable {
  /// Nil: the agent's own.
  var namespace: NetworkNamespace.Identity?
  var index: UInt32
}

extension Agent {
  /// Where the interface is that the forwarder opens for an attachment.
  func place(of record: AttachmentRecord) throws(APIError) -> InterfacePlace {
    // A socket is there or not, whoever asks: the forwarder waits for its front end.
    if record.vhost != nil { return InterfacePlace(index: 0) }
    guard record.tapQueues != nil else {
      // Not by rtnetlink, which waits for whoever changes interfaces; after a restart that is the forwarder, for each port.
      let device = record.parent ?? record.hostInterface
      let index = if_nametoindex(device)
      guard index != 0 else {
        throw APIError(
          .hostInterfaceMissing, "host interface \(device) of attachment \(record.id) does not exist")
      }
      return InterfacePlace(index: index)
    }
    let identity: NetworkNamespace.Identity
    let link: Link?
    do throws(NetlinkError) {
      let namespace = try NetworkNamespace(path: record.netns)
      identity = namespace.identity
      link = try Netlink(in: namespace).link(named: record.interface)
    } catch {
      throw APIError(.hostInterfaceMissing, "TAP interface of attachment \(record.id): cannot \(error)")
    }
    guard let link else {
      throw APIError(
        .hostInterfaceMissing,
        "TAP interface \(record.interface) of attachment \(record.id) is not in network namespace \(record.netns)")
    }
    return InterfacePlace(namespace: identity, index: link.index)
  }
}
