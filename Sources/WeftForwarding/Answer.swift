import WeftTables
import WeftWire

extension PacketPath {
  /// ARP: requests for addresses that the VRF has a route to are answered with the router's MAC, unless the address is
  /// where the request came from (so that a pod's probe for its own address stays unanswered) or the asker's own (an
  /// announcement, RFC 5227 section 3: an answer would say that somebody else has the address). What stays unanswered
  /// goes to everybody of the bridge, where that has a path for broadcasts.
  mutating func answerARP(_ packet: inout Packet) {
    let arp = packet.ip
    guard packet.available >= ARP.bytes, packet.hasEthernet, ARP.isIPv4OverEthernet(arp) else {
      return drop(&packet, .arpMalformed)
    }
    // ARP has no checksum to finish and no segments, whatever a virtio-net header says.
    guard packet.gso == VirtioNetHeader.gsoNone else { return drop(&packet, .gsoMalformed) }
    packet.needsChecksum = false
    if packet.conditions.contains(.guarded), let reason = spoofedARP(packet) { return drop(&packet, reason) }
    guard packet.link != .other else { return bridgeARP(&packet) }
    guard tables.hasVRF(packet.vrf) else { return drop(&packet, .noVRF) }
    packet.ipLength = ARP.bytes
    let target = IPAddress(v4: arp.u32(24))
    let sender = IPAddress(v4: arp.u32(14))
    let senderMAC = arp.mac(8)
    let isRequest = arp.u16(6) == ARP.request
    if isRequest, !Self.isStation(senderMAC) { return drop(&packet, .arpMalformed) }
    guard isRequest, target != sender, let answer = answer(to: packet, for: target, asker: senderMAC) else {
      return leaveUnanswered(&packet, .arpUnknown)
    }
    ARP.turnIntoReply(arp, mac: answer.mac)
    sendBack(&packet, to: senderMAC, from: answer.mac, address: sender, orDrop: .arpUnknown)
  }

  /// ARP that is not for the router: to everybody, or to nobody.
  private mutating func leaveUnanswered(_ packet: inout Packet, _ reason: DropReason) {
    guard isFlooded(packet) else {
      return drop(&packet, packet.conditions.contains(.notRouted) ? .routingOff : reason)
    }
    packet.isOwn = true
    packet.hash = packet.ethernet.mac(Ethernet.source) &* 0x9E37_79B9_7F4A_7C15
    flood(&packet)
  }

  /// Neither a group's address nor zero: answers can go there.
  @inline(__always) private static func isStation(_ mac: UInt64) -> Bool {
    mac & 0x0100_0000_0000 == 0 && mac != 0
  }

  /// ARP from one MAC to another passes as any frame does.
  private mutating func bridgeARP(_ packet: inout Packet) {
    packet.ipLength = ARP.bytes
    packet.isOwn = true
    bridge(&packet)
  }

  /// Neighbour solicitations (RFC 4861 section 7.2): as with ARP. Duplicate address detection, which asks from the
  /// unspecified address, is never answered. False: the packet goes on, to everybody of the bridge.
  mutating func answerNeighborSolicitation(
    _ packet: inout Packet, source: IPAddress, destination: IPAddress
  ) -> Bool {
    let isAnswered = tryToAnswer(&packet, source: source, destination: destination)
    guard !isAnswered, packet.verdict == .forward else { return true }
    if isFlooded(packet) { return false }
    drop(&packet, packet.conditions.contains(.notRouted) ? .routingOff : .ndUnknown)
    return true
  }

  /// False: it was not for the router to answer. What was wrong with it, the verdict says.
  private mutating func tryToAnswer(_ packet: inout Packet, source: IPAddress, destination: IPAddress) -> Bool {
    let message = packet.transportHeader
    let length = packet.ipLength - packet.transport
    guard length >= NeighborDiscovery.minimumBytes, packet.ip.u8(7) == 255, message.u8(1) == 0,
      NeighborDiscovery.optionsHold(message, length: length)
    else { return refuse(&packet, .ndMalformed) }
    if !packet.needsChecksum {
      let sum = Checksum.pseudoHeader(packet.ip, isV4: false, proto: IPProtocol.icmpv6, length: length)
      guard Checksum.holds(message.sum(0, count: length, sum)) else { return refuse(&packet, .ndMalformed) }
    }
    let target = message.address6(8)
    let isProbe = source.high == 0 && source.low == 0
    guard Self.isHost(v6: target), isProbe || Self.isHost(v6: source) else { return refuse(&packet, .ndMalformed) }
    guard tables.hasVRF(packet.vrf) else { return refuse(&packet, .noVRF) }
    guard packet.hasEthernet, !isProbe, target != source else { return false }
    let asker = packet.ethernet.mac(Ethernet.source)
    guard let found = self.answer(to: packet, for: target, asker: asker) else { return false }
    let bytes = Ethernet.bytes + IPv6.bytes + NeighborDiscovery.advertisementBytes
    guard tx.hasRoom(pieces: 2, bytes: bytes + 128) else { return refuse(&packet, .transmitFull) }
    guard Self.isStation(asker) else { return refuse(&packet, .ndMalformed) }
    let frame = tx.headers(bytes)
    frame.set16(Ethernet.type, Ethernet.ipv6)
    let ip = frame.advanced(Ethernet.bytes)
    ip.set32(0, 0x6000_0000)
    ip.set16(4, UInt16(NeighborDiscovery.advertisementBytes))
    ip.set8(6, IPProtocol.icmpv6)
    ip.set8(7, 255)
    ip.setAddress6(8, target)
    ip.setAddress6(24, source)
    let answer = ip.advanced(IPv6.bytes)
    answer.set32(0, UInt32(ICMP.neighborAdvertisement) << 24)
    answer.set32(4, NeighborDiscovery.solicitedFlag | found.flags)
    answer.setAddress6(8, target)
    answer.set16(24, NeighborDiscovery.targetLinkLayerOption)
    answer.setMAC(26, found.mac)
    let sum = Checksum.pseudoHeader(
      ip, isV4: false, proto: IPProtocol.icmpv6, length: NeighborDiscovery.advertisementBytes)
    answer.set16(2, Checksum.finish(answer.sum(0, count: NeighborDiscovery.advertisementBytes, sum)))
    packet.ethernet = frame
    packet.ip = ip
    packet.ipLength = bytes - Ethernet.bytes
    packet.needsChecksum = false
    packet.trafficClass = 0
    sendBack(&packet, to: asker, from: found.mac, address: source, orDrop: .ndUnknown)
    return true
  }

  private mutating func refuse(_ packet: inout Packet, _ reason: DropReason) -> Bool {
    drop(&packet, reason)
    return true
  }

  /// For the router's own address: echo requests are answered in place (RFC 792, RFC 4443 section 4.2).
  mutating func answerEcho(_ packet: inout Packet) {
    let message = packet.transportHeader
    let isRequest =
      packet.isV4
      ? packet.proto == IPProtocol.icmp && !packet.isFragment && message.u8(0) == ICMP.echoRequest
      : packet.proto == IPProtocol.icmpv6 && !packet.isFragment && message.u8(0) == ICMP.echoRequest6
    guard isRequest, packet.gso == VirtioNetHeader.gsoNone, tx.hasRoom(pieces: 2, bytes: 256) else {
      // A host tells of closed ports (RFC 1122 section 4.1.3.1, RFC 9293 section 3.10.7.1).
      if packet.proto == IPProtocol.tcp || packet.proto == IPProtocol.udp {
        return reject(&packet, .noService, .portUnreachable)
      }
      return drop(&packet, .noService)
    }
    // From the address that was asked.
    undoTranslation(&packet)
    if packet.needsChecksum { finishChecksum(&packet) }
    let ip = packet.ip
    let asker: IPAddress
    if packet.isV4 {
      let source = ip.u32(12)
      asker = IPAddress(v4: source)
      ip.set32(12, ip.u32(16))
      ip.set32(16, source)
      ip.set8(8, 64)
      IPv4.writeChecksum(ip, bytes: packet.transport)
    } else {
      let source = ip.address6(8)
      asker = source
      ip.setAddress6(8, ip.address6(24))
      ip.setAddress6(24, source)
      ip.set8(7, 64)
    }
    let old = message.u16(0)
    let new = old & 0xFF | UInt16(packet.isV4 ? ICMP.echoReply : ICMP.echoReply6) << 8
    message.set16(0, new)
    message.set16(2, Checksum.updated(message.u16(2), from: old, to: new))
    packet.key = packet.key.reversed
    if packet.fromFabric {
      packet.isOwn = true
      packet.link = .router
      routeAddress(&packet, asker)
      return
    }
    sendBack(
      &packet, to: packet.ethernet.mac(Ethernet.source), from: MACAddress.virtualRouter.bits, address: asker,
      orDrop: .noService)
  }

  /// With which MAC address a question is answered, and what a neighbour advertisement says of it.
  private struct Answer {
    let mac: UInt64
    var flags: UInt32 = 0
  }

  /// The answer to the question for an address: the router's own MAC address, or that of the station that has the
  /// address, where the VRF says so (RFC 9161). nil: the router does not answer.
  private func answer(to packet: Packet, for target: IPAddress, asker: UInt64) -> Answer? {
    let routes = !packet.conditions.contains(.notRouted)
    let service: Service = target == NeighborDiscovery.routerLinkLocal ? .own : service(target, packet)
    if service == .own {
      guard routes else { return nil }
      return Answer(
        mac: MACAddress.virtualRouter.bits, flags: NeighborDiscovery.routerFlag | NeighborDiscovery.overrideFlag)
    }
    if tables.vrfBits[packet.vrf] & VRFBits.suppresses.rawValue != 0, !packet.conditions.contains(.notBridged) {
      let mac = station(target, packet)
      // Who asks for his own address tells everybody that he has it.
      if mac != 0 { return mac == asker ? nil : Answer(mac: mac, flags: NeighborDiscovery.overrideFlag) }
      if isFlooded(packet) { return nil }
    }
    // What is answered for others does not override what is known already (RFC 4861 section 7.2.4).
    guard service == .proxied, routes else { return nil }
    return Answer(mac: MACAddress.virtualRouter.bits, flags: NeighborDiscovery.routerFlag)
  }

  /// The MAC address of the station that has an address, and that the bridge leads to; 0 where it is not known.
  private func station(_ target: IPAddress, _ packet: Packet) -> UInt64 {
    var mac = tables.neighbors.lookup(vrf: packet.vrf, address: target)
    if mac == 0 {
      let number = tables.route(vrf: packet.vrf, to: target)
      guard number != 0, let nexthop = tables.nexthop(tables.paths[number].nexthop), nexthop.entry.kind == .encap,
        !nexthop.entry.isEnd, nexthop.entry.interface != packet.interface
      else { return 0 }
      mac = nexthop.entry.destinationMAC
    }
    let bits = VRFBits(rawValue: tables.vrfBits[packet.vrf])
    return tables.bridge.lookup(vrf: packet.vrf, mac: mac) != 0 || bits.contains(.floodsUnknown) ? mac : 0
  }

  /// How the router speaks for an address.
  private enum Service {
    case none
    /// It is the router's own.
    case own
    /// It is behind the router.
    case proxied
  }

  /// How the router speaks for an address towards where this packet came from.
  private func service(_ target: IPAddress, _ packet: Packet) -> Service {
    var vrf = packet.vrf
    for _ in 0..<4 {
      let number = target.isV4 ? tables.route(vrf: vrf, v4: target.v4) : tables.route(vrf: vrf, v6: target)
      guard number != 0, let nexthop = tables.nexthop(tables.paths[number].nexthop) else { return .none }
      switch nexthop.entry.kind {
      case .discard, .multicast, .l2Receive, .l3Receive: return .none
      case .receive: return .own
      case .encap where nexthop.entry.isEnd: return nexthop.entry.interface == packet.interface ? .none : .own
      case .encap, .vxlan, .mplsOverUDP, .mplsOverGRE, .ecmp, .resolve:
        // A link-local IPv6 address is on the asker's link or nowhere.
        guard nexthop.entry.interface != packet.interface, target.isV4 || !target.isLinkLocal else { return .none }
        return .proxied
      case .vrfTranslate: vrf = nexthop.entry.vrf
      }
    }
    return .none
  }

  /// An answer of the router's own to `mac`: out of the interface where the question came from, or through the tunnel
  /// behind which the asker is (dropped with `reason` where there is none). The Ethernet header is written here; the
  /// type stands.
  private mutating func sendBack(
    _ packet: inout Packet, to mac: UInt64, from source: UInt64, address: IPAddress, orDrop reason: DropReason
  ) {
    packet.ethernet.setMAC(Ethernet.destination, mac)
    packet.ethernet.setMAC(Ethernet.source, source)
    packet.isOwn = true
    packet.link = .other
    guard packet.fromFabric else {
      packet.verdict = .reply
      return
    }
    var number = tables.bridge.lookup(vrf: packet.vrf, mac: mac)
    if number == 0 {
      number =
        address.isV4 ? tables.route(vrf: packet.vrf, v4: address.v4) : tables.route(vrf: packet.vrf, v6: address)
    }
    guard number != 0 else { return drop(&packet, reason) }
    packet.path = tables.paths[number]
    packet.hash = mac &* 0x9E37_79B9_7F4A_7C15
    if let group = tables.nexthop(packet.path.nexthop), group.entry.kind == .ecmp,
      let path = member(of: group.entry.members, flow: FlowTable.none, hash: packet.hash)
    {
      packet.path = path
    }
    guard let nexthop = tables.nexthop(packet.path.nexthop), nexthop.entry.kind == .vxlan else {
      return drop(&packet, reason)
    }
    guard nexthop.entry.isResolved else { return drop(&packet, .nexthopUnresolved) }
    packet.isReady = true
  }
}
