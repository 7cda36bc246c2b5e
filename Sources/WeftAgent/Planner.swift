import FoundationEssentials
import WeftAPI
import WeftRing
import WeftWire

/// Says what should stand in the forwarder's tables.
public struct Planner: Sendable {
  public let configuration: AgentConfiguration
  private let numbers: [Identifier: UInt32]

  /// The entries that exist whatever is attached, by which their numbers are kept.
  public static func identifiers(_ configuration: AgentConfiguration) -> [Identifier] {
    var list = [
      Identifier(.interface, "fabric"), Identifier(.nexthop, "discard"), Identifier(.nexthop, "receive"),
    ]
    for network in configuration.networks {
      list.append(vrf(network.name))
      list.append(translation(network.name))
      if network.services != nil { list += Services.identifiers(network.name) }
      if let host = network.host { list += HostGateways.identifiers(network.name, interface: host.interface) }
    }
    for peer in configuration.peers {
      for member in peer.networks {
        guard let network = configuration.network(member.name) else { continue }
        let identifier = tunnel(peer, network, member)
        if !list.contains(identifier) { list.append(identifier) }
      }
    }
    return list
  }

  /// `numbers` holds at least those of `identifiers`.
  public init(_ configuration: AgentConfiguration, numbers: [Identifier: UInt32]) {
    self.configuration = configuration
    self.numbers = numbers
  }

  static func vrf(_ network: String) -> Identifier { Identifier(.vrf, "network/\(network)") }
  static func translation(_ network: String) -> Identifier { Identifier(.nexthop, "network/\(network)") }

  /// Networks share a tunnel where it would say the same.
  static func tunnel(_ peer: Peer, _ network: VirtualNetwork, _ member: PeerNetwork) -> Identifier {
    let mac = network.encapsulation == .vxlan ? "/\(member.routerMAC)" : ""
    return Identifier(.nexthop, "tunnel/\(peer.name)/\(network.encapsulation.name)\(mac)")
  }

  private func number(_ identifier: Identifier) -> UInt32 { numbers[identifier] ?? .max }

  /// As below, with the numbers that host ports have.
  func base(_ underlay: Underlay, _ store: Store) throws(APIError) -> ForwarderState {
    base(underlay, hostNumbers: try store.numbers(underlay.hostPorts.flatMap(\.identifiers)))
  }

  /// Networks, the fabric interface, tunnels, what is behind peers, and the host's ports.
  public func base(_ underlay: Underlay, hostNumbers: [Identifier: UInt32] = [:]) -> ForwarderState {
    var state = ForwarderState()
    let discard = number(Identifier(.nexthop, "discard"))
    let receive = number(Identifier(.nexthop, "receive"))
    state.set(NexthopConfiguration(id: discard, action: .discard))
    state.set(NexthopConfiguration(id: receive, action: .receive))
    for network in configuration.networks {
      let vrf = number(Self.vrf(network.name))
      let translation = number(Self.translation(network.name))
      state.set(VRFConfiguration(id: vrf, name: network.name))
      state.set(NexthopConfiguration(id: translation, action: .vrfTranslate(vrf: vrf)))
      switch network.encapsulation {
      case .vxlan: state.set(VNIConfiguration(vni: network.identifier, nexthop: translation))
      case .mplsOverUDP, .mplsOverGRE: state.set(LabelConfiguration(label: network.identifier, nexthop: translation))
      }
      for subnet in network.subnets {
        // Addresses that nobody has stay in the network: they never leave by a shorter prefix.
        state.set(RouteConfiguration(vrf: vrf, prefix: subnet.prefix, nexthop: discard))
      }
    }
    addTunnels(&state, underlay)
    for network in configuration.networks {
      // Last: whatever peers say, the gateway is here.
      for subnet in network.subnets {
        state.set(
          RouteConfiguration(
            vrf: number(Self.vrf(network.name)), prefix: IPPrefix(host: subnet.gateway), nexthop: receive))
      }
    }
    // Of these a gateway's address may be the host's.
    for port in underlay.hostPorts { add(port, to: &state, vrf: number(Self.vrf(port.network)), hostNumbers) }
    return state
  }

  private func addTunnels(_ state: inout ForwarderState, _ underlay: Underlay) {
    guard let fabric = underlay.fabric else { return }
    let fabricID = number(Identifier(.interface, "fabric"))
    var interface = InterfaceConfiguration(
      id: fabricID, role: .fabric, port: configuration.fabric.port.kind, device: configuration.fabric.interface,
      mac: fabric.mac, mtu: UInt16(clamping: min(fabric.mtu, configuration.fabric.mtu ?? fabric.mtu)),
      addresses: Array(fabric.addresses.prefix(InterfaceConfiguration.maximumAddresses)))
    interface.xdp = configuration.fabric.port.xdp
    state.set(interface)
    for peer in configuration.peers {
      guard let path = underlay.peers[peer.name], let source = path.source else { continue }
      for member in peer.networks {
        guard let network = configuration.network(member.name) else { continue }
        let vrf = number(Self.vrf(network.name))
        let tunnel = number(Self.tunnel(peer, network, member))
        state.set(
          NexthopConfiguration(
            id: tunnel,
            action: .tunnel(
              TunnelConfiguration(
                encapsulation: network.encapsulation, interface: fabricID, source: source,
                destination: peer.address, destinationMAC: path.mac,
                innerDestinationMAC: network.encapsulation == .vxlan ? member.routerMAC : .virtualRouter))))
        for prefix in member.prefixes {
          state.set(RouteConfiguration(vrf: vrf, prefix: prefix, nexthop: tunnel, label: network.identifier))
        }
        for mac in member.macs {
          state.set(BridgeConfiguration(vrf: vrf, mac: mac, nexthop: tunnel, label: network.identifier))
        }
      }
    }
  }

  /// An attachment's own entries. Nil: its network is not in the configuration (any more), or has other subnets.
  public func attachment(
    _ record: AttachmentRecord, interface: UInt32, nexthop: UInt32, fabricMTU: Int, parent: ParentPort? = nil,
    bandwidth: Bandwidth? = nil
  ) -> ForwarderState? {
    guard let network = configuration.network(record.network),
      record.addresses.allSatisfy({ network.subnet(of: $0) != nil })
    else { return nil }
    let vrf = number(Self.vrf(network.name))
    var state = ForwarderState()
    let pods = configuration.pods
    var vif = InterfaceConfiguration(
      id: interface, role: .virtual, port: pods.vethKind, device: record.hostInterface, mac: record.mac,
      vrf: vrf, mtu: UInt16(clamping: configuration.mtu(of: network, fabricMTU: fabricMTU)))
    if configuration.hasDHCP(record) { vif.flags.insert(.dhcp) }
    if let parent, let vlan = record.vlan {
      vif.port = .vlan
      vif.mtu = min(vif.mtu, UInt16(clamping: parent.mtu))
      vif.vlan = VLANConfiguration(parent: parent.interface, outer: UInt16(clamping: vlan))
    } else if let vhost = record.vhost {
      vif.port = .vhostUser
      vif.vhost = vhost
    } else if let queues = record.tapQueues {
      vif.port = .tap
      vif.tap = TapConfiguration(
        queues: UInt16(clamping: queues), namespace: record.netns, name: record.interface)
    } else {
      vif.xdp = pods.xdp
    }
    if let bandwidth { Self.limit(&state, &vif, bandwidth) }
    state.set(vif)
    state.set(NexthopConfiguration(id: nexthop, action: .encap(interface: interface, destinationMAC: record.mac)))
    for address in record.addresses {
      state.set(RouteConfiguration(vrf: vrf, prefix: IPPrefix(host: address), nexthop: nexthop))
    }
    state.set(BridgeConfiguration(vrf: vrf, mac: record.mac, nexthop: nexthop))
    return state
  }
}

extension AgentConfiguration {
  /// An attachment as the API tells it.
  public func attachment(_ record: AttachmentRecord, fabricMTU: Int) -> Attachment {
    let network = network(record.network)
    var addresses: [AttachmentAddress] = []
    for address in record.addresses {
      // An address whose subnet has gone from the configuration stands alone.
      let subnet = network?.subnet(of: address)
      guard let full = InterfaceAddress(address, prefixLength: subnet?.prefix.length ?? address.width) else { continue }
      addresses.append(AttachmentAddress(address: full, gateway: subnet?.gateway ?? address))
    }
    let routes: [AttachmentRoute]
    if let configured = network?.routes {
      // Without an address of its family a route cannot be set.
      routes = configured.filter { route in addresses.contains { $0.gateway.isV4 == route.gateway.isV4 } }
        .map { AttachmentRoute(destination: $0.destination, gateway: $0.gateway) }
    } else {
      // One default route a family: of the first subnet that has one.
      var families: Set<Bool> = []
      routes = addresses.compactMap { entry in
        let isV4 = entry.gateway.isV4
        guard network != nil, families.insert(isV4).inserted,
          let everything = IPPrefix(isV4 ? IPAddress(v4: 0) : IPAddress(high: 0, low: 0), length: 0)
        else { return nil }
        return AttachmentRoute(destination: everything, gateway: entry.gateway)
      }
    }
    return Attachment(
      id: record.id, containerID: record.containerID, interface: record.interface, netns: record.netns,
      network: record.network, hostInterface: record.hostInterface, mac: record.mac,
      mtu: network.map { mtu(of: $0, fabricMTU: fabricMTU) } ?? fabricMTU, addresses: addresses, routes: routes,
      dns: network?.dns ?? [], state: record.state, reason: record.reason, podName: record.podName,
      podNamespace: record.podNamespace, podUID: record.podUID,
      tap: record.tapQueues.map { AttachmentTap(queues: $0) },
      since: Date(timeIntervalSince1970: TimeInterval(record.since)).formatted(.iso8601))
  }
}
