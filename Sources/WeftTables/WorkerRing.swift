import CLinux
import WeftSystem

/// What one worker has to say, on its way to the control thread: one writer, one reader, neither waits for the other. What
/// finds no room is not written. Records hold no references.
public final class WorkerRing<Record: Sendable>: @unchecked Sendable {
  @usableFromInline static var slots: UInt64 { 4096 }
  private let memory: Mapping
  private var taken: UInt64 = 0

  public init() throws(SystemError) {
    memory = try Mapping(anonymous: 128 + Int(Self.slots) * MemoryLayout<Record>.stride, what: "workers' reports")
  }

  /// The worker's end. Good for as long as this lives.
  public var writer: WorkerRingWriter<Record> { unsafe WorkerRingWriter(base: memory.base) }

  /// The next record; nil when none waits.
  public func next() -> Record? {
    let written = unsafe weft_load_acquire_u64(memory.base)
    guard taken != written else { return nil }
    let at = unsafe memory.base + 128 + Int(taken & (Self.slots - 1)) * MemoryLayout<Record>.stride
    let record = unsafe at.assumingMemoryBound(to: Record.self).pointee
    taken &+= 1
    unsafe weft_store_release_u64(memory.base + 64, taken)
    return record
  }
}

/// A worker's end of a `WorkerRing`.
@safe @frozen public struct WorkerRingWriter<Record: Sendable>: @unchecked Sendable {
  @usableFromInline let base: UnsafeMutableRawPointer

  init(base: UnsafeMutableRawPointer) { unsafe self.base = unsafe base }

  /// False when there is no room.
  @inlinable @inline(__always) public func write(_ record: Record) -> Bool {
    let written = unsafe weft_load_relaxed_u64(base)
    guard written &- (unsafe weft_load_acquire_u64(base + 64)) < WorkerRing<Record>.slots else { return false }
    let at = unsafe base + 128 + Int(written & (WorkerRing<Record>.slots - 1)) &* MemoryLayout<Record>.stride
    unsafe at.assumingMemoryBound(to: Record.self).initialize(to: record)
    unsafe weft_store_release_u64(base, written &+ 1)
    return true
  }
}
