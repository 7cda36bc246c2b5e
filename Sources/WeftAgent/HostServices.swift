import Logging
import Metrics
import ServiceLifecycle
import Synchronization
import WeftRing
import WeftWire

/// What the agent answers for the router: DHCP and router discovery of interfaces that have it (`InterfaceFlags.dhcp`). Frames
/// come as events of the forwarder's ring, answers go back by it. Works on a thread of its own: a replay that keeps the ring
/// busy keeps nobody else waiting.
public final class HostServices: Service, Sendable {
  private struct State {
    var bindings: [UInt32: ServiceBinding] = [:]
    var schedule: AdvertisementSchedule
    var channel: RingClient?
    /// When somebody was last warned of an interface, s: once a minute.
    var warned: [UInt32: UInt64] = [:]
    /// Leases that have been told of.
    var told: Set<String> = []
  }

  private let state: Mutex<State>
  private let logger: Logger
  private let executor = ThreadExecutor(name: "weft-services")
  private let traps: AsyncStream<(interface: UInt32, frame: [UInt8])>
  private let inlet: AsyncStream<(interface: UInt32, frame: [UInt8])>.Continuation

  /// Frames that wait to be answered; what comes beyond that is dropped, and asked again by its sender.
  private static let waiting = 1024
  /// Announcements in one exchange with the forwarder.
  private static let batch = 64

  private let registry: MetricsRegistry

  init(registry: MetricsRegistry, logger: Logger) {
    self.registry = registry
    self.logger = logger
    state = Mutex(State(schedule: AdvertisementSchedule(now: Self.seconds())))
    (traps, inlet) = AsyncStream.makeStream(bufferingPolicy: .bufferingOldest(Self.waiting))
  }

  private static func seconds() -> UInt64 { UnderlayWatcher.now() / 1_000_000_000 }
  private static func random(_ range: ClosedRange<UInt64>) -> UInt64 { UInt64.random(in: range) }

  // MARK: What the agent tells

  /// The forwarder that interfaces are in; nil: none.
  func use(_ channel: RingClient?) { state.withLock { $0.channel = channel } }

  /// An interface is in the forwarder and has DHCP. The same again changes nothing.
  func bind(_ binding: ServiceBinding) {
    state.withLock {
      guard $0.bindings.updateValue(binding, forKey: binding.interface) != binding else { return }
      if binding.v6.isEmpty {
        $0.schedule.remove(binding.interface)
      } else {
        $0.schedule.add(
          binding.interface, interval: UInt64(binding.settings.interval), now: Self.seconds(), random: Self.random)
      }
    }
  }

  func unbind(_ interface: UInt32) {
    state.withLock {
      $0.schedule.remove(interface)
      $0.warned[interface] = nil
      guard let old = $0.bindings.removeValue(forKey: interface) else { return }
      for what in ["ack", "reply"] { $0.told.remove("\(old.id)/\(what)") }
    }
  }

  func unbindAll() {
    state.withLock {
      $0.bindings = [:]
      $0.warned = [:]
      $0.schedule = AdvertisementSchedule(now: Self.seconds())
    }
  }

  /// A frame that the forwarder has trapped.
  func take(interface: UInt32, frame: [UInt8]) {
    if case .dropped = inlet.yield((interface, frame)) { count("dropped") }
  }

  // MARK: Answers

  public func run() async throws {
    await cancelWhenGracefulShutdown {
      await withTaskExecutorPreference(self.executor) {
        await withTaskGroup(of: Void.self) { group in
          group.addTask { for await (interface, frame) in self.traps { self.answer(interface, frame) } }
          group.addTask {
            while !Task.isCancelled {
              try? await Task.sleep(for: .seconds(1))
              self.announce()
            }
          }
        }
      }
    }
  }

  private func answer(_ interface: UInt32, _ octets: [UInt8]) {
    guard let (binding, channel) = state.withLock({ state in state.bindings[interface].map { ($0, state.channel) } })
    else {
      return logger.debug("interface \(interface) asks, and has no DHCP")
    }
    let outcome: ServiceOutcome
    do throws(MessageFault) {
      outcome = Self.outcome(try HostFrame(reading: octets), binding)
    } catch { outcome = .refused("a frame: \(error)") }
    switch outcome {
    case .answer(let frame, let what, let note):
      count(what)
      send([(interface, frame.octets)], channel)
      tell(binding, frame, what, note)
    case .noted(let what, let note, let isOdd):
      count(what)
      if isOdd { warn(binding, note) } else { log(.info, binding, note) }
    case .refused(let reason):
      count("refused")
      warn(binding, "not answered: \(reason)")
    }
  }

  /// What is to be done about a frame.
  package static func outcome(_ frame: HostFrame, _ binding: ServiceBinding) -> ServiceOutcome {
    switch frame.payload {
    case .udp(let source, DHCPPorts.server, let octets):
      return DHCPv4Server(binding: binding).answer(frame, octets, sourcePort: source)
    case .udp(_, DHCPPorts.server6, let octets): return DHCPv6Server(binding: binding).answer(frame, octets)
    case .icmpv6(let message): return RouterAdvertiser(binding: binding).answer(frame, message)
    case .udp(_, let port, _): return .refused("UDP to port \(port)")
    }
  }

  private func announce() {
    let (frames, channel) = state.withLock { state in
      let due = state.schedule.take(now: Self.seconds(), random: Self.random)
      return (
        due.compactMap { id in
          state.bindings[id].flatMap { RouterAdvertiser(binding: $0).frame() }.map { (id, $0.octets) }
        }, state.channel
      )
    }
    var rest = frames[...]
    while !rest.isEmpty {
      send(Array(rest.prefix(Self.batch)), channel)
      for _ in rest.prefix(Self.batch) { count("router-advertisement") }
      rest = rest.dropFirst(Self.batch)
    }
  }

  private func send(_ frames: [(interface: UInt32, octets: [UInt8])], _ channel: RingClient?) {
    guard let channel, !frames.isEmpty else { return }
    let commands = frames.flatMap {
      StagedBytes.commands($0.octets) + [.transmit(interface: $0.interface, length: UInt32($0.octets.count))]
    }
    do throws(RingError) {
      for case .failure(let refusal) in try channel.apply(commands) {
        count("unsent")
        logger.warning("the forwarder did not send an answer: \(refusal)")
      }
    } catch { logger.debug("an answer was not sent: \(error)") }
  }

  // MARK: What people hear of it

  private func count(_ what: String) {
    Counter(label: "weft_agent_service_messages_total", dimensions: [("message", what)], factory: registry).increment()
  }

  private func log(_ level: Logger.Level, _ binding: ServiceBinding, _ text: String) {
    logger.log(
      level: level, "\(text)",
      metadata: ["attachment": "\(binding.id)", "interface": "\(binding.interface)", "mac": "\(binding.mac)"])
  }

  /// Once a minute for each interface; the rest where somebody looks for it.
  private func warn(_ binding: ServiceBinding, _ text: String) {
    let now = Self.seconds()
    let isDue = state.withLock { state in
      guard now >= (state.warned[binding.interface] ?? 0) else { return false }
      state.warned[binding.interface] = now + 60
      return true
    }
    log(isDue ? .warning : .debug, binding, text)
  }

  /// The first time that an interface gets its address is worth a line, later ones are for who looks for them.
  private func tell(_ binding: ServiceBinding, _ frame: HostFrame, _ what: String, _ note: String?) {
    if let note { return warn(binding, "\(what): \(note)") }
    guard what == "ack" || what == "reply" else { return log(.debug, binding, "\(what) sent") }
    let isFirst = state.withLock { $0.told.insert("\(binding.id)/\(what)").inserted }
    log(
      isFirst ? .info : .debug, binding,
      "\(what) sent: \(binding.addresses.map(\.address.description).joined(separator: ", "))")
  }
}
