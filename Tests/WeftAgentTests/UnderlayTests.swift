import Foundation
import Glibc
import Testing
import WeftAPI
import WeftAgent
import WeftNetlink
import WeftRing
import WeftWire

/// Underlay and interfaces in namespaces of their own: n1, where the agent looks, and n2, a peer.
@Suite(.enabled(if: isRoot, needsRoot))
struct UnderlayTests {
  struct Nodes {
    let n1: String
    let n2: String
  }

  struct Failed: Error, CustomStringConvertible { let description: String }

  func ip(_ arguments: String) throws {
    let process = Process()
    process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
    process.arguments = ["ip"] + arguments.split(separator: " ").map(String.init)
    process.environment = ["PATH": "/usr/sbin:/sbin:/usr/bin:/bin"]
    try process.run()
    process.waitUntilExit()
    guard process.terminationStatus == 0 else { throw Failed(description: "ip \(arguments)") }
  }

  func withNodes(_ body: (Nodes) async throws -> Void) async throws {
    let name = "weft-test-a\(getpid())-\(UInt16.random(in: 0...UInt16.max))"
    let nodes = Nodes(n1: "\(name)-1", n2: "\(name)-2")
    defer {
      try? ip("netns delete \(nodes.n1)")
      try? ip("netns delete \(nodes.n2)")
    }
    try ip("netns add \(nodes.n1)")
    try ip("netns add \(nodes.n2)")
    try ip("link add fab0 netns \(nodes.n1) mtu 1550 type veth peer name fab0 netns \(nodes.n2) mtu 1550")
    for (index, node) in [nodes.n1, nodes.n2].enumerated() {
      try ip("-n \(node) address add 192.0.2.\(index + 1)/24 dev fab0")
      try ip("-n \(node) link set fab0 up")
    }
    try await body(nodes)
  }

  func withAgent(
    _ nodes: Nodes, fabric: String = "fab0", _ body: (TestAgent, TestForwarder) async throws -> Void
  ) async throws {
    let folder = try TemporaryFolder()
    let forwarder = try TestForwarder("\(folder.path)/forwarder.sock")
    defer { forwarder.stop() }
    let agent = TestAgent(folder, configurationText(folder.path, fabric: fabric, extra: peerText))
    try await agent.start { configuration, logger, listening in
      // Its netlink sockets are in n1, its HTTP where the test is.
      try NetworkNamespace(path: "/run/netns/\(nodes.n1)").run {
        try AgentProgram(configuration, logger: logger, onListening: listening)
      }
    }
    do {
      try await agent.synchronized()
      try await body(agent, forwarder)
    } catch {
      await agent.stop()
      throw error
    }
    await agent.stop()
  }

  func tunnels(_ forwarder: TestForwarder) -> [TunnelConfiguration] {
    forwarder.state.nexthops.values.compactMap { if case .tunnel(let tunnel) = $0.action { tunnel } else { nil } }
  }

  func mac(_ node: String) throws -> MACAddress {
    try #require(try Netlink(in: NetworkNamespace(path: "/run/netns/\(node)")).link(named: "fab0")?.mac)
  }

  func eventually(_ what: Comment, seconds: Int = 5, _ body: () async throws -> Bool) async throws {
    for _ in 0..<seconds * 100 {
      if try await body() { return }
      try await Task.sleep(for: .milliseconds(10))
    }
    Issue.record(what)
  }

  @Test func resolvesAndFollowsThePeer() async throws {
    try await withNodes { nodes in
      let old = try mac(nodes.n2)
      try await withAgent(nodes) { agent, forwarder in
        // Resolved before the first replay: a restart shall not interrupt anybody.
        let first = forwarder.content.withLock { $0.commands }.compactMap { command -> MACAddress? in
          guard case .setNexthop(let entry) = command, case .tunnel(let tunnel) = entry.action else { return nil }
          return tunnel.destinationMAC
        }
        #expect(Set(first) == [old])
        #expect(tunnels(forwarder).count == 2)
        #expect(tunnels(forwarder).allSatisfy { $0.source.description == "192.0.2.1" })
        let fabric = try #require(forwarder.state.interfaces.values.first { $0.role == .fabric })
        #expect(fabric.device == "fab0")
        #expect(fabric.mtu == 1550)
        #expect(fabric.mac == (try mac(nodes.n1)))
        #expect(try await agent.status().peers.first?.nextHopMAC == old.description)

        // Another MAC, announced by ARP as its owner comes up.
        try ip("-n \(nodes.n2) link set fab0 address 02:00:00:00:77:77")
        try ip("-n \(nodes.n1) neighbour flush dev fab0")
        try await eventually("the new MAC") {
          tunnels(forwarder).allSatisfy { $0.destinationMAC.bits == 0x0200_0000_7777 }
        }

        // A smaller fabric makes smaller pods.
        try ip("-n \(nodes.n1) link set fab0 mtu 1450")
        try await eventually("the new MTU") {
          try await agent.add("m").attachment.mtu == 1400
            && forwarder.state.interfaces.values.contains { $0.role == .fabric && $0.mtu == 1450 }
        }
      }
    }
  }

  @Test func silentPeerIsUnresolvedUntilItAnswers() async throws {
    try await withNodes { nodes in
      try ip("-n \(nodes.n2) address del 192.0.2.2/24 dev fab0")
      try await withAgent(nodes) { agent, forwarder in
        #expect(tunnels(forwarder).allSatisfy { $0.destinationMAC.isZero })
        #expect(try await agent.status().peers.first?.nextHopMAC == nil)
        try ip("-n \(nodes.n2) address add 192.0.2.2/24 dev fab0")
        let there = try mac(nodes.n2)
        try await eventually("an answer", seconds: 12) {
          tunnels(forwarder).map(\.destinationMAC) == [there, there]
        }
      }
    }
  }

  @Test func peerBehindARouter() async throws {
    try await withNodes { nodes in
      try ip("-n \(nodes.n1) address flush dev fab0")
      try ip("-n \(nodes.n1) address add 198.51.100.1/24 dev fab0")
      try ip("-n \(nodes.n2) address add 198.51.100.254/24 dev fab0")
      try await withAgent(nodes) { agent, forwarder in
        // No route yet.
        #expect(tunnels(forwarder).isEmpty)
        try ip("-n \(nodes.n1) route add 192.0.2.0/24 via 198.51.100.254")
        let router = try mac(nodes.n2)
        try await eventually("the router's MAC") {
          let list = tunnels(forwarder)
          return list.count == 2
            && list.allSatisfy { $0.destinationMAC == router && $0.source.description == "198.51.100.1" }
        }
        #expect(forwarder.state.routes.keys.contains { $0.prefix.description == "10.1.2.0/24" })
        try ip("-n \(nodes.n1) route del 192.0.2.0/24")
        try await eventually("no way to the peer") { tunnels(forwarder).isEmpty }
        #expect(!forwarder.state.routes.keys.contains { $0.prefix.description == "10.1.2.0/24" })
      }
    }
  }

  @Test func fabricThatComesLater() async throws {
    try await withNodes { nodes in
      try ip("-n \(nodes.n1) link set fab0 down")
      try ip("-n \(nodes.n1) link set fab0 name later0")
      try await withAgent(nodes) { agent, forwarder in
        #expect(!forwarder.state.interfaces.values.contains { $0.role == .fabric })
        try ip("-n \(nodes.n1) link set later0 name fab0")
        try ip("-n \(nodes.n1) link set fab0 up")
        let there = try mac(nodes.n2)
        try await eventually("the fabric") {
          let list = tunnels(forwarder)
          return list.count == 2 && list.allSatisfy { $0.destinationMAC == there }
        }
      }
    }
  }

  @Test func interfacesAreTakenWhenTheyComeUp() async throws {
    try await withNodes { nodes in
      try await withAgent(nodes) { agent, forwarder in
        let attachment = try await agent.add("a").attachment
        #expect(try await agent.request("POST", "/v1/attachments/a/eth0/activate").status == 503)
        try ip("-n \(nodes.n1) link add \(attachment.hostInterface) type veth peer name inside0")
        try ip("-n \(nodes.n1) link set \(attachment.hostInterface) up")
        let active = try await agent.request("POST", "/v1/attachments/a/eth0/activate").attachment
        #expect(active.state == .active)
        #expect(active.mtu == 1500)
        let interface = try #require(forwarder.state.interfaces.values.first { $0.role == .virtual })
        #expect(interface.device == attachment.hostInterface)
        #expect(interface.mtu == 1500)

        // A port whose TAP comes later.
        let port = """
          {"id":"753a65ef-918a-4193-9266-dc23ed8a5982","instance-id":"63bd1a8a-ba6a-4547-af8d-653dd8ff397e",
           "mac-address":"02:75:3a:65:ef:91","system-name":"tap-later"}
          """
        #expect(try await agent.request("POST", "/port", port).status == 200)
        let failed: [WeftAPI.Attachment] = try await agent.request("GET", "/v1/attachments?state=waiting").decode()
        #expect(failed.first?.reason?.contains("tap-later") == true)
        try ip("-n \(nodes.n1) link add tap-later type veth peer name inside1")
        try ip("-n \(nodes.n1) link set tap-later up")
        try await eventually("the port") { forwarder.state.interfaces.values.contains { $0.device == "tap-later" } }
        try await eventually("no failure") { try await agent.status().activeAttachments == 2 }

        // The same name on another interface: what was made anew is taken anew.
        try ip("-n \(nodes.n1) link del \(attachment.hostInterface)")
        try ip("-n \(nodes.n1) link add \(attachment.hostInterface) type veth peer name inside0")
        forwarder.content.withLock { $0.commands = [] }
        #expect(try await agent.request("POST", "/v1/attachments/a/eth0/activate").status == 200)
        let commands = forwarder.content.withLock { $0.commands }
        #expect(commands.contains(.removeInterface(id: interface.id)))
        #expect(commands.contains(.setInterface(interface)))
      }
    }
  }
}
