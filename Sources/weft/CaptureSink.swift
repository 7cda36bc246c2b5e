import Glibc
import WeftPorts
import WeftRing
import WeftSystem

/// Where captured frames go: a pcapng file, or lines for people or programs.
struct CaptureSink: ~Copyable {
  private var file: PcapngWriter?
  private let descriptor: Descriptor?
  private let json: Bool

  init(write path: String?, json: Bool, snap: UInt32) throws(Failure) {
    self.json = json
    guard let path else {
      file = nil
      descriptor = nil
      return
    }
    let raw = path == "-" ? dup(STDOUT_FILENO) : open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o644)
    guard raw >= 0 else { throw Failure("--write \(path): \(SystemError.text(errno))") }
    file = PcapngWriter(descriptor: raw, path: path, application: "weft capture", snap: snap)
    descriptor = Descriptor(owning: raw)
  }

  mutating func add(
    _ record: CaptureRecord, _ frame: UnsafeRawBufferPointer, name: String, _ reasons: [StatisticsReader.Drop]
  ) throws(Failure) {
    let reason = record.kind == .drop && Int(record.reason) < reasons.count ? reasons[Int(record.reason)] : nil
    guard file == nil else {
      do throws(PcapError) {
        try file?.write(
          frame, length: Int(record.length), interface: record.interface, name: { _ in name }, time: record.time,
          direction: record.kind == .departure ? .outbound : .inbound,
          comment: reason.map { "\($0.name): \($0.explanation)" })
      } catch { throw Self.failure(error) }
      return
    }
    let summary = FrameSummary(Array(frame), length: Int(record.length))
    let kind =
      switch record.kind {
      case .arrival: "in"
      case .departure: "out"
      case .drop: "drop"
      }
    if json {
      let object = Value.object([
        Value.Member(key: "time", value: .text(Self.time(record.time))),
        Value.Member(key: "kind", value: .text(kind)), Value.Member(key: "interface", value: .number(record.interface)),
        Value.Member(key: "device", value: .text(name)), Value.Member(key: "bytes", value: .number(record.length)),
        Value.Member(key: "reason", value: reason.map { .text($0.name) } ?? .nothing),
        Value.Member(key: "summary", value: .text(summary.text)),
      ])
      return try Output.write(object.json + "\n")
    }
    let why = reason.map { " (\($0.name))" } ?? ""
    try Output.write(
      "\(Self.time(record.time)) \(kind) \(record.interface) (\(name)): \(summary.text), \(record.length) bytes\(why)\n"
    )
  }

  mutating func flush() throws(Failure) {
    do throws(PcapError) { try file?.flush() } catch { throw Self.failure(error) }
  }

  mutating func finish(lost: UInt64) throws(Failure) {
    do throws(PcapError) { try file?.finish(lost: lost) } catch { throw Self.failure(error) }
  }

  /// Who read from the pipe has seen enough: no failure.
  private static func failure(_ error: PcapError) -> Failure {
    if error.reason == SystemError.text(EPIPE) { exit(0) }
    return Failure("--write \(error)")
  }

  /// The time of day, to the nanosecond.
  private static func time(_ nanoseconds: UInt64) -> String {
    var seconds = time_t(nanoseconds / 1_000_000_000)
    var parts = tm()
    localtime_r(&seconds, &parts)
    func digits(_ value: some BinaryInteger, _ width: Int) -> String {
      let text = String(value)
      return String(repeating: "0", count: max(0, width - text.count)) + text
    }
    return "\(digits(parts.tm_hour, 2)):\(digits(parts.tm_min, 2)):\(digits(parts.tm_sec, 2))"
      + ".\(digits(nanoseconds % 1_000_000_000, 9))"
  }
}
