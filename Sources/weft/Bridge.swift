import ArgumentParser
import WeftRing
import WeftWire

struct BridgeCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "bridge", abstract: "MAC addresses and where they are.",
    discussion: """
      ORIGIN says where an entry is from: set by the agent, learned from packets, or damped: learned, and it has moved so \
      often that it stays where it is for now. IDLE is seconds since a learned one was heard of, MOVES how often it has \
      moved. The address ff:ff:ff:ff:ff:ff is what broadcasts do.
      """)

  @Option(name: .long, help: ArgumentHelp("Only entries of this VRF, by number or name.", valueName: "vrf"))
  var vrf: String?

  @Flag(name: .long, help: "Only what was learned.")
  var learned = false

  @OptionGroup var options: ForwarderOptions

  func run() throws {
    let forwarder = try options.connect()
    var rows = try forwarder.bridge()
    if let vrf {
      let id = try forwarder.vrf(vrf)
      rows.removeAll { $0.entry.vrf != id }
    }
    if learned { rows.removeAll { !$0.state.isLearned } }
    let names = try NexthopNames(forwarder)
    let columns: [Column<(entry: BridgeConfiguration, state: BridgeState)>] = [
      Column("VRF") { .number($0.entry.vrf) },
      Column("MAC") { .described($0.entry.mac) },
      Column("nexthop") { .number($0.entry.nexthop) },
      Column("label") { $0.entry.label == 0 ? .nothing : .number($0.entry.label) },
      Column("action") { names.action(of: $0.entry.nexthop) },
      Column("via") { names.via($0.entry.nexthop) },
      Column("origin") { .text($0.state.isDamped ? "damped" : $0.state.isLearned ? "learned" : "set") },
      Column("idle") { $0.state.isLearned ? .number($0.state.idleSeconds) : .nothing },
      Column("moves") { $0.state.isLearned ? .number($0.state.moves) : .nothing },
    ]
    try options.print(Table(columns: columns, rows: rows))
  }
}

struct NeighborsCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "neighbor", abstract: "Whose MAC addresses IP addresses have.",
    discussion: "With these ARP requests and neighbour solicitations are answered in VRFs with the flag suppression.")

  @Option(name: .long, help: ArgumentHelp("Only those of this VRF, by number or name.", valueName: "vrf"))
  var vrf: String?

  @OptionGroup var options: ForwarderOptions

  func run() throws {
    let forwarder = try options.connect()
    var rows = try forwarder.neighbors()
    if let vrf {
      let id = try forwarder.vrf(vrf)
      rows.removeAll { $0.vrf != id }
    }
    let columns: [Column<NeighborConfiguration>] = [
      Column("VRF") { .number($0.vrf) },
      Column("address") { .described($0.address) },
      Column("MAC") { .described($0.mac) },
    ]
    try options.print(Table(columns: columns, rows: rows))
  }
}
