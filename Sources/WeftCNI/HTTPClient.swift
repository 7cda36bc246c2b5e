import CLinux
import Glibc

/// What a server answered.
public struct HTTPResponse: Hashable, Sendable {
  public let status: Int
  public let body: [UInt8]
}

/// Why there is no answer.
public enum HTTPFailure: Error, Hashable, Sendable {
  /// No connection, hence nothing was asked: errno.
  case unreachable(Int32)
  /// No answer, or not all of one, in time; the request may have been carried out.
  case timedOut
  /// The connection broke or what came is no HTTP; the request may have been carried out.
  case broken(String)
}

/// As much of HTTP/1.1 (RFC 9112) as it takes to talk to the agent: one request at a time, bodies by Content-Length,
/// chunked or until the end of the connection, which is kept for the next request where the server lets it.
public final class HTTPClient {
  private let endpoint: HTTPEndpoint
  private var descriptor: Int32 = -1
  private var buffer: [UInt8] = []

  /// Bytes that are taken of a header and of a body.
  private static let limits = (header: 65536, body: 64 << 20)

  public init(_ endpoint: HTTPEndpoint) { self.endpoint = endpoint }

  deinit { disconnect() }

  /// Sends a request and waits for its answer until `deadline` (CLOCK_MONOTONIC, nanoseconds).
  public func send(
    _ method: String, _ path: String, body: [UInt8]? = nil, deadline: UInt64
  ) throws(HTTPFailure) -> HTTPResponse {
    var request = "\(method) \(path) HTTP/1.1\r\nHost: \(endpoint.host)\r\nAccept: application/json\r\n"
    if let body { request += "Content-Type: application/json\r\nContent-Length: \(body.count)\r\n" }
    let bytes = Array((request + "\r\n").utf8) + (body ?? [])
    if descriptor >= 0 {
      // A server may close a connection that it kept; then nothing of an answer comes, and a new one is tried. All that
      // is asked of the agent may be asked twice.
      do throws(HTTPFailure) {
        return try exchange(bytes, deadline)
      } catch {
        disconnect()
        guard case .broken = error, buffer.isEmpty else { throw error }
      }
    }
    try connect(deadline)
    do throws(HTTPFailure) {
      return try exchange(bytes, deadline)
    } catch {
      disconnect()
      throw error
    }
  }

  private func exchange(_ request: [UInt8], _ deadline: UInt64) throws(HTTPFailure) -> HTTPResponse {
    buffer = []
    try transmit(request, deadline)
    var head = try readHead(deadline)
    while (100..<200).contains(head.status) { head = try readHead(deadline) }
    let body: [UInt8]
    if head.status == 204 || head.status == 304 {
      body = []
    } else if head.isChunked {
      body = try readChunks(deadline)
    } else if let length = head.length {
      body = try take(length, deadline)
    } else {
      head.closes = true
      while try receive(deadline) { try checkSize() }
      body = buffer
    }
    buffer = []
    if head.closes { disconnect() }
    return HTTPResponse(status: head.status, body: body)
  }

  // MARK: the connection

  private func connect(_ deadline: UInt64) throws(HTTPFailure) {
    let raw = socket(
      endpoint.family, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue) | Int32(SOCK_NONBLOCK.rawValue), 0)
    guard raw >= 0 else { throw .unreachable(errno) }
    descriptor = raw
    do throws(HTTPFailure) {
      while true {
        if endpoint.withSocketAddress({ Glibc.connect(raw, $0, $1) }) == 0 { break }
        if errno == EINPROGRESS {
          guard wait(POLLOUT, deadline) else { throw .unreachable(ETIMEDOUT) }
          var code: Int32 = 0
          var size = socklen_t(4)
          getsockopt(raw, SOL_SOCKET, SO_ERROR, &code, &size)
          guard code == 0 else { throw .unreachable(code) }
          break
        }
        // A Unix socket's queue is full.
        guard errno == EAGAIN || errno == EINTR else { throw .unreachable(errno) }
        guard weft_monotonic_ns() < deadline else { throw .unreachable(ETIMEDOUT) }
        usleep(5_000)
      }
    } catch {
      disconnect()
      throw error
    }
    if case .tcp = endpoint {
      var on: Int32 = 1
      setsockopt(raw, Int32(IPPROTO_TCP), TCP_NODELAY, &on, 4)
    }
  }

  private func disconnect() {
    if descriptor >= 0 { close(descriptor) }
    descriptor = -1
  }

  /// False when the time is up.
  private func wait(_ events: Int32, _ deadline: UInt64) -> Bool {
    while true {
      let now = weft_monotonic_ns()
      guard now < deadline else { return false }
      var entry = pollfd(fd: descriptor, events: Int16(events), revents: 0)
      let milliseconds = Int32(clamping: (deadline - now + 999_999) / 1_000_000)
      if poll(&entry, 1, milliseconds) > 0 { return true }
    }
  }

  private func transmit(_ bytes: [UInt8], _ deadline: UInt64) throws(HTTPFailure) {
    var rest = bytes[...]
    while !rest.isEmpty {
      let count = rest.withUnsafeBytes {
        Glibc.send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL))
      }
      if count >= 0 {
        rest = rest.dropFirst(count)
      } else if errno == EAGAIN {
        guard wait(POLLOUT, deadline) else { throw .timedOut }
      } else if errno != EINTR {
        // What the server said before it closed may still be there to be read.
        if errno == EPIPE || errno == ECONNRESET { return }
        throw .broken("cannot send: \(Files.errorText(errno))")
      }
    }
  }

  /// Appends what comes to the buffer; false at the end of the connection.
  private func receive(_ deadline: UInt64) throws(HTTPFailure) -> Bool {
    var part = [UInt8](repeating: 0, count: 16384)
    while true {
      let count = recv(descriptor, &part, part.count, 0)
      if count > 0 {
        buffer += part.prefix(count)
        return true
      }
      if count == 0 { return false }
      switch errno {
      case EAGAIN: guard wait(POLLIN, deadline) else { throw .timedOut }
      case EINTR: continue
      default: throw .broken("cannot receive: \(Files.errorText(errno))")
      }
    }
  }

  // MARK: the answer

  private struct Head {
    var status: Int
    var length: Int?
    var isChunked = false
    var closes = false
  }

  private func readHead(_ deadline: UInt64) throws(HTTPFailure) -> Head {
    let first = try readLine(deadline)
    // "HTTP/1.1 200 OK"
    let words = first.split(separator: " ", maxSplits: 2)
    guard words.count >= 2, words[0].hasPrefix("HTTP/1."), words[1].utf8.count == 3, let status = Int(words[1]),
      status >= 100
    else { throw .broken("the answer is no HTTP/1.1: \"\(first.prefix(80))\"") }
    var head = Head(status: status, closes: words[0] == "HTTP/1.0")
    var bytes = first.utf8.count
    while true {
      let line = try readLine(deadline)
      if line.isEmpty { return head }
      bytes += line.utf8.count
      guard bytes <= Self.limits.header else {
        throw .broken("the answer's header is longer than \(Self.limits.header) bytes")
      }
      guard let colon = line.firstIndex(of: ":") else {
        throw .broken("a header line without colon: \"\(line.prefix(80))\"")
      }
      let value = line[line.index(after: colon)...].drop { $0 == " " || $0 == "\t" }.lowercased()
      switch line[..<colon].lowercased() {
      case "content-length":
        guard let length = Int(value), (0...Self.limits.body).contains(length) else {
          throw .broken("Content-Length is \"\(value.prefix(80))\"")
        }
        head.length = length
      case "transfer-encoding": head.isChunked = value.contains("chunked")
      case "connection": head.closes = head.closes || value.contains("close")
      default: break
      }
    }
  }

  /// RFC 9112 section 7.1.
  private func readChunks(_ deadline: UInt64) throws(HTTPFailure) -> [UInt8] {
    var body: [UInt8] = []
    while true {
      let line = try readLine(deadline)
      let digits = line.prefix { $0 != ";" && $0 != " " }
      guard let size = Int(digits, radix: 16), size >= 0, size <= Self.limits.body - body.count else {
        throw .broken("a chunk's size is \"\(line.prefix(80))\"")
      }
      if size == 0 {
        while try !readLine(deadline).isEmpty {}
        return body
      }
      body += try take(size, deadline)
      guard try readLine(deadline).isEmpty else { throw .broken("a chunk is longer than it says") }
    }
  }

  /// Without its end. Bytes that are no UTF-8 are replaced: no line that matters has any.
  private func readLine(_ deadline: UInt64) throws(HTTPFailure) -> String {
    var searched = 0
    while true {
      if let newline = buffer[searched...].firstIndex(of: 0x0A) {
        let line = buffer[..<newline]
        let text = String(decoding: line.last == 0x0D ? line.dropLast() : line, as: UTF8.self)
        buffer.removeFirst(newline + 1)
        return text
      }
      searched = buffer.count
      guard searched <= Self.limits.header else { throw .broken("a line is longer than \(Self.limits.header) bytes") }
      guard try receive(deadline) else { throw .broken(Self.cut) }
    }
  }

  private func take(_ count: Int, _ deadline: UInt64) throws(HTTPFailure) -> [UInt8] {
    while buffer.count < count {
      guard try receive(deadline) else { throw .broken(Self.cut) }
    }
    let bytes = Array(buffer.prefix(count))
    buffer.removeFirst(count)
    return bytes
  }

  private func checkSize() throws(HTTPFailure) {
    guard buffer.count <= Self.limits.body else { throw .broken("the answer is longer than \(Self.limits.body) bytes") }
  }

  private static let cut = "the connection ended before the answer did"
}
