import CLinux
import WeftWire

/// The workers' view of `CompressedTrees`.
@safe @frozen public struct CompressedTreesReader: @unchecked Sendable {
  @usableFromInline let base: UnsafeMutableRawPointer

  init(base: UnsafeMutableRawPointer) { unsafe self.base = unsafe base }

  /// The number of the path of the longest prefix that covers an IPv6 address; 0 for none.
  @inlinable @inline(__always) public func lookup(root: UInt32, v6 address: IPAddress) -> UInt32 {
    var walk = begin(root: root, address)
    for _ in 0..<20 where walk.node != 0 { step(&walk) }
    return walk.path
  }

  @inlinable @inline(__always) func begin(root: UInt32, _ address: IPAddress) -> RouteWalk {
    let at = unsafe pointer(root) + Int(truncatingIfNeeded: address.high >> 54) &* 8
    let entry = unsafe weft_load_acquire_u64(at)
    return RouteWalk(
      high: address.high << 10, low: address.low,
      node: UInt32(truncatingIfNeeded: entry >> 32), path: UInt32(truncatingIfNeeded: entry) & 0x07FF_FFFF)
  }

  @inlinable @inline(__always) func pointer(_ node: UInt32) -> UnsafeMutableRawPointer {
    unsafe base + Int(node) &* 32
  }

  @inlinable @inline(__always) func prefetch(_ walk: RouteWalk) { unsafe weft_prefetch(pointer(walk.node)) }

  @inlinable @inline(__always) func step(_ walk: inout RouteWalk) { take(find(&walk), &walk) }

  /// The place in memory of the entry that a walk comes to in its node. An address that leaves the way before finds zeros,
  /// without a jump: it cannot be foreseen. What a node says of its runs and its way never changes while it can be reached.
  @inlinable @inline(__always) func find(_ walk: inout RouteWalk) -> Int {
    let place = Int(walk.node) &* 32
    let node = unsafe base + place
    let bitmap = unsafe node.load(as: UInt64.self)
    let word = unsafe node.load(fromByteOffset: 8, as: UInt64.self)
    let skipped = word & 0x3F
    let rest = word & 0x40 == 0 ? walk.high : walk.low
    let isOn = ((rest ^ word) >> 1) &>> (63 &- skipped) == 0
    let here = rest &<< skipped
    walk.high = here << 6
    let upTo = (2 as UInt64) &<< (here >> 58) &- 1
    return isOn ? place &+ 8 &+ (bitmap & upTo).nonzeroBitCount &* 8 : 0
  }

  @inlinable @inline(__always) func prefetchEntry(_ place: Int, _ kept: inout Int) {
    kept = place
    unsafe weft_prefetch(base + place)
  }

  @inlinable @inline(__always) func take(_ place: Int, _ walk: inout RouteWalk) {
    let entry = unsafe weft_load_acquire_u64(base + place)
    let path = UInt32(truncatingIfNeeded: entry) & 0x07FF_FFFF
    walk.path = path == 0 ? walk.path : path
    walk.node = UInt32(truncatingIfNeeded: entry >> 32)
  }
}
