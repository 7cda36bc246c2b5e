import Testing
import WeftRing
import WeftTables
import WeftVRouter
import WeftWire

/// Devices by name, opened and closed without a kernel.
private final class Devices: PortProvider {
  var present: Set<String> = ["pod1", "pod2", "fab0"]
  private(set) var open: [UInt32: String] = [:]
  private(set) var started: Set<UInt32> = []

  func open(_ interface: InterfaceConfiguration) throws(Refusal) -> PortCapabilities {
    guard present.contains(interface.device) else { throw Refusal(.device, "no device \(interface.device)") }
    open[interface.id] = interface.device
    return PortCapabilities(takesVirtio: true, takesUDPSegmentation: true)
  }
  func start(_ id: UInt32) { started.insert(id) }
  func close(_ id: UInt32) {
    open[id] = nil
    started.remove(id)
  }
  func state(_ id: UInt32) -> InterfaceState { InterfaceState(isUp: open[id] != nil, kernelIndex: id + 10) }
  func isStale(_ interface: InterfaceConfiguration) -> Bool { false }
}

private struct Fixture {
  let devices = Devices()
  let memory: TableMemory
  let programmer: TableProgrammer

  init(_ change: (inout TableLimits) -> Void = { _ in }) throws {
    var limits = TableLimits()
    limits.interfaces = 8
    limits.vrfs = 4
    limits.nexthops = 16
    limits.routes = 64
    limits.routeNodes = 64
    limits.bridge = 16
    change(&limits)
    memory = try TableMemory(
      sizes: TableSizes(
        interfaces: Int(limits.interfaces), vrfs: Int(limits.vrfs), nexthops: Int(limits.nexthops),
        routes: Int(limits.routes), routeNodes: Int(limits.routeNodes), bridge: Int(limits.bridge)),
      workers: 1)
    programmer = TableProgrammer(memory: memory, limits: limits, ports: devices)
  }

  /// A VRF with a pod, a tunnel, and something of each table.
  func fill() throws {
    for command in Self.commands { try programmer.apply(command) }
  }

  static let commands: [Command] = [
    .setVRF(VRFConfiguration(id: 1, name: "blue")),
    .setInterface(pod(1, "pod1")),
    .setInterface(fabric(0)),
    .setNexthop(NexthopConfiguration(id: 1, action: .receive)),
    .setNexthop(NexthopConfiguration(id: 2, action: .encap(interface: 1, destinationMAC: mac(1)))),
    .setNexthop(NexthopConfiguration(id: 3, action: .tunnel(tunnel()))),
    .setNexthop(NexthopConfiguration(id: 4, action: .vrfTranslate(vrf: 1))),
    .setLabel(LabelConfiguration(label: 100, nexthop: 4)),
    .setVNI(VNIConfiguration(vni: 5001, nexthop: 4)),
    .setRoute(RouteConfiguration(vrf: 1, prefix: prefix("10.1.1.2/32"), nexthop: 2)),
    .setRoute(RouteConfiguration(vrf: 1, prefix: prefix("10.1.0.0/16"), nexthop: 3, label: 5001)),
    .setRoute(RouteConfiguration(vrf: 1, prefix: prefix("fd00::/64"), nexthop: 3, label: 5001)),
    .setBridge(BridgeConfiguration(vrf: 1, mac: mac(1), nexthop: 2)),
  ]

  static func mac(_ number: UInt64) -> MACAddress { MACAddress(bits: 0x0200_0000_0000 | number) }
  static func prefix(_ text: String) -> IPPrefix { IPPrefix(text)! }
  static func pod(
    _ id: UInt32, _ device: String, vrf: UInt32 = 1, mtu: UInt16 = 1500, flags: InterfaceFlags = .usual
  ) -> InterfaceConfiguration {
    InterfaceConfiguration(
      id: id, role: .virtual, port: .packet, device: device, mac: mac(UInt64(id)), vrf: vrf, mtu: mtu,
      flags: flags)
  }
  static func fabric(_ id: UInt32, mac bits: UInt64 = 0xF0) -> InterfaceConfiguration {
    InterfaceConfiguration(
      id: id, role: .fabric, port: .packet, device: "fab0", mac: mac(bits), mtu: 1550,
      addresses: [IPAddress("192.0.2.1")!])
  }
  static func tunnel(_ encapsulation: Encapsulation = .vxlan, destination: String = "192.0.2.2") -> TunnelConfiguration
  {
    TunnelConfiguration(
      encapsulation: encapsulation, interface: 0, source: IPAddress("192.0.2.1")!,
      destination: IPAddress(destination)!, destinationMAC: mac(0xF2))
  }

  func refusal(_ command: Command) -> RefusalCode? {
    do throws(Refusal) {
      try programmer.apply(command)
      return nil
    } catch {
      #expect(!error.reason.isEmpty)
      return error.code
    }
  }

  func entries(_ table: TableName) -> [TableEntry] {
    var entries: [TableEntry] = []
    var cursor: UInt64 = 0
    repeat { cursor = programmer.dump(table, cursor: cursor, limit: 2) { entries.append($0) } } while cursor != 0
    return entries
  }

  /// Everything that can be read back, and what a lookup finds.
  func picture() -> [String] {
    var lines = TableName.allCases.flatMap { entries($0).map { "\($0)" } }
    let tables = memory.reader
    for address in ["10.1.1.2", "10.1.9.9", "10.2.0.1"] {
      lines.append("\(address) \(tables.paths[tables.route(vrf: 1, v4: IPAddress(address)!.v4)])")
    }
    lines.append("vni \(tables.vnis[5001]) label \(tables.labels[100])")
    lines.append("\(devices.open) \(devices.started.sorted())")
    return lines
  }
}

@Suite("Table programmer")
struct TableProgrammerTests {
  @Test("what is set is found by lookups and read back")
  func sets() throws {
    let fixture = try Fixture()
    try fixture.fill()
    let tables = fixture.memory.reader
    let local = tables.paths[tables.route(vrf: 1, v4: IPAddress("10.1.1.2")!.v4)]
    #expect(local == Path(nexthop: 2, label: 0))
    let remote = tables.paths[tables.route(vrf: 1, v4: IPAddress("10.1.200.1")!.v4)]
    #expect(remote == Path(nexthop: 3, label: 5001))
    let remote6 = tables.paths[tables.route(vrf: 1, v6: IPAddress("fd00::1")!)]
    #expect(remote6 == Path(nexthop: 3, label: 5001))
    #expect(tables.route(vrf: 1, v4: IPAddress("10.2.0.1")!.v4) == 0)
    #expect(tables.vnis[5001] == 5 && tables.labels[100] == 5)
    #expect(tables.bridge.lookup(vrf: 1, mac: Fixture.mac(1).bits) != 0)
    #expect(fixture.entries(.routes).count == 3)
    #expect(fixture.entries(.nexthops).count == 4)
    #expect(fixture.devices.started == [0, 1])
  }

  /// A command that must be refused, with its code: the tables are as they were.
  @Test(
    "refused commands change nothing",
    arguments: [
      (.setInterface(Fixture.pod(8, "pod2")), .outOfRange),
      (.setInterface(Fixture.pod(2, "pod1")), .conflict),
      (.setInterface(Fixture.pod(1, "pod2")), .conflict),
      (.setInterface(Fixture.pod(2, "pod2", vrf: 9)), .notFound),
      (.setInterface(Fixture.pod(2, "pod3")), .device),
      (.setInterface(Fixture.pod(2, "a/b")), .outOfRange),
      (.setInterface(Fixture.pod(2, "..")), .outOfRange),
      (.setInterface(Fixture.pod(2, "")), .outOfRange),
      (.setInterface(Fixture.pod(2, "pod2", mtu: 67)), .outOfRange),
      (
        .setInterface(
          InterfaceConfiguration(id: 2, role: .virtual, port: .packet, device: "pod2", mac: .broadcast, vrf: 1)),
        .outOfRange
      ),
      (.setInterface(Fixture.pod(2, "pod2", flags: [.usual, .learning, .antiSpoofing])), .conflict),
      (.setInterface(Fixture.pod(2, "pod2", flags: [.routing, .learning])), .conflict),
      (.setInterface(Fixture.pod(2, "pod2", flags: [])), .outOfRange),
      (.setInterface(Fixture.pod(2, "pod2", flags: [.policy])), .outOfRange),
      (.removeInterface(id: 1), .inUse), (.removeInterface(id: 0), .inUse), (.removeInterface(id: 7), .notFound),
      (.setVRF(VRFConfiguration(id: 4, name: "x")), .outOfRange),
      (.setVRF(VRFConfiguration(id: 2, name: "blue")), .conflict),
      (.setVRF(VRFConfiguration(id: 2, name: "")), .outOfRange),
      (.removeVRF(id: 1), .inUse), (.removeVRF(id: 3), .notFound),
      (.setNexthop(NexthopConfiguration(id: 16, action: .discard)), .outOfRange),
      (
        .setNexthop(NexthopConfiguration(id: 5, action: .encap(interface: 5, destinationMAC: Fixture.mac(1)))),
        .notFound
      ),
      (
        .setNexthop(NexthopConfiguration(id: 5, action: .encap(interface: 0, destinationMAC: Fixture.mac(1)))),
        .conflict
      ),
      (.setNexthop(NexthopConfiguration(id: 5, action: .encap(interface: 1, destinationMAC: .zero))), .outOfRange),
      (.setNexthop(NexthopConfiguration(id: 5, action: .vrfTranslate(vrf: 3))), .notFound),
      (.setNexthop(NexthopConfiguration(id: 5, action: .tunnel(Fixture.tunnel(destination: "fd00::2")))), .outOfRange),
      (
        .setNexthop(NexthopConfiguration(id: 5, action: .tunnel(Fixture.tunnel(destination: "224.0.0.1")))), .outOfRange
      ),
      (.removeNexthop(id: 2), .inUse), (.removeNexthop(id: 4), .inUse), (.removeNexthop(id: 9), .notFound),
      (.setLabel(LabelConfiguration(label: 15, nexthop: 4)), .outOfRange),
      (.setLabel(LabelConfiguration(label: 1 << 20, nexthop: 4)), .outOfRange),
      (.setLabel(LabelConfiguration(label: 20, nexthop: 9)), .notFound),
      (.setLabel(LabelConfiguration(label: 20, nexthop: 3)), .conflict),
      (.removeLabel(label: 20), .notFound),
      (.setVNI(VNIConfiguration(vni: 1 << 24, nexthop: 4)), .outOfRange),
      (.setVNI(VNIConfiguration(vni: 7, nexthop: 1)), .conflict),
      (.removeVNI(vni: 7), .notFound),
      (.setRoute(RouteConfiguration(vrf: 3, prefix: Fixture.prefix("10.0.0.0/8"), nexthop: 3, label: 1)), .notFound),
      (.setRoute(RouteConfiguration(vrf: 1, prefix: Fixture.prefix("10.0.0.0/8"), nexthop: 9)), .notFound),
      (
        .setRoute(RouteConfiguration(vrf: 1, prefix: Fixture.prefix("10.0.0.0/8"), nexthop: 3, label: 1 << 24)),
        .outOfRange
      ),
      (.setRoute(RouteConfiguration(vrf: 1, prefix: Fixture.prefix("10.0.0.0/8"), nexthop: 2, label: 1)), .outOfRange),
      (.removeRoute(vrf: 1, prefix: Fixture.prefix("10.0.0.0/8")), .notFound),
      (.setBridge(BridgeConfiguration(vrf: 1, mac: .broadcast, nexthop: 2)), .conflict),
      (.setBridge(BridgeConfiguration(vrf: 1, mac: .virtualRouter, nexthop: 2)), .outOfRange),
      (.setBridge(BridgeConfiguration(vrf: 1, mac: Fixture.mac(2), nexthop: 1)), .conflict),
      (.removeBridge(vrf: 1, mac: Fixture.mac(2)), .notFound),
      (.sweep(generation: 9), .staleGeneration),
    ] as [(Command, RefusalCode)])
  func refuses(_ command: Command, _ code: RefusalCode) throws {
    let fixture = try Fixture()
    try fixture.fill()
    let before = fixture.picture()
    #expect(fixture.refusal(command) == code)
    #expect(fixture.picture() == before)
  }

  @Test("full tables refuse more, and take again what is removed")
  func full() throws {
    let fixture = try Fixture {
      $0.routes = 4
      $0.bridge = 2
      $0.nexthops = 5
    }
    try fixture.fill()
    func route(_ number: Int) -> Command {
      .setRoute(RouteConfiguration(vrf: 1, prefix: Fixture.prefix("10.\(number).0.0/16"), nexthop: 3, label: 5001))
    }
    #expect(fixture.refusal(route(50)) == nil)
    #expect(fixture.refusal(route(51)) == .tableFull)
    #expect(fixture.refusal(.removeRoute(vrf: 1, prefix: Fixture.prefix("10.50.0.0/16"))) == nil)
    #expect(fixture.refusal(route(51)) == nil)
    func mac(_ number: UInt64) -> Command {
      .setBridge(BridgeConfiguration(vrf: 1, mac: Fixture.mac(number), nexthop: 2))
    }
    #expect(fixture.refusal(mac(2)) == nil)
    #expect(fixture.refusal(mac(3)) == .tableFull)
  }

  @Test("full route nodes refuse more without a trace")
  func fullNodes() throws {
    let fixture = try Fixture { $0.routeNodes = 20 }
    try fixture.fill()
    var refused = 0
    for number in 0..<32 {
      let prefix = Fixture.prefix("\(20 + number).1.1.1/32")
      if fixture.refusal(.setRoute(RouteConfiguration(vrf: 1, prefix: prefix, nexthop: 3, label: 5001))) == .tableFull {
        refused += 1
        let tables = fixture.memory.reader
        #expect(tables.route(vrf: 1, v4: prefix.address.v4) == 0)
      }
    }
    #expect(refused > 0)
  }

  @Test("a sweep removes what a new generation has not renewed, whatever refers to what")
  func sweeps() throws {
    let fixture = try Fixture()
    try fixture.programmer.apply(.begin(generation: 1))
    try fixture.fill()
    let before = fixture.picture()
    #expect(fixture.refusal(.begin(generation: 0)) == .staleGeneration)
    // The same again: nothing changes.
    try fixture.programmer.apply(.begin(generation: 2))
    try fixture.fill()
    try fixture.programmer.apply(.sweep(generation: 2))
    #expect(fixture.picture() == before)
    // Only the VRF and the fabric: the rest goes.
    try fixture.programmer.apply(.begin(generation: 3))
    try fixture.programmer.apply(.setVRF(VRFConfiguration(id: 1, name: "blue")))
    try fixture.programmer.apply(.setInterface(Fixture.fabric(0)))
    try fixture.programmer.apply(.sweep(generation: 3))
    #expect(fixture.entries(.vrfs).count == 1)
    #expect(fixture.entries(.interfaces).count == 1)
    for table in [TableName.nexthops, .labels, .vnis, .routes, .bridge] { #expect(fixture.entries(table).isEmpty) }
    #expect(fixture.devices.open == [0: "fab0"])
    // Nothing renewed: all gone.
    try fixture.programmer.apply(.begin(generation: 4))
    try fixture.programmer.apply(.sweep(generation: 4))
    for table in TableName.allCases { #expect(fixture.entries(table).isEmpty) }
    #expect(fixture.devices.open.isEmpty)
    fixture.memory.epochs.reclaim()
    #expect(fixture.memory.routes.nodesUsed == 0)
    #expect(fixture.memory.routes6.nodesUsed == 0)
  }

  @Test("a fabric interface's new MAC reaches its tunnels")
  func fabricMAC() throws {
    let fixture = try Fixture()
    try fixture.fill()
    func source() throws -> [UInt8] {
      let entry = try #require(fixture.memory.reader.nexthop(3)).entry
      return (6..<12).map { entry.outer[$0] }
    }
    #expect(try source() == [2, 0, 0, 0, 0, 0xF0])
    try fixture.programmer.apply(.setInterface(Fixture.fabric(0, mac: 0xAB)))
    #expect(try source() == [2, 0, 0, 0, 0, 0xAB])
    // A tunnel set anew on the same interface is still found by the next change.
    try fixture.programmer.apply(
      .setNexthop(NexthopConfiguration(id: 3, action: .tunnel(Fixture.tunnel(.mplsOverUDP)))))
    try fixture.programmer.apply(.setInterface(Fixture.fabric(0, mac: 0xCD)))
    #expect(try source() == [2, 0, 0, 0, 0, 0xCD])
  }

  @Test("uses are counted: after each change, what nothing refers to can be removed")
  func uses() throws {
    let fixture = try Fixture()
    try fixture.fill()
    // The route moves from the tunnel to the pod, then the tunnel is free.
    for text in ["10.1.0.0/16", "fd00::/64"] {
      try fixture.programmer.apply(
        .setRoute(RouteConfiguration(vrf: 1, prefix: Fixture.prefix(text), nexthop: 2)))
    }
    #expect(fixture.refusal(.removeNexthop(id: 3)) == nil)
    #expect(fixture.refusal(.removeInterface(id: 0)) == nil)
    #expect(fixture.refusal(.removeNexthop(id: 2)) == .inUse)
    for text in ["10.1.0.0/16", "fd00::/64", "10.1.1.2/32"] {
      try fixture.programmer.apply(.removeRoute(vrf: 1, prefix: Fixture.prefix(text)))
    }
    #expect(fixture.refusal(.removeNexthop(id: 2)) == .inUse)
    try fixture.programmer.apply(.removeBridge(vrf: 1, mac: Fixture.mac(1)))
    #expect(fixture.refusal(.removeNexthop(id: 2)) == nil)
    #expect(fixture.refusal(.removeInterface(id: 1)) == nil)
    #expect(fixture.refusal(.removeVRF(id: 1)) == .inUse)
    try fixture.programmer.apply(.removeLabel(label: 100))
    try fixture.programmer.apply(.removeVNI(vni: 5001))
    try fixture.programmer.apply(.removeNexthop(id: 4))
    #expect(fixture.refusal(.removeVRF(id: 1)) == nil)
  }
}
