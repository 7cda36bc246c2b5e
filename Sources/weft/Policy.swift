import ArgumentParser
import WeftRing
import WeftWire

struct PolicyCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "policy",
    abstract: "Rules that say which new flows may begin, and address sets.",
    discussion: """
      Rules are listed in the order in which they are asked: the first one that matches decides, and without a match \
      the flow is denied. They are about interfaces with the flag "policy" (`weft vif`): an ingress rule about what goes \
      to one, an egress rule about what comes from one; REMOTE is the other end. HITS counts the flows that a rule has \
      decided on.

      Examples:
        weft policy --direction ingress         rules about what goes to interfaces
        weft policy --sets                      address sets and how many prefixes each has
        weft policy --set pods                  the prefixes of a set, by number or name
      """)

  @Flag(name: .long, help: "Address sets instead of rules.")
  var sets = false

  @Option(name: .long, help: ArgumentHelp("The prefixes of this address set, by number or name.", valueName: "set"))
  var set: String?

  @Option(name: .long, help: "Only rules of this direction: ingress or egress.")
  var direction: RuleDirection?

  @Option(name: .long, help: ArgumentHelp("Only rules about interfaces with this tag.", valueName: "tag"))
  var tag: UInt32?

  @OptionGroup var options: ForwarderOptions

  func validate() throws {
    guard (sets ? 1 : 0) + (set == nil ? 0 : 1) + (direction == nil && tag == nil ? 0 : 1) <= 1 else {
      throw ValidationError("--sets, --set and a choice of rules (--direction, --tag) exclude each other")
    }
  }

  func run() throws {
    let forwarder = try options.connect()
    if sets { return try listSets(forwarder) }
    if let set { return try listMembers(of: set, forwarder) }
    var rows = try forwarder.rules()
    if let direction { rows.removeAll { $0.rule.direction != direction } }
    if let tag { rows.removeAll { $0.rule.tag != tag } }
    let setNames = Dictionary(
      try forwarder.addressSets().map { ($0.id, $0.name) }, uniquingKeysWith: { _, last in last })
    try options.print(Table(columns: Self.columns(setNames), rows: rows))
  }

  private typealias Row = (rule: RuleConfiguration, hits: UInt64)

  private static func columns(_ sets: [UInt32: String]) -> [Column<Row>] {
    [
      Column("ID") { .number($0.rule.id) },
      Column("priority") { .number($0.rule.priority) },
      Column("direction") { .text($0.rule.direction.name) },
      Column("action") { .text($0.rule.action.name) },
      Column("tag") { $0.rule.tag == 0 ? .nothing : .number($0.rule.tag) },
      Column("VRF") { $0.rule.vrf.map(Value.number) ?? .nothing },
      .shown("remote") { .list(remote($0.rule, sets).map(Value.text)) },
      .keyed("remote-sets") { $0.rule.remoteSets.isEmpty ? .nothing : .list($0.rule.remoteSets.map(Value.number)) },
      .keyed("remote-prefix") { $0.rule.remotePrefix.map(Value.described) ?? .nothing },
      .shown("local") { $0.rule.localPrefix.map(Value.described) ?? .nothing },
      .keyed("local-prefix") { $0.rule.localPrefix.map(Value.described) ?? .nothing },
      .shown("service") { service($0.rule).map(Value.text) ?? .nothing },
      .keyed("protocol") { $0.rule.proto.map(Value.number) ?? .nothing },
      .keyed("source-ports") { ports($0.rule.sourcePorts) },
      .keyed("destination-ports") { ports($0.rule.destinationPorts) },
      .keyed("icmp-type") { $0.rule.icmpType.map(Value.number) ?? .nothing },
      .keyed("icmp-code") { $0.rule.icmpCode.map(Value.number) ?? .nothing },
      .keyed("tcp-flags-mask") { $0.rule.tcpFlagsMask == 0 ? .nothing : .number($0.rule.tcpFlagsMask) },
      .keyed("tcp-flags-value") { $0.rule.tcpFlagsMask == 0 ? .nothing : .number($0.rule.tcpFlagsValue) },
      .shown("options") { .list(extras($0.rule).map(Value.text)) },
      .keyed("log") { .flag($0.rule.isLogged) },
      .keyed("mirror") { $0.rule.mirror == 0 ? .nothing : .number($0.rule.mirror) },
      .keyed("dscp") { $0.rule.dscp.map(Value.number) ?? .nothing },
      .keyed("policer") { $0.rule.policer.map(Value.number) ?? .nothing },
      Column("hits") { .number($0.hits) },
      Column("name") { .text($0.rule.name) },
    ]
  }

  private static func remote(_ rule: RuleConfiguration, _ sets: [UInt32: String]) -> [String] {
    rule.remoteSets.map { id in
      let name = sets[id] ?? ""
      return name.isEmpty ? "set \(id)" : name
    } + (rule.remotePrefix.map { [$0.description] } ?? [])
  }

  /// "tcp 80,8000-8999 from 1024-65535", "icmp 8/0", "udp", nil for anything.
  private static func service(_ rule: RuleConfiguration) -> String? {
    guard let proto = rule.proto else { return nil }
    var text = TransportProtocol(number: proto).description
    if !rule.destinationPorts.isEmpty { text += " " + rule.destinationPorts.map(text(of:)).joined(separator: ",") }
    if !rule.sourcePorts.isEmpty { text += " from " + rule.sourcePorts.map(text(of:)).joined(separator: ",") }
    if let type = rule.icmpType { text += " \(type)" + (rule.icmpCode.map { "/\($0)" } ?? "") }
    if rule.tcpFlagsMask != 0 { text += " flags \(rule.tcpFlagsValue)/\(rule.tcpFlagsMask)" }
    return text
  }

  private static func text(of range: ClosedRange<UInt16>) -> String {
    range.count == 1 ? "\(range.lowerBound)" : "\(range.lowerBound)-\(range.upperBound)"
  }

  private static func ports(_ ranges: [ClosedRange<UInt16>]) -> Value {
    ranges.isEmpty
      ? .nothing : .list(ranges.map { $0.count == 1 ? .number($0.lowerBound) : .text(text(of: $0)) })
  }

  private static func extras(_ rule: RuleConfiguration) -> [String] {
    (rule.isLogged ? ["log"] : []) + (rule.mirror == 0 ? [] : ["mirror \(rule.mirror)"])
      + (rule.dscp.map { ["dscp \($0)"] } ?? []) + (rule.policer.map { ["policer \($0)"] } ?? [])
  }

  private func listSets(_ forwarder: Forwarder) throws {
    var members: [UInt32: Int] = [:]
    for member in try forwarder.addressSetMembers() { members[member.set, default: 0] += 1 }
    var rules: [UInt32: Int] = [:]
    for row in try forwarder.rules() { for set in Set(row.rule.remoteSets) { rules[set, default: 0] += 1 } }
    let columns: [Column<AddressSetConfiguration>] = [
      Column("ID") { .number($0.id) },
      Column("name") { .text($0.name) },
      Column("prefixes") { .number(members[$0.id] ?? 0) },
      Column("rules") { .number(rules[$0.id] ?? 0) },
    ]
    try options.print(Table(columns: columns, rows: try forwarder.addressSets()))
  }

  private func listMembers(of text: String, _ forwarder: Forwarder) throws {
    let sets = try forwarder.addressSets()
    guard let set = sets.first(where: { String($0.id) == text }) ?? sets.first(where: { $0.name == text }) else {
      throw Failure(
        "no address set \"\(text)\" in the forwarder at \(options.socket); `weft policy --sets` lists those there are")
    }
    let columns: [Column<AddressSetMember>] = [
      Column("prefix") { .described($0.prefix) },
      Column("excluded") { .flag($0.isExcluded) },
    ]
    try options.print(Table(columns: columns, rows: try forwarder.addressSetMembers().filter { $0.set == set.id }))
  }
}

extension Forwarder {
  /// In the order in which they are asked.
  func rules() throws(Failure) -> [(rule: RuleConfiguration, hits: UInt64)] {
    try dump(.rules) { if case .rule(let rule, let hits) = $0 { (rule, hits) } else { nil } }
      .sorted {
        ($0.rule.direction.rawValue, $0.rule.priority, $0.rule.id)
          < ($1.rule.direction.rawValue, $1.rule.priority, $1.rule.id)
      }
  }

  func addressSets() throws(Failure) -> [AddressSetConfiguration] {
    try dump(.addressSets) { if case .addressSet(let entry) = $0 { entry } else { nil } }.sorted { $0.id < $1.id }
  }

  /// By set, then IPv4 before IPv6, then address, then length.
  func addressSetMembers() throws(Failure) -> [AddressSetMember] {
    try dump(.addressSetMembers) { if case .addressSetMember(let entry) = $0 { entry } else { nil } }.sorted { a, b in
      if a.set != b.set { return a.set < b.set }
      if a.prefix.isV4 != b.prefix.isV4 { return a.prefix.isV4 }
      return (a.prefix.address, a.prefix.length) < (b.prefix.address, b.prefix.length)
    }
  }
}

extension RuleDirection: ExpressibleByArgument {
  public init?(argument: String) {
    guard let direction = Self.allCases.first(where: { $0.name == argument }) else { return nil }
    self = direction
  }

  public static var allValueStrings: [String] { allCases.map(\.name) }
}
