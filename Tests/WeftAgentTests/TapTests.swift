import Foundation
import Testing
import WeftAPI
import WeftAgent
import WeftRing

/// Pods whose interfaces are TAP interfaces, of which the forwarder is told where they are.
@Suite(.enabled(if: isRoot, needsRoot)) struct TapTests {
  static let name = "weft-agent-test-\(getpid())"
  static let path = "/run/netns/\(name)"

  func ip(_ words: String...) throws {
    let process = Process()
    process.executableURL = URL(filePath: "/usr/bin/env")
    process.arguments = ["ip"] + words
    try process.run()
    process.waitUntilExit()
    try #require(process.terminationStatus == 0, "ip \(words.joined(separator: " "))")
  }

  func request(_ netns: String) -> String {
    #"{"container-id": "a", "interface": "eth0", "netns": "\#(netns)"}"#
  }

  @Test func theForwarderIsToldWhereItIs() async throws {
    let folder = try TemporaryFolder()
    let forwarder = try TestForwarder("\(folder.path)/forwarder.sock", CheckedTables())
    defer { forwarder.stop() }
    let agent = TestAgent(folder, configurationText(folder.path, extra: "pods: {port: tap, queues: 3}"))
    try await agent.start()
    try await agent.synchronized()
    try ip("netns", "add", Self.name)
    do { try await check(agent, forwarder) } catch {
      try ip("netns", "delete", Self.name)
      await agent.stop()
      throw error
    }
    try ip("netns", "delete", Self.name)
    await agent.stop()
  }

  private func check(_ agent: TestAgent, _ forwarder: TestForwarder) async throws {
    for netns in ["", "/" + String(repeating: "n", count: 95)] {
      let answer = try await agent.request("POST", "/v1/attachments", request(netns))
      #expect(try answer.status == 400 && answer.error.reason.contains("absolute path of at most 95 bytes"))
    }
    // The namespace may be another one when it is asked for again.
    for netns in ["/run/netns/none", Self.path] {
      let attachment = try await agent.request("POST", "/v1/attachments", request(netns)).attachment
      #expect(attachment.tap == AttachmentTap(queues: 3) && attachment.netns == netns)
    }
    let early = try await agent.request("POST", "/v1/attachments/a/eth0/activate")
    #expect(try early.status == 503 && early.error.code == .hostInterfaceMissing)
    #expect(try early.error.reason.contains("eth0") && early.error.reason.contains(Self.path))
    for round in 0..<2 {
      // The second time it is another interface of the same name, of which the forwarder is told anew.
      if round > 0 { try ip("-n", Self.name, "link", "delete", "eth0") }
      try ip("-n", Self.name, "tuntap", "add", "mode", "tap", "multi_queue", "vnet_hdr", "eth0")
      #expect(try await agent.request("POST", "/v1/attachments/a/eth0/activate").attachment.state == .active)
      let port = try #require(forwarder.state.interfaces.values.first { $0.role == .virtual })
      #expect(port.port == .tap && port.device.hasPrefix("weft"))
      #expect(port.tap == TapConfiguration(queues: 3, namespace: Self.path, name: "eth0"))
    }
    try await agent.delete("a")
    #expect(!forwarder.state.interfaces.values.contains { $0.role == .virtual })
  }
}
