import WeftRing
import WeftWire

/// A value of TABLES.json and the way to it: what it may be is asked here, and refused with its path.
struct TablesFileNode {
  let value: JSONValue
  /// Such as "$.interfaces[2].mac".
  let path: String

  func fail(_ reason: String) -> TablesFileError {
    TablesFileError(path: path, line: value.line, column: value.column, reason: reason)
  }

  func array() throws(TablesFileError) -> [TablesFileNode] {
    guard case .array(let values) = value.content else { throw fail("\(value.kind) where an array is expected") }
    return values.indices.map { TablesFileNode(value: values[$0], path: "\(path)[\($0)]") }
  }

  /// What stands at a key of an object, where that is a text; and so for a number, and numbers in objects of an array.
  /// For looking ahead: what is wrong is said by whoever reads it.
  func text(at key: String) -> String? {
    if case .text(let text)? = member(key)?.content { text } else { nil }
  }
  func number(at key: String) -> UInt32? {
    if case .number(let text)? = member(key)?.content { UInt32(text) } else { nil }
  }
  func numbers(at key: String, _ inner: String) -> [UInt32] {
    guard case .array(let values)? = member(key)?.content else { return [] }
    return values.compactMap { TablesFileNode(value: $0, path: path).number(at: inner) }
  }
  private func member(_ key: String) -> JSONValue? {
    guard case .object(let members) = value.content else { return nil }
    return members.first { $0.key == key }?.value
  }

  /// An object that has no keys but `keys`, each at most once.
  func object(keys: [String]) throws(TablesFileError) -> TablesFileObject {
    guard case .object(let members) = value.content else { throw fail("\(value.kind) where an object is expected") }
    for (index, member) in members.enumerated() {
      guard keys.contains(member.key) else {
        throw child(member).fail("unknown key; the keys here are \(keys.joined(separator: ", "))")
      }
      if members[..<index].contains(where: { $0.key == member.key }) {
        throw child(member).fail("the key stands here twice; remove one")
      }
    }
    return TablesFileObject(node: self, fields: members.map { ($0.key, child($0)) })
  }

  private func child(_ member: JSONValue.Member) -> TablesFileNode {
    let isPlain = member.key.utf8.allSatisfy {
      (0x61...0x7A).contains($0 | 0x20) || (0x30...0x39).contains($0) || $0 == 0x2D || $0 == 0x5F
    }
    let step = isPlain && !member.key.isEmpty ? ".\(member.key)" : "[\"\(member.key)\"]"
    return TablesFileNode(value: member.value, path: path + step)
  }

  func text() throws(TablesFileError) -> String {
    guard case .text(let text) = value.content else { throw fail("\(value.kind) where a string is expected") }
    return text
  }

  /// A whole number within `range`, written without fraction and exponent.
  func integer(_ range: ClosedRange<UInt32>) throws(TablesFileError) -> UInt32 {
    guard case .number(let text) = value.content else { throw fail("\(value.kind) where a number is expected") }
    guard text.utf8.allSatisfy({ (0x30...0x39).contains($0) || $0 == 0x2D }) else {
      throw fail("\(text) is not a whole number; write it without fraction and exponent")
    }
    guard let number = UInt32(text), range.contains(number) else {
      throw fail("\(text) is not within \(range.lowerBound) to \(range.upperBound)")
    }
    return number
  }

  /// The same with more digits.
  func long(_ range: ClosedRange<UInt64>) throws(TablesFileError) -> UInt64 {
    guard case .number(let text) = value.content else { throw fail("\(value.kind) where a number is expected") }
    guard text.utf8.allSatisfy({ (0x30...0x39).contains($0) || $0 == 0x2D }) else {
      throw fail("\(text) is not a whole number; write it without fraction and exponent")
    }
    guard let number = UInt64(text), range.contains(number) else {
      throw fail("\(text) is not within \(range.lowerBound) to \(range.upperBound)")
    }
    return number
  }

  func flag() throws(TablesFileError) -> Bool {
    guard case .flag(let value) = value.content else { throw fail("\(value.kind) where true or false is expected") }
    return value
  }

  /// A case by its name.
  func choice<Choice: CaseIterable>(_ name: (Choice) -> String) throws(TablesFileError) -> Choice {
    let text = try text()
    guard let choice = Choice.allCases.first(where: { name($0) == text }) else {
      throw fail("\"\(text)\" is none of \(Choice.allCases.map(name).joined(separator: ", "))")
    }
    return choice
  }

  func mac() throws(TablesFileError) -> MACAddress {
    let text = try text()
    guard let mac = MACAddress(text) else {
      throw fail("\"\(text)\" is not a MAC address such as 02:00:00:00:00:01")
    }
    return mac
  }

  /// A MAC address that one station can have.
  func stationMAC() throws(TablesFileError) -> MACAddress {
    let mac = try mac()
    guard !mac.isGroup, !mac.isZero else {
      throw fail("\(mac) is \(mac.isZero ? "zero" : "a group address"), not the address of one station")
    }
    return mac
  }

  func address() throws(TablesFileError) -> IPAddress {
    let text = try text()
    guard let address = IPAddress(text) else { throw fail("\"\(text)\" is not an IPv4 or IPv6 address") }
    return address
  }

  /// An address that one host can have.
  func hostAddress() throws(TablesFileError) -> IPAddress {
    let address = try address()
    guard !address.isMulticast, !address.isUnspecified else {
      throw fail(
        "\(address) is \(address.isMulticast ? "a group address" : "unspecified"), not the address of one host")
    }
    return address
  }

  /// "ADDRESS/LENGTH" with no bits beyond the length.
  func prefix() throws(TablesFileError) -> IPPrefix {
    let text = try text()
    let parts = text.split(separator: "/", omittingEmptySubsequences: false)
    guard let first = parts.first, parts.count <= 2, let address = IPAddress(String(first)) else {
      throw fail("\"\(text)\" is not a prefix such as 10.0.0.0/24 or fd00::/64")
    }
    guard parts.count == 2 else {
      throw fail("\"\(text)\" has no length; the prefix of this one address is \(address)/\(address.width)")
    }
    guard let prefix = IPPrefix(text) else {
      throw fail("\"\(text)\": the length is a number from 0 to \(address.width)")
    }
    guard prefix.address == address else {
      throw fail("\"\(text)\" has bits set beyond its length; the prefix is \(prefix)")
    }
    return prefix
  }
}

/// An object whose keys have been checked.
struct TablesFileObject {
  let node: TablesFileNode
  let fields: [(key: String, value: TablesFileNode)]

  func optional(_ key: String) -> TablesFileNode? { fields.first { $0.key == key }?.value }

  func required(_ key: String) throws(TablesFileError) -> TablesFileNode {
    guard let field = optional(key) else { throw node.fail("the key \"\(key)\" is missing") }
    return field
  }

  /// Refuses keys that are known but mean nothing in this object; `reason` says whose they are.
  func refuse(_ keys: [String], _ reason: String) throws(TablesFileError) {
    for (key, value) in fields where keys.contains(key) { throw value.fail(reason) }
  }
}
