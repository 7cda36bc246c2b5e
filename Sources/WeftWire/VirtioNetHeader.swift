/// The header that AF_PACKET (PACKET_VNET_HDR) and TAP (IFF_VNET_HDR) put before a frame: what is left to do to it
/// (virtio 1.2 section 5.1.6). Little-endian on the machines that Weft runs on; 10 bytes.
///
///     offset  bytes
///     0       1      flags: 1 the checksum is unfinished, 2 the checksum has been verified
///     1       1      segmentation: 0 none, 1 TCP over IPv4, 4 TCP over IPv6, 5 UDP; 0x80 ECN
///     2       2      bytes of headers
///     4       2      payload bytes of a segment
///     6       2      where checksumming starts
///     8       2      where, from there, the checksum goes
@frozen public struct VirtioNetHeader: Hashable, Sendable {
  public static let bytes = 10
  public static let needsChecksum: UInt8 = 1
  public static let dataValid: UInt8 = 2
  public static let gsoNone: UInt8 = 0
  public static let gsoTCPv4: UInt8 = 1
  public static let gsoTCPv6: UInt8 = 4
  /// Kernel 6.2.
  public static let gsoUDP: UInt8 = 5
  public static let gsoECN: UInt8 = 0x80

  public var flags: UInt8 = 0
  public var gso: UInt8 = 0
  public var headerBytes: UInt16 = 0
  public var gsoBytes: UInt16 = 0
  public var checksumStart: UInt16 = 0
  public var checksumOffset: UInt16 = 0

  @inlinable @inline(__always) public init() {}

  @inlinable @inline(__always) public init(reading at: Bytes) {
    flags = at.u8(0)
    gso = at.u8(1)
    headerBytes = at.u16(2).byteSwapped
    gsoBytes = at.u16(4).byteSwapped
    checksumStart = at.u16(6).byteSwapped
    checksumOffset = at.u16(8).byteSwapped
  }

  @inlinable @inline(__always) public func write(_ at: Bytes) {
    at.set8(0, flags)
    at.set8(1, gso)
    at.set16(2, headerBytes.byteSwapped)
    at.set16(4, gsoBytes.byteSwapped)
    at.set16(6, checksumStart.byteSwapped)
    at.set16(8, checksumOffset.byteSwapped)
  }
}
