import FoundationEssentials

/// A JSON value of whatever shape (RFC 8259): what the plugin looks into key by key, or passes on without knowing it.
public enum JSON: Hashable, Sendable, Codable {
  case null
  case bool(Bool)
  case integer(Int64)
  case number(Double)
  case string(String)
  case array([JSON])
  case object([String: JSON])

  /// What it is, for an error's text.
  public var kind: String {
    switch self {
    case .null: "null"
    case .bool: "a boolean"
    case .integer, .number: "a number"
    case .string: "a string"
    case .array: "an array"
    case .object: "an object"
    }
  }

  public var text: String? {
    if case .string(let text) = self { text } else { nil }
  }
  public var members: [String: JSON]? {
    if case .object(let members) = self { members } else { nil }
  }
  public var elements: [JSON]? {
    if case .array(let elements) = self { elements } else { nil }
  }
  /// A whole number.
  public var integer: Int64? {
    if case .integer(let value) = self { value } else { nil }
  }

  /// The member of that name; nil when it is absent or null, or this is no object.
  public subscript(_ key: String) -> JSON? {
    guard let value = members?[key], value != .null else { return nil }
    return value
  }

  /// The member of that name whatever its case: container runtimes write runtimeConfig's keys in either. The very same
  /// spelling comes first.
  public func member(anyCase key: String) -> JSON? {
    if let exact = self[key] { return exact }
    let wanted = key.lowercased()
    guard let members, let match = members.keys.filter({ $0.lowercased() == wanted }).min() else { return nil }
    return self[match]
  }

  public init(from decoder: any Decoder) throws {
    let container = try decoder.singleValueContainer()
    // The most frequent kinds first: each one tried in vain costs an error.
    if let text = try? container.decode(String.self) {
      self = .string(text)
    } else if let members = try? container.decode([String: JSON].self) {
      self = .object(members)
    } else if let elements = try? container.decode([JSON].self) {
      self = .array(elements)
    } else if container.decodeNil() {
      self = .null
    } else if let value = try? container.decode(Int64.self) {
      self = .integer(value)
    } else if let value = try? container.decode(Bool.self) {
      self = .bool(value)
    } else {
      self = .number(try container.decode(Double.self))
    }
  }

  public func encode(to encoder: any Encoder) throws {
    var container = encoder.singleValueContainer()
    switch self {
    case .null: try container.encodeNil()
    case .bool(let value): try container.encode(value)
    case .integer(let value): try container.encode(value)
    case .number(let value): try container.encode(value)
    case .string(let value): try container.encode(value)
    case .array(let value): try container.encode(value)
    case .object(let value): try container.encode(value)
    }
  }
}

/// JSON to bytes and back, the same way everywhere.
enum Coding {
  static func decode<T: Decodable>(_ type: T.Type, from bytes: [UInt8]) -> Result<T, Reason> {
    do {
      return .success(try JSONDecoder().decode(type, from: Data(bytes)))
    } catch let error as DecodingError {
      return .failure(Reason(error))
    } catch {
      return .failure(Reason(text: "\(error)"))
    }
  }

  static func encode(_ value: some Encodable) -> [UInt8] {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
    // Fails only for numbers that JSON has no way to write, and none comes in by JSON.
    return (try? encoder.encode(value)).map { Array($0) } ?? Array("null".utf8)
  }

  /// Why bytes are not the JSON that they should be: the key and what is wrong with it.
  struct Reason: Error, CustomStringConvertible {
    let description: String

    init(text: String) { description = text }

    init(_ error: DecodingError) {
      let context: DecodingError.Context
      switch error {
      case .typeMismatch(_, let found), .valueNotFound(_, let found), .dataCorrupted(let found): context = found
      case .keyNotFound(let key, let found):
        description = "\(Self.path(found.codingPath + [key])) is missing"
        return
      @unknown default:
        description = "\(error)"
        return
      }
      let path = Self.path(context.codingPath)
      let cause = context.underlyingError.map { ": \($0)" } ?? ""
      description = (path.isEmpty ? "" : "\(path): ") + context.debugDescription + cause
    }

    private static func path(_ keys: [any CodingKey]) -> String {
      keys.reduce("") { path, key in
        if let index = key.intValue { return "\(path)[\(index)]" }
        return path.isEmpty ? key.stringValue : "\(path).\(key.stringValue)"
      }
    }
  }
}
