import CLinux
import WeftWire

/// Lookups of routes side by side: while each takes a step, the next nodes of the others are on their way into the cache.
/// Of one family: add up to `capacity` addresses, finish, read the paths.
@safe @frozen public struct RouteBatch {
  /// Lookups at most.
  @inlinable public static var capacity: Int { 32 }

  @usableFromInline let walks: UnsafeMutablePointer<RouteWalk>
  /// The lookups that have not ended.
  @usableFromInline let active: UnsafeMutablePointer<UInt8>
  /// Where the entries are that they come to next.
  @usableFromInline let entries: UnsafeMutablePointer<Int>
  @usableFromInline var left = 0
  public var count = 0

  public init() {
    unsafe walks = .allocate(capacity: Self.capacity)
    unsafe active = .allocate(capacity: Self.capacity)
    unsafe entries = .allocate(capacity: Self.capacity)
  }

  public func deallocate() {
    unsafe walks.deallocate()
    unsafe active.deallocate()
    unsafe entries.deallocate()
  }

  @inlinable @inline(__always) public mutating func removeAll() {
    count = 0
    left = 0
  }

  /// The path that a lookup found, in the order in which they were added; 0 for none.
  @inlinable @inline(__always) public func path(_ index: Int) -> UInt32 { unsafe walks[index].path }

  @inlinable @inline(__always) mutating func add(_ walk: RouteWalk) {
    unsafe walks[count] = walk
    unsafe active[left] = UInt8(truncatingIfNeeded: count)
    left &+= walk.node == 0 ? 0 : 1
    count &+= 1
  }

  /// The caller adds `capacity` lookups at most.
  @inlinable @inline(__always)
  public mutating func add(_ trees: CompressedTreesReader, root: UInt32, v6 address: IPAddress) {
    let walk = trees.begin(root: root, address)
    trees.prefetch(walk)
    add(walk)
  }

  @inlinable @inline(__always)
  public mutating func add(_ trees: PrefixTreesReader, root: UInt32, v4 address: UInt32) {
    let walk = trees.begin(root: root, address)
    trees.prefetch(walk)
    add(walk)
  }

  /// Takes all lookups to their end. A node's entry is mostly in another cache line than its head: each step is two rounds.
  @inlinable public mutating func finish(_ trees: CompressedTreesReader) {
    while left > 0 {
      var still = 0
      for index in 0..<left {
        let walk = unsafe active[index]
        unsafe trees.prefetchEntry(trees.find(&walks[Int(walk)]), &entries[index])
      }
      for index in 0..<left {
        let walk = unsafe active[index]
        unsafe trees.take(entries[index], &walks[Int(walk)])
        unsafe trees.prefetch(walks[Int(walk)])
        unsafe active[still] = walk
        still &+= unsafe walks[Int(walk)].node == 0 ? 0 : 1
      }
      left = still
    }
  }

  @inlinable public mutating func finish(_ trees: PrefixTreesReader) {
    while left > 0 {
      var still = 0
      for index in 0..<left {
        let walk = unsafe active[index]
        unsafe trees.step(&walks[Int(walk)])
        unsafe trees.prefetch(walks[Int(walk)])
        unsafe active[still] = walk
        still &+= unsafe walks[Int(walk)].node == 0 ? 0 : 1
      }
      left = still
    }
  }
}

/// Where a lookup is.
@frozen @usableFromInline struct RouteWalk {
  /// The bits that are left of the address, or its half, from the top.
  @usableFromInline var high: UInt64
  /// The second half.
  @usableFromInline var low: UInt64
  /// The node of the next step, 0 at the end.
  @usableFromInline var node: UInt32
  /// Path of the longest prefix met.
  @usableFromInline var path: UInt32

  @inlinable @inline(__always) init(high: UInt64, low: UInt64, node: UInt32, path: UInt32) {
    self.high = high
    self.low = low
    self.node = node
    self.path = path
  }
}
