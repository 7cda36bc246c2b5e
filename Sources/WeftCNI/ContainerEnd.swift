import Glibc
import WeftAPI
import WeftNetlink

/// What an interface in a container gets, whatever kind it is of.
enum ContainerEnd {
  /// Before it comes up.
  static func setAddresses(
    _ attachment: Attachment, _ namespace: borrowing NetworkNamespace, _ container: Netlink, _ index: UInt32
  ) throws {
    let name = attachment.interface
    if attachment.addresses.contains(where: { !$0.address.address.isV4 }) {
      try namespace.run { try prepareIPv6(name) }
    }
    for entry in attachment.addresses {
      try container.addAddress(entry.address.address, prefixLength: entry.address.prefixLength, interface: index)
    }
  }

  /// A pod's addresses are known to be unique: its link-local one does not wait either. Routers are not looked for: the
  /// routes are set, and an advertisement could only come from another container.
  private static func prepareIPv6(_ name: String) throws {
    for (key, value) in [("disable_ipv6", "0"), ("accept_dad", "0"), ("accept_ra", "0")] {
      try set("net/ipv6/conf/\(name)/\(key)", value)
    }
  }

  /// A setting that the kernel does not have needs none: it was built or started without that protocol.
  static func set(_ key: String, _ value: String) throws {
    do throws(NetlinkError) {
      try Sysctl.write(key, value)
    } catch {
      if error.code != ENOENT { throw error }
    }
  }

  /// A destination to which another interface of the container has a route already stays with that one.
  static func setRoutes(
    _ attachment: Attachment, _ container: Netlink, _ index: UInt32
  ) throws -> [AttachmentRoute] {
    guard !attachment.routes.isEmpty else { return [] }
    let taken = Set(try container.routes().filter { $0.interface != index }.map(\.destination))
    var set: [AttachmentRoute] = []
    for route in attachment.routes where !taken.contains(route.destination) {
      let isReachable = attachment.addresses.contains { $0.address.prefix.contains(route.gateway) }
      try container.addRoute(
        KernelRoute(
          destination: route.destination, gateway: route.gateway, interface: index, isOnLink: !isReachable))
      set.append(route)
    }
    return set
  }
}
