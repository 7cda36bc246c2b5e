import Glibc

/// What could not be done, to what, and what to try.
struct Failure: Error, CustomStringConvertible {
  let description: String

  init(_ description: String) { self.description = description }
}

/// Writes to the standard streams.
enum Output {
  /// Writes all of it to standard output. Ends the program quietly when nobody reads any more.
  static func write(_ text: String) throws(Failure) {
    guard let reason = send(text, to: STDOUT_FILENO) else { return }
    if reason == EPIPE { exit(0) }
    throw Failure("cannot write to standard output: \(unsafe String(cString: strerror(reason)))")
  }

  /// Says something on standard error that is no result.
  static func note(_ message: String) { _ = send("weft: \(message)\n", to: STDERR_FILENO) }

  /// Says what went wrong on standard error and ends the program with status 1.
  static func fail(_ message: String) -> Never {
    _ = send("weft: \(message)\n", to: STDERR_FILENO)
    exit(1)
  }

  /// nil when all is written, else the errno.
  private static func send(_ text: String, to descriptor: Int32) -> Int32? {
    var rest = Array(text.utf8)[...]
    while !rest.isEmpty {
      let sent = unsafe rest.withUnsafeBytes { unsafe Glibc.write(descriptor, $0.baseAddress, $0.count) }
      if sent >= 0 {
        rest = rest.dropFirst(sent)
      } else if errno == EAGAIN {
        var wait = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
        _ = unsafe poll(&wait, 1, -1)
      } else if errno != EINTR {
        return errno
      }
    }
    return nil
  }
}
