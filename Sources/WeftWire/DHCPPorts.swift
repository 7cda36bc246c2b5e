/// UDP ports of DHCP: RFC 2131 section 4.1, RFC 8415 section 7.2.
public enum DHCPPorts {
  public static let server: UInt16 = 67
  public static let client: UInt16 = 68
  public static let client6: UInt16 = 546
  public static let server6: UInt16 = 547

  /// To a server, from wherever (a relay agent sends from the server's port), or from a server to a client.
  @inlinable @inline(__always) public static func isV4(_ source: UInt16, _ destination: UInt16) -> Bool {
    destination == server || source == server && destination == client
  }
}
