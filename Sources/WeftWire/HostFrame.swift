/// A frame with an IP packet, as the router's services read and make it: Ethernet without tags, IPv4 or IPv6 with UDP or
/// ICMPv6. Addresses are of one family.
public struct HostFrame: Hashable, Sendable {
  public enum Payload: Hashable, Sendable {
    case udp(source: UInt16, destination: UInt16, [UInt8])
    /// The message with its checksum, which is written when the frame is made.
    case icmpv6([UInt8])
  }

  public var sourceMAC: MACAddress
  public var destinationMAC: MACAddress
  public var source: IPAddress
  public var destination: IPAddress
  /// TTL or hop limit.
  public var hops: UInt8
  public var payload: Payload

  public init(
    sourceMAC: MACAddress, destinationMAC: MACAddress, source: IPAddress, destination: IPAddress, hops: UInt8 = 64,
    payload: Payload
  ) {
    self.sourceMAC = sourceMAC
    self.destinationMAC = destinationMAC
    self.source = source
    self.destination = destination
    self.hops = hops
    self.payload = payload
  }

  // MARK: reading

  /// Reads a frame. Throws for what is damaged, in fragments, or something else.
  public init(reading frame: [UInt8]) throws(MessageFault) {
    var reader = OctetReader(frame)
    destinationMAC = Self.mac(try reader.octets(6, "destination MAC"))
    sourceMAC = Self.mac(try reader.octets(6, "source MAC"))
    let type = try reader.u16("EtherType")
    let packet = reader.rest()
    let proto: UInt8
    var body: [UInt8]
    switch type {
    case Ethernet.ipv4:
      var ip = OctetReader(packet)
      let first = try ip.u8("IPv4 header")
      let header = Int(first & 0xF) * 4
      guard first >> 4 == 4, header >= IPv4.minimumBytes, header <= packet.count else {
        throw MessageFault("IPv4 header")
      }
      _ = try ip.u8("TOS")
      let length = Int(try ip.u16("total length"))
      guard length >= header, length <= packet.count else { throw MessageFault("total length") }
      _ = try ip.u16("identification")
      guard try ip.u16("fragment") & (IPv4.moreFragments | IPv4.offsetMask) == 0 else { throw MessageFault("fragment") }
      hops = try ip.u8("TTL")
      proto = try ip.u8("protocol")
      _ = try ip.u16("header checksum")
      guard Self.sum(packet[..<header]) == 0xFFFF else { throw MessageFault("IPv4 header checksum") }
      source = try ip.address4("source")
      destination = try ip.address4("destination")
      body = Array(packet[header..<length])
    case Ethernet.ipv6:
      var ip = OctetReader(packet)
      guard try ip.u32("IPv6 header") >> 28 == 6 else { throw MessageFault("IPv6 header") }
      let length = Int(try ip.u16("payload length"))
      var next = try ip.u8("next header")
      hops = try ip.u8("hop limit")
      source = try ip.address6("source")
      destination = try ip.address6("destination")
      guard !source.isV4, !destination.isV4 else { throw MessageFault("an address (IPv4 within IPv6)") }
      body = try ip.octets(length, "payload")
      // Hop-by-hop, routing and destination options.
      var extensions = 0
      while next == IPv6.hopByHop || next == IPv6.routing || next == IPv6.destinationOptions {
        guard body.count >= 8, extensions < 8 else { throw MessageFault("extension headers") }
        let count = (Int(body[1]) + 1) * 8
        guard count <= body.count else { throw MessageFault("extension headers") }
        next = body[0]
        body = Array(body[count...])
        extensions += 1
      }
      proto = next
    default: throw MessageFault("EtherType")
    }
    switch proto {
    case IPProtocol.udp:
      var udp = OctetReader(body)
      let ports = (try udp.u16("source port"), try udp.u16("destination port"))
      let length = Int(try udp.u16("UDP length"))
      guard length >= UDP.bytes, length <= body.count else { throw MessageFault("UDP length") }
      body = Array(body[..<length])
      // Without a checksum in IPv4 only (RFC 768, RFC 8200 section 8.1).
      let isUnsummed = try udp.u16("UDP checksum") == 0 && type == Ethernet.ipv4
      guard isUnsummed || Self.sum(Self.pseudo(source, destination, proto, body.count) + body) == 0xFFFF else {
        throw MessageFault("UDP checksum")
      }
      payload = .udp(source: ports.0, destination: ports.1, Array(body[UDP.bytes...]))
    case IPProtocol.icmpv6 where type == Ethernet.ipv6:
      guard body.count >= 4, Self.sum(Self.pseudo(source, destination, proto, body.count) + body) == 0xFFFF else {
        throw MessageFault("ICMPv6 checksum")
      }
      payload = .icmpv6(body)
    default: throw MessageFault("protocol \(proto)")
    }
  }

  private static func mac(_ octets: [UInt8]) -> MACAddress {
    MACAddress(bits: octets.reduce(0) { $0 << 8 | UInt64($1) })
  }

  /// One's complement sum of 16-bit words (RFC 1071).
  private static func sum(_ octets: some Collection<UInt8>) -> UInt16 {
    var sum: UInt64 = 0
    var isHigh = true
    for octet in octets {
      sum += UInt64(octet) << (isHigh ? 8 : 0)
      isHigh.toggle()
    }
    while sum > 0xFFFF { sum = sum & 0xFFFF + sum >> 16 }
    return UInt16(sum)
  }

  private static func pseudo(_ source: IPAddress, _ destination: IPAddress, _ proto: UInt8, _ length: Int) -> [UInt8] {
    var octets = source.octets + destination.octets
    octets.put32(UInt32(truncatingIfNeeded: length))
    octets.put32(UInt32(proto))
    return octets
  }

  // MARK: making

  /// The frame with right lengths and checksums.
  public var octets: [UInt8] {
    var body: [UInt8] = []
    let proto: UInt8
    let place: Int
    switch payload {
    case .udp(let from, let to, let octets):
      proto = IPProtocol.udp
      place = UDP.checksum
      body.put16(from)
      body.put16(to)
      body.put16(UInt16(truncatingIfNeeded: UDP.bytes + octets.count))
      body.put16(0)
      body += octets
    case .icmpv6(let octets):
      proto = IPProtocol.icmpv6
      place = 2
      body = octets
      body[2] = 0
      body[3] = 0
    }
    var checksum = ~Self.sum(Self.pseudo(source, destination, proto, body.count) + body)
    if checksum == 0, proto == IPProtocol.udp { checksum = 0xFFFF }
    body[place] = UInt8(checksum >> 8)
    body[place + 1] = UInt8(checksum & 0xFF)
    var frame = destinationMAC.octets + sourceMAC.octets
    if source.isV4 {
      frame.put16(Ethernet.ipv4)
      var header: [UInt8] = [0x45, 0]
      header.put16(UInt16(truncatingIfNeeded: IPv4.minimumBytes + body.count))
      header += [0, 0, 0, 0, hops, proto, 0, 0]
      header += source.octets + destination.octets
      let sum = ~Self.sum(header)
      header[10] = UInt8(sum >> 8)
      header[11] = UInt8(sum & 0xFF)
      frame += header
    } else {
      frame.put16(Ethernet.ipv6)
      frame.put32(0x6000_0000)
      frame.put16(UInt16(truncatingIfNeeded: body.count))
      frame += [proto, hops]
      frame.put6(source)
      frame.put6(destination)
    }
    return frame + body
  }
}
