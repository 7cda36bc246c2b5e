import CLinux

/// The other side of a ring has put an impossible position into shared memory.
public struct RingCorrupt: Error, Sendable {}

/// One end of a single-producer, single-consumer ring of fixed-size slots in shared memory.
///
/// Positions count up and never wrap in practice (64 bits). Each end keeps its own position to itself and only
/// publishes it; what it reads of the other end is checked. Acquire and release are all the ordering there is.
@safe struct SPSCRing {
  private let head: UnsafeMutableRawPointer
  private let tail: UnsafeMutableRawPointer
  private let slots: UnsafeMutableRawPointer
  private let slotBytes: Int
  private let mask: UInt64
  /// This end's own position: of the next slot to write, or to read.
  private var position: UInt64 = 0
  /// What was last seen of the other end.
  private var other: UInt64 = 0

  init(
    head: UnsafeMutableRawPointer, tail: UnsafeMutableRawPointer, slots: UnsafeMutableRawPointer, slotBytes: Int,
    slotCount: Int
  ) {
    precondition(slotCount & (slotCount - 1) == 0)
    unsafe self.head = unsafe head
    unsafe self.tail = unsafe tail
    unsafe self.slots = unsafe slots
    self.slotBytes = slotBytes
    mask = UInt64(slotCount - 1)
  }

  private var capacity: UInt64 { mask + 1 }

  private func slot(_ at: UInt64) -> UnsafeMutableRawPointer {
    unsafe slots + Int(truncatingIfNeeded: at & mask) * slotBytes
  }

  // MARK: producer

  /// Slots free to write.
  mutating func free() throws(RingCorrupt) -> Int {
    other = unsafe weft_load_acquire_u64(tail)
    guard position &- other <= capacity else { throw RingCorrupt() }
    return Int(capacity - (position &- other))
  }

  /// Writes a message, or returns false when the ring is full.
  mutating func write(kind: UInt16, sequence: UInt64, _ body: (inout SlotWriter) -> Void) throws(RingCorrupt) -> Bool {
    if position &- other >= capacity, try free() == 0 { return false }
    let slot = unsafe slot(position)
    var payload = unsafe SlotWriter(
      slot + MessageLayout.headerBytes, limit: slotBytes - MessageLayout.headerBytes)
    body(&payload)
    unsafe slot.storeBytes(of: kind, toByteOffset: 0, as: UInt16.self)
    unsafe slot.storeBytes(of: 0, toByteOffset: 2, as: UInt16.self)
    unsafe slot.storeBytes(of: UInt32(payload.count), toByteOffset: 4, as: UInt32.self)
    unsafe slot.storeBytes(of: sequence, toByteOffset: 8, as: UInt64.self)
    position &+= 1
    unsafe weft_store_release_u64(head, position)
    return true
  }

  // MARK: consumer

  /// Messages that wait.
  mutating func waiting() throws(RingCorrupt) -> Int {
    other = unsafe weft_load_acquire_u64(head)
    guard other &- position <= capacity else { throw RingCorrupt() }
    return Int(other &- position)
  }

  /// Takes a message, copied; nil when there is none. A payload length beyond the slot is cut to the slot: the
  /// message then fails to decode.
  mutating func read() throws(RingCorrupt) -> RawMessage? {
    if position == other, try waiting() == 0 { return nil }
    let slot = unsafe slot(position)
    let kind = unsafe slot.load(fromByteOffset: 0, as: UInt16.self)
    let length = min(
      Int(unsafe slot.load(fromByteOffset: 4, as: UInt32.self)), slotBytes - MessageLayout.headerBytes)
    let sequence = unsafe slot.load(fromByteOffset: 8, as: UInt64.self)
    let payload = unsafe Array(
      UnsafeRawBufferPointer(start: slot + MessageLayout.headerBytes, count: length))
    position &+= 1
    unsafe weft_store_release_u64(tail, position)
    return RawMessage(kind: kind, sequence: sequence, payload: payload)
  }
}
