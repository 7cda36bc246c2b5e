import WeftWire

/// A frame in one line: who speaks to whom about what, inside a tunnel too.
struct FrameSummary {
  let text: String

  /// `length`: bytes of the whole frame, of which `frame` may be the first.
  init(_ frame: [UInt8], length: Int) { text = Self.ethernet(frame[...]) }

  private static func number(_ bytes: ArraySlice<UInt8>, _ at: Int, _ count: Int) -> UInt64? {
    guard at + count <= bytes.count else { return nil }
    return bytes.dropFirst(at).prefix(count).reduce(0) { $0 << 8 | UInt64($1) }
  }

  private static func ethernet(_ frame: ArraySlice<UInt8>) -> String {
    guard let destination = number(frame, 0, 6), let source = number(frame, 6, 6), var type = number(frame, 12, 2)
    else {
      return "a frame that is cut"
    }
    var at = 14
    var tags = ""
    while type == UInt64(Ethernet.vlan) || type == UInt64(Ethernet.serviceVLAN), let tag = number(frame, at, 2),
      let next = number(frame, at + 2, 2)
    {
      tags += "vlan \(tag & 0xFFF), "
      type = next
      at += 4
    }
    let packet = frame.dropFirst(at)
    switch UInt16(type) {
    case Ethernet.ipv4, Ethernet.ipv6: return tags + ip(packet)
    case Ethernet.arp: return tags + arp(packet)
    default:
      return tags + "\(MACAddress(bits: source)) > \(MACAddress(bits: destination)), ethertype 0x"
        + String(type, radix: 16)
    }
  }

  private static func arp(_ packet: ArraySlice<UInt8>) -> String {
    guard let operation = number(packet, 6, 2), let sender = number(packet, 14, 4), let target = number(packet, 24, 4)
    else { return "ARP that is cut" }
    let who = IPAddress(v4: UInt32(target))
    let tell = IPAddress(v4: UInt32(sender))
    return operation == 1 ? "ARP, who has \(who), tell \(tell)" : "ARP, \(tell) is at the sender's"
  }

  private static func ip(_ packet: ArraySlice<UInt8>) -> String {
    guard let version = number(packet, 0, 1) else { return "IP that is cut" }
    let source: IPAddress
    let destination: IPAddress
    let proto: UInt8
    let header: Int
    switch version >> 4 {
    case 4:
      guard let a = number(packet, 12, 4), let b = number(packet, 16, 4), let next = number(packet, 9, 1) else {
        return "IPv4 that is cut"
      }
      source = IPAddress(v4: UInt32(a))
      destination = IPAddress(v4: UInt32(b))
      proto = UInt8(next)
      header = Int(version & 15) * 4
      if let fragment = number(packet, 6, 2), fragment & 0x1FFF != 0 {
        return "\(source) > \(destination), fragment of protocol \(proto)"
      }
    case 6:
      guard let a = number(packet, 8, 8), let b = number(packet, 16, 8), let c = number(packet, 24, 8),
        let d = number(packet, 32, 8), let next = number(packet, 6, 1)
      else { return "IPv6 that is cut" }
      source = IPAddress(high: a, low: b)
      destination = IPAddress(high: c, low: d)
      proto = UInt8(next)
      header = 40
    default: return "IP of version \(version >> 4)"
    }
    let rest = packet.dropFirst(header)
    func end(_ address: IPAddress, _ port: UInt64) -> String {
      address.isV4 ? "\(address):\(port)" : "[\(address)]:\(port)"
    }
    guard let from = number(rest, 0, 2), let to = number(rest, 2, 2) else {
      return "\(source) > \(destination), protocol \(proto)"
    }
    switch proto {
    case IPProtocol.tcp:
      let names = ["F", "S", "R", "P", ".", "U", "E", "C"]
      let flags = number(rest, 13, 1) ?? 0
      let shown = names.indices.filter { flags >> UInt64($0) & 1 == 1 }.map { names[$0] }.joined()
      return "\(end(source, from)) > \(end(destination, to)), TCP [\(shown)]"
    case IPProtocol.udp where to == UInt64(VXLAN.port):
      guard let vni = number(rest, 12, 3) else { break }
      return "\(source) > \(destination), VXLAN \(vni): " + ethernet(rest.dropFirst(16))
    case IPProtocol.udp where to == UInt64(MPLS.port):
      guard let label = number(rest, 8, 4) else { break }
      return "\(source) > \(destination), MPLS \(label >> 12): " + ip(rest.dropFirst(12))
    case IPProtocol.udp: return "\(end(source, from)) > \(end(destination, to)), UDP"
    case IPProtocol.sctp: return "\(end(source, from)) > \(end(destination, to)), SCTP"
    case IPProtocol.gre where to == UInt64(GRE.mpls):
      guard let label = number(rest, 4, 4) else { break }
      return "\(source) > \(destination), MPLS \(label >> 12): " + ip(rest.dropFirst(8))
    case IPProtocol.icmp, IPProtocol.icmpv6:
      return "\(source) > \(destination), \(proto == 1 ? "ICMP" : "ICMPv6") type \(from >> 8) code \(from & 0xFF)"
    default: break
    }
    return "\(source) > \(destination), protocol \(proto)"
  }
}
