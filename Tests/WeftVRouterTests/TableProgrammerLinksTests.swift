import Testing
import WeftForwarding
import WeftRing
import WeftTables
import WeftVRouter
import WeftWire

private final class Devices: PortProvider {
  func open(_ interface: InterfaceConfiguration) throws(Refusal) -> PortCapabilities {
    PortCapabilities(takesVirtio: false, takesUDPSegmentation: false)
  }
  func start(_ id: UInt32) {}
  func close(_ id: UInt32) {}
  func state(_ id: UInt32) -> InterfaceState { InterfaceState(isUp: true, kernelIndex: 0) }
  func isStale(_ interface: InterfaceConfiguration) -> Bool { false }
}

private let here = IPAddress("192.0.2.1")!
private func mac(_ number: UInt64) -> MACAddress { MACAddress(bits: 0x0200_0000_0000 | number) }

/// A pod, five tunnels (nexthops 11 to 15), and a packet path that looks the tables up.
private struct Fixture: ~Copyable {
  let memory: TableMemory
  let programmer: TableProgrammer
  var path: PacketPath
  private let counters: UnsafeMutableRawPointer
  private let frame: UnsafeMutableRawPointer

  private init(
    _ memory: TableMemory, _ limits: TableLimits, _ path: consuming PacketPath, _ counters: UnsafeMutableRawPointer
  ) {
    self.memory = memory
    programmer = TableProgrammer(memory: memory, limits: limits, ports: Devices())
    self.path = path
    self.counters = counters
    frame = .allocate(byteCount: 256, alignment: 64)
  }

  /// With the pod and the tunnels.
  static func made() throws -> Fixture {
    var limits = TableLimits()
    limits.interfaces = 8
    limits.vrfs = 8
    limits.nexthops = 64
    limits.routes = 64
    limits.routeNodes = 64
    limits.bridge = 8
    let memory = try TableMemory(
      sizes: TableSizes(interfaces: 8, vrfs: 8, nexthops: 64, routes: 64, routeNodes: 64, bridge: 8), workers: 0)
    let flows = try FlowTable(capacity: 1024, seed: 1)
    let fragments = try FragmentTable(seed: 1)
    let nat = try NATWorker(worker: 0, seed: 1)
    let bytes = 256 * 8 + 8 * Counters.interfaceBytes
    let counters = UnsafeMutableRawPointer.allocate(byteCount: bytes, alignment: 64)
    counters.initializeMemory(as: UInt8.self, repeating: 0, count: bytes)
    let path = PacketPath(
      tables: memory.reader, flows: flows, fragments: fragments, nat: nat,
      counters: Counters(drops: counters, interfaces: counters + 256 * 8, interfaceCount: 8), interfaces: 8, seed: 1)
    let fixture = Fixture(memory, limits, path, counters)
    try fixture.apply(
      .setVRF(VRFConfiguration(id: 1, name: "blue")),
      .setInterface(InterfaceConfiguration(id: 1, role: .virtual, port: .tap, device: "pod", mac: mac(1), vrf: 1)),
      .setInterface(
        InterfaceConfiguration(
          id: 0, role: .fabric, port: .packet, device: "fab", mac: mac(0xF0), mtu: 9000, addresses: [here])))
    for number in 11...15 as ClosedRange<UInt32> { try fixture.apply(.setNexthop(fixture.tunnel(number))) }
    return fixture
  }

  deinit {
    counters.deallocate()
    frame.deallocate()
  }

  func apply(_ commands: Command...) throws {
    for command in commands { try programmer.apply(command) }
    programmer.commit()
    memory.epochs.reclaim()
  }

  func refusal(_ command: Command) -> RefusalCode? {
    do throws(Refusal) {
      try programmer.apply(command)
      return nil
    } catch { return error.code }
  }

  func tunnel(_ number: UInt32, resolved: Bool = true) -> NexthopConfiguration {
    NexthopConfiguration(
      id: number,
      action: .tunnel(
        TunnelConfiguration(
          encapsulation: .vxlan, interface: 0, source: here, destination: IPAddress("192.0.2.\(number)")!,
          destinationMAC: resolved ? mac(0xF2) : .zero)))
  }

  /// Routes 10.2.0.0/16 by these tunnels.
  func divide(_ members: [UInt32]) throws {
    try apply(
      .setNexthop(NexthopConfiguration(id: 20, action: .ecmp(members.map { NexthopMember(nexthop: $0, label: 100) }))),
      .setRoute(RouteConfiguration(vrf: 1, prefix: IPPrefix("10.2.0.0/16")!, nexthop: 20)))
  }

  /// The tunnel by which a UDP packet of the pod left, by its destination's last octet; nil where none did.
  mutating func send(port: UInt16, now: UInt64) -> UInt32? {
    let at = Bytes(frame)
    Ethernet.write(at, destination: MACAddress.virtualRouter.bits, source: mac(1).bits, type: Ethernet.ipv4)
    let ip = at.advanced(Ethernet.bytes)
    ip.set32(0, 0x4500_0020)
    ip.set32(4, 0)
    ip.set16(8, 0x4011)
    ip.set32(12, IPAddress("10.1.0.1")!.v4)
    ip.set32(16, IPAddress("10.2.0.9")!.v4)
    IPv4.writeChecksum(ip, bytes: 20)
    ip.set16(20, port)
    ip.set16(22, 7)
    ip.set32(24, 12 << 16)
    ip.set32(28, 0)
    var frames = RxFrames()
    defer { frames.deallocate() }
    frames.append(RxFrame(bytes: at, length: 46, virtio: VirtioNetHeader()))
    path.process(frames, interface: 1, now: now)
    defer { path.tx.reset() }
    let head = path.tx.head(0)
    guard head != TxFrames.none else { return nil }
    var bytes = [UInt8](repeating: 0, count: Int(path.tx.frame(head).length))
    bytes.withUnsafeMutableBytes { path.tx.copy(path.tx.frame(head), to: $0.baseAddress!) }
    return UInt32(bytes[14 + 19])
  }

  mutating func ways(now: UInt64) -> [UInt32?] { (1000..<1200 as Range<UInt16>).map { send(port: $0, now: now) } }
}

@Test func flowsStayWithTheirMember() throws {
  var fixture = try Fixture.made()
  try fixture.divide([11, 12, 13])
  let first = fixture.ways(now: 1_000)
  #expect(Set(first) == [11, 12, 13])
  // One more: flows that are there stay, of new ones it gets its share.
  try fixture.divide([14, 11, 12, 13])
  #expect(fixture.ways(now: 2_000) == first)
  #expect(Set((3000..<3200).map { fixture.send(port: $0, now: 2_500) }) == [11, 12, 13, 14])
  // One less: its flows go to the others, and no flow of theirs.
  try fixture.divide([14, 11, 13])
  let third = fixture.ways(now: 3_000)
  for (old, new) in zip(first, third) {
    if old == 12 { #expect(new != 12 && new != nil) } else { #expect(new == old) }
  }
  // It comes back: they stay where they are by now.
  try fixture.divide([11, 12, 13, 14])
  #expect(fixture.ways(now: 4_000) == third)
  // One that cannot be used for a while.
  try fixture.apply(.setNexthop(fixture.tunnel(11, resolved: false)))
  for (old, new) in zip(third, fixture.ways(now: 5_000)) {
    if old == 11 { #expect(new != 11 && new != nil) } else { #expect(new == old) }
  }
}

@Test func membersAreChecked() throws {
  let fixture = try Fixture.made()
  func ecmp(_ members: [NexthopMember]) -> Command {
    .setNexthop(NexthopConfiguration(id: 20, action: .ecmp(members)))
  }
  let good = NexthopMember(nexthop: 11, label: 100)
  try fixture.apply(
    .setNexthop(NexthopConfiguration(id: 30, action: .receive)),
    .setNexthop(NexthopConfiguration(id: 31, action: .ecmp([good]))))
  #expect(fixture.refusal(ecmp([])) == .outOfRange)
  #expect(fixture.refusal(ecmp(Array(repeating: good, count: 65))) == .outOfRange)
  #expect(fixture.refusal(ecmp([good, good])) == .conflict)
  #expect(fixture.refusal(ecmp([NexthopMember(nexthop: 11, label: 100, weight: 0)])) == .outOfRange)
  #expect(fixture.refusal(ecmp([NexthopMember(nexthop: 11, label: 1 << 24)])) == .outOfRange)
  #expect(fixture.refusal(ecmp([NexthopMember(nexthop: 40)])) == .notFound)
  #expect(fixture.refusal(ecmp([NexthopMember(nexthop: 20)])) == .notFound)
  #expect(fixture.refusal(ecmp([NexthopMember(nexthop: 30)])) == .conflict)
  #expect(fixture.refusal(ecmp([NexthopMember(nexthop: 31)])) == .conflict)
  #expect(fixture.refusal(ecmp([good])) == nil)
  #expect(fixture.refusal(.setVNI(VNIConfiguration(vni: 5, nexthop: 20))) == .conflict)
  #expect(
    fixture.refusal(.setRoute(RouteConfiguration(vrf: 1, prefix: IPPrefix("10.2.0.0/16")!, nexthop: 20, label: 5)))
      == .outOfRange)
  // What is a member cannot go before what it is a member of.
  #expect(fixture.refusal(.removeNexthop(id: 11)) == .inUse)
  try fixture.apply(.removeNexthop(id: 20), .removeNexthop(id: 31), .removeNexthop(id: 11))
}

@Test func aSweepTakesMembersToo() throws {
  let fixture = try Fixture.made()
  try fixture.divide([11, 12])
  try fixture.apply(.begin(generation: 5), .sweep(generation: 5))
  var left = 0
  _ = fixture.programmer.dump(.nexthops, cursor: 0, limit: 100) { _ in left += 1 }
  #expect(left == 0)
}

@Test func gatewaysFollowRoutesAndNexthops() throws {
  let fixture = try Fixture.made()
  let gateway = IPAddress("10.1.0.254")!
  let pod = IPAddress("10.1.0.1")!
  func nearest() -> IPAddress? { fixture.memory.reader.gateways.nearest(vrf: 1, to: pod) }
  try fixture.apply(
    .setNexthop(NexthopConfiguration(id: 1, action: .receive)),
    .setRoute(RouteConfiguration(vrf: 1, prefix: IPPrefix("10.1.0.0/24")!, nexthop: 1)))
  #expect(nearest() == nil)
  try fixture.apply(.setRoute(RouteConfiguration(vrf: 1, prefix: IPPrefix("10.1.0.254/32")!, nexthop: 1)))
  #expect(nearest() == gateway)
  try fixture.apply(.setNexthop(NexthopConfiguration(id: 1, action: .discard)))
  #expect(nearest() == nil)
  try fixture.apply(.setNexthop(NexthopConfiguration(id: 1, action: .receive)))
  #expect(nearest() == gateway)
  try fixture.apply(
    .setRoute(RouteConfiguration(vrf: 1, prefix: IPPrefix("10.1.0.254/32")!, nexthop: 11, label: 5)))
  #expect(nearest() == nil)
  try fixture.apply(
    .setRoute(RouteConfiguration(vrf: 1, prefix: IPPrefix("10.1.0.254/32")!, nexthop: 1)),
    .removeRoute(vrf: 1, prefix: IPPrefix("10.1.0.254/32")!))
  #expect(nearest() == nil)
}

@Test func flowsThatAreThereGoOnWhereNoNewOnesBegin() throws {
  var fixture = try Fixture.made()
  try fixture.divide([11])
  let before = (1000..<1050 as Range<UInt16>).map { fixture.send(port: $0, now: 1_000) }
  #expect(before.allSatisfy { $0 == 11 })
  func pod(_ flags: InterfaceFlags) -> Command {
    .setInterface(
      InterfaceConfiguration(id: 1, role: .virtual, port: .tap, device: "pod", mac: mac(1), vrf: 1, flags: flags))
  }
  try fixture.apply(pod([.usual, .dropNewFlows]))
  #expect((1000..<1050 as Range<UInt16>).map { fixture.send(port: $0, now: 2_000) } == before)
  #expect(fixture.send(port: 2000, now: 2_000) == nil)
  try fixture.apply(pod(.usual))
  #expect(fixture.send(port: 2000, now: 3_000) == 11)
}

@Test func settingsOfXDPAreForItsPorts() throws {
  let fixture = try Fixture.made()
  func port(_ kind: PortKind, _ settings: XDPConfiguration) -> Command {
    var interface = InterfaceConfiguration(id: 2, role: .virtual, port: kind, device: "x", mac: mac(2), vrf: 1)
    interface.xdp = settings
    return .setInterface(interface)
  }
  for (kind, settings, text) in [
    (.packet, XDPConfiguration(mode: .skb), "for af_xdp"), (.tap, XDPConfiguration(busyPoll: 1), "for af_xdp"),
    (.xdp, XDPConfiguration(mode: .skb, copying: .zeroCopy), "program in the driver"),
    (.xdp, XDPConfiguration(busyPoll: 1001), "1000 microseconds"),
    (.xdp, XDPConfiguration(busyPollBudget: 0), "1 to 1024"),
  ] as [(PortKind, XDPConfiguration, String)] {
    let refusal = #expect(throws: Refusal.self) { try fixture.apply(port(kind, settings)) }
    #expect(refusal?.reason.contains(text) == true, "\(settings)")
  }
  try fixture.apply(
    port(.xdp, XDPConfiguration(mode: .native, copying: .zeroCopy, busyPoll: 1000, busyPollBudget: 1024)))
}

@Test func queuesAndNamespacesAreForTaps() throws {
  let fixture = try Fixture.made()
  func port(_ kind: PortKind, _ settings: TapConfiguration) -> Command {
    var interface = InterfaceConfiguration(id: 2, role: .virtual, port: kind, device: "x", mac: mac(2), vrf: 1)
    interface.tap = settings
    return .setInterface(interface)
  }
  for (kind, settings, text) in [
    (.packet, TapConfiguration(queues: 2), "are for tap"), (.xdp, TapConfiguration(namespace: "/n"), "are for tap"),
    (.tap, TapConfiguration(queues: 257), "at most 256 queues"),
    (.tap, TapConfiguration(name: "eth0"), "another network namespace"),
    (.tap, TapConfiguration(namespace: "n"), "absolute path"),
    (.tap, TapConfiguration(namespace: "/\0"), "absolute path"),
    (.tap, TapConfiguration(namespace: "/" + String(repeating: "n", count: 95)), "at most 95 bytes"),
    (.tap, TapConfiguration(namespace: "/n", name: "a/b"), "no name of a device"),
    (.tap, TapConfiguration(namespace: "/n", name: ".."), "no name of a device"),
  ] as [(PortKind, TapConfiguration, String)] {
    let refusal = #expect(throws: Refusal.self) { try fixture.apply(port(kind, settings)) }
    #expect(refusal?.reason.contains(text) == true, "\(settings): \(refusal?.reason ?? "accepted")")
  }
  for settings in [
    TapConfiguration(), TapConfiguration(queues: 0),
    TapConfiguration(queues: 256, namespace: "/run/netns/a", name: "eth0"),
  ] {
    try fixture.apply(port(.tap, settings))
  }
}

@Test func socketsAreForVhostUser() throws {
  let fixture = try Fixture.made()
  func port(_ kind: PortKind, _ settings: VhostConfiguration, role: InterfaceRole = .virtual) -> Command {
    var interface = InterfaceConfiguration(
      id: 2, role: role, port: kind, device: "x", mac: mac(2), vrf: role == .virtual ? 1 : 0)
    interface.vhost = settings
    return .setInterface(interface)
  }
  for (kind, settings, role, text) in [
    (.packet, VhostConfiguration(socket: "/s"), .virtual, "is for vhost-user"),
    (.vhostUser, VhostConfiguration(), .virtual, "absolute path"),
    (.vhostUser, VhostConfiguration(socket: "s"), .virtual, "absolute path"),
    (.vhostUser, VhostConfiguration(socket: "/\0"), .virtual, "absolute path"),
    (.vhostUser, VhostConfiguration(socket: "/" + String(repeating: "s", count: 107)), .virtual, "at most 107 bytes"),
    (.vhostUser, VhostConfiguration(socket: "/s"), .fabric, "towards the underlay"),
  ] as [(PortKind, VhostConfiguration, InterfaceRole, String)] {
    let refusal = #expect(throws: Refusal.self) { try fixture.apply(port(kind, settings, role: role)) }
    #expect(refusal?.reason.contains(text) == true, "\(settings): \(refusal?.reason ?? "accepted")")
  }
  try fixture.apply(port(.vhostUser, VhostConfiguration(socket: "/s", frontEndListens: true)))
}
