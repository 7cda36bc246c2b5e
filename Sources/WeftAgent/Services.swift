import Glibc
import Logging
import NIOCore
import NIOPosix
import ServiceLifecycle
import Synchronization
import WeftNetlink
import WeftWire

/// What the agent serves to networks at addresses of its own: DNS and metadata.
///
/// Ordinary sockets in network namespaces that nobody else is in, one for each network with services. It has an interface
/// there, whose other side is a port of the forwarder in the network's VRF: the namespace and a source address say who
/// asks, whatever addresses other networks have (nor do the kernel's own answers, to pings or closed ports, ever go to
/// another network), and nothing of this listens on the host.
final class Services: Service {
  private let configuration: AgentConfiguration
  private let store: Store
  private let logger: Logger
  /// By network.
  private let namespaces: [String: Namespace]
  private let state = Mutex(State())

  private struct State {
    /// By network: the interface as it was made.
    var made: [String: HostInterface] = [:]
  }

  private struct Namespace {
    let path: String
    let netlink: Netlink
  }

  private struct Endpoint {
    let address: IPAddress
    let port: Int
    let isStream: Bool
    let serve: @Sendable (Int32, any EventLoop) -> EventLoopFuture<any Channel>
  }

  init(_ configuration: AgentConfiguration, store: Store, logger: Logger) throws {
    self.configuration = configuration
    self.store = store
    self.logger = logger
    var namespaces: [String: Namespace] = [:]
    for network in configuration.networks where network.services != nil {
      namespaces[network.name] = try Self.makeNamespace()
    }
    self.namespaces = namespaces
  }

  private static func makeNamespace() throws -> Namespace {
    // Open for as long as the process lives; with it the namespace ends, and all that is in it.
    let descriptor = try NetworkNamespace.makeDescriptor()
    let path = "/proc/\(getpid())/fd/\(descriptor)"
    let opened = try NetworkNamespace(path: path)
    let netlink = try Netlink(in: opened)
    if let loopback = try netlink.link(named: "lo") {
      try netlink.changeLink(index: loopback.index, LinkChange(isUp: true))
    }
    // What a new namespace has of these is the host's choice.
    try opened.run {
      for (key, value) in [("all/forwarding", "0"), ("all/rp_filter", "0"), ("default/rp_filter", "0")] {
        try Sysctl.write("net/ipv4/conf/\(key)", value)
      }
    }
    return Namespace(path: path, netlink: netlink)
  }

  static func name(_ network: String) -> String { "services/\(network)" }

  /// The forwarder knows ports by their names, so each network's has its own, though nobody sees it.
  static func device(_ network: String) -> String { "wsv" + Derived.named(name(network)).prefix(8) }

  static func identifiers(_ network: String) -> [Identifier] {
    HostPort.identifiers(name(network), device: device(network))
  }

  private func interface(_ network: VirtualNetwork, _ services: NetworkServices, _ mtu: Int) -> HostInterface {
    let everything = [IPPrefix("0.0.0.0/0"), IPPrefix("::/0")].compactMap { $0 }
    let families = Set(services.addresses.map(\.isV4))
    let routes = everything.filter { families.contains($0.isV4) }.map { HostInterface.Route(prefix: $0) }
    return HostInterface(
      name: Self.device(network.name), alias: "weft services \(network.name)",
      mac: HostPort.mac(Self.name(network.name), node: configuration.node), mtu: mtu, addresses: services.addresses,
      routes: routes, forwards: false)
  }

  /// All networks that are to have services have an interface for them.
  var areComplete: Bool { state.withLock { $0.made.count } == namespaces.count }

  /// Makes the interfaces what they are to be, and returns those that are there.
  func reconcile(fabricMTU: Int) -> [HostPort] {
    var ports: [HostPort] = []
    for network in configuration.networks {
      guard let services = network.services, let namespace = namespaces[network.name] else { continue }
      let interface = interface(network, services, configuration.mtu(of: network, fabricMTU: fabricMTU))
      do {
        if state.withLock({ $0.made[network.name] }) != interface {
          let netlink = namespace.netlink
          try NetworkNamespace(path: namespace.path).run { try interface.ensure(netlink) }
          state.withLock { $0.made[network.name] = interface }
        }
        var port = HostPort(
          name: Self.name(network.name), network: network.name, device: interface.name, mac: interface.mac,
          mtu: interface.mtu, addresses: interface.addresses)
        port.namespace = namespace.path
        ports.append(port)
      } catch { logger.error("services of network \(network.name): \(error)") }
    }
    return ports
  }

  /// Serves until it is cancelled.
  func run() async throws {
    await cancelWhenGracefulShutdown {
      var waiting = self.configuration.networks.filter { $0.services != nil }
      var channels: [any Channel] = []
      while !Task.isCancelled, !waiting.isEmpty {
        var failed: [VirtualNetwork] = []
        for network in waiting {
          do { channels += try await self.serve(network) } catch {
            self.logger.error("services of network \(network.name) are not served: \(error)")
            failed.append(network)
          }
        }
        waiting = failed
        if !waiting.isEmpty { try? await Task.sleep(for: .seconds(5)) }
      }
      while !Task.isCancelled { try? await Task.sleep(for: .seconds(3600)) }
      for channel in channels { try? await channel.close() }
    }
  }

  private func endpoints(_ network: VirtualNetwork, on loop: any EventLoop) -> [Endpoint] {
    let members = ServiceMembers(network.name, store: store)
    var endpoints: [Endpoint] = []
    if let dns = network.services?.dns {
      let proxy = DNSProxy(relay: DNSRelay(on: loop, DNSServers(dns.servers)), members: members)
      for address in dns.addresses {
        endpoints.append(
          Endpoint(address: address, port: 53, isStream: false) { proxy.serve(datagrams: $0, on: $1) })
        endpoints.append(
          Endpoint(address: address, port: 53, isStream: true) { proxy.serve(connections: $0, on: $1) })
      }
    }
    if let metadata = network.services?.metadata {
      let responder = MetadataResponder(metadata, network, members, store: store, logger: logger)
      for address in metadata.addresses {
        endpoints.append(
          Endpoint(address: address, port: 80, isStream: true) { responder.serve(connections: $0, on: $1) })
      }
    }
    return endpoints
  }

  private func serve(_ network: VirtualNetwork) async throws -> [any Channel] {
    guard let namespace = namespaces[network.name], state.withLock({ $0.made[network.name] }) != nil else {
      throw ServiceSocket.Failure(description: "its interface could not be made")
    }
    let loop = MultiThreadedEventLoopGroup.singleton.next()
    let device = Self.device(network.name)
    var channels: [any Channel] = []
    for endpoint in endpoints(network, on: loop) {
      let (address, port, isStream) = (endpoint.address, endpoint.port, endpoint.isStream)
      do {
        let socket = try NetworkNamespace(path: namespace.path).run {
          try ServiceSocket.open(address, port: port, device: device, isStream: isStream)
        }
        channels.append(try await endpoint.serve(socket, loop).get())
      } catch {
        for channel in channels { try? await channel.close() }
        throw error
      }
    }
    let addresses = network.services?.addresses.map(\.description).joined(separator: ", ") ?? ""
    logger.info("serving network \(network.name) at \(addresses)")
    return channels
  }
}
