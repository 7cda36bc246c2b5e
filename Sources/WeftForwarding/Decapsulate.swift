import WeftTables
import WeftWire

extension PacketPath {
  /// Frames from the fabric: outer headers are checked and taken off (RFC 7348, RFC 7510, RFC 4023). A UDP super-frame becomes as
  /// many packets as it has segments, each with a tunnel header of its own.
  mutating func decapsulate(
    _ frames: RxFrames, from first: Int, _ id: UInt32, _ interface: EntryReference<InterfaceEntry>
  ) {
    let takesTags = interface.entry.takesTags
    learnsRemote = interface.entry.conditions.contains(.learned)
    for index in first..<frames.count {
      let frame = frames[index]
      if takesTags, frame.length >= Ethernet.bytes, Ethernet.isTag(frame.bytes.u16(Ethernet.type)) {
        decapsulateTagged(frame, index, id, interface)
      } else {
        decapsulate(frame, id, interface)
      }
    }
  }

  @inline(__always)
  private mutating func decapsulate(_ frame: RxFrame, _ id: UInt32, _ interface: EntryReference<InterfaceEntry>) {
    let isSuper = frame.virtio.gso & ~VirtioNetHeader.gsoECN == VirtioNetHeader.gsoUDP
    var outer = OuterHeaders()
    let problem = outer.read(frame, interface)
    let stride = isSuper ? Int(frame.virtio.gsoBytes) : outer.payloadBytes
    let segments = isSuper && stride > 0 ? max(1, (outer.payloadBytes + stride - 1) / stride) : 1
    received(id, packets: segments, bytes: frame.length)
    if let problem {
      lose(problem, id, packets: segments, frame)
      return
    }
    guard segments <= 128, !isSuper || stride > 0, batch.count + segments <= Batch.capacity else {
      lose(.gsoMalformed, id, packets: segments, frame)
      return
    }
    var offset = outer.payload
    var left = outer.payloadBytes
    for _ in 0..<segments {
      let length = min(stride, left)
      let tunnel = frame.bytes.advanced(offset)
      if outer.port == VXLAN.port {
        openVXLAN(tunnel, length, id, outer, isSuper ? nil : frame, frame, offset)
      } else {
        openMPLS(tunnel, length, id, outer, isSuper ? nil : frame, frame, offset)
      }
      offset += length
      left -= length
    }
  }

  /// A frame with a tag: of a server in a VLAN, or of an underlay in one.
  @inline(never)
  private mutating func decapsulateTagged(
    _ tagged: RxFrame, _ index: Int, _ id: UInt32, _ interface: EntryReference<InterfaceEntry>
  ) {
    var frame = tagged
    switch untag(&frame, index, on: id) {
    case .parents: decapsulate(frame, id, interface)
    case .subinterface(let number):
      guard let other = tables.interface(number), other.entry.isFabric else {
        return receive(frame, subinterface: number, parent: id)
      }
      ask(other)
      if other.entry.isWatched { arrived(frame, number, other) }
      decapsulate(frame, number, other)
    case .dropped(let reason): dropFrame(tagged, reason, id)
    }
  }

  /// `whole` is what came in; but for a super-frame its virtio-net header speaks of the inner packet.
  private mutating func openVXLAN(
    _ at: Bytes, _ length: Int, _ interface: UInt32, _ outer: OuterHeaders, _ frame: RxFrame?, _ whole: RxFrame,
    _ offset: Int
  ) {
    guard length >= VXLAN.bytes else { return lose(.vxlanShort, interface, packets: 1, whole) }
    guard at.u8(0) & 0x08 != 0 else { return lose(.vxlanFlags, interface, packets: 1, whole) }
    let number = tables.vnis[at.u32(4) >> 8]
    guard number != 0 else { return lose(.unknownVNI, interface, packets: 1, whole) }
    let inner = length - VXLAN.bytes
    guard inner >= Ethernet.bytes else { return lose(.shortFrame, interface, packets: 1, whole) }
    let ethernet = at.advanced(VXLAN.bytes)
    var packet = Packet(
      ethernet: ethernet, ip: ethernet.advanced(Ethernet.bytes), available: inner - Ethernet.bytes,
      interface: interface, hasEthernet: true, outerECN: outer.ecn)
    packet.outer = whole.bytes
    packet.priority = whole.priority
    packet.vni = at.u32(4) >> 8
    classify(&packet)
    enter(packet, nexthop: number - 1, frame, offset + VXLAN.bytes + Ethernet.bytes, outer)
  }

  private mutating func openMPLS(
    _ at: Bytes, _ length: Int, _ interface: UInt32, _ outer: OuterHeaders, _ frame: RxFrame?, _ whole: RxFrame,
    _ offset: Int
  ) {
    guard length >= MPLS.bytes else { return lose(.mplsShort, interface, packets: 1, whole) }
    let entry = at.u32(0)
    guard entry & MPLS.bottomOfStack != 0 else { return lose(.mplsStack, interface, packets: 1, whole) }
    let number = tables.labels[entry >> 12]
    guard number != 0 else { return lose(.unknownLabel, interface, packets: 1, whole) }
    let ip = at.advanced(MPLS.bytes)
    let inner = length - MPLS.bytes
    guard inner > 0 else { return lose(.mplsShort, interface, packets: 1, whole) }
    if let nexthop = tables.nexthop(number - 1), nexthop.entry.kind == .l2Receive {
      // An Ethernet frame (RFC 7432 section 12, without a control word).
      guard inner >= Ethernet.bytes else { return lose(.shortFrame, interface, packets: 1, whole) }
      var packet = Packet(
        ethernet: ip, ip: ip.advanced(Ethernet.bytes), available: inner - Ethernet.bytes, interface: interface,
        hasEthernet: true, outerECN: outer.ecn)
      packet.outer = whole.bytes
      packet.priority = whole.priority
      classify(&packet)
      return enter(packet, nexthop: number - 1, frame, offset + MPLS.bytes + Ethernet.bytes, outer)
    }
    var packet = Packet(
      ethernet: ip, ip: ip, available: inner, interface: interface, hasEthernet: false, outerECN: outer.ecn)
    packet.priority = whole.priority
    packet.exp = UInt8(truncatingIfNeeded: entry >> 9) & 7
    // No Ethernet header says what it is; the first four bits do (RFC 3032 section 3.6 leaves it to the label).
    packet.etherType = ip.u8(0) >> 4 == 4 ? Ethernet.ipv4 : ip.u8(0) >> 4 == 6 ? Ethernet.ipv6 : 0
    enter(packet, nexthop: number - 1, frame, offset + MPLS.bytes, outer)
  }

  /// Puts an inner packet into the VRF that its VNI or label leads to.
  private mutating func enter(
    _ opened: Packet, nexthop id: UInt32, _ frame: RxFrame?, _ ipOffset: Int, _ outer: OuterHeaders
  ) {
    var packet = opened
    let shim = outer.port == VXLAN.port ? VXLAN.bytes + Ethernet.bytes : MPLS.bytes
    packet.outerDSCP = outer.dscp
    packet.overhead = UInt16(truncatingIfNeeded: outer.payload + shim)
    guard let nexthop = tables.nexthop(id) else { return drop(&packet, .nexthopInvalid) }
    switch nexthop.entry.kind {
    case .vrfTranslate, .l2Receive, .l3Receive:
      packet.vrf = nexthop.entry.vrf
      guard tables.hasVRF(packet.vrf) else { return drop(&packet, .noVRF) }
      if nexthop.entry.kind != .vrfTranslate {
        packet.conditions = nexthop.entry.kind == .l2Receive ? .notRouted : .notBridged
        if packet.link == .router, packet.conditions.contains(.notRouted) { return drop(&packet, .routingOff) }
        if packet.link == .other, packet.conditions.contains(.notBridged) { return drop(&packet, .bridgingOff) }
      }
      if learnsRemote, packet.vni != Packet.none, tables.vrfBits[packet.vrf] & VRFBits.learns.rawValue != 0 {
        learn(packet, behind: packet.outerSource, vni: packet.vni)
      }
    case .encap:
      // A label of one interface: no lookup. The VRF is the interface's, for the flow's key.
      packet.path = Path(nexthop: id, label: 0)
      packet.hasPath = true
      packet.vrf = tables.interface(nexthop.entry.interface)?.entry.vrf ?? 0
      if packet.link == .other { packet.link = .router }
    case .discard: return drop(&packet, .discardNexthop)
    default: return drop(&packet, .nexthopInvalid)
    }
    if let frame {
      let virtio = frame.virtio
      let start = Int(virtio.checksumStart) - ipOffset
      // A checksum that starts in the outer headers has been taken off with them.
      if virtio.flags & VirtioNetHeader.needsChecksum != 0, start > 0 {
        packet.needsChecksum = true
        packet.checksumStart = start
        packet.checksumOffset = Int(virtio.checksumOffset)
        packet.gso = virtio.gso & ~VirtioNetHeader.gsoECN
        packet.gsoBytes = Int(virtio.gsoBytes)
      }
    }
    batch.append(packet)
  }
}

/// What the headers around a tunnel say.
private struct OuterHeaders {
  /// Destination port: the tunnel's kind. MPLS-over-GRE counts as MPLS-over-UDP.
  var port: UInt16 = 0
  /// From the frame's start to what follows the UDP header.
  var payload = 0
  var payloadBytes = 0
  var ecn: UInt8 = 0
  var dscp: UInt8 = 0

  /// Reads and checks; a reason to drop, or nil.
  mutating func read(_ frame: RxFrame, _ interface: EntryReference<InterfaceEntry>) -> DropReason? {
    guard frame.length >= Ethernet.bytes else { return .shortFrame }
    let bytes = frame.bytes
    let ip = bytes.advanced(Ethernet.bytes)
    let available = frame.length - Ethernet.bytes
    let isV4: Bool
    let ipHeader: Int
    let ipLength: Int
    let proto: UInt8
    switch bytes.u16(Ethernet.type) {
    case Ethernet.ipv4:
      isV4 = true
      guard available >= IPv4.minimumBytes else { return .outerShort }
      ipHeader = IPv4.headerBytes(ip)
      ipLength = Int(ip.u16(2))
      guard ip.u8(0) >> 4 == 4, ipHeader >= IPv4.minimumBytes, ipLength >= ipHeader else { return .outerHeader }
      guard ipLength <= available else { return .outerShort }
      guard Checksum.holds(ip.sum(0, count: ipHeader)) else { return .outerChecksum }
      proto = ip.u8(9)
      ecn = ip.u8(1) & ECN.mask
      dscp = ip.u8(1) >> 2
    case Ethernet.ipv6:
      isV4 = false
      guard available >= IPv6.bytes else { return .outerShort }
      ipHeader = IPv6.bytes
      ipLength = IPv6.bytes + Int(ip.u16(4))
      guard ip.u8(0) >> 4 == 6 else { return .outerHeader }
      guard ipLength <= available else { return .outerShort }
      if ip.u8(6) == IPv6.fragment { return .outerFragment }
      proto = ip.u8(6)
      ecn = IPv6.trafficClass(ip) & ECN.mask
      dscp = IPv6.trafficClass(ip) >> 2
    case Ethernet.vlan, Ethernet.serviceVLAN: return .vlanUnexpected
    default: return .notTunnel
    }
    guard proto == IPProtocol.udp || proto == IPProtocol.gre else { return .notTunnel }
    let isOurs =
      bytes.mac(Ethernet.destination) == interface.entry.mac
      && interface.entry.owns(isV4 ? IPAddress(v4: ip.u32(16)) : ip.address6(24))
    if isV4 {
      let fragment = ip.u16(6) & (IPv4.moreFragments | IPv4.offsetMask)
      if fragment != 0 { return isOurs ? .outerFragment : .outerNotOurs }
    }
    if proto == IPProtocol.gre {
      return readGRE(ip.advanced(ipHeader), ipLength - ipHeader, Ethernet.bytes + ipHeader, isOurs: isOurs, frame)
    }
    guard ipLength - ipHeader >= UDP.bytes else { return .outerShort }
    let udp = ip.advanced(ipHeader)
    port = udp.u16(2)
    guard port == VXLAN.port || port == MPLS.port else { return .notTunnel }
    guard isOurs else { return .outerNotOurs }
    let udpLength = Int(udp.u16(4))
    guard udpLength >= UDP.bytes, udpLength <= ipLength - ipHeader else { return .outerUDPLength }
    payload = Ethernet.bytes + ipHeader + UDP.bytes
    payloadBytes = udpLength - UDP.bytes
    // Zero means none, also over IPv6 (RFC 6935, RFC 6936). An unfinished checksum, ours or the inner packet's,
    // comes from this machine and covers nothing that could be checked; a verified one needs no second look.
    guard frame.virtio.flags & (VirtioNetHeader.needsChecksum | VirtioNetHeader.dataValid) == 0, udp.u16(6) != 0
    else { return nil }
    let sum = Checksum.pseudoHeader(ip, isV4: isV4, proto: IPProtocol.udp, length: udpLength)
    return Checksum.holds(udp.sum(0, count: udpLength, sum)) ? nil : .outerChecksum
  }

  /// GRE with or without a checksum, key and sequence number, of which only the first is looked at (RFC 4023 section 3).
  private mutating func readGRE(
    _ gre: Bytes, _ length: Int, _ offset: Int, isOurs: Bool, _ frame: RxFrame
  ) -> DropReason? {
    guard length >= GRE.bytes else { return .outerShort }
    guard gre.u16(2) == GRE.mpls else { return .notTunnel }
    guard isOurs else { return .outerNotOurs }
    let flags = gre.u16(0)
    guard flags & ~(GRE.hasChecksum | GRE.hasKey | GRE.hasSequence) == 0,
      frame.virtio.gso & ~VirtioNetHeader.gsoECN != VirtioNetHeader.gsoUDP
    else { return .outerHeader }
    var header = GRE.bytes
    if flags & GRE.hasChecksum != 0 { header += 4 }
    if flags & GRE.hasKey != 0 { header += 4 }
    if flags & GRE.hasSequence != 0 { header += 4 }
    guard length >= header else { return .outerShort }
    if flags & GRE.hasChecksum != 0, !Checksum.holds(gre.sum(0, count: length)) { return .outerChecksum }
    port = MPLS.port
    payload = offset + header
    payloadBytes = length - header
    return nil
  }
}
