import Foundation
import Testing
import WeftAPI
import WeftCNI
import WeftNetlink
import WeftWire

/// Interfaces that are TAP interfaces in the container. Nobody opens them here: they have no carrier.
@Suite(.enabled(if: isRoot, needsRoot))
struct TapTests {
  func link(_ netns: String, _ name: String = "eth0") throws -> Link? {
    try Netlink(in: NetworkNamespace(path: netns)).link(named: name)
  }

  @Test(arguments: [0, 1, 4])
  func madeAndRemoved(queues: Int) throws {
    try Sandbox.run(.init(tapQueues: queues)) { node throws in
      let netns = try node.container("a")
      let answer = try node.run("ADD", netns: netns)
      #expect(answer.isSuccess, "\(answer.outcome)")
      let attachment = try #require(node.agent.attachments["c1/eth0"])
      #expect(
        answer.json["interfaces"] == [
          [
            "name": "eth0", "mac": .string(attachment.mac.description), "mtu": 1450, "sandbox": .string(netns),
          ]
        ])
      #expect(answer.json["ips"]?.elements?.map { $0["interface"] } == [0, 0])
      let container = try Netlink(in: NetworkNamespace(path: netns))
      let link = try #require(try container.link(named: "eth0"))
      #expect(link.kind == "tun" && link.alias == attachment.hostInterface && link.isUp && !link.isRunning)
      #expect(link.mac == attachment.mac && link.mtu == 1450)
      #expect(
        link.tun == TunProperties(isTAP: true, isPersistent: true, isMultiQueue: queues != 1, queues: 0))
      let addresses = try container.addresses(interface: link.index).map(\.address.description)
      #expect(Set(["10.1.0.2", "fd00:1::2"]).isSubset(of: addresses))
      let defaults = try container.routes(interface: link.index).filter { $0.destination.length == 0 }
      #expect(Set(defaults.compactMap { $0.gateway?.description }) == ["10.1.0.1", "fd00:1::1"])
      #expect(try node.links() == [])

      let checked = try node.run("CHECK", netns: netns, node.configuration("1.1.0", ["prevResult": answer.json]))
      #expect(checked.code == 105 && checked.message.contains("eth0 has no carrier"), "\(checked.outcome)")
      #expect(try node.run("ADD", netns: netns).message.contains("exists in the container already"))
      #expect(try node.run("DEL", netns: netns).isSuccess)
      #expect(try container.link(named: "eth0") == nil)
      try node.expectNothingLeft()
      #expect(try node.run("DEL", netns: netns).isSuccess)
    }
  }

  /// Without the record, without CNI_NETNS, and once the namespace has gone.
  @Test(arguments: ["no record", "no record, no agent's attachment", "unset", "gone"])
  func deletedAllTheSame(how: String) throws {
    try Sandbox.run(.init(tapQueues: 1)) { node throws in
      let netns = try node.container("a")
      #expect(try node.run("ADD", netns: netns).isSuccess)
      if how.hasPrefix("no record") {
        try FileManager.default.removeItem(atPath: "\(node.folder)/ports/vm/c1:eth0.json")
      }
      if how.hasSuffix("attachment") { node.agent.state.withLock { $0.attachments = [:] } }
      if how == "gone" { try node.remove(netns) }
      #expect(try node.run("DEL", netns: how == "unset" ? "" : netns).isSuccess)
      if how != "gone" { #expect(try link(netns) == nil) }
      try node.expectNothingLeft()
    }
  }

  @Test func aRefusedOneLeavesNothing() throws {
    try Sandbox.run(.init(tapQueues: 1)) { node throws in
      let netns = try node.container("a")
      node.agent.fail("POST /v1/attachments/c1/eth0/activate", 503, .forwarderRefused, "no")
      #expect(try node.run("ADD", netns: netns).code == 103 || node.run("ADD", netns: netns).isSuccess == false)
      #expect(try link(netns) == nil)
      try node.expectNothingLeft()
    }
  }

  /// A run that is killed between any two steps: DEL removes all that it left.
  @Test(arguments: ["POST /v1/attachments", "POST /v1/attachments/c1/eth0/activate"])
  func aKilledRunIsCleanedUpAfter(request: String) throws {
    try Sandbox.run(.init(tapQueues: 1)) { node throws in
      let netns = try node.container("a")
      // The agent's answer never comes; what the run would do after that does not happen either.
      node.agent.state.withLock { $0.silentRequests = [request] }
      #expect(try !node.run("ADD", netns: netns).isSuccess)
      node.agent.state.withLock { $0.silentRequests = [] }
      #expect(try node.run("DEL", netns: netns).isSuccess)
      #expect(try link(netns) == nil)
      try node.expectNothingLeft()
    }
  }

  @Test func othersInterfacesStay() throws {
    try Sandbox.run(.init(tapQueues: 1)) { node throws in
      let netns = try node.container("a")
      #expect(try node.run("ADD", netns: netns).isSuccess)
      try ip("-n", String(netns.dropFirst(11)), "link", "set", "eth0", "alias", "mine")
      #expect(try node.run("DEL", netns: netns).isSuccess)
      #expect(try link(netns)?.alias == "mine")
      try node.expectNothingLeft()
    }
  }

  @Test func garbageGoes() throws {
    try Sandbox.run(.init(tapQueues: 1)) { node throws in
      let paths = try ["c1", "c2"].map { id in
        let netns = try node.container(id)
        #expect(try node.run("ADD", id, netns: netns).isSuccess)
        return netns
      }
      let list: [String: JSON] = ["cni.dev/valid-attachments": [["containerID": "c1", "ifname": "eth0"]]]
      #expect(try node.run("GC", "", node.configuration("1.1.0", list)).isSuccess)
      #expect(node.agent.attachments.keys.sorted() == ["c1/eth0"] && node.files() == ["c1:eth0.json"])
      #expect(try link(paths[0]) != nil && link(paths[1]) == nil)
    }
  }
}
