import ArgumentParser
import WeftRing

struct StatusCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "status", abstract: "The forwarder, its workers, and how full its tables are.",
    discussion: """
      HEARTBEAT is the time since the worker last went through its loop: a worker that sleeps because nothing comes in \
      still wakes up to beat. SLEEPS counts how often it waited for packets, FLOWS the entries of its table (two for \
      each flow), FLOWS REFUSED the flows that it forwarded without an entry because the table was full. HANDED OVER counts \
      the frames that it gave to the worker that has their flow, TAKEN OVER those that it got so; REDIRECTS are keys of \
      its own whose flows, translated, live with another worker, REDIRECTS REFUSED flows of others that had to go because \
      it had no place for their keys or other flows with them.
      """)

  @OptionGroup var options: ForwarderOptions

  func run() throws {
    let forwarder = try options.connect()
    let drops = forwarder.ring.statistics.drops().reduce(UInt64(0)) { $0 &+ $1.count }
    let workers = Table(columns: Self.columns, rows: forwarder.ring.statistics.workers())
    let sizes: [(String, Int)] = [
      ("interfaces", try forwarder.interfaces().count), ("vrfs", try forwarder.vrfs().count),
      ("nexthops", try forwarder.nexthops().count), ("labels", try forwarder.labels().count),
      ("vnis", try forwarder.vnis().count), ("routes", try forwarder.routes().count),
      ("bridge", try forwarder.bridge().count),
    ]
    if options.json {
      let status = Value.object([
        .init(key: "pid", value: .number(forwarder.ring.forwarderPID)),
        .init(key: "socket", value: .text(options.socket)),
        .init(key: "drops", value: .number(drops)),
        .init(key: "entries", value: .object(sizes.map { .init(key: $0.0, value: .number($0.1)) })),
        .init(key: "workers", value: .list(workers.objects)),
      ])
      try Output.write(status.json + "\n")
      return
    }
    let entries = sizes.map { "\($0.1) \($0.0)" }.joined(separator: ", ")
    try Output.write(
      """
      forwarder  pid \(forwarder.ring.forwarderPID), socket \(options.socket)
      entries    \(entries)
      drops      \(drops)\(drops == 0 ? "" : " (`weft drops` says why)")

      \(workers.text)
      """)
  }

  private static var columns: [Column<StatisticsReader.Worker>] {
    [
      Column("worker") { .number($0.index) },
      Column("core") { $0.core < 0 ? .nothing : .number($0.core) },
      Column("NUMA node") { $0.numaNode < 0 ? .nothing : .number($0.numaNode) },
      .shown("heartbeat") { .text(seconds($0.heartbeatAgeMilliseconds)) },
      .keyed("heartbeat-age-milliseconds") { .number($0.heartbeatAgeMilliseconds) },
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
}
