import Glibc
import Hummingbird
import HummingbirdCore
import Logging
import NIOCore
import ServiceLifecycle
import UnixSignals
import WeftAPI
import WeftLogging
import WeftNetlink

/// What the agent cannot start or go on with, in words for the person who started it.
public struct AgentFailure: Error, Sendable, CustomStringConvertible {
  public let description: String

  init(_ description: String) { self.description = description }
}

/// A whole agent: database, watcher of the underlay, link to the forwarder, HTTP.
public struct AgentProgram: Sendable {
  public static let version = "0.1.0"
  /// Seconds since 1970.
  static let started = Double(WallClock.nanoseconds()) / 1e9

  public let agent: Agent
  public let interface: HTTPInterface
  private let watcher: UnderlayWatcher
  private let logger: Logger
  private let onListening: @Sendable (ListenAddress) async -> Void

  /// Opens everything, in the calling thread's network namespace. `onListening` is told where HTTP is served.
  public init(
    _ configuration: AgentConfiguration, logger: Logger,
    onListening: @escaping @Sendable (ListenAddress) async -> Void = { _ in }
  ) throws {
    _ = Self.started
    do throws(ConfigurationError) { try configuration.checkListening() } catch {
      throw AgentFailure(error.reason)
    }
    self.logger = logger
    self.onListening = onListening
    let store = try Store(configuration)
    if let damage = store.damage { logger.error("\(damage)") }
    try Recovery(configuration: configuration, logger: logger).run(into: store)
    let netlink = try Netlink()
    let monitor = try NetlinkMonitor()
    agent = try Agent(configuration, store: store, logger: logger)
    interface = try HTTPInterface(agent: agent, logger: logger.part("http"))
    watcher = UnderlayWatcher(configuration, netlink: netlink, monitor: monitor, logger: logger.part("underlay"))
  }

  /// Runs until told to stop by SIGTERM or SIGINT, by graceful shutdown, or by cancellation. What the forwarder was told stays
  /// in force.
  public func run(takesSignals: Bool = true) async throws {
    let configuration = agent.configuration
    let listen = configuration.listen
    do { await agent.underlayChanged(try watcher.first(waitMilliseconds: 500)) } catch {
      logger.warning("the underlay is not known yet: \(error)")
    }
    do { try await agent.finishDeletions() } catch { logger.warning("cannot finish deletions: \(error)") }
    agent.gateways.warn()
    let logger = self.logger
    let onListening = self.onListening
    var servers: [any Service] = []
    if configuration.api.tcp != .none {
      servers.append(
        server(.hostname(listen.host, port: listen.port)) { channel in
          let port = channel.localAddress?.port ?? listen.port
          logger.info("listening at \(ListenAddress(host: listen.host, port: port))")
          await onListening(ListenAddress(host: listen.host, port: port))
        })
    }
    if let socket = configuration.api.socket {
      try UnixListener.prepare(socket)
      servers.append(
        server(.unixDomainSocket(path: socket.path)) { _ in
          do throws(AgentFailure) {
            try UnixListener.open(socket)
            logger.info("listening at \(socket.path)")
          } catch { logger.error("\(error.description)") }
        })
    }
    defer { if let socket = configuration.api.socket { UnixListener.close(socket) } }
    let group = ServiceGroup(
      configuration: ServiceGroupConfiguration(
        services: [
          .init(service: UnderlayService(agent: agent, watcher: watcher, logger: logger.part("underlay"))),
          .init(
            service: ForwarderLink(
              agent: agent, socket: configuration.forwarderSocket, logger: logger.part("forwarder"))),
          .init(service: agent.services),
          .init(service: Housekeeping(agent: agent, logger: logger)),
          .init(service: interface.stalePorts),
          .init(service: agent.dhcp),
        ] + servers.map { .init(service: $0) } + (takesSignals ? [.init(service: LogSignals(logger: logger))] : []),
        gracefulShutdownSignals: takesSignals ? [.sigterm, .sigint] : [], logger: Self.quiet(logger)))
    do { try await group.run() } catch {
      throw Self.failure(error, listen)
    }
    logger.info("stopped")
  }

  private func server(
    _ address: BindAddress, _ onRunning: @escaping @Sendable (any Channel) async -> Void
  ) -> some Service {
    let settings = agent.configuration.api
    let header = APISettings.maximumHeaderBytes
    return Application(
      router: interface.router(),
      server: .http1(
        configuration: .init(
          additionalChannelHandlers: [ConnectionGuard(seconds: settings.requestSeconds)],
          idleTimeout: .seconds(Int64(settings.idleSeconds)),
          httpDecoderConfiguration: .init(
            maxHeaderFieldSize: header, maxHeaderListSize: header, maxHeaderFieldCount: 100))),
      configuration: ApplicationConfiguration(
        address: address, serverName: "weft-agent", reuseAddress: true,
        availableConnectionsDelegate: MaximumAvailableConnections(settings.connections)),
      onServerRunning: onRunning, logger: Self.quiet(logger))
  }

  /// The server's own messages: only those that matter.
  private static func quiet(_ logger: Logger) -> Logger {
    var logger = logger
    logger.logLevel = max(logger.logLevel, .warning)
    return logger
  }

  private static func failure(_ error: any Error, _ listen: ListenAddress) -> any Error {
    guard let error = error as? IOError else { return error }
    switch error.errnoCode {
    case EADDRINUSE:
      return AgentFailure(
        "cannot listen at \(listen): the address is in use; is another weft-agent running? --listen takes another one")
    case EADDRNOTAVAIL: return AgentFailure("cannot listen at \(listen): no interface of this machine has that address")
    case EACCES: return AgentFailure("cannot listen at \(listen): ports below 1024 take root")
    default: return AgentFailure("cannot listen at \(listen): \(error)")
    }
  }
}

/// What is due now and then.
private struct Housekeeping: Service {
  let agent: Agent
  let logger: Logger

  func run() async throws {
    await cancelWhenGracefulShutdown {
      while !Task.isCancelled {
        try? await Task.sleep(for: .seconds(10))
        if Task.isCancelled { return }
        // What somebody has taken away without a word, as by flushing nftables.
        if !agent.gateways.status.isEmpty || !agent.services.areComplete { await agent.hostPortsChanged() }
        do {
          try await agent.finishDeletions()
          try await agent.expireReservations(
            olderThan: HTTPInterface.reservationSeconds, limit: HTTPInterface.reservationLimit)
          try await agent.forgetRecovered()
        } catch { logger.warning("cannot drop old reservations: \(error)") }
      }
    }
  }
}
