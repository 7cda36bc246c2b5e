import CLinux
import WeftSystem
import WeftWire

/// What makes packets one direction of a flow: VRF, addresses, protocol, ports. 48 bytes, compared as six words.
@frozen public struct FlowKey: Hashable, Sendable {
  public var source: IPAddress
  public var destination: IPAddress
  /// Source port 16 bits, destination port 16, protocol 8, zero 24, from the top.
  public var transport: UInt64
  public var vrf: UInt64

  @inlinable @inline(__always)
  public init(
    vrf: UInt32, source: IPAddress, destination: IPAddress, proto: UInt8, sourcePort: UInt16, destinationPort: UInt16
  ) {
    self.source = source
    self.destination = destination
    transport = UInt64(sourcePort) << 48 | UInt64(destinationPort) << 32 | UInt64(proto) << 24
    self.vrf = UInt64(vrf)
  }

  @inlinable public var sourcePort: UInt16 { UInt16(truncatingIfNeeded: transport >> 48) }
  @inlinable public var destinationPort: UInt16 { UInt16(truncatingIfNeeded: transport >> 32) }
  @inlinable public var proto: UInt8 { UInt8(truncatingIfNeeded: transport >> 24) }

  /// The same flow's other direction.
  @inlinable public var reversed: FlowKey {
    FlowKey(
      vrf: UInt32(truncatingIfNeeded: vrf), source: destination, destination: source, proto: proto,
      sourcePort: destinationPort, destinationPort: sourcePort)
  }

  /// 64 bits, of which the low 32 choose buckets and the top 16 are the tag. `seed` keeps outsiders from choosing.
  @inlinable @inline(__always) public func hash(seed: UInt64) -> UInt64 {
    var a = weft_hash_u64(UInt32(truncatingIfNeeded: seed), source.high ^ vrf)
    var b = weft_hash_u64(UInt32(truncatingIfNeeded: seed >> 32), source.low)
    a = weft_hash_u64(a, destination.high)
    b = weft_hash_u64(b, destination.low)
    let mixed = (UInt64(a) << 32 | UInt64(b)) ^ transport &* 0xD6E8_FEB8_6659_FD93
    let spread = (mixed ^ mixed >> 32) &* 0x9E37_79B9_7F4A_7C15
    return spread ^ spread >> 29
  }

  @inlinable @inline(__always) func equals(_ other: FlowKey) -> Bool {
    (source.high ^ other.source.high) | (source.low ^ other.source.low) | (destination.high ^ other.destination.high)
      | (destination.low ^ other.destination.low) | (transport ^ other.transport) | (vrf ^ other.vrf) == 0
  }
}

/// One direction of a flow. 128 bytes, two cache lines: the key, then what changes.
@frozen public struct FlowEntry: Sendable {
  public var key: FlowKey
  /// The other direction's entry.
  public var reverse: UInt32
  public var flags: UInt32
  public var nexthop: UInt32
  var padding: UInt32 = 0
  public var packets: UInt64
  /// Bytes of IP packet.
  public var bytes: UInt64
  /// CLOCK_MONOTONIC, ns.
  public var created: UInt64
  public var lastSeen: UInt64
  var more0: UInt64 = 0
  var more1: UInt64 = 0
  var more2: UInt64 = 0
  var more3: UInt64 = 0

  @usableFromInline static let inUse: UInt32 = 1
  @usableFromInline static let forward: UInt32 = 2

  public var isForward: Bool { flags & Self.forward != 0 }

  @usableFromInline init(key: FlowKey, reverse: UInt32, flags: UInt32, now: UInt64) {
    self.key = key
    self.reverse = reverse
    self.flags = flags
    nexthop = .max
    packets = 0
    bytes = 0
    created = now
    lastSeen = now
  }
}

/// A worker's own flows: nobody else reads or writes it.
///
/// Buckets of one cache line: eight 16-bit tags, eight entry numbers. A key belongs to one of two buckets; with twice
/// as many places as entries, both are full so seldom that the flow then simply is not recorded.
///
///     bucket offset  bytes
///     0              16     tags, 0 for a free place
///     16             32     entry numbers
@safe public struct FlowTable {
  public static let none = UInt32.max
  @usableFromInline static let bucketBytes = 64

  public let capacity: Int
  /// Idle flows go after this, ns.
  public var idleLimit: UInt64 = 180_000_000_000
  @usableFromInline let seed: UInt64
  @usableFromInline let buckets: UnsafeMutableRawPointer
  @usableFromInline let bucketMask: UInt64
  @usableFromInline let entries: UnsafeMutablePointer<FlowEntry>
  private let memory: TableArena
  private var freeHead: UInt32 = FlowTable.none
  private var highWater: UInt32 = 0
  private var agePosition: UInt32 = 0
  private var lastAged: UInt64 = 0
  public private(set) var count = 0
  /// Flows that were not recorded because there was no place.
  public private(set) var refused: UInt64 = 0

  /// `capacity` entries, two for each flow. Memory is taken as it is touched, by the worker that touches it.
  public init(capacity: Int, seed: UInt64) throws(SystemError) {
    precondition(MemoryLayout<FlowEntry>.size == 128)
    self.capacity = max(2, capacity)
    self.seed = seed
    var bucketCount = 4
    while bucketCount * 4 < self.capacity { bucketCount *= 2 }
    bucketMask = UInt64(bucketCount - 1)
    memory = try TableArena(buckets: bucketCount * Self.bucketBytes, entries: self.capacity * 128)
    unsafe buckets = memory.buckets.base
    unsafe entries = memory.entries.base.assumingMemoryBound(to: FlowEntry.self)
  }

  @inlinable @inline(__always) func bucket(_ hash: UInt64) -> UnsafeMutableRawPointer {
    unsafe buckets + Int(truncatingIfNeeded: hash & bucketMask) &* Self.bucketBytes
  }
  @inlinable @inline(__always) static func tag(_ hash: UInt64) -> UInt16 {
    let tag = UInt16(truncatingIfNeeded: hash >> 48)
    return tag == 0 ? 1 : tag
  }
  /// The other bucket's hash: known from the tag alone, so an entry can be found from either.
  @inlinable @inline(__always) static func other(_ hash: UInt64) -> UInt64 {
    hash ^ (UInt64(tag(hash)) &* 0x5BD1_E995 &+ 0x9E37)
  }

  @inlinable @inline(__always) public func prefetch(_ hash: UInt64) { unsafe weft_prefetch(bucket(hash)) }

  /// The entry of a key; `none` if there is none.
  @inlinable @inline(__always) public func find(_ key: FlowKey, hash: UInt64) -> UInt32 {
    let tag = Self.tag(hash)
    let first = unsafe find(key, tag, bucket(hash))
    if first != Self.none { return first }
    return unsafe find(key, tag, bucket(Self.other(hash)))
  }

  @inlinable @inline(__always)
  func find(_ key: FlowKey, _ tag: UInt16, _ bucket: UnsafeMutableRawPointer) -> UInt32 {
    var matches = unsafe weft_match_tags(bucket, tag)
    while matches != 0 {
      let place = matches.trailingZeroBitCount >> 1
      let index = unsafe bucket.load(fromByteOffset: 16 &+ place &* 4, as: UInt32.self)
      if unsafe entries[Int(index)].key.equals(key) { return index }
      matches &= ~(3 << UInt32(truncatingIfNeeded: place &* 2))
    }
    return Self.none
  }

  @inlinable @inline(__always) public subscript(index: UInt32) -> FlowEntry { unsafe entries[Int(index)] }

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

  /// Makes both entries of a flow and returns the forward one; `none`, and one more `refused`, when there is no place.
  public mutating func insert(_ key: FlowKey, hash: UInt64, now: UInt64) -> UInt32 {
    let back = key.reversed
    // A packet to oneself (same key both ways) has one entry.
    let single = back == key
    guard count + (single ? 1 : 2) <= capacity, let forward = place(key, hash, flags: FlowEntry.forward, now: now)
    else {
      refused &+= 1
      return Self.none
    }
    guard !single else { return forward }
    let backHash = back.hash(seed: seed)
    guard find(back, hash: backHash) == Self.none, let reverse = place(back, backHash, flags: 0, now: now) else {
      remove(forward)
      refused &+= 1
      return Self.none
    }
    unsafe entries[Int(forward)].reverse = reverse
    unsafe entries[Int(reverse)].reverse = forward
    return forward
  }

  private mutating func place(_ key: FlowKey, _ hash: UInt64, flags: UInt32, now: UInt64) -> UInt32? {
    let tag = Self.tag(hash)
    for attempt in 0..<2 {
      let bucket = unsafe bucket(attempt == 0 ? hash : Self.other(hash))
      let free = unsafe weft_match_tags(bucket, 0)
      guard free != 0 else { continue }
      let place = free.trailingZeroBitCount >> 1
      let index = takeEntry()
      unsafe entries[Int(index)] = FlowEntry(key: key, reverse: Self.none, flags: flags | FlowEntry.inUse, now: now)
      unsafe bucket.storeBytes(of: index, toByteOffset: 16 + place * 4, as: UInt32.self)
      unsafe bucket.storeBytes(of: tag, toByteOffset: place * 2, as: UInt16.self)
      count += 1
      return index
    }
    return nil
  }

  private mutating func takeEntry() -> UInt32 {
    if freeHead != Self.none {
      let index = freeHead
      freeHead = unsafe entries[Int(index)].reverse
      return index
    }
    highWater += 1
    return highWater - 1
  }

  private mutating func remove(_ index: UInt32) {
    let key = unsafe entries[Int(index)].key
    let hash = key.hash(seed: seed)
    for attempt in 0..<2 {
      let bucket = unsafe bucket(attempt == 0 ? hash : Self.other(hash))
      for place in 0..<8 where unsafe bucket.load(fromByteOffset: place * 2, as: UInt16.self) != 0 {
        if unsafe bucket.load(fromByteOffset: 16 + place * 4, as: UInt32.self) == index {
          unsafe bucket.storeBytes(of: 0, toByteOffset: place * 2, as: UInt16.self)
          unsafe entries[Int(index)].flags = 0
          unsafe entries[Int(index)].reverse = freeHead
          freeHead = index
          count -= 1
          return
        }
      }
    }
  }

  /// Looks at a part of the table that grows with the time since the last call, so that all of it is seen every ten
  /// seconds, at most `limit` entries, and removes flows of which both directions are idle.
  public mutating func age(now: UInt64, limit: Int = 2048) {
    guard highWater > 0 else {
      lastAged = now
      return
    }
    let elapsed = min(now &- lastAged, 10_000_000_000)
    let share = Int(elapsed / 1_000_000) * Int(highWater) / 10_000
    guard share > 0 else { return }
    lastAged = now
    for _ in 0..<min(share, limit) {
      let index = agePosition
      agePosition = agePosition + 1 < highWater ? agePosition + 1 : 0
      let entry = unsafe entries[Int(index)]
      guard entry.flags & FlowEntry.inUse != 0, isIdle(entry, now) else { continue }
      let reverse = entry.reverse
      if reverse != Self.none, !isIdle(unsafe entries[Int(reverse)], now) { continue }
      remove(index)
      if reverse != Self.none { remove(reverse) }
    }
  }

  /// Time that runs backwards, as in a replay of captures it may, makes nothing idle.
  private func isIdle(_ entry: FlowEntry, _ now: UInt64) -> Bool {
    now > entry.lastSeen && now - entry.lastSeen > idleLimit
  }

  /// Up to `limit` entries from position `cursor` on; the position to go on from, 0 when that was all.
  public func dump(cursor: Int, limit: Int, _ body: (FlowEntry) -> Void) -> Int {
    var position = max(0, cursor)
    var left = limit
    while position < Int(highWater), left > 0 {
      let entry = unsafe entries[position]
      if entry.flags & FlowEntry.inUse != 0 {
        body(entry)
        left -= 1
      }
      position += 1
    }
    return position < Int(highWater) ? position : 0
  }
}

/// The memory of a flow table.
final class TableArena: Sendable {
  let buckets: Mapping
  let entries: Mapping

  init(buckets: Int, entries: Int) throws(SystemError) {
    self.buckets = try Mapping(anonymous: buckets, what: "flow buckets")
    self.entries = try Mapping(anonymous: entries, what: "flows")
    self.buckets.preferHugePages()
    self.entries.preferHugePages()
  }
}
