import WeftSystem

/// What became of a redirect that another worker asks for.
@frozen public enum RedirectOutcome: Sendable {
  case added
  /// Another worker has the key.
  case taken(worker: Int)
  case full
}

/// Keys of flows that live with another worker than the one that owns the key: with translation, the key of a flow's
/// answers has another owner than that of its first packet. The owner keeps, in a table of its own, who has the flow.
///
/// Open addressing, 64 bytes a slot, at most half of them taken; a removal moves those behind it up, so that no marks are
/// left. A bounded number: whoever makes a flow for which there is no place has to give it up.
@safe public struct RedirectTable {
  @frozen @usableFromInline struct Entry {
    var key: FlowKey
    /// Of the worker's redirects, which one; 0 for a free slot.
    var serial: UInt32
    var worker: UInt32
  }
  private static let slotBytes = 64

  public let capacity: Int
  private let seed: UInt64
  private let slots: UnsafeMutableRawPointer
  private let mask: Int
  private let memory: RedirectMemory
  public private(set) var count = 0

  public init(capacity: Int, seed: UInt64) throws(SystemError) {
    precondition(MemoryLayout<Entry>.size <= Self.slotBytes)
    self.capacity = max(1, capacity)
    self.seed = seed
    var slots = 4
    while slots < self.capacity * 2 { slots *= 2 }
    mask = slots - 1
    memory = try RedirectMemory(bytes: slots * Self.slotBytes)
    unsafe self.slots = memory.mapping.base
  }

  private func at(_ slot: Int) -> UnsafeMutablePointer<Entry> {
    unsafe (slots + slot &* Self.slotBytes).assumingMemoryBound(to: Entry.self)
  }
  private func start(_ key: FlowKey) -> Int { Int(truncatingIfNeeded: key.hash(seed: seed)) & mask }

  /// The slot of a key, or the free one in which its search ends.
  private func slot(_ key: FlowKey) -> Int {
    var slot = start(key)
    while unsafe at(slot).pointee.serial != 0 && at(slot).pointee.key != key { slot = (slot &+ 1) & mask }
    return slot
  }

  /// The worker that has the flow of a key; nil when none has said so.
  public func worker(_ key: FlowKey) -> Int? {
    guard count > 0 else { return nil }
    let entry = unsafe at(slot(key))
    return unsafe entry.pointee.serial == 0 ? nil : Int(entry.pointee.worker)
  }

  /// `worker` has the flow of `key`. A later redirect of the same worker takes the place of an earlier one.
  public mutating func add(_ key: FlowKey, worker: Int, serial: UInt32) -> RedirectOutcome {
    let entry = unsafe at(slot(key))
    if unsafe entry.pointee.serial != 0 {
      let other = unsafe Int(entry.pointee.worker)
      guard other == worker else { return .taken(worker: other) }
      unsafe entry.pointee.serial = serial
      return .added
    }
    guard count < capacity else { return .full }
    unsafe entry.pointee = Entry(key: key, serial: serial, worker: UInt32(truncatingIfNeeded: worker))
    count &+= 1
    return .added
  }

  /// The flow of `key` has ended. `serial` says which: a later one of the same key stays. nil: whichever it is.
  public mutating func remove(_ key: FlowKey, worker: Int, serial: UInt32?) {
    guard count > 0 else { return }
    var free = slot(key)
    let entry = unsafe at(free)
    guard unsafe entry.pointee.serial != 0, unsafe Int(entry.pointee.worker) == worker,
      unsafe serial == nil || serial == entry.pointee.serial
    else { return }
    count &-= 1
    var next = (free &+ 1) & mask
    while unsafe at(next).pointee.serial != 0 {
      // One that is not where it wants to be may move up, but not before its own start.
      let wanted = unsafe start(at(next).pointee.key)
      if (next &- wanted) & mask >= (next &- free) & mask {
        unsafe at(free).pointee = at(next).pointee
        free = next
      }
      next = (next &+ 1) & mask
    }
    unsafe at(free).pointee.serial = 0
  }
}

/// The memory of a worker's redirects.
final class RedirectMemory: Sendable {
  let mapping: Mapping

  init(bytes: Int) throws(SystemError) { mapping = try Mapping(anonymous: bytes, what: "redirects") }
}
