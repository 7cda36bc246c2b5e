import Glibc
import WeftSystem

/// How long a core may take to wake up (the kernel's PM QoS, pm_qos_interface.rst): one that halts, in a virtual machine
/// above all, takes longer to wake than a packet takes to be forwarded. While packets come, the kernel is asked not to let
/// the core sleep so deeply; its idle time stays everybody's.
struct WakeLatency: ~Copyable {
  /// What the kernel takes for "no time at all".
  private static let none = "n/a"

  private let file: Descriptor
  private let wanted: String
  /// As it was found.
  private let before: String
  private(set) var isHeld = false

  private init(file: consuming Descriptor, wanted: String, before: String) {
    self.file = file
    self.wanted = wanted
    self.before = before
  }

  /// For a core; `microseconds` is what it may take.
  static func of(core: Int, microseconds: UInt32) throws(SystemError) -> WakeLatency {
    let path = "/sys/devices/system/cpu/cpu\(core)/power/pm_qos_resume_latency_us"
    let file = try Descriptor(open(path, O_RDWR | O_CLOEXEC), "open", path)
    var text = [UInt8](repeating: 0, count: 32)
    let count = pread(file.raw, &text, text.count, 0)
    guard count > 0 else { throw SystemError("read", path) }
    let found = String(decoding: text.prefix(count), as: UTF8.self).filter { !$0.isWhitespace }
    // One that was killed leaves its wish behind.
    let before = found == none ? "0" : found
    guard write(before, file) else { throw SystemError("write", path) }
    return WakeLatency(file: file, wanted: microseconds == 0 ? none : String(microseconds), before: before)
  }

  deinit { if isHeld { _ = Self.write(before, file) } }

  /// Packets come.
  mutating func hold() { if !isHeld { isHeld = Self.write(wanted, file) } }

  /// None has come for a while.
  mutating func release() { if isHeld { isHeld = !Self.write(before, file) } }

  private static func write(_ value: String, _ file: borrowing Descriptor) -> Bool {
    var value = value
    return value.withUTF8 { pwrite(file.raw, $0.baseAddress, $0.count, 0) } >= 0
  }
}
