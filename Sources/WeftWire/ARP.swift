/// ARP for IPv4 over Ethernet (RFC 826).
///
///     offset  bytes
///     0       2      hardware type: 1
///     2       2      protocol type: 0x0800
///     4       1      hardware address length: 6
///     5       1      protocol address length: 4
///     6       2      operation: 1 request, 2 reply
///     8       6      sender MAC
///     14      4      sender IPv4
///     18      6      target MAC
///     24      4      target IPv4
public enum ARP {
  public static let bytes = 28
  public static let request: UInt16 = 1
  public static let reply: UInt16 = 2

  /// True when the fixed fields say IPv4 over Ethernet.
  @inlinable public static func isIPv4OverEthernet(_ at: Bytes) -> Bool {
    at.u64(0) >> 16 == 0x0001_0800_0604
  }

  /// Turns a request into the answer that `target` is at `mac`.
  @inlinable public static func turnIntoReply(_ at: Bytes, mac: UInt64) {
    let senderMAC = at.mac(8)
    let sender = at.u32(14)
    let target = at.u32(24)
    at.set16(6, reply)
    at.setMAC(8, mac)
    at.set32(14, target)
    at.setMAC(18, senderMAC)
    at.set32(24, sender)
  }
}
