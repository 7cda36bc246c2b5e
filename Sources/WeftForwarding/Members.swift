import WeftTables
import WeftWire

extension PacketPath {
  /// The path of a packet to an ECMP nexthop: that which its flow has had, as long as it is a member and can be used, else
  /// the member that has the flow's hash. nil where none can be used.
  func member(of members: MemberTable?, flow: UInt32, hash: UInt64) -> Path? {
    guard let members else { return nil }
    if flow != FlowTable.none {
      let last = flows[flow].nexthop
      if last != FlowTable.none, let index = index(of: last, in: members, hint: Int(flows[flow].ecmpMember)),
        isUsable(last)
      {
        flows.setMember(flow, UInt16(truncatingIfNeeded: index))
        return members.path(index)
      }
    }
    // A member that cannot be used leaves its flows to the others, spread over all of them.
    var hash = hash
    for _ in 0..<8 {
      let index = members.member(hash: hash)
      let path = members.path(index)
      if isUsable(path.nexthop) {
        if flow != FlowTable.none { flows.setMember(flow, UInt16(truncatingIfNeeded: index)) }
        return path
      }
      hash = (hash ^ hash >> 29) &* 0xBF58_476D_1CE4_E5B9
    }
    return (0..<members.count).first { isUsable(members.path($0).nexthop) }.map(members.path)
  }

  /// `hint`: the flow's member when it was chosen; others may have come or gone since.
  @inline(__always) private func index(of nexthop: UInt32, in members: MemberTable, hint: Int) -> Int? {
    hint < members.count && members.path(hint).nexthop == nexthop ? hint : members.index(nexthop: nexthop)
  }

  @inline(__always) private func isUsable(_ id: UInt32) -> Bool {
    guard let nexthop = tables.nexthop(id) else { return false }
    switch nexthop.entry.kind {
    case .encap: return tables.interface(nexthop.entry.interface) != nil
    case .vxlan, .mplsOverUDP, .mplsOverGRE: return nexthop.entry.isResolved
    default: return false
    }
  }
}
