import CLinux

/// The forwarder's tables whose fill the statistics region tells, in the order in which they stand there.
public enum TableGauge: Int, CaseIterable, Sendable {
  case interfaces, vrfs, nexthops, labels, vnis, routes, bridge, neighbors, rules, services
  /// Entries of all workers together, two for each flow.
  case flows

  public var name: String {
    switch self {
    case .interfaces: "interfaces"
    case .vrfs: "vrfs"
    case .nexthops: "nexthops"
    case .labels: "labels"
    case .vnis: "vnis"
    case .routes: "routes"
    case .bridge: "bridge"
    case .neighbors: "neighbors"
    case .rules: "rules"
    case .services: "services"
    case .flows: "flows"
    }
  }
}

extension StatisticsRegion {
  /// How many entries a table has, and how many it may have (0: no limit of its own).
  public func set(_ table: TableGauge, entries: Int, limit: Int) {
    let at = StatisticsLayout.tablesOffset + table.rawValue * 16
    unsafe weft_store_relaxed_u64(mapping.base + at, UInt64(entries))
    unsafe weft_store_relaxed_u64(mapping.base + at + 8, UInt64(limit))
  }
}

extension StatisticsReader {
  public struct Table: Hashable, Sendable {
    public let table: TableGauge
    public let entries: UInt64
    /// 0: no limit of its own.
    public let limit: UInt64
  }

  /// How full the tables are, as of at most a second ago; flows as of the workers' last heartbeat.
  public func tables() -> [Table] {
    TableGauge.allCases.map { table in
      let at = StatisticsLayout.tablesOffset + table.rawValue * 16
      let entries = table == .flows ? workers().reduce(0) { $0 &+ $1.flows } : load(at)
      return Table(table: table, entries: entries, limit: load(at + 8))
    }
  }

  /// Since the control thread last went through its loop, ms.
  public var controlHeartbeatAgeMilliseconds: UInt64 { age(StatisticsLayout.heartbeatOffset) / 1_000_000 }

  /// Since the forwarder started, ns.
  public var uptimeNanoseconds: UInt64 { age(StatisticsLayout.startOffset) }

  private func age(_ offset: Int) -> UInt64 {
    let now = weft_monotonic_ns()
    return now - min(now, load(offset))
  }
}
