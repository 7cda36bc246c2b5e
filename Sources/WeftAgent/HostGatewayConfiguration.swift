import WeftWire

/// The host's way into a network, and the network's way out through the host.
public struct HostGateway: Hashable, Sendable {
  /// The kernel's interface, which the agent makes.
  public var interface: String
  /// The host's addresses in the network; nil: the gateways of its subnets.
  public var addresses: [IPAddress]?
  /// What of the network the host has routes to; nil: all of its subnets.
  public var subnets: [IPPrefix]?
  /// What members of the network reach through the host, beside its addresses; nil: everything, of each family that the
  /// network has.
  public var routes: [IPPrefix]?
  /// What goes on from the host gets the host's own address.
  public var masquerade = true

  static let keys = ["interface", "addresses", "routes", "masquerade"]
}

extension HostGateway {
  /// "weft-" and the network's name.
  static func interface(of network: String) -> String? {
    let name = "weft-" + network
    return name.utf8.count <= 15 && Names.isInterface(name) ? name : nil
  }

  init(_ node: ConfigurationNode, network: String, _ subnets: [Subnet]) throws(ConfigurationError) {
    let mapping = try node.mapping(Self.keys)
    if let node = mapping["interface"] {
      interface = try node.text("an interface's name")
      guard Names.isInterface(interface) else {
        throw node.error("\"\(interface)\" is no interface's name: 1 to 15 bytes without '/', ':' and space")
      }
    } else {
      guard let name = Self.interface(of: network) else {
        throw ConfigurationError(
          path: "\(node.path).interface", line: node.node.mark?.line,
          "is missing: \"weft-\(network)\" is too long for an interface's name (15 bytes)")
      }
      interface = name
    }
    if let list = mapping["addresses"] {
      var addresses: [IPAddress] = []
      for node in try list.list() {
        let address = try node.address()
        guard !address.isMulticast, !address.isUnspecified, !address.isLinkLocal else {
          throw node.error("\(address) is no address that a host can have in a network")
        }
        guard !addresses.contains(address) else { throw node.error("\(address) stands here twice") }
        if let subnet = subnets.first(where: { $0.prefix.contains(address) }) {
          guard !Subnet.isReserved(address, in: subnet.prefix) else {
            throw node.error("\(address) is the network or broadcast address of \(subnet.prefix)")
          }
          guard address == subnet.gateway || !subnet.range.contains(address) else {
            throw node.error(
              "\(address) is in the range \(subnet.range) that pods get addresses of; take one outside of it")
          }
        }
        addresses.append(address)
      }
      for isV4 in Set(subnets.map(\.prefix.isV4)) where !addresses.contains(where: { $0.isV4 == isV4 }) {
        throw list.error("must hold an \(isV4 ? "IPv4" : "IPv6") address: the network has a subnet of that family")
      }
      self.addresses = addresses
    }
    if mapping["routes"] != nil {
      var routes: [IPPrefix] = []
      for node in try mapping.items("routes") {
        let prefix = try node.prefix()
        guard !routes.contains(prefix) else { throw node.error("\(prefix) stands here twice") }
        guard subnets.contains(where: { $0.prefix.isV4 == prefix.isV4 }) else {
          throw node.error("the network has no \(prefix.isV4 ? "IPv4" : "IPv6") subnet")
        }
        if let subnet = subnets.first(where: { $0.prefix.contains(prefix) }) {
          throw node.error("\(prefix) lies in the network itself, in \(subnet.prefix)")
        }
        routes.append(prefix)
      }
      self.routes = routes
    }
    if let node = mapping["masquerade"] { masquerade = try node.flag() }
  }

  package func addresses(in network: VirtualNetwork) -> [IPAddress] { addresses ?? network.subnets.map(\.gateway) }

  func subnets(of network: VirtualNetwork) -> [IPPrefix] { subnets ?? network.subnets.map(\.prefix) }

  package func routes(of network: VirtualNetwork) -> [IPPrefix] {
    if let routes { return routes }
    var families: [IPPrefix] = []
    for isV4 in [true, false] where network.subnets.contains(where: { $0.prefix.isV4 == isV4 }) {
      if let all = IPPrefix(isV4 ? IPAddress(v4: 0) : IPAddress(high: 0, low: 0), length: 0) { families.append(all) }
    }
    return families
  }
}

extension AgentConfiguration {
  /// What host gateways say of each other and of the rest.
  func checkHostGateways() throws(ConfigurationError) {
    for (index, network) in networks.enumerated() {
      guard let gateway = network.host else { continue }
      if let fault = fault(
        gateway, network, others: networks[..<index].compactMap { other in other.host.map { (other, $0) } })
      {
        throw ConfigurationError(path: "networks[\(index)].host\(fault.key)", fault.reason)
      }
    }
  }

  /// Why a network cannot have a gateway beside others.
  func fault(
    _ gateway: HostGateway, _ network: VirtualNetwork, others: [(VirtualNetwork, HostGateway)]
  ) -> (key: String, reason: String)? {
    if gateway.interface == fabric.interface {
      return (".interface", "\"\(gateway.interface)\" is the fabric's interface; the agent makes one of its own")
    }
    let subnets = gateway.subnets(of: network)
    for (other, there) in others {
      if there.interface == gateway.interface {
        return (".interface", "\"\(gateway.interface)\" is network \(other.name)'s already")
      }
      for subnet in subnets {
        if let clash = there.subnets(of: other).first(where: { $0.overlaps(subnet) }) {
          return (
            "",
            "\(subnet) overlaps \(clash) of network \(other.name), which the host has routes to: a host can reach only "
              + "one of two networks with the same addresses; remove the host gateway of one of them"
          )
        }
      }
    }
    let underlay = (fabric.addresses ?? []) + peers.map(\.address)
    for subnet in subnets {
      if let address = underlay.first(where: { subnet.contains($0) }) {
        return (
          "", "\(subnet) holds \(address), an address of the underlay, which the host would not reach any more"
        )
      }
    }
    for route in gateway.routes(of: network) {
      if let subnet = network.subnets.first(where: { $0.prefix.contains(route) }) {
        return (".routes", "\(route) lies in the network itself, in \(subnet.prefix)")
      }
    }
    let behindPeers = peers.flatMap(\.networks).filter { $0.name == network.name }.flatMap(\.prefixes)
    if let route = gateway.routes(of: network).first(where: { behindPeers.contains($0) }) {
      return (".routes", "\(route) of \(network.name) is behind a peer; list only what is to go through this host")
    }
    return nil
  }
}
