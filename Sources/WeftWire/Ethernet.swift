/// Ethernet II (IEEE 802.3 clause 3).
///
///     offset  bytes
///     0       6      destination
///     6       6      source
///     12      2      EtherType
public enum Ethernet {
  public static let bytes = 14
  public static let destination = 0
  public static let source = 6
  public static let type = 12

  public static let ipv4: UInt16 = 0x0800
  public static let arp: UInt16 = 0x0806
  public static let vlan: UInt16 = 0x8100
  public static let ipv6: UInt16 = 0x86DD
  public static let serviceVLAN: UInt16 = 0x88A8
  /// What some equipment has for the outer of two tags (before IEEE 802.1ad).
  public static let oldServiceVLAN: UInt16 = 0x9100
  /// A tag: its type, priority and drop eligibility (4 bits), VLAN (12 bits; 0: none, a priority alone).
  public static let tagBytes = 4
  public static let vlanMask: UInt16 = 0x0FFF

  /// Priority (PCP, IEEE 802.1Q clause 9.6) in bits 3 to 1, drop eligibility (DEI) in bit 0, of the tag at `offset`.
  @inlinable @inline(__always) public static func priority(_ frame: Bytes, tagAt offset: Int) -> UInt8 {
    frame.u8(offset &+ 2) >> 4
  }

  @inlinable @inline(__always) public static func isTag(_ type: UInt16) -> Bool {
    type == vlan || type == serviceVLAN || type == oldServiceVLAN
  }

  @inlinable @inline(__always)
  public static func write(_ at: Bytes, destination: UInt64, source: UInt64, type: UInt16) {
    at.setMAC(0, destination)
    at.setMAC(6, source)
    at.set16(12, type)
  }
}
