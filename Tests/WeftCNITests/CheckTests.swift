import Foundation
import Testing
import WeftAPI
import WeftCNI
import WeftNetlink
import WeftWire

@Suite(.enabled(if: isRoot, needsRoot))
struct CheckTests {
  @Test(arguments: [SpecVersion.v040, .v100, .v110])
  func passesAfterAdd(version: SpecVersion) throws {
    try Sandbox.run { node throws in
      let netns = try node.container("a")
      let added = try node.run("ADD", netns: netns, node.configuration(version.rawValue))
      // Other plugins' doings are tolerated.
      try ip("-n", String(netns.dropFirst(11)), "route", "add", "198.51.100.0/24", "via", "10.1.0.1")
      try ip("-n", String(netns.dropFirst(11)), "address", "add", "192.0.2.9/32", "dev", "eth0")
      var result = added.json.members ?? [:]
      result["routes"] = .array((result["routes"]?.elements ?? []) + [["dst": "203.0.113.0/24"]])
      result["interfaces"] = .array((result["interfaces"]?.elements ?? []) + [["name": "ifb0"]])
      let answer = try node.run(
        "CHECK", netns: netns, node.configuration(version.rawValue, ["prevResult": .object(result)]))
      #expect(answer.isSuccess, "\(answer.message)")
      #expect(answer.outcome.stdout.isEmpty)
    }
  }

  /// What is broken by `ip -n CONTAINER …` or `ip -n NODE …`, and what CHECK must name.
  @Test(arguments: [
    ("container", "address delete 10.1.0.2/16 dev eth0", "10.1.0.2/16"),
    ("container", "address delete fd00:1::2/64 dev eth0", "fd00:1::2/64"),
    ("container", "route delete default", "0.0.0.0/0"), ("container", "-6 route delete default", "::/0"),
    ("container", "link set eth0 down", "eth0 is down"), ("container", "link set eth0 mtu 1600", "MTU 1600"),
    ("container", "link set eth0 address 02:00:00:00:99:99", "02:00:00:00:99:99"),
    ("container", "link set eth0 name eth9", "eth0 is not in"),
    ("node", "link delete weft00000000002", "eth0 is not in"),
    ("node", "link set weft00000000002 down", "weft00000000002"),
    ("node", "link set weft00000000002 name other0", "weft00000000002"),
  ])
  func names(place: String, command: String, named: String) throws {
    try Sandbox.run { node throws in
      let netns = try node.container("a")
      let added = try node.run("ADD", netns: netns)
      let namespace = place == "node" ? node.name : String(netns.dropFirst(11))
      try ip(["-n", namespace] + command.split(separator: " ").map(String.init))
      let answer = try node.run("CHECK", netns: netns, node.configuration("1.1.0", ["prevResult": added.json]))
      #expect(answer.code == 105)
      #expect(answer.message.contains(named), "\(answer.message)")
      #expect(try node.run("DEL", netns: netns).isSuccess)
    }
  }

  @Test func agentAndForwarder() throws {
    try Sandbox.run { node throws in
      let netns = try node.container("a")
      let added = try node.run("ADD", netns: netns)
      let check = node.configuration("1.1.0", ["prevResult": added.json])
      node.agent.state.withLock { $0.isForwarderConnected = false }
      let down = try node.run("CHECK", netns: netns, check)
      #expect(down.code == 11)
      #expect(down.message.contains("nobody listens"))
      node.agent.state.withLock {
        $0.isForwarderConnected = true
        $0.attachments["c1/eth0"]?.state = .failed
        $0.attachments["c1/eth0"]?.reason = "the table is full"
      }
      #expect(try node.run("CHECK", netns: netns, check).message.contains("the table is full"))
      node.agent.state.withLock { $0.attachments = [:] }
      #expect(try node.run("CHECK", netns: netns, check).code == 105)
      node.agent.stop()
      #expect(try node.run("CHECK", netns: netns, check).code == 11)
    }
  }

  @Test func previousResult() throws {
    try Sandbox.run { node throws in
      let netns = try node.container("a")
      let added = try node.run("ADD", netns: netns)
      #expect(try node.run("CHECK", netns: netns).code == 7)
      #expect(try node.run("CHECK", netns: netns, node.configuration("1.1.0", ["prevResult": [:]])).code == 7)
      #expect(try node.run("CHECK", netns: netns, node.configuration("0.3.1", ["prevResult": added.json])).code == 1)
      // A result that lacks an address.
      var result = added.json.members ?? [:]
      result["ips"] = []
      let answer = try node.run("CHECK", netns: netns, node.configuration("1.1.0", ["prevResult": .object(result)]))
      #expect(answer.code == 105)
      #expect(
        try node.run("CHECK", netns: "/run/netns/none", node.configuration("1.1.0", ["prevResult": added.json])).code
          == 8)
    }
  }

  // MARK: STATUS and GC

  @Test func status() throws {
    try Sandbox.run { node throws in
      #expect(try node.run("STATUS", "").isSuccess)
      #expect(try node.run("STATUS", "", node.configuration(settings: ["network": "none"])).code == 50)
      node.agent.state.withLock { $0.isForwarderConnected = false }
      #expect(try node.run("STATUS").code == 51)
      node.agent.stop()
      #expect(try node.run("STATUS").code == 50)
    }
  }

  func list(_ ids: String...) -> [String: JSON] {
    ["cni.dev/valid-attachments": .array(ids.map { ["containerID": .string($0), "ifname": "eth0"] })]
  }

  @Test func garbageGoes() throws {
    try Sandbox.run { node throws in
      for id in ["c1", "c2", "c3"] { #expect(try node.run("ADD", id, netns: node.container(id)).isSuccess) }
      // Made under another configuration, and by nobody that is known, with and without a namespace that lives.
      let other = node.configuration("1.1.0", ["name": "other"])
      let path = try node.container("c4")
      #expect(try node.run("ADD", "c4", netns: path, other).isSuccess)
      node.agent.state.withLock { state in
        for (id, netns) in [("gone", "/run/netns/none"), ("alive", path)] {
          var attachment = state.attachments["c1/eth0"]
          attachment?.containerID = id
          attachment?.netns = netns
          attachment?.hostInterface = "weft-\(id)"
          state.attachments["\(id)/eth0"] = attachment
        }
      }
      #expect(try node.run("GC", "", node.configuration("1.1.0")).code == 7)
      #expect(node.agent.attachments.count == 6)
      let answer = try node.run("GC", "", node.configuration("1.1.0", list("c1", "c9")))
      #expect(answer.isSuccess, "\(answer.message)")
      #expect(node.agent.attachments.keys.sorted() == ["alive/eth0", "c1/eth0", "c4/eth0"])
      #expect(node.files() == ["c1:eth0.json", "c4:eth0.json"])
      #expect(try node.links().count == 2)
      #expect(try node.run("GC", "", node.configuration("1.1.0", list())).isSuccess)
      #expect(node.agent.attachments.keys.sorted() == ["alive/eth0", "c4/eth0"])
    }
  }

  @Test func garbageRemainsWhileTheAgentRefuses() throws {
    try Sandbox.run { node throws in
      #expect(try node.run("ADD", netns: node.container("a")).isSuccess)
      node.agent.fail("DELETE", 500, .database, "the disk is full")
      let answer = try node.run("GC", "", node.configuration("1.1.0", list()))
      #expect(answer.code == 999)
      #expect(node.files() == ["c1:eth0.json"])
      node.agent.stop()
      #expect(try node.run("GC", "", node.configuration("1.1.0", list())).code == 11)
      #expect(try node.links().count == 1)
    }
  }
}
