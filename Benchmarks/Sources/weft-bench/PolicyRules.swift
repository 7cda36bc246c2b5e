import WeftRing
import WeftTables
import WeftVRouter
import WeftWire

/// Rules as a cluster has them, and what one evaluation of them takes.
enum PolicyRules {
  static let tag: UInt32 = 7
  private static let prefixesPerSet = 10

  /// `count` rules for flows from and to pods with `tag`: nine of ten allow one or two ports from or to a set of ten
  /// /24s or /64s (a set serves ten rules), one of ten to a prefix of its own; the last one of either direction allows
  /// UDP, and is the one that the measured packets find.
  static func commands(_ count: Int) -> [Command] {
    var random = Random(3)
    var commands: [Command] = []
    let sets = max(1, count / 10)
    for set in 1...UInt32(sets) {
      commands.append(.setAddressSet(AddressSetConfiguration(id: set, name: "set\(set)")))
      for _ in 0..<prefixesPerSet {
        commands.append(.setAddressSetMember(AddressSetMember(set: set, prefix: prefix(&random))))
      }
    }
    for number in 0..<count {
      let isLast = number >= count - 2
      var rule = RuleConfiguration(
        id: UInt32(number + 1), priority: UInt32(isLast ? 60_000 : 1000 + number),
        direction: number % 2 == 0 ? .egress : .ingress, action: .allow, tag: tag)
      if isLast {
        rule.proto = IPProtocol.udp
      } else {
        rule.proto = random.below(4) == 0 ? IPProtocol.udp : IPProtocol.tcp
        let port = UInt16(9000 + random.below(20_000))
        rule.destinationPorts = random.below(3) == 0 ? [port...port, port + 100...port + 110] : [port...port]
        if number % 10 == 9 {
          rule.remotePrefix = prefix(&random)
        } else {
          rule.remoteSets = [UInt32(random.below(sets) + 1)]
        }
      }
      commands.append(.setRule(rule))
    }
    return commands
  }

  /// Outside of the pods' addresses.
  private static func prefix(_ random: inout Random) -> IPPrefix {
    let text =
      random.below(4) == 0
      ? IPPrefix(IPAddress(high: 0x2001_0DB8_0000_0000 | random.next() & 0xFFFF_FFFF, low: 0), length: 64)
      : IPPrefix(IPAddress(v4: 0x0B00_0000 | UInt32(random.below(1 << 16)) << 8), length: 24)
    return text!
  }

  /// Evaluations one after the other, of flows from a pod to addresses inside and outside of the sets.
  static func measure(quick: Bool) throws {
    for (name, count) in [("10", 10), ("1k", 1000), ("10k", 10_000)] {
      let weft = try WeftSide(flowEntries: 1024, rules: count)
      let subject = weft.tables.reader.interface(Topology.podInterface(1, 0))?.entry.policyClass ?? 0
      let policy = weft.tables.reader.policy
      var random = Random(4)
      let queries = (0..<4096).map { _ in
        PolicyQuery(
          subject: subject, isIngress: false, local: IPAddress(v4: Topology.podAddress(0)),
          remote: random.below(2) == 0
            ? IPAddress(v4: 0x0B00_0000 | UInt32(random.below(1 << 24)))
            : IPAddress(v4: Topology.remoteAddress(UInt32(random.below(1024)))),
          proto: IPProtocol.udp, sourcePort: UInt16(1024 + random.below(60_000)),
          destinationPort: UInt16(9000 + random.below(20_000)))
      }
      guard policy.evaluate(queries[0]).action == .allow else {
        throw BenchmarkError("policy.\(name): the last rule does not allow what it should")
      }
      var times: [Double] = []
      var allowed = 0
      for round in 0..<(quick ? 41 : 201) {
        let time = elapsed { for query in queries where policy.evaluate(query).action == .allow { allowed += 1 } }
        if round > 0 { times.append(time / Double(queries.count)) }
      }
      guard allowed > 0 else { throw BenchmarkError("policy.\(name): nothing was allowed") }
      Report.value("policy.\(name).ns", median(times), "ns/flow")
    }
  }
}
