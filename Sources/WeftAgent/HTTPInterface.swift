import Hummingbird
import Logging
import NIOCore
import WeftAPI

/// The agent's HTTP API: Weft's own under /v1, and the field's. docs/openapi.yaml describes it.
public struct HTTPInterface: Sendable {
  typealias Context = APIContext
  typealias Handler = @Sendable (Request, Context) async throws -> Response

  /// A method of a path; `{name}` in the path stands for one component.
  struct Endpoint: Sendable {
    var method: HTTPRequest.Method
    var path: String
    var handle: Handler

    init(_ method: HTTPRequest.Method, _ path: String, _ handle: @escaping Handler) {
      self.method = method
      self.path = path
      self.handle = handle
    }
  }

  let agent: Agent
  let logger: Logger
  var store: Store { agent.store }
  var configuration: AgentConfiguration { agent.configuration }

  let stalePorts: StalePorts
  private let admission: Admission

  public init(agent: Agent, logger: Logger) throws {
    self.agent = agent
    self.logger = logger
    stalePorts = StalePorts(agent: agent, wait: agent.configuration.stalePortTime, logger: logger)
    admission = try Admission(agent.configuration.api, logger: logger)
  }

  var endpoints: [Endpoint] {
    attachmentEndpoints + statusEndpoints + observabilityEndpoints + documentEndpoints + podEndpoints + portEndpoints
      + gatewayEndpoints
  }

  /// Every method and path that is answered, as "GET /v1/status".
  public var routes: [String] { endpoints.map { "\($0.method.rawValue) \($0.path)" } }

  func router() -> Router<Context> {
    let router = Router(context: Context.self)
    let endpoints = endpoints
    router.add(middleware: RequestMetrics(metrics: agent.metrics))
    router.add(middleware: ErrorAnswers(endpoints: endpoints, logger: logger))
    router.add(middleware: admission)
    for endpoint in endpoints {
      router.on(RouterPath(endpoint.path), method: endpoint.method) { request, context in
        try await endpoint.handle(request, context)
      }
    }
    return router
  }
}

/// Turns what handlers throw, and what no handler is for, into JSON with code and reason.
struct ErrorAnswers: RouterMiddleware {
  typealias Context = HTTPInterface.Context

  let endpoints: [HTTPInterface.Endpoint]
  let logger: Logger

  func handle(
    _ request: Request, context: Context, next: (Request, Context) async throws -> Response
  ) async throws -> Response {
    do {
      let response = try await next(request, context)
      logger.debug("\(request.method) \(request.uri.path): \(response.status.code)")
      return response
    } catch let error as HTTPError where error.status == .notFound {
      return answerUnknown(request)
    } catch {
      let answer = Self.apiError(error)
      let status = answer.code.status
      logger.log(
        level: status.code >= 500 ? .warning : .info, "\(request.method) \(request.uri.path): \(status.code) \(answer)")
      return JSON.answer(answer, status)
    }
  }

  private func answerUnknown(_ request: Request) -> Response {
    let path = request.uri.path.split(separator: "/", omittingEmptySubsequences: true)
    let methods = endpoints.filter { Self.matches($0.path, path) }.map(\.method.rawValue)
    guard !methods.isEmpty else {
      return JSON.answer(
        APIError(.notFound, "there is no \(request.uri.path); docs/openapi.yaml lists what there is"), .notFound)
    }
    var response = JSON.answer(
      APIError(.methodNotAllowed, "\(request.uri.path) takes \(methods.joined(separator: ", "))"), .methodNotAllowed)
    response.headers[.allow] = methods.joined(separator: ", ")
    return response
  }

  private static func matches(_ template: String, _ path: [Substring]) -> Bool {
    let parts = template.split(separator: "/")
    return parts.count == path.count && zip(parts, path).allSatisfy { $0.hasPrefix("{") || $0 == $1 }
  }

  private static func apiError(_ error: any Error) -> APIError {
    switch error {
    case let error as APIError: error
    case is NIOTooManyBytesError:
      APIError(.tooLarge, "the body is larger than \(JSON.maximumBytes) bytes")
    case let error as HTTPError: APIError(.badRequest, error.body ?? "\(error.status)")
    case is CancellationError: APIError(.unavailable, "the agent is stopping")
    default: APIError(.internalError, "\(error)")
    }
  }
}

extension APIError.Code {
  /// 501: the agent has nothing that this could mean.
  static let notSupported = APIError.Code(rawValue: "not_supported")

  var status: HTTPResponse.Status {
    switch self {
    case .badRequest, .addressNotInNetwork: .badRequest
    case .notFound, .unknownNetwork: .notFound
    case .methodNotAllowed: .methodNotAllowed
    case .addressInUse, .conflict: .conflict
    case .tooLarge: .contentTooLarge
    case .unauthorized: .unauthorized
    case .forbidden: .forbidden
    case .tooManyRequests: .tooManyRequests
    case .headerTooLarge: .requestHeaderFieldsTooLarge
    case .timeout: .requestTimeout
    case .notSupported: .notImplemented
    case .forwarderUnavailable, .forwarderRefused, .hostInterfaceMissing, .unavailable: .serviceUnavailable
    case .poolExhausted: HTTPResponse.Status(code: 507, reasonPhrase: "Insufficient Storage")
    default: .internalServerError
    }
  }
}
