import ArgumentParser
import WeftRing
import WeftWire

extension Forwarder {
  func natPools() throws(Failure) -> [(configuration: NATPoolConfiguration, state: NATPoolState)] {
    try dump(.natPools) { if case .natPool(let entry, let state) = $0 { (entry, state) } else { nil } }
      .sorted { $0.configuration.id < $1.configuration.id }
  }

  /// By VRF, then in the order in which they are looked at.
  func sourceNAT() throws(Failure) -> [SourceNATConfiguration] {
    try dump(.sourceNAT) { if case .sourceNAT(let entry) = $0 { entry } else { nil } }
      .sorted { ($0.vrf, $0.priority, $0.id) < ($1.vrf, $1.priority, $1.id) }
  }

  func staticNAT() throws(Failure) -> [StaticNATConfiguration] {
    try dump(.staticNAT) { if case .staticNAT(let entry) = $0 { entry } else { nil } }
      .sorted { ($0.insideVRF, $0.inside) < ($1.insideVRF, $1.inside) }
  }

  func destinationNAT() throws(Failure) -> [DestinationNATConfiguration] {
    try dump(.destinationNAT) { if case .destinationNAT(let entry) = $0 { entry } else { nil } }
      .sorted { $0.key.order < $1.key.order }
  }
}

extension ServiceKey {
  var order: (UInt32, IPAddress, UInt8, UInt16) { (vrf, address, proto, port) }
}

struct NATCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "nat", abstract: "Address translation: pools, rules, addresses that stand for others.",
    discussion: """
      Services have a command of their own, `weft service`. What a flow was translated to stands in `weft flow`. New \
      flows that found a pool without a free port drop as nat_exhausted.
      """,
    subcommands: [Pools.self, Source.self, Static.self, Destination.self], defaultSubcommand: Pools.self)

  struct Pools: ParsableCommand {
    static let configuration = CommandConfiguration(
      abstract: "Pools of source NAT (the default).",
      discussion: """
        Workers take ports in blocks of one protocol. TCP, UDP, SCTP and ICMP are the blocks that they have, BLOCKS is \
        how many there are for each.
        """)

    @OptionGroup var options: ForwarderOptions

    func run() throws {
      typealias Row = (configuration: NATPoolConfiguration, state: NATPoolState)
      func taken(_ row: Row, _ index: Int) -> Value {
        row.state.taken.indices.contains(index) ? .number(row.state.taken[index]) : .nothing
      }
      let columns: [Column<Row>] = [
        Column("ID") { .number($0.configuration.id) },
        Column("name") { $0.configuration.name.isEmpty ? .nothing : .text($0.configuration.name) },
        Column("VRF") { .number($0.configuration.vrf) },
        Column("first") { .described($0.configuration.first) },
        Column("last") { .described($0.configuration.last) },
        .shown("ports") { .text("\($0.configuration.firstPort)-\($0.configuration.lastPort)") },
        .keyed("first-port") { .number($0.configuration.firstPort) },
        .keyed("last-port") { .number($0.configuration.lastPort) },
        Column("block ports") { .number($0.configuration.blockPorts) },
        Column("blocks") { .number($0.state.blocks) },
        Column("TCP") { taken($0, 0) },
        Column("UDP") { taken($0, 1) },
        Column("SCTP") { taken($0, 2) },
        Column("ICMP") { taken($0, 3) },
      ]
      try options.print(Table(columns: columns, rows: try options.connect().natPools()))
    }
  }

  struct Source: ParsableCommand {
    static let configuration = CommandConfiguration(
      abstract: "Rules of source NAT, in the order in which they are looked at.",
      discussion: "The first rule of a VRF that fits a new flow decides. One without a pool leaves the flow as it is.")

    @OptionGroup var options: ForwarderOptions

    func run() throws {
      let columns: [Column<SourceNATConfiguration>] = [
        Column("VRF") { .number($0.vrf) },
        Column("priority") { .number($0.priority) },
        Column("ID") { .number($0.id) },
        Column("source") { .described($0.source) },
        Column("destination") { $0.destination.map { .described($0) } ?? .nothing },
        Column("egress") { $0.egress.map { .number($0) } ?? .nothing },
        Column("pool") { $0.pool.map { .number($0) } ?? .nothing },
      ]
      try options.print(Table(columns: columns, rows: try options.connect().sourceNAT()))
    }
  }

  struct Static: ParsableCommand {
    static let configuration = CommandConfiguration(
      abstract: "Outside addresses that stand for inside ones (floating IPs).")

    @OptionGroup var options: ForwarderOptions

    func run() throws {
      let columns: [Column<StaticNATConfiguration>] = [
        Column("inside VRF") { .number($0.insideVRF) },
        Column("inside") { .described($0.inside) },
        Column("outside VRF") { .number($0.outsideVRF) },
        Column("outside") { .described($0.outside) },
      ]
      try options.print(Table(columns: columns, rows: try options.connect().staticNAT()))
    }
  }

  struct Destination: ParsableCommand {
    static let configuration = CommandConfiguration(abstract: "Addresses and ports that stand for others.")

    @OptionGroup var options: ForwarderOptions

    func run() throws {
      let columns: [Column<DestinationNATConfiguration>] = [
        Column("VRF") { .number($0.key.vrf) },
        Column("address") { .described($0.key.address) },
        .shown("protocol") { .described(TransportProtocol(number: $0.key.proto)) },
        .keyed("protocol") { .number($0.key.proto) },
        Column("port") { .number($0.key.port) },
        Column("target VRF") { .number($0.targetVRF) },
        Column("target") { .described($0.target) },
        Column("target port") { $0.targetPort == 0 ? .nothing : .number($0.targetPort) },
      ]
      try options.print(Table(columns: columns, rows: try options.connect().destinationNAT()))
    }
  }
}
