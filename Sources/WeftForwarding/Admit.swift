import WeftTables
import WeftWire

// What an interface's flags ask of its packets: whose addresses they come from, and how they may go on.

extension PacketPath {
  /// The Ethernet header of a packet from an interface with conditions.
  mutating func admit(_ packet: inout Packet, _ interface: EntryReference<InterfaceEntry>) {
    packet.conditions = interface.entry.conditions
    if packet.conditions.contains(.refused) { return drop(&packet, .monitoringPort) }
    if packet.conditions.contains(.guarded), packet.ethernet.mac(Ethernet.source) != interface.entry.mac {
      return drop(&packet, .spoofedMAC)
    }
    // What goes to a group may be for the router (ARP) or for others: that is seen later.
    if packet.link == .router, packet.conditions.contains(.notRouted) { drop(&packet, .routingOff) }
    if packet.link == .other, packet.conditions.contains(.notBridged) { drop(&packet, .bridgingOff) }
    if packet.conditions.contains(.learned), packet.verdict == .forward { learn(packet) }
  }

  /// Why an interface does not get a packet; nil when it does.
  func refusal(of interface: EntryReference<InterfaceEntry>, to packet: Packet) -> DropReason? {
    if packet.link == .router {
      return interface.entry.conditions.contains(.notRouted) && !packet.isOwn ? .routingOff : nil
    }
    return interface.entry.conditions.contains(.notBridged) ? .bridgingOff : nil
  }

  // MARK: anti-spoofing

  /// The VRF routes this address to the interface that the packet came in by, or it is the link-local address which that
  /// makes of its MAC address (RFC 4291 appendix A). Others of its link-local addresses need a route.
  func isOwn(_ address: IPAddress, of packet: Packet) -> Bool {
    var vrf = packet.vrf
    for _ in 0..<4 {
      let number = tables.route(vrf: vrf, to: address)
      guard number != 0, let nexthop = tables.nexthop(tables.paths[number].nexthop) else { break }
      switch nexthop.entry.kind {
      case .encap: if nexthop.entry.interface == packet.interface { return true }
      case .ecmp: if leads(nexthop.entry.members, to: packet.interface) { return true }
      case .vrfTranslate:
        vrf = nexthop.entry.vrf
        continue
      default: break
      }
      break
    }
    guard let interface = tables.interface(packet.interface) else { return false }
    return address == NeighborDiscovery.linkLocal(mac: interface.entry.mac)
  }

  /// An interface is among those that an ECMP nexthop divides flows between.
  private func leads(_ members: MemberTable?, to interface: UInt32) -> Bool {
    guard let members else { return false }
    for index in 0..<members.count {
      if let member = tables.nexthop(members.path(index).nexthop), member.entry.kind == .encap,
        member.entry.interface == interface
      {
        return true
      }
    }
    return false
  }

  /// ARP (RFC 826): the sender is who the frame is from, and has the address, or none yet (a probe, RFC 5227).
  func spoofedARP(_ packet: Packet) -> DropReason? {
    let arp = packet.ip
    guard arp.mac(8) == packet.ethernet.mac(Ethernet.source) else { return .spoofedMAC }
    let sender = arp.u32(14)
    if sender == 0, arp.u16(6) == ARP.request { return nil }
    return isOwn(IPAddress(v4: sender), of: packet) ? nil : .spoofedAddress
  }

  /// An IPv6 packet: its source, and what a neighbour solicitation or advertisement says of itself. Without a source
  /// there is who does not have an address yet: duplicate address detection (RFC 4862), and MLD meanwhile (RFC 3590).
  func spoofed(_ packet: Packet, _ source: IPAddress) -> DropReason? {
    let isNew = source.high == 0 && source.low == 0
    if !isNew, !isOwn(source, of: packet) { return .spoofedAddress }
    guard packet.proto == IPProtocol.icmpv6, !packet.isFragment else { return nil }
    let message = packet.transportHeader
    let length = packet.ipLength &- packet.transport
    guard length >= NeighborDiscovery.minimumBytes else { return nil }
    let type = message.u8(0)
    guard type == ICMP.neighborSolicitation || type == ICMP.neighborAdvertisement else { return nil }
    guard NeighborDiscovery.optionsHold(message, length: length) else { return .ndMalformed }
    let asks = type == ICMP.neighborSolicitation
    if !asks, !isOwn(message.address6(8), of: packet) { return .spoofedAddress }
    // Of a solicitation the source's, of an advertisement the target's.
    let own: UInt8 = asks ? 1 : 2
    var offset = NeighborDiscovery.minimumBytes
    while offset < length {
      if message.u8(offset) == own, message.mac(offset + 2) != packet.ethernet.mac(Ethernet.source) {
        return .spoofedMAC
      }
      offset += Int(message.u8(offset + 1)) * 8
    }
    return nil
  }
}
