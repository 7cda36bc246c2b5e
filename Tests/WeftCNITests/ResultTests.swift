import Testing
import WeftAPI
import WeftCNI
import WeftWire

struct ResultTests {
  static let attachment = Attachment(
    id: "0", containerID: "c1", interface: "eth0", netns: "/run/netns/x", network: "blue", hostInterface: "weft0123",
    mac: MACAddress("02:00:00:00:00:01")!, mtu: 1450,
    addresses: [
      AttachmentAddress(address: InterfaceAddress("10.1.1.3/16")!, gateway: IPAddress("10.1.0.1")!),
      AttachmentAddress(address: InterfaceAddress("fd00:1::3/64")!, gateway: IPAddress("fd00:1::1")!),
    ],
    routes: [
      AttachmentRoute(destination: IPPrefix("0.0.0.0/0")!, gateway: IPAddress("10.1.0.1")!),
      AttachmentRoute(destination: IPPrefix("::/0")!, gateway: IPAddress("fd00:1::1")!),
    ], dns: [IPAddress("10.96.0.10")!], state: .active)

  func json(_ version: SpecVersion, after previous: JSON? = nil) -> JSON {
    AddResult(
      version: version, attachment: Self.attachment, hostMAC: MACAddress("fe:00:00:00:00:01"), sandbox: "/run/netns/x",
      mtu: 1400, routes: Self.attachment.routes
    ).json(after: previous)
  }

  @Test(arguments: SpecVersion.allCases)
  func eachVersion(version: SpecVersion) {
    let hasMTU = version >= .v110
    var host: [String: JSON] = ["name": "weft0123", "mac": "fe:00:00:00:00:01"]
    var container: [String: JSON] = ["name": "eth0", "mac": "02:00:00:00:00:01", "sandbox": "/run/netns/x"]
    if hasMTU {
      host["mtu"] = 1400
      container["mtu"] = 1400
    }
    var four: [String: JSON] = ["interface": 1, "address": "10.1.1.3/16", "gateway": "10.1.0.1"]
    var six: [String: JSON] = ["interface": 1, "address": "fd00:1::3/64", "gateway": "fd00:1::1"]
    if version < .v100 {
      four["version"] = "4"
      six["version"] = "6"
    }
    #expect(
      json(version) == [
        "cniVersion": .string(version.rawValue), "interfaces": [.object(host), .object(container)],
        "ips": [.object(four), .object(six)],
        "routes": [["dst": "0.0.0.0/0", "gw": "10.1.0.1"], ["dst": "::/0", "gw": "fd00:1::1"]],
        "dns": ["nameservers": ["10.96.0.10"]],
      ])
  }

  @Test func chained() {
    let previous: JSON = [
      "cniVersion": "1.0.0", "interfaces": [["name": "lo0", "sandbox": "/run/netns/x"], ["name": "x"], ["name": "y"]],
      "ips": [["address": "192.0.2.1/24", "interface": 0]], "routes": [["dst": "198.51.100.0/24"]],
      "dns": ["nameservers": ["10.96.0.10", "9.9.9.9"], "domain": "d"], "foreign": [1, 2],
    ]
    let merged = json(.v100, after: previous)
    #expect(merged["interfaces"]?.elements?.count == 5)
    #expect(merged["interfaces"]?[4]?["name"] == "eth0")
    #expect(merged["ips"]?[0] == previous["ips"]?[0])
    #expect(merged["ips"]?[1]?["interface"] == 4)
    #expect(merged["routes"]?[0] == ["dst": "198.51.100.0/24"])
    #expect(merged["routes"]?.elements?.count == 3)
    #expect(merged["dns"] == previous["dns"])
    #expect(merged["foreign"] == [1, 2])
  }
}
