import CLinux
import Glibc
import Logging
import Synchronization
import WeftForwarding
import WeftPorts
import WeftRing
import WeftSystem
import WeftTables
import WeftWire

/// What a worker does when nothing comes in.
public enum IdleMode: String, CaseIterable, Sendable {
  /// Goes on looking: the lowest latency, for a core that has nothing else to do.
  case poll
  /// Looks for a while, then sleeps until the kernel has something: a node at rest burns no core.
  case adaptive
  /// Sleeps as soon as there is nothing: the least of the processor, the longest round trips.
  case event
}

/// A thread that forwards: pinned to a core, its memory on that core's NUMA node. It takes batches from its queues one
/// after the other, lets each through the packet path and sends what comes out of it.
final class Worker: @unchecked Sendable {
  let index: Int
  let core: Int
  /// The core's NUMA node; 0 where there is but one.
  let node: Int
  private let memory: NodeMemory
  let mailbox = Mailbox()
  /// The kernel refused a UDP super-frame for what it is.
  let refusedUDPSegmentation = Atomic<Bool>(false)
  private let idle: IdleMode
  private let spin: UInt64
  private let wakeLatency: UInt32?
  private let errorsPerSecond: UInt64
  private let trapsPerSecond: UInt64
  private let tables: Tables
  private let epoch: WorkerEpoch
  private let statistics: WorkerStatistics
  private let limits: TableLimits
  private let seed: UInt64
  private let mesh: HandOverMesh
  /// What wakes each of the workers; filled in before the thread starts.
  private var wakers: [Int32] = []
  private let logger: Logger
  private let stopping = Atomic<Bool>(false)
  private let wake: Descriptor
  /// What it has seen, for the control thread, and how that wakes up.
  let reports: ReportRing
  let flowEvents: WorkerRing<FlowEvent>
  /// What it leaves to the agent.
  let traps: TrapRing
  private let reported: ReportSignal
  private let poller: Descriptor
  private let started: Acknowledgement
  private let failure = Mutex<SystemError?>(nil)
  private var thread = pthread_t()

  init(
    index: Int, place: Placement.Worker, memory: NodeMemory, settings: ForwarderSettings, tables: Tables,
    epoch: WorkerEpoch, statistics: WorkerStatistics, mesh: HandOverMesh, seed: UInt64, reported: ReportSignal,
    logger: Logger
  ) throws(SystemError) {
    self.index = index
    core = place.core
    node = place.node
    self.memory = memory
    idle = settings.idle
    spin = settings.idle == .event ? 0 : settings.spinMicroseconds * 1000
    wakeLatency = settings.idle == .poll ? nil : settings.wakeLatencyMicroseconds
    errorsPerSecond = settings.errorsPerSecond
    trapsPerSecond = settings.trapsPerSecond
    limits = settings.limits
    self.tables = tables
    self.epoch = epoch
    self.statistics = statistics
    self.seed = seed
    self.mesh = mesh
    self.logger = logger
    self.reported = reported
    reports = try ReportRing()
    flowEvents = try WorkerRing()
    traps = try TrapRing()
    wake = try .event()
    poller = try Descriptor(epoll_create1(Int32(EPOLL_CLOEXEC)), "make", "epoll descriptor")
    started = Acknowledgement(workers: 1)
    try watch(wake.raw, Self.wakeToken)
  }

  /// What wakes it: an eventfd.
  var waker: Int32 { wake.raw }

  /// Starts the thread and waits until it has its memory. `wakers`: those of all workers.
  func start(wakers: [Int32]) throws(SystemError) {
    self.wakers = wakers
    let argument = Unmanaged.passRetained(self)
    let status = pthread_create(
      &thread, nil,
      { @Sendable argument in
        guard let argument else { return nil }
        Unmanaged<Worker>.fromOpaque(argument).takeRetainedValue().run()
        return nil
      }, argument.toOpaque())
    guard status == 0 else {
      argument.release()
      throw SystemError("start", "worker \(index)", code: status)
    }
    started.wait()
    if let error = failure.withLock({ $0 }) {
      pthread_join(thread, nil)
      throw error
    }
  }

  /// Ends the thread; its last batch has been sent when this returns.
  func stop() {
    stopping.store(true, ordering: .releasing)
    wake.signal()
    pthread_join(thread, nil)
  }

  func post(_ mail: [Mail]) {
    mailbox.put(mail)
    wake.signal()
  }

  // MARK: the thread

  private static let wakeToken = UInt64.max
  /// How often a worker that has work looks whether queues that were quiet have some too, in rounds.
  private static let roundsPerLook = 16
  /// A worker that sleeps wakes up for its heartbeat and to let idle flows go.
  private static let nap: Int32 = 100
  /// The core stays easy to wake so long after the last packet, ns: while a nap lasts.
  private static let wakefulness: UInt64 = 90_000_000
  /// Its time slice, ns: the shortest that the kernel takes.
  private static let slice: UInt64 = 100_000

  private func openWakeLatency(_ microseconds: UInt32) -> WakeLatency? {
    do throws(SystemError) { return try WakeLatency.of(core: core, microseconds: microseconds) } catch {
      logger.info("core \(core) sleeps as it likes, and takes its time to wake up: \(error)")
      return nil
    }
  }

  private func watch(_ descriptor: Int32, _ token: UInt64) throws(SystemError) {
    var event = epoll_event()
    event.events = UInt32(EPOLLIN.rawValue)
    event.data.u64 = token
    guard epoll_ctl(poller.raw, EPOLL_CTL_ADD, descriptor, &event) == 0 else {
      throw SystemError("watch", "a port of worker \(index)")
    }
  }

  private func run() {
    weft_name_thread("worker \(index)")
    do throws(SystemError) {
      guard weft_pin_thread(Int32(core)) == 0 else { throw SystemError("pin worker \(index) to", "core \(core)") }
      // Others on this core are not to keep packets waiting for as long as they are let run by default.
      if weft_set_slice(Self.slice) != 0 { logger.info("worker \(index) has time slices as all: \(errno)") }
      // Everything that this thread touches first comes from its own node.
      memory.prefer(node)
      statistics.setPlace(core: Int32(core), node: Int32(node))
      let large = try LargeFrames()
      let sender = try PacketSender(mtu: 1600)
      let flows = try FlowTable(capacity: Int(limits.flows), seed: seed)
      let sharing =
        mesh.workers == 1
        ? Sharing() : try Sharing(mesh, worker: index, redirects: Int(limits.flows), seed: seed)
      let counters = Counters(
        drops: statistics.drops, interfaces: statistics.interfaces, interfaceCount: Int(limits.interfaces))
      var path = PacketPath(
        tables: tables, flows: flows, fragments: try FragmentTable(seed: seed),
        nat: try NATWorker(worker: index, seed: seed), counters: counters,
        interfaces: Int(limits.interfaces), seed: seed, sharing: sharing)
      path.policers.worker = index
      path.mirrorCounts = tables.mirrors.counter(worker: index)
      path.errors = RateLimit(perSecond: errorsPerSecond, burst: max(1, errorsPerSecond / 10))
      path.reports = reports.writer
      path.flowEvents = flowEvents.writer
      path.trapWriter = traps.writer
      path.trapLimits.perSecond = trapsPerSecond
      path.trapLimits.burst = trapsPerSecond * 2
      path.identification = UInt32(truncatingIfNeeded: seed) &+ UInt32(index) << 20
      started.give()
      loop(large, sender, path, counters)
    } catch {
      failure.withLock { $0 = error }
      started.give()
    }
  }

  private func loop(
    _ large: consuming LargeFrames, _ sender: consuming PacketSender, _ path: consuming PacketPath, _ counters: Counters
  ) {
    var state = WorkerState(
      large: large, sender: sender, path: path, counters: counters, interfaces: Int(limits.interfaces),
      wakers: wakers, poller: poller.raw)
    var events = [epoll_event](repeating: epoll_event(), count: 64)
    var rounds = 0
    var lastWork = weft_monotonic_ns()
    var lastBeat: UInt64 = 0
    var lastRound = lastWork
    var busy: UInt64 = 0
    var wasBusy = false
    var latency = wakeLatency.flatMap { openWakeLatency($0) }
    epoch.comeOnline()
    while !stopping.load(ordering: .relaxed) {
      let now = weft_monotonic_ns()
      // A round lasts until the next one begins: no other look at the clock.
      if wasBusy { busy &+= now &- lastRound }
      lastRound = now
      if now &- lastBeat > 50_000_000 {
        lastBeat = now
        statistics.beat(now: now)
        statistics.setBusy(busy)
        statistics.setFlows(state.path.flows.count, refused: state.path.flows.refused)
        let sharing = state.sharing
        statistics.setSharing(
          given: sharing.given, taken: sharing.taken, redirects: sharing.redirects, refused: sharing.refused)
      }
      if mailbox.hasMail { read(mailbox.take(), &state, now) }
      let packets = state.round(now, statistics)
      let isAged = state.age(now)
      epoch.quiescent()
      if state.path.hasReported {
        state.path.hasReported = false
        reported.signal()
      }
      if state.sawRefusal {
        state.sawRefusal = false
        refusedUDPSegmentation.store(true, ordering: .relaxed)
      }
      wasBusy = packets > 0
      if packets > 0 {
        lastWork = now
        latency?.hold()
      } else if now &- lastWork > Self.wakefulness {
        latency?.release()
      }
      rounds &+= 1
      var timeout: Int32 = 0
      if packets == 0, isAged, idle != .poll, now &- lastWork >= spin {
        timeout = state.watchAll() && state.path.sharing.fallAsleep() ? Self.nap : 0
      } else if packets > 0, rounds % Self.roundsPerLook != 0 {
        continue
      }
      if timeout > 0 {
        statistics.countSleep()
        epoch.goOffline()
      } else {
        weft_pause()
      }
      let ready = epoll_wait(poller.raw, &events, Int32(events.count), timeout)
      if timeout > 0 {
        epoch.comeOnline()
        state.path.sharing.wakeUp()
      }
      for number in 0..<max(0, Int(ready)) {
        let token = events[number].data.u64
        if token == Self.wakeToken {
          wake.drain()
        } else {
          let hasError = events[number].events & UInt32(EPOLLERR.rawValue | EPOLLHUP.rawValue) != 0
          if let gone = state.wake(Int(token), hasError: hasError) { forget(gone) }
        }
      }
    }
    epoch.goOffline()
    // What waits for an answer gets one.
    read(mailbox.take(), &state, weft_monotonic_ns())
  }

  private func read(_ mail: [Mail], _ state: inout WorkerState, _ now: UInt64) {
    for letter in mail {
      switch letter {
      case .output(let interface, let output): state.setOutput(interface, output)
      case .receivePackets(let queue):
        let slot = state.add(packets: queue)
        receive(queue.source.pointee.descriptor, slot, queue.source.pointee.interface)
      case .receiveTap(let queue):
        let slot = state.add(tap: queue)
        receive(queue.source.pointee.descriptor, slot, queue.source.pointee.interface)
      case .receiveXDP(let queue):
        let slot = state.add(xdp: queue)
        receive(queue.source.pointee.descriptor, slot, queue.source.pointee.interface)
      case .receiveVhost(let queue):
        let slot = state.add(vhost: queue)
        receive(queue.source.pointee.descriptor, slot, queue.source.pointee.interface)
      case .detach(let interface):
        for descriptor in state.remove(interface) { forget(descriptor) }
        statistics.setQueues(interface, 0)
      case .readFlows(let cursor, let limit, let answer):
        var records: [FlowRecord] = []
        let next = state.path.flows.dump(cursor: cursor, limit: limit) { records.append(flowRecord($0, index, now)) }
        answer.records.withLock { $0 = (records, next) }
      case .findFlow(let key, let found):
        if let flow = state.path.flows.snapshot(key, worker: index) { found.offer(flow) }
      case .transmit(let interface, let frame, let budget):
        budget.giveBack()
        state.transmit(frame, interface: interface, now)
      case .startCapture(let tap): state.path.add(tap)
      case .stopCapture(let id): state.path.removeCapture(id)
      case .acknowledge(let acknowledgement): acknowledgement.give()
      }
    }
  }

  private func forget(_ descriptor: Int32) { _ = epoll_ctl(poller.raw, EPOLL_CTL_DEL, descriptor, nil) }

  private func receive(_ descriptor: Int32, _ slot: Int, _ interface: UInt32) {
    statistics.countQueue(interface)
    do { try watch(descriptor, UInt64(slot)) } catch {
      logger.error("worker \(index) does not receive from interface \(interface): \(error)")
    }
  }
}

/// A flow entry as it is told to others. `now` is CLOCK_MONOTONIC, ns.
func flowRecord(_ entry: FlowEntry, _ worker: Int, _ now: UInt64) -> FlowRecord {
  FlowRecord(
    worker: UInt32(worker), vrf: UInt32(truncatingIfNeeded: entry.key.vrf), source: entry.key.source,
    destination: entry.key.destination, proto: entry.key.proto, sourcePort: entry.key.sourcePort,
    destinationPort: entry.key.destinationPort, isForward: entry.isForward, nexthop: entry.nexthop,
    packets: entry.packets, bytes: entry.bytes, ageMilliseconds: (now &- min(now, entry.created)) / 1_000_000,
    idleMilliseconds: (now &- min(now, entry.lastSeen)) / 1_000_000)
}
