import Foundation
import WeftRing
import WeftWire
import Yams

extension AgentConfiguration {
  /// Reads and checks a file.
  public static func read(file: String) throws(ConfigurationError) -> AgentConfiguration {
    let bytes: Data
    do {
      bytes = try Data(contentsOf: URL(fileURLWithPath: file))
    } catch {
      let reason = (error as NSError).userInfo[NSUnderlyingErrorKey].map { "\($0)" } ?? "\(error)"
      throw ConfigurationError(
        file: file, FileManager.default.fileExists(atPath: file) ? "cannot be read: \(reason)" : "there is no such file"
      )
    }
    guard let text = String(validating: bytes, as: UTF8.self) else {
      throw ConfigurationError(file: file, "is not UTF-8 text")
    }
    do throws(ConfigurationError) { return try AgentConfiguration(yaml: text) } catch {
      var error = error
      error.file = file
      throw error
    }
  }

  /// Reads and checks a file's text.
  public init(yaml: String) throws(ConfigurationError) {
    let root: Node?
    do { root = try compose(yaml: yaml) } catch let error as YamlError {
      throw Self.syntax(error)
    } catch { throw ConfigurationError("is no YAML: \(error)") }
    guard let root, root.null == nil else { throw ConfigurationError("is empty; see docs/agent.example.yaml") }
    try self.init(ConfigurationNode(node: root, path: ""))
    try checkNetworks()
    try checkHostGateways()
    try checkPeers()
    try checkListening()
  }

  private static func syntax(_ error: YamlError) -> ConfigurationError {
    switch error {
    case .scanner(let context, let problem, let mark, _), .parser(let context, let problem, let mark, _),
      .composer(let context, let problem, let mark, _):
      let what = context.map { "\($0.text) ".trimmingCharacters(in: .whitespaces) + ": " } ?? ""
      return ConfigurationError(line: mark.line, "is no YAML: \(what)\(problem)")
    case .duplicatedKeysInMapping(let duplicates, let context):
      return ConfigurationError(
        line: context.mark.line, "has a key twice in one mapping: \(duplicates.joined(separator: ", "))")
    default: return ConfigurationError("is no YAML: \(error)")
    }
  }

  private init(_ root: ConfigurationNode) throws(ConfigurationError) {
    let top = try root.mapping([
      "node", "fabric", "forwarder", "database", "listen", "default-network", "networks", "peers",
      "pods", "machines", "recovery", "api", "stale-port-time",
    ])
    node = try top.required("node", "the node's name").name("the node's name")
    fabric = try Fabric(top.required("fabric", "the interface towards the underlay, as {interface: eth0}"))
    forwarderSocket = Self.defaultForwarderSocket
    if let forwarder = top["forwarder"] {
      let mapping = try forwarder.mapping(["socket"])
      if let socket = mapping["socket"] { forwarderSocket = try socket.path("the path of the forwarder's socket", 107) }
    }
    database = try top["database"]?.path("the path of the database", 4000) ?? Self.defaultDatabase
    listen = .standard
    if let node = top["listen"] {
      let text = try node.text("HOST:PORT, such as 127.0.0.1:9091")
      guard let address = ListenAddress(text) else {
        throw node.error("\"\(text)\" is not HOST:PORT, such as 127.0.0.1:9091 or \"[::1]:9091\"")
      }
      listen = address
    }
    if let node = top["api"] { api = try APISettings(node) }
    let list = try top.required("networks", "a list of at least one virtual network")
    networks = []
    for node in try list.list() { networks.append(try VirtualNetwork(node)) }
    guard let only = networks.first else { throw list.error("holds no network") }
    if let node = top["machines"] { machines = try MachineSettings(node) }
    if let node = top["pods"] { pods = try PortSettings(node.mapping(PortSettings.podKeys), PortSettings.podKinds) }
    if let node = top["stale-port-time"] {
      let seconds = try node.integer(0...86400, "a time in seconds, or 0 to keep ports that are not posted again")
      stalePortTime = seconds == 0 ? nil : .seconds(seconds)
    }
    if let mapping = try top["recovery"]?.mapping(["plugin", "ports"]) {
      if let folder = mapping["plugin"] { recovery.plugin = try folder.path("the CNI plugin's config-dir", 4000) }
      if let folder = mapping["ports"] { recovery.ports = try folder.path("the port-control script's folder", 4000) }
    }
    peers = []
    for node in try top.items("peers") { peers.append(try Peer(node)) }
    if let node = top["default-network"] {
      defaultNetwork = try node.text("a network's name")
      if network(defaultNetwork) == nil {
        throw node.error("no network is named \"\(defaultNetwork)\"; there are \(Self.names(networks))")
      }
    } else {
      guard networks.count == 1 else {
        throw ConfigurationError(
          path: "default-network", "is missing: one of \(Self.names(networks))")
      }
      defaultNetwork = only.name
    }
  }

  static func names(_ networks: [VirtualNetwork]) -> String { networks.map(\.name).joined(separator: ", ") }
}

extension ConfigurationNode {
  func path(_ what: String, _ maximum: Int) throws(ConfigurationError) -> String {
    let text = try text(what)
    guard text.hasPrefix("/"), text.utf8.count <= maximum, !text.utf8.contains(0) else {
      throw error("\"\(text)\" must be \(what), absolute and at most \(maximum) bytes")
    }
    return text
  }
}

extension Fabric {
  fileprivate init(_ node: ConfigurationNode) throws(ConfigurationError) {
    let mapping = try node.mapping(["interface", "addresses", "mtu"] + PortSettings.fabricKeys)
    let name = try mapping.required("interface", "the name of the kernel's interface towards the underlay")
    interface = try name.text("an interface's name")
    guard Names.isInterface(interface) else {
      throw name.error("\"\(interface)\" is no interface's name: 1 to 15 bytes without '/', ':' and space")
    }
    if let list = mapping["addresses"] {
      var addresses: [IPAddress] = []
      for node in try list.list() {
        let address = try node.address()
        guard !address.isMulticast, !address.isUnspecified else { throw node.error("\(address) is no host's address") }
        if addresses.contains(address) { throw node.error("\(address) stands here twice") }
        addresses.append(address)
      }
      guard (1...InterfaceConfiguration.maximumAddresses).contains(addresses.count) else {
        throw list.error("must hold 1 to \(InterfaceConfiguration.maximumAddresses) addresses")
      }
      self.addresses = addresses
    }
    port = try PortSettings(mapping, PortSettings.fabricKinds)
    mtu = try mapping["mtu"]?.integer(576...65535, "an MTU in bytes")
  }
}

extension VirtualNetwork {
  fileprivate init(_ node: ConfigurationNode) throws(ConfigurationError) {
    let mapping = try node.mapping([
      "name", "subnets", "encapsulation", "vni", "label", "dns", "mtu", "routes", "host", "services", "dhcp",
    ])
    name = try mapping.required("name", "the network's name").name("a network's name")
    let list = try mapping.required("subnets", "a list of at least one subnet, as [{prefix: 10.1.0.0/16}]")
    subnets = []
    for node in try list.list() { subnets.append(try Subnet(node)) }
    guard !subnets.isEmpty else { throw list.error("holds no subnet") }

    encapsulation = mapping["label"] != nil && mapping["vni"] == nil ? .mplsOverUDP : .vxlan
    if let node = mapping["encapsulation"] {
      let text = try node.text("vxlan, mpls-over-udp or mpls-over-gre")
      guard let known = Encapsulation.allCases.first(where: { $0.name == text }) else {
        throw node.error("\"\(text)\" is no encapsulation: vxlan, mpls-over-udp or mpls-over-gre")
      }
      encapsulation = known
    }
    switch encapsulation {
    case .vxlan:
      if let label = mapping["label"] {
        throw label.error("goes with encapsulation mpls-over-udp or mpls-over-gre; vxlan has a vni")
      }
      let vni = try mapping.required("vni", "the network's VXLAN network identifier, 1 to 16777215")
      identifier = UInt32(try vni.integer(1...0xFF_FFFF, "a VXLAN network identifier (24 bits)"))
    case .mplsOverUDP, .mplsOverGRE:
      if let vni = mapping["vni"] {
        throw vni.error("goes with encapsulation vxlan; \(encapsulation.name) has a label")
      }
      let label = try mapping.required("label", "the network's MPLS label, 16 to 1048575")
      identifier = UInt32(try label.integer(16...0xF_FFFF, "an MPLS label (20 bits, the first 16 are reserved)"))
    }
    if let node = mapping["dhcp"] { dhcp = try DHCPSettings(node) }
    dns = []
    for node in try mapping.items("dns") { dns.append(try node.address()) }
    let leastMTU = subnets.contains { !$0.prefix.isV4 } ? 1280 : 576
    mtu = try mapping["mtu"]?.integer(
      leastMTU...65535, leastMTU == 1280 ? "an MTU in bytes that IPv6 can do with" : "an MTU in bytes")
    if mapping["routes"] != nil {
      var routes: [NetworkRoute] = []
      for node in try mapping.items("routes") { routes.append(try NetworkRoute(node, subnets)) }
      self.routes = routes
    }
    if let node = mapping["services"] { services = try NetworkServices(node, subnets) }
    // Members are told of the proxy where nothing else is said.
    if mapping["dns"] == nil, let proxy = services?.dns { dns = proxy.addresses }
    if let node = mapping["host"] { host = try HostGateway(node, network: name, subnets) }
  }
}

extension NetworkRoute {
  /// A prefix alone goes through the gateway of the first subnet of its family.
  fileprivate init(_ node: ConfigurationNode, _ subnets: [Subnet]) throws(ConfigurationError) {
    if case .scalar = node.node {
      destination = try node.prefix()
      let isV4 = destination.isV4
      guard let subnet = subnets.first(where: { $0.prefix.isV4 == isV4 }) else {
        throw node.error("the network has no \(isV4 ? "IPv4" : "IPv6") subnet whose gateway could be used")
      }
      gateway = subnet.gateway
      return
    }
    let mapping = try node.mapping(["destination", "gateway"])
    destination = try mapping.required("destination", "a prefix").prefix()
    let via = try mapping.required("gateway", "an address in a subnet of the network")
    gateway = try via.address()
    let gateway = gateway
    guard gateway.isV4 == destination.isV4, subnets.contains(where: { $0.prefix.contains(gateway) }) else {
      throw via.error("\(gateway) is in no subnet of the network and of the destination's family")
    }
  }
}

extension Subnet {
  fileprivate init(_ node: ConfigurationNode) throws(ConfigurationError) {
    let mapping = try node.mapping(["prefix", "range", "gateway"])
    let prefixNode = try mapping.required("prefix", "a prefix such as 10.1.0.0/16")
    prefix = try prefixNode.prefix()
    guard prefix.length > 0, !prefix.address.isMulticast, !prefix.address.isLinkLocal, !prefix.address.isUnspecified
    else { throw prefixNode.error("\(prefix) cannot be a subnet of pods") }
    let whole = AddressRange(prefix)
    // RFC 3021 and RFC 6164: of a block of two, both may be used.
    let reserve: UInt128 = prefix.hostMask > 1 ? 1 : 0
    if let node = mapping["gateway"] {
      gateway = try node.address()
      guard prefix.contains(gateway) else { throw node.error("\(gateway) is not in \(prefix)") }
      guard !Self.isReserved(gateway, in: prefix) else {
        let which = gateway == prefix.address ? "network" : "broadcast"
        throw node.error("\(gateway) is the \(which) address of \(prefix)")
      }
    } else {
      gateway = IPAddress(number: prefix.address.number + reserve)
    }
    range = whole
    if let node = mapping["range"] {
      range = try Self.range(node)
      guard prefix.contains(range.first), prefix.contains(range.last) else {
        throw node.error("\(range) is not in \(prefix)")
      }
    }
    let pool = AddressPool(subnet: self, elsewhere: [])
    guard pool.capacity > 0 else {
      throw (mapping["range"] ?? prefixNode).error(
        "holds no address that could be given out besides the gateway \(gateway), network and broadcast address")
    }
  }

  /// "FIRST-LAST", or a prefix, of which the first and (IPv4) the last address stay unused, as people expect it.
  private static func range(_ node: ConfigurationNode) throws(ConfigurationError) -> AddressRange {
    let text = try node.text("a range such as 10.1.1.10-10.1.1.99, or a prefix")
    let ends = text.split(separator: "-", omittingEmptySubsequences: false)
    if ends.count == 2 {
      let parts = ends.map { IPAddress($0.trimmingCharacters(in: .whitespaces)) }
      guard let first = parts[0], let last = parts[1], let range = AddressRange(first, last) else {
        throw node.error("\"\(text)\" is not a range such as 10.1.1.10-10.1.1.99: two addresses, the lower one first")
      }
      return range
    }
    let prefix = try node.prefix()
    let whole = AddressRange(prefix)
    guard prefix.hostMask > 1 else { return whole }
    return AddressRange(
      IPAddress(number: whole.first.number + 1),
      prefix.isV4 ? IPAddress(number: whole.last.number - 1) : whole.last) ?? whole
  }

  /// The network address (of IPv6: the subnet-router anycast address, RFC 4291 section 2.6.1) and IPv4's broadcast.
  public static func isReserved(_ address: IPAddress, in prefix: IPPrefix) -> Bool {
    guard prefix.hostMask > 1 else { return false }
    return address == prefix.address || prefix.isV4 && address == AddressRange(prefix).last
  }
}

extension Peer {
  fileprivate init(_ node: ConfigurationNode) throws(ConfigurationError) {
    let mapping = try node.mapping(["name", "address", "networks"])
    name = try mapping.required("name", "the peer's name").name("a peer's name")
    let place = try mapping.required("address", "the peer's underlay address")
    address = try place.address()
    guard !address.isMulticast, !address.isUnspecified else { throw place.error("\(address) is no host's address") }
    networks = []
    for node in try mapping.items("networks") {
      let mapping = try node.mapping(["name", "subnets", "pods", "router-mac", "macs"])
      var subnets: [IPPrefix] = []
      for node in try mapping.items("subnets") { subnets.append(try node.prefix()) }
      var pods: [IPPrefix] = []
      for node in try mapping.items("pods") { pods.append(try node.prefix()) }
      var macs: [MACAddress] = []
      for node in try mapping.items("macs") { macs.append(try node.mac()) }
      networks.append(
        PeerNetwork(
          name: try mapping.required("name", "a network's name").text("a network's name"), subnets: subnets, pods: pods,
          routerMAC: try mapping["router-mac"]?.mac() ?? .virtualRouter, macs: macs))
    }
  }
}
