import ArgumentParser
import WeftRing
import WeftWire

/// What every command takes.
struct ForwarderOptions: ParsableArguments {
  @Option(name: .long, help: ArgumentHelp("The forwarder's socket.", valueName: "path"))
  var socket = "/run/weft/forwarder.sock"

  @Flag(name: .long, help: "Print JSON.")
  var json = false

  func connect() throws(Failure) -> Forwarder {
    do throws(RingError) {
      return Forwarder(ring: try RingClient.connect(path: socket, role: .observer), path: socket)
    } catch {
      throw Failure("\(error)")
    }
  }

  func print<Row>(_ table: Table<Row>) throws(Failure) {
    try Output.write(json ? table.json : table.text)
  }
}

/// A forwarder to read from.
struct Forwarder {
  let ring: RingClient
  let path: String

  func interfaces() throws(Failure) -> [(configuration: InterfaceConfiguration, state: InterfaceState)] {
    try dump(.interfaces) { if case .interface(let entry, let state) = $0 { (entry, state) } else { nil } }
      .sorted { $0.configuration.id < $1.configuration.id }
  }

  func vrfs() throws(Failure) -> [VRFConfiguration] {
    try dump(.vrfs) { if case .vrf(let entry) = $0 { entry } else { nil } }.sorted { $0.id < $1.id }
  }

  func nexthops() throws(Failure) -> [NexthopConfiguration] {
    try dump(.nexthops) { if case .nexthop(let entry) = $0 { entry } else { nil } }.sorted { $0.id < $1.id }
  }

  func labels() throws(Failure) -> [LabelConfiguration] {
    try dump(.labels) { if case .label(let entry) = $0 { entry } else { nil } }.sorted { $0.label < $1.label }
  }

  func vnis() throws(Failure) -> [VNIConfiguration] {
    try dump(.vnis) { if case .vni(let entry) = $0 { entry } else { nil } }.sorted { $0.vni < $1.vni }
  }

  /// By VRF, then IPv4 before IPv6, then address, then length.
  func routes() throws(Failure) -> [RouteConfiguration] {
    try dump(.routes) { if case .route(let entry) = $0 { entry } else { nil } }.sorted { a, b in
      if a.vrf != b.vrf { return a.vrf < b.vrf }
      if a.prefix.isV4 != b.prefix.isV4 { return a.prefix.isV4 }
      return (a.prefix.address, a.prefix.length) < (b.prefix.address, b.prefix.length)
    }
  }

  func bridge() throws(Failure) -> [(entry: BridgeConfiguration, state: BridgeState)] {
    try dump(.bridge) { if case .bridge(let entry, let state) = $0 { (entry, state) } else { nil } }
      .sorted { ($0.entry.vrf, $0.entry.mac.bits) < ($1.entry.vrf, $1.entry.mac.bits) }
  }

  func neighbors() throws(Failure) -> [NeighborConfiguration] {
    try dump(.neighbors) { if case .neighbor(let entry) = $0 { entry } else { nil } }
      .sorted { ($0.vrf, $0.address) < ($1.vrf, $1.address) }
  }

  func flows() throws(Failure) -> [FlowRecord] {
    try dump(.flows) { if case .flow(let entry) = $0 { entry } else { nil } }.sorted { a, b in
      if a.vrf != b.vrf { return a.vrf < b.vrf }
      if a.source != b.source { return a.source < b.source }
      if a.destination != b.destination { return a.destination < b.destination }
      return (a.proto, a.sourcePort, a.destinationPort) < (b.proto, b.sourcePort, b.destinationPort)
    }
  }

  /// The VRF that a person means: by number or by name.
  func vrf(_ text: String) throws(Failure) -> UInt32 {
    let known = try vrfs()
    if let id = UInt32(text), known.contains(where: { $0.id == id }) { return id }
    guard let named = known.first(where: { $0.name == text }) else {
      throw Failure("no VRF \"\(text)\" in the forwarder at \(path); `weft vrf` lists those there are")
    }
    return named.id
  }

  func dump<Entry>(_ table: TableName, _ take: (TableEntry) -> Entry?) throws(Failure) -> [Entry] {
    do throws(RingError) {
      return try ring.dump(table).compactMap(take)
    } catch {
      throw Failure("cannot read the \(table) table: \(error)")
    }
  }
}
