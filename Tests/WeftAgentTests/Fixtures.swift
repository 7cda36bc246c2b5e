import Foundation
import Glibc
import Logging
import Synchronization
import Testing
import WeftAPI
import WeftAgent

/// Why tests with namespaces do not run.
let needsRoot: Comment = "needs root for network namespaces"
let isRoot = geteuid() == 0

/// A folder that is removed at the end.
final class TemporaryFolder: Sendable {
  let path: String

  init() throws {
    var template = Array("/tmp/weft-agent-XXXXXX".utf8CString)
    try #require(mkdtemp(&template) != nil)
    path = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }

  deinit { try? FileManager.default.removeItem(atPath: path) }
}

/// Two networks with small pools; `extra` is added at the end, `fabric` replaces an interface that does not exist.
func configurationText(
  _ folder: String, fabric: String = "weft-none0", range: String = "10.1.1.0/28", extra: String = ""
) -> String {
  """
  node: node1
  fabric: {interface: \(fabric)}
  forwarder: {socket: \(folder)/forwarder.sock}
  database: \(folder)/agent.db
  recovery: {plugin: \(folder)/plugin, ports: \(folder)/ports}
  listen: 127.0.0.1:0
  default-network: blue
  networks:
    - name: blue
      subnets:
        - {prefix: 10.1.0.0/16, range: \(range), gateway: 10.1.0.1}
        - {prefix: "fd00:1::/64", range: "fd00:1::1:0/112"}
      encapsulation: vxlan
      vni: 5001
      dns: [10.96.0.10]
    - name: green
      subnets:
        - {prefix: 10.2.0.0/16, range: 10.2.1.10-10.2.1.11}
      label: 1002
  \(extra)
  """
}

let peerText = """
  peers:
    - name: node2
      address: 192.0.2.2
      networks:
        - {name: blue, subnets: [10.1.2.0/24, "fd00:1::2:0/112"]}
        - {name: green, subnets: [10.2.2.0/24]}
  """

/// An agent of its own, serving HTTP on a free port of loopback.
final class TestAgent: Sendable {
  let folder: TemporaryFolder
  let text: String
  private let state = Mutex(State())

  private struct State {
    var task: Task<Void, any Error>?
    var port: UInt16 = 0
  }

  init(_ folder: TemporaryFolder, _ text: String) {
    self.folder = folder
    self.text = text
  }

  static func run(
    range: String = "10.1.1.0/28", extra: String = "", _ body: (TestAgent) async throws -> Void
  ) async throws {
    let folder = try TemporaryFolder()
    let agent = TestAgent(folder, configurationText(folder.path, range: range, extra: extra))
    try await agent.start()
    do { try await body(agent) } catch {
      await agent.stop()
      throw error
    }
    await agent.stop()
  }

  /// `make` opens the agent, in another namespace if need be.
  func start(
    _ make: (AgentConfiguration, Logger, @escaping @Sendable (ListenAddress) async -> Void) throws -> AgentProgram = {
      try AgentProgram($0, logger: $1, onListening: $2)
    }
  ) async throws {
    var logger = Logger(label: "test")
    logger.logLevel = .critical
    let (ports, continuation) = AsyncStream.makeStream(of: Int.self)
    let program = try make(AgentConfiguration(yaml: text), logger) { address in
      continuation.yield(address.port)
      continuation.finish()
    }
    let task = Task {
      defer { continuation.finish() }
      try await program.run(takesSignals: false)
    }
    var iterator = ports.makeAsyncIterator()
    guard let port = await iterator.next() else {
      try await task.value
      throw APIError(.internalError, "the agent ended at once")
    }
    state.withLock { $0 = State(task: task, port: UInt16(port)) }
  }

  /// Ends it, as a kill would as far as the forwarder can tell.
  func stop() async {
    let task = state.withLock { state in
      defer { state.task = nil }
      return state.task
    }
    task?.cancel()
    _ = await task?.result
  }

  func request(_ method: String, _ path: String, _ body: String = "") async throws -> Answer {
    let port = state.withLock { $0.port }
    return try await withCheckedThrowingContinuation { continuation in
      // A thread of its own: it blocks, and the threads of the pool serve the agent.
      Thread.detachNewThread {
        continuation.resume(with: Result { try Answer(port, method, path, body) })
      }
    }
  }

  /// Sends bytes as they are; what comes until the agent closes the connection.
  func raw(_ text: String) async throws -> String {
    let port = state.withLock { $0.port }
    return try await withCheckedThrowingContinuation { continuation in
      Thread.detachNewThread {
        continuation.resume(
          with: Result { String(decoding: try Answer.exchange(port, Array(text.utf8)), as: UTF8.self) })
      }
    }
  }

  func status() async throws -> AgentStatus { try await request("GET", "/v1/status").decode() }

  /// Until the forwarder has everything.
  func synchronized() async throws {
    for _ in 0..<500 {
      if try await status().forwarder.synchronized { return }
      try await Task.sleep(for: .milliseconds(10))
    }
    Issue.record("not synchronized after 5 s: \(try await status().forwarder)")
  }

  /// Asks for an attachment in a network.
  func add(
    _ container: String, network: String? = nil, addresses: [String]? = nil, interface: String = "eth0"
  ) async throws -> Answer {
    var body = ["container-id": "\"\(container)\"", "interface": "\"\(interface)\"", "netns": "\"/n\""]
    if let network { body["network"] = "\"\(network)\"" }
    if let addresses { body["addresses"] = "[\(addresses.map { "\"\($0)\"" }.joined(separator: ","))]" }
    let text = body.map { "\"\($0)\":\($1)" }.joined(separator: ",")
    return try await request("POST", "/v1/attachments", "{\(text)}")
  }

  func delete(_ container: String, interface: String = "eth0") async throws {
    #expect(try await request("DELETE", "/v1/attachments/\(container)/\(interface)").status == 204)
  }
}

/// An answer over HTTP, asked for by a client that knows nothing of the server.
struct Answer: Sendable {
  let status: Int
  let head: String
  let body: String

  init(_ port: UInt16, _ method: String, _ path: String, _ sent: String) throws {
    let request =
      "\(method) \(path) HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: \(sent.utf8.count)\r\n\r\n\(sent)"
    let text = String(decoding: try Self.exchange(port, Array(request.utf8)), as: UTF8.self)
    let end = try #require(text.range(of: "\r\n\r\n"))
    head = String(text[..<end.lowerBound])
    body = String(text[end.upperBound...])
    status = Int(head.split(separator: " ")[1]) ?? 0
  }

  /// What comes back until the other end closes.
  static func exchange(_ port: UInt16, _ bytes: [UInt8]) throws -> [UInt8] {
    let client = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
    try #require(client >= 0)
    defer { close(client) }
    var wait = timeval(tv_sec: 20, tv_usec: 0)
    setsockopt(client, SOL_SOCKET, SO_RCVTIMEO, &wait, socklen_t(MemoryLayout<timeval>.size))
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = port.bigEndian
    address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
    let connected = withUnsafePointer(to: &address) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { connect(client, $0, 16) }
    }
    try #require(connected == 0)
    var written = 0
    while written < bytes.count {
      let count = send(client, Array(bytes[written...]), bytes.count - written, Int32(MSG_NOSIGNAL))
      if count <= 0 { break }
      written += count
    }
    var received: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 65536)
    while true {
      let count = recv(client, &buffer, buffer.count, 0)
      if count <= 0 { break }
      received += buffer.prefix(count)
    }
    return received
  }

  func decode<T: Decodable>(_ type: T.Type = T.self) throws -> T {
    try JSONDecoder().decode(T.self, from: Data(body.utf8))
  }

  var attachment: WeftAPI.Attachment { get throws { try decode() } }
  /// The addresses of an attachment, as text.
  var addresses: [String] { get throws { try attachment.addresses.map(\.address.address.description) } }
  var error: APIError { get throws { try decode() } }
}
