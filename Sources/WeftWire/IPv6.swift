/// IPv6 (RFC 8200).
///
///     offset  bytes
///     0       4      version 4 bits, DSCP 6 bits, ECN 2 bits, flow label 20 bits
///     4       2      payload length
///     6       1      next header
///     7       1      hop limit
///     8       16     source
///     24      16     destination
public enum IPv6 {
  public static let bytes = 40

  public static let hopByHop: UInt8 = 0
  public static let routing: UInt8 = 43
  public static let fragment: UInt8 = 44
  public static let authentication: UInt8 = 51
  public static let noNext: UInt8 = 59
  public static let destinationOptions: UInt8 = 60
  public static let fragmentBytes = 8
  /// Bytes that every link must carry (section 5).
  public static let minimumMTU = 1280
  /// More extension headers than this are refused.
  public static let maximumExtensions = 8

  @inlinable @inline(__always) public static func trafficClass(_ at: Bytes) -> UInt8 {
    UInt8(truncatingIfNeeded: at.u16(0) >> 4)
  }

  @inlinable @inline(__always) public static func setTrafficClass(_ at: Bytes, _ value: UInt8) {
    at.set16(0, at.u16(0) & 0xF00F | UInt16(value) << 4)
  }
}
