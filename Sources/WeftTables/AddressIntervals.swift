import CLinux

/// A value for each address of a family, as intervals: a sorted array of leaves, each a sorted array of boundaries and
/// the value that holds from there to the next one.
///
/// Against a tree with a step for each octet this costs a few dozen instructions more for IPv4, as much for IPv6, and
/// 30 bytes instead of kilobytes for an address that has no neighbours, which is what a hundred thousand scattered
/// addresses need. A value changes in place; a boundary comes or goes with a new copy of its leaf (a few KiB), or of
/// the array of leaves when one is cut in two. One writer; readers see a leaf before or after, and nothing else.
@safe final class AddressIntervals<Key: FixedWidthInteger & UnsignedInteger & Sendable>: @unchecked Sendable {
  /// Boundaries in a leaf, at most.
  private static var leafCapacity: Int { 256 }

  /// Where readers find the array of leaves.
  private let place: UnsafeMutableRawPointer
  private let epochs: Epochs
  /// Boundaries, the one at 0 included.
  private(set) var count = 1

  /// One interval, the whole family, with this value.
  init(value: UInt32, epochs: Epochs) {
    self.epochs = epochs
    unsafe place = .allocate(byteCount: 64, alignment: 64)
    let leaf = Leaf<Key>.make(count: 1)
    leaf.set(0, key: 0, value: value, uses: 1)
    let top = Top<Key>.make(count: 1)
    top.set(0, first: 0, leaf)
    unsafe weft_store_release_ptr(place, top.memory)
  }

  deinit {
    let top = top
    for index in 0..<top.count { unsafe top.leaf(index).memory.deallocate() }
    unsafe top.memory.deallocate()
    unsafe place.deallocate()
  }

  var reader: AddressIntervalsReader<Key> { unsafe AddressIntervalsReader(place: place) }

  private var top: Top<Key> { unsafe Top(memory: weft_load_acquire_ptr(place).unsafelyUnwrapped) }

  /// The value of an address.
  func value(_ key: Key) -> UInt32 { reader.lookup(key) }

  /// Makes a boundary, or uses one that is there once more. True when an interval was cut in two: both have its value.
  func split(at key: Key) -> Bool {
    let top = top
    let number = top.index(of: key)
    let leaf = top.leaf(number)
    let index = leaf.index(of: key)
    if leaf.key(index) == key {
      leaf.use(index, 1)
      return false
    }
    count += 1
    let total = leaf.count + 1
    let whole = Leaf<Key>.make(count: total)
    whole.copy(leaf, 0..<index + 1, to: 0)
    whole.set(index + 1, key: key, value: leaf.value(index), uses: 1)
    whole.copy(leaf, index + 1..<leaf.count, to: index + 2)
    if total <= Self.leafCapacity {
      replace(number, whole, in: top)
    } else {
      // Keys that come in order fill the leaves that they leave behind.
      let cut = number == top.count - 1 && index == leaf.count - 1 ? total - 1 : total / 2
      let left = Leaf<Key>.make(count: cut)
      left.copy(whole, 0..<cut, to: 0)
      let right = Leaf<Key>.make(count: total - cut)
      right.copy(whole, cut..<total, to: 0)
      unsafe whole.memory.deallocate()
      let new = Top<Key>.make(count: top.count + 1)
      new.copy(top, 0..<number, to: 0)
      new.set(number, first: top.first(number), left)
      new.set(number + 1, first: right.key(0), right)
      new.copy(top, number + 1..<top.count, to: number + 2)
      publish(new, instead: top)
      unsafe retire(leaf.memory)
    }
    return true
  }

  /// Uses a boundary once less; when nobody uses it any more it goes, and with it the interval that began there, whose
  /// value this returns. The caller has made both sides' values the same.
  func unsplit(at key: Key) -> UInt32? {
    let top = top
    let number = top.index(of: key)
    let leaf = top.leaf(number)
    let index = leaf.index(of: key)
    precondition(leaf.key(index) == key && key != 0, "no boundary where one is used")
    leaf.use(index, -1)
    guard leaf.uses(index) == 0 else { return nil }
    count -= 1
    let value = leaf.value(index)
    if leaf.count > 1 {
      let new = Leaf<Key>.make(count: leaf.count - 1)
      new.copy(leaf, 0..<index, to: 0)
      new.copy(leaf, index + 1..<leaf.count, to: index)
      if index == 0 {
        // The leaf begins further on: what lies between belongs to the leaf before it.
        let changed = Top<Key>.make(count: top.count)
        changed.copy(top, 0..<top.count, to: 0)
        changed.set(number, first: new.key(0), new)
        publish(changed, instead: top)
        unsafe retire(leaf.memory)
      } else {
        replace(number, new, in: top)
      }
    } else {
      let new = Top<Key>.make(count: top.count - 1)
      new.copy(top, 0..<number, to: 0)
      new.copy(top, number + 1..<top.count, to: number)
      publish(new, instead: top)
      unsafe retire(leaf.memory)
    }
    return value
  }

  /// Calls `body` with the first address within the range and the value of each interval that has a part of it, and
  /// sets the value that it answers. Only intervals that begin within the range may be changed.
  func update(_ range: ClosedRange<Key>, _ body: (Key, UInt32) -> UInt32) {
    let top = top
    var number = top.index(of: range.lowerBound)
    var index = top.leaf(number).index(of: range.lowerBound)
    while number < top.count {
      let leaf = top.leaf(number)
      while index < leaf.count {
        let key = leaf.key(index)
        if key > range.upperBound { return }
        let old = leaf.value(index)
        let new = body(max(key, range.lowerBound), old)
        if new != old {
          precondition(key >= range.lowerBound, "an interval changed that begins before the range")
          leaf.setValue(index, new)
        }
        index += 1
      }
      number += 1
      index = 0
    }
  }

  private func replace(_ number: Int, _ new: Leaf<Key>, in top: Top<Key>) {
    let old = top.leaf(number)
    top.replace(number, new)
    unsafe retire(old.memory)
  }

  private func publish(_ new: Top<Key>, instead old: Top<Key>) {
    unsafe weft_store_release_ptr(place, new.memory)
    unsafe retire(old.memory)
  }

  private func retire(_ memory: UnsafeMutableRawPointer) {
    epochs.retire { unsafe memory.deallocate() }
  }
}

/// The last index whose key is not above `key`, in `count` sorted keys of which the first is not above it.
@inline(__always) func lastIndex<Key: FixedWidthInteger>(
  notAbove key: Key, _ keys: UnsafeMutableRawPointer, _ count: Int
) -> Int {
  // Without a branch on the comparison: which way it goes cannot be guessed.
  var base = 0
  var rest = count
  while rest > 1 {
    let half = rest >> 1
    let probe = unsafe keys.load(fromByteOffset: (base &+ half) &* MemoryLayout<Key>.stride, as: Key.self)
    base &+= half & (0 &- (probe <= key ? 1 : 0))
    rest &-= half
  }
  return base
}

/// Count (8 bytes, then 8 of padding), keys, values (4 bytes each), uses (4 bytes each, the writer's own).
@safe private struct Leaf<Key: FixedWidthInteger> {
  let memory: UnsafeMutableRawPointer

  static func make(count: Int) -> Leaf {
    let memory = UnsafeMutableRawPointer.allocate(
      byteCount: 16 + count * (MemoryLayout<Key>.stride + 8), alignment: 16)
    unsafe memory.storeBytes(of: count, as: Int.self)
    return unsafe Leaf(memory: memory)
  }

  var count: Int { unsafe memory.load(as: Int.self) }
  private var values: UnsafeMutableRawPointer { unsafe memory + 16 + count &* MemoryLayout<Key>.stride }

  @inline(__always) func index(of key: Key) -> Int { unsafe lastIndex(notAbove: key, memory + 16, count) }
  func key(_ index: Int) -> Key {
    unsafe memory.load(fromByteOffset: 16 + index * MemoryLayout<Key>.stride, as: Key.self)
  }
  @inline(__always) func value(_ index: Int) -> UInt32 { unsafe weft_load_acquire_u32(values + index &* 4) }
  func uses(_ index: Int) -> UInt32 { unsafe values.load(fromByteOffset: (count + index) * 4, as: UInt32.self) }

  func set(_ index: Int, key: Key, value: UInt32, uses: UInt32) {
    unsafe memory.storeBytes(of: key, toByteOffset: 16 + index * MemoryLayout<Key>.stride, as: Key.self)
    unsafe values.storeBytes(of: value, toByteOffset: index * 4, as: UInt32.self)
    unsafe values.storeBytes(of: uses, toByteOffset: (count + index) * 4, as: UInt32.self)
  }
  /// Entries of another leaf.
  func copy(_ other: Leaf, _ range: Range<Int>, to index: Int) {
    let stride = MemoryLayout<Key>.stride
    unsafe (memory + 16 + index * stride).copyMemory(
      from: other.memory + 16 + range.lowerBound * stride, byteCount: range.count * stride)
    unsafe (values + index * 4).copyMemory(from: other.values + range.lowerBound * 4, byteCount: range.count * 4)
    unsafe (values + (count + index) * 4).copyMemory(
      from: other.values + (other.count + range.lowerBound) * 4, byteCount: range.count * 4)
  }
  func setValue(_ index: Int, _ value: UInt32) { unsafe weft_store_release_u32(values + index * 4, value) }
  func use(_ index: Int, _ change: Int) {
    unsafe values.storeBytes(
      of: UInt32(Int(uses(index)) + change), toByteOffset: (count + index) * 4, as: UInt32.self)
  }
}

/// Count (8 bytes, then 8 of padding), each leaf's first key, pointers to the leaves.
@safe private struct Top<Key: FixedWidthInteger> {
  let memory: UnsafeMutableRawPointer

  static func make(count: Int) -> Top {
    let memory = UnsafeMutableRawPointer.allocate(
      byteCount: 16 + count * (MemoryLayout<Key>.stride + 8), alignment: 16)
    unsafe memory.storeBytes(of: count, as: Int.self)
    return unsafe Top(memory: memory)
  }

  var count: Int { unsafe memory.load(as: Int.self) }
  private var leaves: UnsafeMutableRawPointer { unsafe memory + 16 + count &* MemoryLayout<Key>.stride }

  @inline(__always) func index(of key: Key) -> Int { unsafe lastIndex(notAbove: key, memory + 16, count) }
  func first(_ index: Int) -> Key {
    unsafe memory.load(fromByteOffset: 16 + index * MemoryLayout<Key>.stride, as: Key.self)
  }
  @inline(__always) func leaf(_ index: Int) -> Leaf<Key> {
    unsafe Leaf(memory: weft_load_acquire_ptr(leaves + index &* 8).unsafelyUnwrapped)
  }
  func set(_ index: Int, first: Key, _ leaf: Leaf<Key>) {
    unsafe memory.storeBytes(of: first, toByteOffset: 16 + index * MemoryLayout<Key>.stride, as: Key.self)
    unsafe leaves.storeBytes(of: leaf.memory, toByteOffset: index * 8, as: UnsafeMutableRawPointer.self)
  }
  /// Leaves of another array.
  func copy(_ other: Top, _ range: Range<Int>, to index: Int) {
    let stride = MemoryLayout<Key>.stride
    unsafe (memory + 16 + index * stride).copyMemory(
      from: other.memory + 16 + range.lowerBound * stride, byteCount: range.count * stride)
    unsafe (leaves + index * 8).copyMemory(from: other.leaves + range.lowerBound * 8, byteCount: range.count * 8)
  }
  func replace(_ index: Int, _ leaf: Leaf<Key>) { unsafe weft_store_release_ptr(leaves + index * 8, leaf.memory) }
}

/// The workers' view of `AddressIntervals`.
@safe struct AddressIntervalsReader<Key: FixedWidthInteger & UnsignedInteger & Sendable>: @unchecked Sendable {
  let place: UnsafeMutableRawPointer

  @inline(__always) func lookup(_ key: Key) -> UInt32 {
    let top = unsafe Top<Key>(memory: weft_load_acquire_ptr(place).unsafelyUnwrapped)
    let leaf = top.leaf(top.index(of: key))
    return leaf.value(leaf.index(of: key))
  }
}
