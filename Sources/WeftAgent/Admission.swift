import Hummingbird
import Logging
import NIOCore
import WeftAPI

/// Where a request comes from.
enum Client: Hashable, Sendable {
  /// Through the Unix socket, whose permissions say who may.
  case socket
  /// From this machine.
  case loopback
  case remote(String)

  init(_ channel: any Channel) {
    if case .unixDomainSocket = channel.localAddress {
      self = .socket
      return
    }
    let text = channel.remoteAddress?.ipAddress ?? "unknown"
    let address = text.hasPrefix("::ffff:") ? String(text.dropFirst(7)) : text
    self = ListenAddress(host: address, port: 0).isLoopback ? .loopback : .remote(address)
  }

  var name: String {
    switch self {
    case .socket: "socket"
    case .loopback: "loopback"
    case .remote(let address): address
    }
  }
}

/// What is known of a request beside itself.
struct APIContext: RequestContext {
  var coreContext: CoreRequestContextStorage
  let client: Client

  init(source: ApplicationRequestContextSource) {
    coreContext = .init(source: source)
    client = Client(source.channel)
  }
}

/// Lets in who may come in: by rate, by token, by what the way in may be used for.
struct Admission: RouterMiddleware {
  typealias Context = APIContext

  /// Answered to everybody: they say nothing of pods.
  static let open: Set<String> = ["/healthz", "/readyz", "/openapi.json"]

  let tcp: APISettings.Access
  let token: BearerToken?
  let rate: RequestRate

  init(_ settings: APISettings, logger: Logger) throws(AgentFailure) {
    tcp = settings.tcp
    if let path = settings.tokenFile { token = try BearerToken(path: path, logger: logger) } else { token = nil }
    rate = RequestRate(perSecond: settings.requestsPerSecond, burst: settings.burst)
  }

  func handle(
    _ request: Request, context: Context, next: (Request, Context) async throws -> Response
  ) async throws -> Response {
    if let seconds = rate.delay(context.client.name, now: UnderlayWatcher.now()) {
      return refuse(.tooManyRequests, "too many requests from \(context.client.name); try again in \(seconds) s") {
        $0[.retryAfter] = String(seconds)
      }
    }
    let path = request.uri.path
    if !Self.open.contains(path) {
      if case .remote = context.client, token?.admits(request.headers[.authorization]) != true {
        return refuse(
          .unauthorized,
          token == nil
            ? "requests from other machines are not answered: this agent has no token (api.token-file)"
            : "the bearer token is missing or wrong (Authorization: Bearer …, as in api.token-file)"
        ) { $0[.wwwAuthenticate] = "Bearer realm=\"weft-agent\"" }
      }
      if context.client != .socket, tcp != .all, !Self.isReading(request) {
        return refuse(
          .forbidden, "\(request.method) \(path) changes something, which takes the agent's Unix socket (api.tcp: read)"
        )
      }
    }
    return try await next(request, context)
  }

  /// The first question about a pod reserves an interface for it.
  private static func isReading(_ request: Request) -> Bool {
    // As the router reads it, to which repeated slashes are one.
    request.method == .get && request.uri.path.split(separator: "/").first != "vm-cfg"
  }

  private func refuse(
    _ code: APIError.Code, _ reason: String, _ change: (inout HTTPFields) -> Void = { _ in }
  ) -> Response {
    var answer = JSON.answer(APIError(code, reason), code.status)
    change(&answer.headers)
    return answer
  }
}

extension APIError.Code {
  /// 401: other machines have to send the token.
  package static let unauthorized = APIError.Code(rawValue: "unauthorized")
  /// 403: not by this way.
  package static let forbidden = APIError.Code(rawValue: "forbidden")
  /// 429: `Retry-After` says when.
  package static let tooManyRequests = APIError.Code(rawValue: "too_many_requests")
  /// 431: the header is too large; the connection is closed.
  static let headerTooLarge = APIError.Code(rawValue: "header_too_large")
  /// 408: the body did not come in time; the connection is closed.
  static let timeout = APIError.Code(rawValue: "timeout")
}
