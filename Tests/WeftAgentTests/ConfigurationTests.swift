import Foundation
import Testing
import WeftAgent
import WeftRing
import WeftWire

struct ConfigurationTests {
  @Test func readsEverything() throws {
    let configuration = try AgentConfiguration(yaml: configurationText("/tmp/x", extra: peerText))
    #expect(configuration.node == "node1")
    #expect(configuration.fabric.interface == "weft-none0")
    #expect(configuration.forwarderSocket == "/tmp/x/forwarder.sock")
    #expect(configuration.listen == ListenAddress(host: "127.0.0.1", port: 0))
    let blue = try #require(configuration.network("blue"))
    #expect(blue.encapsulation == .vxlan)
    #expect(blue.identifier == 5001)
    #expect(blue.subnets[0].gateway.description == "10.1.0.1")
    #expect(blue.subnets[0].range.description == "10.1.1.1-10.1.1.14")
    #expect(blue.subnets[1].gateway.description == "fd00:1::1")
    #expect(blue.subnets[1].range.description == "fd00:1::1:1-fd00:1::1:ffff")
    let green = try #require(configuration.network("green"))
    #expect(green.encapsulation == .mplsOverUDP)
    #expect(green.subnets[0].gateway.description == "10.2.0.1")
    #expect(configuration.peers[0].networks[0].routerMAC == .virtualRouter)
    #expect(configuration.peers[0].networks[0].prefixes.map(\.description) == ["10.1.2.0/24", "fd00:1::2:0/112"])
  }

  @Test func defaults() throws {
    let configuration = try AgentConfiguration(
      yaml: """
        node: n
        fabric: {interface: eth0}
        networks: [{name: only, subnets: [{prefix: 10.0.0.0/24}], vni: 1}]
        """)
    #expect(configuration.defaultNetwork == "only")
    #expect(configuration.forwarderSocket == "/run/weft/forwarder.sock")
    #expect(configuration.database == "/var/lib/weft/agent.db")
    #expect(configuration.listen == .standard)
    #expect(configuration.networks[0].subnets[0].gateway.description == "10.0.0.1")
    #expect(configuration.networks[0].subnets[0].range.description == "10.0.0.0-10.0.0.255")
  }

  @Test func ports() throws {
    let configuration = try AgentConfiguration(
      yaml: """
        node: n
        fabric: {interface: eth0, port: af_xdp, xdp: {mode: native, copy: zero-copy, busy-poll: 20, busy-poll-budget: 8}}
        pods: {port: af_xdp, xdp: {mode: skb}}
        networks: [{name: only, subnets: [{prefix: 10.0.0.0/24}], vni: 1}]
        """)
    #expect(configuration.fabric.port.kind == .xdp && configuration.pods.kind == .xdp)
    #expect(
      configuration.fabric.port.xdp
        == XDPConfiguration(mode: .native, copying: .zeroCopy, busyPoll: 20, busyPollBudget: 8))
    #expect(configuration.pods.xdp == XDPConfiguration(mode: .skb))
    #expect(configuration.summary.contains("af_xdp to the fabric, af_xdp to pods"))
  }

  @Test(arguments: [("port: tap", 1), ("port: tap, queues: 0", 0), ("port: tap, queues: 256", 256)])
  func taps(keys: String, queues: UInt16) throws {
    let configuration = try AgentConfiguration(yaml: configurationText("/x", extra: "pods: {\(keys)}"))
    #expect(configuration.pods.kind == .tap && configuration.pods.queues == queues)
    #expect(configuration.summary.contains("packet to the fabric, tap to pods"))
  }

  @Test func readsTheExample() throws {
    let file = URL(fileURLWithPath: #filePath).deletingLastPathComponent().appendingPathComponent(
      "../../docs/agent.example.yaml")
    let configuration = try AgentConfiguration.read(file: file.standardizedFileURL.path)
    #expect(configuration.networks.count == 2)
    #expect(configuration.networks[0].routes?.count == 2)
    #expect(configuration.summary.contains("network blue: vxlan, VNI 5001"))
    #expect(configuration.api.socket?.mode == 0o660 && configuration.api.socket?.group == "root")
    #expect(configuration.api.requestsPerSecond == 500 && configuration.api.burst == 1000)
    #expect(configuration.summary.contains("socket      /run/weft/agent.sock (mode 660, group root)"))
  }

  /// What is changed in a good file, where the fault is said to be, and a part of what is said.
  static let faults: [(from: String, to: String, path: String, text: String)] = [
    ("node: node1", "nodes: node1", "nodes", "is \"node\" meant?"),
    ("node: node1", "", "node", "is missing"),
    ("node: node1", "node: [a]", "node", "must be the node's name"),
    ("node: node1", "node: ../x", "node", "is not the node's name"),
    ("node: node1", "node: ~", "node", "must be"),
    ("node: node1", "node: node1\nnode: node2", "", "twice"),
    ("{interface: weft-none0}", "{interface: a/b}", "fabric.interface", "no interface's name"),
    ("{interface: weft-none0}", "{interface: a, mtu: big}", "fabric.mtu", "no number"),
    ("{interface: weft-none0}", "{interface: a, mtu: 100}", "fabric.mtu", "576 to 65535"),
    ("{interface: weft-none0}", "{interface: a, addresses: [10.0.0.1, 10.0.0.1]}", "fabric.addresses[1]", "twice"),
    ("{interface: weft-none0}", "{interface: a, addresses: [10.0.0.1.1]}", "fabric.addresses[0]", "is not an IPv4"),
    ("{interface: weft-none0}", "{interface: a, port: dpdk}", "fabric.port", "packet or af_xdp"),
    ("{interface: weft-none0}", "{interface: a, xdp: {mode: skb}}", "fabric.xdp", "set port to af_xdp"),
    ("{interface: weft-none0}", "{interface: a, port: af_xdp, xdp: {mode: x}}", "fabric.xdp.mode", "auto or native"),
    (
      "{interface: weft-none0}", "{interface: a, port: af_xdp, xdp: {mode: skb, copy: zero-copy}}", "fabric.xdp",
      "program in the driver"
    ),
    (
      "{interface: weft-none0}", "{interface: a, port: af_xdp, xdp: {busy-poll: 1001}}", "fabric.xdp.busy-poll",
      "0 to 1000"
    ),
    (
      "{interface: weft-none0}", "{interface: a, port: af_xdp, xdp: {busy-poll-budget: 0}}",
      "fabric.xdp.busy-poll-budget", "1 to 1024"
    ),
    ("{interface: weft-none0}", "{interface: a, port: tap}", "fabric.port", "packet or af_xdp"),
    ("{interface: weft-none0}", "{interface: a, queues: 2}", "fabric.queues", "no key that is known"),
    ("node: node1", "node: node1\npods: {port: dpdk}", "pods.port", "packet or af_xdp or tap"),
    ("node: node1", "node: node1\nstale-port-time: soon", "stale-port-time", "is no number"),
    ("node: node1", "node: node1\nstale-port-time: -1", "stale-port-time", "0 to 86400"),
    ("recovery: {plugin: /", "recovery: {plugin: here/", "recovery.plugin", "absolute"),
    ("recovery: {", "recovery: {folder: /x, ", "recovery.folder", "plugin"),
    ("node: node1", "node: node1\npods: {queues: 2}", "pods.queues", "set port to tap"),
    ("node: node1", "node: node1\npods: {port: tap, queues: 257}", "pods.queues", "0 to 256"),
    ("node: node1", "node: node1\npods: {port: tap, xdp: {mode: skb}}", "pods.xdp", "set port to af_xdp"),
    ("listen: 127.0.0.1:0", "listen: 127.0.0.1", "listen", "HOST:PORT"),
    ("database: /x/agent.db", "database: agent.db", "database", "absolute"),
    ("default-network: blue", "default-network: red", "default-network", "there are blue, green"),
    ("default-network: blue", "", "default-network", "is missing: one of blue, green"),
    ("name: green", "name: blue", "networks[1].name", "earlier network"),
    ("name: green", "name: 'a b'", "networks[1].name", "is not a network's name"),
    ("vni: 5001", "vni: 16777216", "networks[0].vni", "1 to 16777215"),
    ("vni: 5001", "vni: 0", "networks[0].vni", "1 to 16777215"),
    ("vni: 5001", "label: 77", "networks[0].label", "goes with encapsulation mpls-over-udp"),
    ("label: 1002", "label: 15", "networks[1].label", "16 to 1048575"),
    ("label: 1002", "label: 1048576", "networks[1].label", "16 to 1048575"),
    ("label: 1002", "vni: 5001", "networks[1].vni", "is blue's already"),
    ("label: 1002", "dns: []", "networks[1].vni", "is missing"),
    (
      "encapsulation: vxlan", "encapsulation: geneve", "networks[0].encapsulation",
      "vxlan, mpls-over-udp or mpls-over-gre"
    ),
    ("range: 10.1.1.0/28", "range: 10.2.1.0/28", "networks[0].subnets[0].range", "is not in 10.1.0.0/16"),
    ("range: 10.1.1.0/28", "range: 10.1.1.9-10.1.1.2", "networks[0].subnets[0].range", "the lower one first"),
    ("range: 10.1.1.0/28", "range: 10.1.1.5/28", "networks[0].subnets[0].range", "10.1.1.0/28 is meant?"),
    (
      "range: 10.1.1.0/28", "range: 10.1.0.1-10.1.0.1", "networks[0].subnets[0].range", "no address that could be given"
    ),
    ("gateway: 10.1.0.1", "gateway: 10.2.0.1", "networks[0].subnets[0].gateway", "is not in 10.1.0.0/16"),
    ("gateway: 10.1.0.1", "gateway: 10.1.0.0", "networks[0].subnets[0].gateway", "network address"),
    ("gateway: 10.1.0.1", "gateway: 10.1.255.255", "networks[0].subnets[0].gateway", "broadcast address"),
    ("prefix: 10.1.0.0/16", "prefix: 10.1.0.0/33", "networks[0].subnets[0].prefix", "is not a prefix"),
    ("prefix: 10.1.0.0/16", "prefix: 10.1.0.9/16", "networks[0].subnets[0].prefix", "bits beyond its length"),
    ("prefix: \"fd00:1::/64\"", "prefix: 10.1.0.0/17", "networks[0].subnets[1].range", "is not in"),
    (
      "{prefix: \"fd00:1::/64\", range: \"fd00:1::1:0/112\"}", "{prefix: 10.1.128.0/17}",
      "networks[0].subnets[1].prefix", "overlaps 10.1.0.0/16"
    ),
    ("dns: [10.96.0.10]", "dns: [x]", "networks[0].dns[0]", "is not an IPv4"),
    ("dns: [10.96.0.10]", "mtu: 1000", "networks[0].mtu", "IPv6 can do with"),
    (
      "dns: [10.96.0.10]", "routes: [{destination: 0.0.0.0/0, gateway: 10.9.0.1}]", "networks[0].routes[0].gateway",
      "in no subnet"
    ),
    ("name: node2", "name: node1", "peers[0].name", "this node's own name"),
    ("address: 192.0.2.2", "address: 192.0.2", "peers[0].address", "is not an IPv4"),
    ("{name: green, subnets", "{name: grey, subnets", "peers[0].networks[1].name", "there are blue, green"),
    ("{name: green, subnets", "{name: blue, subnets", "peers[0].networks[1].name", "twice"),
    ("[10.2.2.0/24]", "[10.2.2.0/24, 10.2.2.0/24]", "peers[0].networks[1].subnets[1]", "twice"),
    ("[10.2.2.0/24]", "[10.2.1.0/24]", "peers[0].networks[1].subnets[0]", "overlaps the range"),
    (
      "[10.2.2.0/24]", "[10.2.2.0/24], macs: [\"02:00:00:00:00:09\"]", "peers[0].networks[1].macs",
      "goes with encapsulation vxlan"
    ),
    ("[10.2.2.0/24]", "[10.2.2.0/24], router-mac: zz", "peers[0].networks[1].router-mac", "is not a MAC address"),
  ]

  @Test(arguments: faults.indices)
  func refuses(_ index: Int) throws {
    let fault = Self.faults[index]
    let good = configurationText("/x", extra: peerText)
    try #require(good.contains(fault.from))
    let error = try #require(throws: ConfigurationError.self) {
      try AgentConfiguration(yaml: good.replacingOccurrences(of: fault.from, with: fault.to))
    }
    #expect(error.path == fault.path, "\(error)")
    #expect(error.reason.contains(fault.text), "\(error)")
  }

  @Test func refusesWhatIsNoConfiguration() throws {
    for (text, said) in [
      ("", "is empty"), ("a: [", "is no YAML"), ("- a", "must be a mapping"), ("\u{7}", "is no YAML"),
    ] {
      let error = try #require(throws: ConfigurationError.self) { try AgentConfiguration(yaml: text) }
      #expect(error.reason.contains(said), "\(text): \(error)")
    }
    let error = try #require(throws: ConfigurationError.self) { try AgentConfiguration.read(file: "/nonexistent.yaml") }
    #expect(error.description == "/nonexistent.yaml: there is no such file")
  }

  @Test func mtuLeavesRoomForTheTunnel() throws {
    let text = configurationText("/x", extra: peerText)
    let configuration = try AgentConfiguration(yaml: text)
    #expect(configuration.mtu(of: configuration.networks[0], fabricMTU: 1550) == 1500)
    #expect(configuration.mtu(of: configuration.networks[1], fabricMTU: 1550) == 1518)
    let v6 = try AgentConfiguration(yaml: text.replacingOccurrences(of: "192.0.2.2", with: "\"2001:db8::2\""))
    #expect(v6.mtu(of: v6.networks[0], fabricMTU: 1550) == 1480)
    #expect(v6.mtu(of: v6.networks[1], fabricMTU: 1550) == 1498)
    let bounded = try AgentConfiguration(yaml: text.replacingOccurrences(of: "dns:", with: "mtu: 1400\n    dns:"))
    #expect(bounded.mtu(of: bounded.networks[0], fabricMTU: 1550) == 1400)
    #expect(bounded.mtu(of: bounded.networks[0], fabricMTU: 1400) == 1350)
  }
}
