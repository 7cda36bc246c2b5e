import Glibc
import Logging
import Synchronization
import WeftAPI
import WeftRing
import WeftWire

/// The agent's core: what is attached, and what the forwarder was told of it. Whatever changes the forwarder or the
/// state of an attachment happens here, one thing after the other, on a thread of its own: the ring blocks.
public actor Agent {
  public nonisolated let configuration: AgentConfiguration
  nonisolated let store: Store
  nonisolated let logger: Logger
  public nonisolated let metrics = AgentMetrics()
  /// DHCP and router discovery.
  public nonisolated let dhcp: HostServices
  private nonisolated let executor = ThreadExecutor(name: "weft-ring")
  public nonisolated var unownedExecutor: UnownedSerialExecutor { executor.asUnownedSerialExecutor() }

  let planner: Planner
  nonisolated let gateways: HostGateways
  nonisolated let services: Services
  private var channel: RingClient?
  private var underlay = Underlay()
  /// What the forwarder holds of us, as far as this channel knows.
  private var base = ForwarderState()
  var installed = InstalledPorts()
  /// Something may be in the forwarder that should not, or the reverse: replay everything.
  private var needsReplay = false
  private var nextReplay: UInt64 = 0
  private var nextRetry: UInt64 = 0
  nonisolated let shared = Mutex(Shared())

  /// What may be asked for while the core is busy.
  struct Shared: Sendable {
    var forwarder: AgentStatus.Forwarder?
    var channel: RingClient?
    var underlay = Underlay()
    var peers: [String: Underlay.PeerPath] = [:]
    var fabricMTU: Int?
    /// When the core last began to wait for the forwarder; nil: it does not.
    var waitingSince: UInt64?
    /// Why the channel was given up though the forwarder did not close it.
    var givenUp: String?
  }

  public init(_ configuration: AgentConfiguration, store: Store, logger: Logger) throws(APIError) {
    self.configuration = configuration
    self.store = store
    self.logger = logger
    dhcp = HostServices(registry: metrics.registry, logger: logger.part("dhcp"))
    do { gateways = try HostGateways(configuration, store: store, logger: logger) } catch {
      throw Store.fault("look after host gateways", error)
    }
    do { services = try Services(configuration, store: store, logger: logger) } catch {
      throw Store.fault("make the network namespace of services", error)
    }
    let identifiers = Planner.identifiers(configuration) + gateways.identifiers
    // New entries get their numbers before old ones are retired: a number means one thing until a sweep.
    planner = Planner(configuration, numbers: try store.numbers(identifiers))
    try store.retireNumbers(except: Set(identifiers))
    shared.withLock {
      $0.forwarder = AgentStatus.Forwarder(
        connected: false, synchronized: false, socket: configuration.forwarderSocket,
        reason: "not connected yet")
    }
  }

  private func publish(_ change: (inout AgentStatus.Forwarder) -> Void) {
    shared.withLock { if $0.forwarder != nil { change(&$0.forwarder!) } }
  }

  // MARK: The forwarder comes and goes

  /// Takes a new channel into use: replays everything into the forwarder.
  func connected(_ channel: RingClient) {
    self.channel = channel
    dhcp.use(channel)
    metrics.connected()
    shared.withLock {
      $0.givenUp = nil
      $0.channel = channel
    }
    publish {
      $0.connected = true
      $0.pid = channel.forwarderPID
      $0.reason = nil
    }
    logger.info("connected to the forwarder", metadata: ["pid": "\(channel.forwarderPID)"])
    replay()
  }

  /// There is no forwarder, or none any more.
  func disconnected(_ channel: RingClient?, reason: String) {
    guard channel === self.channel || channel == nil else { return }
    if self.channel != nil { logger.warning("lost the forwarder: \(reason)") }
    self.channel = nil
    dhcp.use(nil)
    shared.withLock { $0.channel = nil }
    base = ForwarderState()
    installed = InstalledPorts()
    dhcp.unbindAll()
    publish {
      $0.connected = false
      $0.synchronized = false
      $0.pid = nil
      $0.reason = reason
    }
  }

  /// Once a second: makes good what failed.
  func maintain() {
    guard channel != nil else { return }
    if !needsReplay { return retryAttachments() }
    if UnderlayWatcher.now() >= nextReplay { replay() }
  }

  /// Every few seconds: those that could not be put into the forwarder. What stood in their way may have gone: a queue that
  /// another process had, a namespace that was not there yet. (Of interfaces that come up the kernel tells.)
  private func retryAttachments() {
    let now = UnderlayWatcher.now()
    guard now >= nextRetry else { return }
    nextRetry = now + 5_000_000_000
    do {
      let waiting = try store.attachmentsNow(where: "\(Self.wanted) AND reason IS NOT NULL")
      for record in waiting.prefix(Self.retries) where channel != nil && installed[record.id] == nil {
        try settle(record)
      }
    } catch { logger.warning("attachments that do not forward were not tried again: \(error)") }
  }

  private static let retries = 64
  /// Those that are to be in the forwarder.
  static let wanted = "wanted AND state <> 'deleting'"

  /// Sends commands and notes how long it takes; the channel is given up when it does not work any more.
  private func apply(_ commands: [Command]) throws(RingError) -> [Result<Void, Refusal>] {
    guard let channel else { throw .disconnected }
    var results: [Result<Void, Refusal>] = []
    var rest = commands[...]
    do {
      while !rest.isEmpty {
        // Opening an interface's port takes a while, and the watchdog is to see progress.
        let batch = Self.batch(rest)
        rest = rest.dropFirst(batch.count)
        shared.withLock { $0.waitingSince = UnderlayWatcher.now() }
        results += try channel.apply(batch)
      }
      shared.withLock { $0.waitingSince = nil }
    } catch {
      let givenUp = shared.withLock {
        $0.waitingSince = nil
        return $0.givenUp
      }
      channel.close()
      disconnected(channel, reason: givenUp ?? error.description)
      throw error
    }
    return results
  }

  /// The first commands of these: at most 2,048, and of those that open a port 64.
  private static func batch(_ commands: ArraySlice<Command>) -> [Command] {
    var ports = 0
    return Array(
      commands.prefix(2048).prefix {
        if case .setInterface = $0 { ports += 1 }
        return ports <= 64
      })
  }

  private static func refusals(_ results: [Result<Void, Refusal>]) -> [Refusal] {
    results.compactMap { if case .failure(let refusal) = $0 { refusal } else { nil } }
  }

  /// Everything anew under a new generation, then a sweep of what older ones left. What is in the forwarder already and
  /// has not changed goes on forwarding meanwhile.
  private func replay() {
    needsReplay = false
    publish { $0.synchronized = false }
    let start = UnderlayWatcher.now()
    var outcome = AgentMetrics.Outcome.failed
    defer { metrics.replayed(outcome, since: start) }
    do {
      let retired = store.retiredNumbers()
      let generation = try store.nextGeneration(now: WallClock.nanoseconds())
      let records = try store.attachmentsNow(where: Self.wanted)
      base = try planner.base(underlay, store)
      installed = InstalledPorts()
      dhcp.unbindAll()
      let commands = [.begin(generation: generation)] + base.commands()
      var problem: String?
      for (command, result) in zip(commands, try apply(commands)) {
        guard case .failure(let refusal) = result else { continue }
        logger.error("the forwarder refused an entry", metadata: ["entry": "\(command)", "reason": "\(refusal)"])
        problem = problem ?? refusal.description
        if command == commands[0] { throw refusal }
      }
      let failed =
        try install(records.filter { $0.vlan == nil }) + install(records.filter { $0.vlan != nil })
      for refusal in Self.refusals(try apply([.sweep(generation: generation), .barrier])) {
        logger.error("the forwarder refused to sweep", metadata: ["reason": "\(refusal)"])
        problem = problem ?? refusal.description
      }
      // What stood in their way may be swept now.
      for record in failed { try settle(record) }
      // The forwarder may have gone meanwhile, which has been said already.
      guard channel != nil else { return }
      try store.setState(
        records.filter { ($0.state != .active || $0.reason != nil) && installed[$0.id] != nil }.map(\.id), .active)
      if problem == nil {
        try store.freeNumbers(retired)
        outcome = .ok
      }
      publish {
        $0.generation = generation
        $0.synchronized = problem == nil
        $0.reason = problem
      }
      logger.info(
        "replayed into the forwarder",
        metadata: [
          "generation": "\(generation)", "attachments": "\(installed.count)",
          "failed": "\(records.count - installed.count)",
        ])
      if problem != nil { retryReplay() }
    } catch let error as RingError {
      logger.warning("the replay ended early: \(error)")
    } catch {
      logger.error("cannot replay into the forwarder: \(error)")
      publish { $0.reason = "\(error)" }
      retryReplay()
    }
  }

  private func retryReplay() {
    needsReplay = true
    nextReplay = UnderlayWatcher.now() + 5_000_000_000
  }

  // MARK: The underlay changes

  func underlayChanged(_ new: Underlay) {
    var new = new
    let fabricMTU = new.fabricMTU(configuration)
    new.hostPorts = gateways.reconcile(fabricMTU: fabricMTU) + services.reconcile(fabricMTU: fabricMTU)
    guard new != underlay else { return }
    for peer in configuration.peers where new.peers[peer.name] != underlay.peers[peer.name] {
      let path = new.peers[peer.name]
      logger.info(
        "peer \(peer.name) is \(path?.mac.isZero == false ? "reached" : "not reached")",
        metadata: [
          "address": "\(peer.address)", "next-hop": "\(path?.nextHop?.description ?? "-")",
          "mac": "\(path?.mac.description ?? "-")", "reason": "\(path?.reason ?? "-")",
        ])
    }
    let mtuChanged = new.fabricMTU(configuration) != underlay.fabricMTU(configuration)
    underlay = new
    shared.withLock {
      $0.underlay = new
      $0.peers = new.peers
      $0.fabricMTU = new.fabricMTU(configuration)
    }
    guard channel != nil else { return }
    do {
      let state = try planner.base(new, store)
      let refusals = Self.refusals(try apply(state.commands(replacing: base)))
      base = state
      if let refusal = refusals.first {
        logger.error("the forwarder refused a change of the underlay: \(refusal)")
        publish {
          $0.synchronized = false
          $0.reason = refusal.description
        }
        retryReplay()
      }
      if mtuChanged {
        let records = try store.attachmentsNow(where: Self.wanted)
        // A VLAN's frames go no further than its parent's.
        for record in records.filter({ $0.vlan == nil }) + records.filter({ $0.vlan != nil })
        where installed[record.id] != nil { try settle(record) }
      }
    } catch { logger.warning("the change of the underlay was not applied: \(error)") }
  }

  /// What the host has in networks is to be different.
  func hostPortsChanged() { underlayChanged(underlay) }

  /// A kernel interface has come up: what waited for it is tried again.
  func linkChanged(_ name: String) {
    guard channel != nil else { return }
    do {
      for record in try store.attachmentsNow(
        where: "\(Self.wanted) AND reason IS NOT NULL AND host_interface = ?", [name])
      {
        try settle(record)
      }
    } catch { logger.warning("interface \(name) came up but was not put into the forwarder: \(error)") }
  }

  // MARK: Attachments

  /// Puts an attachment into the forwarder. Nil, or why it is not in it; then nothing of it is.
  func install(_ record: AttachmentRecord) throws -> APIError? {
    do {
      try installOrThrow(record)
      return nil
    } catch let error as APIError { return error }
  }

  /// Puts an attachment that is to forward into the forwarder, and notes what came of it.
  func settle(_ record: AttachmentRecord) throws {
    let error = try install(record)
    let state = AttachmentState.after(error)
    guard state != record.state || error?.reason != record.reason else { return }
    try store.setState([record.id], state, reason: error?.reason)
    if let error {
      logger.warning("attachment \(record.id) is \(state.rawValue): \(error.reason)")
    } else {
      logger.info("attachment \(record.id) forwards")
    }
  }

  /// All of them in one go: a replay of many waits for the forwarder once, not once for each. Those that are not in it.
  private func install(_ records: [AttachmentRecord]) throws -> [AttachmentRecord] {
    var failed: [AttachmentRecord] = []
    var prepared: [(record: AttachmentRecord, installed: Installed, commands: [Command])] = []
    for record in records {
      do {
        let state = try prepare(record)
        if let there = installed[record.id], there.place != state.place { try uninstall(record.id) }
        prepared.append((record, state, state.state.commands(replacing: installed[record.id]?.state ?? .init())))
      } catch is APIError { failed.append(record) }
    }
    let results = try apply(prepared.flatMap(\.commands))
    var position = 0
    for (record, state, commands) in prepared {
      let own = Array(results[position..<position + commands.count])
      position += commands.count
      note(record.id, state)
      guard !Self.refusals(own).isEmpty else { continue }
      try uninstall(record.id)
      failed.append(record)
    }
    return failed
  }

  func installOrThrow(_ record: AttachmentRecord) throws {
    let new = try prepare(record)
    if let there = installed[record.id], there.place != new.place { try uninstall(record.id) }
    let commands = new.state.commands(replacing: installed[record.id]?.state ?? ForwarderState())
    guard !commands.isEmpty else { return }
    let results: [Result<Void, Refusal>]
    do throws(RingError) { results = try apply(commands + [.barrier]) } catch { throw unavailable() }
    note(record.id, new)
    if let refusal = Self.refusals(results).first {
      try uninstall(record.id)
      throw APIError(.forwarderRefused, "the forwarder refused attachment \(record.id): \(refusal)")
    }
    try installVLANs(of: record)
  }

  private func note(_ id: String, _ new: Installed) {
    installed[id] = new
    if let service = new.service { dhcp.bind(service) }
  }

  /// What an attachment is to be in the forwarder.
  private func prepare(_ record: AttachmentRecord) throws -> Installed {
    guard channel != nil else { throw unavailable() }
    let place = try place(of: record)
    let fabricMTU = underlay.fabricMTU(configuration)
    let parent = try parent(of: record, fabricMTU: fabricMTU)
    let identifiers = Store.identifiers(of: record.id)
    let numbers = try store.numbers(identifiers)
    guard let interface = numbers[identifiers[0]], let nexthop = numbers[identifiers[1]],
      let state = planner.attachment(
        record, interface: interface, nexthop: nexthop, fabricMTU: fabricMTU, parent: parent,
        bandwidth: try store.bandwidth(of: record.id))
    else {
      throw APIError(
        .conflict,
        "network \(record.network) with a subnet of \(record.addresses.map(\.description).joined(separator: ", ")) is "
          + "not in the configuration any more")
    }
    return Installed(
      state: state, place: place, parent: parent?.id,
      service: configuration.serviceBinding(
        record, interface: interface, fabricMTU: fabricMTU, parentMTU: parent?.mtu))
  }

  /// Takes an attachment out of the forwarder. False: something of it may be left, until a replay has swept it.
  @discardableResult
  func uninstall(_ id: String) throws(APIError) -> Bool {
    try uninstallVLANs(of: id)
    guard let there = installed.removeValue(forKey: id) else { return channel != nil && !needsReplay }
    if let service = there.service { dhcp.unbind(service.interface) }
    let commands = ForwarderState().commands(replacing: there.state) + [.barrier]
    let results: [Result<Void, Refusal>]
    do throws(RingError) { results = try apply(commands) } catch { return false }
    let serious = Self.refusals(results).filter { $0.code != .notFound }
    guard let refusal = serious.first else { return true }
    logger.error("the forwarder refused to remove attachment \(id): \(refusal)")
    retryReplay()
    return false
  }

  private func unavailable() -> APIError {
    APIError(
      .forwarderUnavailable,
      "no forwarder at \(configuration.forwarderSocket): \(forwarderStatus.reason ?? "it went away"); is weft-vrouter "
        + "running?")
  }
}
