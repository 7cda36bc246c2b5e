import WeftWire

/// Addresses of one family, from the first to the last of them, both included.
public struct AddressRange: Hashable, Sendable, CustomStringConvertible {
  public let first: IPAddress
  public let last: IPAddress

  /// Nil when the families differ or the last comes before the first.
  public init?(_ first: IPAddress, _ last: IPAddress) {
    guard first.isV4 == last.isV4, first <= last else { return nil }
    self.first = first
    self.last = last
  }

  /// All addresses of a block.
  public init(_ prefix: IPPrefix) {
    first = prefix.address
    last = IPAddress(number: prefix.address.number | prefix.hostMask)
  }

  public var isV4: Bool { first.isV4 }
  public var description: String { "\(first)-\(last)" }

  public func contains(_ address: IPAddress) -> Bool {
    address.isV4 == isV4 && first <= address && address <= last
  }

  public func overlaps(_ other: AddressRange) -> Bool {
    other.isV4 == isV4 && first <= other.last && other.first <= last
  }

  var numbers: ClosedRange<UInt128> { first.number...last.number }
}

extension IPAddress {
  /// The address as a number; IPv4 as IPv4-mapped IPv6.
  var number: UInt128 { UInt128(high) << 64 | UInt128(low) }

  init(number: UInt128) {
    self.init(high: UInt64(truncatingIfNeeded: number >> 64), low: UInt64(truncatingIfNeeded: number))
  }
}

extension IPPrefix {
  /// The bits beyond the prefix.
  var hostMask: UInt128 {
    let hostBits = address.width - length
    return hostBits >= 128 ? .max : (UInt128(1) << UInt128(hostBits)) - 1
  }

  /// The two blocks have an address in common.
  public func overlaps(_ other: IPPrefix) -> Bool { contains(other) || other.contains(self) }
}
