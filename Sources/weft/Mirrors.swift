import ArgumentParser
import WeftRing
import WeftWire

extension Forwarder {
  func mirrors() throws(Failure) -> [(configuration: MirrorConfiguration, state: MirrorState)] {
    try dump(.mirrors) { if case .mirror(let entry, let state) = $0 { (entry, state) } else { nil } }
      .sorted { $0.configuration.id < $1.configuration.id }
  }

  func interfaceMirrors() throws(Failure) -> [InterfaceMirrorConfiguration] {
    try dump(.interfaceMirrors) { if case .interfaceMirror(let entry) = $0 { entry } else { nil } }
      .sorted { $0.interface < $1.interface }
  }
}

struct MirrorsCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "mirror", abstract: "Mirrors: where copies of packets go, and whose.",
    discussion: """
      INGRESS and EGRESS are the interfaces whose frames are copied as they come in and as they go out, RULES the policy \
      rules whose flows are. SHORTENED counts copies that did not fit the way to the analyser, LOST those that were not \
      made: no room, or no way there.
      """)

  @OptionGroup var options: ForwarderOptions

  func run() throws {
    typealias Row = (configuration: MirrorConfiguration, state: MirrorState)
    let forwarder = try options.connect()
    let interfaces = try forwarder.interfaceMirrors()
    let rules = try forwarder.rules().map(\.rule)
    let columns: [Column<Row>] = [
      Column("ID") { .number($0.configuration.id) },
      .shown("to") { .text(Self.text($0.configuration.destination)) },
      .keyed("interface") {
        if case .interface(let id) = $0.configuration.destination { .number(id) } else { .nothing }
      },
      .keyed("nexthop") {
        if case .tunnel(let id, _) = $0.configuration.destination { .number(id) } else { .nothing }
      },
      .keyed("vni") { if case .tunnel(_, let vni) = $0.configuration.destination { .number(vni) } else { .nothing } },
      Column("truncate") { $0.configuration.truncation == 0 ? .nothing : .number($0.configuration.truncation) },
      Column("ingress") { row in
        .list(interfaces.filter { $0.ingress == row.configuration.id }.map { .number($0.interface) })
      },
      Column("egress") { row in
        .list(interfaces.filter { $0.egress == row.configuration.id }.map { .number($0.interface) })
      },
      Column("rules") { row in
        .list(rules.filter { UInt32($0.mirror) == row.configuration.id }.map { .number($0.id) })
      },
      Column("packets") { .number($0.state.packets) },
      Column("bytes") { .number($0.state.bytes) },
      Column("shortened") { .number($0.state.shortened) },
      Column("lost") { .number($0.state.lost) },
    ]
    try options.print(Table(columns: columns, rows: try forwarder.mirrors()))
  }

  private static func text(_ destination: MirrorConfiguration.Destination) -> String {
    switch destination {
    case .interface(let id): "interface \(id)"
    case .tunnel(let nexthop, let vni): "nexthop \(nexthop) VNI \(vni)"
    }
  }
}
