import CLinux
import Glibc
import WeftSystem

/// Ports that are being closed: the kernel takes its time over a queue's end.
struct PortEndings<Place: Hashable & Sendable>: Sendable {
  private var entries: [Place: Acknowledgement] = [:]
  /// When there are so many, those that have ended are forgotten.
  private var limit = Self.least
  private static var least: Int { 64 }

  mutating func add(_ place: Place, _ ended: Acknowledgement?) {
    if entries.count >= limit {
      entries = entries.filter { !$0.value.wait(milliseconds: 0) }
      limit = max(Self.least, entries.count * 2)
    }
    entries[place] = ended
  }

  /// What was there is waited for, up to five seconds. False: nothing was.
  @discardableResult
  func wait(_ place: Place) -> Bool {
    guard let ended = entries[place] else { return false }
    ended.wait(milliseconds: 5000)
    return true
  }
}

/// A forwarder may start while the kernel still closes the queues of the one before it, which nothing tells of. While this
/// one is young, queues that are taken are therefore tried again.
struct Youth {
  private let end = weft_monotonic_ns() + 2_000_000_000

  func tryWhileTaken<Opened: ~Copyable>(
    _ open: () throws(SystemError) -> Opened
  ) throws(SystemError) -> Opened {
    while true {
      do throws(SystemError) { return try open() } catch {
        guard [EBUSY, EEXIST, EADDRINUSE].contains(error.code), weft_monotonic_ns() < end else { throw error }
        usleep(5000)
      }
    }
  }
}
