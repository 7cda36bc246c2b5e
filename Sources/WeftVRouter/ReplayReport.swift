import FoundationEssentials
import WeftRing

/// What a replay says of itself: report.json.
struct ReplayReport: Encodable {
  struct Port: Encodable {
    let rxPackets, rxBytes, txPackets, txBytes, drops: UInt64
    /// Left to the agent; nil where nothing was.
    let trapped: UInt64?

    enum CodingKeys: String, CodingKey {
      case rxPackets = "rx-packets"
      case rxBytes = "rx-bytes"
      case txPackets = "tx-packets"
      case txBytes = "tx-bytes"
      case drops, trapped
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

  struct FlowNotice: Encodable {
    let event: String
    let reason: String?
    let vrf: UInt32
    let source, destination: String
    let proto: UInt8
    let sourcePort, destinationPort: UInt16
    /// What answers come with, where that is not the same reversed.
    let answers: Answers?
    let packets, bytes, reversePackets, reverseBytes, firstSeen, lastSeen: UInt64
    let action: String
    let rule: UInt32?
    let missed: UInt32?

    struct Answers: Encodable {
      let vrf: UInt32
      let source, destination: String
      let sourcePort, destinationPort: UInt16

      enum CodingKeys: String, CodingKey {
        case vrf, source, destination
        case sourcePort = "source-port"
        case destinationPort = "destination-port"
      }
    }

    init(_ report: FlowReport) {
      let (forward, reverse) = (report.forward, report.reverse)
      event = report.kind.name
      reason = report.kind == .ended ? report.endReason.name : nil
      vrf = forward.vrf
      source = forward.source.description
      destination = forward.destination.description
      proto = report.proto
      sourcePort = forward.sourcePort
      destinationPort = forward.destinationPort
      let isReversed =
        reverse
        == FlowTuple(
          vrf: forward.vrf, source: forward.destination, destination: forward.source,
          sourcePort: forward.destinationPort, destinationPort: forward.sourcePort)
      answers =
        isReversed
        ? nil
        : Answers(
          vrf: reverse.vrf, source: reverse.source.description, destination: reverse.destination.description,
          sourcePort: reverse.sourcePort, destinationPort: reverse.destinationPort)
      packets = report.packets
      bytes = report.bytes
      reversePackets = report.reversePackets
      reverseBytes = report.reverseBytes
      firstSeen = report.firstSeen
      lastSeen = report.lastSeen
      action = report.action.name
      rule = report.rule
      missed = report.missed == 0 ? nil : report.missed
    }

    enum CodingKeys: String, CodingKey {
      case event, reason, vrf, source, destination, answers, packets, bytes, action, rule, missed
      case proto = "protocol"
      case sourcePort = "source-port"
      case destinationPort = "destination-port"
      case reversePackets = "reverse-packets"
      case reverseBytes = "reverse-bytes"
      case firstSeen = "first-seen"
      case lastSeen = "last-seen"
    }
  }

  /// What a worker shared with others.
  struct Worker: Encodable {
    let worker: Int
    let handedOver: UInt64
    let redirects: Int

    enum CodingKeys: String, CodingKey {
      case worker
      case handedOver = "handed-over"
      case redirects
    }
  }

  /// A learned MAC address.
  struct Station: Encodable {
    let vrf: UInt32
    let mac: String
    let nexthop, label, idle, moves: UInt32
    let damped: Bool

    init(_ entry: BridgeConfiguration, _ state: BridgeState) {
      vrf = entry.vrf
      mac = entry.mac.description
      nexthop = entry.nexthop
      label = entry.label
      idle = state.idleSeconds
      moves = state.moves
      damped = state.isDamped
    }
  }

  /// What an agent would have been told.
  struct Occurrence: Encodable {
    let event: String
    var vrf, interface, nexthop, label: UInt32?
    var mac, address: String?
    /// trap: the frame in hexadecimal.
    var frame: String?

    init(_ event: Event) {
      switch event {
      case .station(let change, let entry):
        self.event = change.name
        vrf = entry.vrf
        mac = entry.mac.description
        nexthop = entry.nexthop
        label = entry.label
      case .resolve(let interface, let vrf, let address):
        self.event = "resolve"
        self.vrf = vrf
        self.interface = interface
        self.address = address.description
      case .lost: self.event = "lost"
      case .interfaceState: self.event = "interface-state"
      case .trap(let interface, let vrf, let frame):
        self.event = "trap"
        self.interface = interface
        self.vrf = vrf
        self.frame = frame.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
      case .flow: self.event = "flow"
      }
    }
  }

  struct Policer: Encodable {
    let id: UInt32
    let conformingPackets, conformingBytes, exceedingPackets, exceedingBytes: UInt64
    let violatingPackets, violatingBytes: UInt64

    init(_ id: UInt32, _ state: PolicerState) {
      self.id = id
      conformingPackets = state.conformingPackets
      conformingBytes = state.conformingBytes
      exceedingPackets = state.exceedingPackets
      exceedingBytes = state.exceedingBytes
      violatingPackets = state.violatingPackets
      violatingBytes = state.violatingBytes
    }

    enum CodingKeys: String, CodingKey {
      case id
      case conformingPackets = "conforming-packets"
      case conformingBytes = "conforming-bytes"
      case exceedingPackets = "exceeding-packets"
      case exceedingBytes = "exceeding-bytes"
      case violatingPackets = "violating-packets"
      case violatingBytes = "violating-bytes"
    }
  }

  struct Mirror: Encodable {
    let packets, bytes, shortened, lost: UInt64

    init(_ state: MirrorState) {
      packets = state.packets
      bytes = state.bytes
      shortened = state.shortened
      lost = state.lost
    }
  }

  let ports: [String: Port]
  /// Reasons that occurred.
  let drops: [String: UInt64]
  let flows: [Flow]
  /// Packets that the router made about those it dropped, if it did.
  let made: UInt64?
  /// Left out where there are none.
  let policers: [Policer]?
  /// Left out where there is but one.
  let workers: [Worker]?
  /// Learned MAC addresses at the end, and what happened on the way, where something was learned or asked for.
  let learned: [Station]?
  let events: [Occurrence]?
  /// By number, where there are mirrors.
  let mirrors: [String: Mirror]?
  /// What is told of flows, in order; left out where that is nothing.
  let flowEvents: [FlowNotice]?

  enum CodingKeys: String, CodingKey {
    case ports, drops, flows, made, policers, workers, learned, events, mirrors
    case flowEvents = "flow-events"
  }

  init(
    ports: [String: StatisticsReader.Interface], drops: [StatisticsReader.Drop], flows: [FlowRecord], made: UInt64,
    sharing: [(given: UInt64, redirects: Int)], stations: [Station], events: [Occurrence],
    policers: [Policer], mirrors: [UInt32: MirrorState], flowEvents: [FlowReport]
  ) {
    self.flowEvents = flowEvents.isEmpty ? nil : flowEvents.map(FlowNotice.init)
    self.policers = policers.isEmpty ? nil : policers
    self.mirrors =
      mirrors.isEmpty
      ? nil : Dictionary(uniqueKeysWithValues: mirrors.map { (String($0.key), Mirror($0.value)) })
    workers =
      sharing.count == 1
      ? nil
      : sharing.enumerated().map {
        Worker(worker: $0.offset, handedOver: $0.element.given, redirects: $0.element.redirects)
      }
    self.made = made == 0 ? nil : made
    learned = stations.isEmpty ? nil : stations.sorted { ($0.vrf, $0.mac) < ($1.vrf, $1.mac) }
    self.events = events.isEmpty ? nil : events
    self.ports = ports.mapValues {
      Port(
        rxPackets: $0.rxPackets, rxBytes: $0.rxBytes, txPackets: $0.txPackets, txBytes: $0.txBytes, drops: $0.drops,
        trapped: $0.trapped == 0 ? nil : $0.trapped)
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
