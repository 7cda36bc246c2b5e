import Testing
import WeftTables
import WeftWire

@Suite struct FragmentTableTests {
  private static let second: UInt64 = 1_000_000_000

  private static func key(_ number: UInt32, vrf: UInt32 = 1, proto: UInt8 = IPProtocol.udp) -> FragmentKey {
    FragmentKey(
      vrf: vrf, source: IPAddress("10.0.0.1")!, destination: IPAddress("fd00::2")!, identification: number, proto: proto
    )
  }

  @Test func everyPartOfTheKeyCounts() throws {
    var table = try FragmentTable(capacity: 64, seed: 3)
    #expect(table.capacity == 64)
    let ports = FragmentPorts(source: 0xFFFF, destination: 53)
    let key = Self.key(0xFFFF_FFFF)
    #expect(table.find(key, now: 0) == nil)
    table.set(key, ports, now: 0)
    #expect(table.find(key, now: 0) == ports)
    #expect(table.find(Self.key(0xFFFF_FFFE), now: 0) == nil)
    #expect(table.find(Self.key(0xFFFF_FFFF, vrf: 2), now: 0) == nil)
    #expect(table.find(Self.key(0xFFFF_FFFF, proto: IPProtocol.tcp), now: 0) == nil)
    var other = key
    other.source = IPAddress("10.0.0.2")!
    #expect(table.find(other, now: 0) == nil)
    other = key
    other.destination = IPAddress("fd00::3")!
    #expect(table.find(other, now: 0) == nil)
    table.remove(other)
    #expect(table.find(key, now: 0) == ports)
    table.remove(key)
    #expect(table.find(key, now: 0) == nil)
    // A key of zeroes is one like another.
    let zero = FragmentKey(
      vrf: 0, source: IPAddress(high: 0, low: 0), destination: IPAddress(high: 0, low: 0), identification: 0, proto: 0)
    #expect(table.find(zero, now: 0) == nil)
    table.set(zero, ports, now: 0)
    #expect(table.find(zero, now: 0) == ports)
  }

  @Test func expires() throws {
    var table = try FragmentTable(capacity: 64, seed: 3)
    let ports = FragmentPorts(source: 1, destination: 2)
    table.set(Self.key(1), ports, now: 100 * Self.second)
    #expect(table.find(Self.key(1), now: 130 * Self.second - 1) == ports)
    #expect(table.find(Self.key(1), now: 130 * Self.second) == nil)
    table.limit = Self.second
    table.set(Self.key(1), ports, now: 200 * Self.second)
    #expect(table.find(Self.key(1), now: 201 * Self.second - 1) == ports)
    #expect(table.find(Self.key(1), now: 201 * Self.second) == nil)
    table.limit = .max
    table.set(Self.key(1), ports, now: 300 * Self.second)
    #expect(table.find(Self.key(1), now: .max - 1) == ports)
  }

  /// Against a dictionary: what is found is right and not over; what is not found is over or was displaced.
  @Test(arguments: [2, 16, 1024]) func againstADictionary(capacity: Int) throws {
    var random = SeededRandom(seed: UInt64(capacity))
    var table = try FragmentTable(capacity: capacity, seed: random.next())
    var model: [FragmentKey: (ports: FragmentPorts, expires: UInt64)] = [:]
    var now: UInt64 = 0
    var missing = 0
    var hits = 0
    for _ in 0..<50_000 {
      now += UInt64(random.below(Int(Self.second) * 40 / capacity))
      let key = Self.key(UInt32(random.below(capacity)), vrf: UInt32(random.below(2)))
      switch random.below(5) {
      case 0:
        table.remove(key)
        model[key] = nil
      case 1, 2:
        let ports = FragmentPorts(source: UInt16(random.below(65536)), destination: UInt16(random.below(65536)))
        table.set(key, ports, now: now)
        model[key] = (ports, now + table.limit)
        #expect(table.find(key, now: now) == ports)
      default:
        let found = table.find(key, now: now)
        let expected = model[key].flatMap { $0.expires > now ? $0.ports : nil }
        if let found {
          if found != expected { Issue.record("\(found) for \(key), not \(String(describing: expected))") }
          hits += 1
        } else if expected != nil {
          missing += 1
        }
      }
    }
    #expect(hits > 3000)
    // Each displacement can be missed more than once, but none without.
    if table.displaced == 0 { #expect(missing == 0) }
    #expect(missing <= Int(table.displaced) * 20)
  }

  /// The one that expires first makes way, and only within its bucket.
  @Test func theOlderMakesWay() throws {
    var table = try FragmentTable(capacity: 2, seed: 3)
    for number in 1...3 {
      table.set(
        Self.key(UInt32(number)), FragmentPorts(source: UInt16(number), destination: 0),
        now: UInt64(number) * Self.second)
    }
    #expect(table.find(Self.key(1), now: 4 * Self.second) == nil && table.displaced == 1)
    #expect(table.find(Self.key(2), now: 4 * Self.second)?.source == 2)
    #expect(table.find(Self.key(3), now: 4 * Self.second)?.source == 3)
    // The same packet once more takes no other's place.
    table.set(Self.key(2), FragmentPorts(source: 22, destination: 0), now: 5 * Self.second)
    #expect(table.find(Self.key(2), now: 5 * Self.second)?.source == 22)
    #expect(table.find(Self.key(3), now: 5 * Self.second)?.source == 3 && table.displaced == 1)
    // One that is over makes way before one that is not, and is not counted.
    table.set(Self.key(4), FragmentPorts(source: 4, destination: 0), now: 34 * Self.second)
    #expect(table.find(Self.key(2), now: 34 * Self.second)?.source == 22 && table.displaced == 1)
  }
}
