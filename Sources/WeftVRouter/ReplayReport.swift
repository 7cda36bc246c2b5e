import FoundationEssentials
import WeftRing

/// What a replay says of itself: report.json.
struct ReplayReport: Encodable {
  struct Port: Encodable {
    let rxPackets, rxBytes, txPackets, txBytes, drops: UInt64

    enum CodingKeys: String, CodingKey {
      case rxPackets = "rx-packets"
      case rxBytes = "rx-bytes"
      case txPackets = "tx-packets"
      case txBytes = "tx-bytes"
      case drops
    }
  }

  struct Flow: Encodable {
    let worker, vrf: UInt32
    let proto: UInt8
    let source: String
    let sourcePort: UInt16
    let destination: String
    let destinationPort: UInt16
    let direction: String
    let nexthop: UInt32
    let packets, bytes: UInt64

    enum CodingKeys: String, CodingKey {
      case worker, vrf
      case proto = "protocol"
      case source
      case sourcePort = "source-port"
      case destination
      case destinationPort = "destination-port"
      case direction, nexthop, packets, bytes
    }
  }

  struct Mirror: Encodable {
    let packets, bytes, shortened, lost: UInt64
  }

  let ports: [String: Port]
  /// Reasons that occurred.
  let drops: [String: UInt64]
  let flows: [Flow]
  /// Packets that the router made about those it dropped, if it did.
  let made: UInt64?
  /// By number, where there are mirrors.
  let mirrors: [String: Mirror]?

  init(
    ports: [String: StatisticsReader.Interface], drops: [StatisticsReader.Drop], flows: [FlowRecord], made: UInt64,
    mirrors: [UInt32: MirrorState]
  ) {
    self.made = made == 0 ? nil : made
    self.mirrors =
      mirrors.isEmpty
      ? nil
      : Dictionary(
        uniqueKeysWithValues: mirrors.map {
          (
            String($0.key),
            Mirror(packets: $0.value.packets, bytes: $0.value.bytes, shortened: $0.value.shortened, lost: $0.value.lost)
          )
        })
    self.ports = ports.mapValues {
      Port(
        rxPackets: $0.rxPackets, rxBytes: $0.rxBytes, txPackets: $0.txPackets, txBytes: $0.txBytes, drops: $0.drops)
    }
    self.drops = Dictionary(
      uniqueKeysWithValues: drops.filter { $0.count > 0 }.map { ($0.name, $0.count) })
    self.flows = flows.sorted { a, b in
      if a.vrf != b.vrf { return a.vrf < b.vrf }
      if a.source != b.source { return a.source < b.source }
      if a.destination != b.destination { return a.destination < b.destination }
      return (a.proto, a.sourcePort, a.destinationPort) < (b.proto, b.sourcePort, b.destinationPort)
    }.map {
      Flow(
        worker: $0.worker, vrf: $0.vrf, proto: $0.proto, source: $0.source.description, sourcePort: $0.sourcePort,
        destination: $0.destination.description, destinationPort: $0.destinationPort,
        direction: $0.isForward ? "forward" : "reverse", nexthop: $0.nexthop, packets: $0.packets, bytes: $0.bytes)
    }
  }

  /// The same input gives the same bytes.
  func json() throws -> Data {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
    return try encoder.encode(self) + Data([0x0A])
  }
}
