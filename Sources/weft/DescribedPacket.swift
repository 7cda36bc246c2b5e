import WeftWire

/// A packet made from a few words.
struct DescribedPacket {
  enum Kind {
    case udp
    case tcp
    case icmp
  }

  let kind: Kind
  let source: IPAddress
  let destination: IPAddress
  let sourcePort: UInt16
  let destinationPort: UInt16
  var tcpFlags = TCP.syn
  /// Bytes of IP packet; nil for the least with a few bytes of payload.
  var length: Int?
  var ttl: UInt8 = 64
  var dscp: UInt8 = 0
  var vlan: UInt16?
  var sourceMAC = MACAddress.zero
  var destinationMAC = MACAddress.virtualRouter

  /// `ends`: source and destination, "address:port" or "[address]:port", for ICMP the address alone.
  init(_ kind: Kind, ends: [String]) throws(Failure) {
    self.kind = kind
    let (source, sourcePort) = try Self.end(ends[0], hasPort: kind != .icmp)
    let (destination, destinationPort) = try Self.end(ends[1], hasPort: kind != .icmp)
    guard source.isV4 == destination.isV4 else {
      throw Failure("\(source) and \(destination) are not of one family")
    }
    self.source = source
    self.destination = destination
    self.sourcePort = sourcePort
    self.destinationPort = destinationPort
  }

  private static func end(_ text: String, hasPort: Bool) throws(Failure) -> (IPAddress, UInt16) {
    guard hasPort else {
      guard let address = IPAddress(text) else { throw Failure("\"\(text)\" is not an IPv4 or IPv6 address") }
      return (address, 0)
    }
    let example = "such as 10.0.0.2:1234 or [fd00::2]:1234"
    guard let colon = text.lastIndex(of: ":"), let port = UInt16(text[text.index(after: colon)...]) else {
      throw Failure("\"\(text)\" has no port; write address:port, \(example)")
    }
    var host = text[..<colon]
    if host.first == "[", host.last == "]" {
      host = host.dropFirst().dropLast()
    } else if host.contains(":") {
      throw Failure("\"\(text)\": an IPv6 address stands in brackets before its port, \(example)")
    }
    guard let address = IPAddress(String(host)) else {
      throw Failure("\"\(host)\" is not an IPv4 or IPv6 address")
    }
    return (address, port)
  }

  /// "syn,ack".
  static func flags(_ text: String) throws(Failure) -> UInt8 {
    let names = ["fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr"]
    var flags: UInt8 = 0
    for name in text.split(separator: ",") {
      guard let bit = names.firstIndex(of: String(name)) else {
        throw Failure("--flags: \"\(name)\" is none of \(names.joined(separator: ", "))")
      }
      flags |= 1 << UInt8(bit)
    }
    return flags
  }

  func frame() throws(Failure) -> [UInt8] {
    let isV4 = source.isV4
    let header = isV4 ? IPv4.minimumBytes : IPv6.bytes
    let transport =
      switch kind {
      case .udp: UDP.bytes
      case .tcp: TCP.minimumBytes
      case .icmp: ICMP.minimumBytes
      }
    let total = length ?? header + transport + (kind == .tcp ? 0 : 4)
    guard (header + transport...65535).contains(total) else {
      throw Failure("--length \(total): such a packet has \(header + transport) to 65535 bytes")
    }
    var frame = sourceAndType(isV4)
    let start = frame.count
    frame += [UInt8](repeating: 0, count: total)
    frame.withUnsafeMutableBytes { buffer in
      guard let base = buffer.baseAddress else { return }
      write(Bytes(base + start), isV4: isV4, header: header, total: total)
    }
    return frame
  }

  private func sourceAndType(_ isV4: Bool) -> [UInt8] {
    var frame: [UInt8] = []
    for mac in [destinationMAC, sourceMAC] {
      for shift in stride(from: 40, through: 0, by: -8) {
        frame.append(UInt8(truncatingIfNeeded: mac.bits >> UInt64(shift)))
      }
    }
    if let vlan { frame += [0x81, 0x00, UInt8(vlan >> 8), UInt8(truncatingIfNeeded: vlan)] }
    let type = isV4 ? Ethernet.ipv4 : Ethernet.ipv6
    return frame + [UInt8(type >> 8), UInt8(truncatingIfNeeded: type)]
  }

  private func write(_ ip: Bytes, isV4: Bool, header: Int, total: Int) {
    let proto =
      switch kind {
      case .udp: IPProtocol.udp
      case .tcp: IPProtocol.tcp
      case .icmp: isV4 ? IPProtocol.icmp : IPProtocol.icmpv6
      }
    if isV4 {
      ip.set16(0, 0x4500 | UInt16(dscp) << 2)
      ip.set16(2, UInt16(total))
      ip.set8(8, ttl)
      ip.set8(9, proto)
      ip.set32(12, source.v4)
      ip.set32(16, destination.v4)
      IPv4.writeChecksum(ip, bytes: header)
    } else {
      ip.set32(0, 0x6000_0000 | UInt32(dscp) << 22)
      ip.set16(4, UInt16(total - header))
      ip.set8(6, proto)
      ip.set8(7, ttl)
      ip.setAddress6(8, source)
      ip.setAddress6(24, destination)
    }
    let message = ip.advanced(header)
    let length = total - header
    var place = UDP.checksum
    switch kind {
    case .udp:
      message.set16(4, UInt16(length))
    case .tcp:
      message.set16(12, 0x5000 | UInt16(tcpFlags))
      message.set16(14, 65535)
      place = TCP.checksum
    case .icmp:
      message.set8(0, isV4 ? ICMP.echoRequest : ICMP.echoRequest6)
      message.set16(4, 1)
      message.set16(6, 1)
      place = 2
    }
    if kind != .icmp {
      message.set16(0, sourcePort)
      message.set16(2, destinationPort)
    }
    let pseudo =
      kind == .icmp && isV4 ? 0 : Checksum.pseudoHeader(ip, isV4: isV4, proto: proto, length: length)
    let value = Checksum.finish(message.sum(0, count: length, pseudo))
    message.set16(place, value == 0 && kind == .udp ? 0xFFFF : value)
  }
}
