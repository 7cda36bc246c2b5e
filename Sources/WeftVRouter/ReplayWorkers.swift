import CLinux
import Glibc
import WeftForwarding
import WeftPorts
import WeftRing
import WeftSystem
import WeftTables
import WeftWire

/// A frame that a replay sends.
struct ReplayFrame: Sendable {
  let interface: UInt32
  let bytes: [UInt8]
  /// Its virtio-net header says what is not so.
  var isMalformed = false
}

/// The workers of a replay: threads with the rings between them that a running forwarder has, but taking turns, so that
/// the same input gives the same output.
final class ReplayWorkers {
  private let workers: [ReplayWorker]
  private let mesh: HandOverMesh
  private let reports: [ReportRing]
  private let flowEvents: [WorkerRing<FlowEvent>]
  private let traps: [TrapRing]

  /// `seed` is all workers'. `segments`: interfaces whose frames have virtio-net headers, and payload bytes of a segment of
  /// what comes in.
  init(
    count: Int, tables: Tables, statistics: StatisticsRegion, limits: TableLimits, seed: UInt64,
    segments: [UInt32: Int] = [:]
  ) throws(SystemError) {
    mesh = try HandOverMesh(workers: count)
    var workers: [ReplayWorker] = []
    var reports: [ReportRing] = []
    var flowEvents: [WorkerRing<FlowEvent>] = []
    var traps: [TrapRing] = []
    for index in 0..<count {
      let block = statistics.worker(index)
      let counters = Counters(
        drops: block.drops, interfaces: block.interfaces, interfaceCount: Int(limits.interfaces))
      let sharing =
        count == 1 ? Sharing() : try Sharing(mesh, worker: index, redirects: Int(limits.flows), seed: seed)
      var path = PacketPath(
        tables: tables, flows: try FlowTable(capacity: Int(limits.flows), seed: seed),
        fragments: try FragmentTable(seed: seed), nat: try NATWorker(worker: index, seed: seed), counters: counters,
        interfaces: Int(limits.interfaces), seed: seed, sharing: sharing)
      let ring = try ReportRing()
      path.reports = ring.writer
      let events = try WorkerRing<FlowEvent>()
      path.flowEvents = events.writer
      flowEvents.append(events)
      let trapped = try TrapRing()
      trapped.setOpen(true)
      path.trapWriter = trapped.writer
      traps.append(trapped)
      path.policers.worker = index
      path.mirrorCounts = tables.mirrors.counter(worker: index)
      reports.append(ring)
      workers.append(try ReplayWorker(index: index, path: path, counters: counters, segments: segments))
    }
    self.workers = workers
    self.reports = reports
    self.flowEvents = flowEvents
    self.traps = traps
    // One that is alone needs no thread of its own.
    if count > 1 { for worker in workers { try worker.start() } }
  }

  /// Ends the threads.
  func stop() { for worker in workers { worker.stop() } }

  /// A round: frames that came in together by one interface are shared out to the workers as a network card would (the
  /// two directions of a flow to different ones), each processes its own, then they take what was handed over to them,
  /// until nothing is left. What they send, in this order. `time` is CLOCK_MONOTONIC, ns.
  func round(_ frames: [[UInt8]], interface: UInt32, time: UInt64) -> [ReplayFrame] {
    var sent: [ReplayFrame] = []
    var shares: [[[UInt8]]] = Array(repeating: [], count: workers.count)
    for frame in frames { shares[workers.count == 1 ? 0 : receiver(frame)].append(frame) }
    for (worker, share) in zip(workers, shares) where !share.isEmpty {
      sent += worker.turn(.receive(share, interface: interface), time: time)
    }
    while workers.contains(where: \.hasIncoming) {
      for worker in workers where worker.hasIncoming { sent += worker.turn(.takeHandedOver, time: time) }
    }
    for worker in workers { sent += worker.turn(.age, time: time) }
    // What flows had that have ended now.
    while workers.contains(where: \.hasIncoming) {
      for worker in workers where worker.hasIncoming { sent += worker.turn(.takeHandedOver, time: time) }
    }
    return sent
  }

  /// Feeds a capture, a tap a worker; the taps are kept until the end.
  func add(_ taps: [CaptureTap]) { for (worker, tap) in zip(workers, taps) { worker.path.add(tap) } }

  /// What workers have reported since.
  func takeReports(_ body: (Report) -> Void) {
    for ring in reports { while let report = ring.next() { body(report) } }
  }

  /// What workers have left to the agent since.
  func takeTraps() -> [Event] {
    var events: [Event] = []
    for ring in traps {
      while let (interface, vrf, frame) = ring.next() {
        events.append(.trap(interface: interface, vrf: vrf, frame: frame))
      }
    }
    return events
  }

  /// What workers have told of flows since. Times are those of the captures.
  func takeFlowEvents() -> [FlowReport] {
    var reports: [FlowReport] = []
    for (worker, ring) in flowEvents.enumerated() {
      while let event = ring.next() { reports.append(FlowReport(event, worker: worker, offset: 0)) }
    }
    return reports
  }

  /// Flow entries of all workers, and how many packets the router made.
  func flows(now: UInt64) -> (records: [FlowRecord], made: UInt64) {
    var records: [FlowRecord] = []
    var made: UInt64 = 0
    for worker in workers {
      _ = worker.path.flows.dump(cursor: 0, limit: .max) { records.append(flowRecord($0, worker.index, now)) }
      made += worker.path.made
    }
    return (records, made)
  }

  /// What is shared, by worker: frames given to others, and keys whose flows live with others.
  var sharing: [(given: UInt64, redirects: Int)] {
    workers.map { ($0.path.sharing.given, $0.path.sharing.redirects) }
  }

  /// Which worker's queue a frame comes into: by addresses and ports in their order, as cards do by default (Toeplitz);
  /// of fragments by addresses alone, of what is no IP packet by MAC addresses.
  private func receiver(_ frame: [UInt8]) -> Int {
    var hash: UInt64 = 0xCBF2_9CE4_8422_2325
    func add(_ range: Range<Int>) {
      for index in range where index < frame.count { hash = (hash ^ UInt64(frame[index])) &* 0x100_0000_01B3 }
    }
    func u16(_ at: Int) -> UInt16 { at + 2 <= frame.count ? UInt16(frame[at]) << 8 | UInt16(frame[at + 1]) : 0 }
    var type = Ethernet.type
    while u16(type) == Ethernet.vlan || u16(type) == Ethernet.serviceVLAN { type += 4 }
    let ip = type + 2
    switch u16(type) {
    case Ethernet.ipv4:
      add(ip + 12..<ip + 20)
      let proto = ip + 9 < frame.count ? frame[ip + 9] : 0
      if proto == IPProtocol.tcp || proto == IPProtocol.udp,
        u16(ip + 6) & (IPv4.moreFragments | IPv4.offsetMask) == 0
      {
        let header = Int(frame[ip] & 0xF) * 4
        add(ip + header..<ip + header + 4)
      }
    case Ethernet.ipv6:
      add(ip + 8..<ip + 40)
      let proto = ip + 6 < frame.count ? frame[ip + 6] : 0
      if proto == IPProtocol.tcp || proto == IPProtocol.udp { add(ip + 40..<ip + 44) }
    default: add(0..<12)
    }
    hash = (hash ^ hash >> 29) &* 0xBF58_476D_1CE4_E5B9
    return Int((hash >> 32) * UInt64(workers.count) >> 32)
  }
}

/// A thread of a replay.
private final class ReplayWorker: @unchecked Sendable {
  enum Work {
    case receive([[UInt8]], interface: UInt32)
    case takeHandedOver
    case age
    case end
  }

  let index: Int
  /// The thread's own between `begin` and `done`, its maker's else.
  var path: PacketPath
  /// Bytes before each frame, about as many as ports leave there.
  private static let headroom = 96

  private let counters: Counters
  private let segments: [UInt32: Int]
  private let begin: Descriptor
  private let done: Descriptor
  private var work = Work.end
  private var time: UInt64 = 0
  private var sent: [ReplayFrame] = []
  private var thread: pthread_t?

  init(
    index: Int, path: consuming PacketPath, counters: Counters, segments: [UInt32: Int]
  ) throws(SystemError) {
    self.index = index
    self.segments = segments
    self.path = path
    self.counters = counters
    begin = try .event()
    done = try .event()
  }

  var hasIncoming: Bool { path.sharing.hasIncoming }

  func start() throws(SystemError) {
    let argument = Unmanaged.passRetained(self)
    var thread = pthread_t()
    let status = pthread_create(
      &thread, nil,
      { @Sendable argument in
        guard let argument else { return nil }
        Unmanaged<ReplayWorker>.fromOpaque(argument).takeRetainedValue().run()
        return nil
      }, argument.toOpaque())
    guard status == 0 else {
      argument.release()
      throw SystemError("start", "worker \(index)", code: status)
    }
    self.thread = thread
  }

  func stop() {
    guard let thread else { return }
    work = .end
    begin.signal()
    pthread_join(thread, nil)
    self.thread = nil
  }

  /// The thread, if there is one, does a piece of work; what it sent by that.
  func turn(_ work: Work, time: UInt64) -> [ReplayFrame] {
    self.work = work
    self.time = time
    if thread == nil {
      _ = perform()
    } else {
      begin.signal()
      _ = done.wait(milliseconds: -1)
      done.drain()
    }
    defer { sent = [] }
    return sent
  }

  private func run() {
    weft_name_thread("worker \(index)")
    while true {
      _ = begin.wait(milliseconds: -1)
      begin.drain()
      guard perform() else { return }
      done.signal()
    }
  }

  /// False at the end.
  private func perform() -> Bool {
    switch work {
    case .receive(let frames, let interface): receive(frames, interface)
    case .takeHandedOver: takeHandedOver()
    case .age: path.age(now: time)
    case .end: return false
    }
    return true
  }

  private func receive(_ packets: [[UInt8]], _ interface: UInt32) {
    var frames = RxFrames()
    defer { frames.deallocate() }
    // Each in memory of its own size, with room before it as ports leave it, so that what goes beyond a frame's end or
    // further than that shows with a sanitizer.
    var memory: [UnsafeMutableRawPointer] = []
    defer { for pointer in memory { pointer.deallocate() } }
    for packet in packets {
      var packet = packet
      var virtio = VirtioNetHeader()
      if let size = segments[interface] { virtio = ReplayOffloads.arrive(&packet, segment: size) }
      let pointer = UnsafeMutableRawPointer.allocate(byteCount: Self.headroom + packet.count, alignment: 16)
      let start = pointer + Self.headroom
      packet.withUnsafeBytes { bytes in
        if let base = bytes.baseAddress { start.copyMemory(from: base, byteCount: bytes.count) }
      }
      memory.append(pointer)
      frames.append(
        RxFrame(bytes: Bytes(start), length: packet.count, virtio: virtio, headroom: Self.headroom))
    }
    path.process(frames, interface: interface, now: time)
    collect()
  }

  private func takeHandedOver() {
    guard path.lookForHandedOver() else { return }
    while path.processHandedOver(now: time) > 0 {
      collect()
      path.releaseHandedOver()
    }
  }

  /// Takes what the packet path wants to send.
  private func collect() {
    for index in 0..<path.tx.touchedCount {
      let target = path.tx.touched(index)
      var total = 0
      var count = 0
      var number = path.tx.head(target)
      while number != TxFrames.none {
        let frame = path.tx.frame(number)
        var bytes = [UInt8](repeating: 0, count: Int(frame.length))
        bytes.withUnsafeMutableBytes { if let base = $0.baseAddress { path.tx.copy(frame, to: base) } }
        send(bytes, frame, target)
        total += bytes.count
        count += Int(frame.packets)
        number = frame.next
      }
      counters.sent(target, packets: count, bytes: total)
    }
    path.tx.reset()
  }

  /// To a port with virtio-net headers: what the kernel or a card behind it would make of a frame.
  private func send(_ bytes: [UInt8], _ frame: TxFrame, _ target: UInt32) {
    guard segments[target] != nil else { return sent.append(ReplayFrame(interface: target, bytes: bytes)) }
    let packets = ReplayOffloads.depart(bytes, path.tx.virtio(frame))
    guard let packets, packets.count == Int(frame.packets) else {
      return sent.append(ReplayFrame(interface: target, bytes: bytes, isMalformed: true))
    }
    for packet in packets { sent.append(ReplayFrame(interface: target, bytes: packet)) }
  }
}
