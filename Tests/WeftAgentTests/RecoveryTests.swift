import Foundation
import GRDB
import Testing
import WeftAPI
import WeftAgent

/// Loss of the agent's database.
struct RecoveryTests {
  private func record(_ folder: TemporaryFolder, _ name: String, _ text: String) throws {
    let path = folder.path + "/plugin"
    try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    try Data(text.utf8).write(to: URL(fileURLWithPath: "\(path)/\(name)"))
  }

  private static let whole = """
    {"configuration":"weft","container-id":"c1","interface":"eth0","netns":"/run/netns/c1",
     "host-interface":"weft0123456789a","network":"blue","mac":"02:01:23:45:67:89","mtu":1450,
     "addresses":["10.1.1.1/16","fd00:1::1:1/64"],"routes":[]}
    """

  /// The plugin's records give attachments back; what is not whole or not ours is left out.
  @Test func attachmentsComeBackFromThePluginsRecords() async throws {
    let folder = try TemporaryFolder()
    try record(folder, "c1:eth0.json", Self.whole)
    try record(folder, "c2:eth0.json", #"{"configuration":"weft","container-id":"c2","interface":"eth0","netns":"/n"}"#)
    try record(folder, "c3:eth0.json", "{")
    try record(folder, "other:eth0.json", Self.whole)
    try record(folder, "c4:eth0.deleted", Self.whole.replacing("c1", with: "c4"))
    // The same address again: one of them is left out.
    try record(
      folder, "c5:eth0.json",
      Self.whole.replacing("c1", with: "c5").replacing("weft0123456789a", with: "weft1123456789a"))
    let agent = TestAgent(folder, configurationText(folder.path))
    try await agent.start()
    let all: [WeftAPI.Attachment] = try await agent.request("GET", "/v1/attachments").decode()
    #expect(all.map(\.containerID) == ["c1"])
    let one = try #require(all.first)
    #expect(one.state == .reserved && one.hostInterface == "weft0123456789a")
    #expect(one.id.hasPrefix("01234567-89a"))
    #expect(one.addresses.map(\.address.description) == ["10.1.1.1/16", "fd00:1::1:1/64"])
    // Its addresses are not given out again.
    #expect(try await agent.add("new").addresses == ["10.1.1.2", "fd00:1::1:2"])
    await agent.stop()
    // Once only: what is deleted afterwards stays so.
    try await agent.start()
    try await agent.delete("c1")
    await agent.stop()
    try await agent.start()
    #expect(try await agent.status().attachments == 1)
    await agent.stop()
  }

  @Test(arguments: ["text", "middle", "empty-header"]) func damagedFileIsSetAside(_ damage: String) async throws {
    let folder = try TemporaryFolder()
    try record(folder, "c1:eth0.json", Self.whole)
    let agent = TestAgent(folder, configurationText(folder.path))
    try await agent.start()
    try await agent.delete("c1")
    let lost = try await agent.add("lost").attachment
    await agent.stop()
    let path = folder.path + "/agent.db"
    // Everything in one file.
    try await DatabaseQueue(path: path).writeWithoutTransaction { _ = try $0.checkpoint(.truncate) }
    var bytes = try #require(FileManager.default.contents(atPath: path))
    switch damage {
    case "text": bytes = Data("this is no database".utf8)
    case "middle": bytes.replaceSubrange(4096..<bytes.count, with: Data(repeating: 0xA5, count: bytes.count - 4096))
    default: bytes.replaceSubrange(0..<100, with: Data(repeating: 0, count: 100))
    }
    try bytes.write(to: URL(fileURLWithPath: path))
    try await agent.start()
    let all: [WeftAPI.Attachment] = try await agent.request("GET", "/v1/attachments").decode()
    #expect(all.map(\.containerID) == ["c1"])
    let aside = try FileManager.default.contentsOfDirectory(atPath: folder.path).filter { $0.contains(".damaged-") }
    #expect(aside.contains { !$0.hasSuffix("-wal") && !$0.hasSuffix("-shm") })
    #expect(!all.map(\.id).contains(lost.id))
    await agent.stop()
  }
}
