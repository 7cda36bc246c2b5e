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
  /// Seed of the flow hash, which also chooses tunnels' source ports.
  let seed: UInt64
  var batch = Batch()
  var open = OpenChains()
  /// What is to be sent.
  public var tx: TxFrames

  public init(tables: Tables, flows: FlowTable, counters: Counters, interfaces: Int, seed: UInt64) {
    self.tables = tables
    self.flows = flows
    self.counters = counters
    self.seed = seed
    tx = TxFrames(interfaces: interfaces)
  }

  deinit {
    batch.deallocate()
    open.deallocate()
    tx.deallocate()
  }

  /// Takes a batch that came in by `interface` through all stages. `now` is CLOCK_MONOTONIC in ns.
  public mutating func process(_ frames: RxFrames, interface id: UInt32, now: UInt64) {
    guard let interface = tables.interface(id) else {
      counters.dropped(.interfaceGone, id, packets: frames.count)
      return
    }
    batch.removeAll()
    if interface.entry.isFabric {
      decapsulate(frames, id, interface)
    } else {
      receive(frames, id, interface)
    }
    parse()
    if interface.entry.isFabric { coalesce() }
    route()
    track(now)
    transmit()
  }

  /// Ends a packet's way.
  @inline(__always) func drop(_ packet: inout Packet, _ reason: DropReason) {
    packet.verdict = .dropped
    counters.dropped(reason, packet.interface, packets: packet.segments)
  }
}
