import Testing
import WeftTables
import WeftWire

/// A forwarder's routes in their plainest form.
private struct NaiveRoutes {
  var paths: [IPPrefix: UInt32] = [:]

  func lookup(_ address: IPAddress) -> UInt32 {
    var best = (length: -1, path: UInt32(0))
    for (prefix, path) in paths where prefix.length > best.length && prefix.contains(address) {
      best = (prefix.length, path)
    }
    return best.path
  }
}

/// The trees of both families with what their caller has to keep. A root stands for one of each.
private final class Trees {
  let epochs: Epochs
  let trees: PrefixTrees
  let trees6: CompressedTrees
  var roots6: [UInt32: UInt32] = [:]
  var models: [UInt32: NaiveRoutes] = [:]

  init(nodes: Int, workers: Int = 0) throws {
    epochs = try Epochs(workers: workers)
    trees = try PrefixTrees(nodes: nodes, epochs: epochs)
    trees6 = try CompressedTrees(nodes: nodes, epochs: epochs)
  }

  func makeRoot() throws -> UInt32 {
    let root = try #require(trees.makeRoot())
    let root6 = try #require(trees6.makeRoot())
    roots6[root] = root6
    models[root] = NaiveRoutes()
    return root
  }

  func releaseRoot(_ root: UInt32) {
    trees.releaseRoot(root)
    trees6.releaseRoot(roots6[root]!)
  }

  func set(_ root: UInt32, _ prefix: IPPrefix, _ path: UInt32) {
    let needed = Trees.nodesNeeded(isV4: prefix.isV4, length: prefix.length)
    if nodesFree(isV4: prefix.isV4) < needed { epochs.reclaim() }
    if prefix.isV4 {
      trees.set(root: root, prefix, path: path, isNew: models[root]!.paths[prefix] == nil)
    } else {
      trees6.set(root: roots6[root]!, prefix, path: path)
    }
    models[root]!.paths[prefix] = path
  }

  func remove(_ root: UInt32, _ prefix: IPPrefix) {
    models[root]!.paths[prefix] = nil
    if prefix.isV4 {
      trees.remove(root: root, prefix) { self.models[root]!.paths[$0] }
    } else {
      trees6.remove(root: roots6[root]!, prefix) { self.models[root]!.paths[$0] }
    }
  }

  func lookup(_ root: UInt32, _ address: IPAddress) -> UInt32 {
    address.isV4
      ? trees.reader.lookup(root: root, v4: address.v4) : trees6.reader.lookup(root: roots6[root]!, v6: address)
  }

  /// The same, side by side.
  func lookup(_ root: UInt32, _ addresses: [IPAddress]) -> [UInt32] {
    var batch = RouteBatch()
    defer { batch.deallocate() }
    if addresses[0].isV4 {
      for address in addresses { batch.add(trees.reader, root: root, v4: address.v4) }
      batch.finish(trees.reader)
    } else {
      for address in addresses { batch.add(trees6.reader, root: roots6[root]!, v6: address) }
      batch.finish(trees6.reader)
    }
    return addresses.indices.map { batch.path($0) }
  }

  func nodesUsed(isV4: Bool) -> Int { isV4 ? trees.nodesUsed : trees6.nodesUsed }
  func nodesFree(isV4: Bool) -> Int { isV4 ? trees.nodesFree : trees6.nodesFree }
  static func nodesNeeded(isV4: Bool, length: Int) -> Int {
    isV4 ? PrefixTrees.nodesNeeded(length: length) : CompressedTrees.nodesNeeded(length: length)
  }
}

@Suite struct PrefixTreeTests {
  private static func prefix(_ text: String) -> IPPrefix { IPPrefix(text)! }
  private static func address(_ text: String) -> IPAddress { IPAddress(text)! }

  @Test func emptyTreesKnowNothing() throws {
    let trees = try Trees(nodes: 4)
    let root = try trees.makeRoot()
    for text in ["0.0.0.0", "255.255.255.255", "10.0.0.1", "::", "fd00::1"] {
      #expect(trees.lookup(root, Self.address(text)) == 0)
    }
  }

  /// One prefix of each length: the addresses just inside and just outside at both ends.
  @Test(arguments: [true, false]) func everyLengthAlone(isV4: Bool) throws {
    let trees = try Trees(nodes: 32)
    let root = try trees.makeRoot()
    let base = isV4 ? Self.address("172.165.90.165") : Self.address("aaaa:5555:aaaa:5555:aaaa:5555:aaaa:5555")
    for length in 0...base.width {
      let prefix = IPPrefix(base, length: length)!
      trees.set(root, prefix, 7)
      let last = prefix.address.octets.enumerated().map { index, octet in
        octet | UInt8(truncatingIfNeeded: 0xFF >> max(0, min(8, length - index * 8)))
      }
      let end = IPAddress(octets: last)!
      #expect(trees.lookup(root, prefix.address) == 7 && trees.lookup(root, end) == 7, "\(prefix)")
      #expect(end.advanced(by: 1).map { trees.lookup(root, $0) } ?? 0 == 0, "\(prefix)")
      if prefix.address.low != 0, !isV4 || prefix.address.v4 != 0 {
        let before =
          isV4
          ? IPAddress(v4: prefix.address.v4 - 1) : IPAddress(high: prefix.address.high, low: prefix.address.low - 1)
        #expect(trees.lookup(root, before) == 0, "\(prefix)")
      }
      #expect(trees.nodesUsed(isV4: isV4) <= 1 + Trees.nodesNeeded(isV4: isV4, length: length))
      trees.remove(root, prefix)
      trees.epochs.reclaim()
      #expect(trees.lookup(root, prefix.address) == 0)
      #expect(trees.nodesUsed(isV4: isV4) == 1, "\(prefix)")
    }
  }

  /// All lengths of one address nested in one another, taken out in random order: the longest that is left answers.
  @Test(arguments: [true, false]) func nested(isV4: Bool) throws {
    var random = SeededRandom(seed: isV4 ? 6 : 7)
    let base = isV4 ? Self.address("10.170.85.204") : Self.address("fd00:aaaa:5555:cccc:3333:f0f0:f00:ff")
    for _ in 0..<20 {
      let trees = try Trees(nodes: 40)
      let root = try trees.makeRoot()
      let lengths = Array(0...base.width)
      for length in lengths.shuffled(using: &random) {
        trees.set(root, IPPrefix(base, length: length)!, UInt32(length + 1))
      }
      var left = Set(lengths)
      for length in lengths.shuffled(using: &random) {
        #expect(trees.lookup(root, base) == UInt32(left.max()! + 1))
        trees.remove(root, IPPrefix(base, length: length)!)
        left.remove(length)
      }
      #expect(trees.lookup(root, base) == 0)
      trees.epochs.reclaim()
      #expect(trees.nodesUsed(isV4: isV4) == 1)
    }
  }

  /// Thousands of random changes against a list that is searched from end to end. Addresses come from few values, so that
  /// prefixes nest, neighbour and meet in nodes.
  @Test(arguments: [(true, 11), (true, 12), (false, 13), (false, 14)]) func churn(isV4: Bool, seed: Int) throws {
    var random = SeededRandom(seed: UInt64(seed))
    let trees = try Trees(nodes: 6000)
    let roots = try [trees.makeRoot(), trees.makeRoot()]
    func address() -> IPAddress {
      let octets = (0..<(isV4 ? 4 : 16)).map { index -> UInt8 in
        let value = random.next()
        if index == 0 { return isV4 ? 10 : 0xFD }
        return value % 4 == 0 ? UInt8(truncatingIfNeeded: value >> 8) : [0, 1, 127, 128, 129, 255][Int(value >> 8) % 6]
      }
      return IPAddress(octets: octets)!
    }
    let width = isV4 ? 32 : 128
    for step in 0..<6_000 {
      let root = roots[random.below(2)]
      let known = trees.models[root]!.paths
      let grow = known.count < 40 || known.count < 300 && random.below(2) == 0
      if grow {
        let length =
          random.below(4) == 0
          ? [0, 1, 7, 8, 9, 16, 24, width - 1, width][random.below(9)] : random.below(width + 1)
        trees.set(root, IPPrefix(address(), length: length)!, UInt32(1 + random.below(1000)))
      } else if let any = known.keys.min(by: { ($0.hashValue ^ step) < ($1.hashValue ^ step) }) {
        random.below(5) == 0 ? trees.set(root, any, UInt32(1 + random.below(1000))) : trees.remove(root, any)
      }
      if step % 7 == 0 { trees.epochs.reclaim() }
      let probes = (0..<3).map { _ in address() }
      let found = trees.lookup(root, probes)
      for (probe, path) in zip(probes, found) {
        #expect(trees.lookup(root, probe) == trees.models[root]!.lookup(probe), "step \(step), \(probe)")
        #expect(trees.models[root]!.lookup(probe) == path, "step \(step), \(probe), in a batch")
      }
    }
    for root in roots {
      let model = trees.models[root]!
      for prefix in model.paths.keys { #expect(trees.lookup(root, prefix.address) == model.lookup(prefix.address)) }
      for prefix in model.paths.keys.sorted(by: { $0.description < $1.description }) { trees.remove(root, prefix) }
    }
    trees.epochs.reclaim()
    #expect(trees.nodesUsed(isV4: isV4) == 2, "every inner node has come back")
    for root in roots { trees.releaseRoot(root) }
    trees.epochs.reclaim()
    #expect(trees.nodesUsed(isV4: isV4) == 0 && trees.nodesFree(isV4: isV4) == 6000)
  }

  /// Nodes that come back are empty, and there are never more than were asked for.
  @Test func nodesAreUsedAgain() throws {
    let trees = try Trees(nodes: 4)
    let root = try trees.makeRoot()
    for round in 0..<100 {
      let prefix = Self.prefix("10.\(round).\(round).0/24")
      #expect(trees.trees.nodesFree == 3)
      #expect(PrefixTrees.nodesNeeded(length: 24) == 2)
      trees.set(root, prefix, 1)
      #expect(trees.trees.nodesFree == 1)
      // Whatever the last tenant wrote into the node is gone.
      for other in 0..<100 where other != round {
        #expect(trees.lookup(root, Self.address("10.\(round).\(other).1")) == 0)
      }
      trees.remove(root, prefix)
      trees.epochs.reclaim()
    }
    for _ in 0..<3 { _ = try trees.makeRoot() }
    #expect(trees.trees.makeRoot() == nil)
    #expect(trees.trees.nodesFree == 0)
  }

  /// A node that a worker may be in is neither cleared nor used again.
  @Test func nodesWaitForWorkers() throws {
    let trees = try Trees(nodes: 8, workers: 1)
    let worker = trees.epochs.worker(0)
    let root = try trees.makeRoot()
    trees.set(root, Self.prefix("10.1.2.0/24"), 5)
    worker.comeOnline()
    trees.remove(root, Self.prefix("10.1.2.0/24"))
    trees.epochs.reclaim()
    #expect(trees.trees.nodesUsed == 3)
    worker.quiescent()
    trees.epochs.reclaim()
    #expect(trees.trees.nodesUsed == 1)
  }

  /// A route that changes while others read: each reader sees the old path or the new one, and for an address that one of
  /// two prefixes always covers, never none.
  @Test func readersSeeOldOrNew() throws {
    let trees = try Trees(nodes: 64, workers: 2)
    let root = try trees.makeRoot()
    trees.set(root, Self.prefix("10.0.0.0/8"), 100)
    trees.set(root, Self.prefix("fd00::/8"), 200)
    let reader = trees.trees.reader
    let reader6 = trees.trees6.reader
    let root6 = trees.roots6[root]!
    let watch = Watch()
    let inside4 = Self.address("10.77.88.99").v4
    let inside6 = Self.address("fd00:77:88::99")
    let threads = (0..<2).map { index in
      let worker = trees.epochs.worker(index)
      return PosixThread {
        worker.comeOnline()
        while !watch.isStopped {
          let four = reader.lookup(root: root, v4: inside4)
          let six = reader6.lookup(root: root6, v6: inside6)
          if four != 100 && !(1...50).contains(four) { watch.sawWrong() }
          if six != 200 && !(51...99).contains(six) { watch.sawWrong() }
          watch.readAll()
          worker.quiescent()
        }
        worker.goOffline()
      }
    }
    var random = SeededRandom(seed: 15)
    for _ in 0..<30_000 {
      let four = IPPrefix(IPAddress(v4: inside4), length: 9 + random.below(24))!
      let six = IPPrefix(inside6, length: 9 + random.below(120))!
      if trees.trees.nodesFree > 20, trees.trees6.nodesFree > 20, random.below(2) == 0 {
        trees.set(root, four, UInt32(1 + random.below(50)))
        trees.set(root, six, UInt32(51 + random.below(49)))
      } else {
        for prefix in [four, six] where trees.models[root]!.paths[prefix] != nil { trees.remove(root, prefix) }
      }
      trees.epochs.reclaim()
    }
    watch.stop()
    for thread in threads { thread.join() }
    #expect(watch.wrong == 0)
    #expect(watch.reads > 1000)
  }
}
