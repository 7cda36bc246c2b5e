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
  /// Ports of packets that come in fragments.
  var fragments: FragmentTable
  /// Seed of the flow hash, which also chooses tunnels' source ports.
  let seed: UInt64
  var batch = Batch()
  var fast = FastBatch()
  /// Simple packets of known flows go the short way (FastPath.swift). The result is the same; this is for comparing.
  public var usesFastPath = true
  var open = OpenChains()
  /// How many packets the router may make about packets that it drops.
  public var errors = ErrorLimit()
  /// How many it has made.
  public internal(set) var made: UInt64 = 0
  /// `flows.removals` when this batch came: once it has grown, packets' flows may be others.
  var removals: UInt64 = 0
  /// Identification of the last outer packet that may be fragmented.
  public var identification: UInt32 = 0
  /// The interface of this batch has the flag to clamp.
  var clamps = false
  /// On while a packet is traced.
  var traces = TraceBuffer()
  /// Who wants copies of frames.
  var captures = CaptureTaps()
  /// When this batch came, CLOCK_MONOTONIC in ns.
  var clock: UInt64 = 0
  /// This worker's counters of mirrors (`Tables.mirrors`).
  public var mirrorCounts: MirrorCounter
  /// What is to be sent.
  public var tx: TxFrames

  public init(
    tables: Tables, flows: FlowTable, fragments: FragmentTable, nat: NATWorker, counters: Counters, interfaces: Int,
    seed: UInt64
  ) {
    self.tables = tables
    self.flows = flows
    self.nat = nat
    self.fragments = fragments
    self.counters = counters
    self.seed = seed
    mirrorCounts = tables.mirrors.counter(worker: 0)
    tx = TxFrames(interfaces: interfaces)
  }

  deinit {
    batch.deallocate()
    fast.deallocate()
    open.deallocate()
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
    let done = usesFastPath && interface.entry.isPlain ? forwardFast(frames, id, interface, now) : 0
    guard done < frames.count else { return }
    if interface.entry.isWatched { arrived(frames, id, interface) }
    batch.removeAll()
    clamps = interface.entry.clampsMSS
    if interface.entry.isFabric {
      decapsulate(frames, from: done, id, interface)
      note(.decapsulate)
    } else {
      receive(frames, from: done, id, interface)
      note(.receive)
    }
    parse()
    note(.parse)
    if interface.entry.isFabric { coalesce() }
    classify(now)
    note(.classify)
    route()
    note(.route)
    transmit(now)
    note(.transmit)
  }

  /// Ends a packet's way.
  @inline(__always) func drop(_ packet: inout Packet, _ reason: DropReason) {
    packet.verdict = .dropped
    counters.dropped(reason, packet.interface, packets: packet.segments)
    if traces.isOn { noteDrop(packet, reason) }
    if captures.takesDrops { captureDrop(packet, reason) }
  }

  /// Ends the way of a frame, or a part of it, that is no packet yet.
  @inline(__always) func lose(_ reason: DropReason, _ interface: UInt32, packets: Int, _ frame: RxFrame) {
    counters.dropped(reason, interface, packets: packets)
    if traces.isOn { noteDrop(interface, reason) }
    if captures.takesDrops { captureDrop(frame, interface, reason) }
  }

  /// Frames have come in: who wants to see what comes in by the interface does so here.
  @inline(never) mutating func arrived(
    _ frames: RxFrames, _ id: UInt32, _ interface: EntryReference<InterfaceEntry>
  ) {
    if interface.entry.isCaptured { captureArrivals(frames, id) }
    if interface.entry.mirrorIn != 0 { mirrorArrivals(frames, interface) }
  }

  /// Frames have been made for an interface, from `first` on: who wants to see what leaves by it does so here.
  @inline(__always) mutating func departed(
    since first: Int, _ id: UInt32, _ interface: EntryReference<InterfaceEntry>
  ) {
    if interface.entry.isWatched { watchDepartures(since: first, id, interface) }
  }

  @inline(never) private mutating func watchDepartures(
    since first: Int, _ id: UInt32, _ interface: EntryReference<InterfaceEntry>
  ) {
    let end = tx.count
    if interface.entry.isCaptured { captureDepartures(since: first, to: end, id) }
    if interface.entry.mirrorOut != 0 { mirrorDepartures(since: first, to: interface.entry.mirrorOut) }
  }
}
