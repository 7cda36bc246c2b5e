import CoreMetrics
import Foundation
import Testing
import WeftAPI
import WeftAgent
import WeftLogging

struct MetricsTests {
  /// A line that is no comment; nil when there is none, or more than one.
  private func value(_ text: String, _ sample: String) -> String? {
    let lines = text.split(separator: "\n").filter { $0.hasPrefix(sample + " ") }
    return lines.count == 1 ? String(lines[0].dropFirst(sample.count + 1)) : nil
  }

  @Test func figuresWithoutAForwarder() async throws {
    try await TestAgent.run { agent in
      _ = try await agent.add("a")
      #expect(try await agent.request("POST", "/v1/attachments/a/eth0/activate").status == 503)
      #expect(try await agent.add("b", network: "red").status == 404)
      try await agent.delete("a")
      let answer = try await agent.request("GET", "/metrics")
      #expect(answer.status == 200)
      #expect(answer.head.lowercased().contains("content-type: text/plain; version=0.0.4; charset=utf-8"))
      let text = answer.body
      #expect(value(text, "weft_forwarder_up") == "0")
      #expect(value(text, "weft_forwarder_synchronized") == "0")
      #expect(value(text, #"weft_attachments{state="active"}"#) == "0")
      #expect(value(text, #"weft_pool_addresses{network="blue",prefix="10.1.0.0/16"}"#) == "14")
      #expect(value(text, #"weft_pool_addresses_used{network="blue",prefix="10.1.0.0/16"}"#) == "0")
      #expect(value(text, #"weft_attachment_seconds_count{verb="add",outcome="failed"}"#) == "1")
      #expect(value(text, #"weft_attachment_seconds_count{verb="add",outcome="refused"}"#) == "1")
      #expect(value(text, #"weft_attachment_seconds_count{verb="del",outcome="ok"}"#) == "1")
      #expect(value(text, #"weft_http_requests_total{method="POST",path="/v1/attachments",status="201"}"#) == "1")
      #expect(!text.contains("weft_drops_total"))
      // Each family is begun once, and says what it is.
      let names = text.split(separator: "\n").filter { $0.hasPrefix("# TYPE ") }
      #expect(Set(names).count == names.count)
      #expect(text.split(separator: "\n").count { $0.hasPrefix("# HELP ") } == names.count)
    }
  }

  /// Buckets add up, and labels are what was said, whatever is in them.
  @Test func histogramsAndLabels() async throws {
    try await TestAgent.run { agent in
      // Some names of what is asked for are nobody's own.
      for path in ["/metrics/x", "/%22", "/port/x/y"] { #expect(try await agent.request("GET", path).status == 404) }
      for _ in 0..<3 { _ = try await agent.status() }
      let text = try await agent.request("GET", "/metrics").body
      #expect(value(text, #"weft_http_requests_total{method="GET",path="other",status="404"}"#) == "3")
      let labels = #"method="GET",path="/v1/status""#
      var last = 0
      for line in text.split(separator: "\n") where line.hasPrefix("weft_http_request_seconds_bucket{\(labels)") {
        let count = try #require(line.split(separator: " ").last.flatMap { Int($0) })
        #expect(count >= last)
        last = count
      }
      #expect(last == 3)
      #expect(value(text, "weft_http_request_seconds_count{\(labels)}") == "3")
      #expect(value(text, #"weft_http_request_seconds_bucket{\#(labels),le="+Inf"}"#) == "3")
      let sum = try #require(value(text, "weft_http_request_seconds_sum{\(labels)}").flatMap { Double($0) })
      #expect(sum > 0 && sum < 60)
    }
  }

  /// swift-metrics finds one series for the same label and dimensions, and no more than a bounded number of them.
  @Test func registry() async throws {
    let folder = try TemporaryFolder()
    let program = try AgentProgram(
      AgentConfiguration(yaml: configurationText(folder.path)), logger: .init(label: "test"))
    let registry = program.agent.metrics.registry
    let first = registry.makeCounter(label: "weft_test_total", dimensions: [("kind", "a")])
    #expect(first === registry.makeCounter(label: "weft_test_total", dimensions: [("kind", "a")]))
    #expect(first !== registry.makeCounter(label: "weft_test_total", dimensions: [("kind", "b")]))
    for number in 0..<2000 { _ = registry.makeCounter(label: "weft_test_total", dimensions: [("kind", "\(number)")]) }
    #expect(
      registry.makeCounter(label: "weft_test_total", dimensions: [("kind", "x")])
        === registry.makeCounter(label: "weft_test_total", dimensions: [("kind", "y")]))
    #expect(first === registry.makeCounter(label: "weft_test_total", dimensions: [("kind", "a")]))
  }

  @Test func health() async throws {
    struct Health: Decodable {
      struct Check: Decodable {
        var name: String
        var ok: Bool
        var reason: String
      }
      var status: String
      var checks: [Check]
    }
    try await TestAgent.run { agent in
      let alive: Health = try await agent.request("GET", "/healthz").decode()
      #expect(alive.status == "ok" && alive.checks.map(\.name) == ["store", "core"])
      let answer = try await agent.request("GET", "/readyz")
      #expect(answer.status == 503)
      let ready: Health = try answer.decode()
      #expect(ready.status == "failing")
      #expect(ready.checks.map(\.name) == ["store", "core", "forwarder", "workers", "synchronized", "underlay"])
      #expect(ready.checks.map(\.ok) == [true, true, false, false, false, false])
      #expect(ready.checks[2].reason.contains("weft-vrouter"))
      #expect(ready.checks[5].reason.contains("weft-none0"))
    }
  }

  @Test func levels() {
    let levels = LogLevels()
    levels.start(.info)
    levels.set(.debug, for: "a.b")
    let rows: [(String, String)] = [
      ("a", "info"), ("a.b", "debug"), ("a.b.c", "debug"), ("a.bc", "info"), ("b", "info"), ("", "info"),
    ]
    for (label, level) in rows { #expect(levels.level(of: label).rawValue == level, "\(label)") }
    levels.set(.error, for: "a")
    #expect(levels.level(of: "a.x") == .error && levels.level(of: "a.b.x") == .debug)
    levels.set(nil, for: "a")
    #expect(levels.level(of: "a") == .info)
    // A step more of everything, no further than all; then as it was.
    for level in ["debug", "trace", "trace"] { #expect(levels.more().rawValue == level) }
    #expect(levels.level(of: "a.b") == .trace)
    levels.set(nil)
    #expect(levels.level == .info && levels.level(of: "a.b") == .info)
  }
}
