import CLinux

/// The bucket of a hash.
@safe @frozen public struct FlowBucket {
  @usableFromInline let pointer: UnsafeMutableRawPointer
  @inlinable @inline(__always) init(_ pointer: UnsafeMutableRawPointer) { unsafe self.pointer = unsafe pointer }
}

/// An entry in its place, for the packet path. As a number is, it is good until something is removed; one of a flow that
/// has been removed since is that of no packet.
@safe @frozen public struct FlowPlace {
  @usableFromInline let entry: UnsafeMutablePointer<FlowEntry>

  @inlinable @inline(__always) init(_ entry: UnsafeMutablePointer<FlowEntry>) { unsafe self.entry = unsafe entry }

  /// It is the entry of an IPv4 key given as its two words.
  @inlinable @inline(__always) public func has(addresses: UInt64, transport: UInt64) -> Bool {
    unsafe entry.pointee.addresses == addresses && entry.pointee.transport == transport
  }

  @inlinable @inline(__always) public var policyGeneration: UInt32 { unsafe entry.pointee.policyGeneration }
  @inlinable @inline(__always) public var mark: UInt32 { unsafe entry.pointee.mark }
  @inlinable @inline(__always) public var flags: FlowFlags { unsafe entry.pointee.flags }
  /// Its next packet is forwarded, perhaps translated, and changes nothing but counters.
  @inlinable @inline(__always) public var isShort: Bool {
    let asked: FlowFlags = [.denied, .mirrored, .staged, .steady]
    return UInt32(flags.rawValue) & UInt32(asked.rawValue) == UInt32(FlowFlags.steady.rawValue)
  }
  @inlinable @inline(__always) public var rewrite: FlowRewrite { unsafe entry.pointee.rewrite }

  /// Counts a packet of `bytes` that took the way of the one before it.
  @inlinable @inline(__always) public func count(bytes: Int, now: UInt64) {
    unsafe entry.pointee.packets &+= 1
    unsafe entry.pointee.bytes &+= UInt64(truncatingIfNeeded: bytes)
    unsafe entry.pointee.lastSeen = now
  }
}

/// How a batch's packets find their flows: where the table's memory is.
@safe @frozen public struct FlowPlaces {
  @usableFromInline let buckets: UnsafeMutableRawPointer
  @usableFromInline let mask: UInt64
  @usableFromInline let entries: UnsafeMutablePointer<FlowEntry>
  /// An entry of nobody's, behind the others.
  public let nobody: FlowPlace

  @inlinable @inline(__always) public init(_ table: borrowing FlowTable) {
    unsafe buckets = table.buckets
    mask = table.bucketMask
    unsafe entries = table.entries
    nobody = unsafe FlowPlace(table.entries + table.capacity)
  }

  /// The bucket of a hash, on its way into the cache. For all packets of a batch, before anything else.
  @inlinable @inline(__always) public func bucket(_ hash: UInt64) -> FlowBucket {
    let bucket = unsafe buckets + Int(truncatingIfNeeded: hash & mask) &* FlowTable.bucketBytes
    unsafe weft_prefetch(bucket)
    return unsafe FlowBucket(bucket)
  }

  /// A bucket without entries.
  @inlinable @inline(__always) public var noBucket: FlowBucket { unsafe FlowBucket(nobody.entry) }

  /// The entry that a key with this hash probably has, on its way into the cache: its first line, all that is needed for
  /// IPv4. One that is no packet's where it has none in its first bucket.
  @inlinable @inline(__always) public func candidate(_ bucket: FlowBucket, _ hash: UInt64) -> FlowPlace {
    let matches = unsafe weft_match_tags(bucket.pointer, FlowTable.tag(hash))
    guard matches != 0 else { return nobody }
    // Two bits a tag, four bytes a number.
    let index = unsafe bucket.pointer.load(
      fromByteOffset: 16 &+ matches.trailingZeroBitCount &* 2, as: UInt32.self)
    let entry = unsafe entries + Int(index)
    unsafe weft_prefetch_write(entry)
    return unsafe FlowPlace(entry)
  }

  /// The place of an entry that `find` or `insert` gave.
  @inlinable @inline(__always) public func place(_ index: UInt32) -> FlowPlace {
    unsafe FlowPlace(entries + Int(index))
  }
}

extension FlowTable {
  @inlinable @inline(__always) public var places: FlowPlaces { FlowPlaces(self) }
}
