/// Reads a message that came from outside, field after field in network byte order. Nothing is read beyond its end: then,
/// and where a field is not as it must be, `MessageFault` says which.
public struct OctetReader {
  private let octets: ArraySlice<UInt8>
  private var position: Int

  public init(_ octets: some Collection<UInt8>) {
    self.octets = ArraySlice(octets)
    position = self.octets.startIndex
  }

  public var remaining: Int { octets.endIndex - position }

  public mutating func u8(_ what: String) throws(MessageFault) -> UInt8 {
    guard remaining >= 1 else { throw MessageFault(what) }
    defer { position += 1 }
    return octets[position]
  }

  public mutating func u16(_ what: String) throws(MessageFault) -> UInt16 {
    UInt16(try u8(what)) << 8 | UInt16(try u8(what))
  }

  public mutating func u32(_ what: String) throws(MessageFault) -> UInt32 {
    UInt32(try u16(what)) << 16 | UInt32(try u16(what))
  }

  public mutating func octets(_ count: Int, _ what: String) throws(MessageFault) -> [UInt8] {
    guard count >= 0, count <= remaining else { throw MessageFault(what) }
    defer { position += count }
    return Array(octets[position..<position + count])
  }

  public mutating func address4(_ what: String) throws(MessageFault) -> IPAddress { IPAddress(v4: try u32(what)) }

  public mutating func address6(_ what: String) throws(MessageFault) -> IPAddress {
    let octets = try octets(16, what)
    return IPAddress(
      high: octets[0..<8].reduce(0) { $0 << 8 | UInt64($1) }, low: octets[8..<16].reduce(0) { $0 << 8 | UInt64($1) })
  }

  public mutating func rest() -> [UInt8] {
    defer { position = octets.endIndex }
    return Array(octets[position...])
  }
}

/// A message that does not hold what it should: which of its fields is missing, cut or wrong.
public struct MessageFault: Error, Hashable, Sendable, CustomStringConvertible {
  public let what: String

  public init(_ what: String) { self.what = what }

  public var description: String { "\(what) is missing, cut short or wrong" }
}

extension [UInt8] {
  mutating func put16(_ value: UInt16) { self += [UInt8(value >> 8), UInt8(value & 0xFF)] }
  mutating func put32(_ value: UInt32) {
    put16(UInt16(value >> 16))
    put16(UInt16(value & 0xFFFF))
  }
  /// 16 octets, of IPv4 too.
  mutating func put6(_ address: IPAddress) {
    for half in [address.high, address.low] {
      for shift in stride(from: 56, through: 0, by: -8) { append(UInt8(truncatingIfNeeded: half >> UInt64(shift))) }
    }
  }
}
