import Testing
import WeftWire

/// Datagrams that leave as one super-frame, cut again as a kernel cuts them, are what they were.
@Suite struct BundleTests {
  enum Shape: CaseIterable {
    /// Ethernet alone, and the packet as it came.
    case packetApart
    /// All headers and some of the payload, and the rest.
    case payloadApart
    case onePiece
  }

  /// What a frame of these tests is made of.
  struct Kind {
    var isV4 = true
    /// How it lies in memory.
    var shape = Shape.packetApart
    var port: UInt16 = 1000
    var payload = 100
    var isUnfinished = false
    var dontFragment = true
    var identification: UInt16 = 0
    var trafficClass: UInt8 = 0
    var lacksChecksum = false
    var isDamaged = false
    var proto = IPProtocol.udp
    var filler: UInt8 = 0

    /// The frame, and where its virtio-net header says that the checksum is to be finished.
    func frame() -> [UInt8] {
      let ipBytes = isV4 ? 20 : 40
      let memory = Octets(room: 14 + ipBytes + 8 + payload)
      let at = memory.bytes
      at.set32(0, 0x0200_0000)
      at.set32(6, 0x0200_0001)
      at.set16(12, isV4 ? Ethernet.ipv4 : Ethernet.ipv6)
      let ip = at.advanced(14)
      if isV4 {
        ip.set16(0, 0x4500 | UInt16(trafficClass))
        ip.set16(2, UInt16(28 + payload))
        ip.set16(4, identification)
        ip.set16(6, dontFragment ? IPv4.dontFragment : 0)
        ip.set16(8, 0x4000 | UInt16(proto))
        ip.set32(12, 0x0A00_0001)
        ip.set32(16, 0x0A00_0002)
        IPv4.writeChecksum(ip, bytes: 20)
      } else {
        ip.set32(0, 0x6000_0000 | UInt32(trafficClass) << 20)
        ip.set16(4, UInt16(8 + payload))
        ip.set16(6, UInt16(proto) << 8 | 64)
        for index in 0..<32 { ip.set8(8 + index, UInt8(index / 16 + 1)) }
      }
      let udp = ip.advanced(ipBytes)
      udp.set16(0, port)
      udp.set16(2, 4789)
      udp.set16(4, UInt16(8 + payload))
      for index in 0..<payload { udp.set8(8 + index, filler &+ UInt8(truncatingIfNeeded: index)) }
      let pseudo = Checksum.pseudoHeader(ip, isV4: isV4, proto: IPProtocol.udp, length: 8 + payload)
      if isUnfinished {
        udp.set16(6, UInt16(bigEndian: Checksum.fold(pseudo)))
      } else if !lacksChecksum {
        let value = Checksum.finish(udp.sum(0, count: 8 + payload, pseudo))
        udp.set16(6, (value == 0 ? 0xFFFF : value) ^ (isDamaged ? 0x0101 : 0))
      }
      return memory.array
    }
  }

  /// Appends a frame as the packet path does.
  private func append(_ kind: Kind, to frames: inout TxFrames) {
    let octets = kind.frame()
    let ipBytes = kind.isV4 ? 20 : 40
    let own =
      switch kind.shape {
      case .packetApart: 14
      case .payloadApart: 14 + ipBytes + 8 + min(7, kind.payload)
      case .onePiece: octets.count
      }
    let mark = frames.pieceMark
    let head = frames.headers(VirtioNetHeader.bytes + own)
    var virtio = VirtioNetHeader()
    if kind.isUnfinished {
      virtio.flags = VirtioNetHeader.needsChecksum
      virtio.checksumStart = UInt16(14 + ipBytes)
      virtio.checksumOffset = 6
    }
    virtio.write(head)
    for index in 0..<own { head.set8(VirtioNetHeader.bytes + index, octets[index]) }
    frames.piece(head, count: VirtioNetHeader.bytes + own)
    let rest = Octets(Array(octets[own...]))
    if rest.count > 0 { frames.piece(rest.bytes, count: rest.count) }
    frames.finish(from: mark, length: octets.count, interface: 0)
  }

  /// The frames of interface 0 as they arrive, super-frames cut (the kernel's segmentation-offloads.rst): lengths,
  /// identifications that count on, checksums finished.
  private func arrived(_ frames: TxFrames) -> [(octets: [UInt8], packets: Int)] {
    var all: [(octets: [UInt8], packets: Int)] = []
    var index = frames.head(0)
    while index != TxFrames.none {
      let frame = frames.frame(index)
      index = frame.next
      let memory = Octets(room: Int(frame.length))
      frames.copy(frame, to: memory.bytes.pointer)
      let virtio = frames.virtio(frame)
      guard virtio.gso != VirtioNetHeader.gsoNone else {
        all.append((finished(memory.array, virtio), 1))
        continue
      }
      #expect(virtio.gso == VirtioNetHeader.gsoUDP && virtio.flags == VirtioNetHeader.needsChecksum)
      let isV4 = memory.bytes.u16(12) == Ethernet.ipv4
      let headers = 14 + (isV4 ? 20 : 40) + 8
      #expect(Int(virtio.headerBytes) == headers && Int(virtio.checksumStart) == headers - 8)
      let size = Int(virtio.gsoBytes)
      let count = (memory.count - headers + size - 1) / size
      #expect(count == frame.packets)
      if isV4 { #expect(Checksum.holds(memory.bytes.advanced(14).sum(0, count: 20))) }
      for segment in 0..<count {
        let from = headers + segment * size
        let payload = memory.array[from..<min(from + size, memory.count)]
        let cut = Octets(Array(memory.array[..<headers]) + payload)
        let ip = cut.bytes.advanced(14)
        if isV4 {
          ip.set16(2, UInt16(28 + payload.count))
          ip.set16(4, ip.u16(4) &+ UInt16(segment))
          IPv4.writeChecksum(ip, bytes: 20)
        } else {
          ip.set16(4, UInt16(8 + payload.count))
        }
        let udp = cut.bytes.advanced(headers - 8)
        udp.set16(4, UInt16(8 + payload.count))
        udp.set16(
          6,
          UInt16(
            bigEndian: Checksum.fold(
              Checksum.pseudoHeader(ip, isV4: isV4, proto: IPProtocol.udp, length: 8 + payload.count))))
        all.append((finished(cut.array, virtio), count))
      }
    }
    return all
  }

  private func finished(_ octets: [UInt8], _ virtio: VirtioNetHeader) -> [UInt8] {
    guard virtio.flags & VirtioNetHeader.needsChecksum != 0 else { return octets }
    let memory = Octets(octets)
    let start = Int(virtio.checksumStart)
    let value = Checksum.finish(memory.bytes.advanced(start).sum(0, count: octets.count - start))
    memory.bytes.set16(start + Int(virtio.checksumOffset), value == 0 ? 0xFFFF : value)
    return memory.array
  }

  private func finished(_ kind: Kind) -> [UInt8] {
    var kind = kind
    kind.isUnfinished = false
    return kind.frame()
  }

  private func bundle(_ kinds: [Kind], areTunnels: Bool = false) -> [(octets: [UInt8], packets: Int)] {
    var frames = TxFrames(interfaces: 1)
    defer { frames.deallocate() }
    for kind in kinds { append(kind, to: &frames) }
    frames.bundle(interface: 0, areTunnels: areTunnels)
    return arrived(frames)
  }

  @Test(arguments: [true, false], Shape.allCases)
  func likeGoesWithLike(isV4: Bool, shape: Shape) {
    let kinds = (0..<40).map {
      Kind(isV4: isV4, shape: shape, payload: $0 == 39 ? 60 : 100, identification: UInt16($0), filler: UInt8($0))
    }
    let found = bundle(kinds)
    #expect(found.map(\.octets) == kinds.map(finished))
    #expect(found.allSatisfy { $0.packets == 40 })
  }

  /// Tunnels' packets: no checksum before, one afterwards; identifications are ours.
  @Test(arguments: Shape.allCases) func tunnels(shape: Shape) {
    let kinds = (0..<40).map {
      Kind(shape: shape, dontFragment: false, identification: 0, lacksChecksum: true, filler: UInt8($0))
    }
    let found = bundle(kinds, areTunnels: true)
    #expect(found.allSatisfy { $0.packets == 40 })
    let expected = (0..<40).map { Kind(dontFragment: false, identification: UInt16($0), filler: UInt8($0)).frame() }
    #expect(found.map(\.octets) == expected)
  }

  @Test func noMoreThanAKernelCuts() {
    let kinds = (0..<150).map { Kind(identification: UInt16($0), filler: UInt8($0)) }
    let found = bundle(kinds)
    #expect(found.map(\.octets) == kinds.map(finished))
    #expect(found.map(\.packets) == Array(repeating: 64, count: 128) + Array(repeating: 22, count: 22))
  }

  @Test func noLongerThanAPacket() {
    let kinds = (0..<50).map {
      Kind(shape: .payloadApart, payload: 1400, identification: UInt16($0), filler: UInt8($0))
    }
    let found = bundle(kinds)
    #expect(found.map(\.octets) == kinds.map(finished))
    #expect(found.map(\.packets) == Array(repeating: 46, count: 46) + Array(repeating: 4, count: 4))
  }

  /// The second of two that differ in one thing stays by itself.
  @Test(arguments: [
    Kind(port: 1001), Kind(payload: 101), Kind(trafficClass: 1), Kind(dontFragment: false), Kind(lacksChecksum: true),
    Kind(isDamaged: true), Kind(isV4: false), Kind(proto: IPProtocol.tcp), Kind(payload: 0),
  ])
  func unlikeStaysAlone(other: Kind) {
    let found = bundle([Kind(), other])
    #expect(found.map(\.packets) == [1, 1])
    #expect(found.map(\.octets) == [Kind().frame(), other.frame()])
    // And the first of them as well, but for one that is longer than what follows, which ends it.
    if other.payload != 101 { #expect(bundle([other, Kind()]).map(\.packets) == [1, 1]) }
  }

  /// Packets that may be fragmented go together only where their identifications count on.
  @Test func identificationsCountOn() {
    let counting = (0..<4).map { Kind(dontFragment: false, identification: 65534 &+ UInt16($0)) }
    #expect(bundle(counting).map(\.packets) == [4, 4, 4, 4])
    #expect(bundle(counting).map(\.octets) == counting.map(finished))
    let same = (0..<4).map { _ in Kind(dontFragment: false, identification: 7) }
    #expect(bundle(same).map(\.packets) == [1, 1, 1, 1])
  }

  /// Random floods of several flows: each flow's frames come out as they were, in their order.
  @Test func flowsKeepTheirOrder() {
    var random = SeededRandom(seed: 4)
    for _ in 0..<200 {
      var identifications: [UInt16: UInt16] = [:]
      let kinds = (0..<Int.random(in: 1...120, using: &random)).map { number in
        var kind = Kind()
        kind.port = UInt16.random(in: 1000...1011, using: &random)
        // A flow is always of one family.
        kind.isV4 = kind.port % 3 != 0
        kind.shape = Shape.allCases.randomElement(using: &random) ?? .onePiece
        kind.payload = [100, 100, 100, 100, 40, 1, 0, 1400].randomElement(using: &random) ?? 100
        kind.isUnfinished = Int.random(in: 0..<3, using: &random) == 0
        kind.trafficClass = Int.random(in: 0..<9, using: &random) == 0 ? 3 : 0
        // What cutting leads to.
        kind.identification = identifications[kind.port, default: 0]
        kind.filler = UInt8(truncatingIfNeeded: number)
        kind.dontFragment = kind.port % 4 != 1
        identifications[kind.port, default: 0] &+= 1
        return kind
      }
      let found = bundle(kinds).map(\.octets)
      #expect(found.count == kinds.count)
      for port in UInt16(1000)...1011 {
        // Identifications are ours to choose where DF says so.
        let isFree = kinds.first { $0.port == port }.map { $0.isV4 && $0.dontFragment } ?? false
        let those = found.filter { UInt16($0[$0[12] == 8 ? 34 : 54]) << 8 | UInt16($0[$0[12] == 8 ? 35 : 55]) == port }
        #expect(
          those.map { anonymous($0, isFree) }
            == kinds.filter { $0.port == port }.map { anonymous(finished($0), isFree) })
      }
    }
  }

  private func anonymous(_ octets: [UInt8], _ isFree: Bool) -> [UInt8] {
    guard isFree else { return octets }
    var octets = octets
    for index in [18, 19, 24, 25] { octets[index] = 0 }
    return octets
  }

  /// A fragment between two whole datagrams of its flow: the second does not go before it.
  @Test func fragmentsAreNotOvertaken() {
    let memory = Octets(Kind(filler: 2).frame())
    memory.bytes.set16(20, IPv4.moreFragments)
    IPv4.writeChecksum(memory.bytes.advanced(14), bytes: 20)
    var frames = TxFrames(interfaces: 1)
    defer { frames.deallocate() }
    append(Kind(filler: 1), to: &frames)
    let mark = frames.pieceMark
    let head = frames.headers(VirtioNetHeader.bytes + memory.count)
    VirtioNetHeader().write(head)
    head.advanced(VirtioNetHeader.bytes).copy(from: memory.bytes, count: memory.count)
    frames.piece(head, count: VirtioNetHeader.bytes + memory.count)
    frames.finish(from: mark, length: memory.count, interface: 0)
    append(Kind(filler: 3), to: &frames)
    frames.bundle(interface: 0, areTunnels: false)
    let found = arrived(frames)
    #expect(found.map(\.packets) == [1, 1, 1])
    #expect(found.map(\.octets) == [Kind(filler: 1).frame(), memory.array, Kind(filler: 3).frame()])
  }

  /// What is not understood is left as it was, and nothing passes it.
  @Test func strangersArePassedByNobody() {
    var frames = TxFrames(interfaces: 1)
    defer { frames.deallocate() }
    append(Kind(filler: 1), to: &frames)
    let mark = frames.pieceMark
    let head = frames.headers(VirtioNetHeader.bytes)
    VirtioNetHeader().write(head)
    frames.piece(head, count: VirtioNetHeader.bytes)
    let strange = Octets(Kind(filler: 2).frame())
    frames.piece(strange.bytes, count: strange.count)
    frames.finish(from: mark, length: strange.count, interface: 0)
    append(Kind(filler: 3), to: &frames)
    append(Kind(filler: 4), to: &frames)
    frames.bundle(interface: 0, areTunnels: false)
    let found = arrived(frames)
    #expect(found.map(\.packets) == [1, 1, 2, 2])
    // Where fragmenting is forbidden, identifications are whatever cutting makes of the first's.
    #expect(found.map(\.octets) == (1...4).map { Kind(identification: $0 / 4, filler: UInt8($0)).frame() })
  }
}
