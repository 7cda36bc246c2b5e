import WeftWire

/// What rules ask of protocol, ports, ICMP type and TCP flags, as bit vectors by interval.
@safe struct PolicyPorts {
  let protocols: UnsafeMutablePointer<(start: UInt32, count: UInt32)>
  let serviceKeys: UnsafeMutablePointer<UInt16>
  let services: UnsafeMutablePointer<PolicyVector>
  let sourceCount: Int
  let sourceKeys: UnsafeMutablePointer<UInt16>
  let sources: UnsafeMutablePointer<PolicyVector>
  let tcpFlags: UnsafeMutablePointer<PolicyVector>?

  /// A boundary, and what holds from there to the next one.
  private typealias Interval = (key: UInt16, vector: PolicyVector)

  private struct Edge {
    let key: UInt32
    let rule: Int
    /// The rule's range begins here; else it ended before.
    let begins: Bool
  }

  /// Fields are those of `PolicySide`. `all` has every rule's bit.
  init(_ rules: [PolicyRule], _ memory: PolicyMemory, all: PolicyVector) {
    let any = memory.vector()
    var byProtocol: [UInt8: [Int]] = [:]
    for (index, rule) in rules.enumerated() {
      if let proto = rule.proto { byProtocol[proto, default: []].append(index) } else { any.set(index) }
    }
    unsafe protocols = memory.array(of: (start: UInt32, count: UInt32).self, 256, (0, 1))
    var intervals: [Interval] = [(0, any)]
    for (proto, indices) in byProtocol {
      let base = memory.vector(copying: any)
      var edges: [Edge] = []
      for index in indices {
        let ranges = rules[index].services
        if ranges.isEmpty { base.set(index) } else { Self.add(ranges, index, to: &edges) }
      }
      let swept = Self.sweep(base, edges, memory)
      unsafe protocols[Int(proto)] = (UInt32(intervals.count), UInt32(swept.count))
      intervals += swept
    }
    unsafe (serviceKeys, services) = Self.store(intervals, memory, all)

    let base = memory.vector()
    var edges: [Edge] = []
    for (index, rule) in rules.enumerated() {
      let ranges = rule.sources
      if ranges.isEmpty { base.set(index) } else { Self.add(ranges, index, to: &edges) }
    }
    let swept = edges.isEmpty ? [] : Self.sweep(base, edges, memory)
    sourceCount = swept.count
    unsafe (sourceKeys, sources) = Self.store(swept, memory, all)
    unsafe tcpFlags = Self.tcpFlags(rules, memory, all)
  }

  private static func add(_ ranges: [ClosedRange<UInt16>], _ rule: Int, to edges: inout [Edge]) {
    for range in ranges {
      edges.append(Edge(key: UInt32(range.lowerBound), rule: rule, begins: true))
      edges.append(Edge(key: UInt32(range.upperBound) + 1, rule: rule, begins: false))
    }
  }

  /// The intervals between the edges: `base`, and the rules whose ranges hold the interval.
  private static func sweep(_ base: PolicyVector, _ edges: [Edge], _ memory: PolicyMemory) -> [Interval] {
    var result: [Interval] = [(0, base)]
    // Combinations that have been met, by a sum of random numbers for the rules in them.
    var known: [UInt64: PolicyVector] = [0: base]
    let running = memory.vector(copying: base)
    var sum: UInt64 = 0
    let sorted = edges.sorted { $0.key < $1.key }
    var at = 0
    while at < sorted.count, sorted[at].key <= UInt32(UInt16.max) {
      let key = sorted[at].key
      while at < sorted.count, sorted[at].key == key {
        let rule = sorted[at].rule
        if sorted[at].begins {
          running.set(rule)
          sum &+= mixed(rule)
        } else {
          running.clear(rule)
          sum &-= mixed(rule)
        }
        at += 1
      }
      let here: PolicyVector
      if let met = known[sum], memory.isEqual(met, running) {
        here = met
      } else {
        here = memory.vector(copying: running)
        known[sum] = here
      }
      if key == 0 {
        result[0].vector = here
      } else if result[result.count - 1].vector != here {
        result.append((UInt16(key), here))
      }
    }
    return result
  }

  /// SplitMix64's mixing step.
  private static func mixed(_ rule: Int) -> UInt64 {
    var z = (UInt64(rule) &+ 1) &* 0x9E37_79B9_7F4A_7C15
    z = (z ^ z >> 30) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ z >> 27) &* 0x94D0_49BB_1331_11EB
    return z ^ z >> 31
  }

  private static func store(
    _ intervals: [Interval], _ memory: PolicyMemory, _ filler: PolicyVector
  ) -> (UnsafeMutablePointer<UInt16>, UnsafeMutablePointer<PolicyVector>) {
    let keys = unsafe memory.array(of: UInt16.self, intervals.count, 0)
    let vectors = unsafe memory.array(of: PolicyVector.self, intervals.count, filler)
    for (index, interval) in intervals.enumerated() {
      unsafe keys[index] = interval.key
      unsafe vectors[index] = interval.vector
    }
    return unsafe (keys, vectors)
  }

  private static func tcpFlags(
    _ rules: [PolicyRule], _ memory: PolicyMemory, _ all: PolicyVector
  ) -> UnsafeMutablePointer<PolicyVector>? {
    let asking = rules.indices.filter { rules[$0].tcpFlagsMask != 0 }
    guard !asking.isEmpty else { return nil }
    let table = unsafe memory.array(of: PolicyVector.self, 256, all)
    for flags in 0..<256 {
      let vector = memory.vector(copying: all)
      for rule in asking where UInt8(flags) & rules[rule].tcpFlagsMask != rules[rule].tcpFlagsValue {
        vector.clear(rule)
      }
      unsafe table[flags] = vector
    }
    return unsafe table
  }
}
