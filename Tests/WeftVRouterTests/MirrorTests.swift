import Testing
import WeftForwarding
import WeftRing
import WeftTables
import WeftVRouter
import WeftWire

/// Copies of what the kernel hands over unfinished: super-frames and checksums. What they look like otherwise is in
/// Tests/Golden/test_mirror.py.
@Suite struct MirrorTests {
  private static func mirror(_ destination: MirrorConfiguration.Destination, truncation: UInt32 = 0) -> [Command] {
    [
      .setMirror(MirrorConfiguration(id: 1, destination: destination, truncation: truncation)),
      .setInterfaceMirror(InterfaceMirrorConfiguration(interface: 2, ingress: 1, egress: 0)),
    ]
  }

  private static let payload = (0..<5000).map { UInt8(truncatingIfNeeded: $0 &* 31 &+ $0 >> 8) }

  /// Checks a TCP packet's lengths and checksums; its payload.
  private func check(_ frame: [UInt8], isV4: Bool, sequence: UInt32, isLast: Bool) -> [UInt8] {
    var copy = frame
    return copy.withUnsafeMutableBytes { buffer in
      let ip = Bytes(buffer.baseAddress!).advanced(Ethernet.bytes)
      let header = isV4 ? IPv4.minimumBytes : IPv6.bytes
      let length = frame.count - Ethernet.bytes - header
      if isV4 {
        #expect(Int(ip.u16(2)) == header + length)
        #expect(Checksum.holds(ip.sum(0, count: header)))
      } else {
        #expect(Int(ip.u16(4)) == length)
      }
      let tcp = ip.advanced(header)
      let sum = Checksum.pseudoHeader(ip, isV4: isV4, proto: IPProtocol.tcp, length: length)
      #expect(Checksum.holds(tcp.sum(0, count: length, sum)))
      #expect(tcp.u32(4) == sequence)
      #expect(tcp.u8(13) & TCP.psh == (isLast ? TCP.psh : 0))
      return Array(frame[(Ethernet.bytes + header + TCP.minimumBytes)...])
    }
  }

  @Test("a super-frame stays whole for a port that takes it", arguments: [true, false])
  func whole(_ isV4: Bool) throws {
    var fixture = try PathFixture()
    try fixture.apply(Self.mirror(.interface(4)))
    let frame = Frames.tcp(from: 2, to: 1, isV4: isV4, payload: Self.payload)
    let virtio = Frames.virtio(isV4: isV4, segment: 1000)
    let copies = fixture.send(frame, virtio, from: 2).filter { $0.interface == 4 }
    #expect(copies.count == 1)
    #expect(copies.first?.frame == frame)
    #expect(copies.first?.virtio == virtio)
  }

  @Test(
    "a super-frame is cut for others: a plain port, tunnels, truncation",
    arguments: [true, false], [nil, 10, 11] as [UInt32?])
  func cut(_ isV4: Bool, _ tunnel: UInt32?) throws {
    for segment in [700, 1001, 5000] {
      var fixture = try PathFixture()
      try fixture.apply([.setInterface(Self.wide)])
      try fixture.apply(Self.mirror(tunnel.map { .tunnel(nexthop: $0, vni: 9) } ?? .interface(3)))
      let sent = fixture.send(
        Frames.tcp(from: 2, to: 1, isV4: isV4, payload: Self.payload), Frames.virtio(isV4: isV4, segment: segment),
        from: 2)
      let copies = sent.filter { $0.interface == (tunnel == nil ? 3 : 0) }
      #expect(copies.count == (5000 + segment - 1) / segment)
      let outer = tunnel == nil ? 0 : (tunnel == 10 ? 42 : 62) + VXLAN.bytes
      var together: [UInt8] = []
      for (index, copy) in copies.enumerated() {
        #expect(copy.virtio == VirtioNetHeader())
        together += check(
          Array(copy.frame.dropFirst(outer)), isV4: isV4, sequence: 1000 + UInt32(index * segment),
          isLast: index == copies.count - 1)
      }
      #expect(together == Self.payload)
    }
  }

  /// Pod 3 takes long frames.
  private static let wide = InterfaceConfiguration(
    id: 3, role: .virtual, port: .packet, device: "pod3", mac: PathFixture.mac(3), vrf: 1, mtu: 9000)

  @Test("each packet of a super-frame is truncated", arguments: [true, false])
  func truncated(_ isV4: Bool) throws {
    var fixture = try PathFixture()
    try fixture.apply(Self.mirror(.interface(4), truncation: 100))
    let sent = fixture.send(
      Frames.tcp(from: 2, to: 1, isV4: isV4, payload: Self.payload), Frames.virtio(isV4: isV4, segment: 1000), from: 2)
    let copies = sent.filter { $0.interface == 4 }
    #expect(copies.map(\.frame.count) == Array(repeating: 100, count: 5))
    #expect(copies.allSatisfy { $0.virtio == VirtioNetHeader() })
  }

  @Test("a checksum is left unfinished where the port finishes it, else not", arguments: [true, false])
  func checksums(_ isV4: Bool) throws {
    for size in [0, 1, 333] {
      let payload = Array(Self.payload.prefix(size))
      let frame = Frames.tcp(from: 2, to: 1, isV4: isV4, payload: payload)
      let finished = Frames.tcp(from: 2, to: 1, isV4: isV4, payload: payload, isFinished: true)
      let virtio = Frames.virtio(isV4: isV4)
      var fixture = try PathFixture()
      try fixture.apply(Self.mirror(.interface(4)))
      let left = fixture.send(frame, virtio, from: 2).filter { $0.interface == 4 }
      #expect(left.map(\.frame) == [frame] && left.map(\.virtio) == [virtio])
      for destination in [MirrorConfiguration.Destination.interface(3), .tunnel(nexthop: 11, vni: 1)] {
        try fixture.apply(Self.mirror(destination))
        let sent = fixture.send(frame, virtio, from: 2).filter {
          $0.interface == (destination == .interface(3) ? 3 : 0)
        }
        #expect(sent.map { Array($0.frame.suffix(finished.count)) } == [finished])
      }
    }
  }

  @Test("copies take at most half of the room to send, and are counted when they find none")
  func room() throws {
    var fixture = try PathFixture()
    try fixture.apply(Self.mirror(.interface(3)))
    let frame = Frames.tcp(from: 2, to: 4, isV4: true, payload: Array(repeating: 7, count: 65000))
    // One byte in each segment, more segments than the kernel makes: refused as a super-frame, not a trap.
    #expect(fixture.send(frame, Frames.virtio(isV4: true, segment: 1), from: 2).filter { $0.interface == 3 }.isEmpty)
    var lost: UInt64 = 0
    _ = fixture.programmer.dump(.mirrors, cursor: 0, limit: 8) {
      if case .mirror(_, let state) = $0 { lost = state.lost }
    }
    #expect(lost == 1)
  }

  @Test("mirrors in use stay, and what makes no sense is refused")
  func refusals() throws {
    let fixture = try PathFixture()
    func refused(_ command: Command, _ code: RefusalCode, _ words: String, line: Int = #line) {
      do throws(Refusal) {
        try fixture.programmer.apply(command)
        Issue.record("line \(line): \(command) was not refused")
      } catch {
        #expect(error.code == code && error.reason.contains(words), "line \(line): \(error)")
      }
    }
    func mirror(_ id: UInt32, _ destination: MirrorConfiguration.Destination, _ truncation: UInt32 = 0) -> Command {
      .setMirror(MirrorConfiguration(id: id, destination: destination, truncation: truncation))
    }
    func interface(_ id: UInt32, _ ingress: UInt32, _ egress: UInt32 = 0) -> Command {
      .setInterfaceMirror(InterfaceMirrorConfiguration(interface: id, ingress: ingress, egress: egress))
    }
    refused(mirror(0, .interface(3)), .outOfRange, "mirror 0")
    refused(mirror(1024, .interface(3)), .outOfRange, "1023")
    refused(mirror(1, .interface(3), 63), .outOfRange, "63 bytes")
    refused(mirror(1, .interface(3), 65536), .outOfRange, "65536 bytes")
    refused(mirror(1, .interface(7)), .notFound, "interface 7")
    refused(mirror(1, .interface(0)), .conflict, "fabric")
    refused(mirror(1, .tunnel(nexthop: 1, vni: 1)), .conflict, "VXLAN")
    refused(mirror(1, .tunnel(nexthop: 9, vni: 1)), .notFound, "nexthop 9")
    refused(mirror(1, .tunnel(nexthop: 10, vni: 1 << 24)), .outOfRange, "24 bits")
    refused(interface(1, 1), .notFound, "mirror 1")
    refused(.removeMirror(id: 1), .notFound, "mirror 1")
    refused(.removeInterfaceMirror(interface: 1), .notFound, "no mirror")
    let rule = RuleConfiguration(id: 1, priority: 1, direction: .ingress, action: .allow, mirror: 1)
    refused(.setRule(rule), .notFound, "mirror 1")
    try fixture.apply([mirror(1, .tunnel(nexthop: 10, vni: 1)), mirror(2, .interface(3)), .setRule(rule)])
    refused(interface(1, 0), .outOfRange, "neither")
    refused(interface(7, 1), .notFound, "interface 7")
    try fixture.apply([interface(1, 2, 2)])
    refused(.removeMirror(id: 1), .inUse, "1 other")
    refused(.removeMirror(id: 2), .inUse, "1 other")
    refused(.removeNexthop(id: 10), .inUse, "nexthop 10")
    refused(.removeInterface(id: 1), .inUse, "interface 1")
    // Another destination lets go of the first.
    try fixture.apply([mirror(1, .interface(3)), .removeNexthop(id: 10)])
    try fixture.apply([.removeRule(id: 1), .removeInterfaceMirror(interface: 1), .removeMirror(id: 1)])
    let entry = try #require(fixture.memory.reader.interface(1))
    #expect(entry.entry.mirrorIn == 0 && entry.entry.isPlain)
  }

  @Test("an old generation's mirrors go, in an order that leaves nothing dangling")
  func sweep() throws {
    let fixture = try PathFixture()
    try fixture.apply(Self.mirror(.interface(3)))
    try fixture.apply([.begin(generation: 5), .sweep(generation: 5)])
    #expect(fixture.memory.reader.mirrors[1] == nil)
    #expect(fixture.memory.reader.interface(3) == nil)
  }
}
