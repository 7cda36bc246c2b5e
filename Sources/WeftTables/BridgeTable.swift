import CLinux
import WeftSystem
import WeftWire

/// MAC addresses of all VRFs to paths: open addressing, one writer, readers without locks.
///
/// A slot is a key (VRF 16 bits above the MAC's 48, plus one so that 0 is "free") and a value. A reader that found its
/// key looks at the key once more after the value: a slot that was taken for another key in between shows.
public final class BridgeTable: @unchecked Sendable {
  @usableFromInline static let free: UInt64 = 0
  @usableFromInline static let removed = UInt64.max
  private static let slotBytes = 16

  public let capacity: Int
  private let memory: Mapping
  private let slots: Int
  public private(set) var count = 0
  private var removedCount = 0

  /// VRF numbers fit into the key.
  public static let maximumVRFs = 1 << 15

  public init(capacity: Int) throws(SystemError) {
    self.capacity = capacity
    var slots = 16
    while slots < capacity * 2 { slots *= 2 }
    self.slots = slots
    memory = try Mapping(anonymous: slots * Self.slotBytes, what: "bridge table")
  }

  public var reader: BridgeTableReader { unsafe BridgeTableReader(base: memory.base, mask: UInt64(slots - 1)) }

  /// Sets a path; false when the table is full.
  public func set(vrf: UInt32, mac: MACAddress, path: UInt32) -> Bool {
    let key = BridgeTableReader.key(vrf: vrf, mac: mac.bits)
    var reuse: Int?
    var slot = start(key)
    while true {
      let found = keyAt(slot)
      if found == key {
        setValue(slot, path)
        return true
      }
      if found == Self.removed, reuse == nil { reuse = slot }
      if found == Self.free { break }
      slot = (slot + 1) & (slots - 1)
    }
    guard count < capacity else { return false }
    let place = reuse ?? slot
    if reuse != nil { removedCount -= 1 }
    setValue(place, path)
    setKey(place, key)
    count += 1
    return true
  }

  public func remove(vrf: UInt32, mac: MACAddress) {
    let key = BridgeTableReader.key(vrf: vrf, mac: mac.bits)
    var slot = start(key)
    while keyAt(slot) != key {
      if keyAt(slot) == Self.free { return }
      slot = (slot + 1) & (slots - 1)
    }
    count -= 1
    // A removed mark keeps chains whole; at a chain's end it is not needed, and neither are those before it.
    guard keyAt((slot + 1) & (slots - 1)) == Self.free else {
      setKey(slot, Self.removed)
      removedCount += 1
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

  private func start(_ key: UInt64) -> Int { Int(BridgeTableReader.spread(key) & UInt64(slots - 1)) }
  private func keyAt(_ slot: Int) -> UInt64 { unsafe weft_load_relaxed_u64(memory.base + slot * Self.slotBytes) }
  private func setKey(_ slot: Int, _ key: UInt64) {
    unsafe weft_store_release_u64(memory.base + slot * Self.slotBytes, key)
  }
  private func setValue(_ slot: Int, _ value: UInt32) {
    unsafe weft_store_release_u64(memory.base + slot * Self.slotBytes + 8, UInt64(value))
  }
}

/// The workers' view of `BridgeTable`.
@safe @frozen public struct BridgeTableReader: @unchecked Sendable {
  @usableFromInline let base: UnsafeMutableRawPointer
  @usableFromInline let mask: UInt64

  init(base: UnsafeMutableRawPointer, mask: UInt64) {
    unsafe self.base = unsafe base
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
