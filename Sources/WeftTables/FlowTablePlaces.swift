import CLinux

/// Where entries are: buckets, free entries, and who makes way when there are none.
extension FlowTable {
  // MARK: eviction

  mutating func list(_ forward: UInt32) {
    let entry = unsafe entries + Int(forward)
    unsafe entry.pointee.flags.insert(.listed)
    unsafe entry.pointee.listNext = Self.none
    unsafe entry.pointee.listPrevious = youngest
    if youngest == Self.none { oldest = forward } else { unsafe entries[Int(youngest)].listNext = forward }
    youngest = forward
  }

  mutating func unlist(_ forward: UInt32) {
    let entry = unsafe entries + Int(forward)
    let (next, previous) = unsafe (entry.pointee.listNext, entry.pointee.listPrevious)
    unsafe entry.pointee.flags.remove(.listed)
    if next == Self.none { youngest = previous } else { unsafe entries[Int(next)].listPrevious = previous }
    if previous == Self.none { oldest = next } else { unsafe entries[Int(previous)].listNext = next }
  }

  /// Sees that `needed` entries are free.
  mutating func makeSpace(_ needed: Int, _ now: UInt64) -> Bool {
    if count + needed > capacity { age(now: now, limit: 16) }
    while count + needed > capacity {
      var candidate = oldest
      var attempts = 0
      while candidate != Self.none, !evict(candidate, now) {
        attempts += 1
        if attempts == Self.evictionAttempts { return false }
        candidate = unsafe entries[Int(candidate)].listNext
      }
      if candidate == Self.none { return false }
    }
    return true
  }

  private mutating func evict(_ forward: UInt32, _ now: UInt64) -> Bool {
    guard remove(forward, reason: .evicted, now: now) else { return false }
    evicted &+= 1
    return true
  }

  // MARK: places

  /// Takes an entry and puts its number into one of a key's buckets; the caller fills it. `none` when both are full of
  /// established flows whose other buckets are full.
  mutating func place(_ hash: UInt64, _ now: UInt64) -> UInt32 {
    while true {
      let (bucket, place) = unsafe freePlace(hash)
      if place >= 0 {
        let index = takeEntry()
        unsafe fill(bucket, place, Self.tag(hash), index)
        count += 1
        return index
      }
      guard makeRoom(hash, now) else { return Self.none }
    }
  }

  /// A free place in one of a key's two buckets; -1 where there is none.
  @inline(__always) func freePlace(_ hash: UInt64) -> (bucket: UnsafeMutableRawPointer, place: Int) {
    var bucket = unsafe bucket(hash)
    var free = unsafe weft_match_tags(bucket, 0)
    if free == 0 {
      unsafe bucket = unsafe self.bucket(Self.other(hash))
      unsafe free = weft_match_tags(bucket, 0)
      if free == 0 { return unsafe (bucket, -1) }
    }
    return unsafe (bucket, free.trailingZeroBitCount >> 1)
  }

  @inline(__always) func fill(_ bucket: UnsafeMutableRawPointer, _ place: Int, _ tag: UInt16, _ index: UInt32) {
    unsafe bucket.storeBytes(of: index, toByteOffset: 16 + place * 4, as: UInt32.self)
    unsafe bucket.storeBytes(of: tag, toByteOffset: place * 2, as: UInt16.self)
  }

  /// Frees a place in either of a key's buckets: by moving an entry to its other bucket, or by evicting a flow.
  private mutating func makeRoom(_ hash: UInt64, _ now: UInt64) -> Bool {
    var victim = Self.none
    for attempt in 0..<2 {
      let bucket = unsafe bucket(attempt == 0 ? hash : Self.other(hash))
      for place in 0..<8 {
        let tag = unsafe bucket.load(fromByteOffset: place * 2, as: UInt16.self)
        let index = unsafe bucket.load(fromByteOffset: 16 + place * 4, as: UInt32.self)
        let number = (attempt == 0 ? hash : Self.other(hash)) ^ Self.distance(tag)
        let elsewhere = unsafe self.bucket(number)
        let free = unsafe weft_match_tags(elsewhere, 0)
        if free != 0 {
          unsafe fill(elsewhere, free.trailingZeroBitCount >> 1, tag, index)
          unsafe bucket.storeBytes(of: 0, toByteOffset: place * 2, as: UInt16.self)
          return true
        }
        let forward = forwardIndex(index)
        // The forward entry of the flow being made is not listed yet.
        guard forward != Self.none, unsafe entries[Int(forward)].flags.contains(.listed) else { continue }
        let isOlder = unsafe victim == Self.none || entries[Int(forward)].created < entries[Int(victim)].created
        if isOlder { victim = forward }
      }
    }
    return victim != Self.none && evict(victim, now)
  }

  @inline(__always) mutating func takeEntry() -> UInt32 {
    if freeHead != Self.none {
      let index = freeHead
      freeHead = unsafe entries[Int(index)].reverse
      return index
    }
    highWater += 1
    return highWater - 1
  }

  /// Takes one entry out of its bucket.
  mutating func displace(_ index: UInt32) {
    let hash = unsafe entries[Int(index)].key.hash(seed: seed)
    for attempt in 0..<2 {
      let bucket = unsafe bucket(attempt == 0 ? hash : Self.other(hash))
      for place in 0..<8 where unsafe bucket.load(fromByteOffset: place * 2, as: UInt16.self) != 0 {
        guard unsafe bucket.load(fromByteOffset: 16 + place * 4, as: UInt32.self) == index else { continue }
        unsafe bucket.storeBytes(of: 0, toByteOffset: place * 2, as: UInt16.self)
        unsafe entries[Int(index)].flags = []
        // No packet's: what a batch has found out before finds nothing here.
        unsafe entries[Int(index)].transport = 0
        unsafe entries[Int(index)].reverse = freeHead
        freeHead = index
        count -= 1
        removals &+= 1
        return
      }
    }
  }
}
