import ArgumentParser
import WeftRing

struct WorkersCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "worker",
    abstract: "Workers: where each runs, what it receives from, and what it hands over to others.",
    discussion: """
      PORTS are the interfaces that a worker receives from, with the number of queues where it has several of one. HANDED \
      OVER counts frames that came in to it and belong to another worker's flow, TAKEN OVER those that it got so: of \
      packets from the fabric few should be, where the kernel brings them to their workers at once (docs/numa.md).

      HEARTBEAT is the time since the worker last went through its loop: a worker that sleeps because nothing comes in \
      still wakes up to beat. SLEEPS counts how often it waited for packets; FLOWS are the entries of its table (two for each flow), FLOWS REFUSED flows that it forwarded \
      without an entry because the table was full; REDIRECTS are keys of its own whose flows, translated, live with \
      another worker, REDIRECTS REFUSED flows of others that had to go because it had no place for their keys or other \
      flows with them.
      """)

  @Argument(help: ArgumentHelp("Only this one.", valueName: "worker"))
  var worker: UInt32?

  @OptionGroup var options: ForwarderOptions

  private typealias Row = (worker: StatisticsReader.Worker, ports: [(device: String, queues: UInt64)])

  /// In a table for people.
  private static let most = 8

  func run() throws {
    let forwarder = try options.connect()
    let statistics = forwarder.ring.statistics
    let devices = Dictionary(
      try forwarder.interfaces().map { ($0.configuration.id, $0.configuration.device) }, uniquingKeysWith: { $1 })
    var rows: [Row] = statistics.workers().map { worker in
      // One that is going has no name any more.
      let ports = statistics.queues(worker: worker.index).compactMap { port in
        devices[port.interface].map { (device: $0, queues: port.queues) }
      }
      return (worker, ports)
    }
    if let worker {
      let last = rows.count - 1
      rows.removeAll { $0.worker.index != worker }
      if rows.isEmpty {
        throw Failure("no worker \(worker) in the forwarder at \(options.socket); it has 0 to \(last)")
      }
    }
    try options.print(Table(columns: Self.columns, rows: rows))
  }

  /// What a worker counts.
  static var counters: [Column<StatisticsReader.Worker>] {
    [
      Column("worker") { .number($0.index) },
      Column("core") { $0.core < 0 ? .nothing : .number($0.core) },
      Column("NUMA node") { $0.numaNode < 0 ? .nothing : .number($0.numaNode) },
      .shown("heartbeat") { .text(seconds($0.heartbeatAgeMilliseconds)) },
      .keyed("heartbeat-age-milliseconds") { .number($0.heartbeatAgeMilliseconds) },
      .keyed("busy-nanoseconds") { .number($0.busyNanoseconds) },
      Column("batches") { .number($0.batches) },
      Column("packets") { .number($0.packets) },
      Column("sleeps") { .number($0.sleeps) },
      Column("flows") { .number($0.flows) },
      Column("flows refused") { .number($0.flowsRefused) },
      Column("handed over") { .number($0.handedOver) },
      Column("taken over") { .number($0.takenOver) },
      Column("redirects") { .number($0.redirects) },
      Column("redirects refused") { .number($0.redirectsRefused) },
    ]
  }

  private static var columns: [Column<Row>] {
    counters.map { column in
      Column<Row>(heading: column.heading, key: column.key) { column.value($0.worker) }
    } + [
      .shown("ports") { row in
        var names = row.ports.prefix(most).map { $0.queues == 1 ? $0.device : "\($0.device) (\($0.queues) queues)" }
        if row.ports.count > most { names.append("\(row.ports.count - most) more") }
        return .text(names.joined(separator: ", "))
      },
      .keyed("ports") { row in
        .list(
          row.ports.map {
            .object([
              .init(key: "device", value: .text($0.device)), .init(key: "queues", value: .number($0.queues)),
            ])
          })
      },
    ]
  }
}
