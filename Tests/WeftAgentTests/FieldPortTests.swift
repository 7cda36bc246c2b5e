import Foundation
import Testing
import WeftAPI
import WeftAgent

/// What the field's clients count on beside single exchanges.
struct FieldPortTests {
  /// Ports that are not posted again after `POST /syncports` go, those that are stay, and pods are no ports.
  @Test func portsThatAreNotPostedAgainGo() async throws {
    try await ForwarderTests().withForwarder(extra: "stale-port-time: 1") { agent, _ in
      let ids = (1...3).map { "753a65ef-918a-4193-9266-dc23ed8a598\($0)" }
      func post(_ index: Int) async throws {
        let body = """
          {"id":"\(ids[index])","instance-id":"63bd1a8a-ba6a-4547-af8d-653dd8ff397\(index)",
           "mac-address":"02:75:3a:65:ef:9\(index)","system-name":"tap-none-\(index)"}
          """
        #expect(try await agent.request("POST", "/port", body).status == 200)
      }
      for index in 0...2 { try await post(index) }
      #expect(try await agent.add("pod").status == 201)
      #expect(try await agent.request("POST", "/syncports").status == 200)
      try await post(1)
      for _ in 0..<1000 {
        if try await agent.status().attachments == 2 { break }
        try await Task.sleep(for: .milliseconds(10))
      }
      #expect(try await agent.request("GET", "/port/\(ids[0])").status == 404)
      #expect(try await agent.request("GET", "/port/\(ids[1])").status == 200)
      #expect(try await agent.request("GET", "/port/\(ids[2])").status == 404)
      #expect(try await agent.status().attachments == 2)
      // Without another one nothing more goes.
      try await post(0)
      try await Task.sleep(for: .milliseconds(1500))
      #expect(try await agent.status().attachments == 3)
    }
  }

  @Test func ofAListWithAFaultNothingNewStays() async throws {
    try await TestAgent.run { agent in
      func port(_ index: Int, _ mac: String) -> String {
        """
        {"id":"753a65ef-918a-4193-9266-dc23ed8a598\(index)","instance-id":"63bd1a8a-ba6a-4547-af8d-653dd8ff397\(index)",
         "mac-address":"\(mac)","system-name":"tap-none-\(index)"}
        """
      }
      #expect(try await agent.request("POST", "/port", port(1, "02:00:00:00:00:01")).status == 200)
      let list = [port(1, "02:00:00:00:00:01"), port(2, "02:00:00:00:00:02"), port(3, "02:00:00:00:00:01")]
      let answer = try await agent.request("POST", "/port", "[\(list.joined(separator: ","))]")
      #expect(answer.status == 409)
      #expect(try answer.error.reason.hasPrefix("[2]: "))
      #expect(try await agent.status().attachments == 1)
    }
  }

  @Test func podsAreFoundByTheirUUID() async throws {
    try await TestAgent.run { agent in
      let id = "6f9619ff-8b86-d011-b42d-00c04fc964ff"
      #expect(try await agent.request("GET", "/vm-cfg-by-uuid/\(id)").status == 404)
      #expect(try await agent.request("GET", "/vm-cfg-by-uuid/web").status == 400)
      #expect(try await agent.status().attachments == 0)
      let named: [VMInterface] = try await agent.request("GET", "/vm-cfg/web").decode()
      let vm = try #require(named.first?.vmUUID)
      let found: [VMInterface] = try await agent.request("GET", "/vm-cfg-by-uuid/\(vm)").decode()
      #expect(found == named)
    }
  }
}
