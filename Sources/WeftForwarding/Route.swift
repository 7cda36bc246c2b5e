import WeftTables
import WeftWire

extension PacketPath {
  /// Finds where each packet goes: by destination address if it is for the router's MAC, else by destination MAC.
  mutating func route() {
    let batch = batch
    for index in 0..<batch.count where batch[index].verdict == .forward && !batch[index].isReady {
      route(&batch[index])
    }
  }

  /// Finds where one packet goes.
  mutating func route(_ packet: inout Packet) {
    if packet.hasPath {
      checkNexthop(&packet)
    } else if packet.link == .other {
      bridge(&packet)
    } else {
      routeAddress(&packet, packet.key.destination)
    }
  }

  /// The longest prefix that covers `destination` in the packet's VRF, through VRF translations.
  mutating func routeAddress(_ packet: inout Packet, _ destination: IPAddress) {
    for _ in 0..<4 {
      guard tables.hasVRF(packet.vrf) else { return drop(&packet, .noVRF) }
      if !packet.isOwn, destination == NeighborDiscovery.routerLinkLocal { return answerEcho(&packet) }
      let number = routeNumber(packet, destination)
      guard number != 0 else { return refuse(&packet, .noRoute, .noRoute) }
      packet.path = tables.paths[number]
      packet.pathNumber = number
      guard let nexthop = tables.nexthop(packet.path.nexthop) else { return drop(&packet, .nexthopInvalid) }
      if nexthop.entry.kind == .vrfTranslate {
        packet.vrf = nexthop.entry.vrf
        continue
      }
      return checkNexthop(&packet)
    }
    drop(&packet, .nexthopInvalid)
  }

  /// The bridge's entry for the destination MAC.
  mutating func bridge(_ packet: inout Packet) {
    guard tables.hasVRF(packet.vrf) else { return drop(&packet, .noVRF) }
    let number = tables.bridge.lookup(vrf: packet.vrf, mac: packet.ethernet.mac(Ethernet.destination))
    guard number != 0 else {
      let bits = VRFBits(rawValue: tables.vrfBits[packet.vrf])
      let flood = bits.contains(.floodsUnknown) ? broadcastPath(packet.vrf) : 0
      return flood == 0 ? drop(&packet, .unknownMAC) : replicate(&packet, by: flood)
    }
    packet.path = tables.paths[number]
    checkNexthop(&packet)
  }

  /// The nexthop can be used by this packet; what is for the router itself is answered.
  private mutating func checkNexthop(_ packet: inout Packet) {
    guard let nexthop = tables.nexthop(packet.path.nexthop) else { return drop(&packet, .nexthopInvalid) }
    switch nexthop.entry.kind {
    case .ecmp:
      guard let path = member(of: nexthop.entry.members, flow: packet.flow, hash: packet.hash) else {
        return drop(&packet, .nexthopUnresolved)
      }
      packet.path = path
      // What a route's number leads to is not the same for each of its packets.
      packet.pathNumber = 0
      return checkNexthop(&packet)
    case .encap:
      // A bridge sends nothing back where it came from (IEEE 802.1Q clause 8.6.1).
      guard packet.link != .other || nexthop.entry.interface != packet.interface else { return drop(&packet, .hairpin) }
    case .vxlan, .mplsOverUDP, .mplsOverGRE:
      guard !packet.fromFabric || packet.isOwn && packet.link == .router else { return drop(&packet, .hairpin) }
      // MPLS carries IP alone.
      guard packet.etherType != Ethernet.arp || nexthop.entry.kind == .vxlan else { return drop(&packet, .arpUnknown) }
      guard nexthop.entry.isResolved else { return drop(&packet, .nexthopUnresolved) }
    case .receive:
      guard !packet.isOwn else { return drop(&packet, .noService) }
      return answerEcho(&packet)
    case .discard: return drop(&packet, .discardNexthop)
    case .resolve:
      askFor(packet.key.destination, of: packet, on: nexthop.entry.interface)
      return drop(&packet, .nexthopUnresolved)
    case .vrfTranslate, .multicast, .l2Receive, .l3Receive: return drop(&packet, .nexthopInvalid)
    }
    // Link-local addresses mean something on one link only (RFC 4291 section 2.5.6).
    if packet.link != .other, !packet.isV4, packet.key.source.isLinkLocal || packet.key.destination.isLinkLocal {
      return drop(&packet, .linkLocalRouted)
    }
    packet.isReady = true
  }
}
