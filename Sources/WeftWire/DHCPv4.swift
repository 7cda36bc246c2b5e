/// A DHCP message for IPv4 (RFC 2131 section 2), options as in RFC 2132.
///
///     offset  bytes
///     0       4      op (1 request, 2 reply), htype 1, hlen 6, hops
///     4       4      transaction
///     8       4      seconds, flags (top bit: broadcast the answer)
///     12      16     ciaddr, yiaddr, siaddr, giaddr: the client's own address, the one it gets, the next server's, the relay's
///     28      16     chaddr
///     44      192    sname 64, file 128
///     236     4      magic cookie
///     240     ...    options: code, length, value; 0 pads, 255 ends
public struct DHCPv4Message: Hashable, Sendable {
  public enum Kind: UInt8, Sendable, CaseIterable {
    case discover = 1
    case offer, request, decline, ack, nak, release, inform
  }

  public struct Option: Hashable, Sendable {
    public var code: UInt8
    public var value: [UInt8]

    public init(_ code: UInt8, _ value: [UInt8]) {
      self.code = code
      self.value = value
    }
  }

  public static let headerBytes = 240
  /// What every client takes (RFC 2131 section 2): bytes of DHCP message in an IP packet of 576.
  public static let leastMaximum = 548
  private static let cookie: UInt32 = 0x6382_5363

  public var isRequest = true
  public var hops: UInt8 = 0
  public var transaction: UInt32 = 0
  public var seconds: UInt16 = 0
  public var broadcasts = false
  public var clientAddress = IPAddress(v4: 0)
  public var yourAddress = IPAddress(v4: 0)
  public var nextServer = IPAddress(v4: 0)
  public var relay = IPAddress(v4: 0)
  public var hardware: MACAddress
  /// sname and file, of what is sent; at most 63 and 127 bytes.
  public var bootServer = ""
  public var bootFile = ""
  /// Nil: a BOOTP message (RFC 951).
  public var kind: Kind?
  /// In their order, each code once, without the kind.
  public var options: [Option] = []

  public init(hardware: MACAddress) { self.hardware = hardware }

  public subscript(code: UInt8) -> [UInt8]? { options.first { $0.code == code }?.value }

  /// Reads a message (the payload of UDP). Options that come in parts are put together (RFC 3396), those in sname and file
  /// too (option 52).
  public init(reading octets: [UInt8]) throws(MessageFault) {
    var reader = OctetReader(octets)
    let op = try reader.u8("op")
    guard op == 1 || op == 2 else { throw MessageFault("op") }
    isRequest = op == 1
    guard try reader.u8("htype") == 1 else { throw MessageFault("htype (Ethernet is 1)") }
    guard try reader.u8("hlen") == 6 else { throw MessageFault("hlen (Ethernet's is 6)") }
    hops = try reader.u8("hops")
    transaction = try reader.u32("transaction")
    seconds = try reader.u16("seconds")
    broadcasts = try reader.u16("flags") & 0x8000 != 0
    clientAddress = try reader.address4("ciaddr")
    yourAddress = try reader.address4("yiaddr")
    nextServer = try reader.address4("siaddr")
    relay = try reader.address4("giaddr")
    let address = try reader.octets(16, "chaddr")
    hardware = MACAddress(bits: address[0..<6].reduce(0) { $0 << 8 | UInt64($1) })
    let name = try reader.octets(64, "sname")
    let file = try reader.octets(128, "file")
    // BOOTP's vendor area may hold anything.
    guard reader.remaining >= 4, try reader.u32("magic cookie") == Self.cookie else { return }
    try read(reader.rest(), "options")
    if let overload = self[52] {
      guard overload.count == 1, (1...3).contains(overload[0]) else { throw MessageFault("option 52") }
      if overload[0] & 1 != 0 { try read(file, "options in file") }
      if overload[0] & 2 != 0 { try read(name, "options in sname") }
    }
    if let value = self[53] {
      guard value.count == 1, let kind = Kind(rawValue: value[0]) else { throw MessageFault("option 53") }
      self.kind = kind
    }
    options.removeAll { $0.code == 52 || $0.code == 53 }
  }

  private mutating func read(_ area: [UInt8], _ what: String) throws(MessageFault) {
    var reader = OctetReader(area)
    while reader.remaining > 0 {
      let code = try reader.u8(what)
      if code == 0 { continue }
      if code == 255 { return }
      let count = Int(try reader.u8("option \(code)"))
      let value = try reader.octets(count, "option \(code)")
      if let index = options.firstIndex(where: { $0.code == code }) {
        options[index].value += value
      } else {
        options.append(Option(code, value))
      }
    }
  }

  /// The message in at most `maximum` bytes, at least 300 as old relays want it, and the codes of options for which there
  /// was no room. What does not fit the options' own area goes into file and sname (option 52).
  public func encoded(maximum: Int) -> (octets: [UInt8], omitted: [UInt8]) {
    var octets: [UInt8] = [isRequest ? 1 : 2, 1, 6, hops]
    octets.put32(transaction)
    octets.put16(seconds)
    octets.put16(broadcasts ? 0x8000 : 0)
    for address in [clientAddress, yourAddress, nextServer, relay] { octets.put32(address.v4) }
    octets += hardware.octets + [UInt8](repeating: 0, count: 10)
    var areas = [[UInt8]](repeating: [], count: 3)
    let main = max(maximum, Self.leastMaximum) - Self.headerBytes - 1
    if let kind { areas[0] += [53, 1, kind.rawValue] }
    let all = options.map { Self.parts($0) }
    let isWhole = areas[0].count + all.reduce(0) { $0 + $1.count } <= main
    let rooms = [
      isWhole ? main : main - 3, isWhole || !bootFile.isEmpty ? 0 : 127, isWhole || !bootServer.isEmpty ? 0 : 63,
    ]
    var omitted: [UInt8] = []
    for (option, parts) in zip(options, all) {
      if let area = areas.indices.first(where: { areas[$0].count + parts.count <= rooms[$0] }) {
        areas[area] += parts
      } else {
        omitted.append(option.code)
      }
    }
    let overload = UInt8((areas[1].isEmpty ? 0 : 1) | (areas[2].isEmpty ? 0 : 2))
    if overload != 0 { areas[0] += [52, 1, overload] }
    for (area, size, text) in [(2, 64, bootServer), (1, 128, bootFile)] {
      let used = areas[area].isEmpty ? Array(text.utf8.prefix(size - 1)) : areas[area] + [255]
      octets += used + [UInt8](repeating: 0, count: size - used.count)
    }
    octets.put32(Self.cookie)
    octets += areas[0] + [255]
    if octets.count < 300 { octets += [UInt8](repeating: 0, count: 300 - octets.count) }
    return (octets, omitted)
  }

  /// An option as it travels: in parts where it is longer than 255 (RFC 3396).
  private static func parts(_ option: Option) -> [UInt8] {
    var result: [UInt8] = []
    var rest = option.value[...]
    repeat {
      let part = rest.prefix(255)
      result += [option.code, UInt8(part.count)] + part
      rest = rest.dropFirst(part.count)
    } while !rest.isEmpty
    return result
  }
}

/// Codes of DHCPv4's options (IANA "BOOTP Vendor Extensions and DHCP Options").
public enum DHCPv4Option {
  public static let subnetMask: UInt8 = 1
  public static let router: UInt8 = 3
  public static let nameServers: UInt8 = 6
  public static let hostName: UInt8 = 12
  public static let domainName: UInt8 = 15
  public static let mtu: UInt8 = 26
  public static let broadcast: UInt8 = 28
  public static let timeServers: UInt8 = 42
  public static let requestedAddress: UInt8 = 50
  public static let leaseTime: UInt8 = 51
  public static let server: UInt8 = 54
  public static let parameters: UInt8 = 55
  public static let message: UInt8 = 56
  public static let maximumSize: UInt8 = 57
  public static let renewalTime: UInt8 = 58
  public static let rebindingTime: UInt8 = 59
  public static let client: UInt8 = 61
  public static let bootServer: UInt8 = 66
  public static let bootFile: UInt8 = 67
  /// RFC 4039.
  public static let rapidCommit: UInt8 = 80
  /// RFC 3397.
  public static let search: UInt8 = 119
  /// RFC 3442, and what clients asked for before it.
  public static let routes: UInt8 = 121
  public static let oldRoutes: UInt8 = 249
}
