import CoreMetrics
import Synchronization

/// What the agent counts and times of its own work. From any thread.
public final class AgentMetrics: Sendable {
  /// For whoever counts something else.
  public let registry = MetricsRegistry()
  /// When attachments that are being made were asked for (CLOCK_MONOTONIC, ns), by container id and interface.
  private let begun = Mutex<[String: UInt64]>([:])

  /// How something ended, as a label: a few words for all reasons.
  enum Outcome: String {
    case ok
    /// It contradicts what is there, or makes no sense (4xx).
    case refused
    /// It should have been done, and was not (5xx).
    case failed

    init(status: Int) { self = status < 400 ? .ok : status < 500 ? .refused : .failed }
  }

  init() {
    registry.describe("weft_http_requests_total", .counter, "Requests that the agent has answered.")
    registry.describe("weft_http_request_seconds", .histogram, "From a request's arrival to its answer.")
    registry.describe(
      "weft_attachment_seconds", .histogram,
      "Time to make (add: from the reservation until it forwards or is refused) and to delete (del) an attachment.")
    registry.describe(
      "weft_agent_service_messages_total", .counter,
      "What the agent has done about DHCP messages and router solicitations.")
    registry.describe("weft_replays_total", .counter, "Replays of everything into the forwarder.")
    registry.describe("weft_replay_seconds", .histogram, "Time of replays of everything into the forwarder.")
    registry.describe(
      "weft_forwarder_connections_total", .counter, "Channels to a forwarder that the agent has opened.")
    Counter(label: "weft_forwarder_connections_total", factory: registry).increment(by: 0)
    for outcome in [Outcome.ok, .failed] {
      Counter(label: "weft_replays_total", dimensions: [("outcome", outcome.rawValue)], factory: registry)
        .increment(by: 0)
    }
  }

  func connected() { Counter(label: "weft_forwarder_connections_total", factory: registry).increment() }

  /// A replay that began at `start` (CLOCK_MONOTONIC, ns) has ended.
  func replayed(_ outcome: Outcome, since start: UInt64) {
    let dimensions = [("outcome", outcome.rawValue)]
    Counter(label: "weft_replays_total", dimensions: dimensions, factory: registry).increment()
    record("weft_replay_seconds", dimensions, since: start)
  }

  func answered(_ method: String, _ path: String, _ status: Int, since start: UInt64) {
    let dimensions = [("method", method), ("path", path)]
    Counter(label: "weft_http_requests_total", dimensions: dimensions + [("status", "\(status)")], factory: registry)
      .increment()
    record("weft_http_request_seconds", dimensions, since: start)
  }

  // MARK: attachments

  private static let mostBegun = 4096

  func addBegun(_ containerID: String, _ interface: String, at start: UInt64) {
    begun.withLock {
      // Those that were never activated: reservations of pods that did not come.
      if $0.count >= Self.mostBegun { $0.removeAll() }
      $0["\(containerID)/\(interface)"] = start
    }
  }

  /// `start`: of the request that ended it, for one that nobody saw begin.
  func addEnded(_ containerID: String, _ interface: String, _ outcome: Outcome, since start: UInt64) {
    let key = "\(containerID)/\(interface)"
    let first = begun.withLock { outcome == .ok ? $0.removeValue(forKey: key) : $0[key] }
    attachment("add", outcome, since: first ?? start)
  }

  func attachment(_ verb: String, _ outcome: Outcome, since start: UInt64) {
    record("weft_attachment_seconds", [("verb", verb), ("outcome", outcome.rawValue)], since: start)
  }

  private func record(_ label: String, _ dimensions: [(String, String)], since start: UInt64) {
    let now = UnderlayWatcher.now()
    Timer(label: label, dimensions: dimensions, factory: registry).recordNanoseconds(
      Int64(clamping: now - min(now, start)))
  }
}
