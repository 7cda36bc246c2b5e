// JSON (RFC 8259) as TABLES.json needs it: strict, with places for error messages, every key kept (a misspelt or
// doubled one is an error there), numbers as they were written.

/// A value of a JSON text and where it begins, counted from 1; columns are bytes.
struct JSONValue {
  enum Content {
    case null
    case flag(Bool)
    /// As written: the grammar has been checked.
    case number(String)
    case text(String)
    case array([JSONValue])
    /// In the order of the text, doubled keys and all.
    case object([Member])
  }

  struct Member {
    let key: String
    let value: JSONValue
  }

  let content: Content
  let line: Int
  let column: Int

  /// What it is, for messages.
  var kind: String {
    switch content {
    case .null: "null"
    case .flag: "true or false"
    case .number: "a number"
    case .text: "a string"
    case .array: "an array"
    case .object: "an object"
    }
  }
}

/// A text that is not JSON.
struct JSONSyntaxError: Error {
  let line: Int
  let column: Int
  let reason: String
}

struct JSONReader {
  /// Arrays and objects within each other.
  static let maximumDepth = 16

  private let bytes: [UInt8]
  private var position = 0
  private var line = 1
  private var lineStart = 0

  /// The one value of a whole text.
  static func read(_ bytes: [UInt8]) throws(JSONSyntaxError) -> JSONValue {
    var reader = JSONReader(bytes)
    if bytes.starts(with: [0xEF, 0xBB, 0xBF]) {
      throw reader.fail("the file begins with a byte order mark, which JSON does not have; save it as plain UTF-8")
    }
    reader.skipSpace()
    let value = try reader.value(depth: 0)
    reader.skipSpace()
    guard reader.position == bytes.count else {
      throw reader.fail("\(reader.here) after the end of the value; the file holds one object")
    }
    return value
  }

  private init(_ bytes: [UInt8]) { self.bytes = bytes }

  private var next: UInt8? { position < bytes.count ? bytes[position] : nil }
  private var column: Int { position - lineStart + 1 }

  /// What stands at the position, for messages.
  private var here: String {
    guard let next else { return "the file ends" }
    switch next {
    case 0x21...0x7E: return "\"\(Character(UnicodeScalar(next)))\""
    case 0x80...: return "a byte that is not ASCII"
    default: return "the control character \(next)"
    }
  }

  private func fail(_ reason: String) -> JSONSyntaxError {
    JSONSyntaxError(line: line, column: column, reason: reason)
  }

  private mutating func skipSpace() {
    while let next {
      switch next {
      case 0x20, 0x09, 0x0D: position += 1
      case 0x0A:
        position += 1
        line += 1
        lineStart = position
      default: return
      }
    }
  }

  private mutating func take(_ byte: UInt8) -> Bool {
    guard next == byte else { return false }
    position += 1
    return true
  }

  private mutating func value(depth: Int) throws(JSONSyntaxError) -> JSONValue {
    guard depth < Self.maximumDepth else {
      throw fail("more than \(Self.maximumDepth) arrays and objects within each other")
    }
    let line = line
    let column = column
    let content: JSONValue.Content
    guard let next else { throw fail("the file ends where a value is expected") }
    switch next {
    case UInt8(ascii: "{"): content = try object(depth: depth)
    case UInt8(ascii: "["): content = try array(depth: depth)
    case UInt8(ascii: "\""): content = .text(try string())
    case UInt8(ascii: "-"), UInt8(ascii: "0")...UInt8(ascii: "9"): content = .number(try number())
    case UInt8(ascii: "t"): content = try word("true", .flag(true))
    case UInt8(ascii: "f"): content = try word("false", .flag(false))
    case UInt8(ascii: "n"): content = try word("null", .null)
    default: throw fail("\(here) where a value is expected")
    }
    return JSONValue(content: content, line: line, column: column)
  }

  private mutating func word(_ word: String, _ content: JSONValue.Content) throws(JSONSyntaxError) -> JSONValue.Content
  {
    guard bytes[position...].starts(with: word.utf8) else { throw fail("not a value; \"\(word)\" was begun") }
    position += word.utf8.count
    return content
  }

  private mutating func object(depth: Int) throws(JSONSyntaxError) -> JSONValue.Content {
    position += 1
    var members: [JSONValue.Member] = []
    skipSpace()
    if take(UInt8(ascii: "}")) { return .object(members) }
    while true {
      guard next == UInt8(ascii: "\"") else { throw fail("\(here) where a key in double quotes is expected") }
      let key = try string()
      skipSpace()
      guard take(UInt8(ascii: ":")) else { throw fail("\(here) where \":\" is expected after the key \"\(key)\"") }
      skipSpace()
      members.append(JSONValue.Member(key: key, value: try value(depth: depth + 1)))
      skipSpace()
      if take(UInt8(ascii: "}")) { return .object(members) }
      guard take(UInt8(ascii: ",")) else { throw fail("\(here) where \",\" or \"}\" is expected") }
      skipSpace()
    }
  }

  private mutating func array(depth: Int) throws(JSONSyntaxError) -> JSONValue.Content {
    position += 1
    var values: [JSONValue] = []
    skipSpace()
    if take(UInt8(ascii: "]")) { return .array(values) }
    while true {
      values.append(try value(depth: depth + 1))
      skipSpace()
      if take(UInt8(ascii: "]")) { return .array(values) }
      guard take(UInt8(ascii: ",")) else { throw fail("\(here) where \",\" or \"]\" is expected") }
      skipSpace()
    }
  }

  private mutating func number() throws(JSONSyntaxError) -> String {
    let start = position
    _ = take(UInt8(ascii: "-"))
    if !take(UInt8(ascii: "0")) { try digits() }
    if take(UInt8(ascii: ".")) { try digits() }
    if take(UInt8(ascii: "e")) || take(UInt8(ascii: "E")) {
      if !take(UInt8(ascii: "+")) { _ = take(UInt8(ascii: "-")) }
      try digits()
    }
    if let next, (0x30...0x39).contains(next) { throw fail("a number that begins with 0") }
    return String(decoding: bytes[start..<position], as: UTF8.self)
  }

  private mutating func digits() throws(JSONSyntaxError) {
    let start = position
    while let next, (0x30...0x39).contains(next) { position += 1 }
    guard position > start else { throw fail("\(here) where a digit is expected") }
  }

  private mutating func string() throws(JSONSyntaxError) -> String {
    let opening = fail("a string that does not end")
    position += 1
    var text: [UInt8] = []
    while let byte = next {
      switch byte {
      case UInt8(ascii: "\""):
        guard let string = String(validating: text, as: UTF8.self) else { throw fail("a string that is not UTF-8") }
        position += 1
        return string
      case UInt8(ascii: "\\"): text.append(contentsOf: try escape())
      case 0x0A, 0x0D: throw opening
      case 0..<0x20: throw fail("a control character in a string; write it as \\u00..")
      default:
        text.append(byte)
        position += 1
      }
    }
    throw opening
  }

  private mutating func escape() throws(JSONSyntaxError) -> [UInt8] {
    let problem = fail("an escape that JSON does not have")
    position += 1
    guard let letter = next else { throw problem }
    position += 1
    switch letter {
    case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): return [letter]
    case UInt8(ascii: "b"): return [0x08]
    case UInt8(ascii: "f"): return [0x0C]
    case UInt8(ascii: "n"): return [0x0A]
    case UInt8(ascii: "r"): return [0x0D]
    case UInt8(ascii: "t"): return [0x09]
    case UInt8(ascii: "u"):
      guard let first = hexadecimal() else { throw problem }
      var code = UInt32(first)
      if (0xD800...0xDBFF).contains(first) {
        guard take(UInt8(ascii: "\\")), take(UInt8(ascii: "u")), let second = hexadecimal(),
          (0xDC00...0xDFFF).contains(second)
        else { throw problem }
        code = 0x10000 + (code - 0xD800) << 10 + (UInt32(second) - 0xDC00)
      }
      guard let scalar = UnicodeScalar(code) else { throw problem }
      return Array(String(Character(scalar)).utf8)
    default: throw problem
    }
  }

  private mutating func hexadecimal() -> UInt16? {
    guard position + 4 <= bytes.count else { return nil }
    var value: UInt16 = 0
    for byte in bytes[position..<position + 4] {
      guard let digit = Character(UnicodeScalar(byte)).hexDigitValue else { return nil }
      value = value << 4 | UInt16(digit)
    }
    position += 4
    return value
  }
}
