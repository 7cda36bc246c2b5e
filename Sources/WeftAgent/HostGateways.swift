import Glibc
import Logging
import Synchronization
import WeftAPI
import WeftNetlink
import WeftWire

/// The host's interfaces into networks: keeps the kernel's side as it is to be, and says what the forwarder's is.
final class HostGateways: Sendable {
  private let configuration: AgentConfiguration
  private let store: Store
  private let netlink: Netlink
  private let masquerade: Masquerade
  private let logger: Logger
  private let state: Mutex<State>

  private struct State {
    /// By network: those that were posted.
    var posted: [String: HostGateway] = [:]
    /// By network: why one is not there.
    var reasons: [String: String] = [:]
    /// Interfaces besides which none of ours is left; nil: not known yet.
    var kept: Set<String>?
  }

  init(_ configuration: AgentConfiguration, store: Store, logger: Logger) throws {
    self.configuration = configuration
    self.store = store
    self.logger = logger
    netlink = try Netlink()
    masquerade = Masquerade(table: "weft-\(configuration.node)")
    var posted = try store.gateways()
    // The file's word counts, where both say something of a network, and what it contradicts by now is given up.
    for (network, gateway) in posted.sorted(by: { $0.key < $1.key }) {
      let others = Self.all(configuration, posted.filter { $0.key < network })
      guard let there = configuration.network(network), there.host == nil,
        configuration.fault(gateway, there, others: others) == nil
      else {
        logger.warning("the gateway of network \(network) that was posted contradicts the configuration; it is dropped")
        posted[network] = nil
        try store.setGateway(network, nil)
        continue
      }
    }
    let valid = posted
    state = Mutex(State(posted: valid))
  }

  private static func all(
    _ configuration: AgentConfiguration, _ posted: [String: HostGateway]
  ) -> [(VirtualNetwork, HostGateway)] {
    configuration.networks.compactMap { network in (network.host ?? posted[network.name]).map { (network, $0) } }
  }

  private func all() -> [(VirtualNetwork, HostGateway)] { Self.all(configuration, state.withLock { $0.posted }) }

  private func alias(_ network: String) -> String { "\(aliasPrefix)\(network)" }
  private var aliasPrefix: String { "weft gateway \(configuration.node)/" }
  private static func name(_ network: String) -> String { "gateway/\(network)" }

  static func identifiers(_ network: String, interface: String) -> [Identifier] {
    HostPort.identifiers(name(network), device: interface)
  }

  /// Those of gateways that were posted.
  var identifiers: [Identifier] {
    state.withLock { $0.posted.flatMap { Self.identifiers($0.key, interface: $0.value.interface) } }
  }

  /// Makes the kernel's side what it is to be, and returns what is there. Blocks for as long as the kernel takes.
  func reconcile(fabricMTU: Int) -> [HostPort] {
    let wanted = all()
    var ports: [HostPort] = []
    var rules: [Masquerade.Rule] = []
    var reasons: [String: String] = [:]
    removeOthers(than: Set(wanted.map(\.1.interface)))
    for (network, gateway) in wanted {
      let addresses = gateway.addresses(in: network)
      let subnets = gateway.subnets(of: network)
      let port = HostPort(
        name: Self.name(network.name), network: network.name, device: gateway.interface,
        mac: HostPort.mac(Self.name(network.name), node: configuration.node),
        mtu: configuration.mtu(of: network, fabricMTU: fabricMTU), addresses: addresses,
        routes: gateway.routes(of: network))
      let interface = HostInterface(
        name: gateway.interface, alias: alias(network.name), mac: port.mac, mtu: port.mtu, addresses: addresses,
        routes: subnets.map { subnet in
          HostInterface.Route(
            prefix: subnet,
            source: addresses.first { subnet.contains($0) } ?? addresses.first { $0.isV4 == subnet.isV4 })
        }, forwards: true)
      do {
        try interface.ensure(netlink)
        ports.append(port)
        if gateway.masquerade, !port.routes.isEmpty {
          rules.append(Masquerade.Rule(interface: gateway.interface, sources: network.subnets.map(\.prefix)))
        }
      } catch { reasons[network.name] = "\(error)" }
    }
    do { try masquerade.ensure(rules) } catch {
      for (network, gateway) in wanted where gateway.masquerade && reasons[network.name] == nil {
        reasons[network.name] = "no source NAT: \(error)"
      }
    }
    report(reasons)
    return ports
  }

  private func removeOthers(than names: Set<String>) {
    guard state.withLock({ $0.kept }) != names else { return }
    do {
      for name in try HostInterface.removeOthers(than: names, prefix: aliasPrefix, netlink) {
        logger.info("removed host gateway \(name)")
      }
      state.withLock { $0.kept = names }
    } catch { logger.error("host gateways that are not wanted any more may be left: \(error)") }
  }

  private func report(_ reasons: [String: String]) {
    let before = state.withLock { state in
      defer { state.reasons = reasons }
      return state.reasons
    }
    for (network, reason) in reasons.sorted(by: { $0.key < $1.key }) where before[network] != reason {
      logger.error("host gateway of network \(network): \(reason)")
    }
    for network in before.keys.sorted() where reasons[network] == nil {
      logger.info("host gateway of network \(network) works")
    }
  }

  /// Warns of what the host does not do by itself.
  func warn() {
    for (network, gateway) in all() where !gateway.routes(of: network).isEmpty {
      for (isV4, key) in [(true, "net/ipv4/conf/all/forwarding"), (false, "net/ipv6/conf/all/forwarding")]
      where network.subnets.contains(where: { $0.prefix.isV4 == isV4 }) && (try? Sysctl.read(key)) == "0" {
        logger.warning(
          """
          network \(network.name) goes out through this host, but the host does not forward \
          \(isV4 ? "IPv4" : "IPv6"): answers will not come in unless \(key.split(separator: "/").joined(separator: ".")) is 1
          """)
      }
    }
  }

  var status: [AgentStatus.Gateway] {
    let reasons = state.withLock { $0.reasons }
    return all().map { network, gateway in
      AgentStatus.Gateway(
        network: network.name, interface: gateway.interface,
        addresses: gateway.addresses(in: network).map(\.description),
        routes: gateway.routes(of: network).map(\.description), masquerade: gateway.masquerade,
        reason: reasons[network.name])
    }
  }

  // MARK: the field's API

  /// One that is there of the same network is replaced, and returned.
  func add(_ gateway: HostGateway, _ network: VirtualNetwork) throws(APIError) -> HostGateway? {
    guard network.host == nil else {
      throw APIError(.conflict, "network \(network.name) has a host gateway by the agent's configuration; change that")
    }
    let others = all().filter { $0.0.name != network.name }
    if let fault = configuration.fault(gateway, network, others: others) {
      throw APIError(.conflict, "gateway of network \(network.name): \(fault.reason)")
    }
    try store.setGateway(network.name, gateway)
    return state.withLock { $0.posted.updateValue(gateway, forKey: network.name) }
  }

  /// As it was before `add`.
  func restore(_ gateway: HostGateway?, _ network: VirtualNetwork) throws(APIError) {
    try store.setGateway(network.name, gateway)
    state.withLock { $0.posted[network.name] = gateway }
  }

  /// The network whose gateway it was; nil: there is none such.
  func remove(interface: String) throws(APIError) -> String? {
    if let network = configuration.networks.first(where: { $0.host?.interface == interface }) {
      throw APIError(
        .conflict, "\(interface) is network \(network.name)'s by the agent's configuration; change that instead")
    }
    guard let network = state.withLock({ $0.posted.first { $0.value.interface == interface }?.key }) else { return nil }
    try store.setGateway(network, nil)
    state.withLock { $0.posted[network] = nil }
    return network
  }

  /// What one that was posted has in the kernel that is not there as it should be.
  func reason(_ network: String) -> String? { state.withLock { $0.reasons[network] } }
}
