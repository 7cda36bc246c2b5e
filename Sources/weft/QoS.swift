import ArgumentParser
import WeftRing
import WeftWire

extension Forwarder {
  func policers() throws(Failure) -> [(policer: PolicerConfiguration, state: PolicerState)] {
    try dump(.policers) { if case .policer(let entry, let state) = $0 { (entry, state) } else { nil } }
      .sorted { $0.policer.id < $1.policer.id }
  }

  func classifiers() throws(Failure) -> [ClassifierConfiguration] {
    try dump(.classifiers) { if case .classifier(let entry) = $0 { entry } else { nil } }.sorted { $0.id < $1.id }
  }

  func remarks() throws(Failure) -> [RemarkConfiguration] {
    try dump(.remarks) { if case .remark(let entry) = $0 { entry } else { nil } }.sorted { $0.id < $1.id }
  }
}

struct PolicersCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "policer", abstract: "Policers, and what each has let pass and dropped.",
    discussion: """
      CONFORMING packets are within the rate; EXCEEDING ones (yellow, of policers with three colours) pass too, marked if \
      the policer says so; VIOLATING ones drop as policed. Who refers to a policer: `weft vif`, `weft policy`.
      """,
    subcommands: [List.self], defaultSubcommand: List.self)

  struct List: ParsableCommand {
    static let configuration = CommandConfiguration(abstract: "List policers (the default).")

    @OptionGroup var options: ForwarderOptions

    private typealias Row = (policer: PolicerConfiguration, state: PolicerState)

    func run() throws {
      let columns: [Column<Row>] = [
        Column("ID") { .number($0.policer.id) },
        Column("kind") { .text($0.policer.kind.name) },
        Column("unit") { .text($0.policer.unit.name) },
        Column("rate") { .number($0.policer.rate) },
        Column("burst") { .number($0.policer.burst) },
        Column("peak rate") { $0.policer.peakRate == 0 ? .nothing : .number($0.policer.peakRate) },
        .shown("burst 2") { $0.policer.excessBurst == 0 ? .nothing : .number($0.policer.excessBurst) },
        .keyed("excess-burst") {
          $0.policer.kind == .singleRateThreeColor ? .number($0.policer.excessBurst) : .nothing
        },
        .keyed("peak-burst") { $0.policer.kind == .twoRateThreeColor ? .number($0.policer.excessBurst) : .nothing },
        .keyed("color-aware") { .flag($0.policer.isColorAware) },
        .keyed("yellow-dscp") { $0.policer.yellowDSCP.map(Value.number) ?? .nothing },
        Column("conforming packets") { .number($0.state.conformingPackets) },
        Column("conforming bytes") { .number($0.state.conformingBytes) },
        Column("exceeding packets") { .number($0.state.exceedingPackets) },
        Column("exceeding bytes") { .number($0.state.exceedingBytes) },
        Column("violating packets") { .number($0.state.violatingPackets) },
        Column("violating bytes") { .number($0.state.violatingBytes) },
        Column("name") { .text($0.policer.name) },
      ]
      try options.print(Table(columns: columns, rows: try options.connect().policers()))
    }
  }
}

struct QoSCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "qos", abstract: "Forwarding classes: classifiers of what comes in, marks of what goes out.",
    discussion: "Which interface has which, `weft vif` says.",
    subcommands: [Classifiers.self, Marks.self], defaultSubcommand: Classifiers.self)

  struct Classifiers: ParsableCommand {
    static let configuration = CommandConfiguration(abstract: "Classes by marks that packets come with (the default).")

    @OptionGroup var options: ForwarderOptions

    func run() throws {
      let columns: [Column<ClassifierConfiguration>] = [
        Column("ID") { .number($0.id) },
        Column("default") { .number($0.fallback) },
        Column("DSCP") { map($0.dscp) },
        Column("PCP") { map($0.pcp) },
        Column("EXP") { map($0.exp) },
        Column("name") { .text($0.name) },
      ]
      try options.print(Table(columns: columns, rows: try options.connect().classifiers()))
    }

    private func map(_ map: [UInt8: UInt8]?) -> Value {
      guard let map else { return .nothing }
      return .object(map.keys.sorted().map { .init(key: String($0), value: .number(map[$0] ?? 0)) })
    }
  }

  struct Marks: ParsableCommand {
    static let configuration = CommandConfiguration(abstract: "Marks by class, where packets go out.")

    @OptionGroup var options: ForwarderOptions

    private typealias Row = (remark: RemarkConfiguration, key: UInt8, marks: ClassMarks)

    func run() throws {
      let columns: [Column<Row>] = [
        Column("ID") { .number($0.remark.id) },
        Column("class") { .number($0.key) },
        Column("DSCP") { $0.marks.dscp.map(Value.number) ?? .nothing },
        Column("outer DSCP") { $0.marks.outerDSCP.map(Value.number) ?? .nothing },
        Column("EXP") { $0.marks.exp.map(Value.number) ?? .nothing },
        Column("PCP") { $0.marks.pcp.map(Value.number) ?? .nothing },
        Column("name") { .text($0.remark.name) },
      ]
      let rows: [Row] = try options.connect().remarks().flatMap { remark in
        remark.classes.keys.sorted().map { (remark, $0, remark.classes[$0] ?? ClassMarks()) }
      }
      try options.print(Table(columns: columns, rows: rows))
    }
  }
}
