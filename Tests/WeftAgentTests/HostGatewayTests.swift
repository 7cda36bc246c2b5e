import Foundation
import Testing
import WeftAgent
import WeftRing
import WeftWire

struct HostGatewayTests {
  /// The networks of the fixture, with one more key of blue's.
  private func text(_ key: String, extra: String = "") -> String {
    configurationText("/x", extra: extra).replacingOccurrences(of: "dns: [10.96.0.10]", with: key)
  }

  @Test func defaults() throws {
    let configuration = try AgentConfiguration(yaml: text("host: {}"))
    let blue = configuration.networks[0]
    let host = try #require(blue.host)
    #expect(host.interface == "weft-blue" && host.masquerade)
    #expect(host.addresses(in: blue).map(\.description) == ["10.1.0.1", "fd00:1::1"])
    #expect(host.routes(of: blue).map(\.description) == ["0.0.0.0/0", "::/0"])
    #expect(
      configuration.summary.contains("host weft-blue, 10.1.0.1, fd00:1::1; out by it: 0.0.0.0/0, ::/0, masqueraded"))
    let services = try AgentConfiguration(yaml: text("services: {dns: {}, metadata: {}}"))
    #expect(services.networks[0].dns.map(\.description) == ["169.254.169.253", "fd00:ec2::253"])
    #expect(services.networks[0].services?.addresses.count == 4)
  }

  /// The key, where the fault is said to be, and a part of what is said.
  static let faults: [(key: String, path: String, text: String)] = [
    ("host: []", "networks[0].host", "must be a mapping"),
    ("host: {device: a}", "networks[0].host.device", "no key that is known"),
    ("host: {interface: a/b}", "networks[0].host.interface", "no interface's name"),
    ("host: {interface: weft-none0}", "networks[0].host.interface", "fabric's interface"),
    ("host: {addresses: [10.1.1.5, \"fd00:1::1\"]}", "networks[0].host.addresses[0]", "that pods get addresses of"),
    ("host: {addresses: [10.1.0.0, \"fd00:1::1\"]}", "networks[0].host.addresses[0]", "network or broadcast"),
    ("host: {addresses: [10.1.0.1]}", "networks[0].host.addresses", "IPv6 address"),
    ("host: {addresses: [10.1.0.1, 10.1.0.1]}", "networks[0].host.addresses[1]", "twice"),
    ("host: {addresses: [224.0.0.1]}", "networks[0].host.addresses[0]", "no address that a host"),
    ("host: {routes: [10.1.4.0/24]}", "networks[0].host.routes[0]", "lies in the network"),
    ("host: {routes: [0.0.0.0/0, 0.0.0.0/0]}", "networks[0].host.routes[1]", "twice"),
    ("host: {masquerade: perhaps}", "networks[0].host.masquerade", "true or false"),
    ("services: {dns: {servers: []}}", "networks[0].services.dns.servers", "1 to 3"),
    ("services: {dns: {servers: [224.0.0.1]}}", "networks[0].services.dns.servers[0]", "no server's address"),
    ("services: {dns: {addresses: [10.1.0.1]}}", "networks[0].services.dns.addresses[0]", "gateway of"),
    ("services: {dns: {addresses: []}}", "networks[0].services.dns.addresses", "1 to 4"),
    ("services: {dns: {addresses: [169.254.169.254]}, metadata: {}}", "networks[0].services", "each has its own"),
    ("services: {metadata: {url: ftp://x}}", "networks[0].services.metadata.url", "is no URL"),
    ("services: {metadata: {secret-file: /x}}", "networks[0].services.metadata.secret-file", "goes with url"),
    ("services: {ntp: {}}", "networks[0].services.ntp", "no key that is known"),
  ]

  @Test(arguments: faults.indices)
  func refuses(_ index: Int) throws {
    let fault = Self.faults[index]
    let error = try #require(throws: ConfigurationError.self) { try AgentConfiguration(yaml: text(fault.key)) }
    #expect(error.path == fault.path && error.reason.contains(fault.text), "\(error)")
  }

  @Test func onlyOneOfTwoWithTheSameAddresses() throws {
    let red = """
        - name: red
          subnets: [{prefix: 10.1.128.0/17}]
          vni: 5003
          host: {}
      """
    let error = try #require(throws: ConfigurationError.self) {
      try AgentConfiguration(yaml: text("host: {}", extra: red))
    }
    #expect(
      error.path == "networks[2].host" && error.reason.contains("overlaps 10.1.0.0/16 of network blue"), "\(error)")
    #expect(try AgentConfiguration(yaml: text("mtu: 1400", extra: red)).networks[2].host != nil)
  }

  @Test func notWhatIsBehindAPeer() throws {
    let peer = peerText.replacingOccurrences(of: "10.1.2.0/24", with: "0.0.0.0/0")
    let extra = try #require(peer.contains("0.0.0.0/0") ? peer : nil)
    let error = try #require(throws: ConfigurationError.self) {
      try AgentConfiguration(yaml: text("host: {}", extra: extra))
    }
    #expect(error.path == "networks[0].host.routes" && error.reason.contains("behind a peer"), "\(error)")
  }

  /// The gateway's address is the host's where the host has a port, and the router's else.
  @Test func whatTheForwarderIsTold() throws {
    let configuration = try AgentConfiguration(yaml: text("host: {}"))
    let names = Planner.identifiers(configuration) + HostPort.identifiers("gateway/blue", device: "weft-blue")
    let numbers = Dictionary(
      names.enumerated().map { ($1, UInt32($0 + 1)) }, uniquingKeysWith: { first, _ in first })
    let planner = Planner(configuration, numbers: numbers)
    var underlay = Underlay()
    let gateway = IPPrefix("10.1.0.1/32")!
    func nexthop(_ state: ForwarderState, _ prefix: IPPrefix) throws -> NexthopConfiguration.Action? {
      let vrf = try #require(state.vrfs.values.first { $0.name == "blue" }).id
      return state.routes[.init(vrf: vrf, prefix: prefix)].flatMap { state.nexthops[$0.nexthop]?.action }
    }
    #expect(try nexthop(planner.base(underlay), gateway) == .receive)
    underlay.hostPorts = [
      HostPort(
        name: "gateway/blue", network: "blue", device: "weft-blue", mac: MACAddress("02:00:00:00:00:01")!, mtu: 1450,
        addresses: [gateway.address], routes: [IPPrefix("0.0.0.0/0")!])
    ]
    let state = planner.base(underlay, hostNumbers: numbers)
    let port = try #require(state.interfaces.values.first { $0.role == .host })
    #expect(port.device == "weft-blue" && port.port == .tap && port.mtu == 1450 && port.tap.namespace.isEmpty)
    for prefix in [gateway, IPPrefix("0.0.0.0/0")!] {
      #expect(try nexthop(state, prefix) == .receiveAt(interface: port.id))
    }
    #expect(try nexthop(state, IPPrefix("fd00:1::1/128")!) == .receive)
  }
}
