import CLinux
import Glibc
import WeftSystem

/// How the statistics region is laid out. Workers write it, everybody else maps it read-only. It describes itself:
/// the names of the drop reasons stand in it, so that a tool prints what the forwarder has.
///
///     0     magic 8, version 4, workers 4, interface slots 4, drop reasons 4, forwarder's pid 4, pad 4
///     64    control thread's heartbeat (CLOCK_MONOTONIC, ns), start of the forwarder (CLOCK_MONOTONIC, ns)
///     128   tables: entries 8, limit 8 (0: none), in the order of `TableGauge`
///     4096  drop reasons: name 32 bytes, explanation 128 bytes, each ended by zero
///     then  a block for each worker: header 128, drops 8 each, interfaces 64 each
public struct StatisticsLayout: Sendable {
  static let magic: UInt64 = 0x5354_4154_5446_4557  // "WEFTSTAT"
  static let version: UInt32 = 2
  static let nameBytes = 32
  static let textBytes = 128
  public static let interfaceBytes = 64
  static let queuesOffset = 40
  static let trappedOffset = 48
  static let workerHeaderBytes = 128
  static let heartbeatOffset = 64
  static let startOffset = 72
  static let tablesOffset = 128
  static let namesOffset = 4096

  public let workers: Int
  public let interfaces: Int
  public let reasons: Int

  public init(workers: Int, interfaces: Int, reasons: Int) {
    self.workers = workers
    self.interfaces = interfaces
    self.reasons = reasons
  }

  private static func pages(_ bytes: Int) -> Int { (bytes + 4095) & ~4095 }
  var workersOffset: Int { Self.namesOffset + Self.pages(reasons * (Self.nameBytes + Self.textBytes)) }
  var dropsOffset: Int { Self.workerHeaderBytes }
  var interfacesOffset: Int { dropsOffset + ((reasons * 8 + 63) & ~63) }
  var workerBytes: Int { Self.pages(interfacesOffset + interfaces * Self.interfaceBytes) }
  public var totalBytes: Int { workersOffset + workers * workerBytes }
}

/// A worker's part of the statistics region: plain 64-bit counters with one writer.
///
/// Header offsets: 0 heartbeat (ns), 8 core, 16 NUMA node, 24 batches, 32 packets, 40 sleeps, 48 flow entries,
/// 56 flows that found no place, 64 frames given to other workers, 72 frames taken from them, 80 keys whose flows live with
/// other workers, 88 flows of others that had to go because this worker could not note whose they are, 96 busy
/// time (ns).
@safe public struct WorkerStatistics: @unchecked Sendable {
  public let header: UnsafeMutableRawPointer
  /// A 64-bit counter for each drop reason.
  public let drops: UnsafeMutableRawPointer
  /// 64 bytes for each interface: rx packets, rx bytes, tx packets, tx bytes, drops, queues that the worker receives
  /// from, packets left to the agent.
  public let interfaces: UnsafeMutableRawPointer

  public func beat(now: UInt64) { unsafe weft_store_relaxed_u64(header, now) }
  public func setPlace(core: Int32, node: Int32) {
    unsafe weft_store_relaxed_u64(header + 8, UInt64(bitPattern: Int64(core)))
    unsafe weft_store_relaxed_u64(header + 16, UInt64(bitPattern: Int64(node)))
  }
  public func countBatch(packets: Int) {
    unsafe weft_count(header + 24, 1)
    unsafe weft_count(header + 32, UInt64(packets))
  }
  public func countSleep() { unsafe weft_count(header + 40, 1) }
  public func setFlows(_ count: Int, refused: UInt64) {
    unsafe weft_store_relaxed_u64(header + 48, UInt64(count))
    unsafe weft_store_relaxed_u64(header + 56, refused)
  }
  /// The worker receives from one queue more of an interface, or from so many.
  public func countQueue(_ interface: UInt32) { unsafe weft_count(queues(interface), 1) }
  public func setQueues(_ interface: UInt32, _ count: UInt64) {
    unsafe weft_store_relaxed_u64(queues(interface), count)
  }
  private func queues(_ interface: UInt32) -> UnsafeMutableRawPointer {
    unsafe interfaces + Int(interface) * StatisticsLayout.interfaceBytes + StatisticsLayout.queuesOffset
  }
  /// Time in rounds that took packets, ns, since the worker started.
  public func setBusy(_ nanoseconds: UInt64) { unsafe weft_store_relaxed_u64(header + 96, nanoseconds) }
  public func setSharing(given: UInt64, taken: UInt64, redirects: Int, refused: UInt64) {
    unsafe weft_store_relaxed_u64(header + 64, given)
    unsafe weft_store_relaxed_u64(header + 72, taken)
    unsafe weft_store_relaxed_u64(header + 80, UInt64(redirects))
    unsafe weft_store_relaxed_u64(header + 88, refused)
  }
}

/// The forwarder's end: makes the region and hands out read-only descriptors of it.
public final class StatisticsRegion: @unchecked Sendable {
  public let layout: StatisticsLayout
  private let memory: Descriptor
  let mapping: Mapping

  public init(layout: StatisticsLayout, reasons: [(name: String, explanation: String)]) throws(SystemError) {
    precondition(reasons.count == layout.reasons)
    self.layout = layout
    memory = try Descriptor(
      unsafe memfd_create("weft-statistics", UInt32(MFD_CLOEXEC) | UInt32(MFD_ALLOW_SEALING)), "make",
      "statistics memory")
    guard ftruncate(memory.raw, layout.totalBytes) == 0 else { throw SystemError("size", "statistics memory") }
    mapping = try Mapping(
      descriptor: memory.raw, bytes: layout.totalBytes, writable: true, what: "statistics memory")
    _ = weft_seal(memory.raw)
    let base = unsafe mapping.base
    unsafe base.storeBytes(of: StatisticsLayout.version, toByteOffset: 8, as: UInt32.self)
    unsafe base.storeBytes(of: UInt32(layout.workers), toByteOffset: 12, as: UInt32.self)
    unsafe base.storeBytes(of: UInt32(layout.interfaces), toByteOffset: 16, as: UInt32.self)
    unsafe base.storeBytes(of: UInt32(layout.reasons), toByteOffset: 20, as: UInt32.self)
    unsafe base.storeBytes(of: getpid(), toByteOffset: 24, as: Int32.self)
    unsafe weft_store_relaxed_u64(base + StatisticsLayout.startOffset, weft_monotonic_ns())
    for (index, reason) in reasons.enumerated() {
      let at = StatisticsLayout.namesOffset + index * (StatisticsLayout.nameBytes + StatisticsLayout.textBytes)
      for (offset, byte) in reason.name.utf8.prefix(StatisticsLayout.nameBytes - 1).enumerated() {
        unsafe base.storeBytes(of: byte, toByteOffset: at + offset, as: UInt8.self)
      }
      for (offset, byte) in reason.explanation.utf8.prefix(StatisticsLayout.textBytes - 1).enumerated() {
        unsafe base.storeBytes(of: byte, toByteOffset: at + StatisticsLayout.nameBytes + offset, as: UInt8.self)
      }
    }
    unsafe weft_store_release_u64(base, StatisticsLayout.magic)
  }

  public func worker(_ index: Int) -> WorkerStatistics {
    precondition(index >= 0 && index < layout.workers)
    let block = unsafe mapping.base + layout.workersOffset + index * layout.workerBytes
    return unsafe WorkerStatistics(
      header: block, drops: block + layout.dropsOffset, interfaces: block + layout.interfacesOffset)
  }

  public func beat(now: UInt64) { unsafe weft_store_relaxed_u64(mapping.base + StatisticsLayout.heartbeatOffset, now) }

  /// A reader in this process.
  public func reader() throws(SystemError) -> StatisticsReader { try StatisticsReader(descriptor: readOnly()) }

  /// A descriptor through which the region can only be read.
  func readOnly() throws(SystemError) -> Descriptor {
    try Descriptor(
      unsafe open("/proc/self/fd/\(memory.raw)", O_RDONLY | O_CLOEXEC), "open read-only", "statistics memory")
  }
}

/// Reads a forwarder's counters; they are sums over its workers, each value whole, not all of one instant.
public final class StatisticsReader: @unchecked Sendable {
  public struct Interface: Hashable, Sendable {
    public let id: UInt32
    public let rxPackets: UInt64
    public let rxBytes: UInt64
    public let txPackets: UInt64
    public let txBytes: UInt64
    public let drops: UInt64
    /// Packets left to the agent.
    public let trapped: UInt64
  }

  public struct Drop: Hashable, Sendable {
    public let name: String
    public let explanation: String
    public let count: UInt64
  }

  public struct Worker: Hashable, Sendable {
    public let index: UInt32
    public let core: Int32
    public let numaNode: Int32
    public let heartbeatAgeMilliseconds: UInt64
    public let batches: UInt64
    public let packets: UInt64
    public let sleeps: UInt64
    /// Entries in the worker's flow table: two for each flow.
    public let flows: UInt64
    /// Flows that were forwarded without an entry, because the table was full.
    public let flowsRefused: UInt64
    /// Frames of flows that another worker has, given to it; and taken from others.
    public let handedOver: UInt64
    public let takenOver: UInt64
    /// Keys of this worker whose flows live with others.
    public let redirects: UInt64
    /// Flows of others that had to go because this worker could not note whose they are.
    public let redirectsRefused: UInt64
    /// In rounds that took packets; the rest of the time it looked in vain, or slept.
    public let busyNanoseconds: UInt64
  }

  private let mapping: Mapping
  private let layout: StatisticsLayout

  init(descriptor: consuming Descriptor) throws(SystemError) {
    var status = stat()
    guard unsafe fstat(descriptor.raw, &status) == 0 else { throw SystemError("look at", "statistics memory") }
    let bytes = Int(status.st_size)
    mapping = try Mapping(descriptor: descriptor.raw, bytes: bytes, writable: false, what: "statistics memory")
    guard bytes >= StatisticsLayout.namesOffset, unsafe weft_load_acquire_u64(mapping.base) == StatisticsLayout.magic,
      unsafe mapping.base.load(fromByteOffset: 8, as: UInt32.self) == StatisticsLayout.version
    else { throw SystemError("understand", "statistics memory of another version", code: EPROTO) }
    layout = StatisticsLayout(
      workers: Int(unsafe mapping.base.load(fromByteOffset: 12, as: UInt32.self)),
      interfaces: Int(unsafe mapping.base.load(fromByteOffset: 16, as: UInt32.self)),
      reasons: Int(unsafe mapping.base.load(fromByteOffset: 20, as: UInt32.self)))
    guard layout.workers <= 4096, layout.interfaces <= 1 << 24, layout.reasons <= 256, layout.totalBytes <= bytes else {
      throw SystemError("understand", "statistics memory that is too small", code: EPROTO)
    }
  }

  func load(_ offset: Int) -> UInt64 { unsafe weft_load_relaxed_u64(mapping.base + offset) }
  private func block(_ worker: Int) -> Int { layout.workersOffset + worker * layout.workerBytes }

  /// Every interface slot that ever counted something. Those that exist without traffic are not told from free ones.
  public func interfaces() -> [Interface] {
    (0..<layout.interfaces).compactMap { slot in
      let interface = interface(UInt32(slot))
      return interface.rxPackets | interface.txPackets | interface.drops == 0 ? nil : interface
    }
  }

  public func interface(_ id: UInt32) -> Interface {
    var sums: [UInt64] = [0, 0, 0, 0, 0, 0]
    if Int(id) < layout.interfaces {
      for worker in 0..<layout.workers {
        let at = block(worker) + layout.interfacesOffset + Int(id) * StatisticsLayout.interfaceBytes
        for field in 0..<5 { sums[field] &+= load(at + field * 8) }
        sums[5] &+= load(at + StatisticsLayout.trappedOffset)
      }
    }
    return Interface(
      id: id, rxPackets: sums[0], rxBytes: sums[1], txPackets: sums[2], txBytes: sums[3], drops: sums[4],
      trapped: sums[5])
  }

  /// Every reason, in the forwarder's order.
  public func drops() -> [Drop] {
    (0..<layout.reasons).map { reason in
      let at = StatisticsLayout.namesOffset + reason * (StatisticsLayout.nameBytes + StatisticsLayout.textBytes)
      var count: UInt64 = 0
      for worker in 0..<layout.workers { count &+= load(block(worker) + layout.dropsOffset + reason * 8) }
      return Drop(
        name: text(at, StatisticsLayout.nameBytes),
        explanation: text(at + StatisticsLayout.nameBytes, StatisticsLayout.textBytes), count: count)
    }
  }

  public func workers() -> [Worker] {
    let now = weft_monotonic_ns()
    return (0..<layout.workers).map { worker in
      let at = block(worker)
      let beat = load(at)
      return Worker(
        index: UInt32(worker), core: Int32(truncatingIfNeeded: load(at + 8)),
        numaNode: Int32(truncatingIfNeeded: load(at + 16)),
        heartbeatAgeMilliseconds: now > beat ? (now - beat) / 1_000_000 : 0, batches: load(at + 24),
        packets: load(at + 32), sleeps: load(at + 40), flows: load(at + 48), flowsRefused: load(at + 56),
        handedOver: load(at + 64), takenOver: load(at + 72), redirects: load(at + 80), redirectsRefused: load(at + 88),
        busyNanoseconds: load(at + 96))
    }
  }

  /// Interfaces that a worker receives from, by number, and how many of their queues.
  public func queues(worker: UInt32) -> [(interface: UInt32, queues: UInt64)] {
    guard Int(worker) < layout.workers else { return [] }
    let first = block(Int(worker)) + layout.interfacesOffset + StatisticsLayout.queuesOffset
    return (0..<layout.interfaces).compactMap { interface in
      let queues = load(first + interface * StatisticsLayout.interfaceBytes)
      return queues == 0 ? nil : (UInt32(interface), queues)
    }
  }

  private func text(_ offset: Int, _ limit: Int) -> String {
    let bytes = unsafe UnsafeRawBufferPointer(start: mapping.base + offset, count: limit)
    return unsafe String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
  }
}
