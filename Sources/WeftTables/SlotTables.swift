import CLinux
import WeftSystem

/// Pointers by index: one writer replaces them, any number of workers read them. What they point at never changes
/// after it was published, it is replaced.
public final class PointerTable: @unchecked Sendable {
  private let memory: Mapping
  public let capacity: Int

  public init(capacity: Int, what: String) throws(SystemError) {
    self.capacity = capacity
    // Before the first entry stands one that there never is.
    memory = try Mapping(anonymous: (capacity + 1) * 8, what: what)
  }

  private var base: UnsafeMutableRawPointer { unsafe memory.base + 8 }
  public var reader: PointerTableReader { unsafe PointerTableReader(base: base, capacity: capacity) }

  /// Publishes an entry and returns what was there.
  public func replace(_ index: Int, _ entry: UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? {
    precondition(index >= 0 && index < capacity)
    let old = unsafe weft_load_acquire_ptr(base + index * 8)
    unsafe weft_store_release_ptr(base + index * 8, entry)
    return unsafe old
  }
}

@safe @frozen public struct PointerTableReader: @unchecked Sendable {
  @usableFromInline let base: UnsafeMutableRawPointer
  @usableFromInline let capacity: Int

  init(base: UnsafeMutableRawPointer, capacity: Int) {
    unsafe self.base = unsafe base
    self.capacity = capacity
  }

  @inlinable @inline(__always) @unsafe public subscript(index: UInt32) -> UnsafeMutableRawPointer? {
    guard Int(index) < capacity else { return nil }
    return unsafe weft_load_acquire_ptr(base + Int(index) &* 8)
  }

  /// By an index and 1, as it stands in a published entry, whose writer has compared it with the capacity; 0 is "none".
  @inlinable @inline(__always) @unsafe public subscript(published number: UInt32) -> UnsafeMutableRawPointer? {
    unsafe weft_load_acquire_ptr(base + (Int(number) &* 8 &- 8))
  }
}

/// 32-bit values by index, directly: labels and VNIs to nexthops. 0 is "none"; pages nobody wrote cost nothing.
public final class DirectTable: @unchecked Sendable {
  private let memory: Mapping
  public let capacity: Int

  public init(capacity: Int, what: String) throws(SystemError) {
    self.capacity = capacity
    memory = try Mapping(anonymous: capacity * 4, what: what)
  }

  public var reader: DirectTableReader { unsafe DirectTableReader(base: memory.base, capacity: capacity) }

  public func set(_ index: Int, _ value: UInt32) {
    precondition(index >= 0 && index < capacity)
    unsafe weft_store_release_u32(memory.base + index * 4, value)
  }
}

@safe @frozen public struct DirectTableReader: @unchecked Sendable {
  @usableFromInline let base: UnsafeMutableRawPointer
  @usableFromInline let capacity: Int

  init(base: UnsafeMutableRawPointer, capacity: Int) {
    unsafe self.base = unsafe base
    self.capacity = capacity
  }

  @inlinable @inline(__always) public subscript(index: UInt32) -> UInt32 {
    guard Int(index) < capacity else { return 0 }
    return unsafe weft_load_acquire_u32(base + Int(index) &* 4)
  }

  /// The same for an index that stands in a published entry, whose writer has compared it with the capacity.
  @inlinable @inline(__always) public subscript(published index: UInt32) -> UInt32 {
    unsafe weft_load_acquire_u32(base + Int(index) &* 4)
  }
}

/// A path: the nexthop of a route or bridge entry, and the label or VNI to send with. 64 bits.
@frozen public struct Path: Hashable, Sendable {
  public let nexthop: UInt32
  public let label: UInt32

  @inlinable @inline(__always) public init(nexthop: UInt32, label: UInt32) {
    self.nexthop = nexthop
    self.label = label
  }
  @inlinable @inline(__always) init(bits: UInt64) {
    nexthop = UInt32(truncatingIfNeeded: bits)
    label = UInt32(truncatingIfNeeded: bits >> 32)
  }
  @inlinable public var bits: UInt64 { UInt64(label) << 32 | UInt64(nexthop) }
}

/// Paths by number; many routes share one. Number 0 is "none", a path to a nexthop that there never is.
public final class PathTable: @unchecked Sendable {
  private let memory: Mapping
  public let capacity: Int
  private var numbers: [Path: UInt32] = [:]
  private var uses: [UInt32] = [0]
  private var free: [UInt32] = []
  private let epochs: Epochs

  /// Grows with each change after which a path that somebody has kept may be another one.
  public let generation: DirectTable

  public init(capacity: Int, epochs: Epochs) throws(SystemError) {
    self.capacity = capacity
    self.epochs = epochs
    generation = try DirectTable(capacity: 1, what: "the routes' generation")
    memory = try Mapping(anonymous: (capacity + 1) * 8, what: "paths")
  }

  public var reader: PathTableReader { unsafe PathTableReader(base: memory.base) }

  /// The number of a path, with one use more; nil when the table is full.
  public func acquire(_ path: Path) -> UInt32? {
    if let number = numbers[path] {
      uses[Int(number)] += 1
      return number
    }
    let number: UInt32
    if let reused = free.popLast() {
      number = reused
    } else {
      guard uses.count <= capacity else { return nil }
      number = UInt32(uses.count)
      uses.append(0)
    }
    // The nexthop's number and 1: with 0, what nobody has written leads nowhere.
    unsafe weft_store_release_u64(
      memory.base + Int(number) * 8, Path(nexthop: path.nexthop &+ 1, label: path.label).bits)
    numbers[path] = number
    uses[Int(number)] = 1
    return number
  }

  /// What leads where has changed: paths that workers keep with flows are looked up anew.
  public func advance() { generation.set(0, generation.reader[0] &+ 1) }

  /// One use less; the number is used again once no worker can hold it.
  public func release(_ number: UInt32) {
    uses[Int(number)] -= 1
    guard uses[Int(number)] == 0 else { return }
    numbers[reader[number]] = nil
    // Before the number can be another path's.
    advance()
    epochs.retire { self.free.append(number) }
  }
}

@safe @frozen public struct PathTableReader: @unchecked Sendable {
  @usableFromInline let base: UnsafeMutableRawPointer

  init(base: UnsafeMutableRawPointer) { unsafe self.base = unsafe base }

  @inlinable @inline(__always) public subscript(number: UInt32) -> Path {
    let stored = unsafe Path(bits: weft_load_acquire_u64(base + Int(number) &* 8))
    return Path(nexthop: stored.nexthop &- 1, label: stored.label)
  }
}
