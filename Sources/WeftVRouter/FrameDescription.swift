import WeftRing
import WeftWire

/// The outermost headers of a frame in words, as far as it has them.
struct FrameDescription {
  private(set) var ethernet: [TraceStep.Field?] = []
  /// IP, and the tunnel's header if there is one.
  private(set) var outer: [TraceStep.Field?] = []

  init(_ frame: [UInt8]) {
    guard frame.count >= Ethernet.bytes else { return }
    func number(_ at: Int, _ bytes: Int) -> UInt64 {
      guard at + bytes <= frame.count else { return 0 }
      return frame[at..<at + bytes].reduce(0) { $0 << 8 | UInt64($1) }
    }
    ethernet = [
      .text("source-mac", MACAddress(bits: number(6, 6)).description),
      .text("destination-mac", MACAddress(bits: number(0, 6)).description),
    ]
    var type = UInt16(number(12, 2))
    var at = Ethernet.bytes
    while type == Ethernet.vlan || type == Ethernet.serviceVLAN, at + 4 <= frame.count {
      ethernet.append(.number("vlan", number(at, 2) & 0xFFF))
      type = UInt16(number(at + 2, 2))
      at += 4
    }
    let proto: UInt8
    let next: Int
    switch type {
    case Ethernet.ipv4:
      guard at + IPv4.minimumBytes <= frame.count else { return }
      outer = [
        .text("source", IPAddress(v4: UInt32(number(at + 12, 4))).description),
        .text("destination", IPAddress(v4: UInt32(number(at + 16, 4))).description),
      ]
      proto = frame[at + 9]
      next = at + Int(frame[at] & 15) * 4
    case Ethernet.ipv6:
      guard at + IPv6.bytes <= frame.count else { return }
      func address(_ at: Int) -> IPAddress { IPAddress(high: number(at, 8), low: number(at + 8, 8)) }
      outer = [
        .text("source", address(at + 8).description), .text("destination", address(at + 24).description),
      ]
      proto = frame[at + 6]
      next = at + IPv6.bytes
    default:
      ethernet.append(.text("ethertype", "0x" + String(type, radix: 16)))
      return
    }
    switch proto {
    case IPProtocol.udp where next + UDP.bytes + 8 <= frame.count && number(next + 2, 2) == UInt64(VXLAN.port):
      outer += [.text("tunnel", "vxlan"), .number("vni", number(next + UDP.bytes + 4, 3))]
      outer.append(.number("source-port", number(next, 2)))
    case IPProtocol.udp where next + UDP.bytes + 4 <= frame.count && number(next + 2, 2) == UInt64(MPLS.port):
      outer += [.text("tunnel", "mpls-over-udp"), .number("label", number(next + UDP.bytes, 4) >> 12)]
      outer.append(.number("source-port", number(next, 2)))
    case IPProtocol.gre where next + 8 <= frame.count && number(next, 4) == UInt64(GRE.mpls):
      outer += [.text("tunnel", "mpls-over-gre"), .number("label", number(next + GRE.bytes, 4) >> 12)]
    default: outer.append(.number("protocol", proto))
    }
  }
}
