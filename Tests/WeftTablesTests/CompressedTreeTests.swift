import Testing
import WeftTables
import WeftWire

/// What is particular to the trees of IPv6; `PrefixTreeTests` compares both families' with a model.
@Suite struct CompressedTreeTests {
  private static func prefix(_ text: String) -> IPPrefix { IPPrefix(text)! }
  private static func address(_ text: String) -> IPAddress { IPAddress(text)! }

  private final class Fixture {
    let epochs: Epochs
    let trees: CompressedTrees
    let root: UInt32
    var routes: [IPPrefix: UInt32] = [:]

    init(nodes: Int, workers: Int = 0) throws {
      epochs = try Epochs(workers: workers)
      trees = try CompressedTrees(nodes: nodes, epochs: epochs)
      root = try #require(trees.makeRoot())
    }

    func set(_ prefix: IPPrefix, _ path: UInt32) {
      trees.set(root: root, prefix, path: path)
      routes[prefix] = path
    }
    func remove(_ prefix: IPPrefix) {
      routes[prefix] = nil
      trees.remove(root: root, prefix) { self.routes[$0] }
    }
    func lookup(_ address: IPAddress) -> UInt32 { trees.reader.lookup(root: root, v6: address) }
    /// By asking for each length.
    func expected(_ address: IPAddress) -> UInt32 {
      for length in (0...128).reversed() {
        if let path = routes[IPPrefix(address, length: length)!] { return path }
      }
      return 0
    }
  }

  /// A way without partings is three nodes at most, whatever its length.
  @Test func longWaysAreShort() throws {
    let fixture = try Fixture(nodes: 16)
    fixture.set(Self.prefix("2001:db8::1/128"), 1)
    #expect(fixture.trees.nodesUsed == 4)
    #expect(fixture.lookup(Self.address("2001:db8::1")) == 1)
    for text in ["2001:db8::", "2001:db8::3", "2001:db9::1", "2001:db8:0:1::1", "2001:db8:8000::1", "3001:db8::1"] {
      #expect(fixture.lookup(Self.address(text)) == 0, "\(text)")
    }
    fixture.set(Self.prefix("2001:db8::/32"), 2)
    fixture.set(Self.prefix("2001:db8:0:1::/64"), 3)
    #expect(fixture.lookup(Self.address("2001:db8::1")) == 1)
    #expect(fixture.lookup(Self.address("2001:db8::2")) == 2)
    #expect(fixture.lookup(Self.address("2001:db8:0:1::9")) == 3)
    for prefix in Array(fixture.routes.keys) { fixture.remove(prefix) }
    fixture.epochs.reclaim()
    #expect(fixture.trees.nodesUsed == 1)
    #expect(fixture.trees.bytesUsed == 8192)
  }

  /// A node that leads to one other becomes part of its way again: what comes and goes leaves nothing behind.
  @Test func waysGrowTogether() throws {
    let fixture = try Fixture(nodes: 64)
    fixture.set(Self.prefix("2001:db8:1:2:3:4:5:6/128"), 1)
    let before = (fixture.trees.nodesUsed, fixture.trees.bytesUsed)
    for text in ["2001:db8:1:2:3::/80", "2001:db8:1:2:3:4:5:7/128", "2001:db8:1:3::/64", "2001::/16", "2001:d00::/24"] {
      fixture.set(Self.prefix(text), 2)
      #expect(fixture.lookup(Self.address("2001:db8:1:2:3:4:5:6")) == 1, "\(text)")
      fixture.remove(Self.prefix(text))
      fixture.epochs.reclaim()
      #expect(fixture.lookup(Self.address("2001:db8:1:2:3:4:5:6")) == 1, "\(text)")
      #expect((fixture.trees.nodesUsed, fixture.trees.bytesUsed) == before, "\(text)")
    }
  }

  /// Neighbours of one length that lead to the same path are routes of their own: each can be moved and taken out where
  /// no node is free.
  @Test func changesNeedNoMemory() throws {
    let fixture = try Fixture(nodes: 24, workers: 1)
    let worker = fixture.epochs.worker(0)
    worker.comeOnline()
    var random = SeededRandom(seed: 21)
    while fixture.trees.nodesFree >= CompressedTrees.nodesNeeded(length: 128) {
      let length = random.below(2) == 0 ? 126 : 128
      let prefix = IPPrefix(IPAddress(high: 0xFD00 << 48, low: UInt64(random.below(32))), length: length)!
      fixture.set(prefix, 9)
    }
    func compare(_ what: String) {
      for low in 0..<40 {
        let address = IPAddress(high: 0xFD00 << 48, low: UInt64(low))
        #expect(fixture.lookup(address) == fixture.expected(address), "\(what): \(address)")
      }
    }
    #expect(fixture.routes.count > 10)
    // The worker never passes on: what is replaced stays.
    for prefix in fixture.routes.keys.sorted(by: { $0.description < $1.description }) {
      fixture.set(prefix, UInt32(1 + random.below(3)))
    }
    compare("moved")
    for prefix in fixture.routes.keys.sorted(by: { $0.description < $1.description }) {
      fixture.remove(prefix)
      compare("\(prefix) removed")
      #expect(fixture.trees.nodesFree >= 0)
    }
    worker.goOffline()
    fixture.epochs.reclaim()
    #expect(fixture.trees.nodesUsed == 1)
  }

  /// Tens of thousands of routes whose addresses share much and little, set, moved and taken out; a way that no reader may
  /// be in is used again all the time.
  @Test(arguments: [31, 32, 33]) func manyRoutes(seed: Int) throws {
    let fixture = try Fixture(nodes: 60_000)
    var random = SeededRandom(seed: UInt64(seed))
    func address() -> IPAddress {
      let high = 0x2001_0DB8_0000_0000 | UInt64(random.below(300)) << 16 | UInt64(random.below(4))
      return random.below(3) == 0
        ? IPAddress(high: high, low: 0) : IPAddress(high: high, low: UInt64(random.below(5000)))
    }
    func prefix() -> IPPrefix {
      let lengths = [0, 3, 8, 29, 32, 44, 47, 48, 56, 62, 64, 80, 116, 120, 126, 127, 128, 128, 128, 128]
      return IPPrefix(address(), length: lengths[random.below(lengths.count)])!
    }
    for round in 0..<3 {
      for _ in 0..<15_000 {
        guard fixture.trees.nodesFree >= CompressedTrees.nodesNeeded(length: 128) else { break }
        fixture.set(prefix(), UInt32(1 + random.below(50)))
      }
      for route in fixture.routes.keys.sorted(by: { $0.description < $1.description }) where random.below(3) == 0 {
        fixture.remove(route)
      }
      fixture.epochs.reclaim()
      for _ in 0..<3000 {
        let probe = address()
        let found = fixture.lookup(probe)
        if found != fixture.expected(probe) { Issue.record("round \(round): \(probe) finds \(found)") }
      }
      for route in fixture.routes.keys where fixture.lookup(route.address) != fixture.expected(route.address) {
        Issue.record("round \(round): \(route)")
      }
    }
    for route in fixture.routes.keys.sorted(by: { $0.description < $1.description }) { fixture.remove(route) }
    fixture.epochs.reclaim()
    #expect(fixture.trees.nodesUsed == 1)
    #expect(fixture.trees.bytesUsed == 8192)
  }
}
