import WeftRing
import WeftTables
import WeftWire

// Multicast nexthops, and whose MAC addresses IP addresses have.

extension TableProgrammer {
  func check(_ members: [MulticastMember], of id: UInt32) throws(Refusal) {
    guard members.count <= NexthopConfiguration.maximumMembers else {
      throw Refusal(
        .outOfRange,
        "nexthop \(id) has \(members.count) members, more than \(NexthopConfiguration.maximumMembers); let some be "
          + "members of another multicast nexthop that is a member")
    }
    var below = 0
    for member in members {
      let nexthop = try requireNexthop(member.nexthop)
      switch nexthop.action {
      case .encap:
        guard member.group == 0 else {
          throw Refusal(
            .outOfRange, "nexthop \(id): member \(member.nexthop) is no tunnel and has no split-horizon group")
        }
        try checkLabel(member.label, nexthop)
      case .tunnel: try checkLabel(member.label, nexthop)
      case .multicast:
        guard member.label == 0, member.group == 0 else {
          throw Refusal(
            .outOfRange, "nexthop \(id): label and group are those of the members of member \(member.nexthop)")
        }
        guard !replicates(member.nexthop, id) else {
          throw Refusal(.conflict, "nexthop \(id) would be a member of itself, by way of \(member.nexthop)")
        }
        below = max(below, depthBelow(member.nexthop))
      default:
        throw Refusal(
          .conflict, "nexthop \(id): member \(member.nexthop) is no encap to a local interface, tunnel or multicast")
      }
    }
    guard Set(members.map { Path(nexthop: $0.nexthop, label: $0.label) }).count == members.count else {
      throw Refusal(.conflict, "nexthop \(id) has a member twice")
    }
    guard depthAbove(id) + 1 + below <= ReplicaList.maximumDepth else {
      throw Refusal(
        .outOfRange,
        "nexthop \(id): multicast nexthops would stand in each other more than "
          + "\(ReplicaList.maximumDepth) deep")
    }
  }

  /// Whether `id` is `other`, or somewhere below it.
  private func replicates(_ other: UInt32, _ id: UInt32) -> Bool {
    if other == id { return true }
    guard case .multicast(let members)? = nexthops[other]?.value.action else { return false }
    return members.contains { replicates($0.nexthop, id) }
  }

  /// How many multicast nexthops deep it is below and with this one, and how many above it.
  private func depthBelow(_ id: UInt32) -> Int {
    guard case .multicast(let members)? = nexthops[id]?.value.action else { return 0 }
    return 1 + (members.map { depthBelow($0.nexthop) }.max() ?? 0)
  }
  private func depthAbove(_ id: UInt32) -> Int {
    (replicators[id]?.keys.map { 1 + depthAbove($0) }.max()) ?? 0
  }

  func count(_ members: [MulticastMember], of id: UInt32, _ change: Int) {
    for member in members {
      nexthops.use(member.nexthop, change)
      guard case .multicast? = nexthops[member.nexthop]?.value.action else { continue }
      replicators[member.nexthop, default: [:]][id, default: 0] += change
      if replicators[member.nexthop]?[id] == 0 { replicators[member.nexthop]?[id] = nil }
      if replicators[member.nexthop]?.isEmpty == true { replicators[member.nexthop] = nil }
    }
  }

  /// A nexthop that something else refers to must stay something that that can refer to.
  func checkUses(of new: NexthopConfiguration, was old: NexthopConfiguration) throws(Refusal) {
    guard nexthops[new.id]?.uses ?? 0 > 0, Self.use(of: old) != Self.use(of: new) else { return }
    throw Refusal(
      .inUse, "nexthop \(new.id) is referred to as what it was; set another one, and let those refer to that")
  }

  private enum Use {
    case copies
    case end
    case other
  }
  private static func use(of nexthop: NexthopConfiguration) -> Use {
    switch nexthop.action {
    case .multicast: .copies
    case .l2Receive, .l3Receive: .end
    default: .other
    }
  }

  // MARK: neighbours

  func set(_ new: NeighborConfiguration) throws(Refusal) {
    try requireVRF(new.vrf)
    guard !new.address.isMulticast, !new.address.isUnspecified else {
      throw Refusal(.outOfRange, "VRF \(new.vrf): \(new.address) is no host's address")
    }
    guard !new.mac.isZero, !new.mac.isGroup, new.mac != .virtualRouter else {
      throw Refusal(.outOfRange, "VRF \(new.vrf): MAC address \(new.mac) of \(new.address) is not one host's")
    }
    let key = NeighborKey(vrf: new.vrf, address: new.address)
    let old = neighbors[key]?.value
    if old == new {
      neighbors.renew(key, generation: generation)
      return
    }
    guard memory.neighbors.set(vrf: new.vrf, address: new.address, mac: new.mac) else {
      throw Refusal(.tableFull, "all \(memory.neighbors.capacity) neighbours are in use; start the forwarder with more")
    }
    if old == nil { vrfs.use(new.vrf, 1) }
    neighbors.set(key, new, generation: generation)
  }

  func remove(_ key: NeighborKey) throws(Refusal) {
    guard neighbors.contains(key) else {
      throw Refusal(.notFound, "VRF \(key.vrf) has no neighbour \(key.address)")
    }
    memory.neighbors.remove(vrf: key.vrf, address: key.address)
    vrfs.use(key.vrf, -1)
    neighbors.remove(key)
  }
}
