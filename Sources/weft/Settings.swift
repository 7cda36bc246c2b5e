import ArgumentParser
import WeftRing

struct SettingsCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "settings", abstract: "How flows are kept and told of.",
    discussion: """
      Timeouts are seconds that a flow may be idle in both directions. TCP: liberal takes any segment as a flow's first, \
      opened only a SYN, strict also drops segments that do not fit the state of their connection.
      """)

  @OptionGroup var options: ForwarderOptions

  func run() throws {
    let forwarder = try options.connect()
    let settings = try forwarder.dump(.flowSettings) { if case .flowSettings(let entry) = $0 { entry } else { nil } }
    let exports = try forwarder.dump(.flowExport) { if case .flowExport(let entry) = $0 { entry } else { nil } }
    try options.print(Table(columns: Self.columns, rows: Self.rows(settings.first, exports.first)))
  }

  private typealias Row = (name: String, value: Value, isSet: Bool)

  private static func rows(_ flows: FlowSettingsConfiguration?, _ export: FlowExportConfiguration?) -> [Row] {
    let (kept, told) = (flows ?? FlowSettingsConfiguration(), export ?? FlowExportConfiguration())
    var rows: [Row] = [("tcp", .text(kept.tcp.name), flows != nil)]
    for timeout in FlowSettingsConfiguration.Timeout.allCases {
      rows.append(("timeout \(timeout.name)", .number(kept[timeout]), flows != nil))
    }
    rows.append(("export flows", .text(told.selection.name), export != nil))
    rows.append(("export sample", .number(told.sample), export != nil))
    rows.append(("export rate", .number(told.rate), export != nil))
    rows.append(("export update-seconds", .number(told.updateSeconds), export != nil))
    return rows
  }

  private static var columns: [Column<Row>] {
    [
      Column("setting") { .text($0.name) }, Column("value") { $0.value },
      Column("set") { .flag($0.isSet) },
    ]
  }
}
