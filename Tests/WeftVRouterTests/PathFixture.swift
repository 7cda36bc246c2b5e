import WeftForwarding
import WeftRing
import WeftTables
import WeftVRouter
import WeftWire

/// Devices that are always there; ports carry virtio-net headers where their number is even.
private final class Devices: PortProvider {
  func open(_ interface: InterfaceConfiguration) throws(Refusal) -> PortCapabilities {
    PortCapabilities(takesVirtio: interface.id % 2 == 0, takesUDPSegmentation: false)
  }
  func start(_ id: UInt32) {}
  func close(_ id: UInt32) {}
  func state(_ id: UInt32) -> InterfaceState { InterfaceState(isUp: true, kernelIndex: id) }
  func isStale(_ interface: InterfaceConfiguration) -> Bool { false }
}

/// A packet path with one VRF, a fabric interface 0 and pods 1 to 4, each 10.1.0.N and fd01::N, and a VXLAN tunnel over
/// IPv4 (10) and over IPv6 (11).
struct PathFixture: ~Copyable {
  struct Sent {
    let interface: UInt32
    let virtio: VirtioNetHeader
    let frame: [UInt8]
  }

  let memory: TableMemory
  let programmer: TableProgrammer
  let statistics: StatisticsRegion
  var path: PacketPath

  static func mac(_ id: UInt32) -> MACAddress { MACAddress(bits: 0x0200_0000_0000 | UInt64(id)) }

  init() throws {
    var limits = TableLimits()
    limits.interfaces = 8
    let memory = try TableMemory(
      sizes: TableSizes(interfaces: 8, vrfs: 4, nexthops: 16, routes: 64, routeNodes: 256, bridge: 16), workers: 1)
    let programmer = TableProgrammer(memory: memory, limits: limits, ports: Devices())
    for command in Self.commands { try programmer.apply(command) }
    programmer.commit()
    let reasons = DropReason.allCases
    let statistics = try StatisticsRegion(
      layout: StatisticsLayout(workers: 1, interfaces: 8, reasons: reasons.count),
      reasons: reasons.map { ($0.name, $0.explanation) })
    let worker = statistics.worker(0)
    let flows = try FlowTable(capacity: 1024, seed: 1)
    let fragments = try FragmentTable(seed: 1)
    let nat = try NATWorker(worker: 0, seed: 1)
    path = PacketPath(
      tables: memory.reader, flows: flows, fragments: fragments, nat: nat,
      counters: Counters(drops: worker.drops, interfaces: worker.interfaces, interfaceCount: 8), interfaces: 8, seed: 1)
    self.memory = memory
    self.programmer = programmer
    self.statistics = statistics
  }

  private static var commands: [Command] {
    var commands: [Command] = [
      .setVRF(VRFConfiguration(id: 1, name: "blue")),
      .setInterface(
        InterfaceConfiguration(
          id: 0, role: .fabric, port: .packet, device: "fab0", mac: mac(0xF0), mtu: 9000,
          addresses: [IPAddress("192.0.2.1")!, IPAddress("2001:db8::1")!])),
      tunnel(10, "192.0.2.1", "192.0.2.2"), tunnel(11, "2001:db8::1", "2001:db8::2"),
    ]
    for id in UInt32(1)...4 {
      commands += [
        .setInterface(
          InterfaceConfiguration(id: id, role: .virtual, port: .packet, device: "pod\(id)", mac: mac(id), vrf: 1)),
        .setNexthop(NexthopConfiguration(id: id, action: .encap(interface: id, destinationMAC: mac(id)))),
        .setRoute(RouteConfiguration(vrf: 1, prefix: IPPrefix("10.1.0.\(id)/32")!, nexthop: id)),
        .setRoute(RouteConfiguration(vrf: 1, prefix: IPPrefix("fd01::\(id)/128")!, nexthop: id)),
      ]
    }
    return commands
  }

  private static func tunnel(_ id: UInt32, _ source: String, _ destination: String) -> Command {
    .setNexthop(
      NexthopConfiguration(
        id: id,
        action: .tunnel(
          TunnelConfiguration(
            encapsulation: .vxlan, interface: 0, source: IPAddress(source)!, destination: IPAddress(destination)!,
            destinationMAC: mac(0xF2)))))
  }

  func apply(_ commands: [Command]) throws {
    for command in commands { try programmer.apply(command) }
    programmer.commit()
  }

  /// What the frame makes the packet path send, in order of interface.
  mutating func send(
    _ frame: [UInt8], _ virtio: VirtioNetHeader = VirtioNetHeader(), from interface: UInt32, now: UInt64 = 1
  ) -> [Sent] {
    let memory = UnsafeMutableRawPointer.allocate(byteCount: max(1, frame.count), alignment: 16)
    defer { memory.deallocate() }
    frame.withUnsafeBytes { if let base = $0.baseAddress { memory.copyMemory(from: base, byteCount: $0.count) } }
    var batch = RxFrames()
    defer { batch.deallocate() }
    batch.append(RxFrame(bytes: Bytes(memory), length: frame.count, virtio: virtio))
    path.process(batch, interface: interface, now: now)
    var sent: [Sent] = []
    for target in 0..<UInt32(8) {
      var number = path.tx.touchedCount > 0 ? path.tx.head(target) : TxFrames.none
      while number != TxFrames.none {
        let frame = path.tx.frame(number)
        var bytes = [UInt8](repeating: 0, count: Int(frame.length))
        bytes.withUnsafeMutableBytes { if let base = $0.baseAddress { path.tx.copy(frame, to: base) } }
        sent.append(Sent(interface: target, virtio: path.tx.virtio(frame), frame: bytes))
        number = frame.next
      }
    }
    path.tx.reset()
    return sent
  }
}

/// Frames made by hand.
enum Frames {
  /// TCP from pod `from` to pod `to`, both routed; the checksum as a sender leaves it that leaves it to others, or right.
  static func tcp(
    from: UInt32, to: UInt32, isV4: Bool, payload: [UInt8], flags: UInt8 = TCP.ack | TCP.psh, isFinished: Bool = false
  ) -> [UInt8] {
    let header = isV4 ? IPv4.minimumBytes : IPv6.bytes
    var frame = [UInt8](repeating: 0, count: Ethernet.bytes + header + TCP.minimumBytes) + payload
    frame.withUnsafeMutableBytes { buffer in
      let at = Bytes(buffer.baseAddress!)
      Ethernet.write(
        at, destination: MACAddress.virtualRouter.bits, source: PathFixture.mac(from).bits,
        type: isV4 ? Ethernet.ipv4 : Ethernet.ipv6)
      let ip = at.advanced(Ethernet.bytes)
      let length = TCP.minimumBytes + payload.count
      if isV4 {
        ip.set16(0, 0x4500)
        ip.set16(2, UInt16(truncatingIfNeeded: header + length))
        ip.set16(4, 0x1234)
        ip.set8(8, 64)
        ip.set8(9, IPProtocol.tcp)
        ip.set32(12, 0x0A01_0000 | from)
        ip.set32(16, 0x0A01_0000 | to)
        IPv4.writeChecksum(ip, bytes: header)
      } else {
        ip.set32(0, 0x6000_0000)
        ip.set16(4, UInt16(truncatingIfNeeded: length))
        ip.set8(6, IPProtocol.tcp)
        ip.set8(7, 64)
        ip.setAddress6(8, IPAddress("fd01::\(from)")!)
        ip.setAddress6(24, IPAddress("fd01::\(to)")!)
      }
      let tcp = ip.advanced(header)
      tcp.set16(0, 40000)
      tcp.set16(2, 80)
      tcp.set32(4, 1000)
      tcp.set32(8, 1)
      tcp.set16(12, 0x5000 | UInt16(flags))
      tcp.set16(14, 500)
      let sum = Checksum.pseudoHeader(ip, isV4: isV4, proto: IPProtocol.tcp, length: length)
      if isFinished {
        tcp.set16(TCP.checksum, Checksum.finish(tcp.sum(0, count: length, sum)))
      } else {
        tcp.set16(TCP.checksum, UInt16(bigEndian: Checksum.fold(sum)))
      }
    }
    return frame
  }

  /// The virtio-net header of a frame of `tcp`; a super-frame's with `segment` payload bytes in each.
  static func virtio(isV4: Bool, segment: Int = 0) -> VirtioNetHeader {
    let header = Ethernet.bytes + (isV4 ? IPv4.minimumBytes : IPv6.bytes)
    var virtio = VirtioNetHeader()
    virtio.flags = VirtioNetHeader.needsChecksum
    virtio.checksumStart = UInt16(header)
    virtio.checksumOffset = UInt16(TCP.checksum)
    if segment > 0 {
      virtio.gso = isV4 ? VirtioNetHeader.gsoTCPv4 : VirtioNetHeader.gsoTCPv6
      virtio.gsoBytes = UInt16(segment)
      virtio.headerBytes = UInt16(header + TCP.minimumBytes)
    }
    return virtio
  }
}
