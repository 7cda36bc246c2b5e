import ArgumentParser
import CLinux
import Glibc
import WeftRing

struct StatusCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "status", abstract: "Whether this node is well, and what to do if it is not.",
    discussion: """
      Looks at the forwarder (workers, drops, tables), at the agent (whether the forwarder has all it should have, peers, \
      ports, addresses) and at what the CNI plugin could not finish. Drops are counted over --interval; what they mean: \
      docs/drop-reasons.md. `weft doctor` looks at the machine.

      Exit status: 0 well (there may be warnings), 1 not well, 2 it cannot tell.
      """)

  @OptionGroup var options: ForwarderOptions
  @OptionGroup var node: NodeOptions

  @Option(name: .long, help: ArgumentHelp("Watch drops for so long, 0 to 60.", valueName: "seconds"))
  var interval = 1.0

  @Flag(name: .shortAndLong, help: "Workers and tables as well.")
  var verbose = false

  func validate() throws {
    guard (0...60).contains(interval) else { throw ValidationError("--interval must be 0 to 60 seconds.") }
  }

  func run() throws {
    let look = NodeLook(socket: options.socket, agent: node.agent, configDir: node.configDir, interval: interval)
    let findings = look.findings()
    let status = Finding.status(findings)
    let verdict = ["well", "not well", "cannot tell"][Int(status)]
    if options.json {
      try Output.write(
        Value.object([
          .init(key: "status", value: .text(verdict)),
          .init(key: "node", value: look.status.map { .text($0.node) } ?? .nothing),
          .init(key: "pid", value: look.ring.map { .number($0.forwarderPID) } ?? .nothing),
          .init(key: "checks", value: .list(findings.map(\.value))),
          .init(
            key: "tables",
            value: look.ring.map { ring in
              .object(
                ring.statistics.tables().map { table in
                  .init(
                    key: table.table.name,
                    value: .object([
                      .init(key: "entries", value: .number(table.entries)),
                      .init(key: "limit", value: table.limit == 0 ? .nothing : .number(table.limit)),
                    ]))
                })
            } ?? .nothing),
          .init(
            key: "workers",
            value: look.ring.map {
              .list(Table(columns: WorkersCommand.counters, rows: $0.statistics.workers()).objects)
            } ?? .nothing),
        ]).json + "\n")
    } else {
      let bad = findings.count { $0.state == .bad }
      let warnings = findings.count { $0.state == .warn }
      var words: [String] = []
      if bad > 0 { words.append("\(bad) to mend") }
      if warnings > 0 { words.append("\(warnings) to look at") }
      let more = words.isEmpty ? "" : " (\(words.joined(separator: ", ")))"
      let node = look.status?.node ?? "this node"
      try Output.write(status == 2 ? "cannot tell whether \(node) is well\(more)\n" : "\(node) is \(verdict)\(more)\n")
      try Output.write(Finding.text(findings))
      if verbose, let statistics = look.ring?.statistics {
        try Output.write("\n" + Table(columns: Self.tableColumns, rows: statistics.tables()).text)
        try Output.write("\n" + Table(columns: WorkersCommand.counters, rows: statistics.workers()).text)
      }
    }
    if status != 0 { throw ExitCode(status) }
  }

  private static var tableColumns: [Column<StatisticsReader.Table>] {
    [
      Column("table") { .text($0.table.name) },
      Column("entries") { .number($0.entries) },
      Column("limit") { $0.limit == 0 ? .nothing : .number($0.limit) },
    ]
  }
}

/// Where a node's other parts are.
struct NodeOptions: ParsableArguments {
  @Option(
    name: .long,
    help: ArgumentHelp("The agent: HOST:PORT, or the path of its Unix socket.", valueName: "address"))
  var agent = AgentAddress.standard

  @Option(
    name: .long, help: ArgumentHelp("Where the CNI plugin keeps its files (config-dir).", valueName: "folder"))
  var configDir = "/var/lib/contrail/ports/vm"
}
