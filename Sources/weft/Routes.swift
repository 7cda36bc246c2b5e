import ArgumentParser
import WeftRing
import WeftWire

private func routeColumns(_ names: NexthopNames) -> [Column<RouteConfiguration>] {
  [
    Column("VRF") { .number($0.vrf) },
    Column("prefix") { .described($0.prefix) },
    Column("nexthop") { .number($0.nexthop) },
    Column("label") { $0.label == 0 ? .nothing : .number($0.label) },
    Column("action") { names.action(of: $0.nexthop) },
    Column("via") { names.via($0.nexthop) },
  ]
}

struct RoutesCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "route", abstract: "IPv4 and IPv6 routes.",
    discussion: "LABEL is the VNI or MPLS label that a packet gets on its way into a tunnel.",
    subcommands: [Show.self, Get.self], defaultSubcommand: Show.self)

  struct Show: ParsableCommand {
    static let configuration = CommandConfiguration(abstract: "List routes (the default).")

    @Option(name: .long, help: ArgumentHelp("Only routes of this VRF, by number or name.", valueName: "vrf"))
    var vrf: String?

    @OptionGroup var options: ForwarderOptions

    func run() throws {
      let forwarder = try options.connect()
      var rows = try forwarder.routes()
      if let vrf {
        let id = try forwarder.vrf(vrf)
        rows.removeAll { $0.vrf != id }
      }
      try options.print(Table(columns: routeColumns(try NexthopNames(forwarder)), rows: rows))
    }
  }

  struct Get: ParsableCommand {
    static let configuration = CommandConfiguration(
      abstract: "The route that packets to an address take: the longest prefix that holds it.")

    @Argument(help: "An IPv4 or IPv6 address.")
    var address: IPAddress

    @Option(name: .long, help: ArgumentHelp("In this VRF, by number or name.", valueName: "vrf"))
    var vrf: String

    @OptionGroup var options: ForwarderOptions

    func run() throws {
      let forwarder = try options.connect()
      let id = try forwarder.vrf(vrf)
      let best = try forwarder.routes().filter { $0.vrf == id && $0.prefix.contains(address) }
        .max { $0.prefix.length < $1.prefix.length }
      guard let best else {
        throw Failure("no route to \(address) in VRF \(vrf): packets to it drop as no_route")
      }
      try options.print(Table(columns: routeColumns(try NexthopNames(forwarder)), rows: [best]))
    }
  }
}
