import ArgumentParser
import WeftRing

struct DropsCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "drops", abstract: "Why packets went no further, counted by reason.",
    discussion: "Counts run from the forwarder's start, over all workers. Reasons that never happened are left out.")

  @Flag(name: .long, help: "Also reasons that never happened.")
  var all = false

  @OptionGroup var options: ForwarderOptions

  func run() throws {
    let forwarder = try options.connect()
    let rows = forwarder.ring.statistics.drops().filter { all || $0.count > 0 }
    let columns: [Column<StatisticsReader.Drop>] = [
      Column("reason") { .text($0.name) },
      Column("count") { .number($0.count) },
      Column("explanation") { .text($0.explanation) },
    ]
    try options.print(Table(columns: columns, rows: rows))
  }
}
