/// A DHCP message for IPv6 between client and server (RFC 8415 section 8).
///
///     offset  bytes
///     0       1      kind
///     1       3      transaction
///     4       ...    options: code 2, length 2, value
public struct DHCPv6Message: Hashable, Sendable {
  public enum Kind: UInt8, Sendable, CaseIterable {
    case solicit = 1
    case advertise, request, confirm, renew, rebind, reply, release, decline, reconfigure
    case informationRequest = 11
    case relayForward = 12
    case relayReply = 13
  }

  public struct Option: Hashable, Sendable {
    public var code: UInt16
    public var value: [UInt8]

    public init(_ code: UInt16, _ value: [UInt8]) {
      self.code = code
      self.value = value
    }
  }

  public var kind: Kind
  /// 24 bits.
  public var transaction: UInt32
  /// In their order. Some codes may come more than once.
  public var options: [Option] = []

  public init(_ kind: Kind, transaction: UInt32) {
    self.kind = kind
    self.transaction = transaction & 0xFF_FFFF
  }

  public subscript(code: UInt16) -> [UInt8]? { options.first { $0.code == code }?.value }

  /// Reads a message (the payload of UDP). Of relay agents' messages the kind alone.
  public init(reading octets: [UInt8]) throws(MessageFault) {
    var reader = OctetReader(octets)
    guard let kind = Kind(rawValue: try reader.u8("kind")) else { throw MessageFault("kind") }
    self.kind = kind
    transaction = UInt32(try reader.u8("transaction")) << 16 | UInt32(try reader.u16("transaction"))
    guard kind != .relayForward, kind != .relayReply else { return }
    options = try Self.options(reader.rest())
  }

  public static func options(_ octets: some Collection<UInt8>) throws(MessageFault) -> [Option] {
    var reader = OctetReader(octets)
    var options: [Option] = []
    while reader.remaining > 0 {
      let code = try reader.u16("an option's code")
      let count = Int(try reader.u16("option \(code)"))
      options.append(Option(code, try reader.octets(count, "option \(code)")))
    }
    return options
  }

  public static func encoded(_ options: [Option]) -> [UInt8] {
    var octets: [UInt8] = []
    for option in options {
      octets.put16(option.code)
      octets.put16(UInt16(clamping: option.value.count))
      octets += option.value.prefix(65535)
    }
    return octets
  }

  public var octets: [UInt8] {
    var octets: [UInt8] = []
    octets.put32(UInt32(kind.rawValue) << 24 | transaction & 0xFF_FFFF)
    return octets + Self.encoded(options)
  }
}

/// An identity association for addresses (RFC 8415 sections 21.4, 21.6): IAID, T1, T2 in seconds, options.
public struct DHCPv6Association: Hashable, Sendable {
  public struct Address: Hashable, Sendable {
    public var address: IPAddress
    /// Seconds.
    public var preferred: UInt32
    public var valid: UInt32

    public init(_ address: IPAddress, preferred: UInt32, valid: UInt32) {
      self.address = address
      self.preferred = preferred
      self.valid = valid
    }
  }

  public var identifier: UInt32
  public var renew: UInt32 = 0
  public var rebind: UInt32 = 0
  public var addresses: [Address] = []
  public var status: (code: DHCPv6Status, text: String)?

  public init(_ identifier: UInt32) { self.identifier = identifier }

  public init(reading value: [UInt8]) throws(MessageFault) {
    var reader = OctetReader(value)
    identifier = try reader.u32("an IAID")
    renew = try reader.u32("T1")
    rebind = try reader.u32("T2")
    for option in try DHCPv6Message.options(reader.rest()) where option.code == DHCPv6Option.address {
      var inner = OctetReader(option.value)
      addresses.append(
        Address(
          try inner.address6("an address"), preferred: try inner.u32("a preferred lifetime"),
          valid: try inner.u32("a valid lifetime")))
    }
  }

  public var octets: [UInt8] {
    var octets: [UInt8] = []
    octets.put32(identifier)
    octets.put32(renew)
    octets.put32(rebind)
    var options: [DHCPv6Message.Option] = []
    for address in addresses {
      var value: [UInt8] = []
      value.put6(address.address)
      value.put32(address.preferred)
      value.put32(address.valid)
      options.append(.init(DHCPv6Option.address, value))
    }
    if let status { options.append(.init(DHCPv6Option.status, status.code.option(status.text))) }
    return octets + DHCPv6Message.encoded(options)
  }

  public static func == (a: Self, b: Self) -> Bool { a.octets == b.octets }
  public func hash(into hasher: inout Hasher) { hasher.combine(octets) }
}

/// RFC 8415 section 21.13.
public enum DHCPv6Status: UInt16, Sendable {
  case success = 0
  case unspecified, noAddresses, noBinding, notOnLink, useMulticast, noPrefixes

  public func option(_ text: String) -> [UInt8] { [0, UInt8(rawValue)] + Array(text.utf8) }
}

/// Codes of DHCPv6's options (IANA "DHCPv6 Option Codes").
public enum DHCPv6Option {
  public static let client: UInt16 = 1
  public static let server: UInt16 = 2
  /// Addresses, temporary addresses, prefixes.
  public static let association: UInt16 = 3
  public static let temporary: UInt16 = 4
  public static let address: UInt16 = 5
  public static let requested: UInt16 = 6
  public static let preference: UInt16 = 7
  public static let status: UInt16 = 13
  public static let rapidCommit: UInt16 = 14
  public static let nameServers: UInt16 = 23
  public static let search: UInt16 = 24
  public static let prefixes: UInt16 = 25
  /// RFC 4075.
  public static let timeServers: UInt16 = 31
  public static let refreshTime: UInt16 = 32
  /// RFC 5970.
  public static let bootFile: UInt16 = 59
}
