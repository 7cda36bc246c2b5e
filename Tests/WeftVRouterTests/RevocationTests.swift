import Testing
import WeftForwarding
import WeftRing
import WeftTables
import WeftVRouter
import WeftWire

/// Devices that are always there.
private final class Devices: PortProvider {
  func open(_ interface: InterfaceConfiguration) throws(Refusal) -> PortCapabilities {
    PortCapabilities(takesVirtio: false, takesUDPSegmentation: false)
  }
  func start(_ id: UInt32) {}
  func close(_ id: UInt32) {}
  func state(_ id: UInt32) -> InterfaceState { InterfaceState(isUp: true, kernelIndex: id) }
  func isStale(_ interface: InterfaceConfiguration) -> Bool { false }
}

/// Two pods, and rules that change while packets of one flow go to and fro.
private struct Node: ~Copyable {
  let programmer: TableProgrammer
  let statistics: StatisticsRegion
  var path: PacketPath
  private var now: UInt64 = 1_000_000_000

  init() throws {
    var limits = TableLimits()
    limits.interfaces = 8
    let memory = try TableMemory(
      sizes: TableSizes(interfaces: 8, vrfs: 4, nexthops: 8, routes: 16, routeNodes: 64, bridge: 16), workers: 1)
    let programmer = TableProgrammer(memory: memory, limits: limits, ports: Devices())
    try Self.fill(programmer)
    let reasons = DropReason.allCases
    let statistics = try StatisticsRegion(
      layout: StatisticsLayout(workers: 1, interfaces: 8, reasons: reasons.count),
      reasons: reasons.map { ($0.name, $0.explanation) })
    let worker = statistics.worker(0)
    let fragments = try FragmentTable(seed: 1)
    let nat = try NATWorker(worker: 0, seed: 1)
    let flows = try FlowTable(capacity: 64, seed: 1)
    path = PacketPath(
      tables: memory.reader, flows: flows, fragments: fragments, nat: nat,
      counters: Counters(drops: worker.drops, interfaces: worker.interfaces, interfaceCount: 8), interfaces: 8, seed: 1)
    self.programmer = programmer
    self.statistics = statistics
  }

  private static func fill(_ programmer: TableProgrammer) throws {
    try programmer.apply(.setVRF(VRFConfiguration(id: 1, name: "blue")))
    for id in [1, 2] as [UInt32] {
      try programmer.apply(
        .setInterface(
          InterfaceConfiguration(
            id: id, role: .virtual, port: .packet, device: "pod\(id)", mac: Self.mac(id), vrf: 1,
            flags: [.usual, .policy], tags: [id])))
      try programmer.apply(
        .setNexthop(NexthopConfiguration(id: id, action: .encap(interface: id, destinationMAC: Self.mac(id)))))
      try programmer.apply(.setRoute(RouteConfiguration(vrf: 1, prefix: IPPrefix(host: Self.address(id)), nexthop: id)))
    }
    try programmer.apply(.setAddressSet(AddressSetConfiguration(id: 1, name: "peers")))
    try programmer.apply(.setAddressSetMember(AddressSetMember(set: 1, prefix: IPPrefix(host: Self.address(1)))))
    try programmer.apply(.setRule(RuleConfiguration(id: 1, priority: 9, direction: .egress, action: .allow)))
    try programmer.apply(.setRule(Self.rule(.allow)))
    programmer.commit()
  }

  func shareFlows(_ list: [FatFlow]) throws {
    var interface = InterfaceConfiguration(
      id: 2, role: .virtual, port: .packet, device: "pod2", mac: Self.mac(2), vrf: 1, flags: [.usual, .policy],
      tags: [2])
    interface.fatFlows = list
    try apply(.setInterface(interface))
  }

  func apply(_ command: Command) throws { try programmer.apply(command) }

  static func mac(_ id: UInt32) -> MACAddress { MACAddress(bits: 0x0200_0000_0000 | UInt64(id)) }
  static func address(_ id: UInt32) -> IPAddress { IPAddress(v4: 0x0A01_0000 | id) }
  static func rule(_ action: RuleAction) -> RuleConfiguration {
    RuleConfiguration(
      id: 2, priority: 9, direction: .ingress, action: action, remoteSets: [1], proto: 17, destinationPorts: [53...53])
  }

  /// Sends a UDP packet; true when it reaches the other pod, false when policy drops it.
  mutating func passes(from source: UInt32, sourcePort: UInt16 = 4000, destinationPort: UInt16 = 53) throws -> Bool {
    let before = try drops()
    let frame = UnsafeMutableRawPointer.allocate(byteCount: 64, alignment: 16)
    defer { frame.deallocate() }
    let bytes = Bytes(frame)
    Ethernet.write(
      bytes, destination: MACAddress.virtualRouter.bits, source: Self.mac(source).bits, type: Ethernet.ipv4)
    let ip = bytes.advanced(Ethernet.bytes)
    for (index, word)
      in ([0x4500_0020, 0, 0x4011_0000, Self.address(source).v4, Self.address(3 - source).v4] as [UInt32])
      .enumerated()
    { ip.set32(index * 4, word) }
    var sum: UInt32 = 0
    for at in stride(from: 0, to: 20, by: 2) { sum += UInt32(ip.u16(at)) }
    while sum >> 16 != 0 { sum = sum & 0xFFFF + sum >> 16 }
    ip.set16(10, ~UInt16(sum))
    ip.set16(20, sourcePort)
    ip.set16(22, destinationPort)
    ip.set16(24, 12)
    ip.set16(26, 0)
    ip.set32(28, 0x7765_6674)
    var frames = RxFrames()
    defer { frames.deallocate() }
    frames.append(RxFrame(bytes: bytes, length: 46, virtio: VirtioNetHeader()))
    now += 1_000_000
    path.process(frames, interface: source, now: now)
    let sent = path.tx.touchedCount
    if sent > 0 { #expect(sent == 1 && path.tx.touched(0) == 3 - source) }
    path.tx.reset()
    #expect(try sent + Int(drops() - before) == 1)
    return sent == 1
  }

  private func drops() throws -> UInt64 {
    try statistics.reader().drops().first { $0.name == DropReason.policyDenied.name }?.count ?? 0
  }
}

@Suite struct RevocationTests {
  @Test func aRuleThatNoLongerAllowsCutsItsFlows() throws {
    var node = try Node()
    #expect(try node.passes(from: 1))
    #expect(try node.passes(from: 2, sourcePort: 53, destinationPort: 4000), "an answer")
    #expect(try !node.passes(from: 2), "no answer, and not allowed")
    try node.apply(.setRule(Node.rule(.deny)))
    #expect(try node.passes(from: 1), "not committed")
    node.programmer.commit()
    #expect(try !node.passes(from: 2, sourcePort: 53, destinationPort: 4000), "nor does an answer pass any more")
    #expect(try !node.passes(from: 1))
    try node.apply(.setRule(Node.rule(.allow)))
    node.programmer.commit()
    #expect(try node.passes(from: 1))
    #expect(try node.passes(from: 2, sourcePort: 53, destinationPort: 4000))
    try node.apply(.removeRule(id: 2))
    node.programmer.commit()
    #expect(try !node.passes(from: 1))
  }

  /// A flow of many sessions is judged again by the packet that comes next, not by its key, which has lost the port.
  @Test func sessionsThatShareAFlowAreJudgedByTheNextOne() throws {
    var node = try Node()
    try node.shareFlows([FatFlow(proto: 17, port: 53)])
    #expect(try node.passes(from: 1, sourcePort: 4000))
    #expect(try node.passes(from: 1, sourcePort: 5000))
    #expect(node.path.flows.count == 2)
    var rule = Node.rule(.allow)
    rule.sourcePorts = [5000...5000]
    try node.apply(.setRule(rule))
    node.programmer.commit()
    #expect(try node.passes(from: 1, sourcePort: 5000))
    #expect(try node.passes(from: 2, sourcePort: 53, destinationPort: 4000), "an answer in the flow")
    rule.sourcePorts = [6000...6000]
    try node.apply(.setRule(rule))
    node.programmer.commit()
    #expect(try !node.passes(from: 2, sourcePort: 53, destinationPort: 4000), "the question would not be let in")
    #expect(try !node.passes(from: 1, sourcePort: 6000), "denied with the others")
    #expect(node.path.flows.count == 2)
  }

  /// What began before the list, or goes on after it, loses nothing.
  @Test func aListComesAndGoes() throws {
    var node = try Node()
    #expect(try node.passes(from: 1))
    try node.shareFlows([FatFlow(proto: 17, port: 53)])
    #expect(try node.passes(from: 2, sourcePort: 53, destinationPort: 4000), "the flow that was there has its answer")
    #expect(node.path.flows.count == 2)
    #expect(try node.passes(from: 1, sourcePort: 5000))
    #expect(try node.passes(from: 1, sourcePort: 6000))
    #expect(node.path.flows.count == 4)
    try node.shareFlows([])
    #expect(try node.passes(from: 1, sourcePort: 6000))
    #expect(node.path.flows.count == 6)
  }

  @Test func anAddressThatLeavesItsSetLosesItsFlows() throws {
    var node = try Node()
    #expect(try node.passes(from: 1))
    try node.apply(.removeAddressSetMember(set: 1, prefix: IPPrefix(host: Node.address(1))))
    node.programmer.commit()
    #expect(try !node.passes(from: 1))
    #expect(try !node.passes(from: 1, sourcePort: 4001))
    // A set may hold an address by a prefix, too.
    try node.apply(.setAddressSetMember(AddressSetMember(set: 1, prefix: IPPrefix("10.1.0.0/16")!)))
    node.programmer.commit()
    #expect(try node.passes(from: 1))
    #expect(try node.passes(from: 1, sourcePort: 4001))
  }

  @Test func anInterfaceThatComesUnderThePolicyIsJudged() throws {
    var node = try Node()
    func pod2(_ flags: InterfaceFlags) -> Command {
      .setInterface(
        InterfaceConfiguration(
          id: 2, role: .virtual, port: .packet, device: "pod2", mac: Node.mac(2), vrf: 1, flags: flags, tags: [2]))
    }
    #expect(try !node.passes(from: 1, destinationPort: 54))
    try node.apply(pod2(.usual))
    node.programmer.commit()
    #expect(try node.passes(from: 1, destinationPort: 54))
    try node.apply(pod2([.usual, .policy]))
    node.programmer.commit()
    #expect(try !node.passes(from: 1, destinationPort: 54))
    #expect(try node.passes(from: 1, destinationPort: 53))
  }

  @Test func aPodBehindSeveralPathsIsJudgedAsItself() throws {
    var node = try Node()
    try node.apply(
      .setNexthop(NexthopConfiguration(id: 5, action: .ecmp([NexthopMember(nexthop: 2, label: 0, weight: 1)]))))
    try node.apply(.setRoute(RouteConfiguration(vrf: 1, prefix: IPPrefix(host: Node.address(2)), nexthop: 5)))
    #expect(try node.passes(from: 1))
    #expect(try !node.passes(from: 1, destinationPort: 54))
    try node.apply(.setRule(Node.rule(.deny)))
    node.programmer.commit()
    #expect(try !node.passes(from: 1))
  }
}
