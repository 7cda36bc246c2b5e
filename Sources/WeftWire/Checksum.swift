/// The Internet checksum (RFC 1071) and its incremental update (RFC 1624).
///
/// Sums are kept unfolded in 64 bits and in the machine's byte order over the bytes as they lie in memory, which
/// RFC 1071 section 2(B) allows; values of header fields are in host order at the boundary.
public enum Checksum {
  /// Folds to 16 bits in the machine's order.
  @inlinable @inline(__always) public static func fold(_ sum: UInt64) -> UInt16 {
    var s = (sum & 0xFFFF_FFFF) &+ (sum >> 32)
    s = (s & 0xFFFF) &+ (s >> 16)
    s = (s & 0xFFFF) &+ (s >> 16)
    s = (s & 0xFFFF) &+ (s >> 16)
    return UInt16(truncatingIfNeeded: s)
  }

  /// `finish` for an IPv4 header of which `sum` (folded) has everything but total length and type of service.
  @inlinable @inline(__always)
  public static func finish(header sum: UInt64, length: UInt64, trafficClass: UInt8) -> UInt16 {
    let s =
      UInt32(truncatingIfNeeded: sum) &+ UInt32(UInt16(truncatingIfNeeded: length).bigEndian)
      &+ UInt32(UInt16(trafficClass).bigEndian)
    // The carry out of the lower half is that of the whole.
    return UInt16(bigEndian: ~UInt16(truncatingIfNeeded: (s &+ (s << 16 | s >> 16)) >> 16))
  }

  /// The value to put into a header (host order) for a sum over everything with the field zero.
  @inlinable @inline(__always) public static func finish(_ sum: UInt64) -> UInt16 { UInt16(bigEndian: ~fold(sum)) }

  /// True when a sum over everything, the field included, says that nothing is damaged.
  @inlinable @inline(__always) public static func holds(_ sum: UInt64) -> Bool { fold(sum) == 0xFFFF }

  /// A 16-bit value (host order) as an addend in the machine's order.
  @inlinable @inline(__always) public static func addend(_ value: UInt16) -> UInt64 { UInt64(value.bigEndian) }

  /// The field's new value when one 16-bit word it covers changes (RFC 1624, equation 3). Host order.
  @inlinable @inline(__always) public static func updated(
    _ checksum: UInt16, from old: UInt16, to new: UInt16
  ) -> UInt16 {
    var sum = UInt32(~checksum) &+ UInt32(~old) &+ UInt32(new)
    sum = (sum & 0xFFFF) &+ (sum >> 16)
    sum = (sum & 0xFFFF) &+ (sum >> 16)
    return ~UInt16(truncatingIfNeeded: sum)
  }

  /// The sum of a pseudo-header (RFC 9293 section 3.1, RFC 8200 section 8.1) of the IP packet at `ip`.
  @inlinable @inline(__always)
  public static func pseudoHeader(_ ip: Bytes, isV4: Bool, proto: UInt8, length: Int) -> UInt64 {
    let addresses = isV4 ? ip.sum(12, count: 8) : ip.sum(8, count: 32)
    let upper = UInt16(truncatingIfNeeded: length >> 16)
    return addresses &+ addend(UInt16(truncatingIfNeeded: length)) &+ addend(upper) &+ addend(UInt16(proto))
  }
}
