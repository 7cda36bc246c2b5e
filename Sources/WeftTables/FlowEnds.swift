import WeftSystem

/// A bounded queue of flows that have ended, in memory of its own.
///
/// When nobody takes them, records get lost, which is counted; but the last quarter is kept for those that somebody has
/// to hear of (a port to give back, a redirect to take back), and of these none is lost: `put` refuses them, and the flow
/// stays until there is room.
@safe struct FlowEnds {
  private let records: UnsafeMutablePointer<FlowEnd>
  private let mask: Int
  private var head = 0
  private var tail = 0
  private(set) var lost: UInt64 = 0

  /// `memory` has `bytes(capacity)`; `capacity` is a power of two.
  init(_ memory: UnsafeMutableRawPointer, capacity: Int) {
    unsafe records = memory.assumingMemoryBound(to: FlowEnd.self)
    mask = capacity - 1
  }

  static func bytes(_ capacity: Int) -> Int { capacity * MemoryLayout<FlowEnd>.stride }

  var count: Int { tail - head }
  private var capacity: Int { mask + 1 }
  var isFull: Bool { count == capacity }

  /// False when somebody has to hear of it and there is no room.
  mutating func put(_ end: FlowEnd) -> Bool {
    if end.reference == FlowTable.noReference, end.redirect == 0 {
      guard count < capacity - capacity / 4 else {
        lost &+= 1
        return true
      }
    } else if isFull {
      return false
    }
    unsafe (records + (tail & mask)).initialize(to: end)
    tail &+= 1
    return true
  }

  /// The oldest record, which stays.
  var first: FlowEnd? { head == tail ? nil : unsafe records[head & mask] }

  mutating func take() -> FlowEnd? {
    guard let end = first else { return nil }
    head &+= 1
    return end
  }
}
