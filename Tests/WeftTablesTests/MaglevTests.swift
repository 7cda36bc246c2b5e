import Testing
import WeftTables

@Suite struct MaglevTests {
  private func backends(_ count: Int, weight: UInt32 = 1) -> [Maglev.Backend] {
    var random = SeededRandom(seed: 41)
    return (0..<count).map { _ in Maglev.Backend(identity: random.next(), weight: weight) }
  }

  private func shares(_ table: [UInt16], _ count: Int) -> [Int] {
    var shares = [Int](repeating: 0, count: count)
    for choice in table { shares[Int(choice)] += 1 }
    return shares
  }

  @Test func sizesArePrime() {
    for size in Maglev.sizes {
      #expect((2..<Int(Double(size).squareRoot()) + 1).allSatisfy { size % $0 != 0 }, "\(size)")
    }
    #expect(Maglev.size(backends: 1) == 251)
    #expect(Maglev.size(backends: 3) == 509)
    #expect(Maglev.size(backends: 655) == 65521)
    #expect(Maglev.size(backends: 4096) == 65521)
  }

  @Test(arguments: [1, 2, 3, 10, 100, 655, 4096]) func sharesEvenly(count: Int) {
    let table = Maglev.table(backends(count))
    #expect(table.count == Maglev.size(backends: count))
    let shares = shares(table, count)
    // Each gets a turn before any gets the next one.
    #expect(shares.max()! - shares.min()! <= 1)
  }

  @Test func sharesByWeight() {
    var list = backends(6)
    let weights: [UInt32] = [1, 2, 5, 10, 0, 100]
    for index in list.indices { list[index].weight = weights[index] }
    let table = Maglev.table(list)
    let shares = shares(table, list.count)
    let total = Double(weights.reduce(0, +))
    for index in list.indices {
      let expected = Double(table.count) * Double(weights[index]) / total
      #expect(
        abs(Double(shares[index]) - expected) <= 2, "weight \(weights[index]): \(shares[index]) of \(table.count)")
      #expect((shares[index] > 0) == (weights[index] > 0))
    }
  }

  @Test func hasNothingWithoutWeight() {
    #expect(Maglev.table([]).isEmpty)
    #expect(Maglev.table(backends(3, weight: 0)).isEmpty)
  }

  /// The same backends in any order make the same choice.
  @Test func dependsOnWhoTheyAre() {
    let list = backends(20)
    var random = SeededRandom(seed: 42)
    let mixed = list.shuffled(using: &random)
    let first = Maglev.table(list).map { list[Int($0)].identity }
    #expect(Maglev.table(mixed).map { mixed[Int($0)].identity } == first)
  }

  /// Entries that change hands though their backend stays, when one of `count` goes. The paper's section 5.3 has a few
  /// percent; the table's size is that of the same bracket.
  @Test(arguments: [5, 10, 50, 160]) func movesFewWhenOneGoes(count: Int) {
    let list = backends(count)
    let before = Maglev.table(list)
    var worst = 0.0
    var total = 0.0
    for gone in list.indices {
      var rest = list
      rest.remove(at: gone)
      let after = Maglev.table(rest)
      guard after.count == before.count else { return }
      var moved = 0
      for (old, new) in zip(before, after) where Int(old) != gone {
        if list[Int(old)].identity != rest[Int(new)].identity { moved += 1 }
      }
      let share = Double(moved) / Double(before.count)
      worst = max(worst, share)
      total += share
    }
    #expect(total / Double(count) < 0.06, "on average \(total / Double(count)) of \(count)")
    #expect(worst < 0.12, "at worst \(worst) of \(count)")
  }
}
