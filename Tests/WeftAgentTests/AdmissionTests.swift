import Foundation
import Glibc
import Logging
import Testing
import WeftAPI
import WeftAgent

struct AdmissionTests {
  private func write(_ text: String, _ path: String, mode: mode_t = 0o600) throws {
    try Data(text.utf8).write(to: URL(fileURLWithPath: path))
    chmod(path, mode)
  }

  @Test func tokenIsComparedAsAWhole() throws {
    let folder = try TemporaryFolder()
    let path = folder.path + "/token"
    try write("0123456789abcdef0123\n", path)
    let token = try BearerToken(path: path, logger: Logger(label: "test"))
    for (text, isGood) in [
      ("Bearer 0123456789abcdef0123", true), ("bearer 0123456789abcdef0123", true),
      ("Bearer 0123456789abcdef012", false), ("Bearer 0123456789abcdef01234", false), ("Bearer ", false),
      ("Bearer", false),
      ("Basic 0123456789abcdef0123", false), ("0123456789abcdef0123", false), ("", false),
      ("Bearer 1123456789abcdef0123", false),
    ] { #expect(token.admits(text) == isGood, "\(text)") }
    #expect(!token.admits(nil))
    // A new token counts at once; a bad file leaves the one before it in force.
    try write("another-token-of-mine\n", path)
    #expect(token.admits("Bearer another-token-of-mine") && !token.admits("Bearer 0123456789abcdef0123"))
    try write("short\n", path)
    #expect(token.admits("Bearer another-token-of-mine") && !token.admits("Bearer short"))
    try write("a-third-token-of-mine\n", path)
    #expect(token.admits("Bearer a-third-token-of-mine"))
  }

  @Test func tokenFilesThatAreRefused() throws {
    let folder = try TemporaryFolder()
    let path = folder.path + "/token"
    for (text, mode, said): (String, mode_t, String) in [
      ("", 0o600, "at least 16"), ("short\n", 0o600, "at least 16"), ("with a space in between\n", 0o600, "printable"),
      ("0123456789abcdef0123\n", 0o644, "everybody"),
    ] {
      try write(text, path, mode: mode)
      let error = #expect(throws: AgentFailure.self) { try BearerToken(path: path, logger: Logger(label: "test")) }
      #expect(error?.description.contains(said) == true && error?.description.contains(path) == true)
    }
    #expect(throws: AgentFailure.self) { try BearerToken(path: folder.path, logger: Logger(label: "test")) }
    #expect(throws: AgentFailure.self) { try BearerToken(path: path + "0", logger: Logger(label: "test")) }
  }

  @Test func rateIsEachClientsOwn() {
    let rate = RequestRate(perSecond: 10, burst: 3)
    let second: UInt64 = 1_000_000_000
    for _ in 0..<3 { #expect(rate.delay("a", now: second) == nil) }
    #expect(rate.delay("a", now: second) == 1)
    #expect(rate.delay("b", now: second) == nil)
    // A tenth of a second later one more may pass.
    #expect(rate.delay("a", now: second + second / 10) == nil)
    #expect(rate.delay("a", now: second + second / 10) == 1)
    // However long it was quiet, no more than the burst.
    for _ in 0..<3 { #expect(rate.delay("a", now: 100 * second) == nil) }
    #expect(rate.delay("a", now: 100 * second) == 1)
    // Many clients do not make others forgotten that are busy.
    for number in 0..<(3 * RequestRate.maximumClients) { _ = rate.delay("c\(number)", now: 100 * second + 1) }
    let unlimited = RequestRate(perSecond: 0, burst: 0)
    for _ in 0..<10_000 { #expect(unlimited.delay("a", now: second) == nil) }
  }

  @Test func tooManyRequestsAreToldWhenToComeAgain() async throws {
    try await TestAgent.run(extra: "api: {requests-per-second: 1, burst: 5}") { agent in
      // All at once: many more than a burst and what is added while they are answered.
      let request = "GET /healthz HTTP/1.1\r\nHost: a\r\n"
      let answers = try await agent.raw(
        String(repeating: "\(request)\r\n", count: 500) + "\(request)Connection: close\r\n\r\n")
      let statuses = answers.matches(of: /HTTP\/1\.1 (\d+)/).map { String($0.1) }
      #expect(statuses.count == 501)
      #expect(statuses.prefix(5) == ["200", "200", "200", "200", "200"])
      #expect(statuses.contains("429"))
      #expect(answers.lowercased().contains("retry-after: 1\r\n"))
      #expect(answers.contains("\"too_many_requests\""))
    }
  }

  @Test func slowAndIdleClientsAreClosed() async throws {
    try await TestAgent.run(extra: "api: {idle-time: 2, request-time: 1}") { agent in
      // A body that does not come, a header that does not end, and nothing at all.
      let body = try await agent.raw("POST /vm HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n{")
      #expect(body.contains("408") && body.contains("\"timeout\""), "\(body)")
      #expect(try await agent.raw("GET /healthz HTTP/1.1\r\nHost: a\r\nX-Slow: ") == "")
      #expect(try await agent.raw("") == "")
      #expect(try await agent.request("GET", "/healthz").status == 200)
    }
  }

  @Test func largeHeadersAreRefused() async throws {
    try await TestAgent.run { agent in
      let long = String(repeating: "x", count: APISettings.maximumHeaderBytes)
      let answer = try await agent.raw("GET /healthz HTTP/1.1\r\nHost: a\r\nX-Long: \(long)\r\n\r\n")
      #expect(answer.contains("431") && answer.contains("header_too_large"), "\(answer)")
      let many = (0..<200).map { "X-\($0): 1\r\n" }.joined()
      #expect(try await agent.raw("GET /healthz HTTP/1.1\r\nHost: a\r\n\(many)\r\n").contains("431"))
    }
  }

  @Test func readOnlyTCP() async throws {
    let folder = try TemporaryFolder()
    let agent = TestAgent(
      folder, configurationText(folder.path, extra: "api: {tcp: read, socket: \(folder.path)/agent.sock}"))
    try await agent.start()
    for (method, path) in [
      ("POST", "/v1/attachments"), ("GET", "/vm-cfg/a"), ("DELETE", "/v1/attachments/a/eth0"), ("POST", "/port"),
    ] {
      let answer = try await agent.request(method, path)
      #expect(answer.status == 403, "\(method) \(path)")
      #expect(try answer.error.code == .forbidden && answer.error.reason.contains("Unix socket"))
    }
    #expect(try await agent.request("GET", "/v1/status").status == 200)
    await agent.stop()
    #expect(!FileManager.default.fileExists(atPath: folder.path + "/agent.sock"))
  }

  @Test func settingsThatAreRefused() throws {
    let folder = try TemporaryFolder()
    for (extra, path) in [
      ("api: {tcp: none}", "api.tcp"), ("api: {tcp: some}", "api.tcp"), ("api: {socket: agent.sock}", "api.socket"),
      ("api: {socket: {path: /a, mode: \"0999\"}}", "api.socket.mode"),
      ("api: {socket: {path: /a, mode: \"0060\"}}", "api.socket.mode"),
      ("api: {socket: {mode: \"0600\"}}", "api.socket.path"),
      ("api: {socket: /\(String(repeating: "a", count: 107))}", "api.socket"),
      ("api: {token-file: t}", "api.token-file"),
      ("api: {burst: 10}", "api.burst"), ("api: {connections: 0}", "api.connections"),
      ("api: {idle-time: 0}", "api.idle-time"), ("api: {requst-time: 1}", "api.requst-time"),
    ] {
      let error = #expect(throws: ConfigurationError.self, "\(extra)") {
        try AgentConfiguration(yaml: configurationText(folder.path, extra: extra))
      }
      #expect(error?.path == path, "\(extra): \(error?.description ?? "")")
    }
    let wide = configurationText(folder.path).replacing("listen: 127.0.0.1:0", with: "listen: 0.0.0.0:0")
    let error = #expect(throws: ConfigurationError.self) { try AgentConfiguration(yaml: wide) }
    #expect(error?.path == "listen" && error?.reason.contains("api.token-file") == true)
    _ = try AgentConfiguration(yaml: wide + "\napi: {token-file: /t}")
    _ = try AgentConfiguration(yaml: wide + "\napi: {tcp: none, socket: /s}")
  }

  @Test func socketsInTheWay() throws {
    let folder = try TemporaryFolder()
    let path = folder.path + "/agent.sock"
    try write("text", path)
    let error = #expect(throws: AgentFailure.self) { try UnixListener.prepare(.init(path: path)) }
    #expect(error?.description.contains("no socket") == true)
    #expect(FileManager.default.fileExists(atPath: path))
    let group = #expect(throws: AgentFailure.self) {
      try UnixListener.prepare(.init(path: path, group: "nobody-knows"))
    }
    #expect(group?.description.contains("nobody-knows") == true)
  }
}
