import Foundation
import Glibc
import Synchronization
import Testing
import WeftAPI
import WeftCNI
import WeftNetlink
import WeftWire

@Suite(.enabled(if: isRoot, needsRoot))
struct AddTests {
  @Test(arguments: SpecVersion.allCases)
  func makesTheInterface(version: SpecVersion) throws {
    try Sandbox.run { node throws in
      let netns = try node.container("a")
      let answer = try node.run(
        "ADD", netns: netns, arguments: "IgnoreUnknown=1;K8S_POD_NAME=p;K8S_POD_NAMESPACE=n;K8S_POD_UID=u",
        node.configuration(version.rawValue))
      #expect(answer.isSuccess, "\(answer.outcome)")
      #expect(answer.json["cniVersion"] == .string(version.rawValue))
      #expect(answer.json["interfaces"]?[1]?["sandbox"] == .string(netns))
      #expect(answer.json["ips"]?[0]?["address"] == "10.1.0.2/16")
      #expect((answer.json["ips"]?[1]?["version"] == "6") == (version < .v100))
      let attachment = try #require(node.agent.attachments["c1/eth0"])
      #expect(attachment.state == .active)
      #expect([attachment.podName, attachment.podNamespace, attachment.podUID] == ["p", "n", "u"])
      #expect(node.agent.requests == ["POST /v1/attachments", "POST /v1/attachments/c1/eth0/activate"])

      let container = try Netlink(in: NetworkNamespace(path: netns))
      let link = try #require(try container.link(named: "eth0"))
      #expect(link.isUp && link.isRunning)
      #expect(link.mac == attachment.mac)
      #expect(link.mtu == 1450)
      let addresses = try container.addresses(interface: link.index)
      for text in ["10.1.0.2", "fd00:1::2"] {
        let address = try #require(addresses.first { $0.address.description == text })
        #expect(!address.isTentative)
        #expect(address.prefixLength == (address.address.isV4 ? 16 : 64))
      }
      // The link-local address does not wait for duplicate address detection either, which takes a second.
      #expect(addresses.count == 3)
      usleep(200_000)
      #expect(try container.addresses(interface: link.index).allSatisfy { !$0.isTentative })
      let defaults = try container.routes(interface: link.index).filter { $0.destination.length == 0 }
      #expect(Set(defaults.compactMap { $0.gateway?.description }) == ["10.1.0.1", "fd00:1::1"])

      #expect(node.files() == ["c1:eth0.json"])
      let name = attachment.hostInterface
      let (outer, hostAddresses, settings) = try node.inHost {
        let host = try Netlink()
        let outer = try host.link(named: name)
        return (
          outer, try host.addresses(interface: outer?.index),
          try [
            "ipv6/conf/\(name)/disable_ipv6", "ipv4/conf/\(name)/rp_filter", "ipv4/conf/\(name)/forwarding",
            "ipv4/conf/\(name)/arp_ignore",
          ].map { try Sysctl.read("net/\($0)") }
        )
      }
      #expect(outer?.isRunning == true)
      #expect(outer?.mtu == 1450)
      #expect(outer?.mac?.description == answer.json["interfaces"]?[0]?["mac"]?.text)
      #expect(hostAddresses.isEmpty)
      #expect(settings == ["1", "0", "0", "8"])

      #expect(try node.run("DEL", netns: netns).isSuccess)
      #expect(try container.link(named: "eth0") == nil)
      try node.expectNothingLeft()
    }
  }

  @Test func theHostStaysQuiet() throws {
    try Sandbox.run { node throws in
      let netns = try node.container("a")
      #expect(try node.run("ADD", netns: netns).isSuccess)
      // The host's own address, asked for by ARP from the container: the kernel does not answer.
      try ip("-n", node.name, "address", "add", "10.1.0.77/32", "dev", "lo")
      let answer = try NetworkNamespace(path: netns).run {
        let container = try Netlink()
        let index = try container.link(named: "eth0")?.index ?? 0
        return try container.resolve(neighbor: IPAddress("10.1.0.77")!, interface: index, timeoutMilliseconds: 300)
      }
      #expect(answer == nil)
    }
  }

  @Test func onlyIPv4() throws {
    try Sandbox.run(.init(mtu: 1000, hasIPv6: false)) { node throws in
      let netns = try node.container("a")
      let answer = try node.run("ADD", netns: netns)
      #expect(answer.isSuccess, "\(answer.outcome)")
      #expect(answer.json["ips"]?.elements?.count == 1)
      #expect(answer.json["interfaces"]?[1]?["mtu"] == 1000)
    }
  }

  @Test(arguments: [(1400, 1400), (9000, 1450), (0, 1450)])
  func configuredMTU(asked: Int64, set: Int64) throws {
    try Sandbox.run { node throws in
      let answer = try node.run(
        "ADD", netns: node.container("a"), node.configuration(settings: ["mtu": .integer(asked)]))
      #expect(answer.json["interfaces"]?[1]?["mtu"] == .integer(set))
      #expect(node.log.contains("WARNING") == (asked == 9000))
    }
  }

  @Test func mtuTooSmallForIPv6() throws {
    try Sandbox.run { node throws in
      let answer = try node.run("ADD", netns: node.container("a"), node.configuration(settings: ["mtu": 1279]))
      #expect(answer.code == 7)
      try node.expectNothingLeft()
    }
  }

  @Test func askedForAddressesAndMAC() throws {
    try Sandbox.run { node throws in
      let configuration = node.configuration(
        "1.0.0", settings: ["network": "red"],
        ["runtimeConfig": ["IPs": ["10.1.7.7", "fd00:1::7"], "mac": "02:00:00:00:77:77", "portMappings": .null]])
      let netns = try node.container("a")
      let answer = try node.run("ADD", netns: netns, arguments: "IP=10.1.9.9", configuration)
      #expect(answer.json["ips"]?[0]?["address"] == "10.1.7.7/16")
      #expect(answer.json["ips"]?[1]?["address"] == "fd00:1::7/64")
      #expect(answer.json["interfaces"]?[1]?["mac"] == "02:00:00:00:77:77")
      #expect(node.agent.attachments["c1/eth0"]?.network == "red")
      let again = try node.run("ADD", "c2", netns: node.container("b"), configuration)
      #expect(again.code == 100)
      #expect(again.details.contains("address_in_use"))
      #expect(node.files() == ["c1:eth0.json"])
    }
  }

  @Test func existingInterface() throws {
    try Sandbox.run { node throws in
      let netns = try node.container("a")
      try ip("-n", String(netns.dropFirst(11)), "link", "add", "eth0", "type", "veth", "peer", "name", "x")
      let answer = try node.run("ADD", netns: netns)
      #expect(answer.code == 4)
      #expect(answer.message.contains("CNI_IFNAME"))
      #expect(node.agent.requests == [])
      try node.expectNothingLeft()
    }
  }

  @Test func theSameAgain() throws {
    try Sandbox.run { node throws in
      let netns = try node.container("a")
      let first = try node.run("ADD", netns: netns)
      #expect(try node.run("ADD", netns: netns).code == 4)
      // The first one lives on.
      let check = node.configuration("1.1.0", ["prevResult": first.json])
      let answer = try node.run("CHECK", netns: netns, check)
      #expect(answer.isSuccess, "\(answer.message)")
    }
  }

  @Test func theNodesOwnNamespace() throws {
    try Sandbox.run { node throws in
      let answer = try node.run("ADD", netns: "/run/netns/\(node.name)")
      #expect(answer.code == 8)
      try node.expectNothingLeft()
    }
  }

  @Test func twoInterfacesOfOneContainer() throws {
    try Sandbox.run { node throws in
      let netns = try node.container("a")
      #expect(try node.run("ADD", netns: netns).isSuccess)
      let second = try node.run("ADD", netns: netns, interface: "net1")
      #expect(second.isSuccess, "\(second.outcome)")
      // The default routes are the first one's, and the second does not claim them.
      #expect(second.json["routes"] == [])
      let check = node.configuration("1.1.0", ["prevResult": second.json])
      #expect(try node.run("CHECK", netns: netns, interface: "net1", check).isSuccess)
      #expect(try node.run("DEL", netns: netns).isSuccess)
      #expect(node.agent.attachments.keys.sorted() == ["c1/net1"])
      #expect(try node.run("DEL", netns: netns, interface: "net1").isSuccess)
      try node.expectNothingLeft()
    }
  }

  @Test func gatewayOutsideTheSubnet() throws {
    let route = AttachmentRoute(destination: IPPrefix("10.9.0.0/16")!, gateway: IPAddress("10.200.0.1")!)
    let six = AttachmentRoute(destination: IPPrefix("fd09::/64")!, gateway: IPAddress("fe80::1")!)
    try Sandbox.run(.init(routes: [route, six])) { node throws in
      let answer = try node.run("ADD", netns: node.container("a"))
      #expect(answer.isSuccess, "\(answer.outcome)")
      #expect(answer.json["routes"]?.elements?.count == 2)
    }
  }

  @Test func interfaceNamesAreEscapedInPaths() throws {
    try Sandbox.run { node throws in
      let netns = try node.container("a")
      #expect(try node.run("ADD", netns: netns, interface: "a?#ü").isSuccess)
      #expect(node.agent.requests.last == "POST /v1/attachments/c1/a%3F%23%C3%BC/activate")
      #expect(try node.run("DEL", netns: netns, interface: "a?#ü").isSuccess)
      try node.expectNothingLeft()
    }
  }

  @Test func chunkedAnswers() throws {
    try Sandbox.run(.init(isChunked: true)) { node throws in
      #expect(try node.run("ADD", netns: node.container("a")).isSuccess)
    }
  }

  @Test func chained() throws {
    try Sandbox.run { node throws in
      let previous: JSON = ["cniVersion": "0.4.0", "interfaces": [["name": "x"]], "dns": ["domain": "d"]]
      let answer = try node.run(
        "ADD", netns: node.container("a"), node.configuration("0.4.0", ["prevResult": previous]))
      #expect(answer.json["interfaces"]?[0]?["name"] == "x")
      #expect(answer.json["ips"]?[0]?["interface"] == 2)
      #expect(answer.json["dns"] == ["domain": "d", "nameservers": ["10.96.0.10"]])
    }
  }

  // MARK: failures leave nothing

  @Test func agentDown() throws {
    try Sandbox.run { node throws in
      node.agent.stop()
      let netns = try node.container("a")
      let (answer, time) = try timed { try node.run("ADD", netns: netns) }
      #expect(answer.code == 11)
      #expect(answer.details.contains("weft-agent"))
      #expect(time < .seconds(1))
      try node.expectNothingLeft()
    }
  }

  @Test func agentHangs() throws {
    try Sandbox.run { node throws in
      let netns = try node.container("a")
      for request in ["POST /v1/attachments", "POST /v1/attachments/c1/eth0/activate"] {
        node.agent.state.withLock { $0.silentRequests = [request] }
        let (answer, time) = try timed { try node.run("ADD", netns: netns) }
        #expect(answer.code == 11)
        #expect(time > .milliseconds(1900) && time < .seconds(5), "\(request)")
        #expect(try node.links() == [])
        // What the agent holds is released by the runtime's DEL, or by the next run.
        #expect(node.files() == ["c1:eth0.deleted"])
        node.agent.state.withLock { $0.silentRequests = [] }
        #expect(try node.run("DEL", netns: netns).isSuccess)
        try node.expectNothingLeft()
      }
    }
  }

  @Test(
    arguments: [
      (400, .badRequest, 7), (404, .unknownNetwork, 7), (400, .addressNotInNetwork, 101), (409, .conflict, 103),
      (507, .poolExhausted, 102), (503, .forwarderUnavailable, 11), (503, .unavailable, 11), (500, .database, 999),
      (500, .internalError, 999), (418, APIError.Code(rawValue: "new_in_a_later_version"), 999),
    ] as [(Int, APIError.Code, Int)])
  func agentRefuses(status: Int, agentCode: APIError.Code, code: Int) throws {
    try Sandbox.run { node throws in
      node.agent.fail("POST /v1/attachments", status, agentCode, "because of the test")
      let answer = try node.run("ADD", netns: node.container("a"))
      #expect(answer.code == code)
      #expect(answer.message.contains("because of the test"))
      #expect(answer.details.contains(agentCode.rawValue))
      #expect(node.log.contains("ERROR"))
      try node.expectNothingLeft()
    }
  }

  @Test(arguments: ["{ Not Found }", "", "<html>"])
  func notOurAgent(body: String) throws {
    try Sandbox.run { node throws in
      node.agent.state.withLock {
        $0.failures = [.init(request: "", status: 404, error: APIError(.notFound, ""), text: body)]
      }
      let answer = try node.run("ADD", netns: node.container("a"))
      #expect(answer.code == 5)
      #expect(answer.details.contains("weft-agent"))
      #expect(try node.links() == [])
    }
  }

  @Test func activationIsRefused() throws {
    try Sandbox.run { node throws in
      node.agent.fail("POST /v1/attachments/c1/eth0/activate", 503, .forwarderRefused, "the table is full")
      let netns = try node.container("a")
      let answer = try node.run("ADD", netns: netns)
      #expect(answer.code == 104)
      #expect(try Netlink(in: NetworkNamespace(path: netns)).link(named: "eth0") == nil)
      try node.expectNothingLeft()
    }
  }

  @Test func activationIsRetriedWhileNotReady() throws {
    try Sandbox.run { node throws in
      node.agent.fail("POST /v1/attachments/c1/eth0/activate", 503, .forwarderUnavailable, "starts", count: 3)
      #expect(try node.run("ADD", netns: node.container("a")).isSuccess)
      #expect(node.agent.requests.filter { $0.hasSuffix("activate") }.count == 4)
      // Not more often than poll-retries, nor longer than poll-timeout.
      node.agent.fail("POST /v1/attachments/c2/eth0/activate", 503, .hostInterfaceMissing, "not there")
      let retries = node.configuration(settings: ["poll-retries": 2])
      #expect(try node.run("ADD", "c2", netns: node.container("b"), retries).code == 11)
      #expect(node.agent.requests.filter { $0.hasSuffix("c2/eth0/activate") }.count == 3)
      let (answer, time) = try timed { try node.run("ADD", "c2", netns: node.container("c")) }
      #expect(answer.code == 11)
      #expect(time < .seconds(4))
      #expect(node.files() == ["c1:eth0.json"])
    }
  }

  @Test func unusableAnswer() throws {
    try Sandbox.run(.init(mtu: 99_999)) { node throws in
      #expect(try node.run("ADD", netns: node.container("a")).code == 999)
      try node.expectNothingLeft()
    }
  }

  @Test func stateDirectoryThatCannotBe() throws {
    try Sandbox.run { node throws in
      let configuration = node.configuration(settings: ["config-dir": "/dev/null/x"])
      let answer = try node.run("ADD", netns: node.container("a"), configuration)
      #expect(answer.code == 5)
      #expect(answer.message.contains("/dev/null/x"))
      #expect(node.agent.requests == [])
    }
  }

  @Test func logFileThatCannotBe() throws {
    try Sandbox.run { node throws in
      let configuration = node.configuration(settings: ["log-file": "/dev/null/x.log"])
      let answer = try node.run("ADD", netns: node.container("a"), configuration)
      #expect(answer.isSuccess)
      #expect(answer.outcome.stderr.contains("/dev/null/x.log"))
    }
  }

  @Test func staleHostEndIsReplaced() throws {
    try Sandbox.run { node throws in
      try ip("-n", node.name, "link", "add", "weft00000000002", "type", "veth", "peer", "name", "stale")
      #expect(try node.run("ADD", netns: node.container("a")).isSuccess)
      #expect(try node.links() == ["weft00000000002"])
    }
  }

  // MARK: many, and killed

  @Test func manyAtOnce() async throws {
    try await withCheckedThrowingContinuation { (done: CheckedContinuation<Void, any Error>) in
      Thread.detachNewThread {
        done.resume(
          with: Result {
            try Sandbox.run { node throws in
              let paths = try (0..<100).map { try node.container("\($0)") }
              let answers = Mutex<[Int: JSON]>([:])
              DispatchQueue.concurrentPerform(iterations: 100) { number in
                let answer = try? node.run("ADD", "c\(number)", netns: paths[number], node.configuration("1.0.0"))
                answers.withLock { $0[number] = answer?.isSuccess == true ? answer?.json : nil }
              }
              let addresses = answers.withLock { $0.values.compactMap { $0["ips"]?[0]?["address"]?.text } }
              #expect(Set(addresses).count == 100)
              #expect(node.files().count == 100)
              DispatchQueue.concurrentPerform(iterations: 100) { number in
                _ = try? node.run("DEL", "c\(number)", netns: paths[number])
              }
              try node.expectNothingLeft()
            }
          })
      }
    }
  }

  static let program = URL(fileURLWithPath: CommandLine.arguments[0]).deletingLastPathComponent().path + "/weft-cni"

  /// Killed at a request, before or after the agent carried it out, and at arbitrary moments.
  @Test(.enabled(if: access(program, X_OK) == 0, "needs weft-cni beside the tests"))
  func killed() throws {
    try Sandbox.run { node throws in
      var moments: [Moment] = []
      for request in ["POST /v1/attachments", "POST /v1/attachments/c1/eth0/activate"] {
        moments += [.request(request, isDone: false), .request(request, isDone: true)]
      }
      moments += (0..<40).map { .microseconds(UInt32($0) * 150) }
      for moment in moments {
        let netns = try node.container("k")
        try kill(node, netns, moment)
        #expect(try node.run("DEL", netns: netns).isSuccess)
        #expect(try Netlink(in: NetworkNamespace(path: netns)).link(named: "eth0") == nil, "\(moment)")
        try node.expectNothingLeft()
        try node.remove(netns)
      }
      // Without the container's end to be found by.
      for moment in moments.prefix(4) {
        let netns = try node.container("k")
        try kill(node, netns, moment)
        try node.remove(netns)
        #expect(try node.run("DEL").isSuccess)
        try node.expectNothingLeft()
      }
    }
  }

  enum Moment: Sendable {
    case request(String, isDone: Bool)
    case microseconds(UInt32)
  }

  func kill(_ node: Sandbox, _ netns: String, _ moment: Moment) throws {
    let input = "\(node.folder)/stdin"
    try JSONEncoder().encode(node.configuration()).write(to: URL(fileURLWithPath: input))
    let child = Mutex<pid_t>(0)
    if case .request(let name, let isDone) = moment {
      node.agent.state.withLock {
        $0.hook = { request, done in
          guard request == name, done == isDone else { return }
          let pid = child.withLock { $0 }
          if pid > 0 { Glibc.kill(pid, SIGKILL) }
        }
      }
    }
    let path = Self.program
    let folder = node.folder
    let process = try child.withLock { pid in
      let process = try node.inHost {
        try Child(
          path, [],
          environment: ["CNI_COMMAND=ADD", "CNI_CONTAINERID=c1", "CNI_NETNS=\(netns)", "CNI_IFNAME=eth0"], stdin: input,
          stdout: "\(folder)/stdout")
      }
      pid = process.pid
      return process
    }
    if case .microseconds(let time) = moment {
      usleep(time)
      Glibc.kill(process.pid, SIGKILL)
    }
    let status = process.wait()
    if case .request = moment { #expect(status == -SIGKILL) } else { #expect(status == -SIGKILL || status == 0) }
    node.agent.state.withLock { $0.hook = nil }
    // A request that was under way when it was killed is carried out all the same.
    usleep(20_000)
  }
}
