extension Placement {
  /// What is placed so that it costs speed, and what to do about it: of the workers' cores.
  public var warnings: [String] {
    var warnings: [String] = []
    for (index, worker) in workers.enumerated() {
      let siblings = topology.core(worker.core)?.siblings ?? []
      if let other = workers[..<index].firstIndex(where: { siblings.contains($0.core) }) {
        warnings.append(
          "workers \(other) and \(index) share a physical core: \(workers[other].core) and \(worker.core) are threads of "
            + "one; choose one of \(Self.list(siblings))")
      }
    }
    return warnings
  }

  /// The same of a fabric's NIC. `ofInterrupts`: those on a worker's core are misplaced; not where the worker itself asks
  /// the NIC's queues (busy polling).
  public func warnings(device: String, ofInterrupts: Bool = true) -> [String] {
    var warnings: [String] = []
    if let node = topology.node(ofDevice: device) {
      let far = workers.indices.filter { workers[$0].node != node }
      if !far.isEmpty {
        let near = topology.cores.filter { $0.node == node }.map(\.number)
        let advice = near.isEmpty ? "that node has no cores" : "cores of node \(node) are \(Self.list(near))"
        let places = Set(far.map { workers[$0].node }).sorted().map(String.init).joined(separator: ", ")
        warnings.append(
          "\(device) is on NUMA node \(node), but worker\(far.count == 1 ? "" : "s") \(Self.list(far)) on node \(places) "
            + "(core\(far.count == 1 ? "" : "s") \(Self.list(far.map { workers[$0].core }.sorted()))): packets cross "
            + "between nodes; \(advice)")
      }
    }
    guard ofInterrupts else { return warnings }
    for interrupt in topology.interrupts(ofDevice: device) where interrupt.queue != nil {
      // One that may come to any core is moved by the kernel or by irqbalance.
      guard interrupt.cores.count == 1, let core = interrupt.cores.first,
        let worker = workers.firstIndex(where: { $0.core == core })
      else { continue }
      warnings.append(
        "interrupt \(interrupt.number) (\(interrupt.name)) comes to core \(core), where worker \(worker) runs: they take "
          + "time from each other; write another core of node \(topology.node(ofCore: core)) into "
          + "/proc/irq/\(interrupt.number)/smp_affinity_list")
    }
    return warnings
  }
}
