import WeftWire

/// An address with the length of the prefix it lives in, as an interface carries it: "10.1.1.3/16". Unlike `IPPrefix`
/// it keeps the host bits.
public struct InterfaceAddress: Hashable, Sendable, CustomStringConvertible, LosslessStringConvertible, Codable {
  public let address: IPAddress
  /// 0...32 for IPv4, 0...128 for IPv6.
  public let prefixLength: Int

  /// Nil when the length does not fit the family.
  public init?(_ address: IPAddress, prefixLength: Int) {
    guard (0...address.width).contains(prefixLength) else { return nil }
    self.address = address
    self.prefixLength = prefixLength
  }

  /// Reads "ADDRESS/LENGTH"; nil for anything else.
  public init?(_ text: String) {
    guard let slash = text.firstIndex(of: "/"), let address = IPAddress(String(text[..<slash])),
      let prefix = IPPrefix(text)
    else { return nil }
    self.address = address
    prefixLength = prefix.length
  }

  /// The block that the address lives in.
  public var prefix: IPPrefix { IPPrefix(address, length: prefixLength) ?? IPPrefix(host: address) }
  public var description: String { "\(address)/\(prefixLength)" }

  public init(from decoder: any Decoder) throws {
    let container = try decoder.singleValueContainer()
    let text = try container.decode(String.self)
    guard let value = InterfaceAddress(text) else {
      throw DecodingError.dataCorruptedError(
        in: container, debugDescription: "\"\(text)\" is not an address with its prefix length such as 10.1.1.3/16")
    }
    self = value
  }

  public func encode(to encoder: any Encoder) throws {
    var container = encoder.singleValueContainer()
    try container.encode(description)
  }
}
