import Foundation
import Testing
import WeftCNI
import WeftNetlink
import WeftWire

@Suite(.enabled(if: isRoot, needsRoot))
struct DeleteTests {
  @Test func threeTimes() throws {
    try Sandbox.run { node throws in
      let netns = try node.container("a")
      let added = try node.run("ADD", netns: netns)
      let withResult = node.configuration("1.1.0", ["prevResult": added.json])
      // As containerd's CRI does: stop, stop again, remove.
      for (path, configuration) in [(netns, withResult), (netns, withResult), ("", node.configuration())] {
        let answer = try node.run("DEL", netns: path, configuration)
        #expect(answer.isSuccess)
        #expect(answer.outcome.stdout.isEmpty)
        try node.expectNothingLeft()
      }
    }
  }

  @Test func neverAdded() throws {
    try Sandbox.run { node throws in
      #expect(try node.run("DEL", netns: "/run/netns/nowhere").isSuccess)
      #expect(try node.run("DEL", netns: "/etc/passwd").isSuccess)
      #expect(try node.run("DEL", netns: node.container("a")).isSuccess)
      try node.expectNothingLeft()
    }
  }

  @Test(arguments: ["unset", "gone", "a file", "the node's own"])
  func withoutNamespace(how: String) throws {
    try Sandbox.run { node throws in
      var netns = try node.container("a")
      #expect(try node.run("ADD", netns: netns).isSuccess)
      switch how {
      case "unset": netns = ""
      case "gone": try node.remove(netns)
      case "a file": netns = "/etc/passwd"
      default: netns = "/run/netns/\(node.name)"
      }
      #expect(try node.run("DEL", netns: netns).isSuccess)
      try node.expectNothingLeft()
    }
  }

  @Test func theAddressIsFreeAfterwards() throws {
    try Sandbox.run(.init(capacity: 1)) { node throws in
      for number in 0..<3 {
        let netns = try node.container("\(number)")
        #expect(try node.run("ADD", "c\(number)", netns: netns).isSuccess)
        let other = try node.run("ADD", "other", netns: node.container("x\(number)"))
        #expect(other.code == 102)
        #expect(try node.run("STATUS").code == 50)
        #expect(try node.run("DEL", "c\(number)", netns: netns).isSuccess)
        #expect(try node.run("STATUS").isSuccess)
      }
      try node.expectNothingLeft()
    }
  }

  @Test func agentDownIsMadeGoodLater() throws {
    try Sandbox.run { node throws in
      let netns = try node.container("a")
      #expect(try node.run("ADD", netns: netns).isSuccess)
      node.agent.fail("DELETE", 503, .unavailable, "stops")
      for _ in 0..<2 {
        #expect(try node.run("DEL", netns: netns).isSuccess)
        #expect(try node.links() == [])
        #expect(node.files() == ["c1:eth0.deleted"])
        #expect(node.agent.attachments.count == 1)
      }
      // The old attachment must not be taken for a new one. Other containers are not held up.
      #expect(try node.run("ADD", netns: netns).code == 11)
      #expect(try node.run("ADD", "c2", netns: netns).isSuccess)
      #expect(node.files() == ["c1:eth0.deleted", "c2:eth0.json"])
      node.agent.state.withLock { $0.failures = [] }
      #expect(try node.run("STATUS").isSuccess)
      #expect(node.agent.attachments.keys.sorted() == ["c2/eth0"])
      #expect(node.files() == ["c2:eth0.json"])
      #expect(try node.run("DEL", "c2", netns: netns).isSuccess)
      try node.expectNothingLeft()
    }
  }

  @Test(arguments: ["STATUS", "GC", "DEL", "the same ADD"])
  func whoMakesItGood(verb: String) throws {
    try Sandbox.run { node throws in
      let netns = try node.container("a")
      #expect(try node.run("ADD", netns: netns).isSuccess)
      node.agent.fail("DELETE", 503, .unavailable, "stops", count: 1)
      #expect(try node.run("DEL", netns: netns).isSuccess)
      #expect(node.agent.attachments.count == 1)
      switch verb {
      case "DEL": #expect(try node.run("DEL", "c9").isSuccess)
      case "the same ADD":
        let again = try node.run("ADD", netns: netns)
        #expect(again.isSuccess)
        // Not the old attachment.
        #expect(again.json["ips"]?[0]?["address"] == "10.1.0.3/16")
        #expect(try node.run("DEL", netns: netns).isSuccess)
      default:
        #expect(try node.run(verb, "", node.configuration("1.1.0", ["cni.dev/valid-attachments": []])).isSuccess)
      }
      try node.expectNothingLeft()
    }
  }

  @Test func agentGone() throws {
    try Sandbox.run { node throws in
      let netns = try node.container("a")
      #expect(try node.run("ADD", netns: netns).isSuccess)
      node.agent.stop()
      let (answer, time) = try timed { try node.run("DEL", netns: netns) }
      #expect(answer.isSuccess)
      #expect(time < .seconds(1))
      #expect(try node.links() == [])
      #expect(node.files() == ["c1:eth0.deleted"])
      #expect(node.log.contains("WARNING"))
      // What was never added leaves no trace either.
      #expect(try node.run("DEL", "c2", netns: netns).isSuccess)
      #expect(node.files() == ["c1:eth0.deleted"])
    }
  }

  @Test func agentHangs() throws {
    try Sandbox.run { node throws in
      let netns = try node.container("a")
      #expect(try node.run("ADD", netns: netns).isSuccess)
      node.agent.state.withLock { $0.silentRequests = ["DELETE", "GET"] }
      for id in ["c1", "c2"] {
        let (answer, time) = try timed { try node.run("DEL", id, netns: netns) }
        #expect(answer.isSuccess)
        #expect(time > .milliseconds(1900) && time < .seconds(4))
      }
      #expect(try node.links() == [])
      #expect(node.files() == ["c1:eth0.deleted"])
    }
  }

  @Test(arguments: ["", "{", "null", #"{"configuration":"weft-net"}"#])
  func illegibleRecord(text: String) throws {
    try Sandbox.run { node throws in
      let netns = try node.container("a")
      #expect(try node.run("ADD", netns: netns).isSuccess)
      try Data(text.utf8).write(to: URL(fileURLWithPath: "\(node.folder)/ports/vm/c1:eth0.json"))
      #expect(try node.run("DEL", netns: netns).isSuccess)
      try node.expectNothingLeft()
    }
  }

  @Test func lostRecords() throws {
    try Sandbox.run { node throws in
      let netns = try node.container("a")
      #expect(try node.run("ADD", netns: netns).isSuccess)
      try FileManager.default.removeItem(atPath: "\(node.folder)/ports")
      #expect(try node.run("DEL").isSuccess)
      try node.expectNothingLeft()
    }
  }

  @Test func foreignInterfacesStay() throws {
    try Sandbox.run { node throws in
      let netns = try node.container("a")
      let name = String(netns.dropFirst(11))
      try ip("-n", node.name, "link", "add", "other0", "type", "veth", "peer", "name", "eth0", "netns", name)
      try ip("-n", node.name, "link", "add", "weft-dummy", "type", "vxlan", "id", "1", "dstport", "4789")
      let record =
        #"{"configuration":"n","container-id":"c1","interface":"eth0","netns":"","host-interface":"weft-dummy"}"#
      try FileManager.default.createDirectory(atPath: "\(node.folder)/ports/vm", withIntermediateDirectories: true)
      try Data(record.utf8).write(to: URL(fileURLWithPath: "\(node.folder)/ports/vm/c1:eth0.json"))
      #expect(try node.run("DEL", netns: netns).isSuccess)
      #expect(try node.run("DEL", "c2", netns: netns).isSuccess)
      #expect(try node.links().sorted() == ["other0", "weft-dummy"])
    }
  }
}
