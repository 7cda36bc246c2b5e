import WeftRing

extension TableProgrammer {
  /// How full the tables are, for readers of the statistics region.
  func tellSizes(_ statistics: StatisticsRegion, workers: Int) {
    for table in TableGauge.allCases {
      let size = size(of: table, workers: workers)
      statistics.set(table, entries: size.entries, limit: size.limit)
    }
  }

  private func size(of table: TableGauge, workers: Int) -> (entries: Int, limit: Int) {
    switch table {
    case .interfaces: (interfaces.count, Int(limits.interfaces))
    case .vrfs: (vrfs.count, Int(limits.vrfs))
    case .nexthops: (nexthops.count, Int(limits.nexthops))
    case .labels: (labels.count, 1 << 20)
    case .vnis: (vnis.count, 1 << 24)
    case .routes: (routes.count, Int(limits.routes))
    case .bridge: (bridge.count, Int(limits.bridge))
    case .neighbors: (neighbors.count, 0)
    case .rules: (policy.rules.count, 0)
    case .services: (nat.services.count, 0)
    // Workers count those themselves.
    case .flows: (0, Int(limits.flows) * workers)
    }
  }
}
