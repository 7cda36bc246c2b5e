import WeftWire

/// A cell of a table, or a value in JSON.
indirect enum Value: Equatable {
  case text(String)
  case number(Int64)
  case flag(Bool)
  case list([Value])
  /// Keys in the order in which they are printed.
  case object([Member])
  /// There is nothing to say: "-" in a table, left out of an object.
  case nothing

  struct Member: Equatable {
    let key: String
    let value: Value
  }

  /// Counters beyond Int64.max stay there.
  static func number(_ value: some BinaryInteger) -> Value { .number(Int64(clamping: value)) }
  /// The number below.
  static func whole(_ value: Double) -> Value {
    let number: Int64 = value < 0x1p62 ? Int64(value) : .max
    return .number(number)
  }
  static func described(_ value: some CustomStringConvertible) -> Value { .text(value.description) }

  /// As it stands in a table for people.
  var shown: String {
    switch self {
    case .text(let text): text.isEmpty ? "-" : text
    case .number(let number): String(number)
    case .flag(let flag): flag ? "yes" : "no"
    case .list(let values): values.isEmpty ? "-" : values.map(\.shown).joined(separator: ",")
    case .object(let members): members.map { "\($0.key)=\($0.value.shown)" }.joined(separator: " ")
    case .nothing: "-"
    }
  }

  var isNumber: Bool {
    if case .number = self { true } else { false }
  }

  /// As JSON (RFC 8259) on one line.
  var json: String {
    switch self {
    case .text(let text): Self.quoted(text)
    case .number(let number): String(number)
    case .flag(let flag): flag ? "true" : "false"
    case .list(let values): "[\(values.map(\.json).joined(separator: ", "))]"
    case .object(let members):
      "{"
        + members.filter { $0.value != .nothing }.map { "\(Self.quoted($0.key)): \($0.value.json)" }
        .joined(separator: ", ") + "}"
    case .nothing: "null"
    }
  }

  private static func quoted(_ text: String) -> String {
    var result = "\""
    for scalar in text.unicodeScalars {
      switch scalar {
      case "\"": result += "\\\""
      case "\\": result += "\\\\"
      case "\n": result += "\\n"
      case "\t": result += "\\t"
      case _ where scalar.value < 0x20:
        let digits = String(scalar.value, radix: 16)
        result += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
      default: result.unicodeScalars.append(scalar)
      }
    }
    return result + "\""
  }
}
