import WeftWire

/// Address sets, and for each address the combination of sets that hold it: its class. The policy's bit vectors are
/// made for each class, so that a lookup asks once, however many sets and rules there are.
///
/// Control thread only, but for `v4` and `v6`, which workers read.
final class PolicyAddresses {
  /// More classes than that are refused. Each may have bit vectors of one bit a rule.
  static let maximumClasses = 1 << 16
  /// Sets of all classes together.
  static let maximumWeight = 1 << 22

  private final class Members {
    /// true: the set holds these addresses; false: it excepts them from a shorter prefix.
    var prefixes: [IPPrefix: Bool] = [:]
    /// How many prefixes there are of each length.
    var lengths4 = [UInt32](repeating: 0, count: 33)
    var lengths6 = [UInt32](repeating: 0, count: 129)

    func has(_ length: Int, isV4: Bool) -> Bool { isV4 ? lengths4[length] > 0 : lengths6[length] > 0 }
  }

  let v4: AddressIntervals<UInt32>
  let v6: AddressIntervals<UInt128>
  private let epochs: Epochs
  private var sets: [Members?] = []
  private var freeSets: [UInt32] = []
  /// The sets of each class, ascending. A class that went keeps them until no worker can hold it.
  private(set) var classes: [[UInt32]] = [[]]
  private var uses: [UInt32] = [2]
  private var numbers: [[UInt32]: UInt32] = [[]: 0]
  private var freeClasses: [UInt32] = []
  private var weight = 0

  /// Called before a new class can be found by workers.
  var willAppear: (UInt32) -> Void = { _ in }
  /// Called when addresses pass from one class to another.
  var didMove: (UInt32, UInt32) -> Void = { _, _ in }

  init(epochs: Epochs) {
    self.epochs = epochs
    v4 = AddressIntervals(value: 0, epochs: epochs)
    v6 = AddressIntervals(value: 0, epochs: epochs)
  }

  /// Classes in use, "in no set" included.
  var classCount: Int { numbers.count }
  var boundaryCount: Int { v4.count + v6.count }
  /// Set numbers are below this.
  var setLimit: Int { sets.count }

  func makeSet() -> UInt32 {
    if let reused = freeSets.popLast() {
      sets[Int(reused)] = Members()
      return reused
    }
    sets.append(Members())
    return UInt32(sets.count - 1)
  }

  /// The set goes with what is in it. No rule refers to it any more.
  func removeSet(_ set: UInt32) {
    guard let members = sets[Int(set)] else { return }
    for prefix in members.prefixes.keys { remove(prefix, from: set) }
    sets[Int(set)] = nil
    freeSets.append(set)
  }

  /// Puts a prefix into a set, or excepts it (`isExcluded`): the longest prefix of a set that holds an address decides.
  /// False when there is no room for the classes that it takes: then nothing has changed.
  func insert(_ prefix: IPPrefix, into set: UInt32, isExcluded: Bool) -> Bool {
    guard let old = sets[Int(set)]?.prefixes[prefix] else {
      guard change(set, prefix, to: !isExcluded, edges: 1) else { return false }
      sets[Int(set)]?.prefixes[prefix] = !isExcluded
      count(set, prefix, 1)
      return true
    }
    guard old == isExcluded else { return true }
    guard change(set, prefix, to: !isExcluded, edges: 0) else { return false }
    sets[Int(set)]?.prefixes[prefix] = !isExcluded
    return true
  }

  func remove(_ prefix: IPPrefix, from set: UInt32) {
    guard let members = sets[Int(set)], members.prefixes[prefix] != nil else { return }
    var covering = false
    for length in (0..<prefix.length).reversed() where members.has(length, isV4: prefix.isV4) {
      if let shorter = IPPrefix(prefix.address, length: length), let holds = members.prefixes[shorter] {
        covering = holds
        break
      }
    }
    // Classes of fewer sets are let through beyond the limits: what is there can always be removed.
    _ = change(set, prefix, to: covering, edges: -1)
    sets[Int(set)]?.prefixes[prefix] = nil
    count(set, prefix, -1)
  }

  private func count(_ set: UInt32, _ prefix: IPPrefix, _ change: Int) {
    guard let members = sets[Int(set)] else { return }
    if prefix.isV4 {
      members.lengths4[prefix.length] = UInt32(Int(members.lengths4[prefix.length]) + change)
    } else {
      members.lengths6[prefix.length] = UInt32(Int(members.lengths6[prefix.length]) + change)
    }
  }

  private func change(_ set: UInt32, _ prefix: IPPrefix, to holds: Bool, edges: Int) -> Bool {
    if prefix.isV4 {
      let first = prefix.address.v4
      let last = prefix.length == 0 ? UInt32.max : first | ((UInt32.max >> UInt32(prefix.length - 1)) >> 1)
      return change(v4, first...last, set, prefix, to: holds, edges: edges) { IPAddress(v4: $0) }
    }
    let first = UInt128(prefix.address.high) << 64 | UInt128(prefix.address.low)
    let last = prefix.length == 0 ? UInt128.max : first | ((UInt128.max >> UInt128(prefix.length - 1)) >> 1)
    return change(v6, first...last, set, prefix, to: holds, edges: edges) {
      IPAddress(high: UInt64(truncatingIfNeeded: $0 >> 64), low: UInt64(truncatingIfNeeded: $0))
    }
  }

  /// Gives the addresses of a prefix, but for those that a longer prefix of the same set decides, to the classes with or
  /// without the set. `edges` is 1 for a prefix that comes, -1 for one that goes.
  private func change<Key>(
    _ intervals: AddressIntervals<Key>, _ range: ClosedRange<Key>, _ set: UInt32, _ prefix: IPPrefix, to holds: Bool,
    edges: Int, address: (Key) -> IPAddress
  ) -> Bool {
    guard let members = sets[Int(set)] else { return false }
    let longer = ((prefix.length + 1)..<(prefix.isV4 ? 33 : 129)).filter { members.has($0, isV4: prefix.isV4) }
    func isDecidedElsewhere(_ key: Key) -> Bool {
      guard !longer.isEmpty else { return false }
      let address = address(key)
      return longer.contains { length in
        IPPrefix(address, length: length).map { members.prefixes[$0] != nil } ?? false
      }
    }
    // All classes that it takes, before anything changes. Boundaries of longer prefixes are there already, so that an
    // interval that begins before the range is decided as a whole by its part within.
    var targets: [UInt32: UInt32] = [:]
    var refused = false
    intervals.update(range) { key, old in
      if !refused, targets[old] == nil, !isDecidedElsewhere(key) {
        if let target = makeClass(old, set, holds, isForced: edges < 0) {
          targets[old] = target
        } else {
          refused = true
        }
      }
      return old
    }
    guard !refused else {
      for target in targets.values { releaseIfUnused(target) }
      return false
    }
    if edges > 0 {
      splitEdges(intervals, range)
    }
    intervals.update(range) { key, old in
      guard let target = targets[old], target != old, !isDecidedElsewhere(key) else { return old }
      uses[Int(target)] += 1
      uses[Int(old)] -= 1
      didMove(old, target)
      return target
    }
    if edges < 0 {
      if range.lowerBound != 0, let gone = intervals.unsplit(at: range.lowerBound) { uses[Int(gone)] -= 1 }
      if range.upperBound != .max, let gone = intervals.unsplit(at: range.upperBound + 1) { uses[Int(gone)] -= 1 }
    }
    for (old, target) in targets {
      releaseIfUnused(old)
      releaseIfUnused(target)
    }
    return true
  }

  private func splitEdges<Key>(_ intervals: AddressIntervals<Key>, _ range: ClosedRange<Key>) {
    if range.lowerBound != 0, intervals.split(at: range.lowerBound) {
      uses[Int(intervals.value(range.lowerBound))] += 1
    }
    if range.upperBound != .max, intervals.split(at: range.upperBound + 1) {
      uses[Int(intervals.value(range.upperBound))] += 1
    }
  }

  // MARK: classes

  /// The class of `old`'s sets with or without `set`; nil when there is no room for it.
  private func makeClass(_ old: UInt32, _ set: UInt32, _ holds: Bool, isForced: Bool) -> UInt32? {
    var combination = classes[Int(old)]
    var low = 0
    var high = combination.count
    while low < high {
      let middle = (low + high) / 2
      if combination[middle] < set { low = middle + 1 } else { high = middle }
    }
    let isThere = low < combination.count && combination[low] == set
    if isThere == holds { return old }
    if holds { combination.insert(set, at: low) } else { combination.remove(at: low) }
    if let number = numbers[combination] { return number }
    guard isForced || numbers.count < Self.maximumClasses && weight + combination.count <= Self.maximumWeight else {
      return nil
    }
    let number: UInt32
    if let reused = freeClasses.popLast() {
      number = reused
      classes[Int(number)] = combination
    } else {
      number = UInt32(classes.count)
      classes.append(combination)
      uses.append(0)
    }
    uses[Int(number)] = 0
    numbers[combination] = number
    weight += combination.count
    willAppear(number)
    return number
  }

  private func releaseIfUnused(_ number: UInt32) {
    guard number != 0, uses[Int(number)] == 0, numbers[classes[Int(number)]] == number else { return }
    numbers[classes[Int(number)]] = nil
    weight -= classes[Int(number)].count
    epochs.retire { [self] in
      classes[Int(number)] = []
      freeClasses.append(number)
    }
  }
}
