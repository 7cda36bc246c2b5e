import Hummingbird
import WeftAPI

/// Counts and times requests, by the endpoint that answered them: who asks for what is not there makes no new series.
struct RequestMetrics: RouterMiddleware {
  typealias Context = HTTPInterface.Context

  let metrics: AgentMetrics

  private static let methods: Set<HTTPRequest.Method> = [.get, .post, .put, .delete, .patch, .head, .options]

  func handle(
    _ request: Request, context: Context, next: (Request, Context) async throws -> Response
  ) async throws -> Response {
    let start = UnderlayWatcher.now()
    let response = try await next(request, context)
    let known = context.endpointPath.flatMap { $0 == "NotFound" ? nil : $0 }
    let method = Self.methods.contains(request.method) ? request.method.rawValue : "other"
    metrics.answered(method, known ?? "other", response.status.code, since: start)
    let outcome = AgentMetrics.Outcome(status: response.status.code)
    switch (request.method, known) {
    case (.post, "/v1/attachments") where outcome != .ok: metrics.attachment("add", outcome, since: start)
    case (.post, "/v1/attachments/{container-id}/{interface}/activate"):
      let parts = request.uri.path.split(separator: "/")
      if parts.count == 5 { metrics.addEnded(String(parts[2]), String(parts[3]), outcome, since: start) }
    case (.post, "/vm"), (.post, "/port"): metrics.attachment("add", outcome, since: start)
    case (.delete, "/v1/attachments/{container-id}/{interface}"), (.delete, "/vm/{vm-uuid}"), (.delete, "/port/{uuid}"):
      metrics.attachment("del", outcome, since: start)
    default: break
    }
    return response
  }
}
