import CLinux
import Testing
import WeftPorts

/// The rings of AF_XDP, in memory where both ends are ours.
@Suite("XDP rings")
struct XDPRingTests {
  /// Producer, consumer, flags and entries where the kernel might have them.
  private static let offsets = xdp_ring_offset(producer: 0, consumer: 64, desc: 192, flags: 128)

  private func withRings(_ size: UInt32, start: UInt32 = 0, _ body: (inout XDPRing, inout XDPRing) -> Void) {
    let memory = UnsafeMutableRawPointer.allocate(byteCount: 192 + Int(size) * 16, alignment: 64)
    defer { memory.deallocate() }
    memory.initializeMemory(as: UInt8.self, repeating: 0, count: 192 + Int(size) * 16)
    var producer = XDPRing(memory, offsets: Self.offsets, size: size)
    var consumer = XDPRing(memory, offsets: Self.offsets, size: size)
    body(&producer, &consumer)
  }

  @Test("what is put in comes out in order, over many rounds of the ring", arguments: [1, 2, 8, 64] as [UInt32])
  func order(_ size: UInt32) {
    withRings(size) { producer, consumer in
      var next: UInt64 = 0
      var expected: UInt64 = 0
      for round in 0..<1000 {
        let count = min(UInt32(round % 7 + 1), producer.room(size))
        #expect(count > 0)
        for _ in 0..<count {
          producer.put(address: next, length: UInt32(truncatingIfNeeded: next) & 0xFFFF, options: UInt32(next & 1))
          next += 1
        }
        #expect(consumer.available(1) == 0, "nothing is there before it is published")
        producer.publish()
        let there = consumer.available(count)
        #expect(there == count)
        for index in 0..<there {
          let entry = consumer.descriptor(consumer.position &+ index)
          #expect(entry == (expected, UInt32(truncatingIfNeeded: expected) & 0xFFFF, UInt32(expected & 1)))
          expected += 1
        }
        consumer.take(there)
      }
      #expect(expected == next && producer.pending() == 0)
    }
  }

  @Test("a full ring has no room until entries are taken")
  func full() {
    withRings(4) { producer, consumer in
      for number in 0..<4 { producer.put(address: UInt64(number)) }
      producer.publish()
      #expect(producer.room(1) == 0 && producer.pending() == 4)
      #expect(consumer.available(32) == 4)
      #expect((0..<4).map { consumer.address(consumer.position &+ $0) } == [0, 1, 2, 3])
      consumer.take(3)
      #expect(producer.room(1) == 3 && producer.pending() == 1)
      for number in 4..<7 { producer.put(address: UInt64(number)) }
      producer.publish()
      #expect(consumer.available(4) == 4)
      #expect((0..<4).map { consumer.address(consumer.position &+ $0) } == [3, 4, 5, 6])
    }
  }

  @Test("positions go on over the end of 32 bits")
  func overflow() {
    withRings(8) { producer, consumer in
      // As many as it takes would be long: in steps of what one call may say.
      for _ in 0..<3 { consumer.take(0x5555_5555) }
      consumer.take(0)
      for _ in 0..<3 { producerSkip(&producer) }
      #expect(producer.pending() == 0)
      #expect(producer.room(8) == 8)
      for number in 0..<8 { producer.put(address: UInt64(number)) }
      producer.publish()
      #expect(consumer.available(8) == 8)
      #expect((0..<8).map { consumer.address(consumer.position &+ $0) } == [0, 1, 2, 3, 4, 5, 6, 7])
      consumer.take(8)
      #expect(consumer.position < 8 && producer.pending() == 0)
    }
  }

  /// The producer's own position moves by what `take` moves; what that stores as the consumer's is overwritten after.
  private func producerSkip(_ producer: inout XDPRing) { producer.take(0x5555_5555) }
}
