import Foundation
import Testing
import WeftAgent
import WeftRing
import WeftWire

struct PlannerTests {
  static let underlay = Underlay(
    fabric: .init(
      index: 2, mac: MACAddress(bits: 0x0200_0000_0001), mtu: 1550, addresses: [IPAddress("192.0.2.1")!]),
    peers: [
      "node2": .init(
        source: IPAddress("192.0.2.1"), nextHop: IPAddress("192.0.2.2"), mac: MACAddress(bits: 0x0200_0000_0002))
    ])

  func planner(_ extra: String = peerText) throws -> Planner {
    let configuration = try AgentConfiguration(yaml: configurationText("/x", extra: extra))
    var numbers: [Identifier: UInt32] = [:]
    for (index, identifier) in Planner.identifiers(configuration).enumerated() {
      numbers[identifier] = UInt32(index + 1)
    }
    return Planner(configuration, numbers: numbers)
  }

  func record(_ id: String, _ addresses: [String], network: String = "blue") -> AttachmentRecord {
    AttachmentRecord(
      id: id, containerID: id, interface: "eth0", netns: "/n", network: network, hostInterface: "weft\(id)",
      mac: MACAddress(bits: 0x0200_0000_1000), addresses: addresses.compactMap { IPAddress($0) }, vmUUID: id,
      origin: .cni, isWanted: true, created: 0)
  }

  /// The action behind a route of a network, as text.
  func action(_ state: ForwarderState, _ network: String, _ prefix: String) -> String? {
    guard let vrf = state.vrfs.values.first(where: { $0.name == network })?.id, let prefix = IPPrefix(prefix),
      let route = state.routes[.init(vrf: vrf, prefix: prefix)], let nexthop = state.nexthops[route.nexthop]
    else { return nil }
    switch nexthop.action {
    case .discard: return "discard"
    case .receive: return "receive"
    case .encap: return "encap"
    case .tunnel(let tunnel): return "\(tunnel.encapsulation.name) \(tunnel.destination) \(route.label)"
    case .vrfTranslate: return "translate"
    case .ecmp: return "ecmp"
    // The planner makes no others.
    default: return nil
    }
  }

  @Test func programsNetworksAndPeers() throws {
    let state = try planner().base(Self.underlay)
    #expect(action(state, "blue", "10.1.0.0/16") == "discard")
    #expect(action(state, "blue", "10.1.0.1/32") == "receive")
    #expect(action(state, "blue", "fd00:1::1/128") == "receive")
    #expect(action(state, "blue", "10.1.2.0/24") == "vxlan 192.0.2.2 5001")
    #expect(action(state, "blue", "fd00:1::2:0/112") == "vxlan 192.0.2.2 5001")
    #expect(action(state, "green", "10.2.2.0/24") == "mpls-over-udp 192.0.2.2 1002")
    let blue = try #require(state.vrfs.values.first { $0.name == "blue" })
    let end = try #require(state.vnis[5001])
    #expect(state.nexthops[end.nexthop]?.action == .vrfTranslate(vrf: blue.id))
    #expect(state.labels[1002] != nil)
    let fabric = try #require(state.interfaces.values.first { $0.role == .fabric })
    #expect(fabric.mtu == 1550)
    #expect(fabric.addresses.map(\.description) == ["192.0.2.1"])
    let tunnels = state.nexthops.values.compactMap { entry in
      if case .tunnel(let tunnel) = entry.action { tunnel } else { nil }
    }
    #expect(tunnels.count == 2)
    let tunnel = try #require(tunnels.first { $0.encapsulation == .vxlan })
    #expect(tunnel.destinationMAC == MACAddress(bits: 0x0200_0000_0002))
    #expect(tunnel.innerDestinationMAC == .virtualRouter)
  }

  @Test func whoHasAWholeSubnetGetsItsUnknownAddresses() throws {
    let text = peerText.replacingOccurrences(of: "[10.2.2.0/24]", with: "[10.2.0.0/16, 0.0.0.0/0]")
    let state = try planner(text).base(Self.underlay)
    #expect(action(state, "green", "10.2.0.0/16") == "mpls-over-udp 192.0.2.2 1002")
    #expect(action(state, "green", "0.0.0.0/0") == "mpls-over-udp 192.0.2.2 1002")
    #expect(action(state, "green", "10.2.0.1/32") == "receive")
  }

  @Test func withoutAWayToThePeerNothingLeaves() throws {
    let state = try planner().base(Underlay(fabric: Self.underlay.fabric, peers: ["node2": .init(reason: "no route")]))
    #expect(action(state, "blue", "10.1.2.0/24") == nil)
    #expect(action(state, "blue", "10.1.0.0/16") == "discard")
    let bare = try planner().base(Underlay())
    #expect(bare.interfaces.isEmpty)
    var tables = CheckedTables()
    for command in bare.commands() { #expect(tables.apply(command) == nil) }
  }

  @Test func attachmentHasRoutesAndABridgeEntry() throws {
    let planner = try planner()
    let state = try #require(
      planner.attachment(record("a", ["10.1.1.1", "fd00:1::1:1"]), interface: 7, nexthop: 99, fabricMTU: 1550))
    let interface = try #require(state.interfaces[7])
    #expect(interface.device == "wefta")
    #expect(interface.mtu == 1500)
    #expect(interface.role == .virtual)
    #expect(state.nexthops[99]?.action == .encap(interface: 7, destinationMAC: MACAddress(bits: 0x0200_0000_1000)))
    #expect(Set(state.routes.keys.map(\.prefix.description)) == ["10.1.1.1/32", "fd00:1::1:1/128"])
    #expect(state.bridge.count == 1)
    for stale in [record("a", ["10.1.1.1"], network: "gone"), record("a", ["10.9.1.1"])] {
      #expect(planner.attachment(stale, interface: 7, nexthop: 9, fabricMTU: 1550) == nil)
    }
  }

  /// Frames with a tag of another port: its MTU bounds theirs.
  @Test func vlansAreOnTheirParentsPort() throws {
    let planner = try planner()
    var inner = record("a", ["10.1.1.1"])
    inner.parent = "tap0"
    inner.vlan = 100
    let parent = ParentPort(id: "vm", interface: 3, mtu: 1400)
    let state = try #require(
      planner.attachment(inner, interface: 7, nexthop: 99, fabricMTU: 1550, parent: parent))
    let port = try #require(state.interfaces[7])
    #expect(port.port == .vlan && port.vlan == VLANConfiguration(parent: 3, outer: 100) && port.mtu == 1400)
    #expect(port.role == .virtual && port.device == "wefta" && port.tap == TapConfiguration())
    #expect(state.nexthops[99]?.action == .encap(interface: 7, destinationMAC: inner.mac))
    let wide = ParentPort(id: "vm", interface: 3, mtu: 9000)
    let other = try #require(
      planner.attachment(inner, interface: 7, nexthop: 99, fabricMTU: 1550, parent: wide)?.interfaces[7])
    #expect(other.mtu == 1500)
  }

  @Test(arguments: ["", "pods: {port: tap, queues: 4}", "pods: {port: af_xdp, xdp: {mode: skb}}"])
  func interfacesStayWhatTheyWereMadeAs(pods: String) throws {
    let planner = try planner(pods)
    var tap = record("a", ["10.1.1.1"])
    tap.tapQueues = 2
    let port = try #require(planner.attachment(tap, interface: 7, nexthop: 99, fabricMTU: 1550)?.interfaces[7])
    #expect(port.port == .tap && port.device == "wefta" && port.xdp == XDPConfiguration())
    #expect(port.tap == TapConfiguration(queues: 2, namespace: "/n", name: "eth0"))
    let veth = record("b", ["10.1.1.2"])
    let other = try #require(planner.attachment(veth, interface: 8, nexthop: 99, fabricMTU: 1550)?.interfaces[8])
    #expect(other.port == (pods.contains("xdp") ? .xdp : .packet) && other.tap == TapConfiguration())
  }

  /// From nothing to everything, from one state to another, and back to nothing: never anything that dangles, always
  /// the same commands.
  @Test func commandsNeverDangle() throws {
    let planner = try planner()
    let first = planner.base(Self.underlay)
    let pod = try #require(
      planner.attachment(record("a", ["10.1.1.1"]), interface: 50, nexthop: 51, fabricMTU: 1550))
    let other = try #require(
      planner.attachment(record("a", ["10.2.1.10"], network: "green"), interface: 50, nexthop: 51, fabricMTU: 1550))
    var withoutPeers = Self.underlay
    withoutPeers.peers = [:]
    let steps: [(ForwarderState, ForwarderState)] = [
      (first, ForwarderState()), (pod, ForwarderState()), (other, pod), (ForwarderState(), other),
      (planner.base(withoutPeers), first), (first, planner.base(withoutPeers)), (planner.base(Underlay()), first),
      (ForwarderState(), planner.base(Underlay())),
    ]
    var tables = CheckedTables()
    for (new, old) in steps {
      let commands = new.commands(replacing: old)
      #expect(commands == new.commands(replacing: old))
      for command in commands { #expect(tables.apply(command) == nil, "\(command)") }
    }
    #expect(tables.state == ForwarderState())
    #expect(first.commands(replacing: first).isEmpty)
  }

  @Test func onlyWhatChangedIsSent() throws {
    let planner = try planner()
    var moved = Self.underlay
    moved.peers["node2"]?.mac = MACAddress(bits: 0x0200_0000_0099)
    let commands = planner.base(moved).commands(replacing: planner.base(Self.underlay))
    #expect(commands.count == 2)
    for command in commands {
      guard case .setNexthop(let entry) = command, case .tunnel(let tunnel) = entry.action else {
        Issue.record("\(command)")
        continue
      }
      #expect(tunnel.destinationMAC == MACAddress(bits: 0x0200_0000_0099))
    }
  }
}
