import Testing
import WeftWire

/// Tags put into frames on their way out.
@Suite struct TagTests {
  private static let macs = Array(1...12 as ClosedRange<UInt8>)

  /// A frame of headers and `pieces` of payload; `bare`: the virtio-net header in a piece of its own.
  private static func add(
    to frames: inout TxFrames, _ number: UInt8, pieces: Int, bare: Bool = false, virtio: VirtioNetHeader = .init()
  ) -> [UInt8] {
    let mark = frames.pieceMark
    var whole = macs + [0x08, 0x00, number]
    let head = frames.headers(VirtioNetHeader.bytes + whole.count)
    virtio.write(head)
    for (index, octet) in whole.enumerated() { head.set8(VirtioNetHeader.bytes + index, octet) }
    if bare {
      frames.piece(head, count: VirtioNetHeader.bytes)
      frames.piece(head.advanced(VirtioNetHeader.bytes), count: whole.count)
    } else {
      frames.piece(head, count: VirtioNetHeader.bytes + whole.count)
    }
    for index in 0..<pieces {
      let payload = [number, UInt8(index), 7]
      frames.piece(Octets(payload).bytes, count: 3)
      whole += payload
    }
    frames.finish(from: mark, length: whole.count, packets: 1, interface: 3)
    return whole
  }

  private static func read(_ frames: borrowing TxFrames) -> [(octets: [UInt8], virtio: VirtioNetHeader)] {
    var found: [([UInt8], VirtioNetHeader)] = []
    var index = frames.head(3)
    while index != TxFrames.none {
      let frame = frames.frame(index)
      let memory = Octets(room: Int(frame.length))
      frames.copy(frame, to: memory.bytes.pointer)
      let vector = frames.vector(frame)
      #expect(
        (0..<Int(frame.pieces)).reduce(0) { $0 + vector[$1].iov_len } == Int(frame.length) + VirtioNetHeader.bytes)
      found.append((memory.array, frames.virtio(frame)))
      index = frame.next
    }
    return found
  }

  @Test(arguments: [4, 8]) func standBehindTheAddresses(count: Int) {
    var frames = TxFrames(interfaces: 8)
    defer { frames.deallocate() }
    let tags: UInt64 = 0x88A8_0064_8100_0007
    let inserted = Array([0x88, 0xA8, 0, 0x64, 0x81, 0, 0, 7].prefix(count)) as [UInt8]
    for round in 0..<3 {
      var expected: [[UInt8]] = []
      for (number, pieces) in [0, 1, 5].enumerated() {
        for bare in [false, true] {
          let whole = Self.add(to: &frames, UInt8(number * 2 + round), pieces: pieces, bare: bare)
          expected.append(Self.macs + inserted + whole.dropFirst(12))
        }
      }
      frames.insertTags(tags, count: count, interface: 3)
      frames.sealTags()
      #expect(Self.read(frames).map(\.octets) == expected)
      // What has its tags gets no more, what comes later does.
      let late = Self.add(to: &frames, 99, pieces: 1)
      frames.insertTags(tags, count: count, interface: 3)
      frames.sealTags()
      #expect(Self.read(frames).map(\.octets) == expected + [Self.macs + inserted + late.dropFirst(12)])
      frames.reset()
    }
  }

  /// Where the checksum starts, and how long the headers of a super-frame are, counts from the frame's start.
  @Test func moveOffloads() {
    var frames = TxFrames(interfaces: 8)
    defer { frames.deallocate() }
    var virtio = VirtioNetHeader()
    virtio.flags = VirtioNetHeader.needsChecksum
    virtio.checksumStart = 34
    virtio.checksumOffset = 16
    virtio.gso = VirtioNetHeader.gsoTCPv4
    virtio.gsoBytes = 1448
    virtio.headerBytes = 66
    _ = Self.add(to: &frames, 1, pieces: 2, virtio: virtio)
    _ = Self.add(to: &frames, 2, pieces: 2)
    frames.insertTags(0x8100_0064_0000_0000, count: 4, interface: 3)
    let found = Self.read(frames).map(\.virtio)
    virtio.checksumStart += 4
    virtio.headerBytes += 4
    #expect(found == [virtio, VirtioNetHeader()])
  }

  /// Every frame and piece that there is room for can have tags.
  @Test func findRoom() {
    var frames = TxFrames(interfaces: 8)
    defer { frames.deallocate() }
    var count = 0
    while frames.hasRoom(pieces: 4, bytes: 40) {
      _ = Self.add(to: &frames, UInt8(count & 0xFF), pieces: 3)
      count += 1
    }
    #expect(count > 4000)
    frames.insertTags(0x88A8_0064_8100_0007, count: 8, interface: 3)
    let found = Self.read(frames)
    #expect(found.count == count)
    for (number, frame) in found.enumerated() where frame.octets[22] != UInt8(number & 0xFF) {
      Issue.record("frame \(number)")
    }
    #expect(!frames.hasRoom(pieces: 2, bytes: 64))
  }
}
