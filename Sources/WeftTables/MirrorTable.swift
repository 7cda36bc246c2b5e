import CLinux
import WeftSystem

/// Where copies of packets go. Never changed once published.
@frozen public struct MirrorEntry: Sendable {
  /// Through a VXLAN tunnel nexthop; else out of `interface`.
  public var isTunnel: Bool
  public var interface: UInt32
  public var nexthop: UInt32
  public var vni: UInt32
  /// Bytes of frame that are kept; 0 for all.
  public var truncation: UInt32

  public init(isTunnel: Bool, interface: UInt32, nexthop: UInt32, vni: UInt32, truncation: UInt32) {
    self.isTunnel = isTunnel
    self.interface = interface
    self.nexthop = nexthop
    self.vni = vni
    self.truncation = truncation
  }
}

/// What the workers have copied to a mirror.
public struct MirrorCounts: Hashable, Sendable {
  public var packets: UInt64 = 0
  public var bytes: UInt64 = 0
  public var shortened: UInt64 = 0
  public var lost: UInt64 = 0

  public init() {}

  public static func - (a: MirrorCounts, b: MirrorCounts) -> MirrorCounts {
    var difference = MirrorCounts()
    difference.packets = a.packets &- b.packets
    difference.bytes = a.bytes &- b.bytes
    difference.shortened = a.shortened &- b.shortened
    difference.lost = a.lost &- b.lost
    return difference
  }
}

/// Mirrors by number, from 1. One writer, any number of readers; each worker has counters of its own.
public final class MirrorTable: @unchecked Sendable {
  public static let capacity = 1024
  static let countBytes = 32

  private let entries: PointerTable
  private let counters: Mapping
  private let workers: Int
  private let epochs: Epochs

  init(workers: Int, epochs: Epochs) throws(SystemError) {
    entries = try PointerTable(capacity: Self.capacity, what: "mirrors")
    // Who forwards without workers of its own counts as the first one.
    self.workers = max(1, workers)
    counters = try Mapping(anonymous: self.workers * Self.capacity * Self.countBytes, what: "mirrors' counters")
    self.epochs = epochs
  }

  public var reader: MirrorReader {
    unsafe MirrorReader(entries: entries.reader, counters: counters.base, workers: workers)
  }

  /// Publishes a mirror, or takes it out (nil).
  public func publish(_ id: UInt32, _ entry: MirrorEntry?) {
    var raw: UnsafeMutableRawPointer?
    if let entry {
      let memory = UnsafeMutablePointer<MirrorEntry>.allocate(capacity: 1)
      unsafe memory.initialize(to: entry)
      unsafe raw = UnsafeMutableRawPointer(memory)
    }
    guard let old = unsafe entries.replace(Int(id), raw) else { return }
    epochs.retire { unsafe old.deallocate() }
  }

  /// Sums over the workers, from the forwarder's start on.
  public func counts(_ id: UInt32) -> MirrorCounts {
    var sum = MirrorCounts()
    for worker in 0..<workers {
      let part = unsafe Self.counts(counters.base, worker: worker, id)
      sum.packets &+= part.packets
      sum.bytes &+= part.bytes
      sum.shortened &+= part.shortened
      sum.lost &+= part.lost
    }
    return sum
  }

  static func counts(_ base: UnsafeMutableRawPointer, worker: Int, _ id: UInt32) -> MirrorCounts {
    let at = unsafe base + (worker * capacity + Int(id)) * countBytes
    var counts = MirrorCounts()
    counts.packets = unsafe weft_load_relaxed_u64(at)
    counts.bytes = unsafe weft_load_relaxed_u64(at + 8)
    counts.shortened = unsafe weft_load_relaxed_u64(at + 16)
    counts.lost = unsafe weft_load_relaxed_u64(at + 24)
    return counts
  }
}

/// The workers' view of `MirrorTable`.
@safe public struct MirrorReader: @unchecked Sendable {
  let entries: PointerTableReader
  let counters: UnsafeMutableRawPointer
  let workers: Int

  public subscript(id: UInt32) -> EntryReference<MirrorEntry>? {
    guard let raw = unsafe entries[id] else { return nil }
    return unsafe EntryReference(raw)
  }

  /// A worker's own counters.
  public func counter(worker: Int) -> MirrorCounter {
    precondition(worker >= 0 && worker < workers)
    return unsafe MirrorCounter(counters + worker * MirrorTable.capacity * MirrorTable.countBytes)
  }
}

/// One worker's counters of all mirrors.
@safe public struct MirrorCounter: @unchecked Sendable {
  private let base: UnsafeMutableRawPointer

  init(_ base: UnsafeMutableRawPointer) { unsafe self.base = unsafe base }

  private func place(_ id: UInt32) -> UnsafeMutableRawPointer {
    unsafe base + Int(id) &* MirrorTable.countBytes
  }
  public func copied(_ id: UInt32, bytes: Int, isShortened: Bool) {
    guard Int(id) < MirrorTable.capacity else { return }
    unsafe weft_count(place(id), 1)
    unsafe weft_count(place(id) + 8, UInt64(truncatingIfNeeded: bytes))
    if isShortened { unsafe weft_count(place(id) + 16, 1) }
  }
  public func lost(_ id: UInt32, packets: Int) {
    guard Int(id) < MirrorTable.capacity else { return }
    unsafe weft_count(place(id) + 24, UInt64(truncatingIfNeeded: packets))
  }
}
