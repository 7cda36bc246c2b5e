import Logging
import ServiceLifecycle

/// Tells the agent what the kernel knows of the underlay, from the start and whenever it changes.
struct UnderlayService: Service {
  let agent: Agent
  let watcher: UnderlayWatcher
  let logger: Logger
  private let executor = ThreadExecutor(name: "weft-underlay")

  init(agent: Agent, watcher: UnderlayWatcher, logger: Logger) {
    self.agent = agent
    self.watcher = watcher
    self.logger = logger
  }

  func run() async throws {
    // In this order: what waits for the shutdown must not wait for the thread that blocks.
    await cancelWhenGracefulShutdown {
      await withTaskCancellationHandler {
        await withTaskExecutorPreference(executor) { await loop() }
      } onCancel: {
        watcher.wake()
      }
    }
  }

  private func loop() async {
    while !Task.isCancelled {
      do {
        let (links, underlay) = try watcher.next(timeoutMilliseconds: 30_000)
        if let underlay { await agent.underlayChanged(underlay) }
        for link in links where link.isUp { await agent.linkChanged(link.name) }
      } catch {
        logger.error("cannot watch the network: \(error)")
        try? await Task.sleep(for: .seconds(1))
      }
    }
  }
}
