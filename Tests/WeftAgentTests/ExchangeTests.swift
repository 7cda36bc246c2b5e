import Foundation
import Testing
import WeftAPI

/// Tungsten Fabric's own clients, unchanged: Exchanges/README.md.
struct ExchangeTests {
  struct Exchange: Decodable {
    var what: String
    var request: String
    var status: Int
    var body: String?
  }

  @Test(arguments: ["cni-plugin", "port-control"]) func clientsOfTheField(_ name: String) async throws {
    let file = URL(fileURLWithPath: #filePath).deletingLastPathComponent().appendingPathComponent(
      "Exchanges/\(name).json")
    let exchanges = try JSONDecoder().decode([Exchange].self, from: Data(contentsOf: file))
    #expect(!exchanges.isEmpty)
    try await TestAgent.run(extra: "api: {idle-time: 1}") { agent in
      var first: String?
      var words: [String: String] = [:]
      for exchange in exchanges {
        var request = exchange.request
        for (key, value) in words { request = request.replacing("{\(key)}", with: value) }
        if words["id"] != nil, let end = request.range(of: "\r\n\r\n") {
          let length = request[end.upperBound...].utf8.count
          request = request.replacing(/Content-Length: \d+/, with: "Content-Length: \(length)")
        }
        // As they are, so that the connection is kept; the agent closes it when it is idle.
        let answer = try await agent.raw(request)
        #expect(answer.hasPrefix("HTTP/1.1 \(exchange.status) "), "\(name), \(exchange.what): \(answer)")
        let body = answer.range(of: "\r\n\r\n").map { String(answer[$0.upperBound...]) } ?? ""
        if exchange.body == "same" {
          #expect(body == first, "\(name), \(exchange.what)")
        } else if let expected = exchange.body {
          #expect(body == expected, "\(name), \(exchange.what)")
        }
        if first == nil {
          first = body
          guard let interface = try? JSONDecoder().decode([VMInterface].self, from: Data(body.utf8)).first else {
            continue
          }
          words = ["id": interface.id, "vm-uuid": interface.vmUUID, "vn-id": interface.vnID]
          // To the letter, with what is chosen at random put in.
          #expect(
            body == """
              [{"annotations":["{cluster:node1}","{kind:Pod}","{name:web-1}","{namespace:default}","{network:blue}",\
              "{owner:weft}","{project:default}","{index:0/1}","{interface:eth0}"],"dns-server":"10.96.0.10",\
              "gateway":"10.1.0.1","id":"\(interface.id)","ip-address":"10.1.1.1","ip6-address":"fd00:1::1:1",\
              "ip6-gateway":"fd00:1::1","ip6-plen":64,"mac-address":"\(interface.macAddress)","network-label":"blue",\
              "plen":16,"vlan-id":65535,"vm-uuid":"\(interface.vmUUID)","vn-id":"\(interface.vnID)","vn-name":"blue"}]

              """)
        }
      }
    }
  }
}
