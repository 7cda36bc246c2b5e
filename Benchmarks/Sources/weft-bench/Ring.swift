import CLinux
import CMeasure
import Glibc
import Synchronization
import WeftForwarding
import WeftRing
import WeftTables
import WeftVRouter
import WeftWire

/// Route updates through a real ring while a thread forwards on a core of its own.
enum Ring {
  private static let prefixes = 1 << 16
  private static let share = 4096

  static func measure(quick: Bool) throws {
    let weft = try WeftSide(flowEntries: Pipeline.flowEntries, routes: prefixes + 4096, routeNodes: prefixes * 4)
    let path = "/tmp/weft-bench-\(getpid()).socket"
    let statistics = try StatisticsRegion(
      layout: StatisticsLayout(workers: 1, interfaces: Topology.interfaces, reasons: DropReason.allCases.count),
      reasons: DropReason.allCases.map { ($0.name, $0.explanation) })
    let server = try RingServer(path: path, statistics: statistics)
    let control = ControlThread(server: server, weft: weft)
    let forwarding = ForwardingThread(weft)

    // What the machine does to a thread that forwards and nothing else.
    let cores = sysconf(Int32(_SC_NPROCESSORS_ONLN))
    let worker = Thread { forwarding.run(core: cores > 1 ? 1 : nil) }
    var spansAlone: [BatchTimes] = []
    _ = forwarding.take()
    for _ in 0..<(quick ? 2 : 4) {
      pause(milliseconds: 250)
      spansAlone.append(forwarding.take())
    }
    let alone = spansAlone.dropFirst().reduce(spansAlone[0]) { $0.merged($1) }

    let controlThread = Thread { control.run(core: cores > 1 ? 0 : nil) }
    let client = try RingClient.connect(path: path, role: .agent)
    var sent = 0
    var refused = 0
    var time = 0.0
    var failure: (any Error)?
    var deadline = measure_now() + (quick ? 1_500_000_000 : 4_000_000_000)
    // Quarters of a second: what updates do to batches shows in each, what the machine does to the thread in some.
    var spans: [BatchTimes] = []
    var spanEnd = measure_now() + 250_000_000
    _ = forwarding.take()
    // New routes, then the same to another nexthop, then none: each a change that workers see.
    func update(_ phase: Int, _ host: (Int) -> IPAddress) throws {
      var at = 0
      while at < prefixes {
        let commands: [Command] = (at..<at + share).map { index in
          let prefix = IPPrefix(host: host(index))
          return phase == 2
            ? .removeRoute(vrf: 1, prefix: prefix)
            : .setRoute(
              RouteConfiguration(
                vrf: 1, prefix: prefix, nexthop: Topology.peerNexthop(1, UInt32((index + phase) % 16)), label: 77))
        }
        let start = measure_now()
        for result in try client.apply(commands) { if case .failure = result { refused += 1 } }
        time += Double(measure_now() - start)
        sent += commands.count
        at += share
        if measure_now() >= spanEnd {
          spans.append(forwarding.take())
          spanEnd = measure_now() + 250_000_000
        }
      }
    }
    var rate4 = 0.0
    do {
      while measure_now() < deadline {
        for phase in 0..<3 { try update(phase) { IPAddress(v4: 0x0B00_0000 | UInt32($0)) } }
      }
      rate4 = Double(sent) / time * 1e6
      (sent, time) = (0, 0)
      deadline = measure_now() + (quick ? 1_000_000_000 : 2_000_000_000)
      // Pods of 1,024 subnets.
      while measure_now() < deadline {
        for phase in 0..<3 {
          try update(phase) { IPAddress(high: 0xFD00_0000_0000_0000 | UInt64($0 >> 6), low: UInt64($0 & 63)) }
        }
      }
    } catch { failure = error }
    spans.append(forwarding.take())
    let during = spans.dropFirst().reduce(spans[0]) { $0.merged($1) }
    forwarding.stop.store(true, ordering: .releasing)
    client.close()
    control.stop.store(true, ordering: .releasing)
    worker.join()
    controlThread.join()
    if let failure { throw BenchmarkError("update routes through the ring at \(path): \(failure)") }
    guard refused == 0 else { throw BenchmarkError("update routes: \(refused) of \(sent) were refused") }
    guard weft.drops.isEmpty else { throw BenchmarkError("ring.route-updates: packets were dropped: \(weft.drops)") }
    Report.value("ring.route-updates", rate4, "K updates/s")
    Report.value("ring.route-updates-v6", Double(sent) / time * 1e6, "K updates/s")
    Report.value("ring.longest-batch", median(spans.map { Double($0.longest) }) / 1000, "us, median of 1/4 s spans")
    Report.value("ring.longest-batch.of-all", Double(during.longest) / 1000, "us")
    Report.value("ring.longest-batch.alone", median(spansAlone.map { Double($0.longest) }) / 1000, "us, no updates")
    Report.value("ring.batch-p99.99", during.percentile(0.9999) / 1000, "us")
    Report.value("ring.batch-p99.99.alone", alone.percentile(0.9999) / 1000, "us")
    Report.value("ring.batch-median", during.percentile(0.5), "ns")
    Report.value("ring.batch-median.alone", alone.percentile(0.5), "ns")
    Report.note(
      "ring.longest-batch",
      "\(during.batches) batches; \(during.interrupted) more over 20 us in which the kernel took the thread off its "
        + "core (\(alone.interrupted) of \(alone.batches) without updates)")
  }

  private static func pause(milliseconds: Int) { usleep(UInt32(milliseconds) * 1000) }
}

/// How long batches took.
struct BatchTimes: Sendable {
  var batches = 0
  var longest: UInt64 = 0
  /// Over 20 us, with the kernel to blame.
  var interrupted = 0
  /// By 16 ns, the last holds the rest.
  var histogram = [Int](repeating: 0, count: 8192)

  func merged(_ other: BatchTimes) -> BatchTimes {
    var sum = self
    sum.batches += other.batches
    sum.longest = max(longest, other.longest)
    sum.interrupted += other.interrupted
    for index in histogram.indices { sum.histogram[index] += other.histogram[index] }
    return sum
  }

  func percentile(_ share: Double) -> Double {
    let wanted = Int(Double(batches) * share)
    var seen = 0
    for (index, count) in histogram.enumerated() {
      seen += count
      if seen > wanted { return Double(index * 16) }
    }
    return Double(longest)
  }
}

/// Forwards what comes in by a pod, 1,024 flows round and round, and times each batch.
final class ForwardingThread: @unchecked Sendable {
  let stop = Atomic<Bool>(false)
  private let weft: WeftSide
  private let times = Mutex(BatchTimes())
  private let set = FrameSet(.vxlanEncap)
  private let frames: WeftFrames

  init(_ weft: WeftSide) {
    self.weft = weft
    frames = WeftFrames(set)
  }

  /// The times since the last call.
  func take() -> BatchTimes {
    times.withLock { times in
      defer { times = BatchTimes() }
      return times
    }
  }

  func run(core: Int32?) {
    if let core { pin(core) }
    weft.epoch.comeOnline()
    var pass: UInt64 = 0
    var interruptions = measure_interruptions()
    while !stop.load(ordering: .acquiring) {
      set.restore()
      pass += 1
      times.withLock { times in
        for batch in 0..<FrameSet.batches {
          let start = measure_now()
          weft.batch(frames, batch, now: start)
          let took = measure_now() - start
          weft.epoch.quiescent()
          if took > 20_000 {
            let seen = measure_interruptions()
            if seen != interruptions {
              interruptions = seen
              times.interrupted += 1
              continue
            }
          }
          times.batches += 1
          times.longest = max(times.longest, took)
          times.histogram[Int(min(took / 16, 8191))] += 1
        }
      }
      // Interruptions between batches are none of theirs.
      interruptions = measure_interruptions()
    }
    weft.epoch.goOffline()
  }
}

/// What the forwarder's control thread does for an agent: takes commands, applies them, answers.
final class ControlThread: @unchecked Sendable {
  let stop = Atomic<Bool>(false)
  private let server: RingServer
  private let weft: WeftSide

  init(server: RingServer, weft: WeftSide) {
    self.server = server
    self.weft = weft
  }

  func run(core: Int32?) {
    if let core { pin(core) }
    var channel: ServerChannel?
    while !stop.load(ordering: .acquiring) {
      guard let channel else {
        wait(server.descriptor)
        guard let client = server.accept() else { continue }
        wait(client.raw)
        channel = server.admit(client, agentPresent: false)
        continue
      }
      channel.acknowledgeWakeup()
      do { if try serve(channel) == 0 { wait(channel.commandDescriptor) } } catch { return }
      weft.tables.epochs.reclaim()
    }
  }

  private func serve(_ channel: ServerChannel) throws -> Int {
    var taken = 0
    while taken < 512, try channel.canComplete(2) {
      guard let (sequence, command) = try channel.next() else { break }
      taken += 1
      switch command {
      case .failure(let refusal): try channel.complete(.refused(sequence: sequence, refusal))
      case .success(let command):
        do throws(Refusal) {
          try weft.programmer.apply(command)
          try? channel.complete(.done(sequence: sequence, cursor: 0))
        } catch {
          try? channel.complete(.refused(sequence: sequence, error))
        }
      }
    }
    if taken > 0 { channel.wakeClient() }
    return taken
  }

  private func wait(_ descriptor: Int32) {
    var entry = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
    _ = poll(&entry, 1, 10)
  }
}

/// A thread of the system.
struct Thread {
  private let thread: pthread_t

  init(_ body: @escaping @Sendable () -> Void) {
    final class Box {
      let body: @Sendable () -> Void
      init(_ body: @escaping @Sendable () -> Void) { self.body = body }
    }
    var made = pthread_t()
    let box = Unmanaged.passRetained(Box(body)).toOpaque()
    let code = pthread_create(
      &made, nil,
      { @Sendable argument in
        if let argument { Unmanaged<Box>.fromOpaque(argument).takeRetainedValue().body() }
        return nil
      }, box)
    precondition(code == 0, "no thread: error \(code)")
    thread = made
  }

  func join() { pthread_join(thread, nil) }
}

/// Binds the calling thread to a core, if that is allowed.
func pin(_ core: Int32) { _ = weft_pin_thread(core) }
