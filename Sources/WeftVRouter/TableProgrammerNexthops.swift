import WeftRing
import WeftTables
import WeftWire

// Nexthops: what routes and bridge entries lead to.

extension TableProgrammer {
  func set(_ new: NexthopConfiguration) throws(Refusal) {
    try checkIndex(new.id, limits.nexthops, "nexthop")
    try check(new)
    let old = nexthops[new.id]?.value
    if old == new {
      nexthops.renew(new.id, generation: generation)
      return
    }
    if let old { try checkUses(of: new, was: old) }
    if old == nil, nexthops.count >= Int(limits.nexthops) {
      throw Refusal(.tableFull, "all \(limits.nexthops) nexthops are in use")
    }
    if let old {
      if old.action != new.action { forget(learnedBy: new.id) }
      count(old, -1)
    }
    count(new, 1)
    nexthops.set(new.id, new, generation: generation)
    publish(new)
    if let old, old.action.receives != new.action.receives { noteGateways(of: new) }
  }

  private func check(_ new: NexthopConfiguration) throws(Refusal) {
    switch new.action {
    case .discard, .receive: break
    case .receiveAt(let interface): try require(interface, "a host interface", new.id) { $0 == .host }
    case .resolve(let interface):
      try require(interface, "a virtual or host interface", new.id) { $0.isLocal }
    case .multicast(let members): try check(members, of: new.id)
    case .encap(let interface, let mac):
      try require(interface, "virtual", new.id) { $0.isLocal }
      guard !mac.isZero, !mac.isGroup else {
        throw Refusal(.outOfRange, "nexthop \(new.id) sends to MAC address \(mac), which is not one device's")
      }
    case .tunnel(let tunnel):
      try require(tunnel.interface, "fabric", new.id) { $0 == .fabric }
      guard tunnel.source.isV4 == tunnel.destination.isV4 else {
        throw Refusal(.outOfRange, "nexthop \(new.id): source and destination of a tunnel are of two families")
      }
      for address in [tunnel.source, tunnel.destination] where address.isMulticast || address.isUnspecified {
        throw Refusal(.outOfRange, "nexthop \(new.id): a tunnel cannot end at \(address)")
      }
      guard !tunnel.destinationMAC.isGroup, !tunnel.innerDestinationMAC.isGroup else {
        throw Refusal(.outOfRange, "nexthop \(new.id): a MAC address of a tunnel is a group's")
      }
      if let dscp = tunnel.outerDSCP, dscp > 63 {
        throw Refusal(.outOfRange, "nexthop \(new.id): DSCP \(dscp) has more than 6 bits")
      }
    case .vrfTranslate(let vrf), .l2Receive(let vrf), .l3Receive(let vrf): try requireVRF(vrf)
    case .ecmp(let members): try check(members, of: new.id)
    }
  }

  private func check(_ members: [NexthopMember], of id: UInt32) throws(Refusal) {
    guard (1...NexthopConfiguration.maximumMembers).contains(members.count) else {
      throw Refusal(
        .outOfRange,
        "nexthop \(id) has \(members.count) members, not 1 to \(NexthopConfiguration.maximumMembers)")
    }
    for member in members {
      guard member.weight > 0 else {
        throw Refusal(.outOfRange, "nexthop \(id): the weight of member \(member.nexthop) is 0; leave the member out")
      }
      let nexthop = try requireNexthop(member.nexthop)
      switch nexthop.action {
      case .encap, .tunnel: try checkLabel(member.label, nexthop)
      default:
        throw Refusal(
          .conflict, "nexthop \(id): member \(member.nexthop) is neither a tunnel nor an encap to a local interface")
      }
    }
    guard Set(members.map { Path(nexthop: $0.nexthop, label: $0.label) }).count == members.count else {
      throw Refusal(.conflict, "nexthop \(id) has a member twice; give one of them the weight of both")
    }
  }

  private func require(
    _ interface: UInt32, _ what: String, _ nexthop: UInt32, _ isRight: (InterfaceRole) -> Bool
  ) throws(Refusal) {
    guard let entry = interfaces[interface] else {
      throw Refusal(.notFound, "nexthop \(nexthop): interface \(interface) is not there; set it first")
    }
    guard isRight(entry.value.configuration.role) else {
      throw Refusal(
        .conflict,
        "nexthop \(nexthop): interface \(interface) (\(entry.value.configuration.device)) is not \(what)")
    }
  }

  /// What the nexthop refers to has one use more or less.
  private func count(_ nexthop: NexthopConfiguration, _ change: Int) {
    switch nexthop.action {
    case .discard, .receive: break
    case .encap(let interface, _), .receiveAt(let interface), .resolve(let interface):
      leave(by: interface, nexthop.id, change)
    case .tunnel(let tunnel):
      leave(by: tunnel.interface, nexthop.id, change)
      noteTunnel(nexthop.id, tunnel, change)
    case .vrfTranslate(let vrf), .l2Receive(let vrf), .l3Receive(let vrf): vrfs.use(vrf, change)
    case .ecmp(let members): for member in members { nexthops.use(member.nexthop, change) }
    case .multicast(let members): count(members, of: nexthop.id, change)
    }
  }

  private func leave(by interface: UInt32, _ nexthop: UInt32, _ change: Int) {
    interfaces.use(interface, change)
    if change > 0 {
      leaving[interface, default: []].insert(nexthop)
    } else {
      leaving[interface]?.remove(nexthop)
      if leaving[interface]?.isEmpty == true { leaving[interface] = nil }
    }
  }

  func publish(_ nexthop: NexthopConfiguration) {
    var entry: NexthopEntry
    switch nexthop.action {
    case .discard: entry = NexthopEntry(kind: .discard)
    case .receive: entry = NexthopEntry(kind: .receive)
    case .encap(let interface, let mac):
      entry = NexthopEntry(encapTo: interface, destinationMAC: mac.bits)
      entry.mtu = mtu(of: interface)
    case .tunnel(let tunnel):
      let fabric = interfaces[tunnel.interface]?.value.configuration
      entry = NexthopEntry(
        kind: kind(of: tunnel.encapsulation), interface: tunnel.interface,
        interfaceMAC: fabric?.mac.bits ?? 0, mtu: mtu(of: tunnel.interface), source: tunnel.source,
        destination: tunnel.destination, nextHopMAC: tunnel.destinationMAC.bits,
        innerDestinationMAC: tunnel.innerDestinationMAC.bits, fragments: tunnel.fragments)
      entry.outerDSCP = tunnel.outerDSCP ?? noMark
    case .vrfTranslate(let vrf): entry = NexthopEntry(kind: .vrfTranslate, vrf: vrf)
    case .l2Receive(let vrf): entry = NexthopEntry(kind: .l2Receive, vrf: vrf)
    case .l3Receive(let vrf): entry = NexthopEntry(kind: .l3Receive, vrf: vrf)
    case .receiveAt(let interface):
      entry = NexthopEntry(kind: .encap)
      entry.interface = interface
      entry.destinationMAC = interfaces[interface]?.value.configuration.mac.bits ?? 0
      entry.mtu = mtu(of: interface)
      entry.isEnd = true
    case .resolve(let interface):
      entry = NexthopEntry(kind: .resolve)
      entry.interface = interface
    case .multicast(let members):
      entry = NexthopEntry(kind: .multicast)
      entry.replicas = ReplicaList(
        members.map { .init(path: Path(nexthop: $0.nexthop, label: $0.label), group: $0.group) })
    case .ecmp(let members):
      entry = NexthopEntry(kind: .ecmp)
      entry.members = MemberTable(
        members.map { .init(path: Path(nexthop: $0.nexthop, label: $0.label), weight: $0.weight) })
    }
    memory.publish(nexthop: nexthop.id, entry)
  }

  private func kind(of encapsulation: Encapsulation) -> NexthopKind {
    switch encapsulation {
    case .vxlan: .vxlan
    case .mplsOverUDP: .mplsOverUDP
    case .mplsOverGRE: .mplsOverGRE
    }
  }

  func remove(nexthop id: UInt32) throws(Refusal) {
    guard let entry = nexthops[id] else { throw Refusal(.notFound, "nexthop \(id) is not there") }
    guard entry.uses == 0 else { throw inUse("nexthop \(id)", entry.uses) }
    forget(learnedBy: id)
    memory.publish(nexthop: id, nil)
    count(entry.value, -1)
    nexthops.remove(id)
  }
}
