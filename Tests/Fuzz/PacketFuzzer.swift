import Glibc
import WeftForwarding
import WeftTables
import WeftWire

/// Hostile packets against the packet path, for libFuzzer (tools/fuzz builds and runs it, with AddressSanitizer).
///
/// An input is an interface's number and frames that came in by it, each with a length (2 bytes, little-endian), a
/// virtio-net header (10 bytes) and that many bytes, or as many as are left. Each frame lies in memory of exactly its
/// size, and so do the frames that leave, so that a byte too many is caught.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzOneInput(_ data: UnsafePointer<UInt8>, _ size: Int) -> CInt {
  guard size > 0 else { return 0 }
  fuzzer.run(UnsafeBufferPointer(start: data, count: size))
  return 0
}

nonisolated(unsafe) private let fuzzer = PacketFuzzer()

private final class PacketFuzzer {
  /// Two pods that take virtio-net headers, one that does not, two fabrics: one with UDP segmentation, one without virtio.
  private static let pods: [UInt32] = [1, 2, 3]
  private static let fabrics: [UInt32] = [4, 5]
  private static let interfaces: UInt32 = 6
  /// A VLAN on the first pod's port, one of two tags on the second fabric's.
  private static let vlans: [(id: UInt32, parent: UInt32, proto: UInt16, outer: UInt16, inner: UInt16)] = [
    (6, 1, 0x8100, 100, 0), (7, 5, 0x88A8, 100, 7),
  ]
  private static let fabricMAC: UInt64 = 0x0200_0000_0F01
  private static let underlay4 = IPAddress("192.0.2.1")!
  private static let underlay6 = IPAddress("2001:db8::1")!

  private var path: PacketPath
  private var now: UInt64 = 1_000_000_000
  private let memory: TableMemory
  private let worker: WorkerEpoch
  private let reports = try! ReportRing()

  init() {
    memory = try! TableMemory(
      sizes: TableSizes(interfaces: 8, vrfs: 4, nexthops: 32, routes: 64, routeNodes: 256, bridge: 64), workers: 1)
    worker = memory.epochs.worker(0)
    let drops = UnsafeMutableRawPointer.allocate(byteCount: 8 * DropReason.allCases.count, alignment: 8)
    drops.initializeMemory(as: UInt8.self, repeating: 0, count: 8 * DropReason.allCases.count)
    let counters = UnsafeMutableRawPointer.allocate(byteCount: 64 * 8, alignment: 8)
    counters.initializeMemory(as: UInt8.self, repeating: 0, count: 64 * 8)
    path = PacketPath(
      tables: memory.reader, flows: try! FlowTable(capacity: 1024, seed: 1), fragments: try! FragmentTable(seed: 1),
      nat: try! NATWorker(worker: 0, seed: 1),
      counters: Counters(drops: drops, interfaces: counters, interfaceCount: 8), interfaces: 8, seed: 1)
    path.reports = reports.writer
    setTables()
    setBridge()
  }

  private func setTables() {
    for id in Self.pods {
      var pod = InterfaceEntry(
        isFabric: false, mtu: 1500, vrf: 1, mac: 0x0200_0000_0000 | UInt64(id), addresses: [],
        takesUDPSegmentation: false, takesVirtio: id != 3)
      pod.hasSubinterfaces = id == 1
      pod.conditions = id == 1 ? .learned : id == 2 ? .guarded : []
      pod.isPlain = id == 3
      memory.publish(interface: id, pod)
    }
    for id in Self.fabrics {
      var fabric = InterfaceEntry(
        isFabric: true, mtu: 1550, vrf: 0, mac: Self.fabricMAC, addresses: [Self.underlay4, Self.underlay6],
        takesUDPSegmentation: id == 4, takesVirtio: id == 4)
      fabric.hasSubinterfaces = id == 5
      fabric.conditions = .learned
      fabric.isPlain = id == 4
      memory.publish(interface: id, fabric)
    }
    for vlan in Self.vlans {
      _ = memory.subinterfaces.set(
        parent: vlan.parent, proto: vlan.proto, outer: vlan.outer, inner: vlan.inner, interface: vlan.id)
      var entry = InterfaceEntry(
        isFabric: false, mtu: 1400, vrf: 1, mac: 0x0200_0000_0000 | UInt64(vlan.id), addresses: [],
        takesUDPSegmentation: false, takesVirtio: vlan.parent == 1)
      entry.tagBytes = vlan.inner == 0 ? 4 : 8
      entry.tags = UInt64(vlan.proto) << 48 | UInt64(vlan.outer) << 32 | (vlan.inner == 0 ? 0 : 0x8100_0007)
      entry.isPlain = false
      memory.publish(interface: vlan.id, entry)
    }
    var receive = NexthopEntry(kind: .receive)
    receive.vrf = 1
    memory.publish(nexthop: 0, NexthopEntry(kind: .discard))
    memory.publish(nexthop: 1, receive)
    for id in Self.pods {
      var encap = NexthopEntry(kind: .encap)
      encap.interface = id
      encap.destinationMAC = 0x0200_0000_0000 | UInt64(id)
      memory.publish(nexthop: 1 + id, encap)
    }
    var translate = NexthopEntry(kind: .vrfTranslate)
    translate.vrf = 1
    memory.publish(nexthop: 5, translate)
    // Tunnels: both kinds over both families, by either fabric.
    var tunnel: UInt32 = 8
    for fabric in Self.fabrics {
      for kind in [NexthopKind.vxlan, .mplsOverUDP] {
        for (source, destination) in [
          (Self.underlay4, IPAddress("192.0.2.2")!), (Self.underlay6, IPAddress("2001:db8::2")!),
        ] {
          memory.publish(
            nexthop: tunnel,
            NexthopEntry(
              kind: kind, interface: fabric, interfaceMAC: Self.fabricMAC, mtu: 1550, source: source,
              destination: destination, nextHopMAC: 0x0200_0000_0F02, innerDestinationMAC: MACAddress.virtualRouter.bits
            ))
          tunnel += 1
        }
      }
    }
    setRoutes(tunnels: 8..<tunnel)
  }

  private func setRoutes(tunnels: Range<UInt32>) {
    let roots = [memory.routes.makeRoot()!, memory.routes.makeRoot()!]
    memory.roots.set(2, roots[0])
    memory.roots.set(3, roots[1])
    func route(_ prefix: String, _ nexthop: UInt32) {
      let prefix = IPPrefix(prefix)!
      let number = memory.paths.acquire(Path(nexthop: nexthop, label: 5001))!
      memory.routes.set(root: roots[prefix.isV4 ? 0 : 1], prefix, path: number, isNew: true)
    }
    route("10.1.0.0/16", 0)
    route("10.1.0.1/32", 1)
    route("fd00:1::1/128", 1)
    for id in Self.pods {
      route("10.1.1.\(id)/32", 1 + id)
      route("fd00:1::1:\(id)/128", 1 + id)
      let number = memory.paths.acquire(Path(nexthop: 1 + id, label: 0))!
      _ = memory.bridge.set(vrf: 1, mac: MACAddress(bits: 0x0200_0000_0000 | UInt64(id)), path: number)
    }
    for (index, tunnel) in tunnels.enumerated() {
      route("10.1.2.\(index)/32", tunnel)
      route("fd00:1::2:\(index)/128", tunnel)
      let number = memory.paths.acquire(Path(nexthop: tunnel, label: 5001))!
      _ = memory.bridge.set(vrf: 1, mac: MACAddress(bits: 0x0200_0000_0200 | UInt64(index)), path: number)
    }
    memory.vnis.set(5001, 5 + 1)
    memory.labels.set(1002, 5 + 1)
    memory.labels.set(1003, 2 + 1)
  }

  /// Broadcasts, a group and unknown MAC addresses go to everybody, through a list in a list; ARP is answered for a
  /// neighbour; a label carries Ethernet frames; a subnet's hosts are asked for.
  private func setBridge() {
    memory.vrfBits.set(1, VRFBits([.floodsUnknown, .learns, .suppresses]).rawValue)
    for vlan in Self.vlans {
      var encap = NexthopEntry(kind: .encap)
      encap.interface = vlan.id
      encap.destinationMAC = 0x0200_0000_0000 | UInt64(vlan.id)
      memory.publish(nexthop: 18 + vlan.id, encap)
    }
    var inner = NexthopEntry(kind: .multicast)
    inner.replicas = ReplicaList(
      ([2, 3, 24] + (12..<16)).map { .init(path: Path(nexthop: $0, label: 5001), group: UInt16($0 & 1)) })
    memory.publish(nexthop: 20, inner)
    var outer = NexthopEntry(kind: .multicast)
    outer.replicas = ReplicaList(
      ([4, 25, 20] + (8..<12)).map { .init(path: Path(nexthop: $0, label: 5002), group: UInt16($0 & 1)) })
    memory.publish(nexthop: 21, outer)
    var bridged = NexthopEntry(kind: .l2Receive)
    bridged.vrf = 1
    memory.publish(nexthop: 22, bridged)
    var resolve = NexthopEntry(kind: .resolve)
    resolve.interface = 3
    memory.publish(nexthop: 23, resolve)
    memory.labels.set(1004, 22 + 1)
    memory.vnis.set(5004, 22 + 1)
    func path(_ nexthop: UInt32) -> UInt32 { memory.paths.acquire(Path(nexthop: nexthop, label: 0))! }
    _ = memory.bridge.set(vrf: 1, mac: .broadcast, path: path(21))
    memory.routes.set(root: memory.reader.roots[2], IPPrefix("239.1.2.3/32")!, path: path(20), isNew: true)
    memory.routes.set(root: memory.reader.roots[2], IPPrefix("10.1.3.0/24")!, path: path(23), isNew: true)
    memory.routes.set(root: memory.reader.roots[3], IPPrefix("ff0e::1/128")!, path: path(20), isNew: true)
    for address in ["10.1.1.9", "fd00:1::1:9"] {
      _ = memory.neighbors.set(vrf: 1, address: IPAddress(address)!, mac: MACAddress(bits: 0x0200_0000_0200))
    }
  }

  func run(_ input: UnsafeBufferPointer<UInt8>) {
    let interface = UInt32(input[0]) % Self.interfaces
    var frames = RxFrames()
    var memories: [UnsafeMutableRawPointer] = []
    defer {
      for memory in memories { memory.deallocate() }
      frames.deallocate()
    }
    var position = 1
    while position + 12 <= input.count, !frames.isFull {
      let asked = Int(input[position]) | Int(input[position + 1]) << 8
      let header = UnsafeMutableRawPointer(mutating: input.baseAddress! + position + 2)
      let virtio = VirtioNetHeader(reading: Bytes(header))
      position += 12
      let count = min(asked, input.count - position)
      let memory = UnsafeMutableRawPointer.allocate(byteCount: count, alignment: 1)
      memory.copyMemory(from: input.baseAddress! + position, byteCount: count)
      memories.append(memory)
      frames.append(RxFrame(bytes: Bytes(memory), length: count, virtio: virtio))
      position += count
    }
    now += 10_000_000
    worker.comeOnline()
    path.process(frames, interface: interface, now: now)
    for index in 0..<path.tx.touchedCount { look(at: path.tx.touched(index)) }
    path.tx.reset()
    path.age(now: now)
    while reports.next() != nil {}
    worker.goOffline()
  }

  /// What leaves is whole, and asks of the kernel only what can be done.
  private func look(at interface: UInt32) {
    let last = Self.interfaces + UInt32(Self.vlans.count) - 1
    precondition(interface <= last && interface > 0, "a frame for interface \(interface)")
    var next = path.tx.head(interface)
    while next != TxFrames.none {
      let frame = path.tx.frame(next)
      let length = Int(frame.length)
      let vector = path.tx.vector(frame)
      let pieces = (0..<Int(frame.pieces)).reduce(0) { $0 + vector[$1].iov_len }
      precondition(pieces == length + VirtioNetHeader.bytes, "\(pieces) bytes in pieces, \(length) in the frame")
      let most = 65535 + Ethernet.bytes + 2 * Ethernet.tagBytes
      precondition(length >= Ethernet.bytes && length <= most, "\(length) bytes")
      precondition(frame.packets >= 1)
      let copy = UnsafeMutableRawPointer.allocate(byteCount: length, alignment: 1)
      path.tx.copy(frame, to: copy)
      copy.deallocate()
      let virtio = path.tx.virtio(frame)
      if virtio.flags & VirtioNetHeader.needsChecksum != 0 {
        precondition(
          Int(virtio.checksumStart) + Int(virtio.checksumOffset) + 2 <= length, "a checksum beyond the frame")
      }
      if virtio.gso != VirtioNetHeader.gsoNone {
        precondition(virtio.flags & VirtioNetHeader.needsChecksum != 0, "segments without checksums")
        precondition(virtio.gsoBytes > 0 && Int(virtio.headerBytes) <= length, "segments of nothing")
      }
      let takesVirtio = interface != 3 && interface != 5 && interface != 7
      for vlan in Self.vlans where vlan.id == interface {
        var type = [UInt8](repeating: 0, count: length)
        type.withUnsafeMutableBytes { path.tx.copy(frame, to: $0.baseAddress!) }
        precondition(UInt16(type[12]) << 8 | UInt16(type[13]) == vlan.proto, "a frame without its tag")
      }
      precondition(takesVirtio || virtio == VirtioNetHeader(), "a request to a port that takes none")
      next = frame.next
    }
  }
}
