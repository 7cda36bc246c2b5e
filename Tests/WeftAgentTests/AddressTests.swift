import Foundation
import Testing
import WeftAPI
import WeftAgent

/// Addresses are given out, remembered and given back, seen from outside.
struct AddressTests {
  @Test func givesOneOfEachSubnet() async throws {
    try await TestAgent.run { agent in
      let first = try await agent.add("c1")
      #expect(first.status == 201)
      let attachment = try first.attachment
      #expect(attachment.addresses.map(\.address.description) == ["10.1.1.1/16", "fd00:1::1:1/64"])
      #expect(attachment.addresses.map(\.gateway.description) == ["10.1.0.1", "fd00:1::1"])
      #expect(attachment.routes.map(\.destination.description) == ["0.0.0.0/0", "::/0"])
      #expect(attachment.dns.map(\.description) == ["10.96.0.10"])
      #expect(attachment.hostInterface == "weft" + attachment.id.filter { $0 != "-" }.prefix(11))
      #expect(attachment.state == .reserved)
      #expect(attachment.mtu == 1450)

      let again = try await agent.add("c1")
      #expect(again.status == 200)
      #expect(try again.attachment == attachment)
      #expect(try await agent.request("GET", "/v1/attachments/c1/eth0").attachment == attachment)
      let second = try await agent.add("c1", interface: "eth1")
      #expect(second.status == 201)
      #expect(try second.addresses == ["10.1.1.2", "fd00:1::1:2"])
      let all: [WeftAPI.Attachment] = try await agent.request("GET", "/v1/attachments?container-id=c1").decode()
      #expect(all.count == 2)
    }
  }

  /// Somebody else gives them out: no other subnet's address comes along, nor a route without an address of its family.
  @Test func onlyThoseAskedFor() async throws {
    let red = """
        - name: red
          subnets: [{prefix: 10.3.0.0/16, range: 10.3.1.0/28}, {prefix: "fd00:3::/64"}]
          vni: 9
          routes: [192.0.2.0/24, "2001:db8::/32"]
      """
    try await TestAgent.run(extra: red) { agent in
      func add(_ container: String, _ more: String) async throws -> Answer {
        try await agent.request(
          "POST", "/v1/attachments",
          #"{"container-id":"\#(container)","interface":"eth0","netns":"/n","addresses-only":true\#(more)}"#)
      }
      for more in ["", #","addresses":[]"#, #","addresses":null"#] {
        let refused = try await add("c0", more)
        #expect(refused.status == 400)
        #expect(try refused.error.reason.contains("addresses-only"))
      }
      let asked = #","network":"red","addresses":["10.3.9.9"]"#
      let attachment = try await add("c1", asked).attachment
      #expect(attachment.addresses.map(\.address.description) == ["10.3.9.9/16"])
      #expect(attachment.routes.map(\.destination.description) == ["192.0.2.0/24"])
      #expect(try await add("c1", asked).status == 200)
      // The same container with both is not the same.
      #expect(try await agent.add("c2", network: "red").addresses.count == 2)
      let other = try await agent.add("c2", network: "red").addresses[0]
      #expect(try await add("c2", #","network":"red","addresses":["\#(other)"]"#).status == 409)
      try await agent.delete("c1")
      #expect(try await agent.status().pools.filter { $0.network == "red" }.map(\.used) == [1, 1])
    }
  }

  @Test func networksDoNotShareAddresses() async throws {
    let red = """
        - name: red
          subnets: [{prefix: 10.1.0.0/16, range: 10.1.1.0/28}]
          vni: 9
      """
    try await TestAgent.run(extra: red) { agent in
      let blue = try await agent.add("a")
      let other = try await agent.add("b", network: "red")
      #expect(try blue.addresses[0] == "10.1.1.1")
      #expect(try other.addresses == ["10.1.1.1"])
    }
  }

  /// 14 addresses; what was given back comes again only after all others.
  @Test func goesRound() async throws {
    try await TestAgent.run { agent in
      for index in 1...3 { #expect(try await agent.add("c\(index)").addresses[0] == "10.1.1.\(index)") }
      try await agent.delete("c1")
      for index in 4...14 { #expect(try await agent.add("c\(index)").addresses[0] == "10.1.1.\(index)") }
      #expect(try await agent.add("c15").addresses[0] == "10.1.1.1")
      let full = try await agent.add("c16")
      #expect(full.status == 507)
      #expect(try full.error.code == .poolExhausted)
      #expect(try full.error.reason.contains("all 14 are in use"))
      // The IPv6 address of the failed request is free again.
      let pools = try await agent.status().pools.filter { $0.network == "blue" }
      #expect(pools.map(\.used) == [14, 14])
      #expect(pools.map(\.capacity) == [14, 65535])
      try await agent.delete("c7")
      #expect(try await agent.add("c17").addresses[0] == "10.1.1.7")
    }
  }

  @Test func takesWhatIsAskedFor() async throws {
    try await TestAgent.run(extra: peerText) { agent in
      #expect(try await agent.add("a", addresses: ["10.1.1.5"]).addresses == ["10.1.1.5", "fd00:1::1:1"])
      // Not in the range, but nobody else's.
      let asked = ["10.1.77.7", "fd00:1::77"]
      #expect(try await agent.add("b", addresses: asked).addresses == asked)
      let refused: [([String], Int, APIError.Code)] = [
        (["10.1.1.5"], 409, .addressInUse), (["10.3.0.1"], 400, .addressNotInNetwork),
        (["10.1.0.1"], 400, .addressNotInNetwork), (["10.1.0.0"], 400, .addressNotInNetwork),
        (["10.1.255.255"], 400, .addressNotInNetwork), (["fd00:1::"], 400, .addressNotInNetwork),
        (["10.1.2.9"], 400, .addressNotInNetwork), (["fd00:1::2:9"], 400, .addressNotInNetwork),
        (["10.1.1.6", "10.1.1.7"], 400, .badRequest),
      ]
      for (addresses, status, code) in refused {
        let answer = try await agent.add("c", addresses: addresses)
        #expect(answer.status == status, "\(addresses)")
        #expect(try answer.error.code == code, "\(addresses)")
      }
      #expect(try await agent.status().pools[0].used == 1)
      let other = try await agent.add("a", addresses: ["10.1.1.6"])
      #expect(other.status == 409)
      #expect(try other.error.code == .conflict)
      try await agent.delete("a")
      #expect(try await agent.add("c", addresses: ["10.1.1.5"]).status == 201)
    }
  }

  @Test func remembersOverARestart() async throws {
    let folder = try TemporaryFolder()
    let agent = TestAgent(folder, configurationText(folder.path))
    try await agent.start()
    let before = try await agent.add("a").attachment
    _ = try await agent.add("b")
    try await agent.delete("b")
    await agent.stop()
    try await agent.start()
    #expect(try await agent.request("GET", "/v1/attachments/a/eth0").attachment == before)
    #expect(try await agent.status().pools[0].used == 1)
    // It goes on where it was, and gives nobody a's.
    #expect(try await agent.add("c").addresses[0] == "10.1.1.3")
    await agent.stop()
  }

  @Test func whatLeftTheConfigurationCanBeDeleted() async throws {
    let folder = try TemporaryFolder()
    let agent = TestAgent(folder, configurationText(folder.path))
    try await agent.start()
    _ = try await agent.add("a", network: "green")
    await agent.stop()
    let text = configurationText(folder.path).replacingOccurrences(of: "name: green", with: "name: grey")
    let changed = TestAgent(folder, text)
    try await changed.start()
    #expect(try await changed.request("GET", "/v1/attachments/a/eth0").attachment.network == "green")
    try await changed.delete("a")
    #expect(try await changed.status().attachments == 0)
    await changed.stop()
  }

  @Test func parallelRequestsGetDistinctAddresses() async throws {
    try await TestAgent.run(range: "10.1.1.0/24") { agent in
      let answers = try await withThrowingTaskGroup(of: Answer.self) { group in
        // Each twice: the second is the same request again.
        for index in 0..<200 { group.addTask { try await agent.add("c\(index / 2)") } }
        return try await group.reduce(into: []) { $0.append($1) }
      }
      #expect(answers.count { $0.status == 201 } == 100)
      #expect(answers.count { $0.status == 200 } == 100)
      #expect(Set(try answers.map { try $0.addresses[0] }).count == 100)
      #expect(Set(try answers.map { try $0.addresses[1] }).count == 100)
      #expect(Set(try answers.map { try $0.attachment.mac }).count == 100)
      #expect(try await agent.status().pools[0].used == 100)
      try await withThrowingTaskGroup(of: Void.self) { group in
        for index in 0..<100 { group.addTask { try await agent.delete("c\(index)") } }
        try await group.waitForAll()
      }
      #expect(try await agent.status().pools.map(\.used) == [0, 0, 0])
    }
  }
}
