import ArgumentParser
import WeftRing
import WeftWire

/// Nexthops by number, to say in words where an entry leads.
struct NexthopNames {
  private let nexthops: [UInt32: NexthopConfiguration]
  private let devices: [UInt32: String]
  private let vrfs: [UInt32: String]

  init(_ forwarder: Forwarder) throws(Failure) {
    nexthops = Dictionary(try forwarder.nexthops().map { ($0.id, $0) }, uniquingKeysWith: { _, last in last })
    devices = Dictionary(
      try forwarder.interfaces().map { ($0.configuration.id, $0.configuration.device) },
      uniquingKeysWith: { _, last in last })
    vrfs = Dictionary(try forwarder.vrfs().map { ($0.id, $0.name) }, uniquingKeysWith: { _, last in last })
  }

  func action(of nexthop: UInt32) -> Value { nexthops[nexthop].map { .text($0.action.name) } ?? .nothing }

  /// "weft0123456789a 02:00:00:00:02:01", "vxlan 192.0.2.1 -> 192.0.2.2", "vrf blue".
  func via(_ nexthop: UInt32) -> Value {
    guard let action = nexthops[nexthop]?.action else { return .text("nexthop \(nexthop) is gone") }
    switch action {
    case .discard, .receive: return .text(action.name)
    case .encap(let interface, let mac): return .text("\(device(interface)) \(mac)")
    case .tunnel(let tunnel):
      let state = tunnel.destinationMAC.isZero ? " (unresolved)" : ""
      return .text("\(tunnel.encapsulation.name) \(tunnel.source) -> \(tunnel.destination)\(state)")
    case .vrfTranslate(let vrf): return .text("vrf \(vrfs[vrf] ?? String(vrf))")
    case .ecmp(let members): return .text("ecmp \(members.map { String($0.nexthop) }.joined(separator: " "))")
    case .receiveAt(let interface): return .text("host \(device(interface))")
    case .multicast(let members):
      return .text("multicast \(members.map { String($0.nexthop) }.joined(separator: " "))")
    case .resolve(let interface): return .text("resolve \(device(interface))")
    case .l2Receive(let vrf): return .text("l2 of vrf \(vrfs[vrf] ?? String(vrf))")
    case .l3Receive(let vrf): return .text("l3 of vrf \(vrfs[vrf] ?? String(vrf))")
    }
  }

  func device(_ interface: UInt32) -> String { devices[interface] ?? "vif \(interface)" }
}

extension NexthopConfiguration.Action {
  /// As in TABLES.json.
  var name: String {
    switch self {
    case .discard: "discard"
    case .receive, .receiveAt: "receive"
    case .encap: "encap"
    case .tunnel: "tunnel"
    case .vrfTranslate: "vrf-translate"
    case .ecmp: "ecmp"
    case .multicast: "multicast"
    case .resolve: "resolve"
    case .l2Receive: "l2-receive"
    case .l3Receive: "l3-receive"
    }
  }

  fileprivate var members: Value {
    switch self {
    case .ecmp(let members):
      .list(
        members.map {
          .object([
            .init(key: "nexthop", value: .number($0.nexthop)), .init(key: "label", value: .number($0.label)),
            .init(key: "weight", value: .number($0.weight)),
          ])
        })
    case .multicast(let members):
      .list(
        members.map {
          .object([
            .init(key: "nexthop", value: .number($0.nexthop)), .init(key: "label", value: .number($0.label)),
            .init(key: "group", value: .number($0.group)),
          ])
        })
    default: .nothing
    }
  }

  fileprivate var tunnel: TunnelConfiguration? {
    if case .tunnel(let tunnel) = self { tunnel } else { nil }
  }

  fileprivate var interface: UInt32? {
    switch self {
    case .encap(let interface, _), .receiveAt(let interface), .resolve(let interface): interface
    case .tunnel(let tunnel): tunnel.interface
    default: nil
    }
  }

  /// nil also while a tunnel's next underlay hop is not resolved.
  fileprivate var destinationMAC: MACAddress? {
    switch self {
    case .encap(_, let mac): mac
    case .tunnel(let tunnel): tunnel.destinationMAC.isZero ? nil : tunnel.destinationMAC
    default: nil
    }
  }
}

struct NexthopsCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "nexthop", abstract: "Nexthops: what is done with a packet.",
    discussion: "A tunnel is unresolved while the MAC of its next underlay hop is not known: its packets are dropped.")

  @OptionGroup var options: ForwarderOptions

  func run() throws {
    let forwarder = try options.connect()
    let names = try NexthopNames(forwarder)
    let columns: [Column<NexthopConfiguration>] = [
      Column("ID") { .number($0.id) },
      Column("action") { .text($0.action.name) },
      .shown("via") { names.via($0.id) },
      .keyed("interface") { $0.action.interface.map { .number($0) } ?? .nothing },
      Column("device") { $0.action.interface.map { .text(names.device($0)) } ?? .nothing },
      Column("destination MAC") { $0.action.destinationMAC.map { .described($0) } ?? .nothing },
      .keyed("encapsulation") { $0.action.tunnel.map { .text($0.encapsulation.name) } ?? .nothing },
      .keyed("source") { $0.action.tunnel.map { .described($0.source) } ?? .nothing },
      .keyed("destination") { $0.action.tunnel.map { .described($0.destination) } ?? .nothing },
      Column("inner destination MAC") {
        guard let tunnel = $0.action.tunnel, tunnel.encapsulation == .vxlan else { return .nothing }
        return .described(tunnel.innerDestinationMAC)
      },
      .keyed("outer-dscp") { $0.action.tunnel?.outerDSCP.map(Value.number) ?? .nothing },
      .keyed("fragment") { $0.action.tunnel.map { .flag($0.fragments) } ?? .nothing },
      .keyed("vrf") {
        switch $0.action {
        case .vrfTranslate(let vrf), .l2Receive(let vrf), .l3Receive(let vrf): .number(vrf)
        default: .nothing
        }
      },
      .keyed("members") { $0.action.members },
    ]
    try options.print(Table(columns: columns, rows: try forwarder.nexthops()))
  }
}

struct LabelsCommand: ParsableCommand {
  static let configuration = CommandConfiguration(commandName: "label", abstract: "MPLS labels that end here.")

  @OptionGroup var options: ForwarderOptions

  func run() throws {
    let forwarder = try options.connect()
    let names = try NexthopNames(forwarder)
    let columns: [Column<LabelConfiguration>] = [
      Column("label") { .number($0.label) },
      Column("nexthop") { .number($0.nexthop) },
      Column("via") { names.via($0.nexthop) },
    ]
    try options.print(Table(columns: columns, rows: try forwarder.labels()))
  }
}

struct VNIsCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "vni", abstract: "VXLAN network identifiers that end here.")

  @OptionGroup var options: ForwarderOptions

  func run() throws {
    let forwarder = try options.connect()
    let names = try NexthopNames(forwarder)
    let columns: [Column<VNIConfiguration>] = [
      Column("VNI") { .number($0.vni) },
      Column("nexthop") { .number($0.nexthop) },
      Column("via") { names.via($0.nexthop) },
    ]
    try options.print(Table(columns: columns, rows: try forwarder.vnis()))
  }
}
