import CLinux
import Glibc

/// An Ethernet address: 48 bits, the first octet on the wire in bits 47...40.
public struct MACAddress: Hashable, Sendable, CustomStringConvertible, LosslessStringConvertible, Codable {
  public let bits: UInt64

  @inlinable public init(bits: UInt64) { self.bits = bits & 0xFFFF_FFFF_FFFF }

  /// Reads six hexadecimal octets separated by colons; nil for anything else.
  public init?(_ text: String) {
    let parts = text.split(separator: ":", omittingEmptySubsequences: false)
    guard parts.count == 6 else { return nil }
    var value: UInt64 = 0
    for part in parts {
      guard (1...2).contains(part.utf8.count), part.utf8.allSatisfy(isHexadecimal), let octet = UInt8(part, radix: 16)
      else { return nil }
      value = value << 8 | UInt64(octet)
    }
    bits = value
  }

  public var octets: [UInt8] { (0..<6).map { UInt8(truncatingIfNeeded: bits >> (40 - 8 * $0)) } }
  @inlinable public var isBroadcast: Bool { bits == 0xFFFF_FFFF_FFFF }
  @inlinable public var isZero: Bool { bits == 0 }
  /// Multicast or broadcast: the first octet's lowest bit.
  @inlinable public var isGroup: Bool { bits >> 40 & 1 != 0 }

  public var description: String {
    octets.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined(separator: ":")
  }

  public init(from decoder: any Decoder) throws {
    let container = try decoder.singleValueContainer()
    let text = try container.decode(String.self)
    guard let address = MACAddress(text) else {
      throw DecodingError.dataCorruptedError(
        in: container, debugDescription: "\"\(text)\" is not a MAC address such as 02:00:00:00:00:01")
    }
    self = address
  }

  public func encode(to encoder: any Encoder) throws {
    var container = encoder.singleValueContainer()
    try container.encode(description)
  }

  /// The router's address towards every pod: no interface's own, so the host's kernel leaves its frames alone
  /// (RFC 5798's virtual router range, VRID 0).
  @inlinable public static var virtualRouter: MACAddress { MACAddress(bits: 0x0000_5E00_0100) }
  public static let broadcast = MACAddress(bits: 0xFFFF_FFFF_FFFF)
  public static let zero = MACAddress(bits: 0)
}

/// An IPv4 or IPv6 address. IPv4 is kept as IPv4-mapped IPv6 (::ffff:a.b.c.d, RFC 4291 section 2.5.5.2), so that one
/// 128-bit key serves both families; `high` holds the first eight octets in host order, `low` the last eight.
public struct IPAddress: Hashable, Sendable, CustomStringConvertible, LosslessStringConvertible, Codable, Comparable {
  public let high: UInt64
  public let low: UInt64

  @inlinable public init(high: UInt64, low: UInt64) {
    self.high = high
    self.low = low
  }

  /// From an IPv4 address in host order.
  @inlinable public init(v4: UInt32) {
    high = 0
    low = 0xFFFF_0000_0000 | UInt64(v4)
  }

  @inlinable public var isV4: Bool { high == 0 && low >> 32 == 0xFFFF }
  /// The IPv4 address in host order; meaningless for IPv6.
  @inlinable public var v4: UInt32 { UInt32(truncatingIfNeeded: low) }
  /// Bits in an address of this family: 32 or 128.
  @inlinable public var width: Int { isV4 ? 32 : 128 }
  public var isMulticast: Bool { isV4 ? v4 >> 28 == 0xE : high >> 56 == 0xFF }
  public var isUnspecified: Bool { isV4 ? v4 == 0 : high == 0 && low == 0 }
  public var isLinkLocal: Bool { isV4 ? v4 >> 16 == 0xA9FE : high >> 54 == 0xFE80 >> 6 }

  /// Reads dotted quads and RFC 4291 text (inet_pton's rules); nil for anything else.
  public init?(_ text: String) {
    guard text.utf8.count <= 45, !text.utf8.contains(0) else { return nil }
    var four = in_addr()
    if unsafe inet_pton(AF_INET, text, &four) == 1 {
      self.init(v4: UInt32(bigEndian: four.s_addr))
      return
    }
    var octets = [UInt8](repeating: 0, count: 16)
    guard unsafe inet_pton(AF_INET6, text, &octets) == 1 else { return nil }
    self.init(octets: octets)
  }

  /// From 4 or 16 octets in network order.
  public init?(octets: [UInt8]) {
    switch octets.count {
    case 4: self.init(v4: octets.reduce(0) { $0 << 8 | UInt32($1) })
    case 16:
      self.init(
        high: octets[0..<8].reduce(0) { $0 << 8 | UInt64($1) }, low: octets[8..<16].reduce(0) { $0 << 8 | UInt64($1) })
    default: return nil
    }
  }

  /// 4 or 16 octets in network order.
  public var octets: [UInt8] {
    isV4
      ? (0..<4).map { UInt8(truncatingIfNeeded: v4 >> (24 - 8 * $0)) }
      : (0..<8).map { UInt8(truncatingIfNeeded: high >> (56 - 8 * $0)) }
        + (0..<8).map { UInt8(truncatingIfNeeded: low >> (56 - 8 * $0)) }
  }

  public var description: String {
    let octets = self.octets
    var buffer = [CChar](repeating: 0, count: 64)
    guard unsafe inet_ntop(isV4 ? AF_INET : AF_INET6, octets, &buffer, 64) != nil else { return "?" }
    return String(decoding: buffer.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }

  public static func < (a: IPAddress, b: IPAddress) -> Bool { (a.high, a.low) < (b.high, b.low) }

  /// The address `offset` further on, or nil past the end of the family's space.
  public func advanced(by offset: UInt64) -> IPAddress? {
    if isV4 {
      let sum = UInt64(v4) + offset
      return sum <= UInt64(UInt32.max) ? IPAddress(v4: UInt32(sum)) : nil
    }
    let (sum, carry) = low.addingReportingOverflow(offset)
    if carry && high == .max { return nil }
    return IPAddress(high: high + (carry ? 1 : 0), low: sum)
  }

  public init(from decoder: any Decoder) throws {
    let container = try decoder.singleValueContainer()
    let text = try container.decode(String.self)
    guard let address = IPAddress(text) else {
      throw DecodingError.dataCorruptedError(
        in: container, debugDescription: "\"\(text)\" is not an IPv4 or IPv6 address")
    }
    self = address
  }

  public func encode(to encoder: any Encoder) throws {
    var container = encoder.singleValueContainer()
    try container.encode(description)
  }
}

/// An address block: the address with all bits beyond `length` zero, and the length in bits of its own family.
public struct IPPrefix: Hashable, Sendable, CustomStringConvertible, LosslessStringConvertible, Codable {
  public let address: IPAddress
  /// 0...32 for IPv4, 0...128 for IPv6.
  public let length: Int

  /// Masks the host bits away; nil when the length does not fit the family.
  public init?(_ address: IPAddress, length: Int) {
    guard (0...address.width).contains(length) else { return nil }
    self.address = address.masked(to: length)
    self.length = length
  }

  /// Reads "ADDRESS/LENGTH" (a bare address is a host prefix). Host bits are masked away.
  public init?(_ text: String) {
    let parts = text.split(separator: "/", omittingEmptySubsequences: false)
    guard let first = parts.first, parts.count <= 2, let address = IPAddress(String(first)) else { return nil }
    var length = address.width
    if parts.count == 2 {
      guard parts[1].utf8.allSatisfy({ (0x30...0x39).contains($0) }), let given = Int(parts[1]) else { return nil }
      length = given
    }
    self.init(address, length: length)
  }

  public init(host: IPAddress) {
    address = host
    length = host.width
  }

  public func contains(_ other: IPAddress) -> Bool {
    other.isV4 == address.isV4 && other.masked(to: length) == address
  }

  public func contains(_ other: IPPrefix) -> Bool { other.length >= length && contains(other.address) }

  public var isV4: Bool { address.isV4 }
  public var description: String { "\(address)/\(length)" }

  public init(from decoder: any Decoder) throws {
    let container = try decoder.singleValueContainer()
    let text = try container.decode(String.self)
    guard let prefix = IPPrefix(text) else {
      throw DecodingError.dataCorruptedError(
        in: container, debugDescription: "\"\(text)\" is not a prefix such as 10.0.0.0/24 or fd00::/64")
    }
    self = prefix
  }

  public func encode(to encoder: any Encoder) throws {
    var container = encoder.singleValueContainer()
    try container.encode(description)
  }
}

extension IPAddress {
  /// This address with all but its first `length` bits (of its own family) zero.
  public func masked(to length: Int) -> IPAddress {
    let bits = isV4 ? 96 + length : length
    let highMask: UInt64 = bits >= 64 ? .max : bits == 0 ? 0 : ~(.max >> UInt64(bits))
    let lowMask: UInt64 = bits >= 128 ? .max : bits <= 64 ? 0 : ~(.max >> UInt64(bits - 64))
    return IPAddress(high: high & highMask, low: low & lowMask)
  }
}

private func isHexadecimal(_ byte: UInt8) -> Bool {
  (0x30...0x39).contains(byte) || (0x61...0x66).contains(byte | 0x20)
}
