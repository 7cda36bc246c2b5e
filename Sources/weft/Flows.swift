import ArgumentParser
import WeftRing
import WeftWire

struct FlowsCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "flow", abstract: "Flows: each has a forward and a reverse entry.",
    discussion: """
      DIRECTION is forward for the way of the first packet. AGE is the time since the entry was made, IDLE since its \
      last packet. For ICMP echo both ports are the identifier; later fragments whose first one was not seen have none.
      """)

  @Option(name: .long, help: ArgumentHelp("Only flows of this VRF, by number or name.", valueName: "vrf"))
  var vrf: String?

  @Option(
    name: .long, help: ArgumentHelp("Only flows from or to this address or prefix.", valueName: "address[/length]"))
  var address: IPPrefix?

  @Option(name: .long, help: ArgumentHelp("Only flows with this port on either side.", valueName: "port"))
  var port: UInt16?

  @Option(
    name: .customLong("protocol"),
    help: ArgumentHelp("Only this protocol: tcp, udp, sctp, icmp, icmpv6 or a number.", valueName: "protocol"))
  var transport: TransportProtocol?

  @Flag(
    name: .long,
    help: ArgumentHelp(
      "Not those there are: tell of flows as they begin, go on and end, until Ctrl-C; with --json an object a line.",
      discussion: "Which flows the forwarder tells of is the agent's choice; without it, those that a rule logs."))
  var follow = false

  @OptionGroup var options: ForwarderOptions

  func run() throws {
    let forwarder = try options.connect()
    guard !follow else { return try self.follow(forwarder) }
    var rows = try forwarder.flows()
    if let vrf {
      let id = try forwarder.vrf(vrf)
      rows.removeAll { $0.vrf != id }
    }
    if let address { rows.removeAll { !address.contains($0.source) && !address.contains($0.destination) } }
    if let port { rows.removeAll { $0.sourcePort != port && $0.destinationPort != port } }
    if let transport { rows.removeAll { $0.proto != transport.number } }
    try options.print(Table(columns: Self.columns, rows: rows))
  }

  private func follow(_ forwarder: Forwarder) throws {
    let id = try vrf.map { try forwarder.vrf($0) }
    let follower = FlowFollower(ring: forwarder.ring, json: options.json) { flow in
      let ends = [flow.forward, flow.reverse]
      return (id == nil || ends.contains { $0.vrf == id })
        && (address.map { address in
          ends.contains { address.contains($0.source) || address.contains($0.destination) }
        } ?? true)
        && (port.map { port in ends.contains { $0.sourcePort == port || $0.destinationPort == port } } ?? true)
        && (transport.map { $0.number == flow.proto } ?? true)
    }
    try follower.run()
  }

  private static var columns: [Column<FlowRecord>] {
    [
      Column("worker") { .number($0.worker) },
      Column("VRF") { .number($0.vrf) },
      .shown("protocol") { .described(TransportProtocol(number: $0.proto)) },
      .keyed("protocol") { .number($0.proto) },
      Column("source") { .described($0.source) },
      Column("source port") { .number($0.sourcePort) },
      Column("destination") { .described($0.destination) },
      Column("destination port") { .number($0.destinationPort) },
      Column("direction") { .text($0.isForward ? "forward" : "reverse") },
      Column("nexthop") { .number($0.nexthop) },
      Column("packets") { .number($0.packets) },
      Column("bytes") { .number($0.bytes) },
      .shown("age") { .text(seconds($0.ageMilliseconds)) },
      .keyed("age-milliseconds") { .number($0.ageMilliseconds) },
      .shown("idle") { .text(seconds($0.idleMilliseconds)) },
      .keyed("idle-milliseconds") { .number($0.idleMilliseconds) },
    ]
  }
}

/// An IP protocol number (IANA), by its name where people know it by name.
struct TransportProtocol: ExpressibleByArgument, CustomStringConvertible {
  let number: UInt8

  private static let names: [(name: String, number: UInt8)] = [
    ("icmp", 1), ("tcp", 6), ("udp", 17), ("gre", 47), ("esp", 50), ("icmpv6", 58), ("sctp", 132),
  ]

  init(number: UInt8) { self.number = number }

  init?(argument: String) {
    guard let number = Self.names.first(where: { $0.name == argument.lowercased() })?.number ?? UInt8(argument) else {
      return nil
    }
    self.number = number
  }

  var description: String { Self.names.first { $0.number == number }?.name ?? String(number) }
}

/// "0.412s", "35s", "2m05s", "3h02m".
func seconds(_ milliseconds: UInt64) -> String {
  func padded(_ value: UInt64, to width: Int) -> String {
    let digits = String(value)
    return String(repeating: "0", count: max(0, width - digits.count)) + digits
  }
  let seconds = milliseconds / 1000
  switch seconds {
  case ..<10: return "\(seconds).\(padded(milliseconds % 1000, to: 3))s"
  case ..<60: return "\(seconds)s"
  case ..<3600: return "\(seconds / 60)m\(padded(seconds % 60, to: 2))s"
  default: return "\(seconds / 3600)h\(padded(seconds / 60 % 60, to: 2))m"
  }
}

extension IPAddress: ExpressibleByArgument {}
extension IPPrefix: ExpressibleByArgument {}
