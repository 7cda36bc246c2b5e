import Testing
import WeftTables
import WeftWire

/// The policy as its definition reads: sets are lists of prefixes, rules are asked one after the other.
private struct NaivePolicy {
  var sets: [[IPPrefix: Bool]] = []
  var rules: [UInt32: PolicyRule] = [:]
  var order: [PolicyRule] = []

  mutating func sort() { order = rules.values.sorted { ($0.priority, $0.id) < ($1.priority, $1.id) } }

  /// `isExcluded` of the longest prefix that holds the address decides.
  func contains(_ set: Int, _ address: IPAddress) -> Bool {
    let holding = sets[set].filter { $0.key.contains(address) }
    return holding.max { $0.key.length < $1.key.length }.map { !$0.value } ?? false
  }

  func evaluate(
    _ query: PolicyQuery, vrf: UInt32, tags: [UInt32], isIn: (Int, IPAddress) -> Bool
  ) -> PolicyRule? {
    order.first { rule in
      guard rule.isIngress == query.isIngress, rule.tag == 0 || tags.contains(rule.tag), rule.vrf ?? vrf == vrf else {
        return false
      }
      if !rule.remoteSets.isEmpty || rule.remotePrefix != nil {
        guard
          rule.remoteSets.contains(where: { isIn(Int($0), query.remote) })
            || rule.remotePrefix?.contains(query.remote) ?? false
        else { return false }
      }
      if let local = rule.localPrefix, !local.contains(query.local) { return false }
      if let proto = rule.proto, proto != query.proto { return false }
      func holds(_ ranges: [ClosedRange<UInt16>], _ port: UInt16) -> Bool {
        ranges.isEmpty || ranges.contains { $0.contains(port) }
      }
      guard holds(rule.sourcePorts, query.sourcePort), holds(rule.destinationPorts, query.destinationPort) else {
        return false
      }
      if let type = rule.icmpType, type != UInt8(query.icmp >> 8) { return false }
      if let code = rule.icmpCode, code != UInt8(query.icmp & 0xFF) { return false }
      return query.tcpFlags & rule.tcpFlagsMask == rule.tcpFlagsValue
    }
  }
}

/// Addresses, prefixes, rules and packets out of a small world, in which they meet often.
private struct World {
  var random: SeededRandom

  mutating func address(isV4: Bool) -> IPAddress {
    if isV4 {
      switch random.below(8) {
      case 0: return IPAddress(v4: random.below(2) == 0 ? 0 : .max)
      default: return IPAddress(v4: 0x0A00_0000 | UInt32(random.below(4)) << 16 | UInt32(random.below(24)))
      }
    }
    switch random.below(12) {
    case 0: return IPAddress(high: 0, low: 0)
    case 1: return IPAddress(high: .max, low: .max)
    // Beside the IPv4-mapped addresses, which are IPv4's.
    case 2: return IPAddress(high: 0, low: 0xFFFE_0A00_0000 | UInt64(random.below(3)))
    default:
      return IPAddress(high: 0xFD00_0000_0000_0000 | UInt64(random.below(3)), low: UInt64(random.below(24)) << 40)
    }
  }

  mutating func prefix() -> IPPrefix {
    let address = address(isV4: random.below(2) == 0)
    let width = address.width
    let length: Int
    switch random.below(6) {
    case 0: length = random.below(width + 1)
    case 1: length = [0, 8, 16, 24, width - 5, width - 1][random.below(6)]
    default: length = width
    }
    return IPPrefix(address, length: length)!
  }

  mutating func range() -> ClosedRange<UInt16> {
    switch random.below(5) {
    case 0: return 0...UInt16(random.below(65536))
    case 1: return UInt16(random.below(65536))...UInt16.max
    case 2: return 0...UInt16.max
    default:
      let first = UInt16(random.below(16))
      return first...first + UInt16(random.below(3))
    }
  }

  mutating func rule(_ id: UInt32, sets: Int) -> PolicyRule {
    var rule = PolicyRule(
      id: id, priority: UInt32(random.below(40)), isIngress: random.below(2) == 0,
      action: PolicyAction.allCases[random.below(3)], tag: random.below(3) == 0 ? 0 : UInt32(1 + random.below(5)))
    if random.below(4) == 0 { rule.vrf = UInt32(random.below(3)) }
    // Most ask for something, or the first few would decide about everything.
    let isNarrow = random.below(16) > 0
    for _ in 0..<(isNarrow ? [0, 1, 1, 1, 1, 2] : [0, 0, 1, 1, 2, 4])[random.below(6)] {
      rule.remoteSets.append(UInt32(random.below(sets)))
    }
    if random.below(4) == 0 || isNarrow && rule.remoteSets.isEmpty { rule.remotePrefix = prefix() }
    if random.below(6) == 0 { rule.localPrefix = prefix() }
    switch isNarrow ? 1 + random.below(5) : random.below(6) {
    case 0: break
    case 1: rule.proto = [0, 47, 255][random.below(3)]
    case 2:
      rule.proto = random.below(2) == 0 ? IPProtocol.icmp : IPProtocol.icmpv6
      if random.below(4) > 0 { rule.icmpType = [0, 8, 128, 255][random.below(4)] }
      if rule.icmpType != nil, random.below(2) == 0 { rule.icmpCode = UInt8([0, 1, 255][random.below(3)]) }
    default:
      rule.proto = [IPProtocol.tcp, IPProtocol.udp, IPProtocol.sctp][random.below(3)]
      for _ in 0..<(isNarrow ? 1 + random.below(2) : random.below(4)) { rule.destinationPorts.append(range()) }
      if random.below(4) == 0 { for _ in 0..<random.below(3) { rule.sourcePorts.append(range()) } }
      if rule.proto == IPProtocol.tcp, random.below(4) == 0 {
        rule.tcpFlagsMask = [0x02, 0x12, 0x3F][random.below(3)]
        rule.tcpFlagsValue = [0x02, 0x10, 0x00][random.below(3)] & rule.tcpFlagsMask
      }
    }
    rule.isLogged = random.below(8) == 0
    rule.mirror = UInt16(random.below(3))
    rule.dscp = random.below(4) == 0 ? UInt8(random.below(64)) : PolicyRule.keepDSCP
    return rule
  }
}

@Suite struct PolicyTableTests {
  /// Rules, sets, members and subjects come and go; after each round 4,000 packets are judged both ways.
  @Test(arguments: [1, 2, 3, 4] as [UInt64]) func agreesWithItsDefinition(seed: UInt64) throws {
    var world = World(random: SeededRandom(seed: seed))
    let epochs = try Epochs(workers: 1)
    let worker = epochs.worker(0)
    worker.comeOnline()
    let table = try PolicyTable(rules: 2000, epochs: epochs)
    let reader = table.reader
    var naive = NaivePolicy()
    let setCount = 14
    // Numbers of sets count from 0 here, as long as none was removed.
    for _ in 0..<setCount {
      #expect(Int(table.makeSet()) == naive.sets.count)
      naive.sets.append([:])
    }
    var subjects: [(number: UInt32, vrf: UInt32, tags: [UInt32])] = []
    var matched = 0
    var compared = 0
    for round in 0..<80 {
      for _ in 0..<60 {
        let set = world.random.below(setCount)
        if world.random.below(3) == 0,
          let prefix = naive.sets[set].keys.sorted(by: before).randomElement(using: &world.random)
        {
          table.remove(prefix, from: UInt32(set))
          naive.sets[set][prefix] = nil
        } else {
          let prefix = world.prefix()
          let isExcluded = world.random.below(4) == 0
          try table.insert(prefix, into: UInt32(set), isExcluded: isExcluded)
          naive.sets[set][prefix] = isExcluded
        }
      }
      // A round now and then changes members alone, which is in force without a commit.
      let changes = round % 4 == 3 ? 0 : [3, 40, 400][world.random.below(3)]
      for _ in 0..<changes {
        let id = UInt32(world.random.below(round < 40 ? 1200 : 100))
        if world.random.below(3) == 0 {
          table.remove(rule: id)
          naive.rules[id] = nil
        } else {
          let rule = world.rule(id, sets: setCount)
          try table.set(rule)
          naive.rules[id] = rule
        }
      }
      if round == 40 {
        for id in naive.rules.keys where id >= 100 {
          table.remove(rule: id)
          naive.rules[id] = nil
        }
      }
      for _ in 0..<4 {
        if subjects.count > 6 {
          table.releaseSubject(subjects.remove(at: world.random.below(subjects.count)).number)
        }
        let tags = (0..<world.random.below(4)).map { _ in UInt32(1 + world.random.below(6)) }
        let vrf = UInt32(world.random.below(3))
        subjects.append((table.acquireSubject(vrf: vrf, tags: tags), vrf, tags))
      }
      if changes > 0 { table.commit() }
      naive.sort()
      #expect(table.ruleCount == naive.rules.count)
      worker.quiescent()
      epochs.reclaim()

      var known: [IPAddress: [Bool]] = [:]
      func isIn(_ set: Int, _ address: IPAddress) -> Bool {
        if let sets = known[address] { return sets[set] }
        let sets = naive.sets.indices.map { naive.contains($0, address) }
        known[address] = sets
        return sets[set]
      }
      for _ in 0..<4000 {
        let subject = subjects[world.random.below(subjects.count)]
        let isV4 = world.random.below(2) == 0
        let proto: UInt8 = [6, 6, 17, 132, 1, 58, 47, 0, 255][world.random.below(9)]
        var query = PolicyQuery(
          subject: subject.number, isIngress: world.random.below(2) == 0, local: world.address(isV4: isV4),
          remote: world.address(isV4: isV4), proto: proto)
        if proto == 1 || proto == 58 {
          query.icmp = [0, 8 << 8, 128 << 8 | 1, 0xFFFF, 3 << 8][world.random.below(5)]
        } else if PolicyRule.hasPorts(proto) {
          query.sourcePort = [UInt16(world.random.below(20)), 0, .max, 40000][world.random.below(4)]
          query.destinationPort = [UInt16(world.random.below(20)), 0, .max, 40000][world.random.below(4)]
        }
        if proto == 6 { query.tcpFlags = [0x02, 0x10, 0x12, 0x00, 0xFF][world.random.below(5)] }
        let verdict = reader.evaluate(query)
        let expected = naive.evaluate(query, vrf: subject.vrf, tags: subject.tags, isIn: isIn)
        compared += 1
        if let expected {
          matched += 1
          guard verdict.rule == expected.id, verdict.action == expected.action, verdict.mirror == expected.mirror,
            verdict.isLogged == expected.isLogged, verdict.dscp == expected.dscp
          else {
            Issue.record("round \(round): \(query): rule \(verdict.rule) where \(expected) is right")
            return
          }
        } else if verdict != .noRule {
          Issue.record("round \(round): \(query): rule \(verdict.rule) where none matches")
          return
        }
      }
    }
    #expect(compared == 320_000)
    // Neither all nor none.
    #expect(matched > compared / 10 && matched < compared * 9 / 10, "\(matched) of \(compared) matched")
  }

  private func before(_ a: IPPrefix, _ b: IPPrefix) -> Bool { (a.address, a.length) < (b.address, b.length) }

  private struct Fixture {
    let epochs: Epochs
    let worker: WorkerEpoch
    let table: PolicyTable
    let subject: UInt32

    init(rules: Int = 64) throws {
      epochs = try Epochs(workers: 1)
      worker = epochs.worker(0)
      worker.comeOnline()
      table = try PolicyTable(rules: rules, epochs: epochs)
      subject = table.acquireSubject(vrf: 1, tags: [])
    }

    func ask(_ remote: String, isIngress: Bool = true, port: UInt16 = 80) -> PolicyVerdict {
      let remote = IPAddress(remote)!
      let local = remote.isV4 ? IPAddress("10.0.0.1")! : IPAddress("fd00::1")!
      return table.reader.evaluate(
        PolicyQuery(
          subject: subject, isIngress: isIngress, local: local, remote: remote, proto: 6, sourcePort: 40000,
          destinationPort: port))
    }

    func pass() {
      worker.quiescent()
      epochs.reclaim()
    }
  }

  private func rule(
    _ id: UInt32, priority: UInt32 = 10, _ action: PolicyAction = .allow,
    _ change: (inout PolicyRule) -> Void = { _ in }
  ) -> PolicyRule {
    var rule = PolicyRule(id: id, priority: priority, isIngress: true, action: action)
    change(&rule)
    return rule
  }

  @Test func whatNoRuleAllowsIsDenied() throws {
    let fixture = try Fixture()
    #expect(fixture.ask("10.0.0.2") == .noRule)
    #expect(fixture.ask("10.0.0.2").action == .deny)
    try fixture.table.set(rule(1))
    #expect(fixture.ask("10.0.0.2").action == .deny, "a rule is in force after commit, not before")
    fixture.table.commit()
    #expect(fixture.ask("10.0.0.2").action == .allow)
    #expect(fixture.ask("10.0.0.2", isIngress: false) == .noRule)
    fixture.table.remove(rule: 1)
    fixture.table.commit()
    #expect(fixture.ask("10.0.0.2") == .noRule)
  }

  @Test func lowestPriorityNumberThenLowestIdDecides() throws {
    let fixture = try Fixture()
    for (id, priority) in [(7, 20), (3, 10), (5, 10), (1, 30)] as [(UInt32, UInt32)] {
      try fixture.table.set(rule(id, priority: priority))
    }
    for expected in [3, 5, 7, 1] as [UInt32] {
      fixture.table.commit()
      #expect(fixture.ask("10.0.0.2").rule == expected)
      fixture.table.remove(rule: expected)
    }
  }

  @Test func longestPrefixOfASetDecides() throws {
    let fixture = try Fixture()
    let set = fixture.table.makeSet()
    try fixture.table.set(rule(1) { $0.remoteSets = [set] })
    fixture.table.commit()
    try fixture.table.insert(IPPrefix("10.0.0.0/8")!, into: set)
    try fixture.table.insert(IPPrefix("10.1.0.0/16")!, into: set, isExcluded: true)
    try fixture.table.insert(IPPrefix("10.1.2.3/32")!, into: set)
    try fixture.table.insert(IPPrefix("fd00::/8")!, into: set)
    let expected: [(String, Bool)] = [
      ("10.0.0.0", true), ("10.255.255.255", true), ("9.255.255.255", false), ("11.0.0.0", false),
      ("10.1.0.0", false), ("10.1.255.255", false), ("10.0.255.255", true), ("10.2.0.0", true), ("10.1.2.3", true),
      ("10.1.2.2", false), ("10.1.2.4", false), ("fd12::1", true), ("fe00::", false),
    ]
    for (address, isIn) in expected { #expect((fixture.ask(address).rule == 1) == isIn, "\(address)") }
    fixture.table.remove(IPPrefix("10.1.0.0/16")!, from: set)
    #expect(fixture.ask("10.1.0.0").rule == 1)
    fixture.table.remove(IPPrefix("10.0.0.0/8")!, from: set)
    #expect(fixture.ask("10.1.2.3").rule == 1)
    #expect(fixture.ask("10.1.2.2") == .noRule)
  }

  /// IPv4 addresses are no part of ::/0, and no rule of one family is about the other.
  @Test func familiesAreApart() throws {
    let fixture = try Fixture()
    try fixture.table.set(rule(4) { $0.remotePrefix = IPPrefix("0.0.0.0/0")! })
    try fixture.table.set(rule(6) { $0.remotePrefix = IPPrefix("::/0")! })
    fixture.table.commit()
    for address in ["0.0.0.0", "10.0.0.1", "255.255.255.255"] { #expect(fixture.ask(address).rule == 4) }
    for address in ["::", "::fffe:0:0", "fd00::1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"] {
      #expect(fixture.ask(address).rule == 6)
    }
  }

  @Test func generationGrowsWhenAVerdictMayChange() throws {
    let fixture = try Fixture()
    let table = fixture.table
    let asked = table.makeSet()
    let unasked = table.makeSet()
    try table.set(rule(1) { $0.remoteSets = [asked] })
    #expect(table.isPending)
    table.commit()
    #expect(!table.isPending)
    var before = table.reader.generation
    func grew() -> Bool {
      table.commit()
      defer { before = table.reader.generation }
      return table.reader.generation != before
    }
    #expect(!grew())
    try table.insert(IPPrefix("10.0.0.0/8")!, into: unasked)
    #expect(!grew(), "no rule asks for the set")
    try table.insert(IPPrefix("10.0.0.0/24")!, into: asked)
    #expect(grew())
    try table.insert(IPPrefix("10.0.0.0/25")!, into: asked)
    #expect(!grew(), "the address was in the set already")
    table.remove(IPPrefix("10.0.0.0/24")!, from: asked)
    #expect(grew())
    table.touch()
    #expect(grew())
    _ = table.acquireSubject(vrf: 1, tags: [7])
    #expect(!grew(), "nobody had this subject before")
    table.remove(rule: 1)
    #expect(grew())
  }

  @Test func countsHits() throws {
    let fixture = try Fixture(rules: 2)
    let table = fixture.table
    try table.set(
      rule(1) {
        $0.proto = 6
        $0.destinationPorts = [80...80]
      })
    try table.set(rule(2, priority: 20, .reject))
    table.commit()
    for port in [80, 80, 81] as [UInt16] { table.reader.countHit(fixture.ask("10.0.0.2", port: port)) }
    table.reader.countHit(.noRule)
    #expect(table.hits(ofRule: 1) == 2)
    #expect(table.hits(ofRule: 2) == 1)
    // A changed rule goes on counting, another one in its place begins anew.
    try table.set(rule(1) { $0.proto = 17 })
    table.commit()
    #expect(table.hits(ofRule: 1) == 2)
    table.remove(rule: 1)
    table.commit()
    fixture.pass()
    try table.set(rule(3))
    table.commit()
    #expect(table.hits(ofRule: 3) == 0)
    #expect(table.hits(ofRule: 1) == 0)
  }

  /// Rules that go keep their place until a commit: who replaces more than the table holds in one go is refused.
  @Test func rulesThatAreGoneKeepTheirPlaces() throws {
    let epochs = try Epochs(workers: 1)
    let table = try PolicyTable(rules: 4, epochs: epochs)
    func rule(_ id: UInt32) -> PolicyRule { PolicyRule(id: id, priority: 1, isIngress: true, action: .allow) }
    for id in 0..<4 as Range<UInt32> { try table.set(rule(id)) }
    #expect(throws: PolicyLimit.rules(4)) { try table.set(rule(4)) }
    for id in 0..<4 as Range<UInt32> {
      table.remove(rule: id)
      try table.set(rule(id + 10))
    }
    table.remove(rule: 10)
    #expect(throws: PolicyLimit.rules(4)) { try table.set(rule(20)) }
    table.commit()
    epochs.reclaim()
    try table.set(rule(20))
    table.commit()
    #expect(table.ruleCount == 4)
    #expect(table.hits(ofRule: 20) == 0)
  }

  @Test func refusesWhatHasNoRoom() throws {
    let fixture = try Fixture(rules: 20_000)
    let table = fixture.table
    // Two boundaries a rule.
    for id in 0..<UInt32(PolicyTable.maximumPortBoundaries / 2) {
      try table.set(
        rule(id) {
          $0.proto = id < 10_000 ? 6 : 17
          $0.destinationPorts = [UInt16(id % 10_000 * 4)...UInt16(id % 10_000 * 4 + 1)]
        })
    }
    #expect(throws: PolicyLimit.ports(PolicyTable.maximumPortBoundaries)) {
      try table.set(
        rule(19_000) {
          $0.proto = 132
          $0.destinationPorts = [7...7]
        })
    }
    // Known boundaries cost nothing, and a rule that changes gives its own back.
    try table.set(
      rule(19_001) {
        $0.proto = 6
        $0.destinationPorts = [4...5]
      })
    try table.set(
      rule(0) {
        $0.proto = 132
        $0.destinationPorts = [7...7]
      })
    table.commit()
    #expect(fixture.ask("10.0.0.1", port: 4).rule == 1)
    #expect(fixture.ask("10.0.0.1", port: 0) == .noRule)

    let small = try Fixture(rules: 2)
    try small.table.set(rule(1))
    try small.table.set(rule(2))
    #expect(throws: PolicyLimit.rules(2)) { try small.table.set(rule(3)) }
    try small.table.set(rule(2, priority: 1))
  }

  /// A hundred thousand scattered addresses of each family, and all combinations of sixteen sets beside.
  @Test func holdsLargeSets() throws {
    let fixture = try Fixture()
    let table = fixture.table
    let large = table.makeSet()
    var random = SeededRandom(seed: 99)
    var members: [IPAddress] = []
    for _ in 0..<100_000 {
      members.append(IPAddress(v4: UInt32(truncatingIfNeeded: random.next()) | 1))
      members.append(IPAddress(high: random.next() | 1 << 63, low: random.next() | 1))
    }
    for address in members { try table.insert(IPPrefix(host: address), into: large) }
    try table.set(rule(1) { $0.remoteSets = [large] })
    table.commit()
    let reader = table.reader
    func decider(_ address: IPAddress) -> UInt32 {
      reader.evaluate(
        PolicyQuery(subject: fixture.subject, isIngress: true, local: address, remote: address, proto: 17)
      ).rule
    }
    #expect(members.allSatisfy { decider($0) == 1 })
    // Even neighbours, which are in nobody's set.
    #expect(members.allSatisfy { decider(IPAddress(high: $0.high, low: $0.low ^ 1)) == PolicyRule.noRule })
    #expect(table.classCount == 2)
    fixture.pass()

    let sets = (0..<16).map { _ in table.makeSet() }
    for combination in 0..<20_000 {
      for (bit, set) in sets.enumerated() where combination >> bit & 1 != 0 {
        try table.insert(IPPrefix(host: IPAddress(v4: 0xF000_0000 | UInt32(combination))), into: set)
      }
      if combination % 512 == 0 { fixture.pass() }
    }
    try table.set(rule(2, priority: 1) { $0.remoteSets = [sets[0], sets[3]] })
    table.commit()
    for combination in 0..<20_000 {
      let expected: UInt32 = combination & 0b1001 != 0 ? 2 : PolicyRule.noRule
      #expect(decider(IPAddress(v4: 0xF000_0000 | UInt32(combination))) == expected)
    }
    for set in sets { table.removeSet(set) }
    table.remove(rule: 2)
    table.commit()
    fixture.pass()
    #expect(table.classCount == 2)
    #expect(members.allSatisfy { decider($0) == 1 })
  }

  @Test func refusesTooManyCombinations() throws {
    let fixture = try Fixture()
    let table = fixture.table
    let sets = (0..<17).map { _ in table.makeSet() }
    var refused: IPAddress?
    for combination in 1..<(1 << 17) {
      let address = IPAddress(v4: UInt32(combination) << 4)
      do throws(PolicyLimit) {
        for (bit, set) in sets.enumerated() where combination >> bit & 1 != 0 {
          try table.insert(IPPrefix(host: address), into: set)
        }
      } catch {
        #expect(error == .combinations(1 << 16))
        refused = address
        break
      }
      if combination % 512 == 0 { fixture.pass() }
    }
    #expect(refused != nil)
    // What is there can still be taken out, all of it.
    for set in sets { table.removeSet(set) }
    table.commit()
    fixture.pass()
    #expect(table.classCount == 1)
  }

  /// Two workers judge while rules, sets, and combinations come and go: what nobody changes stays as it is.
  @Test func workersReadWhileItChanges() throws {
    let epochs = try Epochs(workers: 2)
    let table = try PolicyTable(rules: 4096, epochs: epochs)
    let steady = table.makeSet()
    let churned = table.makeSet()
    let inside = [IPAddress("10.0.0.5")!, IPAddress("fd00::5")!]
    let outside = [IPAddress("10.0.0.6")!, IPAddress("fd00::6")!]
    for address in inside { try table.insert(IPPrefix(host: address), into: steady) }
    try table.set(rule(1, priority: 0) { $0.remoteSets = [steady] })
    try table.set(rule(2, priority: 1, .deny) { $0.remoteSets = [churned] })
    try table.set(rule(3, priority: .max, .reject))
    let subject = table.acquireSubject(vrf: 1, tags: [1, 2])
    table.commit()
    let watch = Watch()
    let reader = table.reader
    let threads = (0..<2).map { index in
      let worker = epochs.worker(index)
      return PosixThread {
        worker.comeOnline()
        while !watch.isStopped {
          for _ in 0..<32 {
            for address in inside {
              let verdict = reader.evaluate(
                PolicyQuery(subject: subject, isIngress: true, local: address, remote: address, proto: 6))
              if verdict.rule != 1 { watch.sawWrong() }
            }
            for address in outside {
              let verdict = reader.evaluate(
                PolicyQuery(subject: subject, isIngress: true, local: address, remote: address, proto: 6))
              if verdict.rule != 2 && verdict.rule != 3 { watch.sawWrong() }
            }
          }
          watch.readAll()
          worker.quiescent()
        }
        worker.goOffline()
      }
    }
    var random = SeededRandom(seed: 5)
    var sets: [UInt32] = []
    for round in 0..<3000 {
      let prefix = IPPrefix(
        random.below(2) == 0 ? inside[random.below(2)] : outside[random.below(2)], length: 20 + random.below(13))!
      if random.below(2) == 0 { try table.insert(prefix, into: churned) } else { table.remove(prefix, from: churned) }
      if random.below(4) == 0 {
        let set = table.makeSet()
        try table.insert(prefix, into: set)
        try table.insert(IPPrefix(host: inside[0]), into: set)
        sets.append(set)
      } else if let set = sets.popLast() {
        table.removeSet(set)
      }
      if random.below(3) == 0 {
        let id = UInt32(100 + random.below(700))
        if random.below(2) == 0 {
          try table.set(
            rule(id, priority: UInt32(2 + random.below(9)), .deny) {
              $0.tag = 9
              $0.proto = 6
              $0.destinationPorts = [UInt16(random.below(9))...100]
            })
        } else {
          table.remove(rule: id)
        }
      }
      let other = table.acquireSubject(vrf: UInt32(random.below(50)), tags: [UInt32(round)])
      table.commit()
      table.releaseSubject(other)
      if round % 8 == 0 { epochs.reclaim() }
    }
    watch.stop()
    for thread in threads { thread.join() }
    #expect(watch.wrong == 0)
    #expect(watch.reads > 100)
  }
}
