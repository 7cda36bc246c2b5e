import Logging
import ServiceLifecycle
import UnixSignals
import WeftLogging

/// SIGUSR1: the agent says more, a step each time; SIGUSR2: as much as it was started with.
struct LogSignals: Service {
  let logger: Logger

  func run() async throws {
    await cancelWhenGracefulShutdown {
      for await signal in await UnixSignalsSequence(trapping: .sigusr1, .sigusr2) {
        if signal == .sigusr1 { LogLevels.shared.more() } else { LogLevels.shared.set(nil) }
        logger.notice("log level changed", metadata: ["level": "\(LogLevels.shared.level.rawValue)"])
      }
    }
  }
}
