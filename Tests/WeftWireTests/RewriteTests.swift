import Testing
import WeftWire

/// Random packets, rewritten step by step and from scratch.
@Suite struct RewriteTests {
  private struct Made {
    let memory: Octets
    var isV4: Bool
    var proto: UInt8
    var transport: Int
    var length: Int
    var isFragment = false
    var ends: Rewrite.Ends
    var bytes: Bytes { memory.bytes }
  }

  private static let corners: [UInt16] = [0, 1, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF]

  private static func word(_ random: inout SeededRandom) -> UInt16 {
    let value = random.next()
    return value % 4 == 0 ? corners[Int(value >> 8) % corners.count] : UInt16(truncatingIfNeeded: value >> 16)
  }

  private static func address(_ random: inout SeededRandom, isV4: Bool) -> IPAddress {
    func half() -> UInt64 { (0..<4).reduce(0) { sum, _ in sum << 16 | UInt64(word(&random)) } }
    if isV4 { return IPAddress(v4: UInt32(truncatingIfNeeded: half())) }
    return IPAddress(high: half() | 0x2000_0000_0000_0000, low: half())
  }

  private static func ends(_ random: inout SeededRandom, isV4: Bool, proto: UInt8) -> Rewrite.Ends {
    let source = word(&random)
    let isEcho = proto == IPProtocol.icmp || proto == IPProtocol.icmpv6
    let ported = isEcho || [IPProtocol.tcp, IPProtocol.udp, IPProtocol.sctp].contains(proto)
    return Rewrite.Ends(
      source: address(&random, isV4: isV4), destination: address(&random, isV4: isV4), sourcePort: ported ? source : 0,
      destinationPort: !ported ? 0 : isEcho ? source : word(&random))
  }

  /// A packet with every checksum right, `payload` bytes behind its transport header.
  private static func make(_ random: inout SeededRandom, isV4: Bool, proto: UInt8, payload: Int) -> Made {
    let transport = isV4 ? 20 + 4 * Int(random.next() % 3) : 40
    let header = proto == IPProtocol.tcp ? 20 : proto == IPProtocol.sctp ? 12 : 8
    let length = transport + header + payload
    let memory = Octets((0..<length).map { _ in UInt8(truncatingIfNeeded: random.next()) })
    let made = Made(
      memory: memory, isV4: isV4, proto: proto, transport: transport, length: length,
      ends: ends(&random, isV4: isV4, proto: proto))
    let ip = memory.bytes
    if isV4 {
      ip.set8(0, UInt8(0x40 + transport / 4))
      ip.set16(2, UInt16(length))
      ip.set16(6, 0)
      ip.set8(9, proto)
    } else {
      ip.set32(0, 0x6000_0000)
      ip.set16(4, UInt16(length - 40))
      ip.set8(6, proto)
    }
    if proto == IPProtocol.icmp { ip.set8(transport, random.next() % 2 == 0 ? ICMP.echoRequest : ICMP.echoReply) }
    if proto == IPProtocol.icmpv6 { ip.set8(transport, random.next() % 2 == 0 ? ICMP.echoRequest6 : ICMP.echoReply6) }
    write(made, made.ends)
    return made
  }

  /// Writes addresses, ports and every checksum from scratch.
  private static func write(_ made: Made, _ ends: Rewrite.Ends) {
    let ip = made.bytes
    if made.isV4 {
      ip.set32(12, ends.source.v4)
      ip.set32(16, ends.destination.v4)
      IPv4.writeChecksum(ip, bytes: made.transport)
    } else {
      ip.setAddress6(8, ends.source)
      ip.setAddress6(24, ends.destination)
    }
    let at = ip.advanced(made.transport)
    let count = made.length - made.transport
    func sum(_ place: Int, pseudo: Bool) -> UInt16 {
      at.set16(place, 0)
      let start = pseudo ? Checksum.pseudoHeader(ip, isV4: made.isV4, proto: made.proto, length: count) : 0
      return Checksum.finish(at.sum(0, count: count, start))
    }
    switch made.proto {
    case IPProtocol.tcp:
      at.set16(0, ends.sourcePort)
      at.set16(2, ends.destinationPort)
      at.set16(16, sum(16, pseudo: true))
    case IPProtocol.udp:
      at.set16(0, ends.sourcePort)
      at.set16(2, ends.destinationPort)
      let value = sum(6, pseudo: true)
      at.set16(6, value == 0 ? 0xFFFF : value)
    case IPProtocol.sctp:
      at.set16(0, ends.sourcePort)
      at.set16(2, ends.destinationPort)
      at.set32(8, 0)
      at.set32(8, at.crc32c(0, count: count).byteSwapped)
    case IPProtocol.icmp:
      at.set16(4, ends.sourcePort)
      at.set16(2, sum(2, pseudo: false))
    case IPProtocol.icmpv6:
      at.set16(4, ends.sourcePort)
      at.set16(2, sum(2, pseudo: true))
    case IPProtocol.udpLite, IPProtocol.dccp: at.set16(6, sum(6, pseudo: true))
    default: break
    }
  }

  private static let cases: [(isV4: Bool, proto: UInt8)] = [
    (true, IPProtocol.tcp), (false, IPProtocol.tcp), (true, IPProtocol.udp), (false, IPProtocol.udp),
    (true, IPProtocol.sctp), (false, IPProtocol.sctp), (true, IPProtocol.icmp), (false, IPProtocol.icmpv6),
    (true, IPProtocol.udpLite), (false, IPProtocol.dccp), (true, 47), (false, 50),
  ]

  private static func apply(_ rewrite: Rewrite, _ made: Made, unfinished: Int? = nil) -> Bool {
    rewrite.apply(
      to: made.bytes, length: made.length, transport: made.transport, proto: made.proto, isFragment: made.isFragment,
      unfinished: unfinished)
  }

  /// Every protocol and family, odd and even lengths: what is updated equals what is computed anew, byte for byte.
  @Test func equalsWhatIsComputedAnew() {
    var random = SeededRandom(seed: 31)
    for (isV4, proto) in Self.cases {
      for round in 0..<4000 {
        let made = Self.make(&random, isV4: isV4, proto: proto, payload: round % 67)
        let new = Self.ends(&random, isV4: isV4, proto: proto)
        let expected = Made(
          memory: Octets(made.memory.array), isV4: isV4, proto: proto, transport: made.transport, length: made.length,
          ends: new)
        Self.write(expected, new)
        #expect(Self.apply(Rewrite(from: made.ends, to: new), made))
        #expect(made.memory.array == expected.memory.array, "protocol \(proto), round \(round)")
      }
    }
  }

  /// There and back again is where it was.
  @Test func isUndoneByItsReverse() {
    var random = SeededRandom(seed: 32)
    for (isV4, proto) in Self.cases {
      for round in 0..<500 {
        let made = Self.make(&random, isV4: isV4, proto: proto, payload: round % 31)
        let before = made.memory.array
        let new = Self.ends(&random, isV4: isV4, proto: proto)
        #expect(Self.apply(Rewrite(from: made.ends, to: new), made))
        #expect(Self.apply(Rewrite(from: new, to: made.ends), made))
        #expect(made.memory.array == before, "protocol \(proto)")
      }
    }
  }

  /// A checksum that is left to offload holds the pseudo-header's sum: it follows the addresses and not the ports.
  @Test func followsUnfinishedChecksums() {
    var random = SeededRandom(seed: 33)
    for (isV4, proto) in Self.cases where [IPProtocol.tcp, IPProtocol.udp, IPProtocol.icmpv6].contains(proto) {
      let place = proto == IPProtocol.tcp ? 16 : proto == IPProtocol.udp ? 6 : 2
      for round in 0..<4000 {
        let made = Self.make(&random, isV4: isV4, proto: proto, payload: round % 67)
        let ip = made.bytes
        let count = made.length - made.transport
        func pseudoHeader() -> UInt16 {
          UInt16(bigEndian: Checksum.fold(Checksum.pseudoHeader(ip, isV4: isV4, proto: proto, length: count)))
        }
        ip.set16(made.transport + place, pseudoHeader())
        let new = Self.ends(&random, isV4: isV4, proto: proto)
        #expect(Self.apply(Rewrite(from: made.ends, to: new), made, unfinished: made.transport + place))
        #expect(ip.u16(made.transport + place) == pseudoHeader(), "protocol \(proto)")
        // Finished as a NIC does it, it is what it should be.
        ip.set16(made.transport + place, Checksum.finish(ip.sum(made.transport, count: count)))
        let sum = Checksum.pseudoHeader(ip, isV4: isV4, proto: proto, length: count)
        #expect(Checksum.holds(ip.sum(made.transport, count: count, sum)))
      }
    }
  }

  /// RFC 768: 0 says that there is none, and a sum of 0 is sent as 0xFFFF.
  @Test func keepsUDPWithoutChecksum() {
    var random = SeededRandom(seed: 34)
    for isV4 in [true, false] {
      let made = Self.make(&random, isV4: isV4, proto: IPProtocol.udp, payload: 5)
      made.bytes.set16(made.transport + 6, 0)
      #expect(Self.apply(Rewrite(from: made.ends, to: Self.ends(&random, isV4: isV4, proto: 17)), made))
      #expect(made.bytes.u16(made.transport + 6) == 0)
    }
    var seen = 0
    for _ in 0..<400_000 where seen < 3 {
      // Chosen so that the new sum is all ones: the source port makes up for the rest.
      let made = Self.make(&random, isV4: true, proto: IPProtocol.udp, payload: 4)
      var new = Self.ends(&random, isV4: true, proto: IPProtocol.udp)
      new.sourcePort = 0
      let trial = Made(
        memory: Octets(made.memory.array), isV4: true, proto: 17, transport: made.transport, length: made.length,
        ends: new)
      Self.write(trial, new)
      new.sourcePort = trial.bytes.u16(trial.transport + 6)
      #expect(Self.apply(Rewrite(from: made.ends, to: new), made))
      #expect(made.bytes.u16(made.transport + 6) == 0xFFFF)
      seen += 1
    }
    #expect(seen == 3)
  }

  /// What was damaged stays damaged by as much.
  @Test func mendsNothing() {
    var random = SeededRandom(seed: 35)
    for (isV4, proto) in Self.cases where proto != 47 && proto != 50 {
      for _ in 0..<200 {
        let made = Self.make(&random, isV4: isV4, proto: proto, payload: 20)
        made.bytes.set8(made.length - 1, made.bytes.u8(made.length - 1) ^ 0x10)
        let new = Self.ends(&random, isV4: isV4, proto: proto)
        let right = Made(
          memory: Octets(made.memory.array), isV4: isV4, proto: proto, transport: made.transport, length: made.length,
          ends: new)
        Self.write(right, new)
        #expect(Self.apply(Rewrite(from: made.ends, to: new), made))
        #expect(made.memory.array != right.memory.array, "protocol \(proto)")
      }
    }
  }

  @Test func refusesWhatIsTooShort() {
    var random = SeededRandom(seed: 36)
    for (proto, least) in [(IPProtocol.tcp, 18), (IPProtocol.udp, 8), (IPProtocol.sctp, 12)] {
      for bytes in 0..<least {
        var made = Self.make(&random, isV4: true, proto: proto, payload: 20)
        made.length = made.transport + bytes
        let before = made.memory.array
        #expect(!Self.apply(Rewrite(from: made.ends, to: Self.ends(&random, isV4: true, proto: proto)), made))
        #expect(made.memory.array == before)
      }
    }
  }

  /// Only the first fragment has ports and the checksum over all; SCTP's CRC cannot be followed.
  @Test func rewritesFragments() {
    var random = SeededRandom(seed: 37)
    for offset: UInt16 in [0x2000, 0x0010] {
      var made = Self.make(&random, isV4: true, proto: IPProtocol.udp, payload: 16)
      made.bytes.set16(6, offset)
      made.isFragment = true
      IPv4.writeChecksum(made.bytes, bytes: made.transport)
      let payload = Array(made.memory.array[(made.transport)...])
      let new = Self.ends(&random, isV4: true, proto: IPProtocol.udp)
      #expect(Self.apply(Rewrite(from: made.ends, to: new), made))
      #expect(made.bytes.u32(12) == new.source.v4 && made.bytes.u32(16) == new.destination.v4)
      #expect(Checksum.holds(made.bytes.sum(0, count: made.transport)))
      if offset == 0x2000 {
        #expect(made.bytes.u16(made.transport) == new.sourcePort)
      } else {
        #expect(Array(made.memory.array[(made.transport)...]) == payload)
      }
    }
    var made = Self.make(&random, isV4: true, proto: IPProtocol.sctp, payload: 16)
    made.isFragment = true
    made.bytes.set16(6, 0x2000)
    #expect(!Self.apply(Rewrite(from: made.ends, to: Self.ends(&random, isV4: true, proto: 132)), made))
  }

  // MARK: ICMP errors

  /// An error about `quoted` bytes of a packet: the outer packet with right checksums.
  private static func error(
    _ random: inout SeededRandom, about inner: Made, quoted: Int
  ) -> (memory: Octets, transport: Int, length: Int, ends: Rewrite.Ends) {
    let isV4 = inner.isV4
    let transport = isV4 ? 20 : 40
    let length = transport + 8 + quoted
    let memory = Octets(room: length)
    let ip = memory.bytes
    let ends = Rewrite.Ends(
      source: address(&random, isV4: isV4), destination: inner.ends.source, sourcePort: 0, destinationPort: 0)
    let proto = isV4 ? IPProtocol.icmp : IPProtocol.icmpv6
    if isV4 {
      ip.set8(0, 0x45)
      ip.set16(2, UInt16(length))
      ip.set8(8, 64)
      ip.set8(9, proto)
      ip.set32(12, ends.source.v4)
      ip.set32(16, ends.destination.v4)
      IPv4.writeChecksum(ip, bytes: 20)
    } else {
      ip.set32(0, 0x6000_0000)
      ip.set16(4, UInt16(length - 40))
      ip.set8(6, proto)
      ip.setAddress6(8, ends.source)
      ip.setAddress6(24, ends.destination)
    }
    ip.set8(transport, isV4 ? 3 : 1)
    ip.set8(transport + 1, isV4 ? 3 : 4)
    for at in 0..<quoted { ip.set8(transport + 8 + at, inner.bytes.u8(at)) }
    let start =
      isV4 ? 0 : Checksum.pseudoHeader(ip, isV4: false, proto: IPProtocol.icmpv6, length: length - transport)
    ip.set16(transport + 2, Checksum.finish(ip.sum(transport, count: length - transport, start)))
    return (memory, transport, length, ends)
  }

  @Test func rewritesErrorsInsideAndOutside() throws {
    var random = SeededRandom(seed: 38)
    for (isV4, proto) in Self.cases {
      for round in 0..<600 {
        let inner = Self.make(&random, isV4: isV4, proto: proto, payload: 3 + round % 40)
        let quoted = round % 3 == 0 ? inner.length : inner.transport + 8 + round % (inner.length - inner.transport - 7)
        let made = Self.error(&random, about: inner, quoted: quoted)
        let ip = made.memory.bytes
        let found = try #require(
          QuotedPacket(inErrorAt: ip, length: made.length, transport: made.transport, isV4: isV4))
        #expect(found.proto == proto && found.available == quoted)
        #expect(found.ends.source == inner.ends.source && found.ends.destination == inner.ends.destination)
        #expect(found.ends.sourcePort == inner.ends.sourcePort)
        let new = Self.ends(&random, isV4: isV4, proto: proto)
        let outer = Rewrite.Ends(
          source: Self.address(&random, isV4: isV4), destination: new.source, sourcePort: 0, destinationPort: 0)
        found.rewriteError(
          at: ip, length: made.length, transport: made.transport, quoted: new, from: made.ends, to: outer)
        // The outer packet.
        if isV4 {
          #expect(Checksum.holds(ip.sum(0, count: 20)))
          #expect(ip.u32(12) == outer.source.v4 && ip.u32(16) == outer.destination.v4)
        } else {
          #expect(ip.address6(8) == outer.source && ip.address6(24) == outer.destination)
        }
        let start =
          isV4
          ? 0 : Checksum.pseudoHeader(ip, isV4: false, proto: IPProtocol.icmpv6, length: made.length - made.transport)
        #expect(Checksum.holds(ip.sum(made.transport, count: made.length - made.transport, start)))
        // What it quotes: the packet as if it had been sent so, as far as it is there (SCTP's CRC is not followed).
        let whole = Made(
          memory: Octets(inner.memory.array), isV4: isV4, proto: proto, transport: inner.transport,
          length: inner.length, ends: new)
        Self.write(whole, new)
        let at = made.transport + 8
        for offset in 0..<quoted {
          if proto == IPProtocol.sctp, (inner.transport + 8..<inner.transport + 12).contains(offset) { continue }
          // Of TCP's checksum, one octet alone is left as it was.
          if proto == IPProtocol.tcp, quoted == inner.transport + 17, offset == inner.transport + 16 { continue }
          #expect(ip.u8(at + offset) == whole.bytes.u8(offset), "protocol \(proto), octet \(offset) of \(quoted)")
        }
      }
    }
  }

  /// Cut and foreign quotes: nothing found, nothing read beyond the end.
  @Test func readsNoBrokenQuotes() {
    var random = SeededRandom(seed: 39)
    for isV4 in [true, false] {
      let inner = Self.make(&random, isV4: isV4, proto: IPProtocol.tcp, payload: 20)
      for quoted in 0..<inner.length {
        let made = Self.error(&random, about: inner, quoted: quoted)
        let found = QuotedPacket(
          inErrorAt: made.memory.bytes, length: made.length, transport: made.transport, isV4: isV4)
        #expect((found != nil) == (quoted >= inner.transport))
        #expect(found?.showsTransport ?? false == (quoted >= inner.transport + 4))
      }
      let made = Self.error(&random, about: inner, quoted: inner.length)
      made.memory.bytes.set8(made.transport, isV4 ? 8 : 128)
      #expect(
        QuotedPacket(inErrorAt: made.memory.bytes, length: made.length, transport: made.transport, isV4: isV4) == nil)
    }
  }
}
