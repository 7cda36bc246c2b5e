import CLinux
import WeftSystem
import WeftWire

/// What became of a new flow.
@frozen public enum FlowInsertion: Equatable, Sendable {
  /// The forward entry.
  case made(UInt32)
  /// One of the keys belongs to another flow: translation has to choose another address or port.
  case conflict
  /// No place, and nothing to evict.
  case refused
}

/// A worker's own flows: nobody else reads or writes it.
///
/// Buckets of one cache line: eight 16-bit tags, eight entry numbers. A key belongs to one of two buckets; there are at
/// least twice as many places as entries, and where both buckets are full an entry moves to its other one.
///
///     bucket offset  bytes
///     0              16     tags, 0 for a free place
///     16             32     entry numbers
///
/// When all entries are taken, a new flow takes the place of the oldest one that is not established (`FlowFlags`). An
/// established flow is never evicted: then the new one is refused.
///
/// An entry's number is good until the next `insert`, `remove`, `age` or `track` that says false.
@safe public struct FlowTable {
  public static let none = UInt32.max
  /// Translation holds nothing for a flow.
  public static let noReference: UInt32 = 0
  @usableFromInline static let bucketBytes = 64
  /// Most flows with a reference that an eviction passes over because nobody has taken the ends before them.
  static let evictionAttempts = 8

  public let capacity: Int
  @usableFromInline let seed: UInt64
  @usableFromInline let buckets: UnsafeMutableRawPointer
  @usableFromInline let bucketMask: UInt64
  @usableFromInline let entries: UnsafeMutablePointer<FlowEntry>
  @usableFromInline let transitions: TCPTransitions
  /// By entry, of mirrored flows.
  let mirrorNumbers: UnsafeMutablePointer<UInt16>
  private let memory: FlowMemory
  var wheel: FlowWheel
  var ends: FlowEnds
  let limits: FlowLimits
  var freeHead: UInt32 = FlowTable.none
  var highWater: UInt32 = 0
  /// Flows that may be evicted, in the order in which they became so.
  var oldest: UInt32 = FlowTable.none
  var youngest: UInt32 = FlowTable.none
  /// The next entry to put into its slot anew, after timeouts have become shorter.
  private var rearmPosition: UInt32 = FlowTable.none
  /// What is asked of TCP segments.
  public internal(set) var tcp = TCPStrictness.liberal
  /// Entries in use.
  public internal(set) var count = 0
  /// Entries that have gone: as long as this stays, so do the numbers that `find` and `insert` gave.
  public internal(set) var removals: UInt64 = 0
  /// New flows for which there was no place.
  public private(set) var refused: UInt64 = 0
  /// Flows whose place was taken by a new one.
  public internal(set) var evicted: UInt64 = 0
  /// Ends that were not recorded, because nobody took those before them.
  public var endsLost: UInt64 { ends.lost }

  /// `capacity` entries, two for each flow; `ends` is the number of flow ends kept until they are taken, rounded up to a
  /// power of two. Memory is taken as it is touched, by the worker that touches it.
  public init(capacity: Int, seed: UInt64, ends endCapacity: Int = 1024) throws(SystemError) {
    precondition(MemoryLayout<FlowEntry>.size == 128)
    self.capacity = max(2, capacity)
    self.seed = seed
    var bucketCount = 4
    while bucketCount * 4 < self.capacity { bucketCount *= 2 }
    bucketMask = UInt64(bucketCount - 1)
    var endCount = 4
    while endCount < endCapacity { endCount *= 2 }
    memory = try FlowMemory(
      buckets: bucketCount * Self.bucketBytes, entries: (self.capacity + 1) * 128,
      control: FlowWheel.bytes + TCPTransitions.bytes + FlowLimits.bytes, ends: FlowEnds.bytes(endCount),
      mirrors: self.capacity * 2)
    unsafe buckets = memory.buckets.base
    unsafe entries = memory.entries.base.assumingMemoryBound(to: FlowEntry.self)
    unsafe mirrorNumbers = memory.mirrors.base.assumingMemoryBound(to: UInt16.self)
    unsafe wheel = FlowWheel(memory.control.base, entries: entries)
    unsafe transitions = TCPTransitions(memory.control.base + FlowWheel.bytes)
    unsafe limits = FlowLimits(memory.control.base + FlowWheel.bytes + TCPTransitions.bytes)
    unsafe ends = FlowEnds(memory.ends.base, capacity: endCount)
  }

  // MARK: for each packet

  @inlinable @inline(__always) func bucket(_ hash: UInt64) -> UnsafeMutableRawPointer {
    unsafe buckets + Int(truncatingIfNeeded: hash & bucketMask) &* Self.bucketBytes
  }
  /// Never 0 (`FlowKey.hash`).
  @inlinable @inline(__always) static func tag(_ hash: UInt64) -> UInt16 {
    UInt16(truncatingIfNeeded: hash >> 48)
  }
  /// The other bucket's hash: known from the tag alone, so an entry can be found from either.
  @inlinable @inline(__always) static func other(_ hash: UInt64) -> UInt64 { hash ^ distance(tag(hash)) }
  @inlinable @inline(__always) static func distance(_ tag: UInt16) -> UInt64 { UInt64(tag) &* 0x5BD1_E995 &+ 0x9E37 }

  /// For all packets of a batch, before anything else: the bucket comes into the cache.
  @inlinable @inline(__always) public func prefetch(_ hash: UInt64) { unsafe weft_prefetch(bucket(hash)) }

  /// For all packets of a batch, some time after `prefetch`: the entry comes into the cache. With a million flows this
  /// is worth more than it costs.
  @inlinable @inline(__always) public func prefetchEntry(_ hash: UInt64) {
    let bucket = unsafe bucket(hash)
    let matches = unsafe weft_match_tags(bucket, Self.tag(hash))
    guard matches != 0 else { return }
    let index = unsafe bucket.load(fromByteOffset: 16 &+ matches.trailingZeroBitCount &* 2, as: UInt32.self)
    unsafe weft_prefetch_write(entries + Int(index))
    unsafe weft_prefetch(UnsafeRawPointer(entries + Int(index)) + 64)
  }

  /// The entry of a key; `none` if there is none.
  @inlinable @inline(__always) public func find(_ key: FlowKey, hash: UInt64) -> UInt32 {
    let tag = Self.tag(hash)
    let addresses = key.addresses
    let first = unsafe find(key, addresses, tag, bucket(hash))
    if first != Self.none { return first }
    return unsafe find(key, addresses, tag, bucket(Self.other(hash)))
  }

  @inlinable @inline(__always)
  func find(_ key: FlowKey, _ addresses: UInt64, _ tag: UInt16, _ bucket: UnsafeMutableRawPointer) -> UInt32 {
    var matches = unsafe weft_match_tags(bucket, tag)
    while matches != 0 {
      let place = matches.trailingZeroBitCount >> 1
      let index = unsafe bucket.load(fromByteOffset: 16 &+ place &* 4, as: UInt32.self)
      if unsafe entries[Int(index)].has(key, addresses) { return index }
      matches &= ~(3 << UInt32(truncatingIfNeeded: place &* 2))
    }
    return Self.none
  }

  /// An entry, read in place. The index is one that `find` or `insert` gave.
  @inlinable public subscript(index: UInt32) -> FlowEntry {
    @inline(__always) unsafeAddress { unsafe UnsafePointer(entries + Int(index)) }
  }

  /// A packet of the flow has come: notes a first reply and what TCP's flags (0 for anything else) change.
  ///
  /// False when the packet is not of this flow but opens a connection of its own (`TCPState.over`): the flow has been
  /// removed, the packet is one without a flow. Should the removal have to wait (see `remove`), `insert` says conflict.
  @inlinable @inline(__always)
  public mutating func track(_ index: UInt32, tcpFlags: UInt8, now: UInt64) -> Bool {
    let entry = unsafe entries + Int(index)
    let flags = unsafe entry.pointee.flags.rawValue
    let state = unsafe entry.pointee.tcp
    let next = transitions.next(state, tcpFlags, flags)
    if next == state, flags & (FlowFlags.forward.rawValue | FlowFlags.replied.rawValue) != 0 { return true }
    return change(index, next, now)
  }

  /// The entry is still that of a key with this hash, whatever has been removed since it was found.
  public func holds(_ index: UInt32, hash: UInt64) -> Bool {
    unsafe entries[Int(index)].flags.contains(.inUse) && entries[Int(index)].key.hash(seed: seed) == hash
  }

  /// Counts a packet of `bytes` that went to `nexthop`.
  @inlinable @inline(__always) public func count(
    _ index: UInt32, bytes: Int, packets: Int, nexthop: UInt32, now: UInt64
  ) {
    let entry = unsafe entries + Int(index)
    unsafe entry.pointee.packets &+= UInt64(truncatingIfNeeded: packets)
    unsafe entry.pointee.bytes &+= UInt64(truncatingIfNeeded: bytes)
    unsafe entry.pointee.lastSeen = now
    unsafe entry.pointee.nexthop = nexthop
  }

  // MARK: for each flow

  /// A flow can be made without another one making way.
  @inline(__always) public var hasSpace: Bool { count &+ 2 <= capacity }

  /// Makes a flow's entries. `reverse` is the key of the packets that come back, which with translation is not `forward`
  /// reversed: then `FlowFlags.nat` is set. A flow to itself (both keys are one) has one entry.
  ///
  /// `timeout` is by protocol, TCP state and flags when it is not given. `reference` is what translation holds for the
  /// flow; it comes back in the flow's `FlowEnd`. `ecmpMember` is the forward direction's.
  public mutating func insert(
    forward key: FlowKey, forwardHash hash: UInt64, reverse back: FlowKey, flags: FlowFlags = [],
    timeout: FlowTimeout? = nil, tcpState: TCPState = .none, policyRule: UInt32 = FlowTable.none,
    policyGeneration: UInt32 = 0, reference: UInt32 = FlowTable.noReference, ecmpMember: UInt16 = 0, now: UInt64
  ) -> FlowInsertion {
    let isSingle = back == key
    let backHash = isSingle ? hash : back.hash(seed: seed)
    if !isSingle, find(back, hash: backHash) != Self.none { return .conflict }
    if find(key, hash: hash) != Self.none { return .conflict }
    guard makeSpace(isSingle ? 1 : 2, now) else {
      refused &+= 1
      return .refused
    }
    let timeout =
      timeout
      ?? (flags.contains(.denied)
        ? .denied : tcpState == .none ? FlowTimeout.first(proto: key.proto) : tcpState.timeout)
    var shared = flags.subtracting([.forward, .listed, .established, .replied, .dying, .steady]).union(.inUse)
    if back != key.reversed { shared.insert(.nat) }
    if tcpState.isDying { shared.insert(.dying) }
    let forward = place(hash, now)
    guard forward != Self.none else {
      refused &+= 1
      return .refused
    }
    unsafe (entries + Int(forward)).initialize(
      to: FlowEntry(
        key: key, flags: shared.union(.forward), tcp: tcpState, timeout: timeout, policyRule: policyRule,
        policyGeneration: policyGeneration, reference: reference, ecmpMember: ecmpMember, now: now))
    if !isSingle {
      let reverse = place(backHash, now)
      guard reverse != Self.none else {
        displace(forward)
        refused &+= 1
        return .refused
      }
      unsafe (entries + Int(reverse)).initialize(
        to: FlowEntry(
          key: back, flags: shared, tcp: tcpState, timeout: timeout, policyRule: policyRule,
          policyGeneration: policyGeneration, reference: reference, ecmpMember: 0, now: now))
      unsafe entries[Int(forward)].reverse = reverse
      unsafe entries[Int(reverse)].reverse = forward
      if shared.contains(.nat), !key.isV6, !back.isV6 {
        unsafe entries[Int(forward)].setRewrite(FlowRewrite(from: key, to: back.reversed))
        unsafe entries[Int(reverse)].setRewrite(FlowRewrite(from: back, to: key.reversed))
      }
    }
    settle(forward)
    list(forward)
    wheel.arm(forward, deadline: Self.after(now, limits[timeout]), now: now)
    return .made(forward)
  }

  /// Makes the entries of a flow without translation and returns the forward one; `none` when there is no place.
  public mutating func insert(_ key: FlowKey, hash: UInt64, now: UInt64) -> UInt32 {
    guard case .made(let index) = insert(forward: key, forwardHash: hash, reverse: key.reversed, now: now) else {
      return Self.none
    }
    return index
  }

  /// What the packet path wants to know of this direction's packets.
  public func setMark(_ index: UInt32, _ mark: UInt32) { unsafe entries[Int(index)].mark = mark }

  /// The member of an ECMP nexthop that this direction's packets go to.
  public func setMember(_ index: UInt32, _ member: UInt16) { unsafe entries[Int(index)].ecmpMember = member }

  /// Other workers, to whom a key of this flow belongs, know under this number, not 0, that this one has it. Its end must
  /// reach them: it is never lost. A flow to itself, which has one entry, cannot have one.
  public func setRedirect(_ index: UInt32, _ serial: UInt32) {
    let forward = forwardIndex(index)
    guard forward != Self.none, unsafe entries[Int(forward)].reverse != Self.none else { return }
    // The reverse entry is in no slot of the wheel: its link is free for this.
    unsafe entries[Int(entries[Int(forward)].reverse)].wheelNext = serial
  }

  /// The number of `setRedirect`; 0 for none.
  public func redirect(_ index: UInt32) -> UInt32 {
    let forward = forwardIndex(index)
    guard forward != Self.none, unsafe entries[Int(forward)].reverse != Self.none else { return 0 }
    let serial = unsafe entries[Int(entries[Int(forward)].reverse)].wheelNext
    return serial == Self.none ? 0 : serial
  }

  /// Removes a flow, given either of its entries. False when somebody has to hear of its end and that could not be
  /// recorded for want of room: it stays as it is, and is removed by a later call.
  @discardableResult
  public mutating func remove(_ index: UInt32, reason: FlowEndReason = .revoked, now: UInt64) -> Bool {
    guard isInUse(index) else { return true }
    let forward = forwardIndex(index)
    guard record(forward, reason, now) else { return false }
    wheel.disarm(forward)
    take(forward)
    return true
  }

  // MARK: time

  /// How long flows may be idle. A change counts for flows that are there as well; where a time has become shorter, once
  /// `age` has been through the table.
  public var timeouts: FlowTimeouts {
    get { limits.all }
    set {
      let isShorter = FlowTimeout.allCases.contains { newValue[$0] < limits[$0] }
      limits.all = newValue
      if isShorter { rearmPosition = 0 }
    }
  }

  /// Removes flows of which both directions have been idle for their time. Never early; late by a tick of the wheel
  /// (67 ms) and what `limit`, the most flows looked at in a call, leaves to the next call. True when nothing was left.
  ///
  /// Time that runs backwards, as in a replay of captures it may, ends no flow.
  @discardableResult
  public mutating func age(now: UInt64, limit: Int = 64) -> Bool {
    guard wheel.isBehind(now) || rearmPosition != Self.none else { return true }
    rearm(limit, now)
    for _ in 0..<max(0, limit) {
      let forward = wheel.next(now: now)
      guard forward != Self.none else { return rearmPosition == Self.none }
      let deadline = deadline(forward)
      if deadline > now || !record(forward, endReason(forward), now) {
        wheel.arm(forward, deadline: max(deadline, now), now: now)
      } else {
        take(forward)
      }
    }
    return !wheel.isBehind(now) && rearmPosition == Self.none
  }

  /// The end of a flow that has not been taken yet, in order; nil when there is none.
  public mutating func nextEnd() -> FlowEnd? { ends.take() }

  /// The one that `nextEnd` would take.
  public var firstEnd: FlowEnd? { ends.first }

  /// Up to `limit` entries from position `cursor` on; the position to go on from, 0 when that was all.
  public func dump(cursor: Int, limit: Int, _ body: (FlowEntry) -> Void) -> Int {
    var position = max(0, cursor)
    var left = limit
    while position < Int(highWater), left > 0 {
      let entry = unsafe entries[position]
      if entry.flags.contains(.inUse) {
        body(entry)
        left -= 1
      }
      position += 1
    }
    return position < Int(highWater) ? position : 0
  }

  // MARK: both directions

  /// False for a number that was kept for too long.
  func isInUse(_ index: UInt32) -> Bool { unsafe entries[Int(index)].flags.contains(.inUse) }
  /// Of an entry in use.
  func forwardIndex(_ index: UInt32) -> UInt32 {
    unsafe entries[Int(index)].flags.contains(.forward) ? index : entries[Int(index)].reverse
  }
  func set(_ forward: UInt32, _ flags: FlowFlags) { both(forward) { $0.flags.formUnion(flags) } }
  func clear(_ forward: UInt32, _ flags: FlowFlags) { both(forward) { $0.flags.subtract(flags) } }
  @inline(__always) func both(_ forward: UInt32, _ body: (inout FlowEntry) -> Void) {
    let reverse = unsafe entries[Int(forward)].reverse
    unsafe body(&entries[Int(forward)])
    if reverse != Self.none { unsafe body(&entries[Int(reverse)]) }
  }

  /// After a change of state or of `replied`: which directions are `steady`.
  func settle(_ forward: UInt32) {
    let transitions = transitions
    let isStrict = tcp == .strict
    both(forward) { entry in
      let flags = entry.flags.rawValue
      let isSteady =
        transitions.next(entry.tcp, TCP.ack, flags) == entry.tcp
        && flags & (FlowFlags.forward.rawValue | FlowFlags.replied.rawValue) != 0
        && !(isStrict && TCPState.isStray(entry.tcpState, TCP.ack, isForward: entry.isForward))
      if isSteady { entry.flags.insert(.steady) } else { entry.flags.remove(.steady) }
    }
  }

  private func lastSeen(_ forward: UInt32) -> UInt64 {
    let reverse = unsafe entries[Int(forward)].reverse
    let own = unsafe entries[Int(forward)].lastSeen
    return reverse == Self.none ? own : unsafe max(own, entries[Int(reverse)].lastSeen)
  }
  func deadline(_ forward: UInt32) -> UInt64 {
    unsafe Self.after(lastSeen(forward), limits[entries[Int(forward)].timeout])
  }
  static func after(_ time: UInt64, _ interval: UInt64) -> UInt64 {
    let (sum, overflow) = time.addingReportingOverflow(interval)
    return overflow ? .max : sum
  }

  /// A part of the entries is put into the slots that the timeouts now ask for.
  private mutating func rearm(_ limit: Int, _ now: UInt64) {
    guard rearmPosition != Self.none else { return }
    for _ in 0..<max(0, limit) {
      guard rearmPosition < highWater else {
        rearmPosition = Self.none
        return
      }
      let index = rearmPosition
      rearmPosition += 1
      guard unsafe entries[Int(index)].flags.isSuperset(of: [.inUse, .forward]) else { continue }
      wheel.disarm(index)
      wheel.arm(index, deadline: deadline(index), now: now)
    }
  }

  // MARK: ends

  private func endReason(_ forward: UInt32) -> FlowEndReason {
    switch unsafe entries[Int(forward)].tcpState {
    case .closing: .closed
    case .reset: .reset
    default: .aged
    }
  }

  func end(_ forward: UInt32, _ reason: FlowEndReason, _ now: UInt64) -> FlowEnd {
    let entry = unsafe entries[Int(forward)]
    let back = unsafe entries[Int(entry.reverse == Self.none ? forward : entry.reverse)]
    let isSingle = entry.reverse == Self.none
    return FlowEnd(
      forward: entry.key, reverse: back.key, forwardPackets: entry.packets, forwardBytes: entry.bytes,
      reversePackets: isSingle ? 0 : back.packets, reverseBytes: isSingle ? 0 : back.bytes, created: entry.created,
      lastSeen: max(entry.lastSeen, back.lastSeen), ended: now, policyRule: entry.policyRule,
      reference: entry.reference, redirect: redirect(forward), flags: entry.flags.subtracting([.listed, .steady]),
      tcpState: entry.tcpState, reason: reason)
  }

  private mutating func record(_ forward: UInt32, _ reason: FlowEndReason, _ now: UInt64) -> Bool {
    ends.put(end(forward, reason, now))
  }

  /// Takes a flow that is in no slot of the wheel out of the table.
  mutating func take(_ forward: UInt32) {
    if unsafe entries[Int(forward)].flags.contains(.listed) { unlist(forward) }
    let reverse = unsafe entries[Int(forward)].reverse
    displace(forward)
    if reverse != Self.none { displace(reverse) }
  }
}

/// The memory of a flow table.
final class FlowMemory: Sendable {
  let buckets: Mapping
  let entries: Mapping
  let control: Mapping
  let ends: Mapping
  let mirrors: Mapping

  init(buckets: Int, entries: Int, control: Int, ends: Int, mirrors: Int) throws(SystemError) {
    self.buckets = try Mapping(anonymous: buckets, what: "flow buckets")
    self.entries = try Mapping(anonymous: entries, what: "flows")
    self.control = try Mapping(anonymous: control, what: "the flows' timer wheel")
    self.ends = try Mapping(anonymous: ends, what: "ends of flows")
    self.mirrors = try Mapping(anonymous: mirrors, what: "mirrors of flows")
    self.buckets.preferHugePages()
    self.entries.preferHugePages()
  }
}
