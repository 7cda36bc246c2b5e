import CLinux

/// How captured frames lie in shared memory: a head, then for each worker a page of positions and a ring of bytes.
///
///     0       magic 8, version 4, workers 4, bytes of each ring 8
///     4096    for each worker: 0 written by the worker (position in bytes), 64 taken by the reader,
///             128 frames for which there was no room
///     then    for each worker its ring
///
/// A record begins at a multiple of 8 and lies in one piece; what is left at the ring's end is skipped (length 0).
///
///     0       4   bytes of record, a multiple of 8; 0: go on at the ring's start
///     4       4   bytes of frame that follow
///     8       4   bytes of frame that there were
///     12      4   interface
///     16      8   time (ns since 1970)
///     24      1   1 in, 2 out, 3 dropped
///     25      1   drop reason
///     26      6   zero
///     32      frame
public enum CaptureMemory {
  public static let magic: UInt64 = 0x5041_4354_5446_4557  // "WEFTTCAP"
  public static let version: UInt32 = 1
  public static let pageBytes = 4096
  public static let headerBytes = 32
  static let taken = 64
  static let lost = 128

  public static func bytes(workers: Int, ring: Int) -> Int { pageBytes + workers * (pageBytes + ring) }
  static func page(_ base: UnsafeMutableRawPointer, worker: Int, ring: Int) -> UnsafeMutableRawPointer {
    unsafe base + pageBytes + worker * (pageBytes + ring)
  }

  /// Writes the head. `ring` is a power of two.
  public static func format(_ mapping: borrowing Mapping, workers: Int, ring: Int) {
    precondition(ring & (ring - 1) == 0 && mapping.count >= bytes(workers: workers, ring: ring))
    unsafe mapping.base.storeBytes(of: version, toByteOffset: 8, as: UInt32.self)
    unsafe mapping.base.storeBytes(of: UInt32(workers), toByteOffset: 12, as: UInt32.self)
    unsafe mapping.base.storeBytes(of: UInt64(ring), toByteOffset: 16, as: UInt64.self)
    unsafe weft_store_release_u64(mapping.base, magic)
  }
}

/// A captured frame's record but for its bytes.
public struct CaptureRecord: Hashable, Sendable {
  public enum Kind: UInt8, Sendable, CaseIterable {
    case arrival = 1
    case departure
    case drop
  }

  public var kind: Kind
  /// `drop`: the reason's number.
  public var reason: UInt8
  public var interface: UInt32
  /// Nanoseconds since 1970.
  public var time: UInt64
  /// Bytes of the whole frame.
  public var length: UInt32

  public init(kind: Kind, reason: UInt8 = 0, interface: UInt32, time: UInt64, length: UInt32) {
    self.kind = kind
    self.reason = reason
    self.interface = interface
    self.time = time
    self.length = length
  }
}

/// The worker's end of its ring. One thread; nothing here waits.
@safe public struct CaptureProducer {
  private let page: UnsafeMutableRawPointer
  private let ring: Int
  /// Its own, never read from the shared memory.
  private var position: UInt64 = 0

  public init(_ memory: borrowing Mapping, worker: Int, ring: Int) {
    unsafe page = CaptureMemory.page(memory.base, worker: worker, ring: ring)
    self.ring = ring
  }

  /// Room for a record with `count` bytes of frame; counted as lost where there is none. `write` puts those bytes where
  /// it is told.
  @inline(__always)
  public mutating func put(_ record: CaptureRecord, count: Int, _ write: (UnsafeMutableRawPointer) -> Void) {
    let bytes = (CaptureMemory.headerBytes &+ count &+ 7) & ~7
    let offset = Int(truncatingIfNeeded: position) & (ring &- 1)
    let skip = offset &+ bytes <= ring ? 0 : ring &- offset
    let used = position &- (unsafe weft_load_acquire_u64(page + CaptureMemory.taken))
    // A reader that claims to be ahead has damaged its own capture: it gets nothing more.
    guard used <= UInt64(ring), Int(truncatingIfNeeded: used) &+ skip &+ bytes <= ring else {
      unsafe weft_count(page + CaptureMemory.lost, 1)
      return
    }
    let data = unsafe page + CaptureMemory.pageBytes
    if skip > 0 { unsafe data.storeBytes(of: 0, toByteOffset: offset, as: UInt32.self) }
    let at = unsafe data + (skip > 0 ? 0 : offset)
    unsafe at.storeBytes(of: UInt32(truncatingIfNeeded: bytes), as: UInt32.self)
    unsafe at.storeBytes(of: UInt32(truncatingIfNeeded: count), toByteOffset: 4, as: UInt32.self)
    unsafe at.storeBytes(of: record.length, toByteOffset: 8, as: UInt32.self)
    unsafe at.storeBytes(of: record.interface, toByteOffset: 12, as: UInt32.self)
    unsafe at.storeBytes(of: record.time, toByteOffset: 16, as: UInt64.self)
    unsafe at.storeBytes(
      of: UInt64(record.kind.rawValue) | UInt64(record.reason) << 8, toByteOffset: 24, as: UInt64.self)
    unsafe write(at + CaptureMemory.headerBytes)
    position &+= UInt64(truncatingIfNeeded: skip &+ bytes)
    unsafe weft_store_release_u64(page, position)
  }
}

/// The memory of a capture does not hold what it should.
public struct CaptureCorrupt: Error, Sendable {}

/// The reader's end of all rings. What it reads is checked, so that a damaged ring ends the capture and nothing else.
@safe public struct CaptureConsumer: ~Copyable, Sendable {
  private let memory: Mapping
  public let workers: Int
  private let ring: Int
  private var positions: [UInt64]

  public init(_ memory: consuming Mapping) throws(CaptureCorrupt) {
    guard memory.count >= CaptureMemory.pageBytes,
      unsafe weft_load_acquire_u64(memory.base) == CaptureMemory.magic,
      unsafe memory.base.load(fromByteOffset: 8, as: UInt32.self) == CaptureMemory.version
    else { throw CaptureCorrupt() }
    let workers = Int(unsafe memory.base.load(fromByteOffset: 12, as: UInt32.self))
    let size = unsafe memory.base.load(fromByteOffset: 16, as: UInt64.self)
    guard (1...4096).contains(workers), size >= 4096, size <= 1 << 30, size & (size - 1) == 0,
      CaptureMemory.bytes(workers: workers, ring: Int(size)) <= memory.count
    else { throw CaptureCorrupt() }
    self.workers = workers
    ring = Int(size)
    positions = Array(repeating: 0, count: workers)
    self.memory = memory
  }

  /// Frames for which there was no room.
  public var lost: UInt64 {
    var total: UInt64 = 0
    for worker in 0..<workers {
      total &+= unsafe weft_load_relaxed_u64(
        CaptureMemory.page(memory.base, worker: worker, ring: ring) + CaptureMemory.lost)
    }
    return total
  }

  /// Takes what there is of a worker, at most `limit` frames; how many there were.
  public mutating func take(
    worker: Int, limit: Int, _ body: (CaptureRecord, UnsafeRawBufferPointer) -> Void
  ) throws(CaptureCorrupt) -> Int {
    let page = unsafe CaptureMemory.page(memory.base, worker: worker, ring: ring)
    let data = unsafe page + CaptureMemory.pageBytes
    let end = unsafe weft_load_acquire_u64(page)
    var position = positions[worker]
    var count = 0
    guard end &- position <= UInt64(ring) else { throw CaptureCorrupt() }
    while position != end, count < limit {
      let offset = Int(truncatingIfNeeded: position) & (ring - 1)
      let bytes = Int(unsafe data.load(fromByteOffset: offset, as: UInt32.self))
      if bytes == 0 {
        position &+= UInt64(ring - offset)
        guard end &- position <= UInt64(ring) else { throw CaptureCorrupt() }
        continue
      }
      guard bytes & 7 == 0, bytes >= CaptureMemory.headerBytes, offset + bytes <= ring,
        UInt64(bytes) <= end &- position
      else { throw CaptureCorrupt() }
      let kept = Int(unsafe data.load(fromByteOffset: offset + 4, as: UInt32.self))
      let kinds = unsafe data.load(fromByteOffset: offset + 24, as: UInt64.self)
      guard kept <= bytes - CaptureMemory.headerBytes,
        let kind = CaptureRecord.Kind(rawValue: UInt8(truncatingIfNeeded: kinds))
      else { throw CaptureCorrupt() }
      let record = unsafe CaptureRecord(
        kind: kind, reason: UInt8(truncatingIfNeeded: kinds >> 8),
        interface: data.load(fromByteOffset: offset + 12, as: UInt32.self),
        time: data.load(fromByteOffset: offset + 16, as: UInt64.self),
        length: data.load(fromByteOffset: offset + 8, as: UInt32.self))
      unsafe body(record, UnsafeRawBufferPointer(start: data + offset + CaptureMemory.headerBytes, count: kept))
      position &+= UInt64(bytes)
      count += 1
    }
    positions[worker] = position
    unsafe weft_store_release_u64(page + CaptureMemory.taken, position)
    return count
  }
}
