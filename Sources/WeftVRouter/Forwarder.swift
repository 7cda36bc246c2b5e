import CLinux
import Glibc
import Logging
import WeftForwarding
import WeftLogging
import WeftNetlink
import WeftRing
import WeftSystem
import WeftTables

/// How a forwarder is started.
public struct ForwarderSettings: Sendable {
  /// Where clients ask for their channel.
  public var socket: String
  /// A worker on each.
  public var cores: [Int]
  /// The machine: which node cores and NICs belong to.
  public var topology: MachineTopology
  public var idle: IdleMode
  /// adaptive: how long a worker goes on looking before it sleeps.
  public var spinMicroseconds: UInt64
  /// adaptive and event: while packets come, microseconds that the workers' cores may take to wake up; nil: as long as
  /// they like.
  public var wakeLatencyMicroseconds: UInt32?
  public var limits: TableLimits
  /// ICMP errors and TCP resets of a worker's own.
  public var errorsPerSecond: UInt64
  /// Frames of one interface that a worker leaves to the agent; twice as many at once.
  public var trapsPerSecond: UInt64

  public init(
    socket: String, cores: [Int], idle: IdleMode = .adaptive, spinMicroseconds: UInt64 = 5,
    wakeLatencyMicroseconds: UInt32? = 0,
    limits: TableLimits = TableLimits(), errorsPerSecond: UInt64 = 1000, trapsPerSecond: UInt64 = 50,
    topology: MachineTopology = MachineTopology()
  ) {
    self.topology = topology
    self.socket = socket
    self.cores = cores
    self.idle = idle
    self.spinMicroseconds = spinMicroseconds
    self.wakeLatencyMicroseconds = wakeLatencyMicroseconds
    self.limits = limits
    self.errorsPerSecond = errorsPerSecond
    self.trapsPerSecond = trapsPerSecond
  }

  /// Cores that this process may run on.
  public static var allowedCores: [Int] { (0..<4096).filter { weft_core_allowed(Int32($0)) != 0 } }
}

/// A running forwarder: workers, and the control thread (who calls `run`) that programs the tables for them.
public final class Forwarder {
  private let settings: ForwarderSettings
  private let logger: Logger
  private let tables: TableMemory
  private let statistics: StatisticsRegion
  private let server: RingServer
  let workers: [Worker]
  let ports: PortManager
  private let programmer: TableProgrammer
  private let tracer: Tracer
  private let captures: CaptureManager
  private let links: NetlinkMonitor
  private let signals: Descriptor
  private let reported: ReportSignal
  private var waiting: [Newcomer] = []
  private(set) var sessions: [Session] = []
  let injected = InjectBudget()
  private var sessionCount: UInt64 = 0

  /// Makes tables, workers and the socket. `file`: what to forward until an agent comes. Throws when the kernel will not
  /// give what it takes, and when an entry of the file is refused.
  public init(settings: ForwarderSettings, tables file: TablesFile? = nil, logger: Logger) throws {
    self.settings = settings
    self.logger = logger
    signals = try Self.takeSignals()
    let limits = settings.limits
    let placement = Placement(settings.topology, cores: settings.cores)
    let memory = NodeMemory(nodes: placement.nodes)
    // What this thread makes, and those that it starts, is all workers' until they say otherwise.
    memory.share()
    tables = try TableMemory(
      sizes: TableSizes(
        interfaces: Int(limits.interfaces), vrfs: Int(limits.vrfs), nexthops: Int(limits.nexthops),
        routes: Int(limits.routes), routeNodes: Int(limits.routeNodes), bridge: Int(limits.bridge)),
      workers: settings.cores.count)
    let reasons = DropReason.allCases
    statistics = try StatisticsRegion(
      layout: StatisticsLayout(
        workers: settings.cores.count, interfaces: Int(limits.interfaces), reasons: reasons.count),
      reasons: reasons.map { ($0.name, $0.explanation) })
    Self.makeFolder(of: settings.socket)
    // Fails first where another forwarder answers.
    server = try RingServer(path: settings.socket, statistics: statistics)
    let seed = UInt64.random(in: .min ... .max)
    reported = try ReportSignal()
    var workers: [Worker] = []
    var started = 0
    do {
      // Rings lie with whom they lead to, whoever touches them first.
      let mesh = try HandOverMesh(workers: settings.cores.count) { worker, part in
        memory.place(part, on: placement.workers[worker].node)
      }
      for (index, place) in placement.workers.enumerated() {
        let worker = try Worker(
          index: index, place: place, memory: memory, settings: settings, tables: tables.reader,
          epoch: tables.epochs.worker(index), statistics: statistics.worker(index), mesh: mesh, seed: seed,
          reported: reported, logger: logger)
        workers.append(worker)
      }
      for worker in workers {
        try worker.start(wakers: workers.map(\.waker))
        started += 1
      }
      ports = try PortManager(
        workers: workers, placement: placement, memory: memory, ownerSeed: Sharing.ownerSeed(seed),
        reported: reported, logger: logger)
      links = try NetlinkMonitor([.links])
    } catch {
      for worker in workers.prefix(started) { worker.stop() }
      throw error
    }
    self.workers = workers
    programmer = TableProgrammer(memory: tables, limits: limits, ports: ports)
    tracer = Tracer(programmer, seed: seed)
    captures = CaptureManager(programmer: programmer, ports: ports, workers: workers)
    if let file {
      do throws(Refusal) { try programmer.load(file) } catch {
        for worker in workers { worker.stop() }
        throw error
      }
    }
    logger.info(
      "forwarding",
      metadata: [
        "socket": "\(settings.socket)", "cores": "\(settings.cores)", "idle": "\(settings.idle.rawValue)",
        "numa-nodes": "\(placement.nodes)",
      ])
    report(placement, memory)
  }

  /// Says once where everything is, and what of that costs speed.
  private func report(_ placement: Placement, _ memory: NodeMemory) {
    for (index, worker) in placement.workers.enumerated() {
      logger.info("worker \(index) runs", metadata: ["core": "\(worker.core)", "numa-node": "\(worker.node)"])
    }
    for warning in placement.warnings { logger.warning("\(warning)") }
    // Where there is one node, it does not matter what is placed there.
    guard placement.topology.nodes.count > 1, memory.lastRefusal != 0 else { return }
    logger.warning(
      "the kernel does not place memory on NUMA nodes \(placement.nodes): it lies where the kernel puts it",
      metadata: ["reason": "\(SystemError.text(memory.lastRefusal))"])
  }

  /// The folder of the socket, where only that is missing: /run is empty after a boot.
  private static func makeFolder(of path: String) {
    guard let slash = path.lastIndex(of: "/"), slash != path.startIndex else { return }
    _ = mkdir(String(path[..<slash]), 0o755)
  }

  /// SIGTERM and SIGINT come as something to read, in this thread and those that it makes.
  private static func takeSignals() throws(SystemError) -> Descriptor {
    signal(SIGPIPE, SIG_IGN)
    var set = sigset_t()
    sigemptyset(&set)
    sigaddset(&set, SIGTERM)
    sigaddset(&set, SIGINT)
    sigaddset(&set, SIGHUP)
    sigaddset(&set, SIGUSR1)
    sigaddset(&set, SIGUSR2)
    pthread_sigmask(SIG_BLOCK, &set, nil)
    return try Descriptor(
      signalfd(-1, &set, Int32(SFD_CLOEXEC) | Int32(SFD_NONBLOCK)), "make", "signalfd")
  }

  /// Serves until SIGTERM or SIGINT. `leavesPorts`: the process is to exit at once, and somebody closes its descriptors
  /// faster than it could (`weft_start_closer`): the next forwarder does not have to wait for that.
  public func run(leavesPorts: Bool = false) {
    weft_name_thread("control")
    var stopping = false
    var lastLook: UInt64 = 0
    while !stopping {
      var entries = [
        pollfd(fd: signals.raw, events: Int16(POLLIN), revents: 0),
        pollfd(fd: server.descriptor, events: Int16(POLLIN), revents: 0),
        pollfd(fd: links.descriptor, events: Int16(POLLIN), revents: 0),
        pollfd(fd: reported.descriptor, events: Int16(POLLIN), revents: 0),
        pollfd(fd: ports.vhostPoller.raw, events: Int16(POLLIN), revents: 0),
      ]
      let fixed = entries.count
      for client in waiting { entries.append(pollfd(fd: client.raw, events: Int16(POLLIN), revents: 0)) }
      let clients = entries.count
      for session in sessions {
        entries.append(pollfd(fd: session.channel.socketDescriptor, events: Int16(POLLIN), revents: 0))
        entries.append(pollfd(fd: session.channel.commandDescriptor, events: Int16(POLLIN), revents: 0))
      }
      _ = poll(&entries, nfds_t(entries.count), patience)
      let now = weft_monotonic_ns()
      statistics.beat(now: now)
      if entries[0].revents != 0 { stopping = takeSignal() }
      if entries[2].revents != 0 { followLinks() }
      if entries[4].revents != 0 { tell(ports.serveVhost()) }
      ports.useFast()
      followReports(isNews: entries[3].revents != 0, now)
      for (index, session) in sessions.enumerated() {
        // A client's only word on its socket is that it goes.
        if entries[clients + 2 * index].revents != 0 { session.isOver = true }
        if !session.isOver {
          session.channel.beat(now: now)
          serve(session)
        }
      }
      drop { $0.isOver }
      admit(entries, from: fixed)
      if entries[1].revents != 0 { while let client = server.accept() { waiting.append(Newcomer(client)) } }
      // Who connects and says nothing does not hold a place for ever.
      if waiting.count > Self.maximumNewcomers { waiting.removeFirst(waiting.count - Self.maximumNewcomers) }
      if now &- lastLook > 1_000_000_000 {
        lastLook = now
        programmer.tellSizes(statistics, workers: workers.count)
        for changed in ports.followTaps() { tell(changed) }
        tell(ports.followVhost())
        ports.followQueues()
        ports.settleSpares()
      }
      programmer.commitIfDue()
      programmer.settlePolicers(now: now)
      tables.epochs.reclaim()
      if ports.takesUDPSegmentation, workers.contains(where: { $0.refusedUDPSegmentation.load(ordering: .relaxed) }) {
        logger.warning("the kernel takes no UDP super-frames: packets to the fabric go one by one")
        for (id, capabilities) in ports.withoutUDPSegmentation() { programmer.refresh(interface: id, capabilities) }
      }
    }
    logger.info("stopping")
    for worker in workers { worker.stop() }
    sessions.removeAll()
    if leavesPorts {
      ports.endListening()
      server.end()
    } else {
      ports.closeAll()
    }
  }

  /// True: the signal that came says to stop.
  private func takeSignal() -> Bool {
    var info = signalfd_siginfo()
    let size = MemoryLayout<signalfd_siginfo>.size
    guard read(signals.raw, &info, size) == size else { return false }
    switch Int32(bitPattern: info.ssi_signo) {
    case SIGUSR1: LogLevels.shared.more()
    case SIGUSR2: LogLevels.shared.set(nil)
    default: return true
    }
    logger.notice("log level changed", metadata: ["level": "\(LogLevels.shared.level.rawValue)"])
    return false
  }

  private static let maximumNewcomers = 64
  /// Reports of a worker in one go.
  private static let reportShare = 1024

  /// How long to wait for something to do, ms.
  private var patience: Int32 {
    if sessions.contains(where: \.hasMore) { return 0 }
    if sessions.contains(where: { $0.barrier != nil }) { return 1 }
    if programmer.hasUncommitted || hasTraps { return 2 }
    return tables.epochs.pending > 0 ? 10 : 100
  }

  // MARK: clients

  private func admit(_ entries: [pollfd], from first: Int) {
    var kept: [Newcomer] = []
    for (index, client) in waiting.enumerated() {
      guard entries[first + index].revents != 0 else {
        kept.append(client)
        continue
      }
      let agentPresent = sessions.contains { $0.channel.role == .agent }
      guard let socket = client.take(), let channel = server.admit(socket, agentPresent: agentPresent) else { continue }
      if channel.role == .agent { logger.info("agent connected", metadata: ["pid": "\(channel.clientPID)"]) }
      sessionCount += 1
      sessions.append(Session(channel, id: sessionCount))
    }
    waiting = kept
    openTraps()
  }

  private func drop(where isOver: (Session) -> Bool) {
    for session in sessions where isOver(session) {
      if session.channel.role == .agent { logger.info("agent left", metadata: ["pid": "\(session.channel.clientPID)"]) }
    }
    for session in sessions where isOver(session) { captures.stop(ofSession: session.id) }
    sessions.removeAll(where: isOver)
    openTraps()
  }

  private func serve(_ session: Session) {
    do {
      try session.serve(programmer, self)
    } catch {
      logger.error(
        "client \(session.channel.clientPID) has damaged its ring: disconnected",
        metadata: ["role": "\(session.channel.role)"])
      session.isOver = true
    }
  }

  private func followLinks() {
    guard let changes = try? links.nextChanges(timeoutMilliseconds: 0) else { return }
    for change in changes {
      let changed: (id: UInt32, isUp: Bool)?
      switch change {
      case .link(let link):
        changed = ports.linkChanged(kernelIndex: link.index, isUp: link.isRunning).map { ($0, link.isRunning) }
      case .linkRemoved(let link): changed = ports.linkChanged(kernelIndex: link.index, isUp: false).map { ($0, false) }
      default: changed = nil
      }
      if let changed { tell(changed) }
    }
  }

  /// Front ends of vhost-user have come, gone, or said what their guests take.
  private func tell(_ news: [VhostNews]) {
    for one in news {
      if let capabilities = one.capabilities { programmer.refresh(interface: one.id, capabilities) }
      if let isUp = one.isUp { tell((one.id, isUp)) }
    }
  }

  /// An interface has come up or gone down.
  private func tell(_ changed: (id: UInt32, isUp: Bool)) {
    logger.info("interface \(changed.id) is \(changed.isUp ? "up" : "down")")
    for session in sessions where session.channel.role == .agent {
      do { try session.channel.emit(.interfaceState(id: changed.id, isUp: changed.isUp)) } catch {
        session.isOver = true
      }
    }
  }

  /// What workers have seen, and what has not been seen for too long.
  private func followReports(isNews: Bool, _ now: UInt64) {
    if isNews {
      reported.drain()
      for worker in workers {
        var left = Self.reportShare
        while left > 0, let report = worker.reports.next() {
          programmer.take(report)
          left -= 1
        }
        if left == 0 { reported.signal() }
      }
      followFlows()
    }
    followTraps()
    programmer.age(now: now)
    let events = programmer.takeEvents()
    guard !events.isEmpty else { return }
    for session in sessions where session.channel.role == .agent {
      do { for event in events { try session.channel.emit(event) } } catch { session.isOver = true }
    }
  }

  /// What workers tell of flows. Other events have the last quarter of a client's ring to themselves.
  private func followFlows() {
    let offset = CaptureManager.clockOffset()
    let watchers = sessions.filter(\.watchesFlows)
    for worker in workers {
      var left = Self.reportShare
      while left > 0, let event = worker.flowEvents.next() {
        left -= 1
        let report = FlowReport(event, worker: worker.index, offset: offset)
        for session in watchers where !session.isOver { session.tell(report) }
      }
      if left == 0 { reported.signal() }
    }
  }

  // MARK: what sessions ask for

  /// Flows of all workers, one worker after the other: the cursor's upper half is the worker.
  func flows(cursor: UInt64, limit: Int) -> (records: [FlowRecord], next: UInt64) {
    var worker = Int(cursor >> 32)
    var position = Int(cursor & 0xFFFF_FFFF)
    var records: [FlowRecord] = []
    while worker < workers.count, records.count < limit {
      let answer = FlowAnswer()
      let acknowledgement = Acknowledgement(workers: 1)
      workers[worker].post([
        .readFlows(cursor: position, limit: limit - records.count, answer), .acknowledge(acknowledgement),
      ])
      guard acknowledgement.wait(milliseconds: 5000) else { return (records, 0) }
      let (found, next) = answer.records.withLock { $0 }
      records += found
      position = next
      if next == 0 { worker += 1 }
    }
    return (records, worker < workers.count ? UInt64(worker) << 32 | UInt64(position) : 0)
  }

  /// Starts a capture for a session; its number.
  func startCapture(
    _ configuration: CaptureConfiguration, filter: [UInt8], _ session: Session
  ) throws(Refusal) -> UInt32 {
    let id = try captures.start(configuration, filter: filter, session: session.id, channel: session.channel)
    logger.info("capture \(id) started", metadata: ["pid": "\(session.channel.clientPID)"])
    return id
  }

  func stopCapture(_ id: UInt32, _ session: Session) throws(Refusal) { try captures.stop(id, session: session.id) }

  /// What would become of a frame, with the flow that a worker has for it.
  func trace(_ frame: [UInt8], interface: UInt32) throws(Refusal) -> Trace {
    try tracer.trace(frame, interface: interface, now: weft_monotonic_ns()) { key in
      let found = FlowFound()
      ports.settle([.findFlow(key, found)])
      return found.flow.withLock { $0 }
    }
  }

  /// Workers have read their mail, and a mark that they all pass once they have seen the tables as they are now.
  func mark() -> UInt64 {
    ports.settle([])
    return tables.epochs.mark()
  }
  func hasPassed(_ mark: UInt64) -> Bool { tables.epochs.hasPassed(mark) }
}
