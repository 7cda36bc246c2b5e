import Logging
import ServiceLifecycle
import Synchronization

/// `POST /syncports`: who posts ports has begun anew and posts all that there are. What it has not posted again when a while
/// has passed is deleted, as Tungsten Fabric's agent does it. An agent that is started meanwhile deletes nothing.
final class StalePorts: Service {
  private let agent: Agent
  private let wait: Duration?
  private let logger: Logger
  private let state = Mutex(State())
  private let begun: AsyncStream<Void>
  private let continuation: AsyncStream<Void>.Continuation

  private struct State {
    /// The ports of which nothing was heard since; nil: nobody has begun anew.
    var unheard: Set<String>?
    var deadline = ContinuousClock.now
  }

  /// `wait`: how long one may take to post all ports; nil: nothing is ever deleted.
  init(agent: Agent, wait: Duration?, logger: Logger) {
    self.agent = agent
    self.wait = wait
    self.logger = logger
    (begun, continuation) = AsyncStream.makeStream(of: Void.self, bufferingPolicy: .bufferingNewest(1))
  }

  /// From now on the ports that there are have to be posted again. The time begins anew if it runs already.
  func begin() async throws {
    guard let wait else { return }
    let there = Set(try await agent.store.attachments(where: "origin = 'port'").map(\.id))
    state.withLock { $0 = State(unheard: there, deadline: .now + wait) }
    logger.info(
      "ports are being posted anew", metadata: ["there": "\(there.count)", "seconds": "\(wait.components.seconds)"])
    continuation.yield()
  }

  /// The port has been posted.
  func heard(_ id: String) { state.withLock { _ = $0.unheard?.remove(id) } }

  func run() async throws {
    await cancelWhenGracefulShutdown {
      for await _ in self.begun { await self.expire() }
    }
  }

  private func expire() async {
    while !Task.isCancelled {
      let deadline = state.withLock { $0.deadline }
      guard deadline > .now else { break }
      try? await Task.sleep(until: deadline, clock: .continuous)
    }
    guard !Task.isCancelled else { return }
    let stale = state.withLock { state in
      defer { state.unheard = nil }
      return state.unheard ?? []
    }
    for id in stale.sorted() {
      do {
        if try await agent.delete(id: id) { logger.info("port \(id) was not posted again and is deleted") }
      } catch { logger.warning("port \(id) was not posted again and cannot be deleted: \(error)") }
    }
  }
}
