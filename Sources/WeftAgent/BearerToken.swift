import Glibc
import Logging
import Synchronization

/// The token that other machines have to send, in a file. Read anew when the file changes.
package final class BearerToken: Sendable {
  static let minimumBytes = 16

  private let path: String
  private let logger: Logger
  private let state: Mutex<State>

  private struct State {
    var token: [UInt8]
    var version: Version
  }

  /// Tells one content of the file from another.
  fileprivate struct Version: Equatable {
    var device: UInt
    var inode: UInt
    var size: Int
    var seconds: Int
    var nanoseconds: Int
  }

  package init(path: String, logger: Logger) throws(AgentFailure) {
    self.path = path
    self.logger = logger
    let (token, version) = try Self.read(path)
    state = Mutex(State(token: token, version: version))
  }

  /// Whether a request's `Authorization` holds the token (RFC 6750 section 2.1). Takes as long for a nearly right one as
  /// for a wrong one.
  package func admits(_ authorization: String?) -> Bool {
    guard let authorization else { return false }
    let words = authorization.split(separator: " ", maxSplits: 1, omittingEmptySubsequences: true)
    guard words.count == 2, words[0].lowercased() == "bearer" else { return false }
    return Self.isEqual(Array(words[1].utf8), current())
  }

  private func current() -> [UInt8] {
    state.withLock { state in
      var status = stat()
      guard stat(path, &status) == 0, Version(status) != state.version else { return state.token }
      do throws(AgentFailure) {
        let (token, version) = try Self.read(path)
        logger.notice("the token of \(path) has changed")
        state = State(token: token, version: version)
      } catch {
        // Said once for each change; the token that was good stays good.
        state.version = Version(status)
        logger.error("\(error.description); the token before it stays in force")
      }
      return state.token
    }
  }

  static func isEqual(_ given: [UInt8], _ token: [UInt8]) -> Bool {
    var difference = given.count ^ token.count
    for index in token.indices { difference |= Int(token[index] ^ (index < given.count ? given[index] : 0)) }
    return difference == 0
  }

  private static func read(_ path: String) throws(AgentFailure) -> ([UInt8], Version) {
    let file = open(path, O_RDONLY | O_CLOEXEC)
    guard file >= 0 else {
      throw AgentFailure("the token file \(path) cannot be opened: \(String(cString: strerror(errno)))")
    }
    defer { close(file) }
    var status = stat()
    guard fstat(file, &status) == 0, status.st_mode & S_IFMT == S_IFREG else {
      throw AgentFailure("the token file \(path) is no regular file")
    }
    guard status.st_mode & 0o007 == 0 else {
      throw AgentFailure(
        "the token file \(path) may be read or written by everybody; chmod o= it, and use another token")
    }
    var bytes = [UInt8](repeating: 0, count: 4097)
    let count = Glibc.read(file, &bytes, bytes.count)
    let token = Array(bytes.prefix(max(count, 0)).split { $0 == 0x0A || $0 == 0x0D }.first ?? [])
    guard (0...4096).contains(count), token.count >= minimumBytes, token.allSatisfy({ $0 > 0x20 && $0 < 0x7F }) else {
      throw AgentFailure(
        "the token file \(path) must hold a line of at least \(minimumBytes) printable characters without spaces, as "
          + "\"openssl rand -hex 32\" makes it")
    }
    return (token, Version(status))
  }
}

extension BearerToken.Version {
  fileprivate init(_ status: stat) {
    self.init(
      device: UInt(status.st_dev), inode: UInt(status.st_ino), size: Int(status.st_size),
      seconds: status.st_mtim.tv_sec, nanoseconds: status.st_mtim.tv_nsec)
  }
}
