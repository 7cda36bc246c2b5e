import WeftTables
import WeftWire

// What the packet path notes of packets while it is traced. The stages are those that forward; where nothing is traced,
// each costs one branch a batch.

/// Stages by the name of what they do.
public enum TraceStage: UInt8, Sendable, CaseIterable {
  case receive
  case decapsulate
  case parse
  case coalesce
  case classify
  case route
  case transmit
  /// Within classify: what the rules for one interface said.
  case policy
  /// What a policer said of a packet, or of a segment; a mark that a packet got.
  case police
  case mark
  /// The packet is left to the agent.
  case trap
  /// The packet went no further.
  case drop
}

/// A packet after a stage.
public struct TraceRecord: Sendable {
  public enum Outcome: UInt8, Sendable {
    case forward
    case reply
    case merged
    case flood
    case dropped
    case trapped
  }

  public var stage: TraceStage
  public var outcome: Outcome = .forward
  /// `drop`: why.
  public var reason: DropReason?
  /// The packet's place in its batch.
  public var packet: UInt32 = 0
  public var interface: UInt32 = 0
  public var vrf: UInt32 = 0
  public var etherType: UInt16 = 0
  public var isV4 = true
  public var isFragment = false
  public var isOwn = false
  public var fromFabric = false
  public var hasEthernet = true
  /// For the router's MAC address, or without one: by address. Else by MAC address.
  public var isRouted = true
  public var isGroup = false
  public var trafficClass: UInt8 = 0
  /// Before the packet is routed.
  public var hops: UInt8 = 0
  public var tcpFlags: UInt8 = 0
  public var destinationMAC: UInt64 = 0
  /// After `parse`.
  public var key: FlowKey
  /// Bytes of IP packet; packets on a wire that it stands for.
  public var bytes: Int = 0
  public var segments: Int = 1
  /// After `route`.
  public var hasPath = false
  public var path = Path(nexthop: 0, label: 0)
  /// After `classify`: what its flow is like, and where packets of the flow's answers come from and go to.
  public var hasFlow = false
  public var flowFlags: FlowFlags = []
  public var tcpState = TCPState.none
  public var flowRule: UInt32 = .max
  public var answers: FlowKey
  public var flowKey: FlowKey
  public var mirror: UInt32 = 0
  /// `policy`: for packets to the interface; else from it.
  public var isIngress = false
  public var verdict = PolicyVerdict.allowed
  /// After `parse`.
  public var forwardingClass: UInt8 = 0
  /// `police`: the policer's number, and what it said.
  public var policer: UInt32 = 0
  public var color = PolicerColor.green
  /// `mark`: the DSCP, or the priority of a tag; `noMark` for the other.
  public var dscp = noMark
  public var pcp = noMark

  init(_ stage: TraceStage) {
    self.stage = stage
    let none = FlowKey(
      vrf: 0, source: IPAddress(high: 0, low: 0), destination: IPAddress(high: 0, low: 0), proto: 0, sourcePort: 0,
      destinationPort: 0)
    key = none
    answers = none
    flowKey = none
  }
}

/// Room for what is noted.
@safe struct TraceBuffer {
  static let capacity = 2048
  private var records: UnsafeMutablePointer<TraceRecord>?
  private var count: UnsafeMutablePointer<Int>?

  @inline(__always) var isOn: Bool { unsafe records != nil }

  mutating func start() {
    unsafe records = .allocate(capacity: Self.capacity)
    unsafe count = .allocate(capacity: 1)
    unsafe count?.initialize(to: 0)
  }

  mutating func take() -> [TraceRecord] {
    guard let memory = unsafe records, let total = unsafe count else { return [] }
    let result = unsafe Array(UnsafeBufferPointer(start: memory, count: total.pointee))
    unsafe memory.deallocate()
    unsafe total.deallocate()
    unsafe records = nil
    unsafe count = nil
    return result
  }

  func append(_ record: TraceRecord) {
    guard let memory = unsafe records, let total = unsafe count, unsafe total.pointee < Self.capacity else { return }
    unsafe (memory + total.pointee).initialize(to: record)
    unsafe total.pointee &+= 1
  }
}

// Who notes is `mutating`, though nothing of the packet path changes: a method that is not, and is not inlined, gets a copy
// of the whole packet path, made before the branch that asks whether to call it.

extension PacketPath {
  /// Takes one frame through all stages and says what they did to it. What was sent stands in `tx`.
  ///
  /// Whoever calls this has a packet path for it alone, over trial tables (`Tables.trial`): nothing is counted, and no
  /// port is taken, where others look.
  public mutating func trace(_ frame: RxFrame, interface: UInt32, now: UInt64) -> [TraceRecord] {
    var frames = RxFrames()
    defer { frames.deallocate() }
    frames.append(frame)
    usesFastPath = false
    policers = PolicerWorker(isTrial: true)
    batch.removeAll()
    traces.start()
    process(frames, interface: interface, now: now)
    return traces.take()
  }

  /// Notes where the batch's packets are after a stage.
  @inline(__always) mutating func note(_ stage: TraceStage) {
    if traces.isOn { noteBatch(stage) }
  }

  @inline(never) private mutating func noteBatch(_ stage: TraceStage) {
    let batch = batch
    for index in 0..<batch.count {
      var record = record(stage, batch[index])
      record.packet = UInt32(truncatingIfNeeded: index)
      traces.append(record)
    }
  }

  @inline(never) mutating func noteDrop(_ packet: Packet, _ reason: DropReason) {
    var record = record(.drop, packet)
    record.reason = reason
    traces.append(record)
  }

  @inline(never) mutating func noteTrap(_ packet: Packet) { traces.append(record(.trap, packet)) }

  /// A frame that became no packet.
  @inline(never) mutating func noteDrop(_ interface: UInt32, _ reason: DropReason) {
    var record = TraceRecord(.drop)
    record.reason = reason
    record.interface = interface
    traces.append(record)
  }

  @inline(never) mutating func notePolicy(
    _ verdict: PolicyVerdict, _ interface: UInt32, isIngress: Bool, _ key: FlowKey
  ) {
    var record = TraceRecord(.policy)
    record.interface = interface &- 1
    record.isIngress = isIngress
    record.verdict = verdict
    record.key = key
    traces.append(record)
  }

  @inline(never) mutating func notePolicer(_ number: UInt32, _ color: PolicerColor) {
    var record = TraceRecord(.police)
    record.policer = number
    record.color = color
    traces.append(record)
  }

  @inline(never) mutating func noteMark(dscp: UInt8 = noMark, pcp: UInt8 = noMark) {
    var record = TraceRecord(.mark)
    record.dscp = dscp
    record.pcp = pcp
    traces.append(record)
  }

  private func record(_ stage: TraceStage, _ packet: Packet) -> TraceRecord {
    var record = TraceRecord(stage)
    record.outcome =
      switch packet.verdict {
      case .forward: .forward
      case .reply: .reply
      case .merged: .merged
      case .flood: .flood
      // A trace has no other workers.
      case .trapped: .trapped
      case .dropped, .handedOver: .dropped
      }
    record.interface = packet.interface
    record.vrf = packet.vrf
    record.etherType = packet.etherType
    record.isV4 = packet.isV4
    record.isFragment = packet.isFragment
    record.isOwn = packet.isOwn
    record.fromFabric = packet.fromFabric
    record.hasEthernet = packet.hasEthernet
    record.isRouted = packet.link != .other
    record.isGroup = packet.link == .group
    if packet.hasEthernet { record.destinationMAC = packet.ethernet.mac(Ethernet.destination) }
    record.trafficClass = packet.trafficClass
    record.forwardingClass = packet.forwardingClass
    record.segments = packet.segments
    record.bytes = packet.ipLength
    record.key = packet.key
    record.hasPath = packet.isReady
    record.path = packet.path
    // Only once `parse` has found the packet whole.
    if packet.key.proto != 0 || packet.transport > 0, packet.ipLength >= IPv4.minimumBytes,
      packet.etherType != Ethernet.arp
    {
      record.hops = packet.isV4 ? packet.ip.u8(8) : packet.ip.u8(7)
      if packet.proto == IPProtocol.tcp, packet.payload > packet.transport {
        record.tcpFlags = packet.transportHeader.u8(13)
      }
    }
    if packet.flow != FlowTable.none, removals == flows.removals {
      let entry = flows[packet.flow]
      record.hasFlow = true
      record.flowFlags = entry.flags
      record.tcpState = entry.tcpState
      record.flowRule = entry.policyRule
      record.flowKey = entry.key
      record.answers = entry.reverse == FlowTable.none ? entry.key : flows[entry.reverse].key
      if entry.flags.contains(.mirrored) { record.mirror = flows.mirror(of: packet.flow) }
    }
    return record
  }
}
