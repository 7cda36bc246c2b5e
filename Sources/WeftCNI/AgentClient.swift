import CLinux
import WeftAPI

/// Why the agent did not do what it was asked.
enum AgentFailure: Error, Sendable {
  /// Nothing was asked.
  case unreachable(reason: String)
  /// It may have done it.
  case timedOut(seconds: Int)
  /// It may have done it.
  case broken(reason: String)
  /// It said no.
  case refused(APIError, status: Int)
}

/// The agent's HTTP API (docs/openapi.yaml), as far as the plugin needs it. Each request has `pollTimeout` seconds; once
/// one got no answer, none is sent any more: a run takes that time once.
final class AgentClient {
  private let http: HTTPClient
  private let endpoint: HTTPEndpoint
  private let timeout: Int
  private var silence: AgentFailure?

  init(_ settings: Settings) {
    endpoint = settings.agent
    timeout = settings.pollTimeout
    http = HTTPClient(endpoint)
  }

  /// The attachment that is there already, or a new one.
  func reserve(_ request: AttachmentRequest) throws(AgentFailure) -> Attachment {
    try decode(Attachment.self, try send("POST", "/v1/attachments", Coding.encode(request)))
  }

  /// Has the forwarder forward for it.
  func activate(_ key: InterfaceKey) throws(AgentFailure) -> Attachment {
    try decode(Attachment.self, try send("POST", Self.path(key) + "/activate"))
  }

  /// Nil: the agent knows no such attachment.
  func attachment(_ key: InterfaceKey) throws(AgentFailure) -> Attachment? {
    do throws(AgentFailure) {
      return try decode(Attachment.self, try send("GET", Self.path(key)))
    } catch {
      if case .refused(let error, 404) = error, error.code == .notFound { return nil }
      throw error
    }
  }

  func attachments() throws(AgentFailure) -> [Attachment] {
    try decode([Attachment].self, try send("GET", "/v1/attachments"))
  }

  /// Also when there was none.
  func delete(_ key: InterfaceKey) throws(AgentFailure) {
    do throws(AgentFailure) {
      _ = try send("DELETE", Self.path(key))
    } catch {
      if case .refused(let error, 404) = error, error.code == .notFound { return }
      throw error
    }
  }

  func status() throws(AgentFailure) -> AgentStatus { try decode(AgentStatus.self, try send("GET", "/v1/status")) }

  func send(_ method: String, _ path: String, _ body: [UInt8]? = nil) throws(AgentFailure) -> [UInt8] {
    if let silence { throw silence }
    let response: HTTPResponse
    do throws(HTTPFailure) {
      let deadline = weft_monotonic_ns() + UInt64(timeout) * 1_000_000_000
      response = try http.send(method, path, body: body, deadline: deadline)
    } catch {
      let failure: AgentFailure
      switch error {
      case .unreachable(let code): failure = .unreachable(reason: Files.errorText(code))
      case .timedOut: failure = .timedOut(seconds: timeout)
      case .broken(let reason): throw .broken(reason: reason)
      }
      silence = failure
      throw failure
    }
    if (200..<300).contains(response.status) { return response.body }
    guard case .success(let error) = Coding.decode(APIError.self, from: response.body) else {
      throw .broken(
        reason: "HTTP status \(response.status) to \(method) \(path), without a reason that Weft's agent would give")
    }
    throw .refused(error, status: response.status)
  }

  func decode<T: Decodable>(_ type: T.Type, _ body: [UInt8]) throws(AgentFailure) -> T {
    switch Coding.decode(type, from: body) {
    case .success(let value): return value
    case .failure(let reason): throw .broken(reason: "the answer is not what it should be: \(reason)")
    }
  }

  /// An interface's name may hold what means something in a URL.
  static func path(_ key: InterfaceKey) -> String {
    "/v1/attachments/\(escaped(key.containerID))/\(escaped(key.interface))"
  }

  /// RFC 3986 section 2.3: all but unreserved characters by their bytes. "." and ".." alone mean something in a path,
  /// but neither is an id or a name.
  static func escaped(_ text: String) -> String {
    var result = ""
    for byte in text.utf8 {
      switch byte {
      case 0x30...0x39, 0x41...0x5A, 0x61...0x7A, 0x2D, 0x2E, 0x5F, 0x7E:
        result.unicodeScalars.append(Unicode.Scalar(byte))
      default:
        result += "%" + (byte < 16 ? "0" : "") + String(byte, radix: 16, uppercase: true)
      }
    }
    return result
  }

  /// The failure as the plugin answers it; `doing` completes "the agent did not …".
  func error(_ failure: AgentFailure, _ doing: String) -> CNIError {
    switch failure {
    case .unreachable(let reason):
      return CNIError(
        .tryAgainLater, "no agent at \(endpoint): \(reason)",
        details: "to \(doing); does weft-agent run, and listen where vrouter-ip and vrouter-port say?")
    case .timedOut(let seconds):
      return CNIError(
        .tryAgainLater, "the agent at \(endpoint) did not answer within \(seconds) s",
        details: "to \(doing); poll-timeout sets the time, the agent's log may say why")
    case .broken(let reason):
      return CNIError(
        .io, "the agent at \(endpoint) did not \(doing): \(reason)", details: "is it weft-agent that listens there?")
    case .refused(let error, let status):
      return CNIError(
        Self.code(error.code), "the agent did not \(doing): \(error.reason)",
        details: "agent: \(error.code), HTTP status \(status), \(endpoint)")
    }
  }

  private static func code(_ code: APIError.Code) -> CNIError.Code {
    switch code {
    case .badRequest, .unknownNetwork, .tooLarge: .configuration
    case .addressInUse: .addressInUse
    case .addressNotInNetwork: .addressNotInNetwork
    case .poolExhausted: .poolExhausted
    case .conflict: .conflict
    case .forwarderRefused: .forwarderRefused
    case .forwarderUnavailable, .hostInterfaceMissing, .unavailable: .tryAgainLater
    default: .internal
    }
  }
}

extension AgentFailure {
  /// The agent may answer otherwise in a moment.
  var isPassing: Bool {
    if case .refused(let error, _) = self {
      return [.forwarderUnavailable, .hostInterfaceMissing, .unavailable].contains(error.code)
    }
    return false
  }

  /// The agent would say the same again: there is no use in asking later.
  var isFinal: Bool {
    if case .refused(_, let status) = self { return (400..<500).contains(status) && status != 408 && status != 429 }
    return false
  }
}
