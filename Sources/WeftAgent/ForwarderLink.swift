import Logging
import ServiceLifecycle
import WeftRing
import WeftWire

/// Keeps the channel to the forwarder: connects, listens for events, notices when it goes, connects again.
struct ForwarderLink: Service {
  let agent: Agent
  let socket: String
  let logger: Logger
  private let executor = ThreadExecutor(name: "weft-events")

  /// A forwarder that answers nothing for so long is given up, and asked for a new channel.
  private static let patience: UInt64 = 5_000_000_000
  /// Between attempts to connect, ms. A new socket in its folder ends a pause, and the next one is the first again: a
  /// forwarder that comes is found at once, one that stays away costs nothing.
  private static let firstPause = 2
  private static let longestPause = 1000

  init(agent: Agent, socket: String, logger: Logger) {
    self.agent = agent
    self.socket = socket
    self.logger = logger
  }

  func run() async throws {
    // In this order: what waits for the shutdown must not wait for the thread that blocks.
    await cancelWhenGracefulShutdown {
      await withTaskExecutorPreference(executor) { await loop() }
    }
  }

  private func loop() async {
    var pause = Self.firstPause
    var said = ""
    var folder: FolderWatch?
    while !Task.isCancelled {
      // Before the attempt: what comes after it is noticed. The folder may be new too.
      if folder == nil { folder = FolderWatch(folderOf: socket) }
      do {
        let channel = try RingClient.connect(path: socket, role: .agent)
        pause = Self.firstPause
        said = ""
        await serve(channel)
      } catch {
        // Once for each reason, not once a second.
        if said != error.description { logger.warning("\(error)") }
        said = error.description
        await agent.disconnected(nil, reason: error.description)
      }
      // Whoever watches the first milliseconds of a forwarder finds a socket that does not listen yet.
      let isNews = folder?.wait(milliseconds: min(pause, 250)) ?? false
      if folder == nil { try? await Task.sleep(for: .milliseconds(pause)) }
      if folder?.isGone == true { folder = nil }
      pause = isNews ? Self.firstPause : min(pause * 2, Self.longestPause)
    }
  }

  /// Until the forwarder goes away or we are told to stop. The forwarder's tables stay as they are: it goes on
  /// forwarding without us.
  private func serve(_ channel: RingClient) async {
    let start = Task { await agent.connected(channel) }
    var reason = "the agent is stopping"
    var nextMaintenance = UnderlayWatcher.now() + 1_000_000_000
    do {
      while !Task.isCancelled {
        for event in try channel.nextEvents(timeoutMilliseconds: 250) { handle(event) }
        if let waiting = agent.waitingNanoseconds, waiting > Self.patience {
          reason = "the forwarder answered nothing for \(waiting / 1_000_000_000) s"
          agent.giveUp(channel, reason: reason)
          break
        }
        if UnderlayWatcher.now() >= nextMaintenance {
          nextMaintenance = UnderlayWatcher.now() + 1_000_000_000
          // Not waited for: it may block for as long as the forwarder does, and who notices that is this loop.
          if agent.waitingNanoseconds == nil { Task { await agent.maintain() } }
        }
        await Task.yield()
      }
    } catch { reason = error.description }
    channel.close()
    await start.value
    await agent.disconnected(channel, reason: reason)
  }

  private func handle(_ event: Event) {
    switch event {
    case .interfaceState(let id, let isUp): logger.debug("interface \(id) is \(isUp ? "up" : "down")")
    case .trap(let interface, let vrf, let frame):
      logger.trace("trapped \(frame.count) bytes", metadata: ["interface": "\(interface)", "vrf": "\(vrf)"])
      agent.dhcp.take(interface: interface, frame: frame)
    case .station(let change, let entry):
      logger.debug("\(entry.mac) \(change.name)", metadata: ["vrf": "\(entry.vrf)", "nexthop": "\(entry.nexthop)"])
    case .resolve(let interface, let vrf, let address):
      logger.debug("\(address) is asked for", metadata: ["interface": "\(interface)", "vrf": "\(vrf)"])
    case .flow(let flow):
      // What a rule says is to be logged is; for all other flows this is where an exporter will be.
      let level: Logger.Level = flow.isLogged ? .info : .trace
      logger.log(level: level, "flow \(flow.kind.name)", metadata: Self.metadata(flow))
    case .lost(let count): logger.debug("\(count) events were lost")
    }
  }

  private static func metadata(_ flow: FlowReport) -> Logger.Metadata {
    func end(_ address: IPAddress, _ port: UInt16) -> String {
      address.isV4 ? "\(address):\(port)" : "[\(address)]:\(port)"
    }
    var metadata: Logger.Metadata = [
      "vrf": "\(flow.forward.vrf)", "protocol": "\(flow.proto)",
      "source": "\(end(flow.forward.source, flow.forward.sourcePort))",
      "destination": "\(end(flow.forward.destination, flow.forward.destinationPort))", "action": "\(flow.action.name)",
      "packets": "\(flow.packets)", "bytes": "\(flow.bytes)", "reverse-packets": "\(flow.reversePackets)",
      "reverse-bytes": "\(flow.reverseBytes)",
    ]
    if let rule = flow.rule { metadata["rule"] = "\(rule)" }
    if flow.kind == .ended { metadata["reason"] = "\(flow.endReason.name)" }
    if flow.missed > 0 { metadata["missed"] = "\(flow.missed)" }
    return metadata
  }
}
