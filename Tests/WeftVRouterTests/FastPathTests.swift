import Testing
import WeftForwarding
import WeftRing
import WeftTables
import WeftVRouter
import WeftWire

/// Devices that are always there; pods' ports carry virtio-net headers where their number is even.
private final class Devices: PortProvider {
  func open(_ interface: InterfaceConfiguration) throws(Refusal) -> PortCapabilities {
    PortCapabilities(takesVirtio: interface.id % 2 == 0, takesUDPSegmentation: false)
  }
  func start(_ id: UInt32) {}
  func close(_ id: UInt32) {}
  func state(_ id: UInt32) -> InterfaceState { InterfaceState(isUp: true, kernelIndex: id) }
  func isStale(_ interface: InterfaceConfiguration) -> Bool { false }
}

/// A node with two pods, and tunnels of both kinds to another one.
private struct Node: ~Copyable {
  static let fabricMAC: UInt64 = 0x0200_0000_00F0
  let programmer: TableProgrammer
  let statistics: StatisticsRegion
  var path: PacketPath
  /// Bytes before each frame that may be written to; those before these, and behind them, must stay as they are.
  let headroom: Int
  private static let guarded = 64

  init(usesFastPath: Bool, headroom: Int = 0) throws {
    self.headroom = headroom
    var limits = TableLimits()
    limits.interfaces = 8
    let memory = try TableMemory(
      sizes: TableSizes(interfaces: 8, vrfs: 4, nexthops: 16, routes: 64, routeNodes: 256, bridge: 16), workers: 1)
    let programmer = TableProgrammer(memory: memory, limits: limits, ports: Devices())
    try Self.fill(programmer)
    let reasons = DropReason.allCases
    let statistics = try StatisticsRegion(
      layout: StatisticsLayout(workers: 1, interfaces: 8, reasons: reasons.count),
      reasons: reasons.map { ($0.name, $0.explanation) })
    let worker = statistics.worker(0)
    let fragments = try FragmentTable(seed: 1)
    let nat = try NATWorker(worker: 0, seed: 1)
    // Small, so that flows make way for others too.
    let flows = try FlowTable(capacity: 48, seed: 1)
    path = PacketPath(
      tables: memory.reader, flows: flows, fragments: fragments, nat: nat,
      counters: Counters(drops: worker.drops, interfaces: worker.interfaces, interfaceCount: 8), interfaces: 8, seed: 1)
    path.usesFastPath = usesFastPath
    self.programmer = programmer
    self.statistics = statistics
  }

  private static func fill(_ programmer: TableProgrammer) throws {
    func prefix(_ text: String) throws -> IPPrefix { try #require(IPPrefix(text)) }
    func destinationNAT(_ address: String, _ proto: UInt8, to target: String, _ port: UInt16) -> Command {
      .setDestinationNAT(
        DestinationNATConfiguration(
          key: ServiceKey(vrf: 1, address: IPAddress(address)!, proto: proto, port: 2001), target: IPAddress(target)!,
          targetVRF: 1, targetPort: port))
    }
    func tunnel(_ encapsulation: Encapsulation) throws -> NexthopConfiguration.Action {
      .tunnel(
        TunnelConfiguration(
          encapsulation: encapsulation, interface: 0, source: IPAddress(v4: 0xC000_0201),
          destination: IPAddress(v4: 0xC000_0202), destinationMAC: MACAddress(bits: 0x0200_0000_00F2)))
    }
    let commands: [Command] = [
      .setVRF(VRFConfiguration(id: 1, name: "blue")),
      .setInterface(
        InterfaceConfiguration(
          id: 0, role: .fabric, port: .packet, device: "fab0", mac: MACAddress(bits: fabricMAC), mtu: 1500,
          addresses: [IPAddress(v4: 0xC000_0201)])),
      .setInterface(
        InterfaceConfiguration(
          id: 1, role: .virtual, port: .packet, device: "pod1", mac: MACAddress(bits: 0x0200_0000_0001), vrf: 1)),
      .setInterface(
        InterfaceConfiguration(
          id: 2, role: .virtual, port: .packet, device: "pod2", mac: MACAddress(bits: 0x0200_0000_0002), vrf: 1,
          mtu: 600)),
      .setNexthop(
        NexthopConfiguration(
          id: 1, action: .encap(interface: 1, destinationMAC: MACAddress(bits: 0x0200_0000_0001)))),
      .setNexthop(
        NexthopConfiguration(
          id: 2, action: .encap(interface: 2, destinationMAC: MACAddress(bits: 0x0200_0000_0002)))),
      .setNexthop(NexthopConfiguration(id: 3, action: try tunnel(.vxlan))),
      .setNexthop(NexthopConfiguration(id: 4, action: try tunnel(.mplsOverUDP))),
      .setNexthop(NexthopConfiguration(id: 5, action: .vrfTranslate(vrf: 1))),
      .setNexthop(NexthopConfiguration(id: 6, action: .receive)),
      .setVNI(VNIConfiguration(vni: 100, nexthop: 5)),
      .setLabel(LabelConfiguration(label: 200, nexthop: 5)),
      .setRoute(RouteConfiguration(vrf: 1, prefix: try prefix("10.1.0.0/24"), nexthop: 6)),
      .setRoute(RouteConfiguration(vrf: 1, prefix: try prefix("10.1.1.0/24"), nexthop: 1)),
      .setRoute(RouteConfiguration(vrf: 1, prefix: try prefix("10.1.2.0/24"), nexthop: 2)),
      .setRoute(RouteConfiguration(vrf: 1, prefix: try prefix("10.1.3.0/24"), nexthop: 3, label: 100)),
      .setRoute(RouteConfiguration(vrf: 1, prefix: try prefix("10.1.4.0/24"), nexthop: 4, label: 200)),
      destinationNAT("10.1.4.2", IPProtocol.udp, to: "10.1.3.3", 3000),
      destinationNAT("10.1.4.2", IPProtocol.tcp, to: "10.1.3.3", 3000),
      destinationNAT("10.1.2.2", IPProtocol.udp, to: "10.1.1.3", 0),
      .setStaticNAT(
        StaticNATConfiguration(
          insideVRF: 1, inside: try #require(IPAddress("10.1.2.3")), outsideVRF: 1,
          outside: try #require(IPAddress("10.1.5.3")))),
    ]
    for command in commands { try programmer.apply(command) }
    programmer.commit()
  }

  /// What the frames, copied, make the packet path send: interface and frame with its virtio-net header.
  mutating func send(_ frames: [Frame], from interface: UInt32, now: UInt64) -> [[UInt8]] {
    var memory: [UnsafeMutableRawPointer] = []
    defer { for pointer in memory { pointer.deallocate() } }
    var batch = RxFrames()
    defer { batch.deallocate() }
    let before = Self.guarded + headroom
    for frame in frames {
      let pointer = UnsafeMutableRawPointer.allocate(
        byteCount: before + frame.bytes.count + Self.guarded, alignment: 16)
      pointer.initializeMemory(as: UInt8.self, repeating: 0xA5, count: before + frame.bytes.count + Self.guarded)
      frame.bytes.withUnsafeBytes {
        if let base = $0.baseAddress { (pointer + before).copyMemory(from: base, byteCount: $0.count) }
      }
      memory.append(pointer)
      batch.append(
        RxFrame(bytes: Bytes(pointer + before), length: frame.bytes.count, virtio: frame.virtio, headroom: headroom))
    }
    defer {
      for (pointer, frame) in zip(memory, frames) {
        let all = UnsafeRawBufferPointer(start: pointer, count: before + frame.bytes.count + Self.guarded)
        #expect(all.prefix(Self.guarded).allSatisfy { $0 == 0xA5 }, "written before the headroom")
        #expect(all.suffix(Self.guarded).allSatisfy { $0 == 0xA5 }, "written behind the frame")
      }
    }
    path.process(batch, interface: interface, now: now)
    path.age(now: now)
    var sent: [[UInt8]] = []
    for target in 0..<UInt32(8) {
      var number = path.tx.touchedCount > 0 ? path.tx.head(target) : TxFrames.none
      while number != TxFrames.none {
        let frame = path.tx.frame(number)
        let virtio = path.tx.virtio(frame)
        var bytes = [UInt8](repeating: 0, count: Int(frame.length))
        bytes.withUnsafeMutableBytes { if let base = $0.baseAddress { path.tx.copy(frame, to: base) } }
        sent.append(
          [UInt8(target), virtio.flags, virtio.gso, UInt8(virtio.checksumStart), UInt8(virtio.checksumOffset)] + bytes)
        number = frame.next
      }
    }
    path.tx.reset()
    return sent
  }

  func counters() throws -> [String] {
    let reader = try statistics.reader()
    var lines =
      (0..<UInt32(8)).map { "\(reader.interface($0))" } + reader.drops().filter { $0.count > 0 }.map { "\($0)" }
    var flows: [String] = []
    _ = path.flows.dump(cursor: 0, limit: .max) {
      flows.append("\($0.key) \($0.packets) \($0.bytes) \($0.flags) \($0.tcpState) \($0.nexthop) \($0.lastSeen)")
    }
    lines += flows.sorted()
    return lines
  }
}

private struct Frame {
  var bytes: [UInt8]
  var virtio = VirtioNetHeader()
}

/// Numbers from a seed (SplitMix64).
private struct Random {
  var state: UInt64
  mutating func next(_ limit: Int) -> Int {
    state &+= 0x9E37_79B9_7F4A_7C15
    var z = state
    z = (z ^ z >> 30) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ z >> 27) &* 0x94D0_49BB_1331_11EB
    return Int((z ^ z >> 31) % UInt64(limit))
  }
  mutating func chance(_ percent: Int) -> Bool { next(100) < percent }
}

extension [UInt8] {
  fileprivate mutating func set16(_ at: Int, _ value: Int) {
    self[at] = UInt8(truncatingIfNeeded: value >> 8)
    self[at + 1] = UInt8(truncatingIfNeeded: value)
  }
  fileprivate mutating func set32(_ at: Int, _ value: UInt32) {
    set16(at, Int(value >> 16))
    set16(at + 2, Int(value & 0xFFFF))
  }
  /// The Internet checksum of a part, word by word (RFC 1071).
  fileprivate func sum(_ range: Range<Int>) -> Int {
    var sum = 0
    for at in stride(from: range.lowerBound, to: range.upperBound, by: 2) {
      sum += Int(self[at]) << 8 + (at + 1 < range.upperBound ? Int(self[at + 1]) : 0)
    }
    while sum >> 16 != 0 { sum = sum & 0xFFFF + sum >> 16 }
    return sum
  }
}

/// An IPv4 packet of one of a few flows, mostly well-formed.
private func packet(_ random: inout Random, from pod: Int) -> [UInt8] {
  let isTCP = random.chance(40)
  let header = isTCP ? 20 : 8
  let size = random.chance(3) ? 560 + random.next(1000) : random.next(64)
  var ip = [UInt8](repeating: 0, count: 20 + header + size)
  ip[0] = 0x45
  ip[1] = random.chance(80) ? 0 : UInt8(random.next(256))
  ip.set16(2, ip.count)
  if random.chance(3) { ip.set16(6, [0x4000, 0x2000, 0x2001, 1][random.next(4)]) }
  ip[8] = random.chance(95) ? 64 : UInt8(random.next(3))
  ip[9] = isTCP ? 6 : 17
  ip.set32(12, 0x0A01_0000 | UInt32(pod) << 8 | UInt32(random.next(3) + 2))
  let other = random.chance(3) ? random.next(7) : [1, 2, 3, 4][random.next(4)]
  ip.set32(16, 0x0A01_0000 | UInt32(other) << 8 | UInt32(random.next(2) + 2))
  ip.set16(20, 1000)
  ip.set16(22, 2000 + random.next(2))
  if random.chance(20) {
    // What might be an answer of a translated flow.
    ip.set16(20, random.chance(50) ? 3000 : 2001)
    ip.set16(22, 1000)
  }
  for at in (20 + header)..<ip.count { ip[at] = UInt8(random.next(256)) }
  // Not right, but translated all the same.
  if random.chance(70) { ip.set16(isTCP ? 36 : 26, [random.next(0x10000), 0, 0xFFFF][random.next(3)]) }
  if isTCP {
    ip[32] = 0x50
    ip[33] = random.chance(75) ? (random.chance(30) ? 0x18 : 0x10) : random.chance(60) ? 2 : UInt8(random.next(64))
  } else {
    ip.set16(24, header + size)
  }
  ip.set16(10, 0xFFFF - ip.sum(0..<20))
  // Now and then a byte that is wrong.
  if random.chance(4) { ip[random.next(20 + header)] = UInt8(random.next(256)) }
  if random.chance(2) { ip.removeLast(random.next(ip.count)) }
  return ip
}

private func podFrame(_ random: inout Random, _ pod: Int) -> Frame {
  let ip = packet(&random, from: pod)
  var frame = Frame(bytes: [0, 0, 0x5E, 0, 1, 0, 2, 0, 0, 0, 0, UInt8(pod), 8, 0] + ip)
  if random.chance(3) { frame.bytes[random.next(14)] = UInt8(random.next(256)) }
  if random.chance(40) {
    frame.virtio.flags = random.chance(90) ? VirtioNetHeader.needsChecksum : VirtioNetHeader.dataValid
    frame.virtio.checksumStart = random.chance(95) ? 34 : UInt16(random.next(64))
    let isTCP = ip.count > 9 && ip[9] == 6
    frame.virtio.checksumOffset = random.chance(95) ? (isTCP ? 16 : 6) : UInt16(random.next(32))
  }
  return frame
}

private func fabricFrame(_ random: inout Random) -> Frame {
  // From the other node's pods, or with addresses that are here.
  let inner = packet(&random, from: random.chance(90) ? 3 + random.next(2) : 1)
  let isVXLAN = random.chance(50)
  var bytes: [UInt8] = [2, 0, 0, 0, 0, 0xF0, 2, 0, 0, 0, 0, 0xF2, 8, 0] + [UInt8](repeating: 0, count: 28)
  if isVXLAN {
    bytes += [8, 0, 0, 0, 0, 0, random.chance(95) ? 100 : 7, 0, 0, 0, 0x5E, 0, 1, 0, 2, 0, 0, 0, 0, 9, 8, 0]
  } else {
    bytes += [0, 0x0C, random.chance(95) ? 0x81 : 0x80, 64]
  }
  bytes += inner
  bytes[14] = 0x45
  bytes[15] = random.chance(85) ? 0 : UInt8(random.next(256))
  bytes.set16(16, bytes.count - 14)
  bytes[22] = 64
  bytes[23] = 17
  bytes.set32(26, 0xC000_0202)
  bytes.set32(30, 0xC000_0201)
  bytes.set16(24, 0xFFFF - bytes.sum(14..<34))
  bytes.set16(34, 50000)
  bytes.set16(36, isVXLAN ? 4789 : 6635)
  bytes.set16(38, bytes.count - 34)
  if random.chance(4) { bytes[random.next(min(bytes.count, 64))] = UInt8(random.next(256)) }
  return Frame(bytes: bytes)
}

@Suite("Fast path")
struct FastPathTests {
  /// Of all values of a header's checksum, those that the stages take and no others; its own zero is one of two.
  @Test("takes the checksums that are right", arguments: [0, 1, 0x5B8C] as [Int])
  func checksums(_ identification: Int) throws {
    var fast = try Node(usesFastPath: true, headroom: 66)
    var slow = try Node(usesFastPath: false)
    var random = Random(state: UInt64(identification))
    var ip: [UInt8]
    repeat { ip = packet(&random, from: 1) } while ip.count < 28 || ip[9] != 17 || ip.sum(0..<20) != 0xFFFF
    ip.set16(4, identification)
    var taken = 0
    for first in stride(from: 0, to: 0x10000, by: 32) {
      let frames = (first..<first + 32).map { value in
        ip.set16(10, value)
        return Frame(bytes: [0, 0, 0x5E, 0, 1, 0, 2, 0, 0, 0, 0, 1, 8, 0] + ip)
      }
      let one = fast.send(frames, from: 1, now: 1_000_000_000)
      let other = slow.send(frames, from: 1, now: 1_000_000_000)
      try #require(one == other, "from \(first) on")
      taken += one.count
    }
    #expect(taken == 1 || taken == 2)
    for (ours, theirs) in zip(try fast.counters(), try slow.counters()) { #expect(ours == theirs) }
  }

  /// Without room before the frames, with a byte too little, just enough, and more.
  @Test(
    "does to each packet what the way of all stages does", arguments: [1, 2, 3, 4] as [UInt64], [0, 65, 66, 128])
  func sameAsStages(_ seed: UInt64, headroom: Int) throws {
    var fast = try Node(usesFastPath: true, headroom: headroom)
    var slow = try Node(usesFastPath: false)
    var random = Random(state: seed)
    var now: UInt64 = 1_000_000_000
    var sent = 0
    for round in 0..<3000 {
      now += UInt64(random.next(30)) * 1_000_000
      let interface = UInt32(random.next(3))
      let frames = (0...random.next(12)).map { _ in
        interface == 0 ? fabricFrame(&random) : podFrame(&random, Int(interface))
      }
      let one = fast.send(frames, from: interface, now: now)
      let other = slow.send(frames, from: interface, now: now)
      try #require(one == other, "round \(round)")
      sent += one.count
      if random.chance(5) {
        // A route goes elsewhere: what flows remember does not hold any more.
        let third = UInt32(random.next(2)) + 3
        let nexthop = UInt32(random.next(3)) + 2
        let command = Command.setRoute(
          RouteConfiguration(
            vrf: 1, prefix: IPPrefix(IPAddress(v4: 0x0A01_0000 | third << 8), length: 24)!, nexthop: nexthop,
            label: nexthop == 2 ? 0 : 300))
        try fast.programmer.apply(command)
        try slow.programmer.apply(command)
      }
    }
    // Line by line, so that a difference shows.
    for (ours, theirs) in zip(try fast.counters(), try slow.counters()) { #expect(ours == theirs) }
    #expect(try fast.counters().count == slow.counters().count)
    #expect(sent > 5000)
  }
}
