import Glibc
import Logging

/// What a line of the log looks like.
public enum LogFormat: String, CaseIterable, Sendable {
  /// For people: time, level, label, message, then metadata as key=value.
  case text
  /// For programs: an object a line, with time (RFC 3339, UTC), level, label, pid, message and metadata.
  case json
}

/// Writes a line for each event to standard error, in one piece.
public struct LogLines: LogHandler {
  public let label: String
  public let format: LogFormat
  public var metadata: Logger.Metadata = [:]
  public var metadataProvider: Logger.MetadataProvider?
  private let levels: LogLevels
  /// Not less than this, whatever the level is.
  private var floor: Logger.Level?

  public init(label: String, format: LogFormat, levels: LogLevels = .shared) {
    self.label = label
    self.format = format
    self.levels = levels
    levels.add(label)
  }

  /// Set, it is a limit of this logger's own: it never says more than that.
  public var logLevel: Logger.Level {
    get {
      let level = levels.level(of: label)
      return floor.map { max($0, level) } ?? level
    }
    set { floor = newValue }
  }

  public subscript(metadataKey key: String) -> Logger.Metadata.Value? {
    get { metadata[key] }
    set { metadata[key] = newValue }
  }

  public func log(event: LogEvent) {
    var all = metadata
    if let provider = metadataProvider { all.merge(provider.get()) { _, new in new } }
    if let more = event.metadata { all.merge(more) { _, new in new } }
    if let error = event.error { all["error"] = "\(error)" }
    var time = timespec()
    clock_gettime(CLOCK_REALTIME, &time)
    let line = line(event.level, "\(event.message)", all, time)
    line.withCString { _ = write(STDERR_FILENO, $0, strlen($0)) }
  }

  func line(_ level: Logger.Level, _ message: String, _ metadata: Logger.Metadata, _ time: timespec) -> String {
    let keys = metadata.keys.sorted()
    switch format {
    case .text:
      let words = keys.map { " \($0)=\(Self.word("\(metadata[$0]!)"))" }.joined()
      // A line is one event.
      let said = message.contains("\n") ? message.split(separator: "\n").joined(separator: " | ") : message
      return "\(Self.stamp(time)) \(level.rawValue) \(label): \(said)\(words)\n"
    case .json:
      var line = "{\"time\":\"\(Self.stamp(time))\",\"level\":\"\(level.rawValue)\",\"label\":"
      line += Self.quoted(label)
      line += ",\"pid\":\(getpid()),\"message\":"
      line += Self.quoted(message)
      if !keys.isEmpty {
        let members = keys.map { "\(Self.quoted($0)):\(Self.quoted("\(metadata[$0]!)"))" }
        line += ",\"metadata\":{\(members.joined(separator: ","))}"
      }
      return line + "}\n"
    }
  }

  /// RFC 3339, UTC, to the microsecond.
  private static func stamp(_ time: timespec) -> String {
    var seconds = time.tv_sec
    var parts = tm()
    gmtime_r(&seconds, &parts)
    func digits(_ value: Int, _ width: Int) -> String {
      let text = String(value)
      return String(repeating: "0", count: max(0, width - text.count)) + text
    }
    let date = [(Int(parts.tm_year) + 1900, 4), (Int(parts.tm_mon) + 1, 2), (Int(parts.tm_mday), 2)]
    let clock = [Int(parts.tm_hour), Int(parts.tm_min), Int(parts.tm_sec)]
    return date.map { digits($0.0, $0.1) }.joined(separator: "-") + "T"
      + clock.map { digits($0, 2) }.joined(separator: ":") + "." + digits(Int(time.tv_nsec) / 1000, 6) + "Z"
  }

  /// In quotes where it could not be told from what is around it.
  private static func word(_ text: String) -> String {
    let isPlain = !text.isEmpty && text.unicodeScalars.allSatisfy { $0.value > 0x20 && $0 != "\"" && $0 != "=" }
    return isPlain ? text : quoted(text)
  }

  /// A JSON string (RFC 8259 section 7).
  private static func quoted(_ text: String) -> String {
    var result = "\""
    for scalar in text.unicodeScalars {
      switch scalar {
      case "\"": result += "\\\""
      case "\\": result += "\\\\"
      case "\n": result += "\\n"
      case "\r": result += "\\r"
      case "\t": result += "\\t"
      case _ where scalar.value < 0x20 || scalar.value == 0x7F:
        let digits = String(scalar.value, radix: 16)
        result += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
      default: result.unicodeScalars.append(scalar)
      }
    }
    return result + "\""
  }
}

extension Logger {
  /// A part of the program with a level of its own: "weft-agent" becomes "weft-agent.http". A logger of another kind stays
  /// as it is.
  public func part(_ name: String) -> Logger {
    guard let lines = handler as? LogLines else { return self }
    return Logger(label: "\(lines.label).\(name)") { LogLines(label: $0, format: lines.format) }
  }
}
