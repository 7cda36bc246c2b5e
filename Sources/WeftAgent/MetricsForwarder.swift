import WeftRing

/// A port as figures name it.
struct PortLabels: Sendable {
  /// In the forwarder's tables.
  var id: UInt32
  /// The host's interface.
  var device: String
  var role: String
  var network: String
  var namespace: String
  var pod: String

  var labels: [MetricsText.Label] {
    [("port", device), ("role", role), ("network", network), ("namespace", namespace), ("pod", pod)]
  }
}

extension MetricsText {
  /// What the forwarder counts, out of the memory that it shares: it does not notice. `ports`: those that are told, and no
  /// other is looked at.
  mutating func forwarder(_ channel: RingClient, ports: [PortLabels]) {
    let statistics = channel.statistics
    single(
      "weft_forwarder_uptime_seconds", .gauge, "Since the forwarder started.",
      Double(statistics.uptimeNanoseconds) / 1e9)
    single(
      "weft_forwarder_heartbeat_age_seconds", .gauge,
      "Since the forwarder's control thread last went through its loop.",
      Double(statistics.controlHeartbeatAgeMilliseconds) / 1e3)
    portFigures(statistics, ports)
    family("weft_drops_total", .counter, "Packets that went no further, by reason (docs/drop-reasons.md).")
    for drop in statistics.drops() { sample(drop.count, [("reason", drop.name)]) }
    workerFigures(statistics.workers())
    let tables = statistics.tables()
    single(
      "weft_flows", .gauge, "Entries of all workers' flow tables: two for each flow.",
      tables.first { $0.table == .flows }?.entries ?? 0)
    family("weft_table_entries", .gauge, "Entries of the forwarder's tables.")
    for table in tables { sample(table.entries, [("table", table.table.name)]) }
    family("weft_table_limit", .gauge, "Entries that a table of the forwarder's may have.")
    for table in tables where table.limit > 0 { sample(table.limit, [("table", table.table.name)]) }
    let depths = channel.depths
    family("weft_ring_messages", .gauge, "Messages that wait in the rings between agent and forwarder.")
    for ring in depths { sample(ring.messages, [("ring", ring.ring)]) }
    family("weft_ring_slots", .gauge, "Messages that these rings have room for.")
    for ring in depths { sample(ring.slots, [("ring", ring.ring)]) }
  }

  private mutating func portFigures(_ statistics: StatisticsReader, _ ports: [PortLabels]) {
    let counted = ports.map { (labels: $0.labels, counters: statistics.interface($0.id)) }
    family("weft_port_packets_total", .counter, "Packets that came from a port (rx) and went to it (tx).")
    for port in counted {
      sample(port.counters.rxPackets, port.labels + [("direction", "rx")])
      sample(port.counters.txPackets, port.labels + [("direction", "tx")])
    }
    family("weft_port_bytes_total", .counter, "Bytes that came from a port (rx) and went to it (tx).")
    for port in counted {
      sample(port.counters.rxBytes, port.labels + [("direction", "rx")])
      sample(port.counters.txBytes, port.labels + [("direction", "tx")])
    }
    family("weft_port_drops_total", .counter, "Packets that came from a port and went no further.")
    for port in counted { sample(port.counters.drops, port.labels) }
  }

  private mutating func workerFigures(_ workers: [StatisticsReader.Worker]) {
    func labels(_ worker: StatisticsReader.Worker) -> [Label] {
      [("worker", "\(worker.index)"), ("core", "\(worker.core)")]
    }
    func seconds(_ nanoseconds: UInt64) -> Double { Double(nanoseconds) / 1e9 }
    typealias Worker = StatisticsReader.Worker
    family(
      "weft_worker_busy_seconds_total", .counter,
      "Time in rounds that took packets; its rate is the part of the time that the worker was busy.")
    for worker in workers { sample(seconds(worker.busyNanoseconds), labels(worker)) }
    family("weft_worker_heartbeat_age_seconds", .gauge, "Since the worker last went through its loop.")
    for worker in workers { sample(Double(worker.heartbeatAgeMilliseconds) / 1e3, labels(worker)) }
    let counters: [(String, String, (Worker) -> UInt64)] = [
      ("weft_worker_batches_total", "Batches of packets that a worker took.", { $0.batches }),
      ("weft_worker_packets_total", "Packets that a worker took.", { $0.packets }),
      ("weft_worker_sleeps_total", "How often a worker waited for packets.", { $0.sleeps }),
      ("weft_worker_flows_refused_total", "Flows forwarded without an entry, for lack of room.", { $0.flowsRefused }),
      ("weft_worker_handed_over_total", "Frames given to the worker that has their flow.", { $0.handedOver }),
      ("weft_worker_taken_over_total", "Frames taken from other workers.", { $0.takenOver }),
    ]
    for (name, help, value) in counters {
      family(name, .counter, help)
      for worker in workers { sample(value(worker), labels(worker)) }
    }
    family("weft_worker_flows", .gauge, "Entries of a worker's flow table: two for each flow.")
    for worker in workers { sample(worker.flows, labels(worker)) }
  }
}
