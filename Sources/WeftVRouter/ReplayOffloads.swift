import WeftWire

/// What the kernel of a pod, and a network card, do about frames with virtio-net headers, for ports of a replay that
/// carry them. Written for itself, not with what the packet path uses: one is held against the other.
enum ReplayOffloads {
  /// Makes of a captured frame what a pod's kernel hands over: TCP's and UDP's checksum is left unfinished (the field holds
  /// the pseudo-header's sum), and with more payload than `segment` bytes it is a super-frame of such segments. Fragments,
  /// packets of other protocols, those without a UDP checksum, and damaged ones stay as they are.
  static func arrive(_ frame: inout [UInt8], segment: Int) -> VirtioNetHeader {
    var header = VirtioNetHeader()
    guard let ip = ipOffset(frame), let packet = transport(frame, ip) else { return header }
    let isTCP = packet.proto == IPProtocol.tcp
    let place = packet.at + (isTCP ? TCP.checksum : UDP.checksum)
    let least = isTCP ? TCP.minimumBytes : UDP.bytes
    guard packet.at + least <= packet.end else { return header }
    let headers = packet.at + (isTCP ? Int(frame[packet.at + 12] >> 4) * 4 : UDP.bytes)
    guard headers >= packet.at + least, headers <= packet.end else { return header }
    let isSuper = packet.end - headers > segment
    guard isTCP || isSuper || u16(frame, place) != 0 else { return header }
    header.flags = VirtioNetHeader.needsChecksum
    header.checksumStart = UInt16(packet.at)
    header.checksumOffset = UInt16(place - packet.at)
    set16(&frame, place, fold(pseudoHeader(frame, ip, packet.proto, packet.end - packet.at)))
    guard isSuper else { return header }
    header.gso =
      !isTCP ? VirtioNetHeader.gsoUDP : isV4(frame, ip) ? VirtioNetHeader.gsoTCPv4 : VirtioNetHeader.gsoTCPv6
    header.gsoBytes = UInt16(clamping: segment)
    header.headerBytes = UInt16(headers)
    return header
  }

  /// The packets on a wire that a frame stands for, checksums finished; nil where its header does not fit it.
  static func depart(_ frame: [UInt8], _ header: VirtioNetHeader) -> [[UInt8]]? {
    guard header.flags & VirtioNetHeader.needsChecksum != 0 else {
      return header.gso == VirtioNetHeader.gsoNone ? [frame] : nil
    }
    let start = Int(header.checksumStart)
    let place = start + Int(header.checksumOffset)
    guard place + 2 <= frame.count else { return nil }
    if header.gso == VirtioNetHeader.gsoNone {
      var frame = frame
      let value = ~fold(sum(frame, start..<frame.count))
      set16(&frame, place, value == 0 && place == start + UDP.checksum ? 0xFFFF : value)
      return [frame]
    }
    return segments(frame, header, start)
  }

  private static func segments(_ frame: [UInt8], _ header: VirtioNetHeader, _ start: Int) -> [[UInt8]]? {
    let isTCP = header.gso & ~VirtioNetHeader.gsoECN != VirtioNetHeader.gsoUDP
    guard let ip = ipOffset(frame), let packet = transport(frame, ip), packet.at == start, packet.end == frame.count,
      packet.proto == (isTCP ? IPProtocol.tcp : IPProtocol.udp), start + (isTCP ? 20 : 8) <= frame.count,
      Int(header.checksumOffset) == (isTCP ? TCP.checksum : UDP.checksum), header.gsoBytes > 0
    else { return nil }
    if isTCP, (header.gso & ~VirtioNetHeader.gsoECN == VirtioNetHeader.gsoTCPv4) != isV4(frame, ip) { return nil }
    let headers = start + (isTCP ? Int(frame[start + 12] >> 4) * 4 : UDP.bytes)
    let size = Int(header.gsoBytes)
    guard Int(header.headerBytes) == headers, headers < frame.count else { return nil }
    var result: [[UInt8]] = []
    for offset in stride(from: headers, to: frame.count, by: size) {
      let end = min(offset + size, frame.count)
      var segment = Array(frame[..<headers])
      segment += frame[offset..<end]
      if isV4(frame, ip) {
        set16(&segment, ip + 2, UInt16(segment.count - ip))
        set16(&segment, ip + 4, u16(frame, ip + 4) &+ UInt16(truncatingIfNeeded: result.count))
        set16(&segment, ip + 10, 0)
        set16(&segment, ip + 10, ~fold(sum(segment, ip..<ip + Int(frame[ip] & 15) * 4)))
      } else {
        set16(&segment, ip + 4, UInt16(segment.count - ip - IPv6.bytes))
      }
      if isTCP {
        let sequence = (UInt32(u16(frame, start + 4)) << 16 | UInt32(u16(frame, start + 6))) &+ UInt32(offset - headers)
        set16(&segment, start + 4, UInt16(sequence >> 16))
        set16(&segment, start + 6, UInt16(truncatingIfNeeded: sequence))
        if end < frame.count { segment[start + 13] &= ~(TCP.fin | TCP.psh) }
        if offset > headers { segment[start + 13] &= ~TCP.cwr }
      } else {
        set16(&segment, start + 4, UInt16(segment.count - start))
      }
      let place = start + Int(header.checksumOffset)
      set16(&segment, place, 0)
      let total =
        pseudoHeader(segment, ip, packet.proto, segment.count - start) + sum(segment, start..<segment.count)
      let value = ~fold(total)
      set16(&segment, place, value == 0 && !isTCP ? 0xFFFF : value)
      result.append(segment)
    }
    return result
  }

  // MARK: bytes

  /// Where the IP header begins, behind tags.
  private static func ipOffset(_ frame: [UInt8]) -> Int? {
    var type = Ethernet.type
    while type + 2 <= frame.count, Ethernet.isTag(u16(frame, type)) { type += Ethernet.tagBytes }
    guard type + 2 + IPv4.minimumBytes <= frame.count else { return nil }
    let ip = type + 2
    switch u16(frame, type) {
    case Ethernet.ipv4: return frame[ip] >> 4 == 4 ? ip : nil
    case Ethernet.ipv6: return frame[ip] >> 4 == 6 && ip + IPv6.bytes <= frame.count ? ip : nil
    default: return nil
    }
  }

  private static func isV4(_ frame: [UInt8], _ ip: Int) -> Bool { frame[ip] >> 4 == 4 }

  /// TCP or UDP: where its header begins, and where the IP packet ends. nil for anything else, and for fragments.
  private static func transport(_ frame: [UInt8], _ ip: Int) -> (proto: UInt8, at: Int, end: Int)? {
    var proto = isV4(frame, ip) ? frame[ip + 9] : frame[ip + 6]
    var at = ip + IPv6.bytes
    var end = ip + IPv6.bytes + Int(u16(frame, ip + 4))
    if isV4(frame, ip) {
      guard u16(frame, ip + 6) & (IPv4.moreFragments | IPv4.offsetMask) == 0 else { return nil }
      at = ip + Int(frame[ip] & 15) * 4
      end = ip + Int(u16(frame, ip + 2))
      guard at >= ip + IPv4.minimumBytes else { return nil }
    } else {
      while [IPv6.hopByHop, IPv6.routing, IPv6.destinationOptions].contains(proto), at + 8 <= frame.count {
        proto = frame[at]
        at += (Int(frame[at + 1]) + 1) * 8
      }
    }
    guard proto == IPProtocol.tcp || proto == IPProtocol.udp, at <= end, end <= frame.count else { return nil }
    return (proto, at, end)
  }

  private static func u16(_ bytes: [UInt8], _ at: Int) -> UInt16 { UInt16(bytes[at]) << 8 | UInt16(bytes[at + 1]) }
  private static func set16(_ bytes: inout [UInt8], _ at: Int, _ value: UInt16) {
    bytes[at] = UInt8(value >> 8)
    bytes[at + 1] = UInt8(value & 0xFF)
  }

  /// Of 16-bit words in network order, the last one filled up with a zero (RFC 1071).
  private static func sum(_ bytes: [UInt8], _ range: Range<Int>) -> UInt64 {
    var total: UInt64 = 0
    for (index, byte) in bytes[range].enumerated() { total += UInt64(byte) << (index & 1 == 0 ? 8 : 0) }
    return total
  }
  private static func pseudoHeader(_ frame: [UInt8], _ ip: Int, _ proto: UInt8, _ length: Int) -> UInt64 {
    sum(frame, isV4(frame, ip) ? ip + 12..<ip + 20 : ip + 8..<ip + 40) + UInt64(proto) + UInt64(length)
  }
  private static func fold(_ sum: UInt64) -> UInt16 {
    var sum = sum
    while sum > 0xFFFF { sum = (sum & 0xFFFF) + (sum >> 16) }
    return UInt16(sum)
  }
}
