import WeftRing
import WeftWire

// What several entries of a configuration say of each other.

/// A prefix in a network.
private struct PeerPrefix: Hashable {
  var network: String
  var prefix: IPPrefix
}

extension AgentConfiguration {
  func checkNetworks() throws(ConfigurationError) {
    for (index, network) in networks.enumerated() {
      let path = "networks[\(index)]"
      for earlier in networks[..<index] {
        if earlier.name == network.name {
          throw ConfigurationError(path: "\(path).name", "\"\(network.name)\" is the name of an earlier network too")
        }
        if (earlier.encapsulation == .vxlan) == (network.encapsulation == .vxlan),
          earlier.identifier == network.identifier
        {
          let key = network.encapsulation == .vxlan ? "vni" : "label"
          throw ConfigurationError(
            path: "\(path).\(key)", "\(network.identifier) is \(earlier.name)'s already; each network has its own")
        }
      }
      for (number, subnet) in network.subnets.enumerated() {
        for earlier in network.subnets[..<number] where earlier.prefix.overlaps(subnet.prefix) {
          throw ConfigurationError(
            path: "\(path).subnets[\(number)].prefix",
            "\(subnet.prefix) overlaps \(earlier.prefix) of the same network")
        }
      }
    }
  }

  func checkPeers() throws(ConfigurationError) {
    /// Behind which peer a prefix is.
    var owners: [PeerPrefix: Int] = [:]
    for (index, peer) in peers.enumerated() {
      let path = "peers[\(index)]"
      if peer.name == node {
        throw ConfigurationError(path: "\(path).name", "\"\(peer.name)\" is this node's own name")
      }
      if let addresses = fabric.addresses {
        if addresses.contains(peer.address) {
          throw ConfigurationError(path: "\(path).address", "\(peer.address) is this node's own address")
        }
        if !addresses.contains(where: { $0.isV4 == peer.address.isV4 }) {
          throw ConfigurationError(
            path: "\(path).address",
            "\(peer.address) cannot be reached: fabric.addresses has no \(peer.address.isV4 ? "IPv4" : "IPv6") address")
        }
      }
      for earlier in peers[..<index] {
        if earlier.name == peer.name {
          throw ConfigurationError(path: "\(path).name", "\"\(peer.name)\" is the name of an earlier peer too")
        }
        if earlier.address == peer.address {
          throw ConfigurationError(path: "\(path).address", "\(peer.address) is \(earlier.name)'s already")
        }
      }
      for number in peer.networks.indices { try checkPeerNetwork(index, number, &owners) }
    }
  }

  private func checkPeerNetwork(
    _ index: Int, _ number: Int, _ owners: inout [PeerPrefix: Int]
  ) throws(ConfigurationError) {
    let peer = peers[index]
    let member = peer.networks[number]
    let path = "peers[\(index)].networks[\(number)]"
    guard let network = network(member.name) else {
      throw ConfigurationError(
        path: "\(path).name", "no network is named \"\(member.name)\"; there are \(Self.names(networks))")
    }
    if peer.networks[..<number].contains(where: { $0.name == member.name }) {
      throw ConfigurationError(path: "\(path).name", "\"\(member.name)\" stands here twice")
    }
    if network.encapsulation != .vxlan, member.routerMAC != .virtualRouter || !member.macs.isEmpty {
      throw ConfigurationError(
        path: "\(path).\(member.macs.isEmpty ? "router-mac" : "macs")",
        "goes with encapsulation vxlan; \(network.name) is \(network.encapsulation.name)")
    }
    let prefixes = member.prefixes
    func what(_ place: Int) -> String {
      place < member.subnets.count
        ? "\(path).subnets[\(place)]" : "\(path).pods[\(place - member.subnets.count)]"
    }
    var seen: Set<IPPrefix> = []
    /// Subnets of which this peer takes some, with the first place that does.
    var touched: [Int: Int] = [:]
    for (place, prefix) in prefixes.enumerated() {
      guard seen.insert(prefix).inserted else {
        throw ConfigurationError(path: what(place), "\(prefix) stands here twice")
      }
      if let earlier = owners[PeerPrefix(network: member.name, prefix: prefix)] {
        throw ConfigurationError(
          path: what(place), "\(prefix) of \(member.name) is behind \(peers[earlier].name) already")
      }
      for (position, subnet) in network.subnets.enumerated()
      where subnet.prefix.contains(prefix) && subnet.prefix != prefix {
        // Where a range was given it is this node's; the whole prefix is only what is left.
        let block = AddressRange(prefix)
        if subnet.range != AddressRange(subnet.prefix), subnet.range.overlaps(block) {
          throw ConfigurationError(
            path: what(place),
            "\(prefix) overlaps the range \(subnet.range) that this node gives out in \(member.name)")
        }
        if prefix.length == prefix.address.width, prefix.address == subnet.gateway {
          throw ConfigurationError(path: what(place), "\(prefix) is the gateway of \(subnet.prefix)")
        }
        if touched[position] == nil { touched[position] = place }
      }
    }
    for prefix in seen { owners[PeerPrefix(network: member.name, prefix: prefix)] = index }
    for (position, place) in touched.sorted(by: { $0.value < $1.value }) {
      let subnet = network.subnets[position]
      // What peers before it and this one take together.
      let pool = AddressPool(subnet: subnet, elsewhere: addressesElsewhere(network, subnet))
      if pool.capacity == 0 {
        throw ConfigurationError(
          path: what(place), "\(prefixes[place]) leaves this node no address of \(subnet.prefix) to give out")
      }
    }
    for (place, mac) in member.macs.enumerated() {
      let earlier = peers[...index].enumerated().flatMap { owner, peer in
        peer.networks.enumerated().filter { $0.element.name == member.name }.flatMap { entry, member in
          owner == index && entry == number ? Array(member.macs[..<place]) : member.macs
        }
      }
      if earlier.contains(mac) {
        throw ConfigurationError(path: "\(path).macs[\(place)]", "\(mac) of \(member.name) stands in the file twice")
      }
    }
  }
}
