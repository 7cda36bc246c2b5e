import WeftTables
import WeftWire

extension PacketPath {
  /// Reads IP and transport headers, checks them, merges ECN after a tunnel (RFC 6040), makes the flow's key. ARP and
  /// neighbour solicitations are answered here.
  mutating func parse() {
    let batch = batch
    for index in 0..<batch.count {
      guard batch[index].verdict == .forward else { continue }
      switch batch[index].etherType {
      case Ethernet.ipv4: parseIPv4(&batch[index])
      case Ethernet.ipv6: parseIPv6(&batch[index])
      case Ethernet.arp: answerARP(&batch[index])
      case Ethernet.vlan, Ethernet.serviceVLAN: drop(&batch[index], .vlanUnexpected)
      default: drop(&batch[index], .etherTypeUnknown)
      }
    }
  }

  private mutating func parseIPv4(_ packet: inout Packet) {
    let ip = packet.ip
    guard packet.available >= IPv4.minimumBytes else { return drop(&packet, .ipv4Short) }
    let header = IPv4.headerBytes(ip)
    guard ip.u8(0) >> 4 == 4, header >= IPv4.minimumBytes else { return drop(&packet, .ipv4Header) }
    guard header <= packet.available else { return drop(&packet, .ipv4Short) }
    let length = Int(ip.u16(2))
    guard length >= header, length <= packet.available else { return drop(&packet, .ipv4Length) }
    guard Checksum.holds(ip.sum(0, count: header)) else { return drop(&packet, .ipv4Checksum) }
    let source = ip.u32(12)
    let destination = ip.u32(16)
    // Who has no address yet asks everybody for one (RFC 1122 section 3.2.1.3 (a)).
    let isNew = source == 0 && packet.link == .group
    guard isNew || Self.isHost(v4: source) else { return drop(&packet, .sourceInvalid) }
    if packet.conditions.contains(.guarded), !isNew, !isOwn(IPAddress(v4: source), of: packet) {
      return drop(&packet, .spoofedAddress)
    }
    if packet.link != .group {
      if destination >> 28 == 14 || destination == .max { return drop(&packet, .multicast) }
      guard Self.isHost(v4: destination) else { return drop(&packet, .destinationInvalid) }
    }
    packet.isV4 = true
    packet.ipLength = length
    packet.transport = header
    packet.proto = ip.u8(9)
    packet.trafficClass = ip.u8(1)
    packet.isFragment = ip.u16(6) & (IPv4.moreFragments | IPv4.offsetMask) != 0
    if packet.conditions.contains(.served), serveIPv4(&packet) { return }
    if packet.link == .group, !isFlooded(&packet, IPAddress(v4: source), IPAddress(v4: destination)) { return }
    guard mergeECN(&packet) else { return }
    finishParsing(&packet, IPAddress(v4: source), IPAddress(v4: destination))
  }

  private mutating func parseIPv6(_ packet: inout Packet) {
    let ip = packet.ip
    guard packet.available >= IPv6.bytes else { return drop(&packet, .ipv6Short) }
    guard ip.u8(0) >> 4 == 6 else { return drop(&packet, .ipv6Header) }
    let length = IPv6.bytes + Int(ip.u16(4))
    guard length <= packet.available else { return drop(&packet, .ipv6Length) }
    packet.isV4 = false
    packet.ipLength = length
    packet.trafficClass = IPv6.trafficClass(ip)
    guard walkExtensions(&packet) else { return drop(&packet, .ipv6Extension) }
    let source = ip.address6(8)
    let destination = ip.address6(24)
    if packet.conditions.contains(.guarded), let reason = spoofed(packet, source) { return drop(&packet, reason) }
    if packet.proto == IPProtocol.icmpv6, !packet.isFragment, packet.link != .other,
      packet.transport < length, packet.transportHeader.u8(0) == ICMP.neighborSolicitation
    {
      if answerNeighborSolicitation(&packet, source: source, destination: destination) { return }
    }
    if packet.conditions.contains(.served), serveIPv6(&packet) { return }
    let isNew = source.high == 0 && source.low == 0 && packet.link == .group
    guard isNew || Self.isHost(v6: source) else { return drop(&packet, .sourceInvalid) }
    if packet.link != .group {
      if destination.isMulticast { return drop(&packet, .multicast) }
      guard Self.isHost(v6: destination) else { return drop(&packet, .destinationInvalid) }
    }
    if packet.link == .group, !isFlooded(&packet, source, destination) { return }
    guard mergeECN(&packet) else { return }
    finishParsing(&packet, source, destination)
  }

  /// An address that a host can have: not 0.0.0.0/8, loopback, multicast or reserved (RFC 1122 section 3.2.1.3).
  @inline(__always) static func isHost(v4 address: UInt32) -> Bool {
    address >> 28 < 14 && address >> 24 != 127 && address >> 24 != 0
  }

  /// Not multicast, unspecified, loopback or with an IPv4 address inside (RFC 4291 sections 2.5.2, 2.5.3, 2.5.5, all
  /// within ::/80): inside the forwarder the latter stand for IPv4.
  @inline(__always) static func isHost(v6 address: IPAddress) -> Bool {
    address.high >> 56 != 0xFF && (address.high != 0 || address.low >> 48 != 0)
  }

  /// Walks extension headers (RFC 8200 section 4) to the transport header; false when one is cut or there are too many.
  private func walkExtensions(_ packet: inout Packet) -> Bool {
    var next = packet.ip.u8(6)
    var offset = IPv6.bytes
    for _ in 0...IPv6.maximumExtensions {
      switch next {
      case IPv6.hopByHop, IPv6.routing, IPv6.destinationOptions, IPv6.authentication:
        guard offset + 8 <= packet.ipLength else { return false }
        let units = Int(packet.ip.u8(offset + 1))
        let bytes = next == IPv6.authentication ? (units + 2) * 4 : (units + 1) * 8
        guard offset + bytes <= packet.ipLength else { return false }
        next = packet.ip.u8(offset)
        offset += bytes
      case IPv6.fragment:
        guard offset + 8 <= packet.ipLength else { return false }
        packet.isFragment = true
        next = packet.ip.u8(offset)
        offset += 8
        packet.proto = next
        packet.transport = offset
        return true
      default:
        packet.proto = next
        packet.transport = offset
        return true
      }
    }
    return false
  }

  private mutating func finishParsing(_ packet: inout Packet, _ source: IPAddress, _ destination: IPAddress) {
    var sourcePort: UInt16 = 0
    var destinationPort: UInt16 = 0
    packet.payload = packet.transport
    if !packet.isFragment {
      let transport = packet.transportHeader
      let length = packet.ipLength - packet.transport
      switch packet.proto {
      case IPProtocol.tcp:
        guard length >= TCP.minimumBytes else { return drop(&packet, .transportShort) }
        let header = TCP.headerBytes(transport)
        guard header >= TCP.minimumBytes, header <= length else { return drop(&packet, .transportHeader) }
        packet.payload = packet.transport + header
        sourcePort = transport.u16(0)
        destinationPort = transport.u16(2)
      case IPProtocol.udp:
        guard length >= UDP.bytes else { return drop(&packet, .transportShort) }
        let claimed = Int(transport.u16(4))
        guard claimed >= UDP.bytes, claimed <= length else { return drop(&packet, .transportHeader) }
        packet.payload = packet.transport + UDP.bytes
        sourcePort = transport.u16(0)
        destinationPort = transport.u16(2)
      case IPProtocol.sctp:
        guard length >= 12 else { return drop(&packet, .transportShort) }
        sourcePort = transport.u16(0)
        destinationPort = transport.u16(2)
      case IPProtocol.icmp where packet.isV4, IPProtocol.icmpv6 where !packet.isV4:
        guard length >= ICMP.minimumBytes else { return drop(&packet, .transportShort) }
        let type = transport.u8(0)
        let isEcho =
          packet.isV4
          ? type == ICMP.echoRequest || type == ICMP.echoReply
          : type == ICMP.echoRequest6 || type == ICMP.echoReply6
        if isEcho {
          sourcePort = transport.u16(4)
          destinationPort = sourcePort
        }
      default: break
      }
    }
    guard offloadsHold(&packet) else { return drop(&packet, .gsoMalformed) }
    packet.key = FlowKey(
      vrf: packet.vrf, source: source, destination: destination, proto: packet.proto, sourcePort: sourcePort,
      destinationPort: destinationPort)
    packet.hash = packet.key.hash(seed: seed)
    flows.prefetch(packet.hash)
  }

  /// Segments of eight bytes: what policers count one by one has an end.
  private static var segmentLimit: Int { 8192 }

  /// What the virtio-net header asks for fits the packet that it came with; a super-frame's segments are counted.
  @inline(__always) private func offloadsHold(_ packet: inout Packet) -> Bool {
    if packet.needsChecksum {
      guard packet.checksumStart >= packet.transport, packet.checksumOffset >= 0,
        packet.checksumStart + packet.checksumOffset + 2 <= packet.ipLength, !packet.isFragment
      else { return false }
    }
    guard packet.gso != VirtioNetHeader.gsoNone else { return true }
    let fits =
      switch packet.gso {
      case VirtioNetHeader.gsoTCPv4: packet.isV4 && packet.proto == IPProtocol.tcp
      case VirtioNetHeader.gsoTCPv6: !packet.isV4 && packet.proto == IPProtocol.tcp
      case VirtioNetHeader.gsoUDP: packet.proto == IPProtocol.udp
      default: false
      }
    // Where TCP's checksum is, and UDP's. The kernel refuses others, and a guest may write what it likes.
    let checksumOffset = packet.proto == IPProtocol.tcp ? TCP.checksum : UDP.checksum
    guard fits, packet.needsChecksum, packet.checksumStart == packet.transport,
      packet.checksumOffset == checksumOffset, packet.gsoBytes > 0
    else { return false }
    packet.segments = max(1, (packet.ipLength - packet.payload + packet.gsoBytes - 1) / packet.gsoBytes)
    return packet.segments <= Self.segmentLimit
  }

  /// After a tunnel: the inner ECN field by the outer one. False when the packet had to be dropped.
  @inline(__always) private mutating func mergeECN(_ packet: inout Packet) -> Bool {
    guard packet.fromFabric, packet.outerECN != ECN.notECT else { return true }
    let inner = packet.trafficClass & ECN.mask
    guard let merged = ECN.decapsulated(inner: inner, outer: packet.outerECN) else {
      drop(&packet, .ecnInvalid)
      return false
    }
    guard merged != inner else { return true }
    packet.trafficClass = packet.trafficClass & ~ECN.mask | merged
    Self.setTrafficClass(packet, packet.trafficClass)
    return true
  }
}
