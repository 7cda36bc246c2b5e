import Foundation
import Glibc
import Testing
import WeftCNI
import WeftWire

struct HTTPClientTests {
  /// A server that sends `text` to whoever connects, in pieces, and closes.
  func serve(_ text: String, pieces: Int = 1, to path: String) {
    let endpoint = HTTPEndpoint.unix(path)
    let listener = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
    precondition(endpoint.withSocketAddress { bind(listener, $0, $1) } == 0)
    listen(listener, 4)
    let bytes = Array(text.utf8)
    Thread.detachNewThread {
      let connection = accept(listener, nil, nil)
      var buffer = [UInt8](repeating: 0, count: 65536)
      _ = recv(connection, &buffer, buffer.count, 0)
      let size = max(1, (bytes.count + pieces - 1) / pieces)
      for start in stride(from: 0, to: bytes.count, by: size) {
        let part = Array(bytes[start..<min(start + size, bytes.count)])
        send(connection, part, part.count, Int32(MSG_NOSIGNAL))
        if pieces > 1 { usleep(2000) }
      }
      close(connection)
      close(listener)
    }
  }

  func deadline(_ seconds: Double) -> UInt64 {
    var now = timespec()
    clock_gettime(CLOCK_MONOTONIC, &now)
    return UInt64(now.tv_sec) * 1_000_000_000 + UInt64(now.tv_nsec) + UInt64(seconds * 1e9)
  }

  func get(_ text: String, pieces: Int = 1, seconds: Double = 5) throws -> HTTPResponse {
    let path = "/tmp/weft-test-http-\(UUID().uuidString.prefix(13))"
    defer { unlink(path) }
    serve(text, pieces: pieces, to: path)
    return try HTTPClient(.unix(path)).send("GET", "/x", deadline: deadline(seconds))
  }

  static let answers = [
    ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, "hello"),
    ("HTTP/1.1 200 OK\r\ncontent-length:5\r\n\r\nhello and more", 200, "hello"),
    ("HTTP/1.1 503\r\nContent-Length: 0\r\n\r\n", 503, ""),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;a=b\r\nlo\r\n0\r\nT: 1\r\n\r\n", 200, "hello"),
    ("HTTP/1.1 200 OK\r\n\r\nhello", 200, "hello"), ("HTTP/1.0 404 No\nContent-Length: 2\n\nno", 404, "no"),
    ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Made\r\nContent-Length: 1\r\n\r\nx", 201, "x"),
    ("HTTP/1.1 204 None\r\n\r\n", 204, ""),
  ]

  @Test(arguments: answers, [1, 1000])
  func answered(answer: (text: String, status: Int, body: String), pieces: Int) throws {
    let response = try get(answer.text, pieces: pieces)
    #expect(response.status == answer.status)
    #expect(String(decoding: response.body, as: UTF8.self) == answer.body)
  }

  @Test(arguments: [
    "", "HTTP/1.1 200 OK\r\n", "SSH-2.0-x\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort",
    "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "HTTP/1.1 200 OK\r\nnonsense\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7FFFFFFFFFFFFFFF\r\n", "HTTP/1.1 abc\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhello\r\n", "\u{0}\u{1}\u{2}\n",
    "HTTP/1.1 200 OK\r\nX: " + String(repeating: "x", count: 200_000),
  ])
  func broken(text: String) throws {
    let failure = #expect(throws: HTTPFailure.self) { try get(text) }
    guard case .broken? = failure else {
      Issue.record("\(String(describing: failure))")
      return
    }
  }

  @Test func nobodyThere() {
    #expect(throws: HTTPFailure.unreachable(ENOENT)) {
      try HTTPClient(.unix("/nonexistent/socket")).send("GET", "/", deadline: deadline(5))
    }
    // Port 1 of the loopback interface: nobody listens there.
    #expect(throws: HTTPFailure.unreachable(ECONNREFUSED)) {
      try HTTPClient(.tcp(IPAddress("127.0.0.1")!, 1)).send("GET", "/", deadline: deadline(5))
    }
  }

  @Test func aConnectionServesSeveralRequests() throws {
    let agent = AgentStandIn()
    defer { agent.stop() }
    let client = HTTPClient(agent.endpoint)
    for _ in 0..<3 { #expect(try client.send("GET", "/v1/status", deadline: deadline(5)).status == 200) }
    // Closed by the server after the next answer: the one after it opens another.
    agent.state.withLock { $0.closesConnections = true }
    for _ in 0..<3 { #expect(try client.send("GET", "/v1/status", deadline: deadline(5)).status == 200) }
  }

  @Test func silenceIsBounded() throws {
    let agent = AgentStandIn()
    defer { agent.stop() }
    agent.state.withLock { $0.silentRequests = ["GET"] }
    let (_, time) = timed {
      #expect(throws: HTTPFailure.timedOut) {
        try HTTPClient(agent.endpoint).send("GET", "/v1/status", deadline: deadline(0.3))
      }
    }
    #expect(time > .milliseconds(290))
  }
}
