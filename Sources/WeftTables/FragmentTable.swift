import CLinux
import WeftSystem
import WeftWire

/// What the fragments of one packet have in common: VRF, addresses, identification, protocol (RFC 791 section 3.2,
/// RFC 8200 section 4.5). 48 bytes, compared as six words.
@frozen public struct FragmentKey: Hashable, Sendable {
  public var source: IPAddress
  public var destination: IPAddress
  /// Identification 32 bits (IPv4: 16), VRF 32, from the top.
  public var identification: UInt64
  public var proto: UInt64

  @inlinable @inline(__always)
  public init(vrf: UInt32, source: IPAddress, destination: IPAddress, identification: UInt32, proto: UInt8) {
    self.source = source
    self.destination = destination
    self.identification = UInt64(identification) << 32 | UInt64(vrf)
    self.proto = UInt64(proto)
  }

  @inlinable @inline(__always) func equals(_ other: FragmentKey) -> Bool {
    (source.high ^ other.source.high) | (source.low ^ other.source.low) | (destination.high ^ other.destination.high)
      | (destination.low ^ other.destination.low) | (identification ^ other.identification) | (proto ^ other.proto)
      == 0
  }
}

/// The ports that a packet's first fragment carries, for the fragments that follow it.
@frozen public struct FragmentPorts: Equatable, Sendable {
  public var source: UInt16
  public var destination: UInt16

  @inlinable public init(source: UInt16, destination: UInt16) {
    self.source = source
    self.destination = destination
  }
}

/// A worker's own memory of first fragments: a fixed number of places, nothing is reassembled or held back.
///
/// A key has a bucket of two places of a cache line each. When both hold others, the one that expires first makes way:
/// who floods the table with first fragments costs others the fragments that follow, and nothing else.
@safe public struct FragmentTable {
  @frozen @usableFromInline struct Entry {
    var key: FragmentKey
    /// CLOCK_MONOTONIC, ns; 0 for a free place.
    var expires: UInt64
    var ports: FragmentPorts
  }
  private static let placeBytes = 64
  /// How long a first fragment is remembered, ns. Receivers wait as long (Linux: ipfrag_time, 30 s).
  public var limit: UInt64 = 30_000_000_000

  private let seed: UInt64
  private let places: UnsafeMutableRawPointer
  private let bucketMask: Int
  private let memory: FragmentMemory
  /// First fragments that were forgotten before their time.
  public private(set) var displaced: UInt64 = 0

  /// `capacity` places of 64 bytes, rounded up to a power of two.
  public init(capacity: Int = 4096, seed: UInt64) throws(SystemError) {
    precondition(MemoryLayout<Entry>.size <= Self.placeBytes)
    var count = 2
    while count < capacity { count *= 2 }
    bucketMask = count / 2 - 1
    self.seed = seed
    memory = try FragmentMemory(bytes: count * Self.placeBytes)
    unsafe places = memory.mapping.base
  }

  /// Places in all.
  public var capacity: Int { (bucketMask + 1) * 2 }

  private func bucket(_ key: FragmentKey) -> UnsafeMutablePointer<Entry> {
    let flow = FlowKey(
      vrf: 0, source: key.source, destination: key.destination, proto: UInt8(truncatingIfNeeded: key.proto),
      sourcePort: 0, destinationPort: 0)
    let hash = flow.hash(seed: seed ^ key.identification)
    let number = Int(truncatingIfNeeded: hash) & bucketMask
    return unsafe (places + number * 2 * Self.placeBytes).assumingMemoryBound(to: Entry.self)
  }
  private func second(_ bucket: UnsafeMutablePointer<Entry>) -> UnsafeMutablePointer<Entry> {
    unsafe (UnsafeMutableRawPointer(bucket) + Self.placeBytes).assumingMemoryBound(to: Entry.self)
  }

  /// Remembers a first fragment's ports. A packet that uses an identification again replaces the one before it.
  public mutating func set(_ key: FragmentKey, _ ports: FragmentPorts, now: UInt64) {
    let one = unsafe bucket(key)
    let two = unsafe second(one)
    var chosen = unsafe one
    if unsafe !(one.pointee.expires != 0 && one.pointee.key.equals(key)) {
      if unsafe two.pointee.expires != 0 && two.pointee.key.equals(key) || two.pointee.expires < one.pointee.expires {
        unsafe chosen = two
      }
      if unsafe chosen.pointee.expires > now && !chosen.pointee.key.equals(key) { displaced &+= 1 }
    }
    let (expires, overflow) = now.addingReportingOverflow(limit)
    unsafe chosen.pointee = Entry(key: key, expires: overflow ? .max : max(1, expires), ports: ports)
  }

  /// The ports of the packet that a fragment is part of; nil when its first fragment has not been seen, or too long ago.
  public func find(_ key: FragmentKey, now: UInt64) -> FragmentPorts? {
    let one = unsafe bucket(key)
    if unsafe one.pointee.expires > now && one.pointee.key.equals(key) { return unsafe one.pointee.ports }
    let two = unsafe second(one)
    if unsafe two.pointee.expires > now && two.pointee.key.equals(key) { return unsafe two.pointee.ports }
    return nil
  }

  /// Forgets a packet, as when its first fragment was refused after all.
  public mutating func remove(_ key: FragmentKey) {
    let one = unsafe bucket(key)
    let two = unsafe second(one)
    if unsafe one.pointee.key.equals(key) { unsafe one.pointee.expires = 0 }
    if unsafe two.pointee.key.equals(key) { unsafe two.pointee.expires = 0 }
  }
}

/// The memory of a fragment table.
final class FragmentMemory: Sendable {
  let mapping: Mapping

  init(bytes: Int) throws(SystemError) { mapping = try Mapping(anonymous: bytes, what: "fragments") }
}
