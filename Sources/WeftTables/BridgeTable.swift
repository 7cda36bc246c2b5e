import CLinux
import WeftSystem
import WeftWire

/// MAC addresses of all VRFs to paths: open addressing, one writer, readers without locks.
///
/// A slot is a key (VRF 16 bits above the MAC's 48, plus one so that 0 is "free") and a value. A reader that found its
/// key looks at the key once more after the value: a slot that was taken for another key in between shows.
///
/// Removed keys leave marks, without which searches would end too early. Marks make searches longer and free slots
/// fewer, so when they are a quarter of the slots, the entries move to a second memory without marks, to which readers
/// are then pointed; the first is cleared when no reader can be in it, and serves the next time.
public final class BridgeTable: @unchecked Sendable {
  @usableFromInline static let free: UInt64 = 0
  @usableFromInline static let removed = UInt64.max
  private static let slotBytes = 16

  public let capacity: Int
  private let first: Mapping
  private let second: Mapping
  /// Where readers find the slots in force.
  private let place: Mapping
  private var isSecond = false
  private var otherIsClear = true
  private let epochs: Epochs
  private let slots: Int
  public private(set) var count = 0
  private var removedCount = 0

  /// VRF numbers fit into the key.
  public static let maximumVRFs = 1 << 15

  public init(capacity: Int, epochs: Epochs) throws(SystemError) {
    self.capacity = capacity
    self.epochs = epochs
    var slots = 16
    while slots < capacity * 2 { slots *= 2 }
    self.slots = slots
    first = try Mapping(anonymous: slots * Self.slotBytes, what: "bridge table")
    second = try Mapping(anonymous: slots * Self.slotBytes, what: "bridge table")
    place = try Mapping(anonymous: 64, what: "bridge table")
    unsafe weft_store_release_ptr(place.base, first.base)
  }

  public var reader: BridgeTableReader { unsafe BridgeTableReader(place: place.base, mask: UInt64(slots - 1)) }

  /// Sets a path; false when the table is full.
  public func set(vrf: UInt32, mac: MACAddress, path: UInt32) -> Bool {
    let key = BridgeTableReader.key(vrf: vrf, mac: mac.bits)
    var target: Int?
    var slot = start(key)
    for _ in 0..<slots {
      let found = keyAt(slot)
      if found == key {
        setValue(slot, path)
        return true
      }
      if found == Self.removed || found == Self.free, target == nil { target = slot }
      if found == Self.free { break }
      slot = after(slot)
    }
    guard count < capacity, let target else { return false }
    if keyAt(target) == Self.removed { removedCount -= 1 }
    setValue(target, path)
    setKey(target, key)
    count += 1
    return true
  }

  public func remove(vrf: UInt32, mac: MACAddress) {
    let key = BridgeTableReader.key(vrf: vrf, mac: mac.bits)
    var slot = start(key)
    var searched = 0
    while keyAt(slot) != key {
      searched += 1
      if keyAt(slot) == Self.free || searched == slots { return }
      slot = after(slot)
    }
    count -= 1
    // At a chain's end no mark is needed, and neither are those before it.
    guard keyAt(after(slot)) == Self.free else {
      setKey(slot, Self.removed)
      removedCount += 1
      if removedCount > slots / 4, otherIsClear { renew() }
      return
    }
    setKey(slot, Self.free)
    var before = (slot - 1) & (slots - 1)
    while keyAt(before) == Self.removed {
      setKey(before, Self.free)
      removedCount -= 1
      before = (before - 1) & (slots - 1)
    }
  }

  /// Moves all entries to the other memory.
  private func renew() {
    let (old, new) = unsafe isSecond ? (second.base, first.base) : (first.base, second.base)
    for slot in 0..<slots {
      let key = unsafe weft_load_relaxed_u64(old + slot * Self.slotBytes)
      guard key != Self.free, key != Self.removed else { continue }
      var target = start(key)
      while unsafe weft_load_relaxed_u64(new + target * Self.slotBytes) != Self.free { target = after(target) }
      unsafe weft_store_relaxed_u64(
        new + target * Self.slotBytes + 8, weft_load_relaxed_u64(old + slot * Self.slotBytes + 8))
      unsafe weft_store_relaxed_u64(new + target * Self.slotBytes, key)
    }
    unsafe weft_store_release_ptr(place.base, new)
    isSecond.toggle()
    removedCount = 0
    otherIsClear = false
    epochs.retire { [self] in
      isSecond ? first.clear() : second.clear()
      otherIsClear = true
    }
  }

  private var base: UnsafeMutableRawPointer { unsafe isSecond ? second.base : first.base }
  private func start(_ key: UInt64) -> Int { Int(BridgeTableReader.spread(key) & UInt64(slots - 1)) }
  private func after(_ slot: Int) -> Int { (slot + 1) & (slots - 1) }
  private func keyAt(_ slot: Int) -> UInt64 { unsafe weft_load_relaxed_u64(base + slot * Self.slotBytes) }
  private func setKey(_ slot: Int, _ key: UInt64) { unsafe weft_store_release_u64(base + slot * Self.slotBytes, key) }
  private func setValue(_ slot: Int, _ value: UInt32) {
    unsafe weft_store_release_u64(base + slot * Self.slotBytes + 8, UInt64(value))
  }
}

/// The workers' view of `BridgeTable`.
@safe @frozen public struct BridgeTableReader: @unchecked Sendable {
  @usableFromInline let place: UnsafeMutableRawPointer
  @usableFromInline let mask: UInt64

  init(place: UnsafeMutableRawPointer, mask: UInt64) {
    unsafe self.place = unsafe place
    self.mask = mask
  }

  @inlinable @inline(__always) static func key(vrf: UInt32, mac: UInt64) -> UInt64 { (UInt64(vrf) << 48 | mac) &+ 1 }
  @inlinable @inline(__always) static func spread(_ key: UInt64) -> UInt64 {
    let mixed = (key ^ key >> 29) &* 0x9E37_79B9_7F4A_7C15
    return mixed ^ mixed >> 32
  }

  /// The path of a MAC (48 bits) in a VRF; 0 for none.
  @inlinable @inline(__always) public func lookup(vrf: UInt32, mac: UInt64) -> UInt32 {
    let key = Self.key(vrf: vrf, mac: mac)
    let base = unsafe weft_load_acquire_ptr(place).unsafelyUnwrapped
    var slot = Self.spread(key) & mask
    // At most half of the slots are taken; the bound is for a chain that changes all the time.
    for _ in 0...mask {
      let at = unsafe base + Int(truncatingIfNeeded: slot) &* 16
      let found = unsafe weft_load_acquire_u64(at)
      if found == key {
        let value = unsafe weft_load_acquire_u64(at + 8)
        if unsafe weft_load_acquire_u64(at) == key { return UInt32(truncatingIfNeeded: value) }
        continue
      }
      if found == 0 { return 0 }
      slot = (slot &+ 1) & mask
    }
    return 0
  }
}
