import Testing
import WeftTables
import WeftWire

@Suite struct FlowTimeTests {
  private static let seed: UInt64 = 0x0123_4567_89AB_CDEF
  private static let second: UInt64 = 1_000_000_000
  private static let tick: UInt64 = 1 << 26

  private static func key(_ number: Int, proto: UInt8 = IPProtocol.udp) -> FlowKey {
    FlowKey(
      vrf: 1, source: IPAddress(v4: 0x0A00_0001), destination: IPAddress(v4: 0x0B00_0000 + UInt32(number)),
      proto: proto,
      sourcePort: 7, destinationPort: 9)
  }
  private static func insert(
    _ table: Flows, _ key: FlowKey, _ timeout: FlowTimeout? = nil, tcp: TCPState = .none, flags: FlowFlags = [],
    reference: UInt32 = FlowTable.noReference, now: UInt64
  ) -> UInt32 {
    let made = table.insert(key, flags: flags, timeout: timeout, tcp: tcp, reference: reference, now: now)
    guard case .made(let index) = made else {
      Issue.record("\(made) for \(key)")
      return FlowTable.none
    }
    return index
  }

  @Test func defaults() throws {
    let table = try Flows(capacity: 4, seed: 1)
    let seconds: [FlowTimeout: UInt64] = [
      .tcpOpening: 30, .tcpEstablished: 7200, .tcpClosing: 20, .udp: 30, .udpStream: 180, .icmp: 15, .other: 120,
      .denied: 10,
    ]
    for kind in FlowTimeout.allCases { #expect(table.timeouts[kind] == seconds[kind].map { $0 * Self.second }) }
  }

  /// Times from a second to a month, on every level of the wheel, and steps of the clock from a nap to a day.
  @Test(arguments: [
    (10_000_000, 20), (1_000_000_000, 60), (3600_000_000_000, 86_400), (86_400_000_000_000, 3_000_000),
  ])
  func neverEarlyHardlyLate(step: Int, longest: Int) throws {
    var random = SeededRandom(seed: UInt64(step))
    let table = try Flows(capacity: 4096, seed: Self.seed, ends: 4096)
    var deadlines: [FlowKey: UInt64] = [:]
    var now: UInt64 = 1_700_000_000 * Self.second
    var ended = 0
    for round in 0..<4000 {
      now += UInt64(random.below(step * 2))
      for _ in 0..<random.below(3) where deadlines.count < 2000 {
        // Each flow has a time of its own: that of its kind when it was made, longer by what it was seen later.
        let key = Self.key(round * 4 + deadlines.count % 4)
        guard deadlines[key] == nil, table.find(key) == FlowTable.none else { continue }
        let idle = UInt64(random.below(longest * 1_000_000_000)) + Self.second
        table.timeouts[.other] = Self.second
        let index = Self.insert(table, key, .other, now: now)
        table.count(index, now: now + idle - Self.second)
        deadlines[key] = now + idle
      }
      table.age(now: now, limit: .max)
      while let end = table.nextEnd() {
        let known = deadlines.removeValue(forKey: end.forward)
        let deadline = try #require(known)
        #expect(end.reason == .aged && end.ended == now)
        if deadline > now { Issue.record("\(deadline - now) ns early") }
        ended += 1
      }
      // Nothing is there that a tick ago was over.
      for (key, deadline) in deadlines where deadline + Self.tick <= now {
        Issue.record("\(key) is \(now - deadline) ns late")
      }
    }
    #expect(ended > 1000)
    #expect(table.count == deadlines.count * 2)
  }

  /// A call looks at no more flows than it may, and says whether it left any.
  @Test func boundedWork() throws {
    let table = try Flows(capacity: 20_000, seed: Self.seed, ends: 1 << 14)
    for number in 0..<10_000 { _ = Self.insert(table, Self.key(number), now: Self.second) }
    let now = 100 * Self.second
    #expect(!table.age(now: now, limit: 0) && table.count == 20_000)
    var calls = 0
    var isDone = false
    while !isDone {
      let before = table.count
      isDone = table.age(now: now, limit: 100)
      #expect(before - table.count <= 200)
      calls += 1
      // Flows come in between as well.
      if calls == 50 { _ = Self.insert(table, Self.key(50_000), now: now) }
    }
    #expect(calls >= 100 && calls <= 102 && table.count == 2)
    #expect(table.age(now: now) && table.age(now: now + 1))
    table.age(now: now + 40 * Self.second)
    #expect(table.count == 0)
    // And the places are free again.
    for number in 0..<10_000 { _ = Self.insert(table, Self.key(number), now: now + 50 * Self.second) }
    #expect(table.count == 20_000 && table.refused == 0 && table.evicted == 0)
  }

  /// An established TCP flow would be looked at in two hours; a RST has it looked at in twenty seconds.
  @Test func shorterTimeCountsAtOnce() throws {
    let table = try Flows(capacity: 64, seed: Self.seed)
    let key = Self.key(1, proto: IPProtocol.tcp)
    var now = 100 * Self.second
    let forward = Self.insert(table, key, tcp: .synSent, now: now)
    let reverse = table[forward].reverse
    #expect(table.track(reverse, TCP.syn | TCP.ack, now: now))
    #expect(table.track(forward, TCP.ack, now: now))
    #expect(table[forward].flags.contains(.established) && table[reverse].flags.contains(.established))
    now += 3600 * Self.second
    table.age(now: now, limit: .max)
    #expect(table.count == 2)
    #expect(table.track(reverse, TCP.rst, now: now))
    table.count(reverse, now: now)
    #expect(table[forward].flags.contains(.dying) && !table[forward].flags.contains(.established))
    table.age(now: now + 19 * Self.second)
    #expect(table.count == 2)
    table.age(now: now + 20 * Self.second + Self.tick)
    #expect(table.count == 0)
    #expect(table.nextEnd()?.reason == .reset)
  }

  /// Timeouts that are set count for flows that are there.
  @Test func timeoutsAreSet() throws {
    let table = try Flows(capacity: 20_000, seed: Self.seed, ends: 1 << 14)
    let now = 100 * Self.second
    for number in 0..<5000 { _ = Self.insert(table, Self.key(number), .tcpEstablished, now: now) }
    var timeouts = table.timeouts
    timeouts[.tcpEstablished] = 60 * Self.second
    table.timeouts = timeouts
    #expect(table.timeouts == timeouts)
    for step in 1...200 { table.age(now: now + UInt64(step) * Self.second / 4, limit: 100) }
    #expect(table.count == 10_000)
    for step in 1...100 { table.age(now: now + 61 * Self.second + UInt64(step), limit: 100) }
    #expect(table.count == 0)
    // Longer ones too.
    _ = Self.insert(table, Self.key(1), .udp, now: now)
    table.timeouts[.udp] = 1000 * Self.second
    table.age(now: now + 999 * Self.second)
    #expect(table.count == 2)
    table.age(now: now + 1001 * Self.second)
    #expect(table.count == 0)
    // As long as can be.
    table.timeouts[.udp] = .max
    _ = Self.insert(table, Self.key(2), .udp, now: now)
    table.age(now: UInt64.max - 1, limit: .max)
    #expect(table.count == 2)
  }

  /// A reply makes a UDP flow a stream, and nothing but TCP's handshake makes a TCP flow established.
  @Test func replies() throws {
    let table = try Flows(capacity: 64, seed: Self.seed)
    let now = 100 * Self.second
    let udp = Self.insert(table, Self.key(1), now: now)
    let icmp = Self.insert(table, Self.key(2, proto: IPProtocol.icmp), now: now)
    let tcp = Self.insert(table, Self.key(3, proto: IPProtocol.tcp), tcp: .synSent, now: now)
    for flow in [udp, icmp, tcp] {
      #expect(table.track(flow, 0, now: now))
      #expect(table[flow].flags.isDisjoint(with: [.replied, .established]))
    }
    for flow in [udp, icmp] {
      #expect(table.track(table[flow].reverse, 0, now: now))
      #expect(table[flow].flags.isSuperset(of: [.replied, .established]))
      #expect(table[table[flow].reverse].flags.isSuperset(of: [.replied, .established]))
    }
    #expect(table.track(table[tcp].reverse, TCP.syn | TCP.ack, now: now))
    #expect(table[tcp].flags.contains(.replied) && !table[tcp].flags.contains(.established))
    table.age(now: now + 31 * Self.second)
    #expect(table.count == 2 && table.find(Self.key(1)) == udp)
    table.age(now: now + 181 * Self.second)
    #expect(table.count == 0)
  }

  @Test func policyRevokesAndRestores() throws {
    let table = try Flows(capacity: 64, seed: Self.seed)
    var now = 100 * Self.second
    let key = Self.key(1, proto: IPProtocol.tcp)
    let flow = Self.insert(table, key, tcp: .pickedUp, now: now)
    let reverse = table[flow].reverse
    #expect(table.track(reverse, TCP.ack, now: now) && table[flow].tcpState == .established)
    table.setPolicy(reverse, isDenied: true, rule: 8, generation: 2, flags: [.rejected, .logged, .nat], now: now)
    for index in [flow, reverse] {
      #expect(table[index].flags.isSuperset(of: [.denied, .rejected, .logged]))
      #expect(table[index].flags.isDisjoint(with: [.established, .nat]))
      #expect(table[index].policyRule == 8 && table[index].policyGeneration == 2)
      // A denied flow's state stands still.
      #expect(table.track(index, TCP.rst, now: now) && table[index].tcpState == .established)
    }
    table.age(now: now + 9 * Self.second)
    #expect(table.count == 2)
    now += 9 * Self.second
    table.setPolicy(flow, isDenied: false, rule: 9, generation: 3, now: now)
    table.count(flow, now: now)
    #expect(table[reverse].flags.isDisjoint(with: [.denied, .rejected, .logged]))
    #expect(table[reverse].flags.contains(.established) && table[reverse].policyGeneration == 3)
    table.age(now: now + 7000 * Self.second, limit: .max)
    #expect(table.count == 2)
    table.setPolicy(flow, isDenied: true, rule: 8, generation: 4, now: now + 7000 * Self.second)
    table.age(now: now + 7011 * Self.second)
    #expect(table.count == 0)
    // Denied from its first packet on, then allowed.
    let late = Self.key(2, proto: IPProtocol.tcp)
    let denied = Self.insert(table, late, flags: .denied, now: now)
    table.setPolicy(denied, isDenied: false, rule: 1, generation: 5, now: now)
    #expect(table.track(table[denied].reverse, TCP.ack, now: now))
    #expect(table[denied].tcpState == .established && table[denied].flags.contains(.established))
  }

  /// SYN after the end: forward begins the same flow anew, reverse one of its own.
  @Test func beginsAnew() throws {
    let table = try Flows(capacity: 64, seed: Self.seed)
    let key = Self.key(1, proto: IPProtocol.tcp)
    let now = 100 * Self.second
    let flow = Self.insert(table, key, tcp: .synSent, reference: 12, now: now)
    let reverse = table[flow].reverse
    for (index, flags) in [
      (reverse, TCP.syn | TCP.ack), (flow, TCP.ack), (flow, TCP.fin | TCP.ack), (reverse, TCP.fin | TCP.ack),
    ] {
      #expect(table.track(index, flags, now: now))
      table.count(index, now: now)
    }
    #expect(table[flow].flags.contains(.dying) && table[flow].packets == 2)
    let generation = table[flow].policyGeneration
    #expect(table.track(flow, TCP.syn, now: now + 5))
    #expect(table[flow].tcpState == .synSent && table[reverse].tcpState == .synSent && table[flow].packets == 0)
    #expect(table[flow].created == now + 5 && table[flow].reference == 12)
    #expect(table[flow].flags.isDisjoint(with: [.dying, .established, .replied]))
    #expect(table[flow].policyGeneration != generation && table[reverse].policyGeneration != generation)
    let end = try #require(table.nextEnd())
    #expect(end.reason == .renewed && end.forwardPackets == 2 && end.reversePackets == 2)
    #expect(end.reference == FlowTable.noReference && end.tcpState == .closing)
    #expect(table.track(reverse, TCP.rst | TCP.ack, now: now + 6))
    #expect(!table.track(reverse, TCP.syn, now: now + 7))
    #expect(table.count == 0 && table.find(key) == FlowTable.none)
    #expect(table.nextEnd()?.reference == 12)
    let other = Self.insert(table, key.reversed, tcp: .synSent, now: now + 7)
    #expect(table[other].isForward && table[other].key == key.reversed)
  }

  /// Nobody takes the ends: records without a reference get lost and are counted, flows with one stay until there is room.
  @Test func referencesAreNeverLost() throws {
    let table = try Flows(capacity: 4096, seed: Self.seed, ends: 16)
    let now = 100 * Self.second
    for number in 0..<1000 {
      _ = Self.insert(
        table, Self.key(number), reference: number % 2 == 0 ? UInt32(number + 1) : FlowTable.noReference, now: now)
    }
    var later = now + 100 * Self.second
    table.age(now: later, limit: .max)
    // 500 without, of which some were recorded, and at most 16 with.
    #expect(table.count / 2 >= 500 - 16 && table.count / 2 < 500)
    #expect(table.endsLost >= 500 - 12 && table.endsLost <= 500)
    // One that waits lives on when it is used.
    var living = FlowTable.none
    _ = table.dump(limit: 1) { living = table.find($0.key) }
    let kept = table[living].key
    table.count(living, now: later)
    #expect(!table.remove(living, now: later) && table.find(kept) == living)
    var seen: Set<UInt32> = []
    for _ in 0..<400 where table.count > 2 {
      while let end = table.nextEnd() {
        if end.reference != FlowTable.noReference { #expect(seen.insert(end.reference).inserted) }
      }
      later += Self.second / 10
      table.age(now: later, limit: .max)
      if table.count == 2 { break }
      table.count(living, now: later)
    }
    while let end = table.nextEnd() {
      if end.reference != FlowTable.noReference { #expect(seen.insert(end.reference).inserted) }
    }
    #expect(seen.count == 499 && table.find(kept) == living)
    #expect(table.remove(living, now: later) && table.count == 0)
  }

  /// An eviction passes over flows whose reference it could not give back.
  @Test func evictionKeepsReferences() throws {
    let table = try Flows(capacity: 16, seed: Self.seed, ends: 4)
    let now = 100 * Self.second
    var references: Set<UInt32> = []
    var made: Set<UInt32> = []
    for number in 0..<200 {
      let key = Self.key(number)
      let result = table.insert(key, reference: UInt32(number + 1), now: now)
      if case .made = result { made.insert(UInt32(number + 1)) } else { #expect(result == .refused) }
      if number % 10 == 9 { while let end = table.nextEnd() { references.insert(end.reference) } }
    }
    #expect(table.evicted > 0 && table.refused > 0 && table.count == 16)
    while let end = table.nextEnd() { references.insert(end.reference) }
    _ = table.dump { if $0.isForward { #expect(references.insert($0.reference).inserted) } }
    #expect(references == made)
  }

  /// An entry's number that was kept for too long changes nothing.
  @Test func staleNumbers() throws {
    let table = try Flows(capacity: 64, seed: Self.seed)
    let first = Self.insert(table, Self.key(1, proto: IPProtocol.tcp), tcp: .synSent, now: 1)
    let second = Self.insert(table, Self.key(2), now: 1)
    #expect(table.remove(first, now: 1))
    for index in [first, first + 1] {
      #expect(table.remove(index, now: 1))
      #expect(table.track(index, TCP.rst, now: 1))
      table.markReplied(index, now: 1)
      table.setPolicy(index, isDenied: true, rule: 1, generation: 1, now: 1)
      table.count(index, now: 1)
    }
    #expect(table.count == 2 && table.find(Self.key(2)) == second && table[second].policyGeneration == 0)
    for number in 3..<34 { _ = Self.insert(table, Self.key(number), now: 1) }
    #expect(table.count == 64 && table.refused == 0 && table.evicted == 0)
  }

  /// A handshake that was not finished does not protect a flow, a connection that has ended is not protected any more.
  @Test func whatIsEvicted() throws {
    let table = try Flows(capacity: 8, seed: Self.seed)
    let now = 100 * Self.second
    var flows: [UInt32] = []
    for number in 0..<4 {
      flows.append(Self.insert(table, Self.key(number, proto: IPProtocol.tcp), tcp: .synSent, now: now))
    }
    for flow in flows {
      #expect(table.track(table[flow].reverse, TCP.syn | TCP.ack, now: now))
      // A SYN that is answered, as in a flood from made-up addresses, is no connection.
      #expect(!table[flow].flags.contains(.established))
      #expect(table.track(flow, TCP.ack, now: now) && table[flow].flags.contains(.established))
    }
    let new = Self.key(100)
    #expect(table.insert(new, now: now) == .refused && table.refused == 1)
    #expect(table.track(flows[2], TCP.fin | TCP.ack, now: now))
    #expect(table.insert(new, now: now) == .refused)
    #expect(table.track(table[flows[2]].reverse, TCP.fin | TCP.ack, now: now))
    #expect(table.insert(new, now: now) != .refused)
    #expect(table.find(Self.key(2, proto: IPProtocol.tcp)) == FlowTable.none && table.evicted == 1)
    for number in [0, 1, 3] { #expect(table.find(Self.key(number, proto: IPProtocol.tcp)) == flows[number]) }
    // A full table makes room for what is over before it evicts.
    #expect(table.track(table[table.find(new)].reverse, 0, now: now))
    let other = Self.key(101)
    #expect(table.insert(other, now: now + 181 * Self.second) != .refused)
    #expect(table.evicted == 1 && table.find(new) == FlowTable.none)
  }
}
