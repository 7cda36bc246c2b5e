import CLinux
import WeftTables
import WeftWire

/// What stands in a record of a hand-over ring.
enum HandOverKind: UInt8 {
  /// Nothing: the rest of the ring up to its end.
  case skip
  /// A frame to be processed.
  case frame
  /// The sender has the flow of a key that the receiver owns.
  case redirect
  /// It has it no longer.
  case endRedirect
  /// It has none of that key, whatever the receiver believes.
  case forget
  /// A redirect that the receiver asked for cannot be: the flow has to go.
  case refuse
}

/// What the workers before have found out about a frame that is handed over.
@frozen @usableFromInline struct HandOverMark: OptionSet, Sendable {
  @usableFromInline let rawValue: UInt8
  @usableFromInline init(rawValue: UInt8) { self.rawValue = rawValue }

  /// How often it has been handed over.
  static let hops: UInt8 = 7
  /// Whoever gets it makes the flow, if there is none, though another worker owns the key.
  static let decided = HandOverMark(rawValue: 8)
  /// Its key's owner believes that the receiver has the flow.
  static let redirected = HandOverMark(rawValue: 16)
  /// A fragment: the ports of its packet are in the record, 0 where they are not known.
  static let ports = HandOverMark(rawValue: 32)
  /// An ICMP error about no flow that there is: it counts as a packet of a flow of its own.
  static let itself = HandOverMark(rawValue: 64)

  var hopCount: Int { Int(rawValue & Self.hops) }
  func after(_ marks: HandOverMark) -> HandOverMark {
    HandOverMark(rawValue: marks.rawValue & ~Self.hops | (rawValue &+ 1) & Self.hops)
  }
}

/// A byte ring from one worker to another, single producer, single consumer, in memory on the consumer's NUMA node.
///
/// Positions are bytes and only grow. A record is its header and what it carries, rounded up to 32 bytes, in one piece:
///
///     offset  bytes
///     0       4      bytes of record, header and rounding included
///     4       1      kind
///     5       1      marks
///     6       1      priority of the tag that has been taken off (`RxFrame.priority`)
///     8       4      interface, or a redirect's number
///     12      4      source port 16, destination port 16, from the top
///     16      4      bytes of frame
///     20      10     the frame's virtio-net header
///     32             the frame, or a flow's key
@safe struct HandOverRing {
  static let headerBytes = 32
  static let keyBytes = MemoryLayout<FlowKey>.size
  /// Of a record that carries a key.
  static let messageBytes = 96
  /// Two cache lines before the ring itself: how far the producer is, how far the consumer.
  static let controlBytes = 128

  let control: UnsafeMutableRawPointer
  let data: UnsafeMutableRawPointer
  let capacity: Int

  /// `memory` has `controlBytes` and `capacity` after them, a power of two; zeroed.
  init(_ memory: UnsafeMutableRawPointer, capacity: Int) {
    unsafe control = memory
    unsafe data = memory + Self.controlBytes
    self.capacity = capacity
  }

  @inline(__always) func at(_ position: UInt64) -> UnsafeMutableRawPointer {
    unsafe data + Int(truncatingIfNeeded: position) & (capacity &- 1)
  }
  var tail: UInt64 {
    @inline(__always) get { unsafe weft_load_acquire_u64(control) }
    nonmutating set { unsafe weft_store_release_u64(control, newValue) }
  }
  var head: UInt64 {
    @inline(__always) get { unsafe weft_load_acquire_u64(control + 64) }
    nonmutating set { unsafe weft_store_release_u64(control + 64, newValue) }
  }
}

/// The producer's end.
@safe struct HandOverSender {
  private let ring: HandOverRing
  private var position: UInt64
  private var published: UInt64
  /// The consumer has got so far, when last looked.
  private var seen: UInt64

  init(_ ring: HandOverRing) {
    self.ring = ring
    position = ring.tail
    published = position
    seen = ring.head
  }

  /// Records are there that the consumer cannot see yet.
  var hasUnpublished: Bool { position != published }

  /// Room for records of so many bytes in all, wherever the ring's end lies.
  mutating func hasRoom(_ bytes: Int) -> Bool {
    if ring.capacity &- Int(truncatingIfNeeded: position &- seen) >= bytes { return true }
    seen = ring.head
    return ring.capacity &- Int(truncatingIfNeeded: position &- seen) >= bytes
  }

  /// A record that carries `bytes`, its header written but for what only frames have; nil when there is no room.
  mutating func put(_ kind: HandOverKind, _ marks: HandOverMark, _ number: UInt32, bytes: Int) -> Bytes? {
    let needed = (HandOverRing.headerBytes &+ bytes &+ 31) & ~31
    let left = ring.capacity &- Int(truncatingIfNeeded: position) & (ring.capacity &- 1)
    guard hasRoom(needed <= left ? needed : needed &+ left) else { return nil }
    if needed > left {
      write(.skip, HandOverMark(rawValue: 0), 0, left)
      position &+= UInt64(truncatingIfNeeded: left)
    }
    write(kind, marks, number, needed)
    let record = unsafe Bytes(ring.at(position))
    position &+= UInt64(truncatingIfNeeded: needed)
    return record
  }

  private func write(_ kind: HandOverKind, _ marks: HandOverMark, _ number: UInt32, _ bytes: Int) {
    let at = unsafe ring.at(position)
    unsafe at.storeBytes(of: UInt32(truncatingIfNeeded: bytes), as: UInt32.self)
    unsafe at.storeBytes(of: kind.rawValue, toByteOffset: 4, as: UInt8.self)
    unsafe at.storeBytes(of: marks.rawValue, toByteOffset: 5, as: UInt8.self)
    unsafe at.storeBytes(of: number, toByteOffset: 8, as: UInt32.self)
  }

  mutating func put(_ kind: HandOverKind, _ key: FlowKey, number: UInt32) -> Bool {
    guard let record = put(kind, HandOverMark(rawValue: 0), number, bytes: HandOverRing.keyBytes) else { return false }
    unsafe record.pointer.storeBytes(of: key, toByteOffset: HandOverRing.headerBytes, as: FlowKey.self)
    return true
  }

  /// The consumer sees what has been put.
  mutating func publish() {
    published = position
    ring.tail = position
  }
}

/// The consumer's end.
@safe struct HandOverReceiver {
  /// A record, as long as it has not been released.
  @safe struct Record {
    let at: UnsafeMutableRawPointer

    var bytes: Int { unsafe Int(at.load(as: UInt32.self)) }
    var kind: HandOverKind { unsafe HandOverKind(rawValue: at.load(fromByteOffset: 4, as: UInt8.self)) ?? .skip }
    var marks: HandOverMark { unsafe HandOverMark(rawValue: at.load(fromByteOffset: 5, as: UInt8.self)) }
    /// An interface, or a redirect's number.
    var number: UInt32 { unsafe at.load(fromByteOffset: 8, as: UInt32.self) }
    var ports: UInt32 { unsafe at.load(fromByteOffset: 12, as: UInt32.self) }
    var key: FlowKey { unsafe at.load(fromByteOffset: HandOverRing.headerBytes, as: FlowKey.self) }
    var frame: RxFrame {
      var frame = unsafe RxFrame(
        bytes: Bytes(at + HandOverRing.headerBytes), length: Int(at.load(fromByteOffset: 16, as: UInt32.self)),
        virtio: VirtioNetHeader(reading: Bytes(at + 20)))
      frame.priority = unsafe at.load(fromByteOffset: 6, as: UInt8.self)
      return frame
    }
  }

  private let ring: HandOverRing
  private var position: UInt64
  private var limit: UInt64

  init(_ ring: HandOverRing) {
    self.ring = ring
    position = ring.head
    limit = position
  }

  /// Looks how far the producer is: `next` gives what is there by now.
  mutating func look() { limit = ring.tail }

  var next: Record? { position == limit ? nil : unsafe Record(at: ring.at(position)) }
  mutating func pass(_ record: Record) { position &+= UInt64(truncatingIfNeeded: record.bytes) }

  /// The producer may write over what has been passed.
  func release() { ring.head = position }

  /// Among what has not been passed, the sender says that it has the flow of a key no longer.
  func endsRedirect(_ key: FlowKey) -> Bool {
    let end = ring.tail
    var at = position
    while at != end {
      let record = unsafe Record(at: ring.at(at))
      if record.kind == .endRedirect || record.kind == .forget, record.key == key { return true }
      at &+= UInt64(truncatingIfNeeded: record.bytes)
    }
    return false
  }
}
