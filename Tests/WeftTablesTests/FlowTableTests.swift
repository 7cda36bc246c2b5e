import Testing
import WeftTables
import WeftWire

@Suite struct FlowTableTests {
  private static let seed: UInt64 = 0x1234_5678_9ABC_DEF0
  private static let second: UInt64 = 1_000_000_000

  private static func key(
    _ number: Int, vrf: UInt32 = 1, proto: UInt8 = IPProtocol.tcp, source: String = "10.0.0.1",
    destination: String = "10.0.0.2"
  ) -> FlowKey {
    FlowKey(
      vrf: vrf, source: IPAddress(source)!, destination: IPAddress(destination)!, proto: proto,
      sourcePort: UInt16(truncatingIfNeeded: number), destinationPort: UInt16(truncatingIfNeeded: number >> 16))
  }

  private static func insert(_ table: inout FlowTable, _ key: FlowKey, now: UInt64 = second) -> UInt32 {
    table.insert(key, hash: key.hash(seed: seed), now: now)
  }
  private static func find(_ table: FlowTable, _ key: FlowKey) -> UInt32 { table.find(key, hash: key.hash(seed: seed)) }

  @Test func keys() {
    let key = FlowKey(
      vrf: 9, source: IPAddress("fd00::1")!, destination: IPAddress("10.0.0.2")!, proto: 17, sourcePort: 0xFFFE,
      destinationPort: 0x0102)
    #expect(key.sourcePort == 0xFFFE && key.destinationPort == 0x0102 && key.proto == 17 && key.vrf == 9)
    #expect(key.reversed.sourcePort == 0x0102 && key.reversed.source == key.destination)
    #expect(key.reversed.reversed == key)
    #expect(key.hash(seed: 1) != key.hash(seed: 2))
    // Each part counts.
    let others = [
      FlowKey(
        vrf: 8, source: key.source, destination: key.destination, proto: 17, sourcePort: 0xFFFE, destinationPort: 0x0102
      ),
      FlowKey(
        vrf: 9, source: key.destination, destination: key.destination, proto: 17, sourcePort: 0xFFFE,
        destinationPort: 0x0102),
      FlowKey(
        vrf: 9, source: key.source, destination: key.source, proto: 17, sourcePort: 0xFFFE, destinationPort: 0x0102),
      FlowKey(
        vrf: 9, source: key.source, destination: key.destination, proto: 6, sourcePort: 0xFFFE, destinationPort: 0x0102),
      FlowKey(
        vrf: 9, source: key.source, destination: key.destination, proto: 17, sourcePort: 0xFFFF, destinationPort: 0x0102
      ),
      FlowKey(
        vrf: 9, source: key.source, destination: key.destination, proto: 17, sourcePort: 0xFFFE, destinationPort: 0x0103
      ),
    ]
    for other in others { #expect(other != key && other.hash(seed: 1) != key.hash(seed: 1)) }
  }

  @Test func bothDirections() throws {
    var table = try FlowTable(capacity: 64, seed: Self.seed)
    let key = Self.key(0x0050_C000)
    #expect(Self.find(table, key) == FlowTable.none)
    let forward = Self.insert(&table, key, now: 5 * Self.second)
    let reverse = Self.find(table, key.reversed)
    #expect(forward != FlowTable.none && reverse != FlowTable.none && forward != reverse)
    #expect(Self.find(table, key) == forward)
    #expect(table.count == 2)
    #expect(table[forward].key == key && table[forward].reverse == reverse && table[forward].isForward)
    #expect(table[reverse].key == key.reversed && table[reverse].reverse == forward && !table[reverse].isForward)
    #expect(table[forward].created == 5 * Self.second && table[forward].packets == 0)
    table.count(forward, bytes: 1500, packets: 1, nexthop: 4, now: 6 * Self.second)
    table.count(forward, bytes: 65000, packets: 45, nexthop: 5, now: 7 * Self.second)
    #expect(table[forward].packets == 46 && table[forward].bytes == 66500 && table[forward].nexthop == 5)
    #expect(table[forward].lastSeen == 7 * Self.second && table[forward].created == 5 * Self.second)
    #expect(table[reverse].packets == 0 && table[reverse].lastSeen == 5 * Self.second)
    // The same ports and addresses elsewhere are another flow.
    #expect(Self.find(table, Self.key(0x0050_C000, vrf: 2)) == FlowTable.none)
    #expect(Self.find(table, Self.key(0x0050_C000, proto: IPProtocol.udp)) == FlowTable.none)
  }

  @Test func toOneself() throws {
    var table = try FlowTable(capacity: 8, seed: Self.seed)
    let key = Self.key(0x0035_0035, proto: IPProtocol.udp, source: "10.0.0.1", destination: "10.0.0.1")
    #expect(key.reversed == key)
    let index = Self.insert(&table, key)
    #expect(index != FlowTable.none && table.count == 1 && table[index].reverse == FlowTable.none)
    table.age(now: 100 * Self.second)
    #expect(table.count == 0 && Self.find(table, key) == FlowTable.none)
    let next = table.nextEnd()
    let end = try #require(next)
    #expect(end.forward == key && end.reverse == key && end.reason == .aged && end.reversePackets == 0)
  }

  /// A table takes all that it was made for, whatever buckets the keys fall into, and refuses the rest when it may evict
  /// nothing.
  @Test(arguments: [2, 3, 8, 100, 4096, 65536]) func fills(capacity: Int) throws {
    var table = try FlowTable(capacity: capacity, seed: Self.seed)
    var inside: [(FlowKey, UInt32)] = []
    for number in 0..<capacity / 2 {
      let key = Self.key(number, proto: IPProtocol.udp, destination: "fd00::\(String(number % 97, radix: 16))")
      let index = Self.insert(&table, key)
      guard index != FlowTable.none else {
        Issue.record("flow \(number) of \(capacity / 2) found no place")
        continue
      }
      inside.append((key, index))
      table.markReplied(index, now: Self.second)
    }
    #expect(table.count >= capacity - 1 && table.refused == 0 && table.evicted == 0)
    // What has no room is not recorded, and breaks nothing.
    for more in 0..<100 { #expect(Self.insert(&table, Self.key(1 << 30 | more)) == FlowTable.none) }
    #expect(table.refused == 100 && table.count <= capacity)
    for (key, index) in inside {
      if Self.find(table, key) != index || table[table[index].reverse].key != key.reversed {
        Issue.record("\(key) is lost")
      }
    }
    // Every entry once.
    var seen: Set<FlowKey> = []
    var cursor = 0
    repeat { cursor = table.dump(cursor: cursor, limit: 7) { seen.insert($0.key) } } while cursor != 0
    #expect(seen.count == table.count)
    // And all go when their time has come.
    while !table.age(now: 1000 * Self.second) {}
    #expect(table.count == 0)
  }

  @Test func agesWhatIsIdleInBothDirections() throws {
    var table = try FlowTable(capacity: 16, seed: Self.seed)
    table.timeouts[.tcpOpening] = 10 * Self.second
    let start = 100 * Self.second
    let busy = Self.key(1)
    let answered = Self.key(2)
    let idle = Self.key(3)
    for key in [busy, answered, idle] { #expect(Self.insert(&table, key, now: start) != FlowTable.none) }
    let later = start + 11 * Self.second
    table.count(Self.find(table, busy), bytes: 1, packets: 1, nexthop: 1, now: later)
    table.count(Self.find(table, answered.reversed), bytes: 1, packets: 1, nexthop: 1, now: later)
    table.age(now: later)
    #expect(Self.find(table, busy) != FlowTable.none && Self.find(table, busy.reversed) != FlowTable.none)
    #expect(Self.find(table, answered) != FlowTable.none && Self.find(table, answered.reversed) != FlowTable.none)
    #expect(Self.find(table, idle) == FlowTable.none && Self.find(table, idle.reversed) == FlowTable.none)
    #expect(table.count == 4)
  }

  /// Captures can be out of order: a clock that goes back ends no flow.
  @Test func survivesAClockThatGoesBack() throws {
    var table = try FlowTable(capacity: 16, seed: Self.seed)
    #expect(Self.insert(&table, Self.key(1), now: 100 * Self.second) != FlowTable.none)
    table.age(now: 50 * Self.second)
    table.age(now: 0)
    table.age(now: 99 * Self.second)
    #expect(Self.insert(&table, Self.key(2), now: 10 * Self.second) != FlowTable.none)
    #expect(table.count == 4)
    table.age(now: 131 * Self.second)
    #expect(table.count == 0)
  }

  /// Translation: the keys of the two directions are each their own.
  @Test func translatedFlow() throws {
    var table = try FlowTable(capacity: 64, seed: Self.seed)
    let inside = Self.key(0x01BB_9C40, vrf: 1, source: "10.0.0.1", destination: "192.0.2.7")
    let back = Self.key(0x2710_01BB, vrf: 9, source: "192.0.2.7", destination: "203.0.113.1")
    let made = table.insert(
      forward: inside, forwardHash: inside.hash(seed: Self.seed), reverse: back, tcpState: .synSent, policyRule: 5,
      policyGeneration: 6, reference: 77, ecmpMember: 3, now: Self.second)
    guard case .made(let forward) = made else {
      Issue.record("\(made)")
      return
    }
    let reverse = Self.find(table, back)
    #expect(reverse == table[forward].reverse && Self.find(table, inside) == forward)
    #expect(Self.find(table, inside.reversed) == FlowTable.none && Self.find(table, back.reversed) == FlowTable.none)
    for index in [forward, reverse] {
      #expect(table[index].flags.contains(.nat) && table[index].tcpState == .synSent)
      #expect(table[index].policyRule == 5 && table[index].policyGeneration == 6 && table[index].reference == 77)
    }
    #expect(table[forward].ecmpMember == 3 && table[reverse].ecmpMember == 0)
    table.setMember(reverse, 4)
    table.setMark(reverse, 0xABCD)
    #expect(table[reverse].ecmpMember == 4 && table[reverse].mark == 0xABCD && table[forward].mark == 0)
    // Another flow that would come back by the same key: translation has to choose another port.
    let other = Self.key(0x01BB_9C41, vrf: 1, source: "10.0.0.2", destination: "192.0.2.7")
    let hash = other.hash(seed: Self.seed)
    let second = table.insert(forward: other, forwardHash: hash, reverse: back, now: 1)
    #expect(second == .conflict)
    // One whose packets have a key that is known.
    let backHash = back.hash(seed: Self.seed)
    let third = table.insert(forward: back, forwardHash: backHash, reverse: other, now: 1)
    #expect(third == .conflict)
    #expect(Self.insert(&table, inside) == FlowTable.none && Self.insert(&table, back.reversed) == FlowTable.none)
    #expect(table.count == 2 && table.refused == 0)
    table.remove(reverse, now: 2 * Self.second)
    #expect(table.count == 0 && Self.find(table, inside) == FlowTable.none && Self.find(table, back) == FlowTable.none)
    let next = table.nextEnd()
    let end = try #require(next)
    #expect(end.forward == inside && end.reverse == back && end.reference == 77 && end.reason == .revoked)
    #expect(end.created == Self.second && end.ended == 2 * Self.second && end.tcpState == .synSent)
    let more = table.nextEnd()
    #expect(more == nil)
  }

  @Test func dumpsFromAnyCursor() throws {
    var table = try FlowTable(capacity: 64, seed: Self.seed)
    #expect(table.dump(cursor: 0, limit: 10) { _ in } == 0)
    for number in 1...20 { _ = Self.insert(&table, Self.key(number)) }
    for cursor in [-1, Int.min, 40, 41, 64, 1000, Int.max] {
      var count = 0
      #expect(table.dump(cursor: cursor, limit: 1000) { _ in count += 1 } == 0, "\(cursor)")
      #expect(count == (cursor < 0 ? 40 : 0), "\(cursor)")
    }
    var count = 0
    #expect(table.dump(cursor: 0, limit: 0) { _ in count += 1 } == 0 && count == 0)
    let next = table.dump(cursor: 0, limit: 15) { _ in count += 1 }
    #expect(next == 15 && count == 15)
    #expect(table.dump(cursor: next, limit: 25) { _ in count += 1 } == 0)
    #expect(count == 40)
  }

  /// The same hash for different keys, as an unlucky day would have it: each key is told apart.
  @Test func tagsCollide() throws {
    var table = try FlowTable(capacity: 16, seed: Self.seed)
    let hash: UInt64 = 0xABCD_0000_0000_0001
    var inside: [FlowKey: UInt32] = [:]
    for number in 1...7 {
      let key = Self.key(number)
      let index = table.insert(key, hash: hash, now: 1)
      guard index != FlowTable.none else { continue }
      inside[key] = index
    }
    #expect(inside.count >= 6)
    for (key, index) in inside { #expect(table.find(key, hash: hash) == index) }
    #expect(table.find(Self.key(99), hash: hash) == FlowTable.none)
  }

  /// A tag of zero would say "free".
  @Test func tagOfZero() throws {
    var table = try FlowTable(capacity: 64, seed: Self.seed)
    let key = Self.key(1)
    let hash: UInt64 = 0x0000_1234_5678_9ABC
    let index = table.insert(key, hash: hash, now: 1)
    #expect(index != FlowTable.none)
    #expect(table.find(key, hash: hash) == index)
    #expect(table.find(Self.key(2), hash: hash) == FlowTable.none)
  }
}
