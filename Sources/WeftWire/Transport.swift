/// Numbers of the protocols above IP (IANA "Protocol Numbers").
public enum IPProtocol {
  public static let icmp: UInt8 = 1
  public static let igmp: UInt8 = 2
  public static let tcp: UInt8 = 6
  public static let udp: UInt8 = 17
  public static let gre: UInt8 = 47
  public static let icmpv6: UInt8 = 58
  public static let sctp: UInt8 = 132
  public static let dccp: UInt8 = 33
  public static let udpLite: UInt8 = 136
}

/// TCP (RFC 9293 section 3.1).
///
///     offset  bytes
///     0       2      source port
///     2       2      destination port
///     4       4      sequence number
///     8       4      acknowledgment number
///     12      1      header length in 32-bit words 4 bits, reserved
///     13      1      CWR ECE URG ACK PSH RST SYN FIN
///     14      2      window
///     16      2      checksum
///     18      2      urgent pointer
public enum TCP {
  public static let minimumBytes = 20
  public static let checksum = 16
  public static let fin: UInt8 = 0x01
  public static let syn: UInt8 = 0x02
  public static let rst: UInt8 = 0x04
  public static let psh: UInt8 = 0x08
  public static let ack: UInt8 = 0x10
  public static let urg: UInt8 = 0x20
  public static let cwr: UInt8 = 0x80
  /// The option's kind (RFC 9293 section 3.2).
  public static let maximumSegmentSize: UInt8 = 2

  @inlinable @inline(__always) public static func headerBytes(_ at: Bytes) -> Int { Int(at.u8(12) >> 4) * 4 }
}

/// UDP (RFC 768).
///
///     offset  bytes
///     0       2      source port
///     2       2      destination port
///     4       2      length, header included
///     6       2      checksum, 0 for none (IPv4; RFC 6936 for tunnels over IPv6)
public enum UDP {
  public static let bytes = 8
  public static let checksum = 6
}

/// ICMP (RFC 792) and ICMPv6 (RFC 4443), as far as the forwarder answers them.
///
///     offset  bytes
///     0       1      type
///     1       1      code
///     2       2      checksum (ICMPv6: with pseudo-header)
///     4       2      echo: identifier
///     6       2      echo: sequence number
public enum ICMP {
  public static let minimumBytes = 8
  public static let echoReply: UInt8 = 0
  public static let echoRequest: UInt8 = 8
  public static let echoRequest6: UInt8 = 128
  public static let echoReply6: UInt8 = 129
  /// Multicast listener discovery (RFC 2710, RFC 3810).
  public static let listenerQuery: UInt8 = 130
  public static let listenerDone: UInt8 = 132
  public static let listenerReport2: UInt8 = 143
  public static let routerSolicitation: UInt8 = 133
  public static let routerAdvertisement: UInt8 = 134
  public static let neighborSolicitation: UInt8 = 135
  public static let neighborAdvertisement: UInt8 = 136
  public static let unreachable: UInt8 = 3
  public static let timeExceeded: UInt8 = 11
  public static let unreachable6: UInt8 = 1
  public static let packetTooBig6: UInt8 = 2
  public static let timeExceeded6: UInt8 = 3
}

/// SCTP's common header (RFC 9260 section 3.1).
///
///     offset  bytes
///     0       2      source port
///     2       2      destination port
///     4       4      verification tag
///     8       4      CRC-32C
public enum SCTP {
  public static let minimumBytes = 12
  public static let checksum = 8
}
