import Testing
import WeftRing
import WeftTables
import WeftVRouter
import WeftWire

private final class Devices: PortProvider {
  private(set) var open: Set<UInt32> = []
  func open(_ interface: InterfaceConfiguration) throws(Refusal) -> PortCapabilities {
    open.insert(interface.id)
    return PortCapabilities(takesVirtio: true, takesUDPSegmentation: false)
  }
  func start(_ id: UInt32) {}
  func close(_ id: UInt32) { open.remove(id) }
  func state(_ id: UInt32) -> InterfaceState { InterfaceState(isUp: true, kernelIndex: 0) }
  func isStale(_ interface: InterfaceConfiguration) -> Bool { false }
}

private func mac(_ number: UInt64) -> MACAddress { MACAddress(bits: 0x0200_0000_0000 | number) }
private let second: UInt64 = 1_000_000_000

/// VRF 1 with two pods that learn (interfaces and nexthops 1 and 2), a fabric interface 0, a tunnel (3) to 192.0.2.2.
private struct Fixture {
  let devices = Devices()
  let memory: TableMemory
  let programmer: TableProgrammer

  init() throws {
    var limits = TableLimits()
    limits.interfaces = 16
    limits.vrfs = 4
    limits.nexthops = 64
    limits.routes = 64
    limits.routeNodes = 64
    limits.bridge = 16
    memory = try TableMemory(
      sizes: TableSizes(interfaces: 16, vrfs: 4, nexthops: 64, routes: 64, routeNodes: 64, bridge: 16), workers: 0)
    programmer = TableProgrammer(memory: memory, limits: limits, ports: devices)
    try fill()
  }

  func fill() throws {
    try apply(
      .setVRF(VRFConfiguration(id: 1, name: "blue", flags: .learning)), .setInterface(pod(1)), .setInterface(pod(2)),
      .setInterface(
        InterfaceConfiguration(
          id: 0, role: .fabric, port: .packet, device: "fab", mac: mac(0xF0), mtu: 9000,
          addresses: [IPAddress("192.0.2.1")!])),
      encap(1), encap(2), tunnel(3))
  }

  func pod(_ id: UInt32, _ flags: InterfaceFlags = [.usual, .learning]) -> InterfaceConfiguration {
    InterfaceConfiguration(
      id: id, role: .virtual, port: .packet, device: "pod\(id)", mac: mac(UInt64(id)), vrf: 1, flags: flags)
  }
  func encap(_ id: UInt32) -> Command {
    .setNexthop(NexthopConfiguration(id: id, action: .encap(interface: id, destinationMAC: mac(UInt64(id)))))
  }
  func tunnel(_ id: UInt32, to last: Int = 2) -> Command {
    .setNexthop(
      NexthopConfiguration(
        id: id,
        action: .tunnel(
          TunnelConfiguration(
            encapsulation: .vxlan, interface: 0, source: IPAddress("192.0.2.1")!,
            destination: IPAddress("192.0.2.\(last)")!, destinationMAC: mac(0xF2)))))
  }
  func vlan(
    _ id: UInt32, _ vlan: VLANConfiguration?, port: PortKind = .vlan, mtu: UInt16? = nil,
    role: InterfaceRole = .virtual
  ) -> Command {
    .setInterface(
      InterfaceConfiguration(
        id: id, role: role, port: port, device: "v\(id)", mac: mac(UInt64(id)), vrf: role == .fabric ? 0 : 1,
        mtu: mtu ?? (vlan?.inner == nil ? 1500 : 1492), vlan: vlan))
  }
  func copies(_ id: UInt32, _ members: UInt32...) -> Command {
    .setNexthop(
      NexthopConfiguration(
        id: id, action: .multicast(members.map { MulticastMember(nexthop: $0, label: $0 == 3 ? 100 : 0) })))
  }

  func apply(_ commands: Command...) throws { for command in commands { try programmer.apply(command) } }
  func refusal(_ command: Command) -> RefusalCode? {
    do throws(Refusal) {
      try programmer.apply(command)
      return nil
    } catch {
      #expect(!error.reason.isEmpty)
      return error.code
    }
  }

  /// A worker has seen a station behind an interface, or behind the tunnel.
  func see(_ station: UInt64, behind interface: UInt32?, at time: UInt64) {
    if let interface {
      programmer.take(Report(kind: .station, vrf: 1, interface: interface, mac: mac(station).bits, time: time))
    } else {
      programmer.take(
        Report(
          kind: .remoteStation, vrf: 1, label: 100, mac: mac(station).bits, address: IPAddress("192.0.2.2")!, time: time
        ))
    }
  }

  /// Where the bridge leads, as workers see it; nil for nowhere.
  func place(_ station: UInt64) -> Path? {
    let number = memory.reader.bridge.lookup(vrf: 1, mac: mac(station).bits)
    return number == 0 ? nil : memory.reader.paths[number]
  }
  func entries(_ table: TableName) -> [TableEntry] {
    var entries: [TableEntry] = []
    _ = programmer.dump(table, cursor: 0, limit: .max) { entries.append($0) }
    return entries
  }
  func changes() -> [StationChange] {
    programmer.takeEvents().compactMap { if case .station(let change, _) = $0 { change } else { nil } }
  }
}

@Suite struct SubinterfaceProgrammingTests {
  static let one = VLANConfiguration(parent: 1, outer: 100)
  static let two = VLANConfiguration(parent: 1, proto: 0x88A8, outer: 100, inner: 7)

  @Test func areFoundByTheirTags() throws {
    let fixture = try Fixture()
    try fixture.apply(fixture.vlan(5, Self.one), fixture.vlan(6, Self.two))
    let tables = fixture.memory.reader.subinterfaces
    func find(_ parent: UInt32, _ proto: UInt16, _ outer: UInt16, _ inner: UInt16) -> UInt32 {
      tables.lookup(parent: parent, proto: proto, outer: outer, inner: inner)
    }
    #expect(find(1, 0x8100, 100, 0) == 6 && find(1, 0x88A8, 100, 7) == 7)
    #expect(find(1, 0x88A8, 100, 0) == 0 && find(1, 0x8100, 100, 7) == 0 && find(2, 0x8100, 100, 0) == 0)
    #expect(fixture.memory.reader.interface(1)?.entry.takesTags == true)
    #expect(fixture.memory.reader.interface(5)?.entry.isPlain == false)
    // Another VLAN: the first one is free.
    try fixture.apply(fixture.vlan(5, VLANConfiguration(parent: 1, outer: 101)))
    #expect(find(1, 0x8100, 100, 0) == 0 && find(1, 0x8100, 101, 0) == 6)
    try fixture.apply(fixture.vlan(7, Self.one))
    #expect(find(1, 0x8100, 100, 0) == 8)
    try fixture.apply(.removeInterface(id: 5), .removeInterface(id: 6), .removeInterface(id: 7))
    #expect(find(1, 0x8100, 100, 0) == 0 && find(1, 0x8100, 101, 0) == 0 && find(1, 0x88A8, 100, 7) == 0)
    #expect(fixture.memory.reader.interface(1)?.entry.takesTags == false)
  }

  @Test func keepTheirParent() throws {
    let fixture = try Fixture()
    try fixture.apply(.removeNexthop(id: 1), fixture.vlan(5, Self.one))
    #expect(fixture.refusal(.removeInterface(id: 1)) == .inUse)
    // Set again, with other flags: its VLANs are still its.
    try fixture.apply(.setInterface(fixture.pod(1, .usual)))
    #expect(fixture.memory.reader.interface(1)?.entry.takesTags == true)
    #expect(fixture.refusal(.removeInterface(id: 1)) == .inUse)
    try fixture.apply(.removeInterface(id: 5), .removeInterface(id: 1))
  }

  @Test func areSweptBeforeTheirParents() throws {
    let fixture = try Fixture()
    // In slots before and behind the parent's.
    try fixture.apply(fixture.vlan(5, Self.one), fixture.vlan(6, Self.two), .begin(generation: 1))
    try fixture.apply(.sweep(generation: 1))
    #expect(fixture.entries(.interfaces).isEmpty && fixture.devices.open.isEmpty)
  }

  /// What the kernel lets go beyond the device's MTU of 1500: one tag of type 0x8100.
  @Test(
    arguments: [
      (VLANConfiguration(parent: 1, outer: 100), 1500), (VLANConfiguration(parent: 1, outer: 100, inner: 7), 1496),
      (VLANConfiguration(parent: 1, proto: 0x88A8, outer: 100), 1496),
      (VLANConfiguration(parent: 1, proto: 0x88A8, outer: 100, inner: 7), 1492),
      (VLANConfiguration(parent: 1, proto: 0x9100, outer: 100, inner: 7), 1492),
    ] as [(VLANConfiguration, UInt16)])
  func fitTheirParentsMTU(_ vlan: VLANConfiguration, most: UInt16) throws {
    let fixture = try Fixture()
    func inForce() -> [UInt16?] {
      [fixture.memory.reader.interface(5)?.entry.mtu, fixture.memory.reader.nexthop(5)?.entry.mtu]
    }
    do throws(Refusal) {
      try fixture.programmer.apply(fixture.vlan(5, vlan, mtu: most + 1))
      Issue.record("MTU \(most + 1) is taken")
    } catch {
      #expect(error.code == .outOfRange)
      for word in ["interface 5", "MTU \(most + 1)", "1500 of its parent 1"] {
        #expect(error.reason.contains(word), "\(error.reason)")
      }
      if most < 1500 { #expect(error.reason.contains("to \(most) at most")) }
    }
    try fixture.apply(fixture.vlan(5, vlan, mtu: most), fixture.encap(5))
    #expect(inForce() == [most, most])
    // The parent's is lowered: the VLAN's is cut, and refused as it was; raised again, it comes back.
    var parent = fixture.pod(1)
    parent.mtu = 1400
    try fixture.apply(.setInterface(parent))
    #expect(inForce() == [most - 100, most - 100])
    #expect(fixture.refusal(fixture.vlan(5, vlan, mtu: most)) == .outOfRange)
    #expect(inForce() == [most - 100, most - 100])
    parent.mtu = 1450
    try fixture.apply(.setInterface(parent))
    #expect(inForce() == [most - 50, most - 50])
    parent.mtu = 9000
    try fixture.apply(.setInterface(parent))
    #expect(inForce() == [most, most])
    try fixture.apply(fixture.vlan(5, vlan, mtu: most + 7500))
    #expect(inForce() == [most + 7500, most + 7500])
    // An MTU that leaves nothing.
    parent.mtu = 68
    try fixture.apply(.setInterface(parent))
    #expect(inForce() == [most - 1432, most - 1432])
  }

  /// A TAP takes frames of any length.
  @Test func fitATap() throws {
    let fixture = try Fixture()
    var tap = fixture.pod(8, .usual)
    tap.port = .tap
    var vlan = Self.two
    vlan.parent = 8
    try fixture.apply(.setInterface(tap), fixture.vlan(5, vlan, mtu: 1500))
    #expect(fixture.memory.reader.interface(5)?.entry.mtu == 1500)
    #expect(fixture.refusal(fixture.vlan(5, vlan, mtu: 1501)) == .outOfRange)
  }

  @Test func areRefused() throws {
    let fixture = try Fixture()
    try fixture.apply(fixture.vlan(5, Self.one))
    let before = "\(fixture.entries(.interfaces)) \(fixture.devices.open.sorted())"
    func with(_ change: (inout VLANConfiguration) -> Void) -> VLANConfiguration {
      var vlan = Self.two
      change(&vlan)
      return vlan
    }
    let bad: [(Command, RefusalCode)] = [
      (fixture.vlan(6, nil), .outOfRange), (fixture.vlan(6, Self.two, port: .packet), .outOfRange),
      (fixture.vlan(6, with { $0.outer = 0 }), .outOfRange), (fixture.vlan(6, with { $0.outer = 4095 }), .outOfRange),
      (fixture.vlan(6, with { $0.inner = 0 }), .outOfRange), (fixture.vlan(6, with { $0.inner = 0xFFFF }), .outOfRange),
      (fixture.vlan(6, with { $0.proto = 0x0800 }), .outOfRange), (fixture.vlan(6, with { $0.parent = 6 }), .notFound),
      (fixture.vlan(6, with { $0.parent = .max }), .notFound), (fixture.vlan(6, with { $0.parent = 5 }), .conflict),
      (fixture.vlan(6, Self.one), .conflict), (fixture.vlan(6, Self.two, mtu: 1501), .outOfRange),
      (fixture.vlan(6, Self.two, role: .monitoring), .outOfRange),
      (fixture.vlan(6, Self.two, role: .fabric), .conflict),
      // Its port is its parent's; another parent is another interface.
      (fixture.vlan(5, with { $0.parent = 2 }), .conflict),
    ]
    for (command, code) in bad { #expect(fixture.refusal(command) == code, "\(command)") }
    #expect("\(fixture.entries(.interfaces)) \(fixture.devices.open.sorted())" == before)
  }
}

@Suite struct MulticastProgrammingTests {
  @Test func membersAreInUse() throws {
    let fixture = try Fixture()
    try fixture.apply(
      fixture.copies(10, 1, 3), fixture.copies(11, 10, 2),
      .setBridge(BridgeConfiguration(vrf: 1, mac: .broadcast, nexthop: 11)))
    for id: UInt32 in [1, 2, 3, 10, 11] { #expect(fixture.refusal(.removeNexthop(id: id)) == .inUse) }
    try fixture.apply(fixture.copies(11, 2), .removeNexthop(id: 10), .removeNexthop(id: 1))
    #expect(fixture.refusal(.removeNexthop(id: 2)) == .inUse)
    try fixture.apply(.begin(generation: 1), .sweep(generation: 1))
    #expect(fixture.entries(.nexthops).isEmpty && fixture.place(0xFFFF_FFFF) == nil)
  }

  @Test func neverHoldThemselves() throws {
    let fixture = try Fixture()
    try fixture.apply(fixture.copies(10), fixture.copies(11, 10), fixture.copies(12, 11))
    for members: [UInt32] in [[10], [11], [12], [1, 12]] {
      let command = Command.setNexthop(
        NexthopConfiguration(id: 10, action: .multicast(members.map { MulticastMember(nexthop: $0) })))
      #expect(fixture.refusal(command) == .conflict)
    }
  }

  @Test func standFourDeep() throws {
    let fixture = try Fixture()
    try fixture.apply(
      fixture.copies(10, 1), fixture.copies(11, 10), fixture.copies(12, 11), fixture.copies(13, 12),
      fixture.copies(20, 2), fixture.copies(21))
    #expect(fixture.refusal(fixture.copies(14, 13)) == .outOfRange)
    // From the middle and from below.
    #expect(fixture.refusal(fixture.copies(10, 20)) == .outOfRange)
    try fixture.apply(fixture.copies(12, 20))
    #expect(fixture.refusal(fixture.copies(21, 11)) == nil)
    #expect(fixture.refusal(fixture.copies(20, 21)) == .outOfRange)
    try fixture.apply(fixture.copies(13), fixture.copies(14, 12))
  }

  @Test func stayWhatTheyAre() throws {
    let fixture = try Fixture()
    try fixture.apply(fixture.copies(10, 1), fixture.copies(11, 10))
    let discard = Command.setNexthop(NexthopConfiguration(id: 10, action: .discard))
    #expect(fixture.refusal(discard) == .inUse)
    #expect(fixture.refusal(fixture.copies(1)) == .inUse)
    try fixture.apply(fixture.copies(11), discard)
    #expect(fixture.refusal(.setNexthop(NexthopConfiguration(id: 12, action: .l2Receive(vrf: 1)))) == nil)
    try fixture.apply(.setVNI(VNIConfiguration(vni: 7, nexthop: 12)))
    #expect(fixture.refusal(.setNexthop(NexthopConfiguration(id: 12, action: .receive))) == .inUse)
  }

  @Test func areRefused() throws {
    let fixture = try Fixture()
    func copies(_ members: MulticastMember...) -> Command {
      .setNexthop(NexthopConfiguration(id: 10, action: .multicast(members)))
    }
    try fixture.apply(
      .setNexthop(NexthopConfiguration(id: 20, action: .receive)), fixture.copies(21, 1),
      .setNexthop(NexthopConfiguration(id: 22, action: .l3Receive(vrf: 1))))
    let bad: [(Command, RefusalCode)] = [
      (copies(MulticastMember(nexthop: 9)), .notFound), (copies(MulticastMember(nexthop: 20)), .conflict),
      (copies(MulticastMember(nexthop: 22)), .conflict), (copies(MulticastMember(nexthop: 1, label: 1)), .outOfRange),
      (copies(MulticastMember(nexthop: 1, group: 1)), .outOfRange),
      (copies(MulticastMember(nexthop: 21, label: 1)), .outOfRange),
      (copies(MulticastMember(nexthop: 3, label: 1 << 24)), .outOfRange),
      (copies(MulticastMember(nexthop: 1), MulticastMember(nexthop: 1)), .conflict),
      (.setBridge(BridgeConfiguration(vrf: 1, mac: .broadcast, nexthop: 1)), .conflict),
      (.setBridge(BridgeConfiguration(vrf: 1, mac: mac(9), nexthop: 21)), .conflict),
      (.setBridge(BridgeConfiguration(vrf: 1, mac: mac(9), nexthop: 22)), .conflict),
      (.setRoute(RouteConfiguration(vrf: 1, prefix: IPPrefix("10.0.0.0/8")!, nexthop: 21)), .conflict),
      (.setRoute(RouteConfiguration(vrf: 1, prefix: IPPrefix("224.0.0.0/4")!, nexthop: 21)), .conflict),
      (.setRoute(RouteConfiguration(vrf: 1, prefix: IPPrefix("10.0.0.0/8")!, nexthop: 22)), .conflict),
      (.setLabel(LabelConfiguration(label: 100, nexthop: 21)), .conflict),
      (.setNexthop(NexthopConfiguration(id: 23, action: .receiveAt(interface: 1))), .conflict),
      (.setNexthop(NexthopConfiguration(id: 23, action: .receiveAt(interface: 9))), .notFound),
      (.setNexthop(NexthopConfiguration(id: 23, action: .resolve(interface: 0))), .conflict),
      (.setNexthop(NexthopConfiguration(id: 23, action: .l2Receive(vrf: 3))), .notFound),
      (.setNeighbor(NeighborConfiguration(vrf: 3, address: IPAddress("10.0.0.1")!, mac: mac(1))), .notFound),
      (.setNeighbor(NeighborConfiguration(vrf: 1, address: IPAddress("ff02::1")!, mac: mac(1))), .outOfRange),
      (.setNeighbor(NeighborConfiguration(vrf: 1, address: IPAddress("::")!, mac: mac(1))), .outOfRange),
      (.setNeighbor(NeighborConfiguration(vrf: 1, address: IPAddress("10.0.0.1")!, mac: .zero)), .outOfRange),
      (.removeNeighbor(vrf: 1, address: IPAddress("10.0.0.1")!), .notFound),
    ]
    let before = TableName.allCases.flatMap { fixture.entries($0) }.map { "\($0)" }
    for (command, code) in bad { #expect(fixture.refusal(command) == code, "\(command)") }
    #expect(TableName.allCases.flatMap { fixture.entries($0) }.map { "\($0)" } == before)
  }

  @Test func neighboursAreSwept() throws {
    let fixture = try Fixture()
    let address = IPAddress("10.0.0.1")!
    try fixture.apply(.setNeighbor(NeighborConfiguration(vrf: 1, address: address, mac: mac(1))))
    try fixture.apply(.setNeighbor(NeighborConfiguration(vrf: 1, address: address, mac: mac(2))))
    #expect(fixture.memory.reader.neighbors.lookup(vrf: 1, address: address) == mac(2).bits)
    try fixture.apply(.begin(generation: 1))
    try fixture.apply(.sweep(generation: 1))
    #expect(fixture.memory.reader.neighbors.lookup(vrf: 1, address: address) == 0)
    #expect(fixture.entries(.neighbors).isEmpty && fixture.entries(.vrfs).isEmpty)
  }
}

@Suite struct LearningTests {
  @Test func keepsNobodyFromRemoving() throws {
    let fixture = try Fixture()
    fixture.see(0x51, behind: 1, at: second)
    fixture.see(0x52, behind: nil, at: second)
    #expect(fixture.place(0x51) == Path(nexthop: 1, label: 0) && fixture.place(0x52) == Path(nexthop: 3, label: 100))
    try fixture.apply(.removeNexthop(id: 1), .removeInterface(id: 1))
    #expect(fixture.place(0x51) == nil && fixture.place(0x52) != nil)
    // The tunnel goes elsewhere from now on.
    try fixture.apply(fixture.tunnel(3, to: 9))
    #expect(fixture.place(0x52) == nil)
    fixture.see(0x52, behind: nil, at: second)
    #expect(fixture.place(0x52) == nil, "no tunnel leads there")
    try fixture.apply(fixture.tunnel(3))
    fixture.see(0x52, behind: nil, at: second)
    #expect(fixture.place(0x52) != nil)
    try fixture.apply(
      .removeNexthop(id: 2), .removeNexthop(id: 3), .removeInterface(id: 2), .removeInterface(id: 0), .removeVRF(id: 1))
    #expect(fixture.place(0x52) == nil && fixture.entries(.bridge).isEmpty)
    fixture.programmer.age(now: 10_000 * second)
  }

  @Test func survivesASweep() throws {
    let fixture = try Fixture()
    fixture.see(0x51, behind: 1, at: second)
    try fixture.apply(.begin(generation: 1))
    try fixture.fill()
    try fixture.apply(.sweep(generation: 1))
    #expect(fixture.place(0x51) == Path(nexthop: 1, label: 0))
    // But not what it leads to being swept.
    try fixture.apply(.begin(generation: 2), .sweep(generation: 2))
    #expect(fixture.place(0x51) == nil && fixture.entries(.vrfs).isEmpty)
  }

  @Test func endsWithTheFlag() throws {
    let fixture = try Fixture()
    fixture.see(0x51, behind: 1, at: second)
    fixture.see(0x52, behind: 2, at: second)
    fixture.see(0x53, behind: nil, at: second)
    try fixture.apply(.setInterface(fixture.pod(1, .usual)))
    #expect(fixture.place(0x51) == nil && fixture.place(0x52) != nil && fixture.place(0x53) != nil)
    try fixture.apply(.setVRF(VRFConfiguration(id: 1, name: "blue")))
    #expect(fixture.place(0x52) != nil && fixture.place(0x53) == nil)
    // Reports that were on their way.
    fixture.see(0x51, behind: 1, at: 2 * second)
    fixture.see(0x53, behind: nil, at: 2 * second)
    #expect(fixture.place(0x51) == nil && fixture.place(0x53) == nil)
  }

  @Test func packetsOfTunnelsTakeAllStagesWhereTheyTeach() throws {
    let fixture = try Fixture()
    #expect(fixture.memory.reader.interface(0)?.entry.isPlain == false)
    try fixture.apply(.setVRF(VRFConfiguration(id: 1, name: "blue")))
    #expect(fixture.memory.reader.interface(0)?.entry.isPlain == true)
    try fixture.apply(.setVRF(VRFConfiguration(id: 2, name: "red", flags: .learning)))
    #expect(fixture.memory.reader.interface(0)?.entry.isPlain == false)
    try fixture.apply(.removeVRF(id: 2))
    #expect(fixture.memory.reader.interface(0)?.entry.isPlain == true)
  }

  @Test func givesWayToWhatIsSet() throws {
    let fixture = try Fixture()
    fixture.see(0x51, behind: 1, at: second)
    let set = BridgeConfiguration(vrf: 1, mac: mac(0x51), nexthop: 2)
    try fixture.apply(.setBridge(set))
    #expect(fixture.place(0x51) == Path(nexthop: 2, label: 0))
    #expect(fixture.entries(.bridge) == [.bridge(set, BridgeState())])
    #expect(fixture.refusal(.removeNexthop(id: 2)) == .inUse)
    fixture.see(0x51, behind: 1, at: 2 * second)
    fixture.programmer.age(now: 10_000 * second)
    #expect(fixture.place(0x51) == Path(nexthop: 2, label: 0))
    try fixture.apply(.removeBridge(vrf: 1, mac: mac(0x51)), .removeNexthop(id: 2))
    // The agent may also forget what was learned.
    fixture.see(0x51, behind: 1, at: 3 * second)
    try fixture.apply(.removeBridge(vrf: 1, mac: mac(0x51)))
    #expect(fixture.place(0x51) == nil)
    #expect(fixture.refusal(.removeBridge(vrf: 1, mac: mac(0x51))) == .notFound)
  }

  @Test func theSameEntrySetIsASetOne() throws {
    let fixture = try Fixture()
    fixture.see(0x51, behind: 1, at: second)
    let set = BridgeConfiguration(vrf: 1, mac: mac(0x51), nexthop: 1)
    try fixture.apply(.setBridge(set))
    #expect(fixture.entries(.bridge) == [.bridge(set, BridgeState())])
    #expect(fixture.refusal(.removeNexthop(id: 1)) == .inUse)
  }

  @Test func agesInOrder() throws {
    let fixture = try Fixture()
    for number in 1...10 as ClosedRange<UInt64> { fixture.see(0x50 + number, behind: 1, at: number * second) }
    fixture.see(0x51, behind: 1, at: 100 * second)
    #expect(fixture.changes().filter { $0 == .learned }.count == 10)
    fixture.programmer.age(now: 308 * second)
    #expect(
      (2...5).allSatisfy { fixture.place(0x50 + $0) == nil } && (6...10).allSatisfy { fixture.place(0x50 + $0) != nil })
    #expect(fixture.place(0x51) != nil)
    fixture.programmer.age(now: 1000 * second)
    #expect((1...10).allSatisfy { fixture.place(0x50 + $0) == nil })
    #expect(fixture.changes() == Array(repeating: .aged, count: 10))
    #expect(fixture.entries(.bridge).isEmpty)
  }

  /// Reports about what there is not, with the fields at both ends: nothing happens, and nothing breaks.
  @Test func takesAnyReport() throws {
    let fixture = try Fixture()
    for kind in [Report.Kind.station, .remoteStation, .resolve] {
      for number in [0, 1, 2, UInt32.max] {
        for bits in [0, 0x0100_0000_0000, 0xFFFF_FFFF_FFFF, MACAddress.virtualRouter.bits, .max] as [UInt64] {
          fixture.programmer.take(
            Report(kind: kind, vrf: number, interface: number, label: number, mac: bits, time: number == 1 ? .max : 0))
        }
      }
    }
    fixture.programmer.age(now: .max)
    #expect(fixture.entries(.bridge).isEmpty)
  }
}
