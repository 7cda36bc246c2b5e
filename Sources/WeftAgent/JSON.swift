import FoundationEssentials
import Hummingbird
import NIOCore
import WeftAPI

/// Bodies in and out.
enum JSON {
  static let maximumBytes = 64 * 1024

  static func answer(_ value: some Encodable, _ status: HTTPResponse.Status = .ok) -> Response {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
    guard let data = try? encoder.encode(value) else {
      // Only numbers without a JSON form fail to encode, and no answer has such.
      return Response(status: .internalServerError)
    }
    return Response(
      status: status, headers: [.contentType: "application/json"],
      body: ResponseBody(byteBuffer: ByteBuffer(bytes: data + [UInt8(ascii: "\n")])))
  }

  /// `{}`, which is what the field answers where there is nothing to say.
  static let empty = answer([String: String]())

  static func body(_ request: Request) async throws -> Data {
    if let length = request.headers[.contentLength].flatMap({ Int($0) }), length > maximumBytes {
      throw APIError(.tooLarge, "the body is larger than \(maximumBytes) bytes")
    }
    let buffer = try await request.body.collect(upTo: maximumBytes)
    return Data(buffer.readableBytesView)
  }

  static func decode<T: Decodable>(_ type: T.Type, _ request: Request) async throws -> T {
    try decode(type, await body(request))
  }

  static func decode<T: Decodable>(_ type: T.Type, _ data: Data) throws -> T {
    guard !data.isEmpty else { throw APIError(.badRequest, "the body is empty; it must be JSON") }
    do { return try JSONDecoder().decode(type, from: data) } catch {
      throw APIError(.badRequest, reason(error))
    }
  }

  private static func reason(_ error: any Error) -> String {
    guard let error = error as? DecodingError else { return "the body is no JSON: \(error)" }
    switch error {
    case .keyNotFound(let key, let context): return "\"\(path(context.codingPath + [key]))\" is missing"
    case .valueNotFound(_, let context): return "\"\(path(context.codingPath))\" must not be null"
    case .typeMismatch(let type, let context):
      let kind =
        type == String.self
        ? "a string" : type == Int.self ? "a number" : type == Bool.self ? "true or false" : "an object or a list"
      return context.codingPath.isEmpty ? "the body must be \(kind)" : "\"\(path(context.codingPath))\" must be \(kind)"
    case .dataCorrupted(let context):
      guard !context.codingPath.isEmpty else { return "the body is no JSON: \(context.debugDescription)" }
      return "\"\(path(context.codingPath))\": \(context.debugDescription)"
    @unknown default: return "the body is not what it should be: \(error)"
    }
  }

  private static func path(_ keys: [any CodingKey]) -> String {
    var text = ""
    for key in keys {
      if let index = key.intValue { text += "[\(index)]" } else { text += (text.isEmpty ? "" : ".") + key.stringValue }
    }
    return text
  }
}

extension HTTPInterface.Context {
  /// A component of the path.
  func component(_ name: String) throws -> String {
    guard let value = parameters.get(name)?.removingPercentEncoding else {
      throw APIError(.badRequest, "the path lacks {\(name)}, or it is wrongly encoded")
    }
    return value
  }

  func uuid(_ name: String) throws -> String {
    let text = try component(name)
    guard let uuid = Derived.uuid(text) else { throw APIError(.badRequest, "{\(name)} \"\(text.short)\" is no UUID") }
    return uuid
  }

  func containerID() throws -> String { try Checks.containerID(try component("container-id")) }

  func interface() throws -> String { try Checks.interface(try component("interface"), "interface") }
}

/// What may come in as names.
enum Checks {
  static func containerID(_ text: String, _ key: String = "container-id") throws -> String {
    guard Names.isValid(text) else {
      throw APIError(
        .badRequest,
        "\(key) \"\(text.short)\" must be 1 to 255 letters, digits, '_', '.' and '-', the first a letter or digit")
    }
    return text
  }

  static func interface(_ text: String, _ key: String) throws -> String {
    guard Names.isInterface(text) else {
      throw APIError(
        .badRequest, "\(key) \"\(text.short)\" must be an interface's name: 1 to 15 bytes without '/', ':' and space")
    }
    return text
  }

  static func netns(_ text: String, _ key: String) throws -> String {
    guard text.utf8.count <= 4096, !text.utf8.contains(0), text.isEmpty || text.hasPrefix("/") else {
      throw APIError(.badRequest, "\(key) must be an absolute path of at most 4096 bytes")
    }
    return text
  }

  static func label(_ text: String?, _ key: String) throws -> String? {
    guard let text else { return nil }
    guard text.utf8.count <= 255, !text.unicodeScalars.contains(where: { $0.value < 0x20 || $0 == "\"" || $0 == "\\" })
    else { throw APIError(.badRequest, "\(key) must be at most 255 bytes of text without quotes") }
    return text
  }
}

extension String {
  /// For messages: the beginning of what somebody sent.
  var short: String { utf8.count <= 80 ? self : String(prefix(60)) + "…" }
}
