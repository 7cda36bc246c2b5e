import WeftWire

// Export of flows: which are told of, and what is told.

/// Which flows the forwarder tells the agent of (`Event.flow`), and how often.
public struct FlowExportConfiguration: Hashable, Sendable {
  public enum Selection: UInt8, Sendable, CaseIterable {
    /// Flows that a rule logs.
    case logged = 1
    /// Those, and of all others one of `sample`.
    case all = 2

    public var name: String {
      switch self {
      case .logged: "logged"
      case .all: "all"
      }
    }
  }

  public static let maximumSample: UInt32 = (1 << 28) - 1
  public static let maximumRate: UInt32 = 1_000_000
  public static let maximumUpdateSeconds: UInt32 = 65_535

  public var selection: Selection
  /// Which flows it is, their keys decide: a flow is told of from its beginning to its end, or never.
  public var sample: UInt32
  /// Most events a second, of all workers together; 0 for none at all. What is not told of for this is counted in the next
  /// event.
  public var rate: UInt32
  /// How often flows that go on are told of, those that had packets since; 0 for never.
  public var updateSeconds: UInt32

  /// What holds as long as nothing is set.
  public init(selection: Selection = .logged, sample: UInt32 = 1, rate: UInt32 = 1000, updateSeconds: UInt32 = 60) {
    self.selection = selection
    self.sample = sample
    self.rate = rate
    self.updateSeconds = updateSeconds
  }
}

/// One end of a flow's packets, as they come in.
public struct FlowTuple: Hashable, Sendable {
  public var vrf: UInt32
  public var source: IPAddress
  public var destination: IPAddress
  /// 0 where the protocol has none; ICMP echo: the identifier in both.
  public var sourcePort: UInt16
  public var destinationPort: UInt16

  public init(vrf: UInt32, source: IPAddress, destination: IPAddress, sourcePort: UInt16, destinationPort: UInt16) {
    self.vrf = vrf
    self.source = source
    self.destination = destination
    self.sourcePort = sourcePort
    self.destinationPort = destinationPort
  }
}

/// What has become of a flow.
public struct FlowReport: Hashable, Sendable {
  public enum Kind: UInt8, Sendable, CaseIterable {
    case started = 1
    /// It goes on, or policy says something else of it.
    case updated
    case ended

    public var name: String {
      switch self {
      case .started: "started"
      case .updated: "updated"
      case .ended: "ended"
      }
    }
  }

  /// Why it ended.
  public enum EndReason: UInt8, Sendable, CaseIterable {
    /// It has not.
    case none = 0
    /// Idle for too long.
    case aged
    /// TCP: both sides have sent FIN.
    case closed
    /// TCP: one side has sent RST.
    case reset
    /// A new flow needed its place.
    case evicted
    /// TCP: another connection with the same addresses and ports has begun.
    case renewed
    /// Policy, or translation, does not allow it any more.
    case revoked

    public var name: String { "\(self)" }
  }

  public var kind: Kind
  public var endReason: EndReason
  public var worker: UInt32
  /// IP protocol number.
  public var proto: UInt8
  /// Packets of the direction in which it began, and those that answer: with translation from where these come.
  public var forward: FlowTuple
  public var reverse: FlowTuple
  /// So far. Bytes are those of IP packets.
  public var packets, bytes, reversePackets, reverseBytes: UInt64
  /// Nanoseconds since 1970-01-01 UTC.
  public var firstSeen, lastSeen: UInt64
  public var action: RuleAction
  /// The rule that decided; nil for none.
  public var rule: UInt32?
  public var isLogged: Bool
  /// Events of flows that have not been told of since the last one of this worker.
  public var missed: UInt32

  public init(
    kind: Kind, endReason: EndReason, worker: UInt32, proto: UInt8, forward: FlowTuple, reverse: FlowTuple,
    packets: UInt64, bytes: UInt64, reversePackets: UInt64, reverseBytes: UInt64, firstSeen: UInt64, lastSeen: UInt64,
    action: RuleAction, rule: UInt32?, isLogged: Bool, missed: UInt32
  ) {
    self.kind = kind
    self.endReason = endReason
    self.worker = worker
    self.proto = proto
    self.forward = forward
    self.reverse = reverse
    self.packets = packets
    self.bytes = bytes
    self.reversePackets = reversePackets
    self.reverseBytes = reverseBytes
    self.firstSeen = firstSeen
    self.lastSeen = lastSeen
    self.action = action
    self.rule = rule
    self.isLogged = isLogged
    self.missed = missed
  }
}

// How they lie in a slot. Writer and reader of each stand together.

extension SlotWriter {
  mutating func put(_ entry: FlowExportConfiguration) {
    put(entry.selection.rawValue)
    put(entry.sample)
    put(entry.rate)
    put(entry.updateSeconds)
  }

  mutating func put(_ tuple: FlowTuple) {
    put(tuple.vrf)
    put(tuple.source)
    put(tuple.destination)
    put(tuple.sourcePort)
    put(tuple.destinationPort)
  }

  mutating func put(_ report: FlowReport) {
    put(report.kind.rawValue)
    put(report.endReason.rawValue)
    put(report.worker)
    put(report.proto)
    put(report.forward)
    put(report.reverse)
    for count in [
      report.packets, report.bytes, report.reversePackets, report.reverseBytes, report.firstSeen, report.lastSeen,
    ] { put(count) }
    put(report.action.rawValue)
    put(UInt8(report.rule == nil ? 0 : 1))
    put(report.rule ?? 0)
    put(UInt8(report.isLogged ? 1 : 0))
    put(report.missed)
  }
}

extension SlotReader {
  mutating func flowExport() throws(SlotFault) -> FlowExportConfiguration {
    FlowExportConfiguration(
      selection: try option("selection"), sample: try get("sample"), rate: try get("rate"),
      updateSeconds: try get("update seconds"))
  }

  mutating func flowTuple() throws(SlotFault) -> FlowTuple {
    FlowTuple(
      vrf: try get("vrf"), source: try address("source"), destination: try address("destination"),
      sourcePort: try get("source port"), destinationPort: try get("destination port"))
  }

  mutating func flowReport() throws(SlotFault) -> FlowReport {
    let kind: FlowReport.Kind = try option("kind")
    let reason: FlowReport.EndReason = try option("end reason")
    let worker: UInt32 = try get("worker")
    let proto: UInt8 = try get("protocol")
    let forward = try flowTuple()
    let reverse = try flowTuple()
    var counts: [UInt64] = []
    for _ in 0..<6 { counts.append(try get("counter")) }
    let action: RuleAction = try option("action")
    let hasRule = try flag("has rule")
    let rule: UInt32 = try get("rule")
    return FlowReport(
      kind: kind, endReason: reason, worker: worker, proto: proto, forward: forward, reverse: reverse,
      packets: counts[0], bytes: counts[1], reversePackets: counts[2], reverseBytes: counts[3], firstSeen: counts[4],
      lastSeen: counts[5], action: action, rule: hasRule ? rule : nil, isLogged: try flag("logged"),
      missed: try get("missed"))
  }
}
