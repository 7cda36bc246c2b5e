import WeftForwarding
import WeftRing
import WeftSystem
import WeftTables
import WeftWire

/// Finds out what the packet path would do with a frame, by having a packet path of its own do it: over the tables in
/// force, with counters, flows and ports that nobody else sees. Used by the thread that programs the tables, which alone
/// frees what is replaced in them.
public final class Tracer {
  private let programmer: TableProgrammer
  private let seed: UInt64
  /// Longest frame: what a virtio-net port hands over.
  public static let maximumFrame = 65_550

  public init(_ programmer: TableProgrammer, seed: UInt64) {
    self.programmer = programmer
    self.seed = seed
  }

  /// `now` is CLOCK_MONOTONIC, ns. `find` gives the flow of a key from the workers' tables; without one, the packet is
  /// the first of its flow.
  public func trace(
    _ frame: [UInt8], interface: UInt32, now: UInt64, find: (FlowKey) -> FlowSnapshot?
  ) throws(Refusal) -> Trace {
    guard programmer.interfaces.contains(interface) else {
      throw Refusal(.notFound, "interface \(interface) is not there; `weft vif` lists those there are")
    }
    guard (1...Self.maximumFrame).contains(frame.count) else {
      throw Refusal(.outOfRange, "a frame of \(frame.count) bytes; it has 1 to \(Self.maximumFrame)")
    }
    let first = try run(frame, interface, now, flows: [])
    // What a packet is, is known now: those of flows that are there go as their flow says.
    var flows: [FlowSnapshot] = []
    for record in first.records where record.stage == .parse && record.outcome == .forward && !record.isOwn {
      guard !flows.contains(where: { $0.forward.key == record.key || $0.reverse?.key == record.key }),
        flows.count < Self.maximumFlows, let flow = find(record.key)
      else { continue }
      flows.append(flow)
    }
    let result = flows.isEmpty ? first : try run(frame, interface, now, flows: flows)
    var report = TraceReport(programmer: programmer, flows: flows, now: now)
    report.arrival(frame, interface)
    for record in result.records { report.add(record) }
    for (id, counts) in result.mirrors { report.mirror(id, counts) }
    for sent in result.frames { report.departure(sent) }
    return Trace(steps: report.steps, frames: result.frames)
  }

  private static let maximumFlows = 128

  private struct Result {
    var records: [TraceRecord]
    var frames: [Trace.Frame]
    var mirrors: [(UInt32, MirrorCounts)]
  }

  private func run(
    _ frame: [UInt8], _ interface: UInt32, _ now: UInt64, flows: [FlowSnapshot]
  ) throws(Refusal) -> Result {
    do throws(SystemError) {
      return try attempt(frame, interface, now, flows)
    } catch {
      throw Refusal(.tableFull, "no memory to trace in: \(error)")
    }
  }

  private func attempt(
    _ frame: [UInt8], _ interface: UInt32, _ now: UInt64, _ snapshots: [FlowSnapshot]
  ) throws(SystemError) -> Result {
    let interfaces = Int(programmer.limits.interfaces)
    let trial = try TrialMemory()
    let reasons = DropReason.allCases.count
    let memory = try Mapping(
      anonymous: reasons * 8 + interfaces * Counters.interfaceBytes, what: "counters of a trace")
    let counters = Counters(
      drops: memory.base, interfaces: memory.base + reasons * 8, interfaceCount: interfaces)
    var flows = try FlowTable(capacity: 1024, seed: seed, ends: 64)
    for snapshot in snapshots { flows.adopt(snapshot, now: now) }
    var path = PacketPath(
      tables: trial.tables(programmer.memory.reader), flows: flows, fragments: try FragmentTable(seed: seed),
      nat: try NATWorker(trial: seed), counters: counters, interfaces: interfaces, seed: seed)
    let bytes = UnsafeMutableRawPointer.allocate(byteCount: frame.count, alignment: 16)
    defer { bytes.deallocate() }
    frame.withUnsafeBytes { if let base = $0.baseAddress { bytes.copyMemory(from: base, byteCount: $0.count) } }
    let records = path.trace(
      RxFrame(bytes: Bytes(bytes), length: frame.count, virtio: VirtioNetHeader()), interface: interface, now: now)
    var frames: [Trace.Frame] = []
    for index in 0..<path.tx.touchedCount {
      let target = path.tx.touched(index)
      var number = path.tx.head(target)
      while number != TxFrames.none {
        let sent = path.tx.frame(number)
        var bytes = [UInt8](repeating: 0, count: Int(sent.length))
        bytes.withUnsafeMutableBytes { if let base = $0.baseAddress { path.tx.copy(sent, to: base) } }
        frames.append(Trace.Frame(interface: target, bytes: bytes))
        number = sent.next
      }
    }
    path.tx.reset()
    let mirrors = (1..<UInt32(MirrorTable.capacity)).compactMap { id -> (UInt32, MirrorCounts)? in
      let counts = trial.mirrorCounts(id)
      return counts == MirrorCounts() ? nil : (id, counts)
    }
    return Result(records: records, frames: frames, mirrors: mirrors)
  }
}
