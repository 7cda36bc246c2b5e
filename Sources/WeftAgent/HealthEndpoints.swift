import Hummingbird
import Logging
import NIOCore
import WeftAPI
import WeftLogging

extension HTTPInterface {
  var observabilityEndpoints: [Endpoint] {
    [
      Endpoint(.get, "/healthz") { _, _ in Self.answer(await agent.liveness()) },
      Endpoint(.get, "/readyz") { _, _ in Self.answer(await agent.readiness()) },
      Endpoint(.get, "/metrics") { _, _ in
        Response(
          status: .ok, headers: [.contentType: MetricsText.contentType],
          body: ResponseBody(byteBuffer: ByteBuffer(string: try await metricsText())))
      },
      Endpoint(.get, "/v1/log-level") { _, _ in JSON.answer(LogLevelAnswer()) },
      Endpoint(.put, "/v1/log-level", setLogLevel),
    ]
  }

  private static func answer(_ report: HealthReport) -> Response {
    JSON.answer(report, report.status == "ok" ? .ok : .serviceUnavailable)
  }

  @Sendable private func setLogLevel(_ request: Request, _ context: Context) async throws -> Response {
    let asked = try await JSON.decode(LogLevelRequest.self, request)
    let levels = LogLevels.shared
    var level: Logger.Level?
    if let text = asked.level {
      level = Logger.Level(rawValue: text.lowercased())
      guard level != nil else {
        throw APIError(
          .badRequest,
          "level \"\(text.short)\" is none: trace, debug, info, notice, warning, error or critical; null: as it was started"
        )
      }
    }
    if let label = asked.label {
      guard levels.labels.contains(label) else {
        throw APIError(
          .notFound, "nothing logs as \"\(label.short)\"; there are \(levels.labels.joined(separator: ", "))")
      }
      levels.set(level, for: label)
    } else {
      levels.set(level)
    }
    logger.notice(
      "log level changed", metadata: ["label": "\(asked.label ?? "all")", "level": "\(asked.level ?? "as started")"])
    return JSON.answer(LogLevelAnswer())
  }
}

/// The body of `PUT /v1/log-level`.
private struct LogLevelRequest: Decodable {
  /// Nil: what it was when the agent started.
  var level: String?
  /// Nil: all that have none of their own.
  var label: String?
}

private struct LogLevelAnswer: Encodable {
  var level = LogLevels.shared.level.rawValue
  var labels = LogLevels.shared.table.mapValues(\.rawValue)
}
