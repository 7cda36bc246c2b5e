import Testing
import WeftForwarding
import WeftRing
import WeftTables
import WeftVRouter
import WeftWire

/// Devices that are always there and take everything but UDP super-frames.
private final class Devices: PortProvider {
  func open(_ interface: InterfaceConfiguration) throws(Refusal) -> PortCapabilities {
    PortCapabilities(takesVirtio: true, takesUDPSegmentation: false)
  }
  func start(_ id: UInt32) {}
  func close(_ id: UInt32) {}
  func state(_ id: UInt32) -> InterfaceState { InterfaceState(isUp: true, kernelIndex: id) }
  func isStale(_ interface: InterfaceConfiguration) -> Bool { false }
}

private func mac(_ id: UInt32) -> MACAddress { MACAddress(bits: 0x0200_0000_0000 | UInt64(id)) }

/// A pod 1 with a policer of so many packets, a pod 2, and a tunnel to what is behind 3.
private struct Node: ~Copyable {
  let programmer: TableProgrammer
  let statistics: StatisticsRegion
  var path: PacketPath

  init(packets: UInt64) throws {
    var limits = TableLimits()
    limits.interfaces = 8
    let memory = try TableMemory(
      sizes: TableSizes(interfaces: 8, vrfs: 4, nexthops: 8, routes: 16, routeNodes: 64, bridge: 16), workers: 1)
    let programmer = TableProgrammer(memory: memory, limits: limits, ports: Devices())
    var pod = InterfaceConfiguration(id: 1, role: .virtual, port: .packet, device: "pod1", mac: mac(1), vrf: 1)
    pod.qos.ingressPolicer = 5
    let commands: [Command] = [
      .setVRF(VRFConfiguration(id: 1, name: "blue")),
      .setPolicer(PolicerConfiguration(id: 5, unit: .packets, rate: 1, burst: packets)), .setInterface(pod),
      .setInterface(
        InterfaceConfiguration(id: 2, role: .virtual, port: .packet, device: "pod2", mac: mac(2), vrf: 1)),
      .setInterface(
        InterfaceConfiguration(
          id: 3, role: .fabric, port: .packet, device: "fab", mac: mac(3), mtu: 1600,
          addresses: [IPAddress(v4: 0xC000_0201)])),
      .setNexthop(NexthopConfiguration(id: 2, action: .encap(interface: 2, destinationMAC: mac(2)))),
      .setNexthop(
        NexthopConfiguration(
          id: 3,
          action: .tunnel(
            TunnelConfiguration(
              encapsulation: .vxlan, interface: 3, source: IPAddress(v4: 0xC000_0201),
              destination: IPAddress(v4: 0xC000_0202), destinationMAC: mac(9))))),
      .setRoute(RouteConfiguration(vrf: 1, prefix: IPPrefix("10.0.0.2/32")!, nexthop: 2)),
      .setRoute(RouteConfiguration(vrf: 1, prefix: IPPrefix("fd00::2/128")!, nexthop: 2)),
      .setRoute(RouteConfiguration(vrf: 1, prefix: IPPrefix("10.0.0.3/32")!, nexthop: 3, label: 7)),
      .setRoute(RouteConfiguration(vrf: 1, prefix: IPPrefix("fd00::3/128")!, nexthop: 3, label: 7)),
    ]
    for command in commands { try programmer.apply(command) }
    let reasons = DropReason.allCases
    let statistics = try StatisticsRegion(
      layout: StatisticsLayout(workers: 1, interfaces: 8, reasons: reasons.count),
      reasons: reasons.map { ($0.name, $0.explanation) })
    let worker = statistics.worker(0)
    path = PacketPath(
      tables: memory.reader, flows: try FlowTable(capacity: 64, seed: 1), fragments: try FragmentTable(seed: 1),
      nat: try NATWorker(worker: 0, seed: 1),
      counters: Counters(drops: worker.drops, interfaces: worker.interfaces, interfaceCount: 8), interfaces: 8, seed: 1)
    self.programmer = programmer
    self.statistics = statistics
  }

  /// A super-frame of `total` payload bytes in segments of 1000: what leaves, frame by frame, and the virtio-net headers.
  /// `asked`: where the sender wants the checksum, from the transport header; nil for where it belongs.
  mutating func send(
    isV4: Bool, isTCP: Bool, to host: UInt8, total: Int, checksumAt asked: Int? = nil
  ) -> [(frame: [UInt8], virtio: VirtioNetHeader)] {
    let header = (isV4 ? 20 : 40) + (isTCP ? 20 : 8)
    let length = Ethernet.bytes + header + total
    let memory = UnsafeMutableRawPointer.allocate(byteCount: length, alignment: 16)
    defer { memory.deallocate() }
    let bytes = Bytes(memory)
    for offset in 0..<length { bytes.set8(offset, UInt8(truncatingIfNeeded: offset)) }
    Ethernet.write(
      bytes, destination: MACAddress.virtualRouter.bits, source: mac(1).bits,
      type: isV4 ? Ethernet.ipv4 : Ethernet.ipv6)
    let ip = bytes.advanced(Ethernet.bytes)
    let proto = isTCP ? IPProtocol.tcp : IPProtocol.udp
    if isV4 {
      ip.set32(0, 0x4500_0000 | UInt32(header + total))
      ip.set32(4, 0x0007_4000)
      ip.set32(8, 0x4000_0000 | UInt32(proto) << 16)
      ip.set32(12, 0x0A00_0001)
      ip.set32(16, 0x0A00_0000 | UInt32(host))
      IPv4.writeChecksum(ip, bytes: 20)
    } else {
      ip.set32(0, 0x6000_0000)
      ip.set16(4, UInt16(header - 40 + total))
      ip.set16(6, UInt16(proto) << 8 | 64)
      ip.setAddress6(8, IPAddress("fd00::1")!)
      ip.setAddress6(24, IPAddress("fd00::\(host)")!)
    }
    let transport = ip.advanced(isV4 ? 20 : 40)
    let size = header - (isV4 ? 20 : 40) + total
    if isTCP {
      transport.set32(4, 1000)
      // FIN, PSH, ACK: what only the last segment has of them.
      transport.set16(12, 0x5000 | 0x19)
    } else {
      transport.set16(4, UInt16(size))
    }
    let place = isTCP ? TCP.checksum : UDP.checksum
    let sum = Checksum.pseudoHeader(ip, isV4: isV4, proto: proto, length: size)
    transport.set16(place, UInt16(bigEndian: Checksum.fold(sum)))
    var virtio = VirtioNetHeader()
    virtio.flags = VirtioNetHeader.needsChecksum
    virtio.gso =
      isTCP ? (isV4 ? VirtioNetHeader.gsoTCPv4 : VirtioNetHeader.gsoTCPv6) : VirtioNetHeader.gsoUDP
    virtio.gsoBytes = 1000
    virtio.headerBytes = UInt16(Ethernet.bytes + header)
    virtio.checksumStart = UInt16(Ethernet.bytes + (isV4 ? 20 : 40))
    virtio.checksumOffset = UInt16(asked ?? place)
    var frames = RxFrames()
    defer { frames.deallocate() }
    frames.append(RxFrame(bytes: bytes, length: length, virtio: virtio))
    path.process(frames, interface: 1, now: 1_000_000_000)
    var sent: [(frame: [UInt8], virtio: VirtioNetHeader)] = []
    for index in 0..<path.tx.touchedCount {
      var number = path.tx.head(path.tx.touched(index))
      while number != TxFrames.none {
        let frame = path.tx.frame(number)
        var copy = [UInt8](repeating: 0, count: Int(frame.length))
        copy.withUnsafeMutableBytes { path.tx.copy(frame, to: $0.baseAddress!) }
        sent.append((copy, path.tx.virtio(frame)))
        number = frame.next
      }
    }
    path.tx.reset()
    return sent
  }
}

@Suite struct QoSTests {
  /// Of a super-frame of 4.5 segments as many go on as the policer lets pass, and look as if no more had been sent: the
  /// lengths, the flags that end a stream, the checksum that is still to be finished.
  @Test(arguments: 0...6, [true, false])
  func superFramesAreCut(packets: Int, isV4: Bool) throws {
    for isTCP in [true, false] {
      // A policer has one packet at least: a first super-frame of one segment takes it.
      var node = try Node(packets: UInt64(max(1, packets)))
      if packets == 0 { _ = node.send(isV4: isV4, isTCP: isTCP, to: 2, total: 1000) }
      let sent = node.send(isV4: isV4, isTCP: isTCP, to: 2, total: 4500)
      guard packets > 0 else {
        #expect(sent.isEmpty)
        continue
      }
      let (frame, virtio) = try #require(sent.first)
      #expect(sent.count == 1)
      let header = (isV4 ? 20 : 40) + (isTCP ? 20 : 8)
      let payload = min(4500, packets * 1000)
      #expect(frame.count == Ethernet.bytes + header + payload)
      #expect(virtio.gso == (packets == 1 ? VirtioNetHeader.gsoNone : isTCP ? (isV4 ? 1 : 4) : 5))
      frame.withUnsafeBytes { raw in
        let bytes = Bytes(UnsafeMutableRawPointer(mutating: raw.baseAddress!))
        let ip = bytes.advanced(Ethernet.bytes)
        let transport = ip.advanced(isV4 ? 20 : 40)
        let size = header - (isV4 ? 20 : 40) + payload
        #expect(Int(ip.u16(isV4 ? 2 : 4)) == (isV4 ? 20 + size : size))
        if isV4 { #expect(Checksum.holds(ip.sum(0, count: 20))) }
        if isTCP {
          #expect(transport.u8(13) == (packets >= 5 ? 0x19 : 0x10))
        } else {
          #expect(Int(transport.u16(4)) == size)
        }
        let sum = Checksum.pseudoHeader(ip, isV4: isV4, proto: isTCP ? IPProtocol.tcp : IPProtocol.udp, length: size)
        #expect(transport.u16(isTCP ? TCP.checksum : UDP.checksum) == UInt16(bigEndian: Checksum.fold(sum)))
      }
      #expect(try node.statistics.reader().drops().first { $0.name == "policed" }?.count == UInt64(max(0, 5 - packets)))
    }
  }

  /// A checksum that is asked for elsewhere than where the protocol has it, such as in what is cut off, is no super-frame's.
  @Test(arguments: [true, false], [true, false])
  func checksumsOfSuperFramesAreWhereTheyBelong(isV4: Bool, isTCP: Bool) throws {
    var node = try Node(packets: 2)
    #expect(node.send(isV4: isV4, isTCP: isTCP, to: 2, total: 4500, checksumAt: 4000).isEmpty)
    // Counted as its segments.
    let drops = try node.statistics.reader().drops().filter { $0.count > 0 }
    #expect(drops.map { "\($0.name) \($0.count)" } == ["gso_malformed 5"])
  }

  /// Into a tunnel the segments go one by one.
  @Test(arguments: 1...5, [true, false])
  func cutSuperFramesAreSegmented(packets: Int, isV4: Bool) throws {
    var node = try Node(packets: UInt64(packets))
    let sent = node.send(isV4: isV4, isTCP: true, to: 3, total: 4500)
    #expect(sent.count == packets)
    let outer = Ethernet.bytes + 20 + 8 + 8 + Ethernet.bytes
    for (index, (frame, _)) in sent.enumerated() {
      frame.withUnsafeBytes { raw in
        let ip = Bytes(UnsafeMutableRawPointer(mutating: raw.baseAddress!)).advanced(outer)
        let transport = ip.advanced(isV4 ? 20 : 40)
        let size = 20 + (index == 4 ? 500 : 1000)
        #expect(frame.count == outer + (isV4 ? 20 : 40) + size)
        #expect(transport.u8(13) == (index == 4 ? 0x19 : 0x10), "FIN is in the last segment alone")
        let sum = Checksum.pseudoHeader(ip, isV4: isV4, proto: IPProtocol.tcp, length: size)
        #expect(Checksum.holds(transport.sum(0, count: size, sum)))
      }
    }
  }

  /// What is referred to stays; what is not there is not referred to; a refused command changes nothing.
  @Test func references() throws {
    let node = try Node(packets: 1)
    func code(_ command: Command) -> RefusalCode? {
      do throws(Refusal) { try node.programmer.apply(command) } catch { return error.code }
      return nil
    }
    #expect(code(.removePolicer(id: 5)) == .inUse)
    #expect(code(.removePolicer(id: 6)) == .notFound)
    #expect(code(.setPolicer(PolicerConfiguration(id: 65536, rate: 1, burst: 64))) == .outOfRange)
    #expect(code(.setPolicer(PolicerConfiguration(id: 1, rate: 0, burst: 64))) == .outOfRange)
    #expect(code(.setPolicer(PolicerConfiguration(id: 1, rate: .max, burst: 64))) == .outOfRange)
    #expect(code(.setPolicer(PolicerConfiguration(id: 1, rate: 1, burst: .max))) == .outOfRange)
    #expect(
      code(.setPolicer(PolicerConfiguration(id: 1, kind: .twoRateThreeColor, rate: 2, burst: 64, peakRate: 1)))
        == .outOfRange)
    var pod = InterfaceConfiguration(id: 2, role: .virtual, port: .packet, device: "pod2", mac: mac(2), vrf: 1)
    pod.qos.egressPolicer = 5
    pod.qos.classifier = 3
    #expect(code(.setInterface(pod)) == .notFound)
    #expect(code(.setClassifier(ClassifierConfiguration(id: 3, fallback: 16))) == .outOfRange)
    #expect(code(.setClassifier(ClassifierConfiguration(id: 3, exp: [8: 1]))) == .outOfRange)
    #expect(code(.setClassifier(ClassifierConfiguration(id: 3, exp: [7: 1]))) == nil)
    pod.qos.remark = 4
    #expect(code(.setInterface(pod)) == .notFound)
    #expect(code(.setRemark(RemarkConfiguration(id: 4, classes: [16: ClassMarks()]))) == .outOfRange)
    #expect(code(.setRemark(RemarkConfiguration(id: 4, classes: [15: ClassMarks(pcp: 8)]))) == .outOfRange)
    #expect(code(.setRemark(RemarkConfiguration(id: 4, classes: [15: ClassMarks(pcp: 7)]))) == nil)
    #expect(code(.setInterface(pod)) == nil)
    for command in [Command.removePolicer(id: 5), .removeClassifier(id: 3), .removeRemark(id: 4)] {
      #expect(code(command) == .inUse)
    }
    var rule = RuleConfiguration(id: 1, priority: 1, direction: .ingress, action: .allow, policer: 9)
    #expect(code(.setRule(rule)) == .notFound)
    #expect(code(.setPolicer(PolicerConfiguration(id: 9, rate: 1, burst: 64))) == nil)
    #expect(code(.setRule(rule)) == nil)
    #expect(code(.removePolicer(id: 9)) == .inUse)
    rule.policer = nil
    #expect(code(.setRule(rule)) == nil)
    #expect(code(.removePolicer(id: 9)) == nil)
    // Swept in an order that leaves nothing dangling.
    #expect(code(.begin(generation: 2)) == nil)
    #expect(code(.sweep(generation: 2)) == nil)
    for table in [TableName.policers, .classifiers, .remarks, .interfaces, .rules] {
      var count = 0
      _ = node.programmer.dump(table, cursor: 0, limit: 99) { _ in count += 1 }
      #expect(count == 0, "\(table)")
    }
  }

  /// A policer set again as it is, or with another name, goes on; with another rate it begins anew.
  @Test func aPolicerThatIsSetAgain() throws {
    var node = try Node(packets: 1)
    func passes() -> Bool { node.send(isV4: true, isTCP: false, to: 2, total: 1000).count == 1 }
    #expect(passes() && !passes())
    try node.programmer.apply(.setPolicer(PolicerConfiguration(id: 5, name: "x", unit: .packets, rate: 1, burst: 1)))
    #expect(!passes())
    try node.programmer.apply(.setPolicer(PolicerConfiguration(id: 5, unit: .packets, rate: 1, burst: 2)))
    #expect(passes() && passes() && !passes())
    var state: PolicerState?
    _ = node.programmer.dump(.policers, cursor: 0, limit: 9) { if case .policer(_, let found) = $0 { state = found } }
    #expect(state?.conformingPackets == 3 && state?.violatingPackets == 3)
  }
}
