/// IPv4 (RFC 791).
///
///     offset  bytes
///     0       1      version 4 bits, header length in 32-bit words 4 bits
///     1       1      DSCP 6 bits, ECN 2 bits (RFC 2474, RFC 3168)
///     2       2      total length
///     4       2      identification
///     6       2      0, DF, MF, fragment offset in 8 bytes 13 bits
///     8       1      time to live
///     9       1      protocol
///     10      2      header checksum
///     12      4      source
///     16      4      destination
public enum IPv4 {
  public static let minimumBytes = 20
  public static let dontFragment: UInt16 = 0x4000
  public static let moreFragments: UInt16 = 0x2000
  public static let offsetMask: UInt16 = 0x1FFF

  @inlinable @inline(__always) public static func headerBytes(_ at: Bytes) -> Int { Int(at.u8(0) & 15) * 4 }

  /// Lowers the TTL by one and mends the checksum.
  @inlinable @inline(__always) public static func decrementTTL(_ at: Bytes) {
    at.set8(8, at.u8(8) &- 1)
    // RFC 1624, equation 3, where the word that holds the TTL becomes 0x0100 less: the checksum becomes as much more, and
    // is never the zero that has all bits set. In the machine's order, which sums as well.
    let sum = UInt32(at.u16(10).bigEndian) &+ UInt32(UInt16(0x0100).bigEndian)
    at.set16(10, UInt16(bigEndian: UInt16(truncatingIfNeeded: sum &+ (sum >= 0xFFFF ? 1 : 0))))
  }

  /// Puts the right checksum into a header of `bytes`.
  @inlinable @inline(__always) public static func writeChecksum(_ at: Bytes, bytes: Int) {
    at.set16(10, 0)
    at.set16(10, Checksum.finish(at.sum(0, count: bytes)))
  }
}
