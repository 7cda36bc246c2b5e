import Foundation
import Glibc
import Synchronization
import WeftAPI
import WeftCNI
import WeftNetlink
import WeftWire

/// The agent's API on a real socket, as far as the plugin uses it: it gives out addresses and remembers, and fails in
/// the way that a test asks for. It forwards nothing.
final class AgentStandIn: Sendable {
  struct State: Sendable {
    var attachments: [String: Attachment] = [:]
    /// "POST /v1/attachments" and so on, in order.
    var requests: [String] = []
    var bodies: [String] = []
    var next = 2
    var capacity = 250
    var mtu = 1450
    var hasIPv6 = true
    var routes: [AttachmentRoute]?
    /// Interfaces are TAP interfaces of so many queues.
    var tapQueues: Int?
    var isForwarderConnected = true
    /// Answers in place of what would be done, by "METHOD /path" prefix; taken away when `count` is used up.
    var failures: [Failure] = []
    /// Requests that are carried out but never answered.
    var silentRequests: [String] = []
    var isChunked = false
    var closesConnections = false
    /// Called with the request before and after it is carried out.
    var hook: (@Sendable (String, Bool) -> Void)?
  }

  struct Failure: Sendable {
    var request: String
    var status: Int
    var error: APIError
    var count = Int.max
    /// In place of the error.
    var text: String?
  }

  let state: Mutex<State>
  let endpoint: HTTPEndpoint
  private let listener: Int32
  private let isStopped = Mutex(false)
  private let connections = Mutex<[Int32]>([])

  /// Listens in the calling thread's network namespace: on a Unix socket, or on a free port of the loopback interface.
  init(socketPath: String? = nil, state: State = State()) {
    self.state = Mutex(state)
    let wanted = socketPath.map { HTTPEndpoint.unix($0) } ?? .tcp(IPAddress(v4: 0x7F00_0001), 0)
    let descriptor = socket(wanted.family, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
    precondition(wanted.withSocketAddress { bind(descriptor, $0, $1) } == 0, "bind \(wanted): \(errno)")
    precondition(listen(descriptor, 256) == 0)
    listener = descriptor
    if socketPath == nil {
      var address = sockaddr_in()
      var size = socklen_t(MemoryLayout<sockaddr_in>.size)
      _ = withUnsafeMutablePointer(to: &address) {
        $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { getsockname(descriptor, $0, &size) }
      }
      endpoint = .tcp(IPAddress(v4: 0x7F00_0001), UInt16(bigEndian: address.sin_port))
    } else {
      endpoint = wanted
    }
    Thread.detachNewThread { [self] in
      while true {
        let connection = accept(listener, nil, nil)
        if connection < 0 { return }
        connections.withLock { $0.append(connection) }
        if isStopped.withLock({ $0 }) {
          stop()
          return
        }
        Thread.detachNewThread { [self] in serve(connection) }
      }
    }
  }

  /// No connection is accepted any more, and those there are end.
  func stop() {
    isStopped.withLock { $0 = true }
    shutdown(listener, Int32(SHUT_RDWR))
    connections.withLock { all in
      for connection in all { shutdown(connection, Int32(SHUT_RDWR)) }
    }
  }

  func fail(_ request: String, _ status: Int, _ code: APIError.Code, _ reason: String, count: Int = .max) {
    state.withLock {
      $0.failures.append(Failure(request: request, status: status, error: APIError(code, reason), count: count))
    }
  }

  var attachments: [String: Attachment] { state.withLock { $0.attachments } }
  var requests: [String] { state.withLock { $0.requests } }

  private func serve(_ connection: Int32) {
    defer {
      // Together: stop must not meet a number that is somebody else's by now.
      connections.withLock { all in
        all.removeAll { $0 == connection }
        close(connection)
      }
    }
    var buffer: [UInt8] = []
    while let (line, body) = readRequest(connection, &buffer) {
      let words = line.split(separator: " ").map(String.init)
      guard words.count == 3 else { return }
      let name = "\(words[0]) \(words[1])"
      let (hook, isSilent) = state.withLock { ($0.hook, $0.silentRequests.contains { name.hasPrefix($0) }) }
      hook?(name, false)
      let (status, answer) = state.withLock { Self.answer(&$0, words[0], words[1], body) }
      hook?(name, true)
      if isSilent {
        while recv(connection, &buffer, 0, 0) >= 0, !isStopped.withLock({ $0 }) { usleep(20_000) }
        return
      }
      let (isChunked, closes) = state.withLock { ($0.isChunked, $0.closesConnections) }
      var text = Array("HTTP/1.1 \(status) X\r\nContent-Type: application/json\r\n".utf8)
      if status == 204 {
        text += Array("\r\n".utf8)
      } else if isChunked {
        text += Array("Transfer-Encoding: chunked\r\n\r\n".utf8)
        for start in stride(from: 0, to: answer.count, by: 7) {
          let part = answer[start..<min(start + 7, answer.count)]
          text += Array("\(String(part.count, radix: 16));x=y\r\n".utf8) + part + Array("\r\n".utf8)
        }
        text += Array("0\r\nTrailer: 1\r\n\r\n".utf8)
      } else {
        text += Array("Content-Length: \(answer.count)\r\n\r\n".utf8) + answer
      }
      _ = text.withUnsafeBytes { send(connection, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL)) }
      if closes { return }
    }
  }

  private func readRequest(_ connection: Int32, _ buffer: inout [UInt8]) -> (String, [UInt8])? {
    var part = [UInt8](repeating: 0, count: 65536)
    while true {
      if let text = String(bytes: buffer, encoding: .utf8), let end = text.range(of: "\r\n\r\n") {
        let head = text[..<end.lowerBound]
        var length = 0
        for line in head.split(separator: "\r\n") where line.lowercased().hasPrefix("content-length:") {
          length = Int(line.dropFirst(15).trimmingCharacters(in: .whitespaces)) ?? 0
        }
        let start = text.utf8.distance(from: text.startIndex, to: end.upperBound)
        if buffer.count >= start + length {
          let body = Array(buffer[start..<start + length])
          buffer.removeFirst(start + length)
          return (String(head.split(separator: "\r\n").first ?? ""), body)
        }
      }
      let count = recv(connection, &part, part.count, 0)
      guard count > 0 else { return nil }
      buffer += part.prefix(count)
    }
  }

  private static func answer(
    _ state: inout State, _ method: String, _ path: String, _ body: [UInt8]
  ) -> (Int, [UInt8]) {
    let name = "\(method) \(path)"
    state.requests.append(name)
    if !body.isEmpty { state.bodies.append(String(decoding: body, as: UTF8.self)) }
    if let index = state.failures.firstIndex(where: { name.hasPrefix($0.request) }) {
      let failure = state.failures[index]
      state.failures[index].count -= 1
      if failure.count <= 1 { state.failures.remove(at: index) }
      return (failure.status, failure.text.map { Array($0.utf8) } ?? encode(failure.error))
    }
    let parts = path.split(separator: "/").map { String($0).removingPercentEncoding ?? String($0) }
    let key = parts.dropFirst(2).prefix(2).joined(separator: "/")
    switch (method, parts.count) {
    case ("GET", 2) where parts[1] == "status": return (200, encode(status(state)))
    case ("GET", 2): return (200, encode(state.attachments.values.sorted { $0.id < $1.id }))
    case ("POST", 2): return reserve(&state, body)
    case ("GET", 4):
      guard let attachment = state.attachments[key] else {
        return (404, encode(APIError(.notFound, "no attachment \(key)")))
      }
      return (200, encode(attachment))
    case ("DELETE", 4):
      state.attachments[key] = nil
      return (204, [])
    case ("POST", 5):
      guard state.attachments[key] != nil else { return (404, encode(APIError(.notFound, "no attachment \(key)"))) }
      state.attachments[key]?.state = .active
      return (200, state.attachments[key].map(encode) ?? [])
    default: return (404, encode(APIError(.notFound, "no path \(path)")))
    }
  }

  private static func reserve(_ state: inout State, _ body: [UInt8]) -> (Int, [UInt8]) {
    guard let request = try? JSONDecoder().decode(AttachmentRequest.self, from: Data(body)) else {
      return (400, encode(APIError(.badRequest, "the body is not what it should be")))
    }
    let key = "\(request.containerID)/\(request.interface)"
    if let there = state.attachments[key] { return (200, encode(there)) }
    guard state.attachments.count < state.capacity else {
      return (507, encode(APIError(.poolExhausted, "no address is free")))
    }
    let four = request.addresses?.first { $0.isV4 } ?? IPAddress(v4: 0x0A01_0000 + UInt32(state.next))
    let six = request.addresses?.first { !$0.isV4 } ?? IPAddress(high: 0xFD00_0001_0000_0000, low: UInt64(state.next))
    let gateways = (IPAddress(v4: 0x0A01_0001), IPAddress(high: 0xFD00_0001_0000_0000, low: 1))
    let used = state.attachments.values.flatMap(\.addresses).map(\.address.address)
    if let taken = request.addresses?.first(where: used.contains) {
      return (409, encode(APIError(.addressInUse, "\(taken) is in use")))
    }
    var addresses: [AttachmentAddress] = []
    if let address = InterfaceAddress(four, prefixLength: 16) {
      addresses.append(AttachmentAddress(address: address, gateway: gateways.0))
    }
    if state.hasIPv6, let address = InterfaceAddress(six, prefixLength: 64) {
      addresses.append(AttachmentAddress(address: address, gateway: gateways.1))
    }
    let defaults = addresses.map { entry in
      AttachmentRoute(destination: IPPrefix(entry.address.address.isV4 ? "0.0.0.0/0" : "::/0")!, gateway: entry.gateway)
    }
    let digits = String(state.next, radix: 16)
    let id = String(repeating: "0", count: 11 - digits.count) + digits
    let attachment = Attachment(
      id: "\(id.prefix(8))-\(id.suffix(3))0-4000-8000-000000000000", containerID: request.containerID,
      interface: request.interface, netns: request.netns, network: request.network ?? "blue",
      hostInterface: "weft\(id)", mac: request.mac ?? MACAddress(bits: 0x0200_0000_0000 + UInt64(state.next)),
      mtu: state.mtu, addresses: addresses, routes: state.routes ?? defaults, dns: [IPAddress(v4: 0x0A60_000A)],
      state: .reserved, podName: request.podName, podNamespace: request.podNamespace, podUID: request.podUID,
      tap: state.tapQueues.map { AttachmentTap(queues: $0) })
    state.next += 1
    state.attachments[key] = attachment
    return (201, encode(attachment))
  }

  private static func status(_ state: State) -> AgentStatus {
    AgentStatus(
      node: "test", version: "0",
      forwarder: .init(
        connected: state.isForwarderConnected, synchronized: true, socket: "/run/weft/forwarder.sock",
        reason: state.isForwarderConnected ? nil : "nobody listens"),
      attachments: state.attachments.count, activeAttachments: 0, defaultNetwork: "blue",
      pools: [
        .init(
          network: "blue", prefix: "10.1.0.0/16", range: "10.1.0.0/24", used: UInt64(state.attachments.count),
          capacity: UInt64(state.capacity))
      ], peers: [])
  }

  private static func encode(_ value: some Encodable) -> [UInt8] {
    (try? JSONEncoder().encode(value)).map { Array($0) } ?? []
  }
}
