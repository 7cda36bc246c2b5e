import Testing
import WeftForwarding
import WeftRing
import WeftTables
import WeftVRouter
import WeftWire

/// What a worker sent.
struct TeamFrame: Hashable {
  var worker: Int
  var interface: UInt32
  var bytes: [UInt8]
  /// Packets on a wire.
  var packets: Int

  /// Of the IP packet in it, behind a tunnel's headers if there are any (IPv4 outside, VXLAN).
  var inner: [UInt8] { Array(bytes[(interface == 0 ? 64 : 14)...]) }
  var isV4: Bool { inner[0] >> 4 == 4 }
  var sourcePort: Int { inner.get16(isV4 ? 20 : 40) }
  var destinationPort: Int { inner.get16(isV4 ? 22 : 42) }
  var source: [UInt8] { Array(inner[isV4 ? 12..<16 : 8..<24]) }
  var destination: [UInt8] { Array(inner[isV4 ? 16..<20 : 24..<40]) }
}

/// The workers of a node, each processed when the test says so: which frames come to whom, and when what was handed over
/// is taken, is up to the test.
final class WorkerTeam {
  final class Member {
    var path: PacketPath
    init(_ path: consuming PacketPath) { self.path = path }
  }

  let programmer: TableProgrammer
  let statistics: StatisticsRegion
  let memory: TableMemory
  private(set) var members: [Member] = []
  /// CLOCK_MONOTONIC, ns.
  var now: UInt64 = 1_000_000_000

  init(
    _ count: Int, flows: Int = 4096, redirects: Int = 4096, usesFastPath: Bool = true, ringBytes: Int? = nil
  ) throws {
    var limits = TableLimits()
    limits.interfaces = 8
    let memory = try TableMemory(
      sizes: TableSizes(interfaces: 8, vrfs: 8, nexthops: 64, routes: 256, routeNodes: 1024, bridge: 64), workers: count
    )
    programmer = TableProgrammer(memory: memory, limits: limits, ports: RaceDevices())
    for command in Topology.commands() { try programmer.apply(command) }
    programmer.commit()
    let reasons = DropReason.allCases
    statistics = try StatisticsRegion(
      layout: StatisticsLayout(workers: count, interfaces: 8, reasons: reasons.count),
      reasons: reasons.map { ($0.name, $0.explanation) })
    self.memory = memory
    let mesh = try HandOverMesh(workers: count, ringBytes: ringBytes)
    for index in 0..<count {
      let block = statistics.worker(index)
      let sharing =
        count == 1 ? Sharing() : try Sharing(mesh, worker: index, redirects: redirects, seed: 1)
      var path = PacketPath(
        tables: memory.reader, flows: try FlowTable(capacity: flows, seed: 1), fragments: try FragmentTable(seed: 1),
        nat: try NATWorker(worker: index, seed: 1),
        counters: Counters(drops: block.drops, interfaces: block.interfaces, interfaceCount: 8), interfaces: 8, seed: 1,
        sharing: sharing)
      path.usesFastPath = usesFastPath
      members.append(Member(path))
    }
  }

  /// Frames come in to a worker.
  @discardableResult
  func receive(_ worker: Int, _ interface: UInt32, _ frames: [WireFrame]) -> [TeamFrame] {
    var batch = RxFrames()
    defer { batch.deallocate() }
    var memory: [UnsafeMutableRawPointer] = []
    defer { for pointer in memory { pointer.deallocate() } }
    for frame in frames {
      let pointer = UnsafeMutableRawPointer.allocate(byteCount: max(1, frame.bytes.count), alignment: 16)
      frame.bytes.withUnsafeBytes {
        if let base = $0.baseAddress { pointer.copyMemory(from: base, byteCount: $0.count) }
      }
      memory.append(pointer)
      batch.append(RxFrame(bytes: Bytes(pointer), length: frame.bytes.count, virtio: frame.virtio))
    }
    members[worker].path.process(batch, interface: interface, now: now)
    return sent(worker)
  }

  /// A worker takes what was handed over to it.
  @discardableResult
  func take(_ worker: Int) -> [TeamFrame] {
    var frames: [TeamFrame] = []
    guard members[worker].path.lookForHandedOver() else { return [] }
    while members[worker].path.processHandedOver(now: now) > 0 {
      frames += sent(worker)
      members[worker].path.releaseHandedOver()
    }
    return frames
  }

  /// All take what was handed over, until nothing is left.
  @discardableResult
  func settle() -> [TeamFrame] {
    var frames: [TeamFrame] = []
    while members.contains(where: { $0.path.sharing.hasIncoming }) {
      for worker in members.indices { frames += take(worker) }
    }
    return frames
  }

  /// All that comes of frames that come in to a worker.
  func send(_ worker: Int, _ interface: UInt32, _ frames: [WireFrame]) -> [TeamFrame] {
    receive(worker, interface, frames) + settle()
  }

  /// A pod's (or the world's) datagrams come in to a worker.
  func send(_ worker: Int, from interface: UInt32, _ datagrams: [Datagram]) -> [TeamFrame] {
    send(worker, interface, datagrams.map { Datagram.frame($0.packet, from: Topology.mac(interface)) })
  }

  private func sent(_ worker: Int) -> [TeamFrame] {
    var frames: [TeamFrame] = []
    for touched in 0..<members[worker].path.tx.touchedCount {
      let interface = members[worker].path.tx.touched(touched)
      var number = members[worker].path.tx.head(interface)
      while number != TxFrames.none {
        let frame = members[worker].path.tx.frame(number)
        var bytes = [UInt8](repeating: 0, count: Int(frame.length))
        bytes.withUnsafeMutableBytes { if let base = $0.baseAddress { members[worker].path.tx.copy(frame, to: base) } }
        frames.append(TeamFrame(worker: worker, interface: interface, bytes: bytes, packets: Int(frame.packets)))
        number = frame.next
      }
    }
    members[worker].path.tx.reset()
    return frames
  }

  /// Time passes and flows end.
  func wait(seconds: UInt64) {
    for _ in 0..<seconds * 4 {
      now += 250_000_000
      for member in members { while !member.path.age(now: now), !member.path.sharing.hasIncoming {} }
      settle()
    }
  }

  func drops(_ reason: DropReason) throws -> UInt64 {
    try statistics.reader().drops().first { $0.name == reason.name }?.count ?? 0
  }
  func received(_ interface: UInt32) throws -> UInt64 { try statistics.reader().interface(interface).rxPackets }

  var redirects: Int { members.reduce(0) { $0 + $1.path.sharing.redirects } }
  var given: UInt64 { members.reduce(0) { $0 + $1.path.sharing.given } }
  var refused: UInt64 { members.reduce(0) { $0 + $1.path.sharing.refused } }
  var flows: Int { members.reduce(0) { $0 + $1.path.flows.count } }
}
