import WeftTables
import WeftWire

// Broadcast, multicast and unknown unicast: a copy to each member of a multicast nexthop, headers of its own before each,
// the packet itself shared. A bridge's: no TTL is lowered, no flow made.

extension PacketPath {
  /// A bound on what one packet becomes: copies, and entries of lists that are looked at for them.
  private static var maximumCopies: Int { 2048 }
  private static var maximumVisits: Int { 8192 }

  /// Decides where copies of a packet to a group go.
  mutating func flood(_ packet: inout Packet) {
    guard !packet.conditions.contains(.notBridged) else { return drop(&packet, .bridgingOff) }
    guard tables.hasVRF(packet.vrf) else { return drop(&packet, .noVRF) }
    // A label of one interface leads to that alone.
    let number = packet.hasPath ? 0 : replicationPath(packet)
    guard number != 0 else { return drop(&packet, .multicast) }
    replicate(&packet, by: number)
  }

  /// Whether a packet to a group has somewhere to go: it need not be looked at any further where it has not.
  mutating func isFlooded(_ packet: inout Packet, _ source: IPAddress, _ destination: IPAddress) -> Bool {
    packet.key = FlowKey(
      vrf: packet.vrf, source: source, destination: destination, proto: packet.proto, sourcePort: 0, destinationPort: 0)
    flood(&packet)
    return packet.verdict == .flood
  }

  /// The packet gets copied as a path says.
  mutating func replicate(_ packet: inout Packet, by number: UInt32) {
    packet.path = tables.paths[number]
    guard let nexthop = tables.nexthop(packet.path.nexthop) else { return drop(&packet, .nexthopInvalid) }
    switch nexthop.entry.kind {
    case .multicast: break
    case .discard: return drop(&packet, .discardNexthop)
    default: return drop(&packet, .nexthopInvalid)
    }
    packet.link = .group
    packet.flow = FlowTable.none
    packet.verdict = .flood
  }

  /// What the VRF's bridge does with broadcasts; 0: nothing.
  @inline(__always) func broadcastPath(_ vrf: UInt32) -> UInt32 {
    tables.bridge.lookup(vrf: vrf, mac: MACAddress.broadcast.bits)
  }

  /// A packet to a group has somewhere to go.
  func isFlooded(_ packet: Packet) -> Bool {
    packet.link == .group && !packet.hasPath && !packet.conditions.contains(.notBridged)
      && broadcastPath(packet.vrf) != 0
  }

  /// The path of a group's address, of its MAC address, or else of broadcasts; 0 for none.
  private func replicationPath(_ packet: Packet) -> UInt32 {
    let mac = packet.ethernet.mac(Ethernet.destination)
    // Between neighbours only (IEEE 802.1Q clause 8.6.3).
    if mac & ~0xF == 0x0180_C200_0000 { return 0 }
    if packet.etherType != Ethernet.arp, !Self.isForAll(packet) {
      let group = packet.key.destination
      if group.isMulticast {
        let number = tables.route(vrf: packet.vrf, to: group)
        if number != 0, tables.nexthop(tables.paths[number].nexthop)?.entry.kind == .multicast { return number }
      }
      let number = tables.bridge.lookup(vrf: packet.vrf, mac: mac)
      if number != 0 { return number }
    }
    return broadcastPath(packet.vrf)
  }

  /// Groups of the link itself (RFC 5771 section 4, RFC 4291 section 2.7), and reports of who is in which group: what
  /// snooping switches flood too (RFC 4541 sections 2.1.2, 3).
  private static func isForAll(_ packet: Packet) -> Bool {
    let group = packet.key.destination
    if packet.isV4 { return group.v4 >> 8 == 0xE0_0000 || packet.proto == IPProtocol.igmp }
    if group.high >> 48 == 0xFF02 || group.high >> 48 == 0xFF01 { return true }
    guard packet.proto == IPProtocol.icmpv6, !packet.isFragment, packet.transport < packet.ipLength else {
      return false
    }
    let type = packet.transportHeader.u8(0)
    return (ICMP.listenerQuery...ICMP.listenerDone).contains(type) || type == ICMP.listenerReport2
  }

  // MARK: copies

  /// What is found out before the first copy is made.
  private struct Plan {
    var copies = 0
    /// Of them, those that interfaces may mark or police, while they are made those that are still to be; and the frames
    /// of these that point at the packet's headers.
    var changed = 0
    var ownFrames = 0
    var visits = 0
    /// From the fabric: where the packet was sent from, and the split-horizon group of the tunnel from there.
    var remote = IPAddress(high: 0, low: 0)
    var group: UInt16 = 0
  }

  /// Makes the copies, all or none.
  mutating func replicate(_ packet: inout Packet) {
    guard let nexthop = tables.nexthop(packet.path.nexthop), let list = nexthop.entry.replicas else {
      return drop(&packet, .nexthopInvalid)
    }
    var plan = Plan()
    if packet.fromFabric {
      plan.remote = packet.outerSource
      if let group = group(of: plan.remote, list, &plan, depth: 1) { plan.group = group }
      plan.visits = 0
    }
    walk(list, packet, &plan, depth: 1, sends: false)
    guard plan.visits <= Self.maximumVisits, plan.copies <= Self.maximumCopies else {
      return drop(&packet, .replicationFull)
    }
    guard plan.copies > 0 else { return drop(&packet, .floodEmpty) }
    let segments = packet.segments
    made &+= UInt64(truncatingIfNeeded: (plan.copies &- 1) &* segments)
    // The most that a copy takes: headers of each segment in a frame of its own, and for tunnels' fragments.
    let headers = VirtioNetHeader.bytes + Self.outerRoom + Ethernet.bytes + 32
    let pieces = 2 &* segments &+ 2 &* Self.mostFragments(packet) &+ 2
    let bytes = segments &* (headers &+ packet.payload &+ 16) &+ Self.mostFragments(packet) &* 128
    // Of one that is marked or cut the frames get bytes of their own.
    let ownPieces = plan.ownFrames &* 3
    let ownBytes = plan.ownFrames &* (max(packet.payload, SavedHeaders.markedBytes) &+ 8)
    guard
      tx.hasRoom(
        pieces: plan.copies &* pieces, bytes: plan.copies &* bytes &+ ownBytes, otherPieces: ownPieces)
    else {
      return drop(&packet, .replicationFull, packets: plan.copies &* segments)
    }
    // Here, since all copies share what the checksum stands in. A super-frame's segments get their own.
    if packet.needsChecksum, packet.gso == VirtioNetHeader.gsoNone { finishChecksum(&packet) }
    plan.visits = 0
    walk(list, packet, &plan, depth: 1, sends: true)
  }

  /// Of outer packets of at least IPv4's minimum.
  private static func mostFragments(_ packet: Packet) -> Int {
    packet.gso == VirtioNetHeader.gsoNone ? packet.ipLength / 512 &+ 1 : 0
  }

  /// Counts a list's copies, or makes them.
  private mutating func walk(
    _ list: ReplicaList, _ packet: Packet, _ plan: inout Plan, depth: Int, sends: Bool
  ) {
    for index in 0..<list.count {
      plan.visits &+= 1
      guard plan.visits <= Self.maximumVisits else { return }
      let replica = list[index]
      guard let nexthop = tables.nexthop(replica.path.nexthop) else { continue }
      if nexthop.entry.kind == .multicast {
        guard depth < ReplicaList.maximumDepth, let inner = nexthop.entry.replicas else { continue }
        walk(inner, packet, &plan, depth: depth &+ 1, sends: sends)
        continue
      }
      guard let interface = tables.interface(nexthop.entry.interface) else { continue }
      switch nexthop.entry.kind {
      case .encap:
        // Not back to where it came from, nor to who does not bridge.
        guard nexthop.entry.interface != packet.interface || packet.fromFabric,
          !interface.entry.conditions.contains(.notBridged)
        else { continue }
      case .vxlan, .mplsOverUDP, .mplsOverGRE:
        if packet.fromFabric {
          guard replica.group != plan.group, nexthop.entry.remote != plan.remote else { continue }
        }
      default: continue
      }
      let isChanged = interface.entry.remark | interface.entry.egressPolicer != 0 && !packet.isOwn
      if !sends {
        plan.copies &+= 1
        if isChanged {
          plan.changed &+= 1
          plan.ownFrames &+= packet.segments &+ (nexthop.entry.fragments ? Self.mostFragments(packet) : 0)
        }
        continue
      }
      var copy = packet
      copy.path = replica.path
      if isChanged {
        plan.changed &-= 1
        sendChanged(&copy, packet, nexthop, interface, following: plan.changed)
      } else {
        send(&copy, nexthop, interface)
      }
    }
  }

  @inline(__always)
  private mutating func send(
    _ copy: inout Packet, _ nexthop: EntryReference<NexthopEntry>, _ interface: EntryReference<InterfaceEntry>
  ) {
    if nexthop.entry.kind == .encap {
      deliver(&copy, nexthop, interface)
    } else if nexthop.entry.isResolved {
      encapsulate(&copy, nexthop, interface)
    } else {
      drop(&copy, .nexthopUnresolved)
    }
  }

  /// A copy by an interface with marks or a policer: it is marked and cut where it is, its frames take what that changed
  /// for themselves (`Packet.ownBytes`), and the packet becomes again what it was.
  @inline(never)
  private mutating func sendChanged(
    _ copy: inout Packet, _ packet: Packet, _ nexthop: EntryReference<NexthopEntry>,
    _ interface: EntryReference<InterfaceEntry>, following: Int
  ) {
    let saved = SavedHeaders(packet)
    if interface.entry.remark != 0 { remark(&copy, by: interface.entry.remark) }
    var cut = Packet.none
    if interface.entry.egressPolicer != 0 {
      cut = policeEgress(&copy, nexthop, interface, following: following)
    }
    if copy.segments != packet.segments {
      copy.ownBytes = UInt16(truncatingIfNeeded: packet.payload)
    } else if copy.trafficClass != packet.trafficClass {
      copy.ownBytes = UInt16(truncatingIfNeeded: SavedHeaders.markedBytes)
    }
    if copy.verdict == .flood { send(&copy, nexthop, interface) }
    guard copy.ownBytes > 0 else { return }
    saved.restore(packet)
    let batch = batch
    // What was merged with it.
    if cut != Packet.none, copy.last != Packet.none { batch[Int(copy.last)].next = cut }
    var next = packet.next
    while next != Packet.none {
      let number = Int(next)
      if batch[number].trafficClass != packet.trafficClass {
        Self.setTrafficClass(batch[number], packet.trafficClass)
        batch[number].trafficClass = packet.trafficClass
      }
      next = batch[number].next
    }
  }

  /// The split-horizon group of the tunnel to `remote`; nil where there is none, which is as group 0.
  private func group(of remote: IPAddress, _ list: ReplicaList, _ plan: inout Plan, depth: Int) -> UInt16? {
    for index in 0..<list.count {
      plan.visits &+= 1
      guard plan.visits <= Self.maximumVisits else { return nil }
      let replica = list[index]
      guard let nexthop = tables.nexthop(replica.path.nexthop) else { continue }
      switch nexthop.entry.kind {
      case .multicast:
        guard depth < ReplicaList.maximumDepth, let inner = nexthop.entry.replicas else { continue }
        if let found = group(of: remote, inner, &plan, depth: depth &+ 1) { return found }
      case .vxlan, .mplsOverUDP, .mplsOverGRE: if nexthop.entry.remote == remote { return replica.group }
      default: continue
      }
    }
    return nil
  }
}

/// What marks and policers change in a packet's headers: DS field, lengths, checksums, TCP's flags.
private struct SavedHeaders {
  /// A mark changes nothing beyond these bytes of an IP header: IPv4's checksum is the last of it.
  static let markedBytes = 12

  private let start: UInt64
  private let next: UInt32
  private let flags: UInt8
  private let length: UInt16
  private let checksum: UInt16

  /// Of a packet that `parse` has read; one that is not IP is never changed.
  init(_ packet: Packet) {
    let isIP = packet.ipLength >= Self.markedBytes
    start = isIP ? packet.ip.u64(0) : 0
    next = isIP ? packet.ip.u32(8) : 0
    let header = packet.transportHeader
    let isSuper = packet.gso != VirtioNetHeader.gsoNone
    flags = isSuper && packet.proto == IPProtocol.tcp ? header.u8(13) : 0
    length = isSuper && packet.proto == IPProtocol.udp ? header.u16(4) : 0
    checksum = isSuper ? header.u16(packet.proto == IPProtocol.tcp ? TCP.checksum : UDP.checksum) : 0
  }

  func restore(_ packet: Packet) {
    packet.ip.set64(0, start)
    packet.ip.set32(8, next)
    guard packet.gso != VirtioNetHeader.gsoNone else { return }
    let header = packet.transportHeader
    if packet.proto == IPProtocol.tcp {
      header.set8(13, flags)
      header.set16(TCP.checksum, checksum)
    } else {
      header.set16(4, length)
      header.set16(UDP.checksum, checksum)
    }
  }
}
