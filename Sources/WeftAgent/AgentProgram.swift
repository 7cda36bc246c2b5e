import Glibc
import Hummingbird
import Logging
import NIOCore
import ServiceLifecycle
import WeftAPI
import WeftNetlink

/// What the agent cannot start or go on with, in words for the person who started it.
public struct AgentFailure: Error, Sendable, CustomStringConvertible {
  public let description: String

  init(_ description: String) { self.description = description }
}

/// A whole agent: database, watcher of the underlay, link to the forwarder, HTTP.
public struct AgentProgram: Sendable {
  public static let version = "0.1.0"

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
    self.logger = logger
    self.onListening = onListening
    let store = try Store(configuration)
    if let damage = store.damage { logger.error("\(damage)") }
    try Recovery(configuration: configuration, logger: logger).run(into: store)
    let netlink = try Netlink()
    let monitor = try NetlinkMonitor()
    agent = try Agent(configuration, store: store, logger: logger)
    interface = HTTPInterface(agent: agent, logger: logger)
    watcher = UnderlayWatcher(configuration, netlink: netlink, monitor: monitor, logger: logger)
  }

  /// Runs until told to stop by SIGTERM or SIGINT, by graceful shutdown, or by cancellation. What the forwarder was told stays
  /// in force.
  public func run(takesSignals: Bool = true) async throws {
    let configuration = agent.configuration
    let listen = configuration.listen
    if !listen.isLoopback {
      logger.warning(
        "\(listen) can be reached from other machines: whoever can, may attach and detach pods of this node")
    }
    do { await agent.underlayChanged(try watcher.first(waitMilliseconds: 500)) } catch {
      logger.warning("the underlay is not known yet: \(error)")
    }
    let logger = self.logger
    let onListening = self.onListening
    let http = Application(
      router: interface.router(),
      configuration: ApplicationConfiguration(
        address: .hostname(listen.host, port: listen.port), serverName: "weft-agent", reuseAddress: true),
      onServerRunning: { channel in
        let port = channel.localAddress?.port ?? listen.port
        logger.info("listening at \(ListenAddress(host: listen.host, port: port))")
        await onListening(ListenAddress(host: listen.host, port: port))
      },
      logger: Self.quiet(logger))
    let group = ServiceGroup(
      configuration: ServiceGroupConfiguration(
        services: [
          .init(service: UnderlayService(agent: agent, watcher: watcher, logger: logger)),
          .init(service: ForwarderLink(agent: agent, socket: configuration.forwarderSocket, logger: logger)),
          .init(service: Housekeeping(agent: agent, logger: logger)),
          .init(service: http),
        ], gracefulShutdownSignals: takesSignals ? [.sigterm, .sigint] : [], logger: Self.quiet(logger)))
    do { try await group.run() } catch {
      throw Self.failure(error, listen)
    }
    logger.info("stopped")
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
        do {
          try await agent.expireReservations(
            olderThan: HTTPInterface.reservationSeconds, limit: HTTPInterface.reservationLimit)
          try await agent.forgetRecovered()
        } catch { logger.warning("cannot drop old reservations: \(error)") }
      }
    }
  }
}
