import ArgumentParser
import CLinux
import FoundationEssentials
import Glibc
import WeftAPI
import WeftCNI
import WeftWire

/// Where the agent is asked.
struct AgentAddress: ExpressibleByArgument, CustomStringConvertible {
  let endpoint: HTTPEndpoint
  var description: String { endpoint.description }
  var defaultValueDescription: String { description }

  static let standard = AgentAddress(endpoint: .tcp(IPAddress(v4: 0x7F00_0001), 9091))

  init(endpoint: HTTPEndpoint) { self.endpoint = endpoint }

  /// "127.0.0.1:9091", "[::1]:9091", either with "http://" in front, or the path of a Unix socket.
  init?(argument: String) {
    var text = argument[...]
    if text.hasPrefix("/") {
      guard text.utf8.count <= HTTPEndpoint.longestSocketPath else { return nil }
      endpoint = .unix(argument)
      return
    }
    if text.hasPrefix("http://") { text = text.dropFirst(7) }
    if text.hasSuffix("/") { text = text.dropLast() }
    guard let colon = text.lastIndex(of: ":"), let port = UInt16(text[text.index(after: colon)...]), port > 0 else {
      return nil
    }
    var host = String(text[..<colon])
    if host.hasPrefix("["), host.hasSuffix("]") { host = String(host.dropFirst().dropLast()) }
    if host == "localhost" { host = "127.0.0.1" }
    guard let address = IPAddress(host) else { return nil }
    endpoint = .tcp(address, port)
  }
}

/// The agent, as a reader of its HTTP API.
struct AgentConnection {
  let address: AgentAddress
  private let client: HTTPClient

  /// Why the agent said nothing.
  struct Fault: Error {
    let reason: String
    /// It may be well: we may not ask.
    let isForbidden: Bool
  }

  init(_ address: AgentAddress) {
    self.address = address
    client = HTTPClient(address.endpoint)
  }

  /// The answer's status and body.
  func get(_ path: String) throws(Fault) -> (status: Int, body: [UInt8]) {
    do throws(HTTPFailure) {
      let answer = try client.send("GET", path, deadline: weft_monotonic_ns() + 5_000_000_000)
      return (answer.status, answer.body)
    } catch {
      switch error {
      case .unreachable(let code):
        let reason = unsafe String(cString: strerror(code))
        throw Fault(
          reason: "no agent at \(address): \(reason)", isForbidden: code == EACCES || code == EPERM)
      case .timedOut: throw Fault(reason: "the agent at \(address) did not answer within 5 s", isForbidden: false)
      case .broken(let reason): throw Fault(reason: "no agent at \(address): \(reason)", isForbidden: false)
      }
    }
  }

  /// An answer of status 200, or of one of `also`.
  func get<T: Decodable>(_ type: T.Type, _ path: String, also: [Int] = []) throws(Fault) -> T {
    let answer = try get(path)
    guard answer.status == 200 || also.contains(answer.status) else {
      let said = (try? JSONDecoder().decode(APIError.self, from: Data(answer.body)))?.reason
      throw Fault(
        reason: "the agent at \(address) answered \(answer.status) for \(path)\(said.map { ": \($0)" } ?? "")",
        isForbidden: answer.status == 401 || answer.status == 403)
    }
    do { return try JSONDecoder().decode(type, from: Data(answer.body)) } catch {
      throw Fault(reason: "what answers at \(address) is no weft-agent, or one of another version", isForbidden: false)
    }
  }
}
