import WeftWire

/// What makes packets one direction of a flow: VRF, addresses, protocol, ports. 40 bytes, of which IPv4 needs 16.
@frozen public struct FlowKey: Hashable, Sendable {
  public var source: IPAddress
  public var destination: IPAddress
  /// Source port 16 bits, destination port 16, protocol 8, IPv6 1, VRF 23, from the top.
  public var transport: UInt64

  @inlinable @inline(__always)
  public init(
    vrf: UInt32, source: IPAddress, destination: IPAddress, proto: UInt8, sourcePort: UInt16, destinationPort: UInt16
  ) {
    self.source = source
    self.destination = destination
    transport = Self.transport(vrf: vrf, proto: proto, ports: UInt32(sourcePort) << 16 | UInt32(destinationPort))
    if !(source.isV4 && destination.isV4) { transport |= Self.v6 }
  }

  @inlinable @inline(__always) init(source: IPAddress, destination: IPAddress, transport: UInt64) {
    self.source = source
    self.destination = destination
    self.transport = transport
  }

  /// Of a packet of IPv4. `addresses`: source, destination from the top.
  @inlinable @inline(__always) public init(addresses: UInt64, transport: UInt64) {
    source = IPAddress(v4: UInt32(truncatingIfNeeded: addresses >> 32))
    destination = IPAddress(v4: UInt32(truncatingIfNeeded: addresses))
    self.transport = transport
  }

  @inlinable @inline(__always) static var v6: UInt64 { 1 << 23 }
  /// VRF numbers fit into the key.
  public static var maximumVRFs: Int { 1 << 23 }

  /// The word of a packet of IPv4: `ports` are source and destination port from the top.
  @inlinable @inline(__always) public static func transport(vrf: UInt32, proto: UInt8, ports: UInt32) -> UInt64 {
    UInt64(ports) << 32 | UInt64(proto) << 24 | UInt64(vrf & 0x7F_FFFF)
  }

  @inlinable public var sourcePort: UInt16 { UInt16(truncatingIfNeeded: transport >> 48) }
  @inlinable public var destinationPort: UInt16 { UInt16(truncatingIfNeeded: transport >> 32) }
  @inlinable public var proto: UInt8 { UInt8(truncatingIfNeeded: transport >> 24) }
  @inlinable public var vrf: UInt64 {
    get { transport & 0x7F_FFFF }
    set { transport = transport & ~0x7F_FFFF | newValue & 0x7F_FFFF }
  }
  @inlinable @inline(__always) var isV6: Bool { transport & Self.v6 != 0 }

  /// The same flow's other direction.
  @inlinable public var reversed: FlowKey {
    let ports = UInt32(truncatingIfNeeded: transport >> 32)
    return FlowKey(
      source: destination, destination: source,
      transport: UInt64(ports << 16 | ports >> 16) << 32 | transport & 0xFFFF_FFFF)
  }

  /// What its packets say of themselves.
  public var ends: Rewrite.Ends {
    Rewrite.Ends(
      source: source, destination: destination, sourcePort: sourcePort, destinationPort: destinationPort)
  }

  /// Both addresses in one word: those of IPv4 as they are, of IPv6 what tells most of them apart.
  @inlinable @inline(__always) var addresses: UInt64 {
    guard isV6 else { return UInt64(source.v4) << 32 | UInt64(destination.v4) }
    let a = source.high &+ (source.low << 17 | source.low >> 47)
    let b = destination.high &+ (destination.low << 17 | destination.low >> 47)
    return a ^ (b << 31 | b >> 33)
  }

  /// 64 bits, of which the low 32 choose buckets and the top 16 are the tag. One of these is always set, so that no tag is 0.
  ///
  /// Multiplications folded to 64 bits, as in wyhash: `seed` goes into them, so that who does not know it cannot choose
  /// keys that collide. (A CRC would not do: two keys that collide under one seed do so under every seed.)
  @inlinable @inline(__always) public func hash(seed: UInt64) -> UInt64 {
    guard isV6 else { return Self.hash(addresses: addresses, transport: transport, FlowSeeds(seed)) }
    let a = Self.fold(source.high ^ seed ^ 0xA076_1D64_78BD_642F, source.low ^ 0xE703_7ED1_A0B4_28DB)
    let b = Self.fold(
      destination.high ^ (seed << 32 | seed >> 32) ^ 0x8EBC_6AF0_9C88_C6E3, destination.low ^ 0x5899_65CC_7537_4CC3)
    return Self.fold(a ^ transport, b ^ seed ^ 0x1D8E_4E27_C47D_124F) | Self.tagged
  }

  /// The hash of an IPv4 key, from its two words.
  @inlinable @inline(__always)
  public static func hash(addresses: UInt64, transport: UInt64, _ seeds: FlowSeeds) -> UInt64 {
    let product = (addresses ^ seeds.first).multipliedFullWidth(by: transport ^ seeds.second)
    return fold(product.low ^ seeds.first, product.high ^ seeds.second) | tagged
  }

  @inlinable @inline(__always) static var tagged: UInt64 { 1 << 48 }

  /// The two halves of the product, one over the other.
  @inlinable @inline(__always) static func fold(_ a: UInt64, _ b: UInt64) -> UInt64 {
    let product = a.multipliedFullWidth(by: b)
    return product.high ^ product.low
  }
}

/// What goes into the hashes of IPv4 keys.
@frozen public struct FlowSeeds: Sendable {
  @usableFromInline let first: UInt64
  @usableFromInline let second: UInt64

  @inlinable @inline(__always) public init(_ seed: UInt64) {
    first = seed ^ 0xA076_1D64_78BD_642F
    second = (seed << 32 | seed >> 32) ^ 0xE703_7ED1_A0B4_28DB
  }
}
