import Glibc
import WeftNetlink
import WeftRing
import WeftWire

/// A TAP interface of the kernel's in a network: its other side is a port of the forwarder in the network's VRF.
public struct HostPort: Hashable, Sendable {
  /// What its numbers in the forwarder are kept by: "gateway/NETWORK", "services/NETWORK".
  public var name: String
  public var network: String
  /// The forwarder's name for it, and the interface's own unless that is in another network namespace.
  public var device: String
  /// The path of the interface's network namespace; empty: the agent's own.
  public var namespace = ""
  public var mac: MACAddress
  /// Bytes of IP packet.
  public var mtu: Int
  /// The kernel's, of this interface: the network reaches them here.
  public var addresses: [IPAddress]
  /// What else the network reaches through it.
  public var routes: [IPPrefix] = []

  var identifiers: [Identifier] { Self.identifiers(name, device: device) }

  public init(
    name: String, network: String, device: String, mac: MACAddress, mtu: Int, addresses: [IPAddress],
    routes: [IPPrefix] = []
  ) {
    self.name = name
    self.network = network
    self.device = device
    self.mac = mac
    self.mtu = mtu
    self.addresses = addresses
    self.routes = routes
  }

  /// An interface of another name is another entry in the forwarder, and what leads to it is too.
  package static func identifiers(_ name: String, device: String) -> [Identifier] {
    [Identifier(.interface, "host/\(name)/\(device)"), Identifier(.nexthop, "host/\(name)/\(device)")]
  }

  /// The same whenever the interface is made again.
  static func mac(_ name: String, node: String) -> MACAddress { Derived.mac(Derived.named("host/\(node)/\(name)")) }
}

extension Planner {
  /// What a host port adds to the tables; after everything else, so that its addresses are its own.
  func add(_ port: HostPort, to state: inout ForwarderState, vrf: UInt32, _ numbers: [Identifier: UInt32]) {
    let identifiers = port.identifiers
    guard let interface = numbers[identifiers[0]], let nexthop = numbers[identifiers[1]] else { return }
    var vif = InterfaceConfiguration(
      id: interface, role: .host, port: .tap, device: port.device, mac: port.mac, vrf: vrf,
      mtu: UInt16(clamping: port.mtu))
    vif.tap = TapConfiguration(queues: 0, namespace: port.namespace, name: port.namespace.isEmpty ? "" : port.device)
    state.set(vif)
    state.set(NexthopConfiguration(id: nexthop, action: .receiveAt(interface: interface)))
    for prefix in port.addresses.map({ IPPrefix(host: $0) }) + port.routes {
      state.set(RouteConfiguration(vrf: vrf, prefix: prefix, nexthop: nexthop))
    }
  }
}

/// How the kernel's side of a host port is to be. Everything on such an interface is the agent's: what it does not want
/// there, it takes away.
struct HostInterface: Hashable, Sendable {
  /// Of routes that we make, so that they are told from others' (rtm_protocol; 87 is nobody's in iproute2's list).
  static let routeProtocol: UInt8 = 87
  /// The next hop of all routes into the network, by family. Nobody has these addresses; one permanent neighbour entry
  /// each leads to the virtual router, so that the kernel never asks for a pod's MAC address and keeps none.
  static let routers = [IPAddress("169.254.1.1")!, IPAddress("fe80::1")!]

  var name: String
  /// By which one that is there is known as ours.
  var alias: String
  var mac: MACAddress
  var mtu: Int
  var addresses: [IPAddress]
  /// Into the network, with the source address that the kernel prefers.
  var routes: [Route]
  /// The kernel forwards what comes in by it.
  var forwards: Bool

  struct Route: Hashable, Sendable {
    var prefix: IPPrefix
    var source: IPAddress?
  }

  struct Failure: Error, CustomStringConvertible {
    let description: String
  }

  /// Makes or mends it, in the calling thread's namespace, where `netlink` is too. Does nothing where all is well.
  func ensure(_ netlink: Netlink) throws {
    var link = try netlink.link(named: name)
    if let there = link {
      guard there.kind == "tun", there.alias == alias else {
        throw Failure(
          description: "interface \(name) is there already and is not this agent's: remove it, or choose another name")
      }
    } else {
      try NetworkNamespace.current().createTap(name, isMultiQueue: true)
      guard let made = try netlink.link(named: name) else { throw Failure(description: "\(name) is gone at once") }
      // First of all: it is ours from here on, whatever comes next.
      try netlink.changeLink(index: made.index, LinkChange(alias: alias))
      do throws(NetlinkError) {
        try netlink.changeLink(index: made.index, LinkChange(generatesIPv6LinkLocal: false))
      } catch {
        guard error.code == EAFNOSUPPORT || error.code == EOPNOTSUPP else { throw error }
      }
      link = made
    }
    guard let link else { return }
    if link.mac != mac { try netlink.changeLink(index: link.index, LinkChange(mac: mac)) }
    if Int(link.mtu) != mtu { try netlink.changeLink(index: link.index, LinkChange(mtu: UInt32(mtu))) }
    try setKernel()
    if !link.isUp { try netlink.changeLink(index: link.index, LinkChange(isUp: true)) }
    try ensureAddresses(netlink, link.index)
    try ensureRoutes(netlink, link.index)
  }

  private func setKernel() throws {
    let forwarding = forwards ? "1" : "0"
    var settings = [
      ("ipv4/conf/\(name)/forwarding", forwarding), ("ipv4/conf/\(name)/rp_filter", "0"),
      // Nobody asks on this link, and nobody is to be told of addresses of other links.
      ("ipv4/conf/\(name)/arp_ignore", "1"), ("ipv4/conf/\(name)/send_redirects", "0"),
    ]
    if mtu >= 1280, access("/proc/sys/net/ipv6/conf/\(name)", F_OK) == 0 {
      settings += [
        ("ipv6/conf/\(name)/disable_ipv6", "0"), ("ipv6/conf/\(name)/forwarding", forwarding),
        ("ipv6/conf/\(name)/accept_ra", "0"), ("ipv6/conf/\(name)/accept_redirects", "0"),
        ("ipv6/conf/\(name)/accept_dad", "0"),
      ]
    }
    for (key, value) in settings where try Sysctl.read("net/" + key) != value { try Sysctl.write("net/" + key, value) }
  }

  private func ensureAddresses(_ netlink: Netlink, _ index: UInt32) throws {
    let there = try netlink.addresses(interface: index).filter { !($0.address.isLinkLocal && !$0.address.isV4) }
    for address in there where !addresses.contains(address.address) || address.prefixLength != address.address.width {
      try netlink.deleteAddress(address.address, prefixLength: address.prefixLength, interface: index)
    }
    let known = Set(there.filter { $0.prefixLength == $0.address.width }.map(\.address))
    for address in addresses where !known.contains(address) {
      try netlink.addAddress(address, prefixLength: address.width, interface: index)
    }
  }

  private func ensureRoutes(_ netlink: Netlink, _ index: UInt32) throws {
    let neighbors = try netlink.neighbors(interface: index)
    let families = Set(routes.map(\.prefix.isV4))
    for router in Self.routers where families.contains(router.isV4) {
      let isThere = neighbors.contains {
        $0.address == router && $0.mac == .virtualRouter && $0.state.contains(.permanent)
      }
      if !isThere { try netlink.setPermanentNeighbor(router, mac: .virtualRouter, interface: index) }
    }
    let there = try netlink.routes(interface: index).filter { $0.protocolNumber == Self.routeProtocol }
    func isWanted(_ route: KernelRoute) -> Bool {
      routes.contains { $0.prefix == route.destination && $0.source == route.source }
    }
    for route in there where !isWanted(route) { try netlink.deleteRoute(route) }
    for route in routes
    where !there.contains(where: { $0.destination == route.prefix && $0.source == route.source }) {
      do throws(NetlinkError) {
        try netlink.addRoute(
          KernelRoute(
            destination: route.prefix, gateway: Self.routers[route.prefix.isV4 ? 0 : 1], interface: index,
            source: route.source, isOnLink: true, protocolNumber: Self.routeProtocol, scope: 0))
      } catch {
        guard error.code == EEXIST else { throw error }
        throw Failure(
          description: "the host has another route to \(route.prefix) already: remove that (ip route show "
            + "\(route.prefix)), or the network's host gateway")
      }
    }
  }

  /// Removes those in the calling thread's namespace that are ours by their alias and not wanted any more.
  static func removeOthers(than names: Set<String>, prefix: String, _ netlink: Netlink) throws -> [String] {
    var removed: [String] = []
    for link in try netlink.links() where link.alias?.hasPrefix(prefix) == true && !names.contains(link.name) {
      guard link.kind == "tun" else { continue }
      do throws(NetlinkError) { try netlink.deleteLink(index: link.index) } catch {
        if error.code != ENODEV { throw error }
      }
      removed.append(link.name)
    }
    return removed
  }
}
