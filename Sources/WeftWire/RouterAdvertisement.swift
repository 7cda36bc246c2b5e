/// A router advertisement (RFC 4861 section 4.2), with options as in RFC 4861 section 4.6, RFC 4191 and RFC 8106.
///
///     offset  bytes  (from the ICMPv6 header)
///     0       4      type 134, code 0, checksum
///     4       4      hop limit, flags (M 128, O 64), router lifetime in seconds
///     8       8      reachable time, retransmission timer in ms: 0, the sender does not say
///     16      ...    options: type, length in 8 bytes, value
public struct RouterAdvertisement: Hashable, Sendable {
  public struct Prefix: Hashable, Sendable {
    public var prefix: IPPrefix
    public var isOnLink: Bool
    /// Hosts make addresses of it (RFC 4862).
    public var isAutonomous: Bool
    /// Seconds.
    public var valid: UInt32
    public var preferred: UInt32

    public init(_ prefix: IPPrefix, isOnLink: Bool, isAutonomous: Bool, valid: UInt32, preferred: UInt32) {
      self.prefix = prefix
      self.isOnLink = isOnLink
      self.isAutonomous = isAutonomous
      self.valid = valid
      self.preferred = preferred
    }
  }

  public var hopLimit: UInt8 = 64
  /// Addresses, or other things, come by DHCPv6.
  public var isManaged = false
  public var hasOther = false
  /// Seconds, at most 9000; 0: no default router.
  public var lifetime: UInt16 = 0
  public var source: MACAddress
  public var mtu: UInt32?
  public var prefixes: [Prefix] = []
  /// Through the router, with a lifetime in seconds.
  public var routes: [(prefix: IPPrefix, lifetime: UInt32)] = []
  public var nameServers: [IPAddress] = []
  public var search: [DomainName] = []
  /// Of name servers and search list, in seconds.
  public var nameLifetime: UInt32 = 0

  public init(source: MACAddress) { self.source = source }

  public static func == (a: Self, b: Self) -> Bool { a.octets == b.octets }
  public func hash(into hasher: inout Hasher) { hasher.combine(octets) }

  /// The ICMPv6 message, checksum 0.
  public var octets: [UInt8] {
    var octets: [UInt8] = [ICMP.routerAdvertisement, 0, 0, 0, hopLimit, (isManaged ? 0x80 : 0) | (hasOther ? 0x40 : 0)]
    octets.put16(lifetime)
    octets += [UInt8](repeating: 0, count: 8)
    octets += [1, 1] + source.octets
    if let mtu {
      octets += [5, 1, 0, 0]
      octets.put32(mtu)
    }
    for prefix in prefixes {
      octets += [3, 4, UInt8(prefix.prefix.length), (prefix.isOnLink ? 0x80 : 0) | (prefix.isAutonomous ? 0x40 : 0)]
      octets.put32(prefix.valid)
      octets.put32(prefix.preferred)
      octets.put32(0)
      octets.put6(prefix.prefix.address)
    }
    for route in routes {
      let words = route.prefix.length == 0 ? 0 : route.prefix.length <= 64 ? 1 : 2
      octets += [24, UInt8(1 + words), UInt8(route.prefix.length), 0]
      octets.put32(route.lifetime)
      var address: [UInt8] = []
      address.put6(route.prefix.address)
      octets += address.prefix(words * 8)
    }
    if !nameServers.isEmpty {
      octets += [25, UInt8(clamping: 1 + 2 * nameServers.count), 0, 0]
      octets.put32(nameLifetime)
      for server in nameServers { octets.put6(server) }
    }
    if !search.isEmpty {
      var names = search.flatMap(\.octets)
      names += [UInt8](repeating: 0, count: (8 - names.count % 8) % 8)
      octets += [31, UInt8(clamping: 1 + names.count / 8), 0, 0]
      octets.put32(nameLifetime)
      octets += names
    }
    return octets
  }
}

/// A router solicitation (RFC 4861 section 4.1), checked as section 6.1.1 says.
public struct RouterSolicitation: Hashable, Sendable {
  /// `message`: the ICMPv6 message, its checksum checked; `source`, `hopLimit`: of the IPv6 packet.
  public init(reading message: [UInt8], source: IPAddress, hopLimit: UInt8) throws(MessageFault) {
    guard hopLimit == 255 else { throw MessageFault("hop limit (255)") }
    var reader = OctetReader(message)
    guard try reader.u8("type") == ICMP.routerSolicitation else { throw MessageFault("type") }
    guard try reader.u8("code") == 0 else { throw MessageFault("code") }
    _ = try reader.u16("checksum")
    _ = try reader.u32("reserved")
    while reader.remaining > 0 {
      let type = try reader.u8("an option's type")
      let count = Int(try reader.u8("option \(type)")) * 8
      guard count > 0 else { throw MessageFault("option \(type)'s length") }
      _ = try reader.octets(count - 2, "option \(type)")
      if type == 1, source.isUnspecified { throw MessageFault("a source link-layer address from nobody") }
    }
  }
}
