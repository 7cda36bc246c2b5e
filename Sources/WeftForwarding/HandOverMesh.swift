import CLinux
import WeftSystem
import WeftTables

/// The memory through which workers hand packets to each other: a ring for each ordered pair of them, and for each
/// worker a line on which the others say that they have put something into theirs.
///
///     a worker's part   line 0: it sleeps (4 bytes); from 64: a bit for each worker whose ring has something new, in
///                       whole lines; then a ring for each worker
public final class HandOverMesh: @unchecked Sendable {
  public let workers: Int
  /// Bytes of a ring: at least four of the largest frames (64 KiB).
  public let ringBytes: Int
  private let parts: [HandOverPart]

  /// `prepare` is called for each worker with the memory of its part, before that is touched: to have it on the worker's
  /// NUMA node. `ringBytes` is rounded up to a power of two of at least 512 KiB; nil: as many workers want it.
  public init(
    workers: Int, ringBytes: Int? = nil, prepare: (Int, UnsafeMutableRawBufferPointer) -> Void = { _, _ in }
  ) throws(SystemError) {
    self.workers = workers
    // All rings to a worker are 32 MiB at most up to 64 workers, of which pages that are never used cost nothing.
    var bytes = 512 << 10
    while bytes < ringBytes ?? min(4 << 20, (32 << 20) / max(1, workers)) { bytes *= 2 }
    self.ringBytes = bytes
    var parts: [HandOverPart] = []
    for worker in 0..<workers {
      let part = try HandOverPart(
        bytes: Self.bells + Self.bellBytes(workers) + workers * (HandOverRing.controlBytes + bytes))
      unsafe prepare(worker, UnsafeMutableRawBufferPointer(start: part.memory.base, count: part.memory.count))
      parts.append(part)
    }
    self.parts = parts
  }

  /// Where in a worker's part the bits are.
  static let bells = 64
  private static func bellBytes(_ workers: Int) -> Int { (workers + 511) / 512 * 64 }

  func part(_ worker: Int) -> UnsafeMutableRawPointer { unsafe parts[worker].memory.base }

  func ring(from sender: Int, to receiver: Int) -> HandOverRing {
    let offset = Self.bells + Self.bellBytes(workers) + sender * (HandOverRing.controlBytes + ringBytes)
    return unsafe HandOverRing(parts[receiver].memory.base + offset, capacity: ringBytes)
  }
}

/// What belongs to one worker.
private final class HandOverPart: Sendable {
  let memory: Mapping

  init(bytes: Int) throws(SystemError) { memory = try Mapping(anonymous: bytes, what: "hand-over rings") }
}
