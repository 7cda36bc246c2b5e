import FoundationEssentials
import Hummingbird
import NIOCore
import WeftAPI
import WeftOpenAPI
import Yams

extension HTTPInterface {
  var documentEndpoints: [Endpoint] {
    [Endpoint(.get, "/openapi.json") { _, _ in try OpenAPIDocument.json.get().answer }]
  }
}

/// The description of this API, as the agent serves it.
public enum OpenAPIDocument {
  /// docs/openapi.yaml as JSON; made once, when it is first asked for.
  public static let json: Result<Text, any Error> = Result {
    guard let root = try compose(yaml: OpenAPIText.yaml) else {
      throw APIError(.internalError, "the OpenAPI document is empty")
    }
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
    return Text(bytes: Array(try encoder.encode(Tree(root))) + [UInt8(ascii: "\n")])
  }

  public struct Text: Sendable {
    public var bytes: [UInt8]

    var answer: Response {
      Response(
        status: .ok, headers: [.contentType: "application/json"],
        body: ResponseBody(byteBuffer: ByteBuffer(bytes: bytes)))
    }
  }
}

/// A YAML node as JSON.
private enum Tree: Encodable {
  case null
  case bool(Bool)
  case integer(Int)
  case text(String)
  case list([Tree])
  case mapping([String: Tree])

  init(_ node: Node) {
    switch node {
    case .sequence(let sequence): self = .list(sequence.map { Tree($0) })
    case .mapping(let mapping):
      self = .mapping(
        Dictionary(mapping.map { ($0.key.scalar?.string ?? "", Tree($0.value)) }, uniquingKeysWith: { _, last in last })
      )
    case .scalar(let scalar):
      // What stands in quotes is text, whatever it looks like.
      if scalar.style != .plain && scalar.style != .any {
        self = .text(scalar.string)
      } else if let value = node.bool {
        self = .bool(value)
      } else if let value = node.int {
        self = .integer(value)
      } else if node.null != nil {
        self = .null
      } else {
        self = .text(scalar.string)
      }
    case .alias: self = .null
    }
  }

  func encode(to encoder: any Encoder) throws {
    var container = encoder.singleValueContainer()
    switch self {
    case .null: try container.encodeNil()
    case .bool(let value): try container.encode(value)
    case .integer(let value): try container.encode(value)
    case .text(let value): try container.encode(value)
    case .list(let value): try container.encode(value)
    case .mapping(let value): try container.encode(value)
    }
  }
}
