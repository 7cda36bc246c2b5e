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

  private static var columns: [Column<Row>] {
    [
      Column("worker") { .number($0.worker.index) },
      Column("core") { $0.worker.core < 0 ? .nothing : .number($0.worker.core) },
      Column("NUMA node") { $0.worker.numaNode < 0 ? .nothing : .number($0.worker.numaNode) },
      Column("packets") { .number($0.worker.packets) },
      Column("handed over") { .number($0.worker.handedOver) },
      Column("taken over") { .number($0.worker.takenOver) },
      Column("flows") { .number($0.worker.flows) },
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
