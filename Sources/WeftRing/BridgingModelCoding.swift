import WeftWire

// How BridgingModel.swift lies in a slot. Writer and reader of each stand together.

extension SlotWriter {
  mutating func put(_ vlan: VLANConfiguration?) {
    put(UInt8(vlan == nil ? 0 : 1))
    guard let vlan else { return }
    put(vlan.parent)
    put(vlan.proto)
    put(vlan.outer)
    put(vlan.inner ?? 0)
  }

  mutating func put(_ learning: LearningConfiguration) {
    put(learning.ageing)
    put(learning.moves)
    put(learning.moveSeconds)
    put(learning.limit)
  }

  mutating func put(_ members: [MulticastMember]) {
    let kept = members.prefix(NexthopConfiguration.maximumMembers)
    put(UInt8(kept.count))
    for member in kept {
      put(member.nexthop)
      put(member.label)
      put(member.group)
    }
  }

  mutating func put(_ entry: NeighborConfiguration) {
    put(entry.vrf)
    put(entry.address)
    put(entry.mac)
  }

  mutating func put(_ state: BridgeState) {
    put(UInt8(state.isLearned ? 1 : 0))
    put(UInt8(state.isDamped ? 1 : 0))
    put(state.idleSeconds)
    put(state.moves)
  }
}

extension SlotReader {
  mutating func vlan() throws(SlotFault) -> VLANConfiguration? {
    guard try flag("vlan") else { return nil }
    let parent: UInt32 = try get("vlan parent")
    let proto: UInt16 = try get("vlan protocol")
    let outer: UInt16 = try get("outer vlan")
    let inner: UInt16 = try get("inner vlan")
    return VLANConfiguration(parent: parent, proto: proto, outer: outer, inner: inner == 0 ? nil : inner)
  }

  mutating func learning() throws(SlotFault) -> LearningConfiguration {
    LearningConfiguration(
      ageing: try get("ageing"), moves: try get("moves"), moveSeconds: try get("move seconds"),
      limit: try get("mac limit"))
  }

  mutating func multicastMembers() throws(SlotFault) -> [MulticastMember] {
    let count = Int(try get("member count", as: UInt8.self))
    guard count <= NexthopConfiguration.maximumMembers else { throw SlotFault(what: "member count") }
    var members: [MulticastMember] = []
    for _ in 0..<count {
      members.append(
        MulticastMember(
          nexthop: try get("member nexthop"), label: try get("member label"), group: try get("member group")))
    }
    return members
  }

  mutating func neighbor() throws(SlotFault) -> NeighborConfiguration {
    NeighborConfiguration(vrf: try get("vrf"), address: try address("address"), mac: try mac("mac"))
  }

  mutating func bridgeState() throws(SlotFault) -> BridgeState {
    BridgeState(
      isLearned: try flag("learned"), isDamped: try flag("damped"), idleSeconds: try get("idle"),
      moves: try get("moves"))
  }
}
