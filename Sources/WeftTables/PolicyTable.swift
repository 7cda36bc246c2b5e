import CLinux
import Synchronization
import WeftSystem
import WeftWire

/// What the policy has no room for.
public enum PolicyLimit: Error, Sendable, Equatable {
  case rules(Int)
  /// Different boundaries of port ranges.
  case ports(Int)
  /// Different combinations of address sets that an address is in.
  case combinations(Int)
}

/// The policy's rules, address sets and subjects, as their one writer sees them.
///
/// Sets and subjects change at once, at the cost of what changes. Rules are compiled as a whole, by `commit`, into a
/// snapshot that replaces the one in force with a pointer store.
@safe public final class PolicyTable: @unchecked Sendable {
  private struct Entry {
    var rule: PolicyRule
    var remote: [UInt32]
    var local: UInt32?
  }
  private struct SubjectKey: Hashable {
    let vrf: UInt32
    let tags: [UInt32]
  }
  private struct PortEdge: Hashable {
    let isIngress: Bool
    /// nil for source ports.
    let proto: UInt8?
    let key: UInt32
  }

  /// Different boundaries of port ranges, at most: each may have a vector of its own.
  public static let maximumPortBoundaries = 1 << 15
  /// What a forwarder has room for.
  public static let maximumRules = 1 << 14

  public let capacity: Int
  /// Rules have a slot each, and those that are gone keep theirs as long as some worker may have them in its hands.
  private let slots: Int
  private let epochs: Epochs
  private let addresses: PolicyAddresses
  /// Snapshot (8 bytes), generation (4 bytes), rules with actions (4 bytes).
  private let place: Mapping
  private let hits: UnsafeMutablePointer<Atomic<UInt64>>
  /// `PolicyActions` by rule, as it is in force.
  private let actions: Mapping
  private var entries: [Entry?] = []
  private var freeEntries: [Int] = []
  private var numbers: [UInt32: Int] = [:]
  private var prefixSets: [IPPrefix: (set: UInt32, uses: Int)] = [:]
  private var edges: [PortEdge: Int] = [:]
  /// Subjects in use or still in some worker's hands.
  private var subjects: [(key: SubjectKey, uses: Int)?] = []
  private var freeSubjects: [Int] = []
  private var subjectNumbers: [SubjectKey: Int] = [:]

  private var egress: PolicySideCompiler
  private var ingress: PolicySideCompiler
  private var snapshot: UnsafeMutablePointer<PolicySide>
  /// Rules have changed since they were compiled.
  private var isDirty = false
  /// A verdict may have changed since the generation grew.
  private var needsGeneration = false
  /// What the rules in force may still use: it goes when they have been compiled anew.
  private enum Outgoing {
    case rule(PolicyRule)
    case counter(Int)
    case set(UInt32)
  }
  private var outgoing: [Outgoing] = []

  /// There is something to commit.
  public var isPending: Bool { isDirty || needsGeneration || !outgoing.isEmpty }

  /// `rules` is how many there may be, both directions together.
  public init(rules: Int, epochs: Epochs) throws(SystemError) {
    capacity = rules
    self.epochs = epochs
    addresses = PolicyAddresses(epochs: epochs)
    place = try Mapping(anonymous: 64, what: "policy")
    slots = max(rules, 1) * 2
    actions = try Mapping(anonymous: slots * 8, what: "rules' actions")
    unsafe hits = .allocate(capacity: slots)
    for index in 0..<slots { unsafe (hits + index).initialize(to: Atomic(0)) }
    egress = PolicySideCompiler([], setLimit: 0, subjects: 16, classes: 64)
    ingress = PolicySideCompiler([], setLimit: 0, subjects: 16, classes: 64)
    unsafe snapshot = .allocate(capacity: 2)
    unsafe weft_store_release_u32(place.base + 8, 1)
    addresses.willAppear = { [unowned self] in addClass($0) }
    addresses.didMove = { [unowned self] old, new in
      if !needsGeneration { needsGeneration = !egress.areAlike(old, new) || !ingress.areAlike(old, new) }
    }
    _ = egress.add(class: 0, sets: [])
    _ = ingress.add(class: 0, sets: [])
    unsafe snapshot.initialize(to: egress.side)
    unsafe (snapshot + 1).initialize(to: ingress.side)
    unsafe weft_store_release_ptr(place.base, snapshot)
  }

  deinit {
    unsafe hits.deallocate()
    unsafe snapshot.deallocate()
  }

  public var reader: PolicyReader {
    unsafe PolicyReader(
      place: place.base, v4: addresses.v4.reader, v6: addresses.v6.reader, hits: hits, actions: actions.base,
      slots: slots)
  }

  public var generation: UInt32 { unsafe weft_load_relaxed_u32(place.base + 8) }
  public var ruleCount: Int { numbers.count }
  public var classCount: Int { addresses.classCount }

  // MARK: rules

  /// Sets a rule, which is in force after `commit`. Its sets are there.
  public func set(_ rule: PolicyRule) throws(PolicyLimit) {
    let old = numbers[rule.id]
    guard old != nil || numbers.count < capacity && (entries.count < slots || !freeEntries.isEmpty) else {
      throw .rules(capacity)
    }
    let new = Self.edges(of: rule)
    if let old, let entry = entries[old] { count(Self.edges(of: entry.rule), -1) }
    guard edges.count + new.count(where: { edges[$0] == nil }) <= Self.maximumPortBoundaries else {
      if let old, let entry = entries[old] { count(Self.edges(of: entry.rule), 1) }
      throw .ports(Self.maximumPortBoundaries)
    }
    // Prefixes are sets of their own.
    var remote = rule.remoteSets
    if let prefix = rule.remotePrefix {
      guard let set = acquire(prefix) else {
        if let old, let entry = entries[old] { count(Self.edges(of: entry.rule), 1) }
        throw .combinations(PolicyAddresses.maximumClasses)
      }
      remote.append(set)
    }
    var local: UInt32?
    if let prefix = rule.localPrefix {
      guard let set = acquire(prefix) else {
        if let remote = rule.remotePrefix { release(remote) }
        if let old, let entry = entries[old] { count(Self.edges(of: entry.rule), 1) }
        throw .combinations(PolicyAddresses.maximumClasses)
      }
      local = set
    }
    count(new, 1)
    let entry = Entry(rule: rule, remote: Array(Set(remote)), local: local)
    if let old {
      if let before = entries[old] { outgoing.append(.rule(before.rule)) }
      entries[old] = entry
    } else {
      let number: Int
      if let reused = freeEntries.popLast() {
        number = reused
        entries[number] = entry
      } else {
        number = entries.count
        entries.append(entry)
      }
      numbers[rule.id] = number
      unsafe hits[number].store(0, ordering: .relaxed)
    }
    isDirty = true
  }

  public func remove(rule id: UInt32) {
    guard let number = numbers.removeValue(forKey: id), let entry = entries[number] else { return }
    count(Self.edges(of: entry.rule), -1)
    entries[number] = nil
    isDirty = true
    outgoing.append(.rule(entry.rule))
    outgoing.append(.counter(number))
  }

  /// How often the rule has decided.
  public func hits(ofRule id: UInt32) -> UInt64 {
    guard let number = numbers[id] else { return 0 }
    return unsafe hits[number].load(ordering: .relaxed)
  }

  private static func edges(of rule: PolicyRule) -> Set<PortEdge> {
    var result: Set<PortEdge> = []
    func add(_ ranges: [ClosedRange<UInt16>], _ proto: UInt8?) {
      for range in ranges {
        result.insert(PortEdge(isIngress: rule.isIngress, proto: proto, key: UInt32(range.lowerBound)))
        result.insert(PortEdge(isIngress: rule.isIngress, proto: proto, key: UInt32(range.upperBound) + 1))
      }
    }
    add(rule.services, rule.proto)
    add(rule.sources, nil)
    return result
  }

  private func count(_ changed: Set<PortEdge>, _ change: Int) {
    for edge in changed {
      let now = (edges[edge] ?? 0) + change
      edges[edge] = now == 0 ? nil : now
    }
  }

  private func acquire(_ prefix: IPPrefix) -> UInt32? {
    if let known = prefixSets[prefix] {
      prefixSets[prefix]?.uses += 1
      return known.set
    }
    let set = addresses.makeSet()
    guard addresses.insert(prefix, into: set, isExcluded: false) else {
      addresses.removeSet(set)
      return nil
    }
    prefixSets[prefix] = (set, 1)
    return set
  }

  private func release(_ prefix: IPPrefix) {
    guard let known = prefixSets[prefix] else { return }
    if known.uses > 1 {
      prefixSets[prefix]?.uses -= 1
    } else {
      prefixSets[prefix] = nil
      addresses.removeSet(known.set)
    }
  }

  private func releasePrefixes(of rule: PolicyRule) {
    if let prefix = rule.remotePrefix { release(prefix) }
    if let prefix = rule.localPrefix { release(prefix) }
  }

  // MARK: address sets

  /// A new, empty set's number.
  public func makeSet() -> UInt32 { addresses.makeSet() }

  /// The set goes with its members, with `commit`; no rule refers to it. A few microseconds a member.
  public func removeSet(_ set: UInt32) { outgoing.append(.set(set)) }

  /// Puts a prefix into a set, or takes it out of a shorter one of the same set (`isExcluded`). In force at once.
  public func insert(_ prefix: IPPrefix, into set: UInt32, isExcluded: Bool = false) throws(PolicyLimit) {
    guard addresses.insert(prefix, into: set, isExcluded: isExcluded) else {
      throw .combinations(PolicyAddresses.maximumClasses)
    }
  }

  public func remove(_ prefix: IPPrefix, from set: UInt32) { addresses.remove(prefix, from: set) }

  private func addClass(_ number: UInt32) {
    let sets = addresses.classes[Int(number)]
    if !egress.add(class: Int(number), sets: sets) || !ingress.add(class: Int(number), sets: sets) { compile() }
  }

  // MARK: subjects

  /// The number of the subjects in a VRF with these tags, with one use more.
  public func acquireSubject(vrf: UInt32, tags: [UInt32]) -> UInt32 {
    let key = SubjectKey(vrf: vrf, tags: Set(tags).sorted())
    if let number = subjectNumbers[key] {
      subjects[number]?.uses += 1
      return UInt32(number)
    }
    let number: Int
    if let reused = freeSubjects.popLast() {
      number = reused
      subjects[number] = (key, 1)
    } else {
      number = subjects.count
      subjects.append((key, 1))
    }
    subjectNumbers[key] = number
    if !egress.add(subject: number, vrf: key.vrf, tags: key.tags)
      || !ingress.add(subject: number, vrf: key.vrf, tags: key.tags)
    {
      compile()
    }
    return UInt32(number)
  }

  public func releaseSubject(_ subject: UInt32) {
    let number = Int(subject)
    guard let entry = subjects[number] else { return }
    subjects[number]?.uses -= 1
    guard entry.uses == 1 else { return }
    subjectNumbers[entry.key] = nil
    epochs.retire { [self] in
      subjects[number] = nil
      freeSubjects.append(number)
    }
  }

  /// An interface has another subject than before, or is under the policy where it was not: its flows are judged again.
  public func touch() { needsGeneration = true }

  // MARK: compiling

  /// Brings what was changed into force: compiles the rules, if they have changed, and lets flows be judged again.
  public func commit() {
    if isDirty { compile() }
    for part in outgoing {
      switch part {
      case .rule(let rule): releasePrefixes(of: rule)
      case .set(let set): addresses.removeSet(set)
      case .counter(let number): epochs.retire { [self] in freeEntries.append(number) }
      }
    }
    outgoing.removeAll()
    if needsGeneration {
      needsGeneration = false
      unsafe weft_store_release_u32(place.base + 8, generation &+ 1)
    }
  }

  private func compile() {
    isDirty = false
    needsGeneration = true
    let sorted = entries.indices.compactMap { number in
      entries[number].map { (order: UInt64($0.rule.priority) << 32 | UInt64($0.rule.id), number: number) }
    }.sorted { $0.order < $1.order }
    publishActions()
    let oldEgress = egress
    let oldIngress = ingress
    egress = side(isIngress: false, sorted.map(\.number))
    ingress = side(isIngress: true, sorted.map(\.number))
    let old = unsafe snapshot
    unsafe snapshot = .allocate(capacity: 2)
    unsafe snapshot.initialize(to: egress.side)
    unsafe (snapshot + 1).initialize(to: ingress.side)
    unsafe weft_store_release_ptr(place.base, snapshot)
    epochs.retire {
      withExtendedLifetime((oldEgress, oldIngress)) { unsafe old.deallocate() }
    }
  }

  private func publishActions() {
    var count: UInt32 = 0
    for (number, entry) in entries.enumerated() {
      let bits = entry?.rule.actions.bits ?? 0
      if bits != 0 { count += 1 }
      unsafe weft_store_release_u64(actions.base + number * 8, bits)
    }
    unsafe weft_store_release_u32(place.base + 12, count)
  }

  private func side(isIngress: Bool, _ sorted: [Int]) -> PolicySideCompiler {
    var rules: [PolicySideCompiler.Rule] = []
    for number in sorted {
      if let entry = entries[number], entry.rule.isIngress == isIngress {
        rules.append(
          PolicySideCompiler.Rule(rule: entry.rule, slot: UInt32(number), remote: entry.remote, local: entry.local))
      }
    }
    let side = PolicySideCompiler(
      rules, setLimit: addresses.setLimit, subjects: max(16, subjects.count * 2),
      classes: max(64, addresses.classes.count * 2))
    for (number, sets) in addresses.classes.enumerated() { _ = side.add(class: number, sets: sets) }
    for (number, subject) in subjects.enumerated() {
      if let subject { _ = side.add(subject: number, vrf: subject.key.vrf, tags: subject.key.tags) }
    }
    return side
  }
}
