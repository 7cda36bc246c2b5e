import CLinux
import WeftTables
import WeftWire

/// The way of a packet through the forwarder, from a batch of received frames to the frames that leave.
///
/// Read `process` from top to bottom; each stage is a function on the whole batch, in the file of its name, and can
/// fail in one way: drop a packet with a reason. Nothing here allocates, locks or calls the kernel.
///
/// One worker owns one packet path. What it sends points into the received frames: they must stay until `tx` has been
/// sent and reset.
@safe public struct PacketPath: ~Copyable {
  let tables: Tables
  let counters: Counters
  /// This worker's flows.
  public var flows: FlowTable
  /// This worker's ports for source NAT, and which backends clients had.
  public var nat: NATWorker
  /// This worker's end of the policers.
  public var policers = PolicerWorker()
  /// Ports of packets that come in fragments.
  var fragments: FragmentTable
  /// Seed of the flow hash, which also chooses tunnels' source ports.
  let seed: UInt64
  var batch = Batch()
  var fast = FastBatch()
  var ahead = RouteAhead()
  /// Simple packets of known flows go the short way (FastPath.swift). The result is the same; this is for comparing.
  public var usesFastPath = true
  var open = OpenChains()
  /// What it shares with other workers.
  public var sharing: Sharing
  /// How many packets the router may make about packets that it drops.
  public var errors = RateLimit()
  /// How many it has made.
  public internal(set) var made: UInt64 = 0
  /// `flows.removals` when this batch came: once it has grown, packets' flows may be others.
  var removals: UInt64 = 0
  /// Identification of the last outer packet that may be fragmented.
  public var identification: UInt32 = 0
  /// An interface of this batch has the flag to clamp.
  var clamps = false
  /// One has a classifier, a policer of what comes in.
  var classifies = false
  var polices = false
  /// Packets of this batch that come out of VXLAN may teach a VRF where their senders are.
  var learnsRemote = false
  /// Where this worker tells the control thread what it sees; nil where nobody listens.
  public var reports: ReportWriter?
  /// Something has been reported: whoever looks sets it back.
  public var hasReported = false
  var recent = RecentReports()
  /// Where this worker leaves frames to the agent; nil where nobody is.
  public var trapWriter: TrapWriter?
  /// How many of them.
  public var trapLimits: TrapLimits
  var exporter = FlowExporter()
  /// The version of the settings that `flows` goes by.
  var flowSettings: UInt64 = 0
  /// On while a packet is traced.
  var traces = TraceBuffer()
  /// Who wants copies of frames.
  var captures = CaptureTaps()
  /// While a translated packet is routed that gets no flow, since it goes nowhere or is for the router itself: the key that
  /// it came with. What is answered or said about it, is as if it had not been translated.
  var untranslated: FlowKey?
  /// When this batch came, CLOCK_MONOTONIC in ns.
  var clock: UInt64 = 0
  /// This worker's counters of mirrors (`Tables.mirrors`).
  public var mirrorCounts: MirrorCounter
  /// What is to be sent.
  public var tx: TxFrames

  public init(
    tables: Tables, flows: FlowTable, fragments: FragmentTable, nat: NATWorker, counters: Counters, interfaces: Int,
    seed: UInt64, sharing: Sharing = Sharing()
  ) {
    self.tables = tables
    self.flows = flows
    self.nat = nat
    self.fragments = fragments
    self.counters = counters
    self.seed = seed
    self.sharing = sharing
    self.nat.owner = sharing.owner
    mirrorCounts = tables.mirrors.counter(worker: 0)
    tx = TxFrames(interfaces: interfaces)
    trapLimits = TrapLimits(interfaces: interfaces)
    adoptFlowSettings()
  }

  deinit {
    batch.deallocate()
    recent.deallocate()
    trapLimits.deallocate()
    fast.deallocate()
    ahead.deallocate()
    open.deallocate()
    sharing.deallocate()
    tx.deallocate()
    captures.deallocate()
  }

  /// Takes a batch that came in by `interface` through all stages. `now` is CLOCK_MONOTONIC in ns.
  public mutating func process(_ frames: RxFrames, interface id: UInt32, now: UInt64) {
    guard let interface = tables.interface(id) else {
      for index in 0..<frames.count { lose(.interfaceGone, id, packets: 1, frames[index]) }
      return
    }
    clock = now
    if isShared { sharing.begin(frames, interface: id) }
    let done = usesFastPath && interface.entry.isPlain ? forwardFast(frames, id, interface, now) : 0
    if done < frames.count { forward(frames, from: done, id, interface, now) }
    if isShared { sharing.publish() }
  }

  /// The way of all stages.
  private mutating func forward(
    _ frames: RxFrames, from done: Int, _ id: UInt32, _ interface: EntryReference<InterfaceEntry>, _ now: UInt64
  ) {
    if interface.entry.isWatched {
      for index in done..<frames.count { arrived(frames[index], id, interface) }
    }
    batch.removeAll()
    (clamps, classifies, polices) = (false, false, false)
    ask(interface)
    if interface.entry.isFabric {
      decapsulate(frames, from: done, id, interface)
      note(.decapsulate)
    } else {
      receive(frames, from: done, id, interface)
      note(.receive)
    }
    parse()
    if classifies { classifyService() }
    note(.parse)
    if isShared { own(now) }
    if interface.entry.isFabric { coalesce() }
    if polices { policeIngress() }
    lookAhead()
    classify(now)
    note(.classify)
    if !tables.policy.hasNoActions { enact() }
    route()
    note(.route)
    transmit(now)
    note(.transmit)
    tag()
    policers.close()
  }

  /// Notes what an interface asks of the batch's packets: that of the port, and those of its VLANs as they appear.
  @inline(__always) mutating func ask(_ interface: EntryReference<InterfaceEntry>) {
    if interface.entry.clampsMSS { clamps = true }
    if interface.entry.classifier != 0 { classifies = true }
    if interface.entry.ingressPolicer != 0 { polices = true }
  }

  /// Ends a packet's way.
  @inline(__always) mutating func drop(_ packet: inout Packet, _ reason: DropReason) {
    drop(&packet, reason, packets: packet.segments)
  }

  /// The same for one that stands for so many packets, or would have become them.
  @inline(__always) mutating func drop(_ packet: inout Packet, _ reason: DropReason, packets: Int) {
    packet.verdict = .dropped
    counters.dropped(reason, packet.interface, packets: packets)
    if traces.isOn { noteDrop(packet, reason) }
    if captures.takesDrops { captureDrop(packet, reason) }
  }

  /// Ends the way of a frame, or a part of it, that is no packet yet.
  @inline(__always) mutating func lose(_ reason: DropReason, _ interface: UInt32, packets: Int, _ frame: RxFrame) {
    counters.dropped(reason, interface, packets: packets)
    if traces.isOn { noteDrop(interface, reason) }
    if captures.takesDrops { captureDrop(frame, interface, reason) }
  }

  /// A frame has come in: who wants to see what comes in by the interface does so here. One that another worker handed
  /// over has been seen there.
  @inline(never) mutating func arrived(
    _ frame: RxFrame, _ id: UInt32, _ interface: EntryReference<InterfaceEntry>
  ) {
    guard !sharing.isHandedOver else { return }
    if interface.entry.isCaptured { captureArrival(frame, id) }
    if interface.entry.mirrorIn != 0 { mirrorArrival(frame, interface) }
  }

  /// Frames have been made of a packet for an interface, from `first` on: their tags get their priority, and who wants to
  /// see what leaves by it does so here.
  @inline(__always) mutating func departed(
    _ packet: Packet, since first: Int, _ id: UInt32, _ interface: EntryReference<InterfaceEntry>
  ) {
    // Before anything else points at its bytes too.
    if packet.ownBytes > 0 { tx.own(Int(packet.ownBytes), since: first) }
    if interface.entry.tagBytes > 0 { prioritize(packet, since: first, interface) }
    if interface.entry.isWatched { watchDepartures(since: first, id, interface) }
  }

  @inline(never) private mutating func watchDepartures(
    since first: Int, _ id: UInt32, _ interface: EntryReference<InterfaceEntry>
  ) {
    // Copies are not looked at.
    for index in first..<tx.count { watchDeparture(tx.number(index), id, interface) }
  }

  /// All frames of an interface without a port of its own, for those who look at the port's.
  @inline(never) mutating func watchFrames(
    of id: UInt32, on parent: UInt32, _ interface: EntryReference<InterfaceEntry>
  ) {
    let end = tx.number(tx.count)
    var number = tx.head(id)
    while number != TxFrames.none, number < end {
      watchDeparture(number, parent, interface)
      number = tx.frame(number).next
    }
  }

  private mutating func watchDeparture(
    _ number: UInt32, _ id: UInt32, _ interface: EntryReference<InterfaceEntry>
  ) {
    let frame = tx.gathered(tx.frame(number))
    if interface.entry.isCaptured { captures.offer(.departure, id, frame, now: clock) }
    if interface.entry.mirrorOut != 0 { mirror(frame, frame.virtio, to: interface.entry.mirrorOut) }
  }
}
