import CLinux
import WeftSystem
import WeftWire

/// MAC addresses of IP addresses, of all VRFs: open addressing, one writer, readers without locks.
///
/// A slot holds a pointer to an entry that is never changed once it stands there. Removed entries leave marks; when those
/// are a quarter of the slots, the entries move to new memory, to which readers are then pointed.
@safe public final class NeighborTable: @unchecked Sendable {
  private final class Slots: Sendable {
    private let mapping: Mapping
    var base: UnsafeMutableRawPointer { unsafe mapping.base }
    init(_ count: Int) throws(SystemError) { mapping = try Mapping(anonymous: count * 8, what: "neighbours") }
  }

  struct Entry {
    let vrf: UInt32
    let address: IPAddress
    let mac: UInt64
  }

  public let capacity: Int
  private let slots: Int
  private let epochs: Epochs
  private let place: Mapping
  private var memory: Slots
  private let mark: UnsafeMutableRawPointer
  public private(set) var count = 0
  private var marks = 0

  public init(capacity: Int, epochs: Epochs) throws(SystemError) {
    self.capacity = capacity
    self.epochs = epochs
    var slots = 16
    while slots < capacity * 2 { slots *= 2 }
    self.slots = slots
    memory = try Slots(slots)
    place = try Mapping(anonymous: 64, what: "neighbours")
    unsafe mark = .allocate(byteCount: MemoryLayout<Entry>.size, alignment: 16)
    // Nobody's VRF.
    unsafe mark.initializeMemory(
      as: Entry.self, to: Entry(vrf: .max, address: IPAddress(high: 0, low: 0), mac: 0))
    unsafe weft_store_release_ptr(place.base, memory.base)
  }

  deinit { unsafe mark.deallocate() }

  public var reader: NeighborTableReader { unsafe NeighborTableReader(place: place.base, mask: UInt64(slots - 1)) }

  /// Sets an address's MAC; false when the table is full.
  public func set(vrf: UInt32, address: IPAddress, mac: MACAddress) -> Bool {
    let (found, free) = search(vrf, address)
    guard found != nil || count < capacity, let slot = found ?? free else { return false }
    let old = unsafe load(slot)
    let entry = UnsafeMutablePointer<Entry>.allocate(capacity: 1)
    unsafe entry.initialize(to: Entry(vrf: vrf, address: address, mac: mac.bits))
    unsafe store(slot, UnsafeMutableRawPointer(entry))
    if found != nil {
      if let old = unsafe old { unsafe retire(old) }
    } else {
      count += 1
      if unsafe old != nil { marks -= 1 }
    }
    return true
  }

  public func remove(vrf: UInt32, address: IPAddress) {
    guard let slot = search(vrf, address).found, let old = unsafe load(slot) else { return }
    unsafe store(slot, mark)
    unsafe retire(old)
    count -= 1
    marks += 1
    if marks > slots / 4 { renew() }
  }

  /// Where a key is, and where it could go.
  private func search(_ vrf: UInt32, _ address: IPAddress) -> (found: Int?, free: Int?) {
    var slot = Int(NeighborTableReader.hash(vrf, address) & UInt64(slots - 1))
    var free: Int?
    for _ in 0..<slots {
      guard let raw = unsafe load(slot) else { return (nil, free ?? slot) }
      if unsafe raw == mark {
        if free == nil { free = slot }
      } else {
        let entry = unsafe raw.load(as: Entry.self)
        if entry.vrf == vrf, entry.address == address { return (slot, free) }
      }
      slot = (slot + 1) & (slots - 1)
    }
    return (nil, free)
  }

  /// New memory without marks. Without room for it, marks stay for now.
  private func renew() {
    guard let new = try? Slots(slots) else { return }
    for slot in 0..<slots {
      guard let raw = unsafe load(slot), unsafe raw != mark else { continue }
      let entry = unsafe raw.load(as: Entry.self)
      var target = Int(NeighborTableReader.hash(entry.vrf, entry.address) & UInt64(slots - 1))
      while unsafe weft_load_acquire_ptr(new.base + target * 8) != nil { target = (target + 1) & (slots - 1) }
      unsafe weft_store_release_ptr(new.base + target * 8, raw)
    }
    let old = memory
    memory = new
    marks = 0
    unsafe weft_store_release_ptr(place.base, new.base)
    epochs.retire { _ = old }
  }

  private func retire(_ entry: UnsafeMutableRawPointer) {
    epochs.retire { unsafe entry.deallocate() }
  }

  private func load(_ slot: Int) -> UnsafeMutableRawPointer? { unsafe weft_load_acquire_ptr(memory.base + slot * 8) }
  private func store(_ slot: Int, _ entry: UnsafeMutableRawPointer) {
    unsafe weft_store_release_ptr(memory.base + slot * 8, entry)
  }
}

/// The workers' view of `NeighborTable`.
@safe public struct NeighborTableReader: @unchecked Sendable {
  private let place: UnsafeMutableRawPointer
  private let mask: UInt64

  init(place: UnsafeMutableRawPointer, mask: UInt64) {
    unsafe self.place = unsafe place
    self.mask = mask
  }

  static func hash(_ vrf: UInt32, _ address: IPAddress) -> UInt64 {
    var mixed = (address.high ^ UInt64(vrf) << 32) &* 0x9E37_79B9_7F4A_7C15
    mixed = (mixed ^ mixed >> 32 ^ address.low) &* 0xD6E8_FEB8_6659_FD93
    return mixed ^ mixed >> 32
  }

  /// The MAC (48 bits) of an address in a VRF; 0 for none.
  public func lookup(vrf: UInt32, address: IPAddress) -> UInt64 {
    let base = unsafe weft_load_acquire_ptr(place).unsafelyUnwrapped
    var slot = Self.hash(vrf, address) & mask
    for _ in 0...mask {
      guard let raw = unsafe weft_load_acquire_ptr(base + Int(truncatingIfNeeded: slot) &* 8) else { return 0 }
      let entry = unsafe raw.assumingMemoryBound(to: NeighborTable.Entry.self)
      if unsafe entry.pointee.vrf == vrf, unsafe entry.pointee.address == address { return unsafe entry.pointee.mac }
      slot = (slot &+ 1) & mask
    }
    return 0
  }
}
