import Testing
import WeftTables

private func table(_ members: [MemberTable.Member]) -> [Path] {
  let table = MemberTable(members)
  defer { table.deallocate() }
  return (0..<UInt64(MemberTable.slots)).map { table.path(table.member(hash: $0 << 48)) }
}

private func member(_ nexthop: UInt32, weight: UInt16 = 1) -> MemberTable.Member {
  .init(path: Path(nexthop: nexthop, label: nexthop + 1000), weight: weight)
}

@Test(arguments: [1, 2, 3, 7, 64]) func membersShareEvenly(count: Int) {
  let members = (1...count).map { member(UInt32($0)) }
  let slots = Dictionary(grouping: table(members)) { $0 }.mapValues(\.count)
  #expect(slots.count == count)
  let share = Double(MemberTable.slots) / Double(count)
  // Five standard deviations of a binomial distribution.
  #expect(slots.values.allSatisfy { abs(Double($0) - share) <= 5 * share.squareRoot() })
}

@Test func aMemberMovesOnlyItsOwnSlots() {
  for weights: [UInt16] in [[1, 1, 1, 1, 1], [1, 2, 3, 40, 65535]] {
    let members = (1...5).map { member(UInt32($0), weight: weights[$0 - 1]) }
    let all = table(members)
    #expect(table(members.reversed()) == all)
    for gone in 0..<5 {
      let left = table(members.enumerated().filter { $0.offset != gone }.map(\.element))
      for slot in all.indices where all[slot] != members[gone].path { #expect(left[slot] == all[slot]) }
    }
  }
}

@Test func membersShareByWeight() {
  let slots = Dictionary(grouping: table([member(1, weight: 1), member(2, weight: 3), member(3, weight: 12)])) { $0 }
  for (nexthop, share) in [(1, 256), (2, 768), (3, 3072)] as [(UInt32, Int)] {
    let count = slots[Path(nexthop: nexthop, label: nexthop + 1000)]?.count ?? 0
    #expect(abs(count - share) < 150, "nexthop \(nexthop): \(count)")
  }
}

@Test func findsMembersByNexthop() {
  let table = MemberTable([member(7), member(9)])
  defer { table.deallocate() }
  #expect(table.count == 2)
  #expect((table.index(nexthop: 7), table.index(nexthop: 9), table.index(nexthop: 8)) == (0, 1, nil))
}
