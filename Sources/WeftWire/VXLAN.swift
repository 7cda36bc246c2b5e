/// VXLAN (RFC 7348 section 5), between an outer UDP header to port 4789 and an inner Ethernet frame.
///
///     offset  bytes
///     0       1      flags: 0x08 (I) set
///     1       3      reserved
///     4       3      VNI
///     7       1      reserved
public enum VXLAN {
  public static let bytes = 8
  public static let port: UInt16 = 4789
  public static let validVNI: UInt8 = 0x08

  @inlinable @inline(__always) public static func write(_ at: Bytes, vni: UInt32) {
    at.set32(0, 0x0800_0000)
    at.set32(4, vni << 8)
  }
}
