/// An MPLS label stack entry (RFC 3032 section 2.1), after an outer UDP header to port 6635 (RFC 7510).
///
///     bits    31...12 label, 11...9 traffic class, 8 bottom of stack, 7...0 TTL
public enum MPLS {
  public static let bytes = 4
  public static let port: UInt16 = 6635
  public static let bottomOfStack: UInt32 = 0x100
  public static let maximumLabel: UInt32 = 0xF_FFFF
  /// Labels below are reserved (RFC 3032 section 2.1).
  public static let firstLabel: UInt32 = 16

  @inlinable @inline(__always) public static func write(
    _ at: Bytes, label: UInt32, trafficClass: UInt8 = 0, ttl: UInt8
  ) {
    at.set32(0, label << 12 | UInt32(trafficClass & 7) << 9 | bottomOfStack | UInt32(ttl))
  }
}
