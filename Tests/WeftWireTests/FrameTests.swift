import Testing
import WeftWire

@Suite struct FrameTests {
  /// Two interfaces, frames of one, two and three pieces: read back as they were built, in order.
  @Test func gathersByInterface() throws {
    var frames = TxFrames(interfaces: 8)
    defer { frames.deallocate() }
    let payload = Octets(Array("0123456789abcdef".utf8))
    for round in 0..<3 {
      #expect(frames.touchedCount == 0)
      #expect(frames.head(5) == TxFrames.none && frames.head(2) == TxFrames.none)
      var expected: [UInt32: [String]] = [:]
      for number in 0..<40 {
        let interface: UInt32 = number % 3 == 0 ? 5 : 2
        let mark = frames.pieceMark
        try #require(frames.hasRoom(pieces: 3, bytes: 40))
        let head = frames.headers(VirtioNetHeader.bytes + 3)
        var virtio = VirtioNetHeader()
        virtio.gsoBytes = UInt16(number)
        virtio.write(head)
        let text = [UInt8](repeating: UInt8(ascii: "A") + UInt8(number % 26), count: 3)
        for (index, octet) in text.enumerated() { head.set8(VirtioNetHeader.bytes + index, octet) }
        frames.piece(head, count: VirtioNetHeader.bytes + 3)
        var whole = text
        for piece in 0..<number % 3 {
          let count = piece + number % 5
          frames.piece(payload.bytes.advanced(piece), count: count)
          whole += payload.array[piece..<piece + count]
        }
        frames.finish(from: mark, length: whole.count, packets: number + 1, interface: interface)
        expected[interface, default: []].append("\(number) \(Octets.hex(whole))")
      }
      #expect(frames.touchedCount == 2)
      #expect(Set((0..<2).map { frames.touched($0) }) == [2, 5])
      for index in 0..<frames.touchedCount {
        let interface = frames.touched(index)
        var found: [String] = []
        var next = frames.head(interface)
        while next != TxFrames.none {
          let frame = frames.frame(next)
          let memory = Octets(room: Int(frame.length))
          frames.copy(frame, to: memory.bytes.pointer)
          let virtio = frames.virtio(frame)
          #expect(frame.packets == UInt32(virtio.gsoBytes) + 1)
          let vector = frames.vector(frame)
          #expect(
            (0..<Int(frame.pieces)).reduce(0) { $0 + vector[$1].iov_len } == Int(frame.length) + VirtioNetHeader.bytes)
          found.append("\(virtio.gsoBytes) \(memory.hex)")
          next = frame.next
        }
        #expect(found == expected[interface], "round \(round), interface \(interface)")
      }
      frames.reset()
    }
  }

  /// Frames added by a writer, of one piece or two, among those of other pieces; then, with the slots of those, alone.
  @Test func writer() throws {
    var frames = TxFrames(interfaces: 4)
    defer { frames.deallocate() }
    let memory = Octets(room: 64)
    for at in 0..<64 { memory.bytes.set8(at, at < VirtioNetHeader.bytes ? 0 : UInt8(at)) }
    let packet = Octets([1, 2, 3, 4])
    let (head, one, two) = (VirtioNetHeader.bytes + 2, [10, 11, 12, 13, 14] as [UInt8], [10, 11, 1, 2, 3] as [UInt8])
    for round in 0..<3 {
      var expected: [UInt32: [[UInt8]]] = [:]
      for number in 0..<60 {
        let interface = UInt32(number % 3)
        if round == 1, number % 4 == 1 {
          let mark = frames.pieceMark
          frames.piece(memory.bytes, count: head)
          frames.piece(packet.bytes, count: 1)
          frames.piece(packet.bytes.advanced(1), count: 2)
          frames.finish(from: mark, length: two.count, interface: interface)
        } else {
          try #require(frames.hasRoom(frames: 1, bytes: 0))
          var writer = TxWriter(frames)
          let isFirst =
            number % 2 == 0
            ? writer.send(memory.bytes, VirtioNetHeader.bytes + one.count, interface: interface)
            : writer.send(memory.bytes, head, packet.bytes, 3, interface: interface)
          #expect(isFirst == (expected[interface] == nil))
          frames.take(writer)
          if isFirst { frames.began(interface) }
        }
        expected[interface, default: []].append(number % 2 == 0 && !(round == 1 && number % 4 == 1) ? one : two)
      }
      #expect(frames.count == 60 && frames.touchedCount == 3)
      for interface in 0..<3 as Range<UInt32> {
        var found: [[UInt8]] = []
        var next = frames.head(interface)
        while next != TxFrames.none {
          let frame = frames.frame(next)
          #expect(frame.packets == 1)
          let copy = Octets(room: Int(frame.length))
          frames.copy(frame, to: copy.bytes.pointer)
          found.append(copy.array)
          next = frame.next
        }
        #expect(found == expected[interface], "round \(round), interface \(interface)")
      }
      #expect(frames.head(3) == TxFrames.none)
      frames.reset()
    }
  }

  /// What a batch has before its frames is what the least of them has.
  @Test func headroom() {
    var frames = RxFrames()
    defer { frames.deallocate() }
    let memory = Octets(room: 64)
    for room in [96, 66, 128] {
      frames.append(RxFrame(bytes: memory.bytes, length: 60, virtio: VirtioNetHeader(), headroom: room))
    }
    #expect(frames.headroom == 66)
    #expect(frames.bytes(3) == 180 && frames.bytes(0) == 0)
    frames.replace(1, RxFrame(bytes: memory.bytes, length: 60, virtio: VirtioNetHeader()))
    #expect(frames.headroom == 0)
    frames.removeAll()
    frames.append(RxFrame(bytes: memory.bytes, length: 60, virtio: VirtioNetHeader(), headroom: 80))
    #expect(frames.headroom == 80)
  }

  /// A frame is whole unless its virtio-net header asks for something.
  @Test func wholeFrames() {
    #expect(MemoryLayout<RxFrame>.offset(of: \.virtio) == RxFrame.virtioOffset)
    let memory = Octets(room: 64)
    for (flags, gso, isWhole) in [
      (0, 0, true), (VirtioNetHeader.dataValid, 0, true), (VirtioNetHeader.needsChecksum, 0, false),
      (0, VirtioNetHeader.gsoUDP, false), (3, VirtioNetHeader.gsoTCPv4 | VirtioNetHeader.gsoECN, false),
    ] as [(UInt8, UInt8, Bool)] {
      var frames = RxFrames()
      defer { frames.deallocate() }
      var virtio = VirtioNetHeader()
      (virtio.flags, virtio.gso) = (flags, gso)
      virtio.checksumStart = 0xFFFF
      frames.append(RxFrame(bytes: memory.bytes, length: 64, virtio: virtio))
      #expect(frames.isWhole(0) == isWhole, "flags \(flags), segmentation \(gso)")
    }
  }

  /// A first piece that is the virtio-net header and nothing else.
  @Test func copiesBehindABareHeader() {
    var frames = TxFrames(interfaces: 1)
    defer { frames.deallocate() }
    let payload = Octets([1, 2, 3])
    let mark = frames.pieceMark
    let head = frames.headers(VirtioNetHeader.bytes)
    VirtioNetHeader().write(head)
    frames.piece(head, count: VirtioNetHeader.bytes)
    frames.piece(payload.bytes, count: 3)
    frames.finish(from: mark, length: 3, interface: 0)
    let memory = Octets(room: 3)
    frames.copy(frames.frame(frames.head(0)), to: memory.bytes.pointer)
    #expect(memory.array == [1, 2, 3])
  }

  /// Whoever asks `hasRoom` first gets memory that is his alone until there is none left: headers never overlap.
  @Test func runsOutInOrder() {
    var frames = TxFrames(interfaces: 1)
    defer { frames.deallocate() }
    var places: [UInt] = []
    while frames.hasRoom(pieces: 1, bytes: 51) {
      let mark = frames.pieceMark
      let head = frames.headers(51)
      for at in 0..<51 { head.set8(at, 0xEE) }
      places.append(UInt(bitPattern: head.pointer))
      frames.piece(head, count: 51)
      frames.finish(from: mark, length: 41, interface: 0)
    }
    #expect(places.count > 1000)
    #expect(zip(places, places.dropFirst()).allSatisfy { $1 - $0 >= 51 })
    frames.reset()
    #expect(frames.hasRoom(pieces: 1, bytes: 51))
    #expect(!frames.hasRoom(pieces: 1 << 20, bytes: 1))
    #expect(!frames.hasRoom(pieces: 1, bytes: 1 << 30))
  }

  @Test func receivedFrames() {
    var frames = RxFrames()
    defer { frames.deallocate() }
    let memory = Octets(room: 64)
    for index in 0..<RxFrames.capacity {
      #expect(!frames.isFull)
      frames.append(RxFrame(bytes: memory.bytes, length: index, virtio: VirtioNetHeader()))
    }
    #expect(frames.isFull && frames.count == RxFrames.capacity)
    #expect((0..<frames.count).map { frames[$0].length } == Array(0..<RxFrames.capacity))
    frames.removeAll()
    #expect(frames.count == 0 && !frames.isFull)
  }
}
