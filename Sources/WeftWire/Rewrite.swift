/// A change of a packet's addresses and ports, with what it does to the checksums that cover them: they are updated, not
/// computed anew (RFC 1624), so that a damaged packet stays one.
///
/// For echo requests and replies the port is the identifier, on both sides.
@frozen public struct Rewrite: Sendable {
  public let source: IPAddress
  public let destination: IPAddress
  public let sourcePort: UInt16
  public let destinationPort: UInt16
  public let changesPorts: Bool
  public let isV4: Bool
  /// What is added to the complement of a checksum over the addresses, and over the ports or the identifier.
  @usableFromInline let addressSum: UInt64
  @usableFromInline let portSum: UInt64
  @usableFromInline let identifierSum: UInt64

  /// What a packet says of itself.
  @frozen public struct Ends: Sendable {
    public var source: IPAddress
    public var destination: IPAddress
    public var sourcePort: UInt16
    public var destinationPort: UInt16

    @inlinable public init(source: IPAddress, destination: IPAddress, sourcePort: UInt16, destinationPort: UInt16) {
      self.source = source
      self.destination = destination
      self.sourcePort = sourcePort
      self.destinationPort = destinationPort
    }
  }

  /// Both ends are of one family.
  @inlinable public init(from old: Ends, to new: Ends) {
    source = new.source
    destination = new.destination
    sourcePort = new.sourcePort
    destinationPort = new.destinationPort
    isV4 = new.source.isV4
    changesPorts = old.sourcePort != new.sourcePort || old.destinationPort != new.destinationPort
    addressSum =
      Self.change(old.source, new.source, isV4: isV4) &+ Self.change(old.destination, new.destination, isV4: isV4)
    identifierSum = UInt64(~old.sourcePort) &+ UInt64(new.sourcePort)
    portSum = identifierSum &+ UInt64(~old.destinationPort) &+ UInt64(new.destinationPort)
  }

  /// What is added to the complement of a checksum over the addresses.
  public var addressChange: UInt16 { Self.fold(addressSum) }
  /// The same where the ports are covered as well.
  public var change: UInt16 { Self.fold(addressSum &+ portSum) }

  /// 32 bits at a time, which one's complement sums of 16 bits allow (RFC 1071 section 2(A)).
  @inlinable static func change(_ old: IPAddress, _ new: IPAddress, isV4: Bool) -> UInt64 {
    if isV4 { return UInt64(~old.v4) &+ UInt64(new.v4) }
    func half(_ old: UInt64, _ new: UInt64) -> UInt64 {
      (~old >> 32) &+ (~old & 0xFFFF_FFFF) &+ (new >> 32) &+ (new & 0xFFFF_FFFF)
    }
    return half(old.high, new.high) &+ half(old.low, new.low)
  }

  /// A sum in host order as 16 bits.
  @inlinable @inline(__always) static func fold(_ sum: UInt64) -> UInt16 { Checksum.fold(sum) }

  @inlinable @inline(__always) static func update(_ at: Bytes, _ place: Int, _ change: UInt64) {
    at.set16(place, ~fold(UInt64(~at.u16(place)) &+ change))
  }

  /// As `update`, where 0 would say that there is no checksum (UDP).
  @inlinable @inline(__always) static func updateUnlessNone(_ at: Bytes, _ place: Int, _ change: UInt64) {
    let old = at.u16(place)
    guard old != 0 else { return }
    let new = ~fold(UInt64(~old) &+ change)
    at.set16(place, new == 0 ? 0xFFFF : new)
  }

  /// Whether the IP packet at `ip` shows its transport header: it is no fragment, or the first one.
  @inlinable @inline(__always)
  public static func showsTransport(_ ip: Bytes, isV4: Bool, isFragment: Bool, transport: Int) -> Bool {
    guard isFragment else { return true }
    // An IPv6 fragment header ends where the transport header begins.
    return isV4 ? ip.u16(6) & IPv4.offsetMask == 0 : ip.u16(transport &- 6) & 0xFFF8 == 0
  }

  /// Rewrites the IP packet at `ip`: `length` bytes by its own header, transport header at `transport`. `unfinished` is
  /// where, from `ip`, a checksum field holds only the pseudo-header's sum (nil: the checksum is there).
  ///
  /// False, and nothing is written, where the packet is too short for what would have to change, or where that cannot be
  /// made right: the ports of an SCTP fragment, whose CRC covers what is not here.
  @inlinable public func apply(
    to ip: Bytes, length: Int, transport: Int, proto: UInt8, isFragment: Bool, unfinished: Int? = nil
  ) -> Bool {
    guard Self.showsTransport(ip, isV4: isV4, isFragment: isFragment, transport: transport) else {
      writeAddresses(ip)
      return true
    }
    let at = ip.advanced(transport)
    let available = length &- transport
    switch proto {
    case IPProtocol.tcp:
      guard available >= TCP.checksum &+ 2 else { return false }
      if unfinished == nil { Self.update(at, TCP.checksum, addressSum &+ portSum) }
      writePorts(at)
    case IPProtocol.udp:
      guard available >= UDP.bytes else { return false }
      if unfinished == nil { Self.updateUnlessNone(at, UDP.checksum, addressSum &+ portSum) }
      writePorts(at)
    case IPProtocol.dccp, IPProtocol.udpLite:
      guard available >= UDP.bytes else { return false }
      if unfinished == nil { Self.update(at, UDP.checksum, addressSum) }
    case IPProtocol.sctp:
      guard changesPorts else { break }
      guard available >= SCTP.minimumBytes, !isFragment else { return false }
      rewriteSCTP(at, available, isUnfinished: unfinished != nil)
    case IPProtocol.icmp where isV4:
      guard available >= ICMP.minimumBytes else { return !changesPorts }
      if ICMP.isEcho(at.u8(0), isV4: true) { writeIdentifier(at, identifierSum, isUnfinished: unfinished != nil) }
    case IPProtocol.icmpv6 where !isV4:
      guard available >= ICMP.minimumBytes else { return false }
      if ICMP.isEcho(at.u8(0), isV4: false) {
        writeIdentifier(at, addressSum &+ identifierSum, isUnfinished: unfinished != nil)
      } else if unfinished == nil {
        Self.update(at, 2, addressSum)
      }
    default: break
    }
    // Only the pseudo-header's part is in it: addresses, not ports.
    if let unfinished, Self.hasPseudoHeader(proto, isV4: isV4) {
      ip.set16(unfinished, Self.fold(UInt64(ip.u16(unfinished)) &+ addressSum))
    }
    writeAddresses(ip)
    return true
  }

  @inlinable static func hasPseudoHeader(_ proto: UInt8, isV4: Bool) -> Bool {
    switch proto {
    case IPProtocol.tcp, IPProtocol.udp, IPProtocol.dccp, IPProtocol.udpLite: true
    case IPProtocol.icmpv6: !isV4
    default: false
    }
  }

  @inlinable @inline(__always) func writeAddresses(_ ip: Bytes) {
    if isV4 {
      Self.update(ip, 10, addressSum)
      ip.set32(12, source.v4)
      ip.set32(16, destination.v4)
    } else {
      ip.setAddress6(8, source)
      ip.setAddress6(24, destination)
    }
  }

  @inlinable @inline(__always) func writePorts(_ at: Bytes) {
    at.set16(0, sourcePort)
    at.set16(2, destinationPort)
  }

  @inlinable func writeIdentifier(_ at: Bytes, _ change: UInt64, isUnfinished: Bool) {
    if !isUnfinished { Self.update(at, 2, change) }
    at.set16(4, sourcePort)
  }

  /// The CRC is the exclusive or of what it was and of what both headers make: a wrong one stays wrong.
  @usableFromInline func rewriteSCTP(_ at: Bytes, _ length: Int, isUnfinished: Bool) {
    if isUnfinished { return writePorts(at) }
    let stored = at.u32(SCTP.checksum)
    at.set32(SCTP.checksum, 0)
    let before = at.crc32c(0, count: length)
    writePorts(at)
    let after = at.crc32c(0, count: length)
    at.set32(SCTP.checksum, stored ^ (before ^ after).byteSwapped)
  }

  /// Rewrites a packet that an ICMP error quotes: `available` bytes of it, from its IP header on, which may end anywhere
  /// behind that. The error's own checksum is not touched.
  @inlinable public func applyToQuoted(
    _ ip: Bytes, available: Int, transport: Int, proto: UInt8, showsTransport: Bool
  ) {
    let at = ip.advanced(transport)
    let left = available &- transport
    if showsTransport {
      switch proto {
      case IPProtocol.tcp where left >= 4:
        if left >= TCP.checksum &+ 2 { Self.update(at, TCP.checksum, addressSum &+ portSum) }
        writePorts(at)
      case IPProtocol.udp where left >= 4:
        if left >= UDP.bytes { Self.updateUnlessNone(at, UDP.checksum, addressSum &+ portSum) }
        writePorts(at)
      // The CRC of a packet that is not all there cannot be mended; nobody checks it either.
      case IPProtocol.sctp where left >= 4: writePorts(at)
      case IPProtocol.dccp where left >= UDP.bytes, IPProtocol.udpLite where left >= UDP.bytes:
        Self.update(at, UDP.checksum, addressSum)
      case IPProtocol.icmp where isV4 && left >= ICMP.minimumBytes && ICMP.isEcho(at.u8(0), isV4: true):
        writeIdentifier(at, identifierSum, isUnfinished: false)
      case IPProtocol.icmpv6 where !isV4 && left >= ICMP.minimumBytes:
        if ICMP.isEcho(at.u8(0), isV4: false) {
          writeIdentifier(at, addressSum &+ identifierSum, isUnfinished: false)
        } else {
          Self.update(at, 2, addressSum)
        }
      default: break
      }
    }
    writeAddresses(ip)
  }
}

/// What an ICMP error quotes: where, and the ends of that packet as it was.
@frozen public struct QuotedPacket: Sendable {
  /// From the error's IP header to the quoted one.
  public let offset: Int
  /// Bytes of the quoted packet that are there.
  public let available: Int
  /// From the quoted IP header to its transport header.
  public let transport: Int
  public let proto: UInt8
  /// The transport header begins in what is quoted, and its ports are there.
  public let showsTransport: Bool
  public let ends: Rewrite.Ends

  /// Reads what the ICMP error at `ip` (its transport header at `transport`, `length` bytes in all) quotes; nil if it is
  /// none, or quotes too little or something else than a packet of its own family.
  public init?(inErrorAt ip: Bytes, length: Int, transport: Int, isV4: Bool) {
    let inner = transport + ICMP.minimumBytes
    guard length >= inner, ICMP.isError(ip.u8(transport), isV4: isV4) else { return nil }
    let quoted = ip.advanced(inner)
    let available = length - inner
    var shows = true
    let header: Int
    if isV4 {
      guard available >= IPv4.minimumBytes, quoted.u8(0) >> 4 == 4 else { return nil }
      header = IPv4.headerBytes(quoted)
      guard header >= IPv4.minimumBytes, header <= available else { return nil }
      shows = quoted.u16(6) & IPv4.offsetMask == 0
      proto = quoted.u8(9)
    } else {
      guard available >= IPv6.bytes, quoted.u8(0) >> 4 == 6 else { return nil }
      var next = quoted.u8(6)
      var offset = IPv6.bytes
      walk: for _ in 0...IPv6.maximumExtensions {
        switch next {
        case IPv6.hopByHop, IPv6.routing, IPv6.destinationOptions, IPv6.authentication:
          guard offset + 8 <= available else { return nil }
          let units = Int(quoted.u8(offset + 1))
          let bytes = next == IPv6.authentication ? (units + 2) * 4 : (units + 1) * 8
          next = quoted.u8(offset)
          offset += bytes
        case IPv6.fragment:
          guard offset + 8 <= available else { return nil }
          shows = quoted.u16(offset + 2) & 0xFFF8 == 0
          next = quoted.u8(offset)
          offset += 8
          break walk
        default: break walk
        }
      }
      guard offset <= available else { return nil }
      header = offset
      proto = next
    }
    var sourcePort: UInt16 = 0
    var destinationPort: UInt16 = 0
    let at = quoted.advanced(header)
    switch proto {
    case IPProtocol.tcp, IPProtocol.udp, IPProtocol.sctp:
      shows = shows && available - header >= 4
      if shows {
        sourcePort = at.u16(0)
        destinationPort = at.u16(2)
      }
    case isV4 ? IPProtocol.icmp : IPProtocol.icmpv6:
      shows = shows && available - header >= ICMP.minimumBytes
      if shows, ICMP.isEcho(at.u8(0), isV4: isV4) {
        sourcePort = at.u16(4)
        destinationPort = sourcePort
      }
    default: break
    }
    showsTransport = shows
    offset = inner
    self.available = available
    self.transport = header
    ends = Rewrite.Ends(
      source: isV4 ? IPAddress(v4: quoted.u32(12)) : quoted.address6(8),
      destination: isV4 ? IPAddress(v4: quoted.u32(16)) : quoted.address6(24), sourcePort: sourcePort,
      destinationPort: destinationPort)
  }

  /// Rewrites an ICMP error that quotes this packet: the quoted packet to `quoted`, the error's own addresses from
  /// `outerEnds` to `outer`. `length` and `transport` are the error's.
  public func rewriteError(
    at ip: Bytes, length: Int, transport: Int, quoted new: Rewrite.Ends, from outerEnds: Rewrite.Ends,
    to outer: Rewrite.Ends, unfinished: Int? = nil
  ) {
    let message = ip.advanced(transport)
    let count = length - transport
    let inner = Rewrite(from: ends, to: new)
    // By what the sum over the quoted bytes was and is: a wrong checksum stays wrong.
    let before = Checksum.fold(message.sum(ICMP.minimumBytes, count: count - ICMP.minimumBytes))
    inner.applyToQuoted(
      ip.advanced(offset), available: available, transport: self.transport, proto: proto,
      showsTransport: showsTransport)
    let after = Checksum.fold(message.sum(ICMP.minimumBytes, count: count - ICMP.minimumBytes))
    if unfinished == nil {
      Rewrite.update(message, 2, UInt64(~UInt16(bigEndian: before)) + UInt64(UInt16(bigEndian: after)))
    }
    let proto = inner.isV4 ? IPProtocol.icmp : IPProtocol.icmpv6
    _ = Rewrite(from: outerEnds, to: outer)
      .apply(to: ip, length: length, transport: transport, proto: proto, isFragment: false, unfinished: unfinished)
  }
}

extension ICMP {
  /// An echo request or reply: what has an identifier.
  @inlinable @inline(__always) public static func isEcho(_ type: UInt8, isV4: Bool) -> Bool {
    isV4 ? type == echoRequest || type == echoReply : type == echoRequest6 || type == echoReply6
  }

  /// A message that quotes the packet it is about: destination unreachable, source quench, redirect, time exceeded,
  /// parameter problem (RFC 792); destination unreachable, packet too big, time exceeded, parameter problem (RFC 4443).
  @inlinable @inline(__always) public static func isError(_ type: UInt8, isV4: Bool) -> Bool {
    isV4 ? type == 3 || type == 4 || type == 5 || type == 11 || type == 12 : type >= 1 && type <= 4
  }
}
