import CLinux
import Glibc

/// Severities as syslog counts them (RFC 5424 section 6.2.1), which is how log-level is written in the field.
public enum LogLevel: Int, Sendable, CaseIterable, Comparable {
  case emergency, alert, critical, error, warning, notice, info, debug

  public static func < (a: LogLevel, b: LogLevel) -> Bool { a.rawValue < b.rawValue }

  /// "0" to "7", a number, or a name.
  public init?(_ value: JSON) {
    if let number = value.integer.flatMap({ Int(exactly: $0) }) ?? value.text.flatMap({ Int($0) }) {
      self.init(rawValue: number)
      return
    }
    switch value.text?.lowercased() {
    case "": self = .warning
    case "panic", "emergency": self = .emergency
    case "alert": self = .alert
    case "fatal", "critical": self = .critical
    case "error": self = .error
    case "warn", "warning": self = .warning
    case "notice": self = .notice
    case "info", "informational": self = .info
    case "debug", "trace": self = .debug
    default: return nil
    }
  }

  var name: String {
    switch self {
    case .emergency: "EMERGENCY"
    case .alert: "ALERT"
    case .critical: "CRITICAL"
    case .error: "ERROR"
    case .warning: "WARNING"
    case .notice: "NOTICE"
    case .info: "INFO"
    case .debug: "DEBUG"
    }
  }
}

/// The log file: a line a call, appended in one write. It is opened by the first line that is due, and never fails a
/// verb: what cannot be logged is said on standard error once.
final class Log {
  private let path: String
  private let level: LogLevel
  private let subject: String
  private var descriptor: Int32 = -1
  private var isBroken = false
  /// What belongs on standard error.
  private(set) var complaints: [String] = []

  init(path: String, level: LogLevel, subject: String) {
    self.path = path
    self.level = level
    self.subject = subject
  }

  deinit {
    if descriptor >= 0 { close(descriptor) }
  }

  func log(_ severity: LogLevel, _ text: @autoclosure () -> String) {
    guard severity <= level || severity <= .error else { return }
    let message = "\(subject): \(text())"
    if severity <= .error { complaints.append(Self.oneLine(message)) }
    guard severity <= level, !path.isEmpty, open() else { return }
    let line = "\(Self.timestamp()) \(severity.name) weft-cni[\(getpid())] \(Self.oneLine(message))\n"
    let bytes = Array(line.utf8)
    if write(descriptor, bytes, bytes.count) != bytes.count { giveUp("write to") }
  }

  private func open() -> Bool {
    if descriptor >= 0 || isBroken { return !isBroken }
    if let slash = path.lastIndex(of: "/"), slash != path.startIndex {
      Files.makeDirectories(String(path[..<slash]))
    }
    descriptor = Glibc.open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0o640)
    if descriptor < 0 { giveUp("open") }
    return descriptor >= 0
  }

  private func giveUp(_ operation: String) {
    isBroken = true
    complaints.append("cannot \(operation) the log file \(path): \(Files.errorText(errno))")
  }

  /// Names come from outside: no line of theirs looks like one of ours.
  private static func oneLine(_ text: String) -> String {
    guard text.utf8.contains(where: { $0 < 0x20 || $0 == 0x7F }) else { return text }
    return String(String.UnicodeScalarView(text.unicodeScalars.map { $0.value < 0x20 || $0.value == 0x7F ? " " : $0 }))
  }

  /// RFC 3339, UTC, milliseconds.
  private static func timestamp() -> String {
    var now = timespec()
    clock_gettime(CLOCK_REALTIME, &now)
    var parts = tm()
    gmtime_r(&now.tv_sec, &parts)
    func padded(_ value: Int, _ digits: Int) -> String {
      let text = String(value)
      return String(repeating: "0", count: max(0, digits - text.count)) + text
    }
    let date =
      "\(padded(Int(parts.tm_year) + 1900, 4))-\(padded(Int(parts.tm_mon) + 1, 2))-\(padded(Int(parts.tm_mday), 2))"
    let time = "\(padded(Int(parts.tm_hour), 2)):\(padded(Int(parts.tm_min), 2)):\(padded(Int(parts.tm_sec), 2))"
    return "\(date)T\(time).\(padded(now.tv_nsec / 1_000_000, 3))Z"
  }
}
