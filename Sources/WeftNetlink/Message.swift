import CLinux

// Netlink messages as bytes. Integers in them are in the machine's order except where a field says otherwise; messages
// and attributes start at multiples of 4 (linux/netlink.h, RFC 3549 section 2.2).

/// A request under construction: nlmsghdr, a fixed part, attributes.
struct Request {
  static let headerBytes = 16

  private(set) var bytes: [UInt8] = []
  let flags: UInt16

  /// `flags` are NLM_F_*; NLM_F_REQUEST is added here.
  init(_ type: Int, flags: Int32) {
    self.flags = UInt16(flags | NLM_F_REQUEST)
    append(UInt32(0))
    append(UInt16(type))
    append(self.flags)
    append(UInt32(0))
    append(UInt32(0))
  }

  var isDump: Bool { flags & UInt16(NLM_F_DUMP) == UInt16(NLM_F_DUMP) }

  mutating func append<T: FixedWidthInteger & UnsignedInteger>(_ value: T) { bytes.append(host: value) }

  mutating func attribute(_ type: Int, _ payload: [UInt8]) {
    append(UInt16(4 + payload.count))
    append(UInt16(type))
    bytes += payload
    while bytes.count % 4 != 0 { bytes.append(0) }
  }

  mutating func attribute(_ type: Int, _ value: UInt8) { attribute(type, [value]) }

  mutating func attribute(_ type: Int, _ value: UInt32) {
    var payload: [UInt8] = []
    payload.append(host: value)
    attribute(type, payload)
  }

  /// With the NUL that ends it.
  mutating func attribute(_ type: Int, _ text: String) { attribute(type, Array(text.utf8) + [0]) }

  /// An attribute that holds what `content` appends.
  mutating func nested(_ type: Int, _ content: (inout Request) -> Void) {
    let start = bytes.count
    append(UInt16(0))
    append(UInt16(type) | UInt16(truncatingIfNeeded: NLA_F_NESTED))
    content(&self)
    bytes.replace(host: UInt16(bytes.count - start), at: start)
  }

  /// The bytes to send, with length and sequence number filled in.
  func sealed(sequence: UInt32) -> [UInt8] {
    var sealed = bytes
    sealed.replace(host: UInt32(bytes.count), at: 0)
    sealed.replace(host: sequence, at: 8)
    return sealed
  }
}

/// A message from the kernel.
struct Message {
  let type: UInt16
  let flags: UInt16
  let sequence: UInt32
  /// What follows the header.
  let payload: [UInt8]

  /// Splits what one read brought; a length that points out of it ends the list.
  static func split(_ bytes: ArraySlice<UInt8>) -> [Message] {
    var messages: [Message] = []
    var rest = bytes
    while let length = rest.host(UInt32.self, at: 0).map(Int.init), length >= Request.headerBytes,
      length <= rest.count, let type = rest.host(UInt16.self, at: 4), let flags = rest.host(UInt16.self, at: 6),
      let sequence = rest.host(UInt32.self, at: 8)
    {
      let payload = rest.dropFirst(Request.headerBytes).prefix(length - Request.headerBytes)
      messages.append(Message(type: type, flags: flags, sequence: sequence, payload: Array(payload)))
      rest = rest.dropFirst((length + 3) & ~3)
    }
    return messages
  }

  /// The attributes behind the first `fixed` bytes of the payload.
  func attributes(after fixed: Int) -> Attributes { Attributes(payload.dropFirst((fixed + 3) & ~3)) }
}

/// A list of attributes; of several with one type the last counts.
struct Attributes {
  private var byType: [Int: ArraySlice<UInt8>] = [:]

  init(_ bytes: ArraySlice<UInt8>) {
    var rest = bytes
    while let length = rest.host(UInt16.self, at: 0).map(Int.init), length >= 4, length <= rest.count,
      let type = rest.host(UInt16.self, at: 2)
    {
      // The two highest bits are flags (nested, network byte order).
      byType[Int(type & 0x3FFF)] = rest.dropFirst(4).prefix(length - 4)
      rest = rest.dropFirst((length + 3) & ~3)
    }
  }

  func bytes(_ type: Int) -> [UInt8]? { byType[type].map(Array.init) }
  func u8(_ type: Int) -> UInt8? { byType[type]?.first }
  func u32(_ type: Int) -> UInt32? { byType[type]?.host(UInt32.self, at: 0) }
  func nested(_ type: Int) -> Attributes? { byType[type].map(Attributes.init) }
  /// Up to the first NUL.
  func text(_ type: Int) -> String? { byType[type].map { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) } }
}

extension [UInt8] {
  mutating func append<T: FixedWidthInteger & UnsignedInteger>(host value: T) {
    let ordered = value.littleEndian
    for index in 0..<(T.bitWidth / 8) { append(UInt8(truncatingIfNeeded: ordered >> T(8 * index))) }
  }

  mutating func replace<T: FixedWidthInteger & UnsignedInteger>(host value: T, at offset: Int) {
    let ordered = value.littleEndian
    for index in 0..<(T.bitWidth / 8) { self[offset + index] = UInt8(truncatingIfNeeded: ordered >> T(8 * index)) }
  }

  func host<T: FixedWidthInteger & UnsignedInteger>(_ type: T.Type, at offset: Int) -> T? {
    self[...].host(type, at: offset)
  }
}

extension ArraySlice<UInt8> {
  /// The integer `offset` bytes from the slice's start, in the machine's order; nil beyond its end.
  func host<T: FixedWidthInteger & UnsignedInteger>(_: T.Type, at offset: Int) -> T? {
    let width = T.bitWidth / 8
    guard count >= offset + width else { return nil }
    let start = startIndex + offset
    return T(littleEndian: (0..<width).reversed().reduce(0) { $0 << 8 | T(self[start + $1]) })
  }
}
