import Foundation
import Testing
import WeftAPI
import WeftAgent
import Yams

struct HTTPTests {
  static let pod = "/vm-cfg/k8s__default__web-1"

  @Test func errorsAreJSON() async throws {
    try await TestAgent.run { agent in
      let id = "6f9619ff-8b86-d011-b42d-00c04fc964ff"
      let long = String(repeating: "a", count: 256)
      let rows: [(String, String, String, Int, String, String)] = [
        ("GET", "/nothing", "", 404, "not_found", "/nothing"),
        ("GET", "/", "", 404, "not_found", "/"),
        ("PATCH", "/v1/status", "", 405, "method_not_allowed", "takes GET"),
        ("GET", "/v1/attachments/a/eth0/activate", "", 405, "method_not_allowed", "takes POST"),
        ("GET", "/v1/attachments/a/eth0", "", 404, "not_found", "container a"),
        ("POST", "/v1/attachments/a/eth0/activate", "", 404, "not_found", "container a"),
        ("GET", "/v1/attachments/-a/eth0", "", 400, "bad_request", "container-id"),
        ("DELETE", "/v1/attachments/\(long)/eth0", "", 400, "bad_request", "container-id"),
        ("DELETE", "/v1/attachments/..%2f..%2fetc/eth0", "", 400, "bad_request", "container-id"),
        ("GET", "/v1/attachments/a/0123456789abcdef", "", 400, "bad_request", "interface"),
        ("GET", "/v1/attachments/a/..", "", 400, "bad_request", "interface"),
        ("GET", "/v1/attachments?colour=red", "", 400, "bad_request", "colour"),
        ("POST", "/v1/attachments", "", 400, "bad_request", "empty"),
        ("POST", "/v1/attachments", "{", 400, "bad_request", "no JSON"),
        ("POST", "/v1/attachments", "[]", 400, "bad_request", "body must be"),
        ("POST", "/v1/attachments", "{}", 400, "bad_request", "\"container-id\" is missing"),
        ("POST", "/v1/attachments", #"{"container-id":7}"#, 400, "bad_request", "\"container-id\" must be a string"),
        ("POST", "/v1/attachments", #"{"container-id":"a","interface":"e","netns":"x"}"#, 400, "bad_request", "netns"),
        (
          "POST", "/v1/attachments", #"{"container-id":"a b","interface":"e","netns":"/x"}"#, 400, "bad_request",
          "container-id"
        ),
        (
          "POST", "/v1/attachments", #"{"container-id":"a","interface":"e","netns":"/x","network":"red"}"#, 404,
          "unknown_network", "there are blue, green"
        ),
        (
          "POST", "/v1/attachments", #"{"container-id":"a","interface":"e","netns":"/x","mac":"zz"}"#, 400,
          "bad_request", "\"mac\""
        ),
        (
          "POST", "/v1/attachments", #"{"container-id":"a","interface":"e","netns":"/x","mac":"01:00:00:00:00:01"}"#,
          400, "bad_request", "cannot be"
        ),
        (
          "POST", "/v1/attachments", #"{"container-id":"a","interface":"e","netns":"/x","addresses":["10.1.1"]}"#, 400,
          "bad_request", "\"addresses[0]\""
        ),
        ("GET", "/vm/abc", "", 400, "bad_request", "vm-uuid"),
        ("GET", "/vm/\(id)", "", 404, "not_found", id),
        ("GET", "/vm/\(id)/\(id)", "", 404, "not_found", id),
        ("GET", "/vm-cfg/a%20b", "", 400, "bad_request", "pod name"),
        ("GET", "/vm-cfg/..%2f..%2fetc", "", 400, "bad_request", "pod name"),
        ("POST", "/vm", "{}", 400, "bad_request", "\"vm-id\" is missing"),
        ("DELETE", "/vm/x", "", 400, "bad_request", "vm-uuid"),
        ("GET", "/port/\(id)", "", 404, "not_found", id),
        ("PUT", "/enable-port/\(id)", "", 404, "not_found", id),
        ("PUT", "/disable-port/x", "", 400, "bad_request", "uuid"),
        ("POST", "/port", "[{}]", 400, "bad_request", "\"[0].id\" is missing"),
        ("PUT", "/v1/log-level", #"{"level":"loud"}"#, 400, "bad_request", "trace, debug, info"),
        ("PUT", "/v1/log-level", #"{"level":"info","label":"x"}"#, 404, "not_found", "logs as"),
        ("PUT", "/v1/log-level", "", 400, "bad_request", "empty"),
        ("POST", "/metrics", "", 405, "method_not_allowed", "takes GET"),
        ("POST", "/gateway", "{}", 400, "bad_request", "list"),
        ("POST", "/gateway", "[{}]", 400, "bad_request", "\"[0].interface\" is missing"),
        ("DELETE", "/gateway", "[{}]", 400, "bad_request", "\"[0].interface\" is missing"),
        ("POST", "/vm", String(repeating: "x", count: 65537), 413, "too_large", "65536"),
      ]
      for (method, path, body, status, code, said) in rows {
        let answer = try await agent.request(method, path, body)
        #expect(answer.status == status, "\(method) \(path.prefix(60)) \(body.prefix(60)): \(answer.body)")
        let error = try answer.error
        #expect(error.code.rawValue == code, "\(method) \(path.prefix(60)): \(answer.body)")
        #expect(error.reason.contains(said), "\(method) \(path.prefix(60)): \(answer.body)")
        #expect(answer.head.lowercased().contains("content-type: application/json"))
      }
      #expect(try await agent.status().attachments == 0)
    }
  }

  @Test func withoutAForwarderItServes() async throws {
    try await TestAgent.run { agent in
      #expect(try await agent.request("GET", "/healthz").status == 200)
      let status = try await agent.status()
      #expect(status.node == "node1")
      #expect(!status.forwarder.connected)
      #expect(status.defaultNetwork == "blue")
      // Deleting what is not there succeeds, every time.
      try await agent.delete("never")
      try await agent.delete("never")
      let attachment = try await agent.add("a").attachment
      let missing = try await agent.request("POST", "/v1/attachments/a/eth0/activate")
      #expect(missing.status == 503)
      #expect(try missing.error.code == .forwarderUnavailable)
      #expect(try missing.error.reason.contains("weft-vrouter"))
      // As it was, but for the time of the attempt.
      var now = try await agent.request("GET", "/v1/attachments/a/eth0").attachment
      now.since = attachment.since
      #expect(now == attachment)
      try await agent.delete("a")
      #expect(try await agent.status().attachments == 0)
    }
  }

  @Test func podsAreReservedWhenAskedFor() async throws {
    try await TestAgent.run { agent in
      let first = try await agent.request("GET", Self.pod)
      #expect(first.status == 200)
      let interfaces: [VMInterface] = try first.decode()
      #expect(interfaces.count == 1)
      let one = try #require(interfaces.first)
      #expect(one.ipAddress == "10.1.1.1")
      #expect(one.plen == 16)
      #expect(one.gateway == "10.1.0.1")
      #expect(one.dnsServer == "10.96.0.10")
      #expect(one.ip6Address == "fd00:1::1:1")
      #expect(one.vnName == "blue")
      #expect(one.annotations.contains("{name:web-1}"))
      #expect(one.annotations.contains("{namespace:default}"))
      #expect(one.annotations.contains("{index:0/1}"))
      // As the field's plugin takes them apart.
      for annotation in one.annotations {
        #expect(annotation.dropFirst().dropLast().split(separator: ":").count == 2)
      }
      #expect(try await agent.request("GET", Self.pod).body == first.body)
      // Not active: the plugin goes on asking.
      #expect(try await agent.request("GET", "/vm/\(one.vmUUID)").status == 404)
      // A pod of weft-cni shows as well.
      let body = #"{"container-id":"c","interface":"eth0","netns":"/n","pod-name":"web-2","pod-namespace":"ns"}"#
      let attachment = try await agent.request("POST", "/v1/attachments", body).attachment
      let other: [VMInterface] = try await agent.request("GET", "/vm-cfg/web-2").decode()
      #expect(other.map(\.id) == [attachment.id])
      #expect(try await agent.request("DELETE", "/vm/\(one.vmUUID)").status == 200)
      #expect(try await agent.request("DELETE", "/vm/\(one.vmUUID)").status == 200)
      #expect(try await agent.status().attachments == 1)
    }
  }

  @Test func secondAgentIsToldWhy() async throws {
    try await TestAgent.run { agent in
      let second = TestAgent(agent.folder, agent.text)
      let error = await #expect(throws: APIError.self) { try await second.start() }
      #expect(error?.reason.contains("in use by another weft-agent") == true)
    }
  }

  /// What is served is docs/openapi.yaml.
  @Test func openAPIIsServed() async throws {
    let file = URL(fileURLWithPath: #filePath).deletingLastPathComponent().appendingPathComponent(
      "../../docs/openapi.yaml")
    let document = try #require(try compose(yaml: String(contentsOf: file.standardizedFileURL, encoding: .utf8)))
    try await TestAgent.run { agent in
      let answer = try await agent.request("GET", "/openapi.json")
      #expect(answer.status == 200)
      #expect(answer.head.lowercased().contains("content-type: application/json"))
      // JSON is YAML: both read by the same reader are the same tree.
      let served = try #require(try compose(yaml: answer.body))
      func isSame(_ a: Node, _ b: Node, _ path: String) {
        switch (a, b) {
        case (.mapping(let a), .mapping(let b)):
          #expect(Set(a.keys.compactMap(\.string)) == Set(b.keys.compactMap(\.string)), "\(path)")
          for (key, value) in a { if let other = b[key] { isSame(value, other, "\(path).\(key.string ?? "")") } }
        case (.sequence(let a), .sequence(let b)):
          #expect(a.count == b.count, "\(path)")
          for (index, pair) in zip(a, b).enumerated() { isSame(pair.0, pair.1, "\(path)[\(index)]") }
        default: #expect(a.scalar?.string == b.scalar?.string && a.scalar != nil, "\(path)")
        }
      }
      isSame(document, served, "")
    }
  }

  @Test func openAPIDescribesEveryRoute() throws {
    let file = URL(fileURLWithPath: #filePath).deletingLastPathComponent().appendingPathComponent(
      "../../docs/openapi.yaml")
    let document = try #require(try compose(yaml: String(contentsOf: file.standardizedFileURL, encoding: .utf8)))
    #expect(document["openapi"]?.string == "3.1.0")
    var described: Set<String> = []
    for (path, item) in try #require(document["paths"]?.mapping) {
      for (method, operation) in try #require(item.mapping) where method.string != "parameters" {
        let name = "\(method.string?.uppercased() ?? "") \(path.string ?? "")"
        described.insert(name)
        #expect(operation["summary"]?.string?.isEmpty == false, "\(name)")
        #expect(operation["responses"]?.mapping?.isEmpty == false, "\(name)")
      }
    }
    let folder = try TemporaryFolder()
    let configuration = try AgentConfiguration(yaml: configurationText(folder.path))
    let program = try AgentProgram(configuration, logger: .init(label: "test"))
    #expect(Set(program.interface.routes) == described)
    // Each reference leads somewhere.
    let text = try String(contentsOf: file.standardizedFileURL, encoding: .utf8)
    for match in text.matches(of: /\$ref: "#\/components\/([a-z]+)\/([A-Za-z]+)"/) {
      #expect(document["components"]?[String(match.1)]?[String(match.2)] != nil, "\(match.0)")
    }
  }
}
