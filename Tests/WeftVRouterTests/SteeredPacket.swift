import WeftTables
import WeftWire

/// An IP packet, what the key of its flow is, and tunnels around it: built here, without the forwarder's own parsers.
struct SteeredPacket {
  enum Kind: CaseIterable {
    case tcp, udp, sctp, echo, error, errorOfEcho, errorOfFragment, otherError, esp, firstFragment, lastFragment
  }
  enum Tunnel: CaseIterable { case vxlan, mplsOverUDP, mplsOverGRE, greWithFields, ethernetOverMPLS }

  static let kinds = Kind.allCases
  static let tunnels = Tunnel.allCases

  var kind: Kind
  var source: IPAddress
  var destination: IPAddress
  var sourcePort: UInt16
  var destinationPort: UInt16
  var identification: UInt32
  /// 32-bit words of IPv4 options, or IPv6 extension headers.
  var extras: Int
  var payload: Int

  static func random(_ random: inout RaceRandom) -> SteeredPacket {
    let isV4 = random.chance(50)
    func address() -> IPAddress {
      isV4
        ? IPAddress(v4: UInt32(random.next(1 << 32)))
        : IPAddress(high: 0x2001 << 48 | UInt64(random.next(1 << 48)), low: UInt64(random.next(.max)))
    }
    return SteeredPacket(
      kind: kinds[random.next(kinds.count)], source: address(), destination: address(),
      sourcePort: UInt16(random.next(65536)), destinationPort: UInt16(random.next(65536)),
      identification: UInt32(random.next(isV4 ? 1 << 16 : 1 << 32)),
      extras: random.chance(30) ? random.next(isV4 ? 11 : 5) : 0, payload: random.next(64))
  }

  var isV4: Bool { source.isV4 }
  var what: String { "\(kind) of IPv\(isV4 ? 4 : 6)" }

  /// Which worker it belongs to.
  func owner(_ owner: FlowOwner) -> Int {
    let icmp = isV4 ? IPProtocol.icmp : IPProtocol.icmpv6
    func key(_ proto: UInt8, _ one: UInt16, _ two: UInt16) -> Int {
      owner.worker(
        FlowKey(
          vrf: 3, source: source, destination: destination, proto: proto, sourcePort: one, destinationPort: two))
    }
    func quoted(_ proto: UInt8, _ one: UInt16, _ two: UInt16) -> Int {
      owner.worker(
        FlowKey(
          vrf: 3, source: destination, destination: Self.far(isV4), proto: proto, sourcePort: one, destinationPort: two)
      )
    }
    switch kind {
    case .tcp: return key(IPProtocol.tcp, sourcePort, destinationPort)
    case .udp: return key(IPProtocol.udp, sourcePort, destinationPort)
    case .sctp: return key(IPProtocol.sctp, sourcePort, destinationPort)
    case .echo: return key(icmp, sourcePort, sourcePort)
    case .error: return quoted(IPProtocol.tcp, destinationPort, sourcePort)
    case .errorOfEcho: return quoted(icmp, sourcePort, sourcePort)
    case .errorOfFragment: return quoted(IPProtocol.udp, 0, 0)
    // Quotes a packet of the other family.
    case .otherError: return key(icmp, 0, 0)
    case .esp: return key(50, 0, 0)
    case .firstFragment, .lastFragment:
      return owner.worker(
        FragmentKey(
          vrf: 3, source: source, destination: destination, identification: identification, proto: IPProtocol.udp))
    }
  }

  /// What the receiver sends back; nil where that says nothing.
  var answer: SteeredPacket? {
    guard [.tcp, .udp, .sctp, .echo, .esp].contains(kind) else { return nil }
    var answer = self
    (answer.source, answer.destination) = (destination, source)
    if kind != .echo { (answer.sourcePort, answer.destinationPort) = (destinationPort, sourcePort) }
    return answer
  }

  private static func far(_ isV4: Bool) -> IPAddress {
    isV4 ? IPAddress("203.0.113.77")! : IPAddress("2001:db8:77::77")!
  }

  // MARK: bytes

  private static func octets(_ value: Int, _ count: Int) -> [UInt8] {
    (0..<count).map { UInt8(truncatingIfNeeded: value >> (8 * (count - 1 - $0))) }
  }

  /// The IP packet.
  var packet: [UInt8] {
    let data = [UInt8](repeating: 0x66, count: payload)
    let ports = Self.octets(Int(sourcePort), 2) + Self.octets(Int(destinationPort), 2)
    let icmp = isV4 ? IPProtocol.icmp : IPProtocol.icmpv6
    let udp = ports + Self.octets(8 + payload, 2) + [0, 0] + data
    switch kind {
    case .tcp:
      return ip(IPProtocol.tcp, ports + [UInt8](repeating: 1, count: 8) + [0x50, 0x10, 1, 1, 0, 0, 0, 0] + data)
    case .udp: return ip(IPProtocol.udp, udp)
    case .sctp: return ip(IPProtocol.sctp, ports + [UInt8](repeating: 2, count: 8) + data)
    case .echo:
      return ip(icmp, [isV4 ? 8 : 128, 0, 0, 0] + Self.octets(Int(sourcePort), 2) + [0, 1] + data)
    case .error:
      let quoted = Self.octets(Int(destinationPort), 2) + Self.octets(Int(sourcePort), 2) + [0, 0, 0, 1]
      return ip(icmp, error + quote(IPProtocol.tcp, quoted))
    case .errorOfEcho:
      let quoted = [isV4 ? 0 : 129, 0, 0, 0] + Self.octets(Int(sourcePort), 2) + [0, 1]
      return ip(icmp, error + quote(icmp, quoted))
    case .errorOfFragment:
      return ip(icmp, error + quote(IPProtocol.udp, [UInt8](repeating: 9, count: 8), fragment: 8))
    case .otherError: return ip(icmp, error + [isV4 ? 0x60 : 0x45] + [UInt8](repeating: 3, count: 60))
    case .esp: return ip(50, [UInt8](repeating: 5, count: 16) + data)
    case .firstFragment: return ip(IPProtocol.udp, udp + [UInt8](repeating: 0, count: 16), fragment: 1)
    case .lastFragment: return ip(IPProtocol.udp, data + [7], fragment: 64 << 3)
    }
  }

  /// The head of an ICMP error: time exceeded.
  private var error: [UInt8] { [isV4 ? 11 : 3, 0, 0, 0, 0, 0, 0, 0] }

  /// What this packet's receiver has sent.
  private func quote(_ proto: UInt8, _ transport: [UInt8], fragment: Int? = nil) -> [UInt8] {
    var quoted = self
    (quoted.source, quoted.destination) = (destination, Self.far(isV4))
    return quoted.ip(proto, transport, fragment: fragment)
  }

  /// `fragment`: offset and, in the lowest bit, that more follow.
  private func ip(_ proto: UInt8, _ transport: [UInt8], fragment: Int? = nil) -> [UInt8] {
    guard isV4 else {
      var headers: [UInt8] = []
      var next = proto
      if let fragment {
        headers = [next, 0] + Self.octets(fragment & ~7 | fragment & 1, 2) + Self.octets(Int(identification), 4)
        next = IPv6.fragment
      }
      for number in 0..<extras {
        let type = [IPv6.hopByHop, IPv6.routing, IPv6.destinationOptions, IPv6.authentication][number % 4]
        let length = type == IPv6.authentication ? 4 : number % 3
        let bytes = type == IPv6.authentication ? (length + 2) * 4 : (length + 1) * 8
        headers = [next, UInt8(length)] + [UInt8](repeating: 0, count: bytes - 2) + headers
        next = type
      }
      var header: [UInt8] = [0x60, 0, 0, 0] + Self.octets(headers.count + transport.count, 2) + [next, 64]
      header += [UInt8](repeating: 0, count: 32)
      header.set(8, source)
      header.set(24, destination)
      return header + headers + transport
    }
    let bytes = 20 + 4 * extras
    var header: [UInt8] = [0x40 | UInt8(bytes / 4), 0] + Self.octets(bytes + transport.count, 2)
    header += Self.octets(Int(identification & 0xFFFF), 2)
    let flags = fragment.map { $0 >> 3 | ($0 & 1 != 0 ? 0x2000 : 0) } ?? 0x4000
    header += Self.octets(flags, 2) + [64, proto, 0, 0] + [UInt8](repeating: 0, count: 8)
    header.set(12, source)
    header.set(16, destination)
    return header + [UInt8](repeating: 1, count: 4 * extras) + transport
  }

  /// In an Ethernet frame.
  var ethernet: [UInt8] { [0, 0, 0x5E, 0, 1, 0, 2, 0, 0, 0, 0, 9] + (isV4 ? [0x08, 0x00] : [0x86, 0xDD]) + packet }

  /// In a tunnel, over IPv4 or IPv6.
  func tunneled(_ random: inout RaceRandom) -> (frame: [UInt8], tunnel: String) {
    let tunnel = Self.tunnels[random.next(Self.tunnels.count)]
    let overV4 = random.chance(50)
    let label: [UInt8] = [0x12, 0x34, 0x51, 64]
    let gre: [UInt8]
    var inner: [UInt8]
    var proto = IPProtocol.udp
    switch tunnel {
    case .vxlan:
      (gre, inner) = ([], [8, 0, 0, 0, 0, 1, 2, 0] + ethernet)
    case .mplsOverUDP: (gre, inner) = ([], label + packet)
    case .ethernetOverMPLS: (gre, inner) = ([], label + ethernet)
    case .mplsOverGRE: (gre, inner, proto) = ([0, 0, 0x88, 0x47], label + packet, IPProtocol.gre)
    case .greWithFields:
      let flags = random.next(7) + 1
      var head: [UInt8] = [(flags & 1 != 0 ? 0x80 : 0) | (flags & 2 != 0 ? 0x20 : 0) | (flags & 4 != 0 ? 0x10 : 0), 0]
      head += [0x88, 0x47] + [UInt8](repeating: 0x44, count: 4 * flags.nonzeroBitCount)
      (gre, inner, proto) = (head, label + packet, IPProtocol.gre)
    }
    if proto == IPProtocol.udp {
      let port = tunnel == .vxlan ? 4789 : 6635
      inner =
        Self.octets(49152 + random.next(16384), 2) + Self.octets(port, 2) + Self.octets(8 + inner.count, 2) + [0, 0]
        + inner
    } else {
      inner = gre + inner
    }
    let outer = SteeredPacket(
      kind: .esp, source: overV4 ? IPAddress("192.0.2.2")! : IPAddress("2001:db8::2")!,
      destination: overV4 ? IPAddress("192.0.2.1")! : IPAddress("2001:db8::1")!, sourcePort: 0, destinationPort: 0,
      identification: 1, extras: overV4 && random.chance(20) ? 3 : 0, payload: 0
    ).ip(proto, inner)
    let head: [UInt8] = [2, 0, 0, 0, 0, 0xF0, 2, 0, 0, 0, 0, 0xF2] + (overV4 ? [0x08, 0x00] : [0x86, 0xDD])
    return (head + outer, "\(tunnel) over IPv\(overV4 ? 4 : 6)")
  }

  /// A frame with tags.
  static func tag(_ frame: [UInt8], _ tags: [(type: Int, tag: Int)]) -> [UInt8] {
    frame[..<12] + tags.flatMap { octets($0.type, 2) + octets($0.tag, 2) } + frame[12...]
  }

  /// The key of a tunnel's own packet.
  static func outer(_ frame: [UInt8]) -> FlowKey? {
    let isV4 = frame[12] == 8
    let start = 14
    let transport = isV4 ? start + Int(frame[start] & 15) * 4 : start + 40
    func address(_ at: Int) -> IPAddress { IPAddress(octets: Array(frame[at..<at + (isV4 ? 4 : 16)]))! }
    let proto = frame[isV4 ? start + 9 : start + 6]
    let hasPorts = proto == IPProtocol.udp
    return FlowKey(
      vrf: 0, source: address(start + (isV4 ? 12 : 8)), destination: address(start + (isV4 ? 16 : 24)), proto: proto,
      sourcePort: hasPorts ? UInt16(frame.get16(transport)) : 0,
      destinationPort: hasPorts ? UInt16(frame.get16(transport + 2)) : 0)
  }
}
