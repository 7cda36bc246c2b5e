import CMeasure
import CReference
import Glibc
import WeftTables
import WeftWire

/// Longest-prefix match in tables of the Internet's size and mix of lengths.
enum Routes {
  /// Lengths and their shares in thousandths, as in the BGP table of a router of 2024 (bgp.potaroo.net), with the host
  /// routes of a data centre in place of the rarest.
  private static let mix4: [(length: Int, share: Int)] = [
    (24, 590), (23, 95), (22, 110), (21, 50), (20, 45), (19, 25), (18, 14), (17, 8), (16, 13), (15, 2), (14, 2),
    (13, 1), (12, 1), (11, 1), (10, 1), (9, 1), (8, 1), (32, 30), (28, 5), (26, 5),
  ]
  private static let mix6: [(length: Int, share: Int)] = [
    (48, 450), (32, 120), (44, 90), (40, 90), (36, 50), (29, 40), (33, 20), (34, 15), (35, 10), (38, 10), (42, 15),
    (46, 20), (47, 15), (56, 15), (64, 30), (128, 10),
  ]

  static func measure(quick: Bool) throws {
    try measure("lpm.v4-1m", count: 1_000_000, nodes: 400_000, mix4, quick: quick) { random, length in
      // Some 45,000 of the 65,536 blocks of 2^16 addresses hold routes.
      let block = UInt32(1 << 8 + random.below(45_000) * 56_000 / 45_000)
      return IPPrefix(IPAddress(v4: block << 16 | UInt32(truncatingIfNeeded: random.next()) & 0xFFFF), length: length)
    }
    try measure("lpm.v6-200k", count: 200_000, nodes: 600_000, mix6, quick: quick) { random, length in
      // 20,000 networks (/32) of 2000::/3, each with few blocks of /40 in use.
      let network = UInt64(random.below(20_000)) &* 0x9E37_79B1 & 0x0FFF_FFFF
      let block = UInt64(random.below(24) * 5)
      let high = 0x2000_0000_0000_0000 | network << 32 | block << 24 | random.next() & 0xFF_FFFF
      return IPPrefix(IPAddress(high: high, low: random.next()), length: length)
    }
  }

  private static func measure(
    _ name: String, count: Int, nodes: Int, _ mix: [(length: Int, share: Int)], quick: Bool,
    _ prefix: (inout Random, Int) -> IPPrefix?
  ) throws {
    let epochs = try Epochs(workers: 1)
    var random = Random(7)
    var prefixes: [IPPrefix] = []
    var seen: Set<IPPrefix> = []
    prefixes.reserveCapacity(count)
    seen.reserveCapacity(count)
    while prefixes.count < count {
      var share = random.below(1000)
      let length = mix.first { entry in
        share -= entry.share
        return share < 0
      }?.length
      guard let length, let made = prefix(&random, length), seen.insert(made).inserted else { continue }
      prefixes.append(made)
    }
    let before = measure_resident()
    let isV4 = prefixes[0].isV4
    let trees = try PrefixTrees(nodes: isV4 ? nodes : 1, epochs: epochs)
    let trees6 = try CompressedTrees(nodes: isV4 ? 1 : nodes, epochs: epochs)
    guard let root = isV4 ? trees.makeRoot() : trees6.makeRoot() else {
      throw BenchmarkError("\(name): no room for a root")
    }
    let build = elapsed {
      for (index, prefix) in prefixes.enumerated() {
        if isV4 {
          trees.set(root: root, prefix, path: UInt32(index & 1023) + 1, isNew: true)
        } else {
          trees6.set(root: root, prefix, path: UInt32(index & 1023) + 1)
        }
      }
      epochs.reclaim()
    }
    Report.value("\(name).build", build / 1e6, "ms")
    Report.value("\(name).build-rate", Double(count) / build * 1000, "M routes/s")
    Report.value("\(name).memory", Double(measure_resident() - before) / 1_048_576, "MiB")
    Report.value("\(name).nodes", Double(isV4 ? trees.nodesUsed : trees6.nodesUsed), "nodes")
    let measured = Measured(
      name: name, root: root, reader: trees.reader, reader6: trees6.reader, rounds: quick ? 5 : 15)
    if isV4 {
      try measured.compare(prefixes, addresses4(prefixes, &random))
    } else {
      try measured.compare(prefixes, addresses6(prefixes, &random))
    }
  }

  /// Addresses under random routes, so that lookups end at all depths.
  private static func addresses4(_ prefixes: [IPPrefix], _ random: inout Random) -> [UInt32] {
    (0..<lookups).map { _ in
      let prefix = prefixes[random.below(prefixes.count)]
      let host = prefix.length == 32 ? 0 : UInt32(truncatingIfNeeded: random.next()) >> UInt32(prefix.length)
      return prefix.address.v4 | host
    }
  }

  private static func addresses6(_ prefixes: [IPPrefix], _ random: inout Random) -> [IPAddress] {
    (0..<lookups).map { _ in
      let prefix = prefixes[random.below(prefixes.count)]
      let high = prefix.length >= 64 ? 0 : random.next() >> UInt64(prefix.length)
      let low =
        prefix.length == 128 ? 0 : prefix.length > 64 ? random.next() >> UInt64(prefix.length - 64) : random.next()
      return IPAddress(high: prefix.address.high | high, low: prefix.address.low | low)
    }
  }

  fileprivate static let lookups = 1 << 20
}

/// A table that was built, and what its lookups are compared with.
private struct Measured {
  let name: String
  let root: UInt32
  let reader: PrefixTreesReader
  let reader6: CompressedTreesReader
  let rounds: Int

  func compare(_ prefixes: [IPPrefix], _ addresses: [UInt32]) throws {
    let ours = addresses.withUnsafeBufferPointer { addresses in
      chain { reader.lookup(root: root, v4: addresses[$0]) }
      let alone = time(".alone") {
        var sum: UInt32 = 0
        for at in addresses.indices { sum &+= reader.lookup(root: root, v4: addresses[at]) }
        return sum
      }
      var batch = RouteBatch()
      defer { batch.deallocate() }
      let found = time("") {
        var sum: UInt32 = 0
        var at = 0
        while at < addresses.count {
          batch.removeAll()
          for index in at..<min(at + RouteBatch.capacity, addresses.count) {
            batch.add(reader, root: root, v4: addresses[index])
          }
          batch.finish(reader)
          for index in 0..<batch.count { sum &+= batch.path(index) }
          at += RouteBatch.capacity
        }
        return sum
      }
      precondition(alone == found, "lookups side by side find other paths")
      return found
    }
    for (design, label) in [
      (prefixes_dir_24_8, "dir-24-8"), (prefixes_16_8, "16-8"), (prefixes_16_8_batched, "16-8-batched"),
      (prefixes_poptrie, "poptrie"), (prefixes_poptrie_batched, "poptrie-batched"),
    ] {
      try other(design, label, prefixes, ours) { prefixes_lookup4($0, addresses, addresses.count) }
    }
  }

  func compare(_ prefixes: [IPPrefix], _ addresses: [IPAddress]) throws {
    let ours = addresses.withUnsafeBufferPointer { addresses in
      chain { reader6.lookup(root: root, v6: addresses[$0]) }
      let alone = time(".alone") {
        var sum: UInt32 = 0
        for at in addresses.indices { sum &+= reader6.lookup(root: root, v6: addresses[at]) }
        return sum
      }
      var batch = RouteBatch()
      defer { batch.deallocate() }
      let found = time("") {
        var sum: UInt32 = 0
        var at = 0
        while at < addresses.count {
          batch.removeAll()
          for index in at..<min(at + RouteBatch.capacity, addresses.count) {
            batch.add(reader6, root: root, v6: addresses[index])
          }
          batch.finish(reader6)
          for index in 0..<batch.count { sum &+= batch.path(index) }
          at += RouteBatch.capacity
        }
        return sum
      }
      precondition(alone == found, "lookups side by side find other paths")
      return found
    }
    let words = addresses.flatMap { [$0.high, $0.low] }
    for (design, label) in [
      (prefixes_16_8, "16-8"), (prefixes_16_8_batched, "16-8-batched"), (prefixes_poptrie, "poptrie"),
      (prefixes_poptrie_batched, "poptrie-batched"),
    ] {
      try other(design, label, prefixes, ours) { prefixes_lookup6($0, words, words.count / 2) }
    }
  }

  /// Where the next lookup goes depends on what this one found: nothing overlaps.
  @inline(__always) private func chain(_ lookup: (Int) -> UInt32) {
    let count = Routes.lookups / 4
    var last: UInt32 = 0
    let times = (0..<rounds).map { _ in elapsed { for at in 0..<count { last = lookup(at ^ Int(last & 1)) } } }
    Report.value("\(name).dependent-ns", median(times) / Double(count), "ns/lookup")
  }

  /// The sum of the paths found.
  @inline(__always) private func time(_ design: String, _ all: () -> UInt32) -> UInt32 {
    var sum: UInt32 = 0
    let times = (0..<rounds).map { _ in elapsed { sum = all() } }
    Report.value("\(name)\(design).ns", median(times) / Double(Routes.lookups), "ns/lookup")
    return sum
  }

  private func other(
    _ design: prefixes_design, _ label: String, _ prefixes: [IPPrefix], _ expected: UInt32,
    _ lookup: (UnsafeMutableRawPointer) -> UInt32
  ) throws {
    var routes = prefixes.enumerated().map { index, prefix in
      prefixes_route(
        high: prefix.isV4 ? UInt64(prefix.address.v4) << 32 : prefix.address.high,
        low: prefix.isV4 ? 0 : prefix.address.low, length: Int32(prefix.length), path: UInt32(index & 1023) + 1)
    }
    guard let table = prefixes_build(design, &routes, routes.count, prefixes[0].isV4 ? 0 : 1) else {
      throw BenchmarkError("\(name): no memory for \(label)")
    }
    defer { prefixes_destroy(table) }
    let found = time(".\(label)") { lookup(table) }
    guard found == expected else { throw BenchmarkError("\(name): \(label) finds other paths than Weft") }
    Report.value("\(name).\(label).memory", Double(prefixes_memory(table)) / 1_048_576, "MiB")
  }
}

/// Bytes that can be had without swapping.
func availableMemory() -> UInt64 {
  guard let file = fopen("/proc/meminfo", "r") else { return 0 }
  defer { fclose(file) }
  var line = [CChar](repeating: 0, count: 256)
  while fgets(&line, 256, file) != nil {
    let text = String(decoding: line.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    guard text.hasPrefix("MemAvailable:") else { continue }
    let digits = text.filter { $0.isNumber }
    return (UInt64(digits) ?? 0) << 10
  }
  return 0
}
