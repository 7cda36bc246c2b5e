import Testing
import WeftWire

/// RFC 1071 as it stands in section 4.1, over octets in network order; the bare sum, not yet complemented.
private func naiveSum(_ octets: some Collection<UInt8>) -> UInt16 {
  var sum: UInt32 = 0
  var high = true
  for octet in octets {
    sum += high ? UInt32(octet) << 8 : UInt32(octet)
    high.toggle()
  }
  while sum >> 16 != 0 { sum = (sum & 0xFFFF) + (sum >> 16) }
  return UInt16(sum)
}

@Suite struct ChecksumTests {
  /// Every length around the steps of the vectorised loop, at every alignment.
  @Test func sumsAsRFC1071() {
    var random = SeededRandom(seed: 2)
    let memory = Octets((0..<4096).map { _ in UInt8(truncatingIfNeeded: random.next()) })
    let octets = memory.array
    for start in 0..<9 {
      for count in Array(0...400) + [511, 512, 513, 1460, 1500, 2047, 4000] {
        #expect(
          Checksum.finish(memory.bytes.sum(start, count: count)) == ~naiveSum(octets[start..<start + count]),
          "\(count) octets from \(start)")
      }
    }
  }

  @Test(arguments: [UInt8(0), 0xFF]) func sumsConstantOctets(octet: UInt8) {
    for count in [0, 1, 2, 3, 20, 127, 128, 129, 1500, 65535] {
      let memory = Octets([UInt8](repeating: octet, count: count), room: 1)
      #expect(Checksum.finish(memory.bytes.sum(0, count: count)) == ~naiveSum(memory.array.prefix(count)), "\(count)")
    }
  }

  /// RFC 1071 section 3's example.
  @Test func knowsTheExample() {
    let memory = Octets(hex: "0001 f203 f4f5 f6f7")
    #expect(Checksum.finish(memory.bytes.sum(0, count: 8)) == ~0xDDF2)
  }

  @Test func foldsLargeSums() {
    for value: UInt64 in [0, 1, 0xFFFF, 0x10000, 0xFFFF_FFFF, 0x1_0000_0000, .max, .max - 1, 0xFFFF_0000_FFFF_0000] {
      // One's complement: modulo 65535, where 0 shows as 0xFFFF unless everything is 0.
      let expected = value == 0 ? 0 : UInt16((value - 1) % 0xFFFF + 1)
      #expect(Checksum.fold(value) == expected, "\(value)")
    }
  }

  @Test func updatesAsIfRecomputed() {
    var random = SeededRandom(seed: 3)
    let corners: [UInt16] = [0, 1, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF]
    func word() -> UInt16 {
      let value = random.next()
      return value % 3 == 0 ? corners[Int(value >> 8) % corners.count] : UInt16(truncatingIfNeeded: value >> 16)
    }
    for _ in 0..<20_000 {
      // A header always holds something other than zero: its version.
      let memory = Octets(hex: "45000000")
      let header = Octets(memory.array, room: 16)
      for at in stride(from: 4, to: 20, by: 2) { header.bytes.set16(at, word()) }
      IPv4.writeChecksum(header.bytes, bytes: 20)
      let at = [2, 4, 6, 8, 12, 14, 16, 18][Int(random.next() % 8)]
      let old = header.bytes.u16(at)
      let new = word()
      header.bytes.set16(at, new)
      let updated = Checksum.updated(header.bytes.u16(10), from: old, to: new)
      IPv4.writeChecksum(header.bytes, bytes: 20)
      #expect(updated == header.bytes.u16(10), "\(old) to \(new) in \(header.hex)")
    }
  }

  /// RFC 1624 section 4: the case for which RFC 1141's equation gave 0xFFFF.
  @Test func updatesTheCaseOfRFC1624() { #expect(Checksum.updated(0xDD2F, from: 0x5555, to: 0x3285) == 0x0000) }

  /// Whole packets made by scapy: what they hold sums up, and nothing else does.
  @Test func holdsForGoodPackets() {
    let udp4 = Octets(hex: "45b90021123400003f1151d90a0101020a01020303e807d0000d994368656c6c6f")
    #expect(Checksum.holds(udp4.bytes.sum(0, count: 20)))
    #expect(
      Checksum.holds(
        udp4.bytes.sum(20, count: 13, Checksum.pseudoHeader(udp4.bytes, isV4: true, proto: IPProtocol.udp, length: 13)))
    )
    let udp6 = Octets(
      hex: """
        6b9abcde000f113ffd000001000000000000000000010002fd00000100000000000000000002000303e807d0000f951968656c6c6f2121
        """)
    #expect(
      Checksum.holds(
        udp6.bytes.sum(40, count: 15, Checksum.pseudoHeader(udp6.bytes, isV4: false, proto: IPProtocol.udp, length: 15))
      ))
    let tcp6 = Octets(
      hex: """
        60000000001f063ffd000001000000000000000000010002fd000001000000000000000000020003
        03e807d00000000700000009701820008ac70000020405b4010303076f6464
        """)
    #expect(
      Checksum.holds(
        tcp6.bytes.sum(40, count: 31, Checksum.pseudoHeader(tcp6.bytes, isV4: false, proto: IPProtocol.tcp, length: 31))
      ))
    #expect(TCP.headerBytes(tcp6.bytes.advanced(40)) == 28)
    let options = Octets(hex: "46000023000100004001cece0a0101020a010203940400000800339600030004616263")
    #expect(IPv4.headerBytes(options.bytes) == 24)
    #expect(Checksum.holds(options.bytes.sum(0, count: 24)))
    #expect(Checksum.holds(options.bytes.sum(24, count: 11)))
    for at in 0..<24 {
      options.bytes.set8(at, options.bytes.u8(at) ^ 0x10)
      #expect(!Checksum.holds(options.bytes.sum(0, count: 24)), "octet \(at)")
      options.bytes.set8(at, options.bytes.u8(at) ^ 0x10)
    }
  }

  /// RFC 3720 appendix B.4 (iSCSI uses the same CRC), and the usual check value.
  @Test func crc32c() {
    func crc(_ octets: [UInt8]) -> UInt32 { Octets(octets).bytes.crc32c(0, count: octets.count) }
    #expect(crc(Array("123456789".utf8)) == 0xE306_9283)
    #expect(crc([]) == 0)
    #expect(crc([UInt8](repeating: 0, count: 32)) == 0x8A91_36AA)
    #expect(crc([UInt8](repeating: 0xFF, count: 32)) == 0x62A8_AB43)
    #expect(crc(Array(0..<32)) == 0x46DD_794E)
    #expect(crc(Array((0..<32).reversed())) == 0x113F_DB5C)
    // Against one bit at a time, at each length and alignment of the eight-octet step.
    var random = SeededRandom(seed: 4)
    let memory = Octets((0..<128).map { _ in UInt8(truncatingIfNeeded: random.next()) })
    for start in 0..<8 {
      for count in 0...100 {
        var expected = UInt32.max
        for octet in memory.array[start..<start + count] {
          expected ^= UInt32(octet)
          for _ in 0..<8 { expected = expected & 1 == 1 ? expected >> 1 ^ 0x82F6_3B78 : expected >> 1 }
        }
        #expect(memory.bytes.crc32c(start, count: count) == ~expected)
      }
    }
  }

  /// An SCTP packet by scapy: the checksum field holds the CRC with the lowest octet first (RFC 9260 appendix A).
  @Test func crc32cOfSCTP() {
    let packet = Octets(hex: "000100020000000394a3fe1a0000001300000000000000000000000061626300")
    let given = packet.bytes.u32(8)
    packet.bytes.set32(8, 0)
    #expect(packet.bytes.crc32c(0, count: 32).byteSwapped == given)
  }
}
