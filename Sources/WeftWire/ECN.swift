/// Explicit congestion notification through tunnels (RFC 6040). Values are the two low bits of the DS field.
public enum ECN {
  public static let mask: UInt8 = 3
  public static let notECT: UInt8 = 0
  public static let ect1: UInt8 = 1
  public static let ect0: UInt8 = 2
  public static let ce: UInt8 = 3

  /// The inner field after decapsulation in normal mode (RFC 6040 section 4.2, figure 4); nil: drop.
  @inlinable @inline(__always) public static func decapsulated(inner: UInt8, outer: UInt8) -> UInt8? {
    if outer == ce { return inner == notECT ? nil : ce }
    if outer == ect1 && inner == ect0 { return ect1 }
    return inner
  }
}
