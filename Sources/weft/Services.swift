import ArgumentParser
import WeftRing
import WeftWire

extension Forwarder {
  func services() throws(Failure) -> [ServiceConfiguration] {
    try dump(.services) { if case .service(let entry) = $0 { entry } else { nil } }
      .sorted { $0.key.order < $1.key.order }
  }

  func backends() throws(Failure) -> [BackendConfiguration] {
    try dump(.backends) { if case .backend(let entry) = $0 { entry } else { nil } }
      .sorted { a, b in
        if a.service != b.service { return a.service.order < b.service.order }
        return (a.vrf, a.address, a.port) < (b.vrf, b.address, b.port)
      }
  }
}

struct ServicesCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "service", abstract: "Services: addresses and ports behind which there are backends.",
    discussion: """
      ACTIVE backends get new flows, the others are draining, have weight 0 or are not of this node where the service \
      takes only those. New flows to a service without any drop as service_no_backend.
      """,
    subcommands: [Show.self, Backends.self], defaultSubcommand: Show.self)

  struct Show: ParsableCommand {
    static let configuration = CommandConfiguration(abstract: "List services (the default).")

    @Option(name: .long, help: ArgumentHelp("Only services of this VRF, by number or name.", valueName: "vrf"))
    var vrf: String?

    @OptionGroup var options: ForwarderOptions

    func run() throws {
      let forwarder = try options.connect()
      var rows = try forwarder.services()
      if let vrf {
        let id = try forwarder.vrf(vrf)
        rows.removeAll { $0.key.vrf != id }
      }
      var all: [ServiceKey: Int] = [:]
      var active: [ServiceKey: Int] = [:]
      let localOnly = Set(rows.filter { $0.flags.contains(.localOnly) }.map(\.key))
      for backend in try forwarder.backends() {
        all[backend.service, default: 0] += 1
        if backend.isActive(localOnly: localOnly.contains(backend.service)) { active[backend.service, default: 0] += 1 }
      }
      let columns: [Column<ServiceConfiguration>] = [
        Column("VRF") { .number($0.key.vrf) },
        Column("address") { .described($0.key.address) },
        .shown("protocol") { .described(TransportProtocol(number: $0.key.proto)) },
        .keyed("protocol") { .number($0.key.proto) },
        Column("port") { .number($0.key.port) },
        Column("name") { $0.name.isEmpty ? .nothing : .text($0.name) },
        Column("backends") { .number(all[$0.key] ?? 0) },
        Column("active") { .number(active[$0.key] ?? 0) },
        Column("affinity") { $0.affinitySeconds == 0 ? .nothing : .number($0.affinitySeconds) },
        Column("local only") { .flag($0.flags.contains(.localOnly)) },
        Column("pool") { $0.pool.map { .number($0) } ?? .nothing },
        .keyed("hairpin") { $0.hairpin.map { .described($0) } ?? .nothing },
      ]
      try options.print(Table(columns: columns, rows: rows))
    }
  }

  struct Backends: ParsableCommand {
    static let configuration = CommandConfiguration(abstract: "List the backends of services.")

    @Option(name: .long, help: ArgumentHelp("Only of services at this address.", valueName: "address"))
    var address: IPAddress?

    @OptionGroup var options: ForwarderOptions

    func run() throws {
      let forwarder = try options.connect()
      var rows = try forwarder.backends()
      if let address { rows.removeAll { $0.service.address != address } }
      let columns: [Column<BackendConfiguration>] = [
        .keyed("service-vrf") { .number($0.service.vrf) },
        .shown("service") { .described($0.service) },
        .keyed("service-address") { .described($0.service.address) },
        .keyed("service-protocol") { .number($0.service.proto) },
        .keyed("service-port") { .number($0.service.port) },
        Column("VRF") { .number($0.vrf) },
        Column("address") { .described($0.address) },
        Column("port") { .number($0.port == 0 ? $0.service.port : $0.port) },
        Column("weight") { .number($0.weight) },
        Column("local") { .flag($0.flags.contains(.local)) },
        Column("draining") { .flag($0.flags.contains(.draining)) },
      ]
      try options.print(Table(columns: columns, rows: rows))
    }
  }
}

extension BackendConfiguration {
  /// It gets new flows.
  fileprivate func isActive(localOnly: Bool) -> Bool {
    weight > 0 && !flags.contains(.draining) && (flags.contains(.local) || !localOnly)
  }
}
