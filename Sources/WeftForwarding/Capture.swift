import WeftSystem
import WeftTables
import WeftWire

// Copies of frames for who wants to look at them, in shared memory of his own (WeftSystem/ByteRing.swift). With nobody
// looking, an interface's frames pay nothing for it and a drop one branch.

/// What a capture takes.
public struct CaptureSelection: Sendable {
  /// Numbers of interfaces; nil for all.
  public var interfaces: Set<UInt32>?
  public var arrivals: Bool
  public var departures: Bool
  public var drops: Bool
  /// A bit for each drop reason.
  public var reasons: (low: UInt64, high: UInt64)
  /// Bytes of frame that are kept.
  public var snap: Int

  public init(
    interfaces: Set<UInt32>?, arrivals: Bool, departures: Bool, drops: Bool,
    reasons: (low: UInt64, high: UInt64) = (.max, .max), snap: Int = 262_144
  ) {
    self.interfaces = interfaces
    self.arrivals = arrivals
    self.departures = departures
    self.drops = drops
    self.reasons = reasons
    self.snap = snap
  }
}

/// One worker's end of a capture. Made by the control thread, used by the worker, freed after the worker has let go.
@safe public final class CaptureTap: @unchecked Sendable {
  @safe fileprivate struct State {
    let id: UInt32
    var producer: CaptureProducer
    let filter: PacketFilter
    let interfaces: UnsafeMutablePointer<UInt64>?
    let interfaceCount: UInt32
    let arrivals: Bool
    let departures: Bool
    let drops: Bool
    let reasons: (low: UInt64, high: UInt64)
    let snap: Int
    /// From the packet path's clock to the time of day, ns.
    let offset: UInt64
  }

  public let id: UInt32
  fileprivate let state: UnsafeMutablePointer<State>

  /// `interfaces`: how many there can be. The filter is the tap's from here on.
  public init(
    id: UInt32, producer: CaptureProducer, selection: CaptureSelection, filter: PacketFilter, interfaces: Int,
    offset: UInt64
  ) {
    self.id = id
    var bits: UnsafeMutablePointer<UInt64>?
    if let chosen = selection.interfaces {
      let words = (interfaces + 63) / 64
      let memory = UnsafeMutablePointer<UInt64>.allocate(capacity: words)
      unsafe memory.initialize(repeating: 0, count: words)
      for interface in chosen where Int(interface) < interfaces {
        unsafe memory[Int(interface) / 64] |= 1 << UInt64(interface % 64)
      }
      unsafe bits = memory
    }
    unsafe state = .allocate(capacity: 1)
    unsafe state.initialize(
      to: State(
        id: id, producer: producer, filter: filter, interfaces: bits, interfaceCount: UInt32(interfaces),
        arrivals: selection.arrivals, departures: selection.departures, drops: selection.drops,
        reasons: selection.reasons, snap: selection.snap, offset: offset))
  }

  deinit {
    unsafe state.pointee.filter.deallocate()
    unsafe state.pointee.interfaces?.deallocate()
    unsafe state.deallocate()
  }
}

/// The captures that a packet path feeds: at most `capacity`.
@safe public struct CaptureTaps {
  public static let capacity = 8
  /// What a filter sees of a frame that is not in one piece, at least.
  private static let window = 2048

  private let taps: UnsafeMutablePointer<UnsafeMutablePointer<CaptureTap.State>?>
  private let scratch: UnsafeMutableRawPointer
  private var count = 0
  /// One of them takes drops.
  private(set) var takesDrops = false

  init() {
    unsafe taps = .allocate(capacity: Self.capacity)
    unsafe scratch = .allocate(byteCount: 1 << 18, alignment: 64)
  }

  func deallocate() {
    unsafe taps.deallocate()
    unsafe scratch.deallocate()
  }

  /// The caller keeps the tap until it has been removed.
  mutating func add(_ tap: CaptureTap) {
    guard count < Self.capacity else { return }
    unsafe taps[count] = tap.state
    count += 1
    update()
  }

  mutating func remove(_ id: UInt32) {
    var index = 0
    while index < count, let tap = unsafe taps[index], unsafe tap.pointee.id != id { index += 1 }
    guard index < count else { return }
    for place in index..<(count - 1) { unsafe taps[place] = taps[place + 1] }
    count -= 1
    update()
  }

  private mutating func update() {
    takesDrops = false
    for index in 0..<count { if let tap = unsafe taps[index], unsafe tap.pointee.drops { takesDrops = true } }
  }

  /// Offers a frame to each capture: `head` bytes at `first`, then `rest` bytes at `second`; all of them at `first` where
  /// `rest` is 0. `now` is the packet path's clock.
  func offer(
    _ kind: CaptureRecord.Kind, reason: UInt8 = 0, _ interface: UInt32, _ first: Bytes, head: Int, _ second: Bytes,
    rest: Int, now: UInt64
  ) {
    var index = 0
    while index < count {
      defer { index &+= 1 }
      guard let tap = unsafe taps[index], unsafe takes(tap, kind, reason, interface) else { continue }
      let length = head &+ rest
      let kept = unsafe min(length, tap.pointee.snap)
      var frame = first
      let hasFilter = unsafe tap.pointee.filter.count > 0
      if rest > 0, kept > head || hasFilter {
        let seen = min(length, max(kept, Self.window), 1 << 18)
        unsafe frame = Bytes(scratch)
        frame.copy(from: first, count: min(head, seen))
        if seen > head { frame.advanced(head).copy(from: second, count: seen &- head) }
        unsafe put(tap, kind, reason, interface, frame, seen: seen, kept: min(kept, seen), length, now)
      } else {
        unsafe put(tap, kind, reason, interface, frame, seen: rest > 0 ? head : length, kept: kept, length, now)
      }
    }
  }

  /// The same for a frame in pieces.
  func offer(_ kind: CaptureRecord.Kind, _ interface: UInt32, _ gathered: GatheredFrame, now: UInt64) {
    var index = 0
    while index < count {
      defer { index &+= 1 }
      guard let tap = unsafe taps[index], unsafe takes(tap, kind, 0, interface) else { continue }
      let kept = unsafe min(gathered.length, tap.pointee.snap)
      let seen = min(gathered.length, max(kept, Self.window), 1 << 18)
      let frame = unsafe Bytes(scratch)
      gathered.copy(0, count: seen, to: frame)
      unsafe put(tap, kind, 0, interface, frame, seen: seen, kept: min(kept, seen), gathered.length, now)
    }
  }

  private func takes(
    _ tap: UnsafeMutablePointer<CaptureTap.State>, _ kind: CaptureRecord.Kind, _ reason: UInt8, _ interface: UInt32
  ) -> Bool {
    switch kind {
    case .arrival: guard unsafe tap.pointee.arrivals else { return false }
    case .departure: guard unsafe tap.pointee.departures else { return false }
    case .drop:
      guard unsafe tap.pointee.drops else { return false }
      let word = unsafe reason < 64 ? tap.pointee.reasons.low : tap.pointee.reasons.high
      guard word >> UInt64(reason & 63) & 1 == 1 else { return false }
    }
    guard let bits = unsafe tap.pointee.interfaces else { return true }
    guard unsafe interface < tap.pointee.interfaceCount else { return false }
    return unsafe bits[Int(interface >> 6)] >> UInt64(interface & 63) & 1 == 1
  }

  private func put(
    _ tap: UnsafeMutablePointer<CaptureTap.State>, _ kind: CaptureRecord.Kind, _ reason: UInt8, _ interface: UInt32,
    _ frame: Bytes, seen: Int, kept: Int, _ length: Int, _ now: UInt64
  ) {
    guard unsafe tap.pointee.filter.run(frame, count: seen, length: length) != 0 else { return }
    let record = unsafe CaptureRecord(
      kind: kind, reason: reason, interface: interface, time: now &+ tap.pointee.offset,
      length: UInt32(truncatingIfNeeded: length))
    unsafe tap.pointee.producer.put(record, count: kept) { destination in
      unsafe destination.copyMemory(from: frame.pointer, byteCount: kept)
    }
  }
}

extension PacketPath {
  /// Feeds a capture; the tap is kept until it has been removed.
  public mutating func add(_ tap: CaptureTap) { captures.add(tap) }
  public mutating func removeCapture(_ id: UInt32) { captures.remove(id) }

  /// A frame as it came in.
  func captureArrival(_ frame: RxFrame, _ id: UInt32) {
    captures.offer(.arrival, id, frame.bytes, head: frame.length, frame.bytes, rest: 0, now: clock)
  }

  /// A packet that goes no further, and what was merged with it.
  @inline(never) mutating func captureDrop(_ packet: Packet, _ reason: DropReason) {
    let batch = batch
    captureSegment(packet, reason)
    var next = packet.next
    while next != Packet.none {
      captureSegment(batch[Int(next)], reason)
      next = batch[Int(next)].next
    }
  }

  private func captureSegment(_ packet: Packet, _ reason: DropReason) {
    let length = packet.ipLength > 0 ? packet.ipLength : packet.available
    guard length >= 0 else { return }
    var header = InlineArray<14, UInt8>(repeating: 0)
    if packet.hasEthernet {
      captures.offer(
        .drop, reason: reason.rawValue, packet.interface, packet.ethernet, head: Ethernet.bytes, packet.ip,
        rest: length, now: clock)
      return
    }
    // MPLS carries no Ethernet header, which a capture of Ethernet frames needs.
    unsafe withUnsafeMutableBytes(of: &header) { buffer in
      guard let base = buffer.baseAddress else { return }
      let at = unsafe Bytes(base)
      Ethernet.write(
        at, destination: MACAddress.virtualRouter.bits, source: MACAddress.virtualRouter.bits, type: packet.etherType)
      captures.offer(
        .drop, reason: reason.rawValue, packet.interface, at, head: Ethernet.bytes, packet.ip, rest: length, now: clock)
    }
  }

  /// A frame that became no packet.
  @inline(never) mutating func captureDrop(_ frame: RxFrame, _ interface: UInt32, _ reason: DropReason) {
    captures.offer(
      .drop, reason: reason.rawValue, interface, frame.bytes, head: frame.length, frame.bytes, rest: 0, now: clock)
  }
}
