/// When flows are to be looked at: a hierarchical timer wheel, linked through the entries themselves.
///
/// Four levels of 64 slots. A slot of level 0 stands for one tick (67 ms), one of level n for 64^n of them: 13 days in
/// all, beyond which a flow is looked at and put off once more. A packet does not touch the wheel: a flow stays where it
/// is until its slot comes up, and is then put where its last packet says, or ended. A bit for each slot tells which
/// have anything in them, so that a long pause costs no walk over empty ones.
@safe struct FlowWheel {
  static let tickShift: UInt64 = 26
  private static let levels = 4
  private static let slotShift: UInt64 = 6
  private static let slots = 64
  private static let span: UInt64 = 1 << (6 * 4)
  static let bytes = levels * slots * 4 + levels * 8

  private let heads: UnsafeMutablePointer<UInt32>
  private let occupied: UnsafeMutablePointer<UInt64>
  private let entries: UnsafeMutablePointer<FlowEntry>
  /// The tick up to which slots have been emptied, but for those of `level` and below.
  private var current: UInt64 = 0
  /// The level whose slot of the tick `current` is being emptied, from the top; -1 when all are.
  private var level = -1
  private var count = 0

  /// `memory` has `bytes`, aligned to 8.
  init(_ memory: UnsafeMutableRawPointer, entries: UnsafeMutablePointer<FlowEntry>) {
    unsafe occupied = memory.assumingMemoryBound(to: UInt64.self)
    unsafe heads = (memory + Self.levels * 8).assumingMemoryBound(to: UInt32.self)
    unsafe self.entries = unsafe entries
    for slot in 0..<Self.levels * Self.slots { unsafe heads[slot] = FlowTable.none }
  }

  /// Something may be due by `now` (ns). Cheap.
  func isBehind(_ now: UInt64) -> Bool { now >> Self.tickShift > current && count > 0 || level >= 0 }

  /// Puts a flow into the slot in which it is looked at: the first one that ends after `deadline`. Both in ns.
  mutating func arm(_ index: UInt32, deadline: UInt64, now: UInt64) {
    if count == 0 {
      current = now >> Self.tickShift
      level = -1
    }
    count += 1
    let due = deadline >> Self.tickShift + 1
    let delta = min(max(due, current + 1) - current, Self.span - 1)
    let tick = current + delta
    var level: UInt64 = 0
    while delta >> ((level + 1) * Self.slotShift) != 0 { level += 1 }
    let place = tick >> (level * Self.slotShift) & UInt64(Self.slots - 1)
    let slot = Int(level) * Self.slots + Int(place)
    let head = unsafe heads[slot]
    let entry = unsafe entries + Int(index)
    unsafe entry.pointee.wheelSlot = UInt16(slot)
    unsafe entry.pointee.wheelPrevious = FlowTable.none
    unsafe entry.pointee.wheelNext = head
    if head != FlowTable.none { unsafe entries[Int(head)].wheelPrevious = index }
    unsafe heads[slot] = index
    unsafe occupied[Int(level)] |= 1 << place
  }

  /// Takes an armed flow out.
  mutating func disarm(_ index: UInt32) {
    count -= 1
    let entry = unsafe entries + Int(index)
    let (next, previous) = unsafe (entry.pointee.wheelNext, entry.pointee.wheelPrevious)
    if next != FlowTable.none { unsafe entries[Int(next)].wheelPrevious = previous }
    if previous != FlowTable.none {
      unsafe entries[Int(previous)].wheelNext = next
      return
    }
    let slot = unsafe Int(entry.pointee.wheelSlot)
    unsafe heads[slot] = next
    if next == FlowTable.none { unsafe occupied[slot / Self.slots] &= ~(1 << UInt64(slot % Self.slots)) }
  }

  /// Takes out and gives the next flow whose slot has come up by `now` (ns), which need not be due itself; `none` when
  /// all slots up to then are empty.
  mutating func next(now: UInt64) -> UInt32 {
    let tick = now >> Self.tickShift
    while true {
      while level >= 0 {
        let shift = UInt64(level) * Self.slotShift
        // A slot of a higher level comes up with its first tick.
        if current & (1 << shift - 1) == 0 {
          let index = unsafe heads[level * Self.slots + Int(current >> shift & UInt64(Self.slots - 1))]
          if index != FlowTable.none {
            disarm(index)
            return index
          }
        }
        level -= 1
      }
      guard current < tick else { return FlowTable.none }
      let following = followingTick()
      guard following <= tick else {
        current = tick
        return FlowTable.none
      }
      current = following
      level = Self.levels - 1
    }
  }

  /// The next tick at which a slot with something in it comes up; the largest number when there is none.
  private func followingTick() -> UInt64 {
    var following = UInt64.max
    for level in 0..<Self.levels {
      let bits = unsafe occupied[level]
      guard bits != 0 else { continue }
      let shift = UInt64(level) * Self.slotShift
      let position = current >> shift
      let first = (position + 1) & UInt64(Self.slots - 1)
      let rotated = bits >> first | bits << ((64 - first) & 63)
      following = min(following, (position + 1 + UInt64(rotated.trailingZeroBitCount)) << shift)
    }
    return following
  }
}
