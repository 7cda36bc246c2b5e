import WeftWire

/// What makes packets one direction of a flow: VRF, addresses, protocol, ports. 48 bytes, compared as six words.
@frozen public struct FlowKey: Hashable, Sendable {
  public var source: IPAddress
  public var destination: IPAddress
  /// Source port 16 bits, destination port 16, protocol 8, zero 24, from the top.
  public var transport: UInt64
  public var vrf: UInt64

  @inlinable @inline(__always)
  public init(
    vrf: UInt32, source: IPAddress, destination: IPAddress, proto: UInt8, sourcePort: UInt16, destinationPort: UInt16
  ) {
    self.source = source
    self.destination = destination
    transport = UInt64(sourcePort) << 48 | UInt64(destinationPort) << 32 | UInt64(proto) << 24
    self.vrf = UInt64(vrf)
  }

  @inlinable public var sourcePort: UInt16 { UInt16(truncatingIfNeeded: transport >> 48) }
  @inlinable public var destinationPort: UInt16 { UInt16(truncatingIfNeeded: transport >> 32) }
  @inlinable public var proto: UInt8 { UInt8(truncatingIfNeeded: transport >> 24) }

  /// The same flow's other direction.
  @inlinable public var reversed: FlowKey {
    FlowKey(
      vrf: UInt32(truncatingIfNeeded: vrf), source: destination, destination: source, proto: proto,
      sourcePort: destinationPort, destinationPort: sourcePort)
  }

  /// 64 bits, of which the low 32 choose buckets and the top 16 are the tag.
  ///
  /// Multiplications folded to 64 bits, as in wyhash: `seed` goes into them, so that who does not know it cannot choose
  /// keys that collide. (A CRC would not do: two keys that collide under one seed do so under every seed.)
  @inlinable @inline(__always) public func hash(seed: UInt64) -> UInt64 {
    let a = Self.fold(source.high ^ vrf ^ seed ^ 0xA076_1D64_78BD_642F, source.low ^ 0xE703_7ED1_A0B4_28DB)
    let b = Self.fold(
      destination.high ^ (seed << 32 | seed >> 32) ^ 0x8EBC_6AF0_9C88_C6E3, destination.low ^ 0x5899_65CC_7537_4CC3)
    return Self.fold(a ^ transport, b ^ seed ^ 0x1D8E_4E27_C47D_124F)
  }

  /// The two halves of the product, one over the other.
  @inlinable @inline(__always) static func fold(_ a: UInt64, _ b: UInt64) -> UInt64 {
    let product = a.multipliedFullWidth(by: b)
    return product.high ^ product.low
  }

  @inlinable @inline(__always) public func equals(_ other: FlowKey) -> Bool {
    (source.high ^ other.source.high) | (source.low ^ other.source.low) | (destination.high ^ other.destination.high)
      | (destination.low ^ other.destination.low) | (transport ^ other.transport) | (vrf ^ other.vrf) == 0
  }
}
