import CLinux
import Glibc

/// A file descriptor that closes when it goes out of scope.
public struct Descriptor: ~Copyable, Sendable {
  public let raw: Int32

  /// Takes ownership.
  public init(owning raw: Int32) { self.raw = raw }

  /// Takes ownership of a system call's result, or throws its error.
  public init(_ result: Int32, _ operation: String, _ object: String) throws(SystemError) {
    guard result >= 0 else { throw SystemError(operation, object) }
    raw = result
  }

  deinit { _ = close(raw) }

  /// An eventfd, non-blocking.
  public static func event() throws(SystemError) -> Descriptor {
    try Descriptor(eventfd(0, Int32(EFD_CLOEXEC) | Int32(EFD_NONBLOCK)), "make", "eventfd")
  }

  /// An eventfd of which `drain` takes one signal at a time and waits for it: each signal wakes one of several threads.
  public static func semaphore() throws(SystemError) -> Descriptor {
    try Descriptor(eventfd(0, Int32(EFD_CLOEXEC) | Int32(EFD_SEMAPHORE)), "make", "eventfd")
  }

  /// An eventfd: wakes who waits for it.
  public func signal() {
    var one: UInt64 = 1
    _ = unsafe Glibc.write(raw, &one, 8)
  }

  /// An eventfd: forgets the signals so far.
  public func drain() {
    var value: UInt64 = 0
    _ = unsafe Glibc.read(raw, &value, 8)
  }

  /// Waits until it is readable; false when that takes longer than `milliseconds` (-1: for ever).
  public func wait(milliseconds: Int32) -> Bool {
    var entry = pollfd(fd: raw, events: Int16(POLLIN), revents: 0)
    while true {
      let ready = unsafe poll(&entry, 1, milliseconds)
      if ready >= 0 || errno != EINTR { return ready > 0 }
    }
  }
}
