import Logging
import Synchronization

/// How much is logged, now: one level for all, and others for single labels. A label "weft-agent.http" follows
/// "weft-agent" unless it has a level of its own. From any thread.
public final class LogLevels: Sendable {
  /// The process's.
  public static let shared = LogLevels()

  private struct State {
    var started = Logger.Level.info
    var level = Logger.Level.info
    var own: [String: Logger.Level] = [:]
    var labels: Set<String> = []
  }
  private let state = Mutex(State())

  public init() {}

  /// What the process is started with.
  public func start(_ level: Logger.Level) {
    state.withLock {
      $0.started = level
      $0.level = level
    }
  }

  /// Of all labels without a level of their own.
  public var level: Logger.Level { state.withLock { $0.level } }

  public func level(of label: String) -> Logger.Level { state.withLock { Self.level(of: label, $0) } }

  private static func level(of label: String, _ state: State) -> Logger.Level {
    guard !state.own.isEmpty else { return state.level }
    var name = label[...]
    while true {
      if let own = state.own[String(name)] { return own }
      guard let dot = name.lastIndex(of: ".") else { return state.level }
      name = name[..<dot]
    }
  }

  /// nil: what the process was started with. Levels of single labels are forgotten.
  public func set(_ level: Logger.Level?) {
    state.withLock {
      $0.level = level ?? $0.started
      $0.own = [:]
    }
  }

  /// nil: as all.
  public func set(_ level: Logger.Level?, for label: String) { state.withLock { $0.own[label] = level } }

  /// One step more, up to everything.
  @discardableResult
  public func more() -> Logger.Level {
    state.withLock {
      let levels = Logger.Level.allCases.sorted()
      let at = levels.firstIndex(of: $0.level) ?? 0
      $0.level = levels[max(0, at - 1)]
      $0.own = [:]
      return $0.level
    }
  }

  func add(_ label: String) {
    // Libraries make loggers without a name; they follow the level of all.
    guard !label.isEmpty else { return }
    state.withLock { _ = $0.labels.insert(label) }
  }

  /// Who logs.
  public var labels: [String] { state.withLock { $0.labels.sorted() } }

  /// Who logs how much.
  public var table: [String: Logger.Level] {
    state.withLock { state in
      Dictionary(uniqueKeysWithValues: state.labels.map { ($0, Self.level(of: $0, state)) })
    }
  }
}
