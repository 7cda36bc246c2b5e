import Foundation
import Glibc
import Testing
import WeftAPI
import WeftAgent
import WeftRing
import WeftWire

/// What the agent does to a forwarder, over a real ring. The interfaces are dummies of this machine's own namespace that
/// carry nothing: "lo" stands in where only one is needed.
struct ForwarderTests {
  func withForwarder(
    _ tables: CheckedTables = CheckedTables(), extra: String = "",
    _ body: (TestAgent, TestForwarder) async throws -> Void
  ) async throws {
    let folder = try TemporaryFolder()
    let forwarder = try TestForwarder("\(folder.path)/forwarder.sock", tables)
    defer { forwarder.stop() }
    let agent = TestAgent(folder, configurationText(folder.path, extra: extra))
    try await agent.start()
    do {
      try await agent.synchronized()
      try await body(agent, forwarder)
    } catch {
      await agent.stop()
      throw error
    }
    await agent.stop()
  }

  /// A pod of the field's plugin whose host interface is lo, activated.
  @discardableResult
  func activate(_ agent: TestAgent, pod: String = "web", device: String = "lo") async throws -> VMInterface {
    let interfaces: [VMInterface] = try await agent.request("GET", "/vm-cfg/\(pod)").decode()
    let interface = try #require(interfaces.first)
    let report = VMReport(
      vmID: "container-\(pod)", vmUUID: interface.vmUUID, vmName: pod, hostIfname: device, vmIfname: "eth0",
      vmNamespace: "/var/run/netns/\(pod)", vmiUUID: interface.id)
    let answer = try await agent.request(
      "POST", "/vm", String(decoding: JSONEncoder().encode(report), as: UTF8.self))
    #expect(answer.status == 200, "\(answer.body)")
    return interface
  }

  func pods(_ forwarder: TestForwarder) -> [String] {
    forwarder.state.interfaces.values.filter { $0.role == .virtual }.map(\.device).sorted()
  }

  @Test func replaysUnderANewGeneration() async throws {
    try await withForwarder { agent, forwarder in
      // A new database first asks what the forwarder holds.
      let commands = forwarder.content.withLock { $0.commands }.drop { if case .dump = $0 { true } else { false } }
      guard case .begin(let generation)? = commands.first else { return #expect(Bool(false), "\(commands)") }
      #expect(commands.suffix(2) == [.sweep(generation: generation), .barrier])
      let status = try await agent.status().forwarder
      #expect(status.connected && status.synchronized)
      #expect(status.generation == generation)
      #expect(status.pid == getpid())
      #expect(forwarder.state.vrfs.values.map(\.name).sorted() == ["blue", "green"])
    }
  }

  @Test func activatesAndDeletes() async throws {
    try await withForwarder { agent, forwarder in
      let before = forwarder.state
      let interface = try await activate(agent)
      let state = forwarder.state
      #expect(pods(forwarder) == ["lo"])
      #expect(state.routes.keys.contains { $0.prefix.description == "10.1.1.1/32" })
      #expect(state.routes.keys.contains { $0.prefix.description == "fd00:1::1:1/128" })
      #expect(state.bridge.keys.contains { $0.mac.description == interface.macAddress })
      let active: [VMInterface] = try await agent.request("GET", "/vm/\(interface.vmUUID)/\(interface.id)").decode()
      #expect(active == [interface])
      #expect(try await agent.status().activeAttachments == 1)

      // A container that was replaced deletes nothing.
      _ = try await agent.request("DELETE", "/vm/\(interface.vmUUID)", #"{"vm-id":"another"}"#)
      #expect(pods(forwarder) == ["lo"])
      _ = try await agent.request("DELETE", "/vm/\(interface.vmUUID)", #"{"vm-id":"container-web"}"#)
      #expect(forwarder.state == before)
      #expect(try await agent.status().attachments == 0)
    }
  }

  @Test func hostInterfaceMustBeThere() async throws {
    try await withForwarder { agent, forwarder in
      _ = try await agent.add("a")
      let answer = try await agent.request("POST", "/v1/attachments/a/eth0/activate")
      #expect(answer.status == 503)
      #expect(try answer.error.code == .hostInterfaceMissing)
      #expect(try await agent.request("GET", "/v1/attachments/a/eth0").attachment.state == .reserved)
      #expect(pods(forwarder) == [])
    }
  }

  @Test func restartedAgentDisturbsNothing() async throws {
    try await withForwarder { agent, forwarder in
      try await activate(agent)
      let before = forwarder.state
      let generation = forwarder.generation
      await agent.stop()
      // What is there without an agent's knowing goes; what it knows is set again as it was.
      forwarder.content.withLock { content in
        #expect(content.tables.apply(.setVRF(VRFConfiguration(id: 77, name: "stray"))) == nil)
        content.commands = []
      }
      try await agent.start()
      try await agent.synchronized()
      #expect(forwarder.state == before)
      #expect(forwarder.generation > generation)
      for command in forwarder.content.withLock({ $0.commands }) {
        switch command {
        case .removeInterface, .removeNexthop, .removeRoute, .removeBridge, .removeVRF, .removeVNI, .removeLabel:
          Issue.record("a replay removed something: \(command)")
        default: break
        }
      }
    }
  }

  @Test func restartedForwarderGetsEverything() async throws {
    let folder = try TemporaryFolder()
    let first = try TestForwarder("\(folder.path)/forwarder.sock")
    let agent = TestAgent(folder, configurationText(folder.path))
    try await agent.start()
    try await agent.synchronized()
    let kept = try await activate(agent)
    let deleted = try await activate(agent, pod: "gone", device: loopbackAlias)
    let before = first.state
    first.stop()
    while try await agent.status().forwarder.connected { try await Task.sleep(for: .milliseconds(5)) }
    // Reads and deletes are served meanwhile; what waits for a forwarder is refused.
    #expect(try await agent.status().activeAttachments == 1)
    #expect(try await agent.request("DELETE", "/vm/\(deleted.vmUUID)").status == 200)
    _ = try await agent.add("a")
    #expect(try await agent.request("POST", "/v1/attachments/a/eth0/activate").status == 503)
    let second = try TestForwarder("\(folder.path)/forwarder.sock")
    try await agent.synchronized()
    #expect(pods(second) == ["lo"])
    #expect(second.state.routes.count == before.routes.count)
    #expect(try await agent.request("GET", "/vm/\(kept.vmUUID)").status == 200)
    await agent.stop()
    second.stop()
  }

  /// No such interface: what is reported with it is remembered, and fails until it is there.
  let loopbackAlias = "weft-none1"

  @Test func deletedWhileAwayIsSwept() async throws {
    let folder = try TemporaryFolder()
    let path = "\(folder.path)/forwarder.sock"
    let first = try TestForwarder(path)
    let agent = TestAgent(folder, configurationText(folder.path))
    try await agent.start()
    try await agent.synchronized()
    let before = first.state
    let interface = try await activate(agent)
    let tables = first.tables
    first.stop()
    while try await agent.status().forwarder.connected { try await Task.sleep(for: .milliseconds(5)) }
    #expect(try await agent.request("DELETE", "/vm/\(interface.vmUUID)").status == 200)
    // The forwarder went on all the time, only the channel was gone.
    let second = try TestForwarder(path, tables)
    try await agent.synchronized()
    #expect(second.state == before)
    await agent.stop()
    second.stop()
  }

  @Test func numbersAreUsedAgain() async throws {
    try await withForwarder { agent, forwarder in
      let first = try await activate(agent, pod: "a")
      let ids = forwarder.state.interfaces.values.filter { $0.role == .virtual }.map(\.id)
      _ = try await agent.request("DELETE", "/vm/\(first.vmUUID)")
      try await activate(agent, pod: "b")
      #expect(forwarder.state.interfaces.values.filter { $0.role == .virtual }.map(\.id) == ids)
    }
  }

  @Test func refusalsAreToldAndLeaveNothing() async throws {
    try await withForwarder { agent, forwarder in
      let before = forwarder.state
      forwarder.content.withLock {
        $0.refuse = { command in
          if case .setBridge = command { Refusal(.tableFull, "bridge: 0 of 0 entries are free") } else { nil }
        }
      }
      let interface = try await activate(agent)
      #expect(forwarder.state == before)
      let listed: [WeftAPI.Attachment] = try await agent.request("GET", "/v1/attachments").decode()
      #expect(listed.first?.state == .failed)
      #expect(listed.first?.reason?.contains("bridge: 0 of 0 entries are free") == true)
      let missing = try await agent.request("GET", "/vm/\(interface.vmUUID)")
      #expect(missing.status == 404)
      #expect(try missing.error.reason.contains("table_full"))
      let again = try await agent.request("POST", "/v1/attachments/container-web/eth0/activate")
      #expect(again.status == 503)
      #expect(try again.error.code == .forwarderRefused)
      forwarder.content.withLock { $0.refuse = { _ in nil } }
      let mended = try await agent.request("POST", "/v1/attachments/container-web/eth0/activate")
      #expect(try mended.attachment.state == .active)
      #expect(pods(forwarder) == ["lo"])
    }
  }

  /// What the forwarder refused is tried again by itself, and not too often.
  @Test func refusedAttachmentsAreTriedAgain() async throws {
    try await withForwarder { agent, forwarder in
      forwarder.content.withLock {
        $0.refuse = { command in
          if case .setInterface(let entry) = command, entry.role == .virtual {
            Refusal(.device, "a queue of \(entry.device) is somebody else's")
          } else {
            nil
          }
        }
      }
      let interface = try await activate(agent)
      func attachment() async throws -> WeftAPI.Attachment {
        let all: [WeftAPI.Attachment] = try await agent.request("GET", "/v1/attachments").decode()
        return try #require(all.first)
      }
      let failed = try await attachment()
      #expect(failed.state == .failed && failed.reason?.contains("somebody else's") == true)
      #expect(try await agent.request("GET", "/vm/\(interface.vmUUID)").status == 404)
      #expect(try await agent.status().activeAttachments == 0)
      // It is tried while it is refused, and stays what it is since then.
      forwarder.content.withLock { $0.commands = [] }
      func attempts() -> Int {
        forwarder.content.withLock { content in
          content.commands.count { if case .setInterface(let entry) = $0 { entry.role == .virtual } else { false } }
        }
      }
      while attempts() == 0 { try await Task.sleep(for: .milliseconds(20)) }
      #expect(attempts() == 1)
      #expect(try await attachment().since == failed.since)
      #expect(pods(forwarder) == [])
      forwarder.content.withLock { $0.refuse = { _ in nil } }
      while try await attachment().state != .active { try await Task.sleep(for: .milliseconds(20)) }
      #expect(pods(forwarder) == ["lo"])
      #expect(try await attachment().reason == nil)
      #expect(try await agent.request("GET", "/vm/\(interface.vmUUID)").status == 200)
    }
  }

  /// A report that contradicts what is there changes nothing.
  @Test func refusedReportsChangeNothing() async throws {
    try await withForwarder { agent, forwarder in
      try await activate(agent)
      let there = forwarder.state
      let before = try await agent.request("GET", "/v1/attachments").body
      let other: [VMInterface] = try await agent.request("GET", "/vm-cfg/other").decode()
      let one = try #require(other.first)
      let reserved = try await agent.request("GET", "/v1/attachments").body
      #expect(reserved != before)
      for (container, device, interface) in [("container-other", "lo", "eth0"), ("container-web", "tap-none", "eth0")] {
        let report = VMReport(
          vmID: container, vmUUID: one.vmUUID, vmName: "other", hostIfname: device, vmIfname: interface,
          vmNamespace: "/n", vmiUUID: one.id)
        let answer = try await agent.request(
          "POST", "/vm", String(decoding: JSONEncoder().encode(report), as: UTF8.self))
        #expect(answer.status == 409, "\(answer.body)")
        #expect(try answer.error.reason.contains("delete that first"))
        #expect(try await agent.request("GET", "/v1/attachments").body == reserved)
        #expect(forwarder.state == there)
      }
    }
  }

  @Test func aRefusedReplayIsTriedAgain() async throws {
    let folder = try TemporaryFolder()
    let forwarder = try TestForwarder("\(folder.path)/forwarder.sock")
    defer { forwarder.stop() }
    forwarder.content.withLock {
      $0.refuse = { command in
        if case .setVNI = command { Refusal(.tableFull, "no room for VNIs") } else { nil }
      }
    }
    let agent = TestAgent(folder, configurationText(folder.path))
    try await agent.start()
    while try await agent.status().forwarder.generation == nil { try await Task.sleep(for: .milliseconds(5)) }
    let status = try await agent.status().forwarder
    #expect(status.connected && !status.synchronized)
    #expect(status.reason?.contains("no room for VNIs") == true)
    forwarder.content.withLock { $0.refuse = { _ in nil } }
    for _ in 0..<1000 where !(try await agent.status().forwarder.synchronized) {
      try await Task.sleep(for: .milliseconds(10))
    }
    #expect(try await agent.status().forwarder.synchronized)
    #expect(forwarder.state.vnis[5001] != nil)
    await agent.stop()
  }

  @Test func portsOfMachines() async throws {
    try await withForwarder { agent, forwarder in
      let id = "753a65ef-918a-4193-9266-dc23ed8a5982"
      let body = """
        {"type":0,"id":"\(id)","instance-id":"63bd1a8a-ba6a-4547-af8d-653dd8ff397e","display-name":"vm1",
         "ip-address":"10.1.1.9","ip6-address":"None","rx-vlan-id":-1,"tx-vlan-id":-1,"vn-id":"blue",
         "vm-project-id":"","mac-address":"02:75:3a:65:ef:91","system-name":"lo"}
        """
      #expect(try await agent.request("POST", "/port", "[\(body)]").status == 200)
      #expect(try await agent.request("POST", "/port", body).status == 200)
      #expect(pods(forwarder) == ["lo"])
      #expect(forwarder.state.routes.keys.contains { $0.prefix.description == "10.1.1.9/32" })
      let port: WeftAPI.Port = try await agent.request("GET", "/port/\(id)").decode()
      #expect(port.systemName == "lo")
      #expect(port.author == "weft-agent")
      #expect(try await agent.request("PUT", "/disable-port/\(id)").status == 200)
      #expect(pods(forwarder) == [])
      #expect(try await agent.request("PUT", "/enable-port/\(id)").status == 200)
      #expect(pods(forwarder) == ["lo"])
      #expect(try await agent.request("POST", "/syncports").status == 200)
      let tagged = body.replacingOccurrences(of: "\"tx-vlan-id\":-1", with: "\"tx-vlan-id\":7")
      #expect(try await agent.request("POST", "/port", tagged).status == 400)
      // A pod in the machine: a VLAN of its port, which leaves the forwarder before it does and comes back after it.
      let inner = tagged.replacingOccurrences(of: "\"rx-vlan-id\":-1", with: "\"rx-vlan-id\":7")
        .replacingOccurrences(of: id, with: "853a65ef-918a-4193-9266-dc23ed8a5983")
        .replacingOccurrences(of: "63bd1a8a", with: "73bd1a8a").replacingOccurrences(of: "10.1.1.9", with: "10.1.1.10")
        .replacingOccurrences(of: "02:75:3a:65:ef:91", with: "02:75:3a:65:ef:93")
      #expect(try await agent.request("POST", "/port", inner).status == 200)
      #expect(pods(forwarder) == ["lo", "lo.7"])
      #expect(forwarder.state.interfaces.values.first { $0.device == "lo.7" }?.vlan?.outer == 7)
      #expect(try await agent.request("PUT", "/disable-port/\(id)").status == 200)
      #expect(pods(forwarder) == [])
      #expect(try await agent.request("PUT", "/enable-port/\(id)").status == 200)
      #expect(pods(forwarder) == ["lo", "lo.7"])
      #expect(try await agent.request("DELETE", "/port/853a65ef-918a-4193-9266-dc23ed8a5983").status == 200)
      #expect(pods(forwarder) == ["lo"])
      let moved = body.replacingOccurrences(of: "02:75:3a:65:ef:91", with: "02:75:3a:65:ef:92")
      #expect(try await agent.request("POST", "/port", moved).status == 409)
      let stranger = body.replacingOccurrences(of: "\"blue\"", with: "\"38ced7ff-fdfc-4f17-9547-17ff4fb45da9\"")
        .replacingOccurrences(of: id, with: "38ced7ff-fdfc-4f17-9547-17ff4fb45da1")
      #expect(try await agent.request("POST", "/port", stranger).status == 404)
      #expect(try await agent.request("DELETE", "/port/\(id)").status == 200)
      #expect(try await agent.request("DELETE", "/port/\(id)").status == 200)
      #expect(pods(forwarder) == [])
      #expect(try await agent.status().attachments == 0)
    }
  }
}
