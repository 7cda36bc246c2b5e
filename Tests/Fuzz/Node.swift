import Glibc
import WeftForwarding
import WeftRing
import WeftSystem
import WeftTables
import WeftVRouter
import WeftWire

/// Devices that are always there.
final class FuzzPorts: PortProvider {
  /// Odd interfaces carry no virtio-net headers; every fourth takes UDP super-frames too.
  static func takesVirtio(_ id: UInt32) -> Bool { id & 1 == 0 }
  static func takesUDPSegmentation(_ id: UInt32) -> Bool { id & 3 == 0 }

  func open(_ interface: InterfaceConfiguration) throws(Refusal) -> PortCapabilities {
    PortCapabilities(
      takesVirtio: Self.takesVirtio(interface.id), takesUDPSegmentation: Self.takesUDPSegmentation(interface.id))
  }
  func start(_ id: UInt32) {}
  func close(_ id: UInt32) {}
  func state(_ id: UInt32) -> InterfaceState { InterfaceState(isUp: true, kernelIndex: id) }
  func isStale(_ interface: InterfaceConfiguration) -> Bool { false }
}

/// A packet path in a place of its own.
private final class Member {
  var path: PacketPath
  init(_ path: consuming PacketPath) { self.path = path }
}

/// A forwarder without threads and kernel: tables, who programs them, packet paths: of a worker that is alone, and of two
/// that hand over to each other.
final class FuzzNode {
  static let interfaces: UInt32 = 64
  let programmer: TableProgrammer
  private let memory: TableMemory
  private let worker: WorkerEpoch
  private let reports = try! ReportRing()
  private let flowEvents = try! WorkerRing<FlowEvent>()
  /// What is dropped is captured.
  private let drops: CaptureTap
  private var dropped: CaptureConsumer
  private let traps = try! TrapRing()
  private let alone: Member
  private let team: [Member]
  private var now: UInt64 = 1_000_000_000

  init() {
    var limits = TableLimits()
    limits.interfaces = Self.interfaces
    limits.vrfs = 64
    limits.nexthops = 256
    limits.routes = 1024
    limits.routeNodes = 2048
    limits.bridge = 128
    limits.flows = 1024
    memory = try! TableMemory(
      sizes: TableSizes(
        interfaces: Int(limits.interfaces), vrfs: Int(limits.vrfs), nexthops: Int(limits.nexthops),
        routes: Int(limits.routes), routeNodes: Int(limits.routeNodes), bridge: Int(limits.bridge)),
      workers: 3)
    programmer = TableProgrammer(memory: memory, limits: limits, ports: FuzzPorts())
    let ring = 1 << 22
    let captured = try! Mapping(anonymous: CaptureMemory.bytes(workers: 1, ring: ring), what: "dropped packets")
    CaptureMemory.format(captured, workers: 1, ring: ring)
    drops = CaptureTap(
      id: 1, producer: CaptureProducer(captured, worker: 0, ring: ring),
      selection: CaptureSelection(interfaces: nil, arrivals: false, departures: false, drops: true),
      filter: PacketFilter(), interfaces: Int(Self.interfaces), offset: 0)
    dropped = try! CaptureConsumer(captured)
    worker = memory.epochs.worker(0)
    func zeros(_ count: Int) -> UnsafeMutableRawPointer {
      let memory = UnsafeMutableRawPointer.allocate(byteCount: count, alignment: 64)
      memory.initializeMemory(as: UInt8.self, repeating: 0, count: count)
      return memory
    }
    let counters = Counters(
      drops: zeros(8 * DropReason.allCases.count), interfaces: zeros(64 * Int(Self.interfaces)),
      interfaceCount: Int(Self.interfaces))
    let tables = memory.reader
    let flows = Int(limits.flows)
    func member(_ index: Int, _ sharing: Sharing) -> Member {
      Member(
        PacketPath(
          tables: tables, flows: try! FlowTable(capacity: flows, seed: 1), fragments: try! FragmentTable(seed: 1),
          nat: try! NATWorker(worker: index, seed: 1), counters: counters, interfaces: Int(Self.interfaces), seed: 1,
          sharing: sharing))
    }
    // Ports of pools are a worker's by its number: the one that is alone has one of its own.
    alone = member(2, Sharing())
    let mesh = try! HandOverMesh(workers: 2)
    alone.path.reports = reports.writer
    alone.path.flowEvents = flowEvents.writer
    alone.path.add(drops)
    traps.setOpen(true)
    alone.path.trapWriter = traps.writer
    team = (0..<2).map { member($0, try! Sharing(mesh, worker: $0, redirects: 256, seed: 1)) }
  }

  func hasInterface(_ id: UInt32) -> Bool { memory.reader.interface(id) != nil }

  /// Lets frames that came in by an interface through the packet path, and looks at what leaves. `number`: 0 for the
  /// worker that is alone, 1 and 2 for one of the two others.
  func process(_ frames: RxFrames, interface: UInt32, worker number: Int = 0) {
    let member = number == 0 ? alone : team[number - 1]
    now += 10_000_000
    worker.comeOnline()
    member.path.process(frames, interface: interface, now: now)
    look(at: member)
    takeHandedOver()
    for member in [alone] + team { member.path.age(now: now) }
    while let report = reports.next() { programmer.take(report) }
    while flowEvents.next() != nil {}
    while let (interface, _, frame) = traps.next() {
      precondition(hasInterface(interface) && frame.count >= Ethernet.bytes + IPv4.minimumBytes)
    }
    _ = try! dropped.take(worker: 0, limit: .max) { record, frame in
      precondition(DropReason(rawValue: record.reason) != nil && frame.count <= Int(record.length))
    }
    programmer.age(now: now)
    worker.goOffline()
    memory.epochs.reclaim()
  }

  private func takeHandedOver() {
    while let other = team.first(where: { $0.path.sharing.hasIncoming }) {
      guard other.path.lookForHandedOver() else { continue }
      while other.path.processHandedOver(now: now) > 0 {
        look(at: other)
        other.path.releaseHandedOver()
      }
    }
  }

  private func look(at member: Member) {
    for index in 0..<member.path.tx.touchedCount {
      let interface = member.path.tx.touched(index)
      let packets = look(at: interface, of: member)
      member.path.bundle(interface: interface)
      let after = look(at: interface, of: member)
      precondition(packets == after, "\(packets) packets became \(after) when they were put together")
    }
    member.path.tx.reset()
  }

  /// Time in which every flow ends.
  func endFlows() {
    for _ in 0..<4 {
      now += 3 * 3600 * 1_000_000_000
      var rounds = 0
      for member in [alone] + team {
        while !member.path.age(now: now), rounds < 10_000 {
          rounds += 1
          takeHandedOver()
        }
      }
      takeHandedOver()
    }
    for member in [alone] + team {
      precondition(member.path.flows.count == 0, "\(member.path.flows.count) flows go on for ever")
    }
    memory.epochs.reclaim()
  }

  /// Everything is of an older generation: after a sweep nothing is there.
  func sweep() {
    let next = programmer.generation + 1
    do throws(Refusal) {
      try programmer.apply(.begin(generation: next))
      try programmer.apply(.sweep(generation: next))
    } catch { fatalError("a sweep is refused: \(error)") }
    programmer.commit()
    for table in TableName.allCases where table != .flows {
      _ = programmer.dump(table, cursor: 0, limit: 1) { fatalError("after a sweep there is still \($0)") }
    }
    memory.epochs.reclaim()
  }

  /// What leaves is whole, and asks of the kernel only what can be done. Returns how many packets it is.
  private func look(at interface: UInt32, of member: Member) -> Int {
    var packets = 0
    precondition(hasInterface(interface), "a frame for interface \(interface)")
    var next = member.path.tx.head(interface)
    while next != TxFrames.none {
      let frame = member.path.tx.frame(next)
      let length = Int(frame.length)
      let vector = member.path.tx.vector(frame)
      let pieces = (0..<Int(frame.pieces)).reduce(0) { $0 + vector[$1].iov_len }
      precondition(pieces == length + VirtioNetHeader.bytes, "\(pieces) bytes in pieces, \(length) in the frame")
      let most = 65535 + Ethernet.bytes + 2 * Ethernet.tagBytes
      precondition(length >= Ethernet.bytes && length <= most, "\(length) bytes")
      precondition(frame.packets >= 1)
      let copy = UnsafeMutableRawPointer.allocate(byteCount: length, alignment: 1)
      member.path.tx.copy(frame, to: copy)
      copy.deallocate()
      let virtio = member.path.tx.virtio(frame)
      if virtio.flags & VirtioNetHeader.needsChecksum != 0 {
        precondition(
          Int(virtio.checksumStart) + Int(virtio.checksumOffset) + 2 <= length, "a checksum beyond the frame")
      }
      if virtio.gso != VirtioNetHeader.gsoNone {
        precondition(virtio.flags & VirtioNetHeader.needsChecksum != 0, "segments without checksums")
        precondition(virtio.gsoBytes > 0 && Int(virtio.headerBytes) <= length, "segments of nothing")
      }
      precondition(
        FuzzPorts.takesVirtio(interface) || virtio == VirtioNetHeader(), "a request to a port that takes none")
      packets += Int(frame.packets)
      next = frame.next
    }
    return packets
  }

  // MARK: a few packets through whatever tables there are

  /// A UDP packet of each family, an ARP request and a tunnel packet from each of the first interfaces.
  func sendSome() {
    for id in 0..<8 as Range<UInt32> where hasInterface(id) {
      var frames = RxFrames()
      let memories = Self.frames(id)
      for (memory, count) in memories {
        frames.append(RxFrame(bytes: Bytes(memory), length: count, virtio: VirtioNetHeader()))
      }
      process(frames, interface: id)
      for (memory, _) in memories { memory.deallocate() }
      frames.deallocate()
    }
  }

  private static func frames(_ id: UInt32) -> [(UnsafeMutableRawPointer, Int)] {
    [
      frame(80) { bytes in
        Ethernet.write(
          bytes, destination: MACAddress.virtualRouter.bits, source: 0x0200_0000_0000 | UInt64(id),
          type: Ethernet.ipv4)
        packet4(bytes.advanced(Ethernet.bytes), length: 66)
      },
      frame(80) { bytes in
        Ethernet.write(
          bytes, destination: MACAddress.virtualRouter.bits, source: 0x0200_0000_0000 | UInt64(id),
          type: Ethernet.ipv6)
        let ip = bytes.advanced(Ethernet.bytes)
        ip.set32(0, 0x6B80_0000)
        ip.set32(4, 0x001A_1140)
        ip.setAddress6(8, IPAddress("fd01::1")!)
        ip.setAddress6(24, IPAddress("fd01::2")!)
        ip.set32(40, 0x03E8_0035)
        ip.set32(44, 0x001A_0001)
      },
      frame(42) { bytes in
        Ethernet.write(bytes, destination: 0xFFFF_FFFF_FFFF, source: 0x0200_0000_0000 | UInt64(id), type: Ethernet.arp)
        let arp = bytes.advanced(Ethernet.bytes)
        arp.set32(0, 0x0001_0800)
        arp.set32(4, 0x0604_0001)
        arp.set32(14, 0x0A01_0001)
        arp.set32(24, 0x0A01_0002)
      },
      frame(116) { bytes in
        Ethernet.write(
          bytes, destination: 0x0200_0000_FF01, source: 0x0200_0000_FF02, type: Ethernet.ipv4)
        let ip = bytes.advanced(Ethernet.bytes)
        ip.set32(0, 0x4500_0066)
        ip.set32(8, 0x4011_0000)
        ip.set32(12, 0xC000_0202)
        ip.set32(16, 0xC000_0201)
        IPv4.writeChecksum(ip, bytes: 20)
        ip.set32(20, 0xC123_12B5)
        ip.set32(24, 0x0052_0000)
        ip.set32(28, 0x0800_0000)
        ip.set32(32, 100 << 8)
        Ethernet.write(
          ip.advanced(36), destination: MACAddress.virtualRouter.bits, source: 0x0200_0000_FE02, type: Ethernet.ipv4)
        packet4(ip.advanced(50), length: 52)
      },
    ]
  }

  private static func frame(_ count: Int, _ body: (Bytes) -> Void) -> (UnsafeMutableRawPointer, Int) {
    let memory = UnsafeMutableRawPointer.allocate(byteCount: count, alignment: 16)
    memory.initializeMemory(as: UInt8.self, repeating: 0, count: count)
    body(Bytes(memory))
    return (memory, count)
  }

  private static func packet4(_ ip: Bytes, length: Int) {
    ip.set32(0, 0x45B8_0000 | UInt32(length))
    ip.set32(8, 0x4011_0000)
    ip.set32(12, 0x0A01_0001)
    ip.set32(16, 0x0A01_0002)
    IPv4.writeChecksum(ip, bytes: 20)
    ip.set32(20, 0x03E8_0035)
    ip.set16(24, UInt16(length - 20))
  }
}
