/// IPv6 neighbour discovery (RFC 4861 sections 4.3, 4.4, 4.6): solicitations in, advertisements out.
///
///     offset  bytes  (from the ICMPv6 header)
///     0       4      type 135 or 136, code 0, checksum
///     4       4      advertisement: R, S, O flags in the top bits
///     8       16     target
///     24      ...    options: type 1, length in 8 bytes 1, value; 1 source, 2 target link-layer address
public enum NeighborDiscovery {
  public static let minimumBytes = 24
  public static let advertisementBytes = 32
  public static let routerFlag: UInt32 = 0x8000_0000
  public static let solicitedFlag: UInt32 = 0x4000_0000
  public static let overrideFlag: UInt32 = 0x2000_0000
  public static let targetLinkLayerOption: UInt16 = 0x0201

  /// Every option's length is above zero and within the message (RFC 4861 section 7.1.1).
  @inlinable public static func optionsHold(_ at: Bytes, length: Int) -> Bool {
    var offset = minimumBytes
    while offset < length {
      guard offset + 2 <= length else { return false }
      let bytes = Int(at.u8(offset + 1)) * 8
      guard bytes > 0, offset + bytes <= length else { return false }
      offset += bytes
    }
    return true
  }

  /// The link-local address that an interface makes of its MAC address (RFC 4291 appendix A).
  @inlinable public static func linkLocal(mac: UInt64) -> IPAddress {
    IPAddress(
      high: 0xFE80_0000_0000_0000,
      low: ((mac >> 24) ^ 0x02_0000) << 40 | 0xFF_FE00_0000 | (mac & 0xFF_FFFF))
  }

  /// The router's own link-local address, from `MACAddress.virtualRouter` by RFC 4291 appendix A.
  @inlinable public static var routerLinkLocal: IPAddress {
    IPAddress(high: 0xFE80_0000_0000_0000, low: 0x0200_5EFF_FE00_0100)
  }
}
