import CLinux
import WeftSystem

/// Quiescent-state reclamation (QSBR): what the control thread replaces is freed only when no worker can hold it.
///
/// Each worker has a cache line with the epoch that it last saw between two batches, or `offline` while it sleeps.
/// The control thread puts replaced things aside with the epoch of their replacement and frees them once every worker
/// has seen a later one.
public final class Epochs: @unchecked Sendable {
  static let line = 64
  static let offline = UInt64.max

  private let memory: Mapping
  private let workers: Int
  private var retired: [(epoch: UInt64, free: () -> Void)] = []
  private var firstRetired = 0

  public init(workers: Int) throws(SystemError) {
    self.workers = workers
    memory = try Mapping(anonymous: (workers + 1) * Self.line, what: "epochs")
    unsafe weft_store_release_u64(memory.base, 1)
    for worker in 0..<workers { unsafe weft_store_release_u64(slot(worker), Self.offline) }
  }

  private func slot(_ worker: Int) -> UnsafeMutableRawPointer { unsafe memory.base + (worker + 1) * Self.line }

  /// A worker's end.
  public func worker(_ index: Int) -> WorkerEpoch {
    precondition(index >= 0 && index < workers)
    return unsafe WorkerEpoch(global: memory.base, own: slot(index))
  }

  private var current: UInt64 { unsafe weft_load_acquire_u64(memory.base) }

  private var oldestSeen: UInt64 {
    var oldest = Self.offline
    for worker in 0..<workers { oldest = min(oldest, unsafe weft_load_acquire_u64(slot(worker))) }
    return oldest
  }

  /// Frees something once no worker can hold it. The caller has already made it unreachable.
  public func retire(_ free: @escaping () -> Void) {
    let epoch = current + 1
    retired.append((epoch, free))
    unsafe weft_store_release_u64(memory.base, epoch)
    weft_fence()
    if retired.count - firstRetired >= 1024 { reclaim() }
  }

  /// Frees what may be freed by now. Cheap when there is nothing.
  public func reclaim() {
    guard firstRetired < retired.count else { return }
    let oldest = oldestSeen
    while firstRetired < retired.count, retired[firstRetired].epoch <= oldest {
      retired[firstRetired].free()
      retired[firstRetired].free = {}
      firstRetired += 1
    }
    if firstRetired == retired.count {
      retired.removeAll(keepingCapacity: retired.count < 4096)
      firstRetired = 0
    } else if firstRetired > 4096, firstRetired > retired.count / 2 {
      retired.removeFirst(firstRetired)
      firstRetired = 0
    }
  }

  /// What waits to be freed.
  public var pending: Int { retired.count - firstRetired }

  /// A mark to ask `hasPassed` for.
  public func mark() -> UInt64 {
    let epoch = current + 1
    unsafe weft_store_release_u64(memory.base, epoch)
    weft_fence()
    return epoch
  }

  /// True once every worker has seen everything that was changed before `mark` was taken.
  public func hasPassed(_ mark: UInt64) -> Bool { oldestSeen >= mark }
}

/// A worker's end of `Epochs`.
@safe @frozen public struct WorkerEpoch: @unchecked Sendable {
  @usableFromInline let global: UnsafeMutableRawPointer
  @usableFromInline let own: UnsafeMutableRawPointer

  init(global: UnsafeMutableRawPointer, own: UnsafeMutableRawPointer) {
    unsafe self.global = unsafe global
    unsafe self.own = unsafe own
  }

  /// Between two batches: the worker holds nothing of the tables.
  @inlinable @inline(__always) public func quiescent() {
    unsafe weft_store_release_u64(own, weft_load_acquire_u64(global))
  }

  /// Before sleeping.
  @inlinable public func goOffline() { unsafe weft_store_release_u64(own, UInt64.max) }

  /// After sleeping, before anything is looked up.
  @inlinable public func comeOnline() {
    unsafe weft_store_release_u64(own, weft_load_acquire_u64(global))
    weft_fence()
  }
}
