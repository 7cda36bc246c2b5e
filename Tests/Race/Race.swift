import CLinux
import Glibc
import Synchronization
import WeftForwarding
import WeftRing
import WeftSystem
import WeftTables
import WeftWire

/// Four workers forward what they make up and answer what comes out of each other, while the control thread changes
/// tables under them and another thread reads their counters: for ThreadSanitizer (tools/race builds and runs it).
///
///     race SECONDS [--plant]
///
/// `--plant`: two threads write one word without a lock, which must be reported.
@main
struct Race {
  static let workers = 4

  static func main() throws {
    let arguments = CommandLine.arguments
    guard arguments.count > 1, let seconds = Int(arguments[1]) else { return print("race SECONDS [--plant]") }
    let isPlanted = arguments.contains("--plant")
    var limits = TableLimits()
    limits.interfaces = 8
    limits.flows = 4096
    let memory = try TableMemory(
      sizes: TableSizes(interfaces: 8, vrfs: 8, nexthops: 64, routes: 4096, routeNodes: 4096, bridge: 256),
      workers: workers)
    let reasons = DropReason.allCases
    let statistics = try StatisticsRegion(
      layout: StatisticsLayout(workers: workers, interfaces: 8, reasons: reasons.count),
      reasons: reasons.map { ($0.name, $0.explanation) })
    let programmer = TableProgrammer(memory: memory, limits: limits, ports: RaceDevices())
    for command in Topology.commands() { try programmer.apply(command) }
    programmer.commit()
    try programmer.apply(.setFlowExport(FlowExportConfiguration(selection: .all, rate: 100_000, updateSeconds: 1)))
    let mesh = try HandOverMesh(workers: workers)
    let ring = 1 << 18
    let captured = try Mapping(anonymous: CaptureMemory.bytes(workers: workers, ring: ring), what: "captured frames")
    CaptureMemory.format(captured, workers: workers, ring: ring)
    let stop = Stop()
    var team: [RaceWorker] = []
    for index in 0..<workers {
      team.append(
        try RaceWorker(
          index: index, tables: memory.reader, epoch: memory.epochs.worker(index), mesh: mesh,
          statistics: statistics.worker(index), stop: stop, drops: CaptureProducer(captured, worker: index, ring: ring))
      )
    }
    let followers = team.map(\.flowEvents)
    for worker in team { worker.team = team }
    if isPlanted { for worker in team { worker.plant = Plant.shared } }
    let threads = team.map { worker in start { worker.run() } }
    let reader = try statistics.reader()
    let watcher = start {
      while !stop.isSet {
        _ = reader.drops()
        _ = reader.interface(1)
        _ = reader.workers()
        usleep(1000)
      }
    }
    let sink = Sink(try CaptureConsumer(captured))
    let follower = start {
      while !stop.isSet {
        sink.take(workers)
        for ring in followers { while ring.next() != nil { sink.events += 1 } }
        usleep(500)
      }
    }
    var control = Control(programmer: programmer)
    let end = weft_monotonic_ns() + UInt64(seconds) * 1_000_000_000
    while weft_monotonic_ns() < end {
      control.change()
      memory.epochs.reclaim()
      memory.nat.collect()
      if control.random.chance(20) { usleep(200) }
    }
    stop.set()
    for thread in threads + [watcher, follower] { pthread_join(thread, nil) }
    memory.epochs.reclaim()
    let totals = reader.workers()
    let sums = (
      packets: totals.reduce(0) { $0 + $1.packets }, given: totals.reduce(0) { $0 + $1.handedOver },
      redirects: totals.reduce(0) { $0 + $1.redirects }
    )
    print(
      "race: \(sums.packets) frames, \(sums.given) handed over, \(sums.redirects) redirects left, "
        + "\(control.changes) changes of tables")
    let drops = reader.drops().filter { $0.count > 0 }.map { "\($0.name) \($0.count)" }
    print("race: drops: \(drops.joined(separator: ", "))")
    // Little of anything would say little.
    print("race: \(sink.frames) drops captured, \(sink.events) events of flows")
    guard sums.packets > 1000, sums.given > 100, control.changes > 100, sink.frames > 10, sink.events > 100 else {
      print("race: too little happened")
      exit(1)
    }
  }

  static func start(_ body: @escaping @Sendable () -> Void) -> pthread_t {
    final class Box {
      let body: @Sendable () -> Void
      init(_ body: @escaping @Sendable () -> Void) { self.body = body }
    }
    var thread = pthread_t()
    pthread_create(
      &thread, nil,
      { @Sendable argument in
        guard let argument else { return nil }
        Unmanaged<Box>.fromOpaque(argument).takeRetainedValue().body()
        return nil
      }, Unmanaged.passRetained(Box(body)).toOpaque())
    return thread
  }
}

final class Stop: Sendable {
  private let flag = Atomic<Bool>(false)
  var isSet: Bool { flag.load(ordering: .relaxed) }
  func set() { flag.store(true, ordering: .relaxed) }
}

/// What workers tell and capture, as the thread gets it that takes it.
final class Sink: @unchecked Sendable {
  private var consumer: CaptureConsumer
  var frames = 0
  var events = 0

  init(_ consumer: consuming CaptureConsumer) { self.consumer = consumer }

  func take(_ workers: Int) {
    for worker in 0..<workers {
      frames += (try? consumer.take(worker: worker, limit: 1000, { _, _ in })) ?? 0
    }
  }
}

/// The race that must be found.
final class Plant: @unchecked Sendable {
  static let shared = Plant()
  let word = UnsafeMutablePointer<UInt64>.allocate(capacity: 1)
  init() { word.initialize(to: 0) }
}

/// Frames on their way to a worker. A pthread's lock, since the sanitizer does not know `Mutex`.
final class Wire: @unchecked Sendable {
  private let lock = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
  private var frames: [(interface: UInt32, frame: WireFrame)] = []

  init() { pthread_mutex_init(lock, nil) }

  func put(_ interface: UInt32, _ frame: WireFrame) {
    pthread_mutex_lock(lock)
    if frames.count < 256 { frames.append((interface, frame)) }
    pthread_mutex_unlock(lock)
  }
  func take() -> [(interface: UInt32, frame: WireFrame)] {
    pthread_mutex_lock(lock)
    defer { pthread_mutex_unlock(lock) }
    let taken = frames
    frames = []
    return taken
  }
}

final class RaceWorker: @unchecked Sendable {
  let index: Int
  let wire = Wire()
  var team: [RaceWorker] = []
  var plant: Plant?
  private let epoch: WorkerEpoch
  private let statistics: WorkerStatistics
  private let counters: Counters
  private let stop: Stop
  let flowEvents: WorkerRing<FlowEvent>
  private let drops: CaptureTap
  private let wake: Descriptor
  private var path: PacketPath
  private var random: RaceRandom

  init(
    index: Int, tables: Tables, epoch: WorkerEpoch, mesh: HandOverMesh, statistics: WorkerStatistics, stop: Stop,
    drops producer: CaptureProducer
  ) throws {
    self.index = index
    self.epoch = epoch
    self.statistics = statistics
    self.stop = stop
    random = RaceRandom(state: UInt64(index) + 1)
    wake = try .event()
    counters = Counters(drops: statistics.drops, interfaces: statistics.interfaces, interfaceCount: 8)
    path = PacketPath(
      tables: tables, flows: try FlowTable(capacity: 4096, seed: 1), fragments: try FragmentTable(seed: 1),
      nat: try NATWorker(worker: index, seed: 1), counters: counters, interfaces: 8, seed: 1,
      sharing: try Sharing(mesh, worker: index, redirects: 4096, seed: 1))
    flowEvents = try WorkerRing()
    drops = CaptureTap(
      id: 1, producer: producer,
      selection: CaptureSelection(interfaces: nil, arrivals: false, departures: false, drops: true),
      filter: PacketFilter(), interfaces: 8, offset: 0)
    path.flowEvents = flowEvents.writer
    path.mirrorCounts = tables.mirrors.counter(worker: index)
    path.add(drops)
  }

  func run() {
    epoch.comeOnline()
    while !stop.isSet {
      // Time goes fast, so that flows end too.
      let now = weft_monotonic_ns() &* 16
      var inputs = wire.take()
      if random.chance(60) { inputs += invent() }
      var start = 0
      while start < inputs.count {
        let interface = inputs[start].interface
        var end = start
        while end < inputs.count, end - start < RxFrames.capacity, inputs[end].interface == interface { end += 1 }
        receive(inputs[start..<end].map(\.frame), interface, now)
        start = end
      }
      takeHandedOver(now)
      path.age(now: now)
      wakeOthers()
      epoch.quiescent()
      if let plant { plant.word.pointee &+= 1 }
      statistics.beat(now: weft_monotonic_ns())
      statistics.setFlows(path.flows.count, refused: path.flows.refused)
      statistics.setSharing(
        given: path.sharing.given, taken: path.sharing.taken, redirects: path.sharing.redirects,
        refused: path.sharing.refused)
      if inputs.isEmpty, path.sharing.fallAsleep() {
        epoch.goOffline()
        _ = wake.wait(milliseconds: 1)
        wake.drain()
        epoch.comeOnline()
        path.sharing.wakeUp()
      }
    }
    epoch.goOffline()
  }

  /// Packets of pods to each other, to services, to the world, through the tunnel, and from there.
  private func invent() -> [(interface: UInt32, frame: WireFrame)] {
    (0...random.next(12)).flatMap { _ -> [(interface: UInt32, frame: WireFrame)] in
      let isV4 = random.chance(50)
      let pod = UInt32(random.next(3) + 1)
      var packet = Datagram(
        source: Topology.address(pod, isV4), destination: Topology.address(Topology.world, isV4),
        sourcePort: 20000 + random.next(300), destinationPort: 7, payload: 4 + random.next(80))
      switch random.next(6) {
      case 0: packet.destination = Topology.address(UInt32(random.next(3) + 1), isV4)
      case 1, 2:
        packet.destination = Topology.serviceAddress(isV4)
        packet.destinationPort = 80 + random.next(2)
      case 3: packet.destination = isV4 ? IPAddress("10.2.0.9")! : IPAddress("fd02::9")!
      case 4:
        packet.source = isV4 ? IPAddress("10.2.0.9")! : IPAddress("fd02::9")!
        packet.destination = Topology.address(pod, isV4)
        let packets = (0...random.next(6)).map { number in
          var other = packet
          other.sourcePort += random.chance(50) ? 0 : number
          return other.packet
        }
        return [(0, Datagram.tunneled(packets))]
      default: break
      }
      let packets = random.chance(10) ? packet.fragments(random.next(65536)) : [packet.packet]
      return packets.map { (pod, Datagram.frame($0, from: Topology.mac(pod))) }
    }
  }

  private func receive(_ inputs: [WireFrame], _ interface: UInt32, _ now: UInt64) {
    var frames = RxFrames()
    defer { frames.deallocate() }
    var memory: [UnsafeMutableRawPointer] = []
    defer { for pointer in memory { pointer.deallocate() } }
    for input in inputs {
      let headroom = 96
      let pointer = UnsafeMutableRawPointer.allocate(byteCount: headroom + input.bytes.count, alignment: 16)
      input.bytes.withUnsafeBytes { (pointer + headroom).copyMemory(from: $0.baseAddress!, byteCount: $0.count) }
      memory.append(pointer)
      frames.append(
        RxFrame(
          bytes: Bytes(pointer + headroom), length: input.bytes.count, virtio: input.virtio, headroom: headroom))
    }
    takeHandedOver(now)
    path.process(frames, interface: interface, now: now)
    statistics.countBatch(packets: inputs.count)
    send()
  }

  private func takeHandedOver(_ now: UInt64) {
    guard path.lookForHandedOver() else { return }
    while path.processHandedOver(now: now) > 0 {
      send()
      path.releaseHandedOver()
    }
    wakeOthers()
  }

  private func wakeOthers() { while let other = path.sharing.nextSleeper() { team[other].wake.signal() } }

  /// What leaves for a pod or the world is answered, to any worker; what leaves by the tunnel too.
  private func send() {
    wakeOthers()
    for touched in 0..<path.tx.touchedCount {
      let interface = path.tx.touched(touched)
      var number = path.tx.head(interface)
      while number != TxFrames.none {
        let frame = path.tx.frame(number)
        var bytes = [UInt8](repeating: 0, count: Int(frame.length))
        bytes.withUnsafeMutableBytes { path.tx.copy(frame, to: $0.baseAddress!) }
        counters.sent(interface, packets: Int(frame.packets), bytes: bytes.count)
        if random.chance(50), let answer = Self.answer(to: bytes, on: interface) {
          let worker = team[random.next(Race.workers)]
          worker.wire.put(interface, answer)
        }
        number = frame.next
      }
    }
    path.tx.reset()
  }

  private static func answer(to frame: [UInt8], on interface: UInt32) -> WireFrame? {
    let start = interface == 0 ? 14 + 20 + 8 + 8 + 14 : 14
    guard frame.count > start + 48 || frame.count > start + 28 && frame[start] >> 4 == 4 else { return nil }
    var packet = Array(frame[start...])
    let isV4 = packet[0] >> 4 == 4
    guard packet[isV4 ? 9 : 6] == IPProtocol.udp, !isV4 || packet.get16(6) & 0x3FFF == 0 else { return nil }
    let (source, bytes, header) = isV4 ? (12, 4, 20) : (8, 16, 40)
    for index in 0..<bytes { packet.swapAt(source + index, source + bytes + index) }
    packet.swapAt(header, header + 2)
    packet.swapAt(header + 1, header + 3)
    packet[isV4 ? 8 : 7] = 64
    if isV4 { packet.finishIPv4(0) }
    return interface == 0 ? Datagram.tunneled([packet]) : Datagram.frame(packet, from: Topology.mac(interface))
  }
}

/// Changes of tables, as an agent makes them.
struct Control {
  let programmer: TableProgrammer
  var random = RaceRandom(state: 77)
  var changes = 0

  init(programmer: TableProgrammer) { self.programmer = programmer }

  mutating func change() {
    let isV4 = random.chance(50)
    let pod = UInt32(random.next(3) + 1)
    let prefix = IPPrefix(
      isV4 ? IPAddress(v4: 0x0A02_0000 | UInt32(random.next(250)) << 8) : IPAddress("fd02::")!, length: isV4 ? 24 : 64)!
    switch random.next(17) {
    case 0: apply(.removeRoute(vrf: Topology.inside, prefix: IPPrefix(host: Topology.address(pod, isV4))))
    case 1: apply(Topology.route(pod, isV4))
    case 2: apply(.setRoute(RouteConfiguration(vrf: Topology.inside, prefix: prefix, nexthop: 10, label: 100)))
    case 3: apply(.removeRoute(vrf: Topology.inside, prefix: prefix))
    case 4: apply(Topology.tunnel(UInt32(2 + random.next(3))))
    case 5:
      let action = [RuleAction.allow, .deny, .reject][random.next(3)]
      apply(
        .setRule(
          RuleConfiguration(
            id: 10 + pod, priority: 9, direction: .ingress, action: action, tag: pod, proto: IPProtocol.udp,
            destinationPorts: [UInt16(7 + random.next(100))...8100])))
      programmer.commit()
    case 6:
      apply(.removeRule(id: 10 + pod))
      programmer.commit()
    case 7: apply(Topology.pool(isV4 ? 0 : 1, blocks: UInt16(2 + random.next(200))))
    case 8:
      let backend = BackendConfiguration(
        service: Topology.service(isV4, 80 + UInt16(random.next(2))), address: Topology.address(3, isV4), port: 8080,
        vrf: Topology.inside, weight: UInt16(random.next(3)), flags: random.chance(30) ? .draining : [])
      apply(.setBackend(backend))
    case 9:
      apply(
        .setStaticNAT(
          StaticNATConfiguration(
            insideVRF: Topology.inside, inside: Topology.address(pod, true), outsideVRF: Topology.outside,
            outside: IPAddress("203.0.113.77")!)))
    case 10: apply(.removeStaticNAT(insideVRF: Topology.inside, inside: Topology.address(pod, true)))
    case 11:
      apply(
        .setBridge(
          BridgeConfiguration(
            vrf: Topology.inside, mac: MACAddress(bits: 0x0200_0001_0000 | UInt64(random.next(100))), nexthop: pod)))
    case 12:
      apply(
        .removeBridge(vrf: Topology.inside, mac: MACAddress(bits: 0x0200_0001_0000 | UInt64(random.next(100)))))
    case 13:
      apply(.setMirror(MirrorConfiguration(id: 1, destination: .tunnel(nexthop: 10, vni: 7), truncation: 80)))
      apply(.setMirror(MirrorConfiguration(id: 2, destination: .interface(pod))))
    case 14:
      apply(
        .setInterfaceMirror(
          InterfaceMirrorConfiguration(interface: pod, ingress: 1, egress: UInt32(random.next(3)))))
    case 15:
      apply(.removeInterfaceMirror(interface: pod))
      apply(.removeMirror(id: UInt32(1 + random.next(2))))
    default: apply(Topology.pod(pod, mtu: 1400 + UInt16(random.next(100))))
    }
  }

  /// A command may be refused for what is there or not: that changes nothing.
  private mutating func apply(_ command: Command) { if (try? programmer.apply(command)) != nil { changes += 1 } }
}
