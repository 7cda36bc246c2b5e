/// GRE (RFC 2784, RFC 2890), as MPLS goes in it (RFC 4023): right after an IP header of protocol 47.
///
///     offset  bytes
///     0       2      C 1 bit, 0, K 1 bit, S 1 bit, 0 9 bits, version 3 bits (0)
///     2       2      protocol: an EtherType
///     4       4      with C: checksum over all that follows the IP header, 0
///             4      with K: key
///             4      with S: sequence number
public enum GRE {
  /// Without the optional fields; the forwarder sends none.
  public static let bytes = 4
  public static let hasChecksum: UInt16 = 0x8000
  public static let hasKey: UInt16 = 0x2000
  public static let hasSequence: UInt16 = 0x1000
  /// MPLS unicast (RFC 5332).
  public static let mpls: UInt16 = 0x8847
}
