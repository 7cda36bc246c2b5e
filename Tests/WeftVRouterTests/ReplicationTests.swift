import Testing
import WeftForwarding
import WeftRing
import WeftTables
import WeftVRouter
import WeftWire

/// Ports of even numbers carry virtio-net headers.
private final class Devices: PortProvider {
  func open(_ interface: InterfaceConfiguration) throws(Refusal) -> PortCapabilities {
    let id = interface.vlan?.parent ?? interface.id
    return PortCapabilities(takesVirtio: id % 2 == 0, takesUDPSegmentation: false)
  }
  func start(_ id: UInt32) {}
  func close(_ id: UInt32) {}
  func state(_ id: UInt32) -> InterfaceState { InterfaceState(isUp: true, kernelIndex: 0) }
  func isStale(_ interface: InterfaceConfiguration) -> Bool { false }
}

private func mac(_ number: UInt64) -> MACAddress { MACAddress(bits: 0x0200_0000_0000 | number) }

/// What left: the frame, with the virtio-net header that it has.
private struct Sent {
  let interface: UInt32
  let virtio: VirtioNetHeader
  let octets: [UInt8]
}

/// Pods 1 to 4, VLANs of 1 and 2 (5 and 6), a tunnel over IPv4 and one over IPv6; all get copies.
private struct Node: ~Copyable {
  let memory: TableMemory
  let programmer: TableProgrammer
  var path: PacketPath
  private let counters: UnsafeMutableRawPointer

  private init(
    _ memory: TableMemory, _ programmer: TableProgrammer, _ path: consuming PacketPath,
    _ counters: UnsafeMutableRawPointer
  ) {
    self.memory = memory
    self.programmer = programmer
    self.path = path
    self.counters = counters
  }

  static func made() throws -> Node {
    var limits = TableLimits()
    limits.interfaces = 8
    let memory = try TableMemory(
      sizes: TableSizes(interfaces: 8, vrfs: 4, nexthops: 64, routes: 64, routeNodes: 256, bridge: 16), workers: 0)
    let programmer = TableProgrammer(memory: memory, limits: limits, ports: Devices())
    try fill(programmer)
    let bytes = 256 * 8 + 8 * Counters.interfaceBytes
    let counters = UnsafeMutableRawPointer.allocate(byteCount: bytes, alignment: 64)
    counters.initializeMemory(as: UInt8.self, repeating: 0, count: bytes)
    let flows = try FlowTable(capacity: 64, seed: 1)
    let fragments = try FragmentTable(seed: 1)
    let nat = try NATWorker(worker: 0, seed: 1)
    let path = PacketPath(
      tables: memory.reader, flows: flows, fragments: fragments, nat: nat,
      counters: Counters(drops: counters, interfaces: counters + 256 * 8, interfaceCount: 8), interfaces: 8, seed: 1)
    return Node(memory, programmer, path, counters)
  }

  deinit { counters.deallocate() }

  private static func fill(_ programmer: TableProgrammer) throws {
    var commands: [Command] = [
      .setVRF(VRFConfiguration(id: 1, name: "blue", flags: .floodUnknown)),
      .setInterface(
        InterfaceConfiguration(
          id: 0, role: .fabric, port: .packet, device: "fab", mac: mac(0xF0), mtu: 2000,
          addresses: [IPAddress("192.0.2.1")!, IPAddress("2001:db8::1")!])),
    ]
    for id in 1...4 as ClosedRange<UInt32> {
      commands.append(
        .setInterface(
          InterfaceConfiguration(
            id: id, role: .virtual, port: .packet, device: "pod\(id)", mac: mac(UInt64(id)), vrf: 1)))
    }
    for (id, parent) in [(5, 1), (6, 2)] as [(UInt32, UInt32)] {
      commands.append(
        .setInterface(
          InterfaceConfiguration(
            id: id, role: .virtual, port: .vlan, device: "vlan\(id)", mac: mac(UInt64(id)), vrf: 1,
            vlan: VLANConfiguration(parent: parent, outer: 100))))
    }
    for id in 1...6 as ClosedRange<UInt32> {
      commands.append(
        .setNexthop(NexthopConfiguration(id: id, action: .encap(interface: id, destinationMAC: mac(UInt64(id))))))
    }
    for (id, source, destination) in [(10, "192.0.2.1", "192.0.2.2"), (11, "2001:db8::1", "2001:db8::2")] {
      commands.append(
        .setNexthop(
          NexthopConfiguration(
            id: UInt32(id),
            action: .tunnel(
              TunnelConfiguration(
                encapsulation: .vxlan, interface: 0, source: IPAddress(source)!, destination: IPAddress(destination)!,
                destinationMAC: mac(0xF2))))))
    }
    let members = [1, 2, 3, 4, 5, 6, 10, 11].map { MulticastMember(nexthop: $0, label: $0 >= 10 ? 100 : 0) }
    commands += [
      .setNexthop(NexthopConfiguration(id: 20, action: .multicast(members))),
      .setBridge(BridgeConfiguration(vrf: 1, mac: .broadcast, nexthop: 20)),
    ]
    for command in commands { try programmer.apply(command) }
    programmer.commit()
  }

  mutating func send(_ octets: [UInt8], _ virtio: VirtioNetHeader, from interface: UInt32) -> [Sent] {
    let memory = UnsafeMutableRawPointer.allocate(byteCount: octets.count, alignment: 16)
    defer { memory.deallocate() }
    octets.withUnsafeBytes { memory.copyMemory(from: $0.baseAddress!, byteCount: $0.count) }
    var frames = RxFrames()
    defer { frames.deallocate() }
    frames.append(RxFrame(bytes: Bytes(memory), length: octets.count, virtio: virtio))
    path.process(frames, interface: interface, now: 1)
    var sent: [Sent] = []
    for target in 0..<8 as Range<UInt32> {
      var number = path.tx.head(target)
      while number != TxFrames.none {
        let frame = path.tx.frame(number)
        var copy = [UInt8](repeating: 0, count: Int(frame.length))
        copy.withUnsafeMutableBytes { path.tx.copy(frame, to: $0.baseAddress!) }
        sent.append(Sent(interface: target, virtio: path.tx.virtio(frame), octets: copy))
        number = frame.next
      }
    }
    path.tx.reset()
    return sent
  }
}

/// A TCP or UDP packet to a MAC address that nobody has, its checksum unfinished.
private func packet(isV4: Bool, isTCP: Bool, payload: Int) -> (octets: [UInt8], transport: Int) {
  let ipBytes = isV4 ? 20 : 40
  let header = isTCP ? 20 : 8
  let memory = UnsafeMutableRawPointer.allocate(byteCount: 14 + ipBytes + header + payload, alignment: 16)
  defer { memory.deallocate() }
  let at = Bytes(memory)
  Ethernet.write(at, destination: mac(0x99).bits, source: mac(0x77).bits, type: isV4 ? Ethernet.ipv4 : Ethernet.ipv6)
  let ip = at.advanced(14)
  for index in 0..<ipBytes + header { ip.set8(index, 0) }
  let proto = isTCP ? IPProtocol.tcp : IPProtocol.udp
  if isV4 {
    ip.set16(0, 0x4500)
    ip.set16(2, UInt16(20 + header + payload))
    ip.set8(8, 64)
    ip.set8(9, proto)
    ip.set32(12, 0x0A01_0001)
    ip.set32(16, 0x0A01_0002)
    IPv4.writeChecksum(ip, bytes: 20)
  } else {
    ip.set32(0, 0x6000_0000)
    ip.set16(4, UInt16(header + payload))
    ip.set8(6, proto)
    ip.set8(7, 64)
    ip.setAddress6(8, IPAddress("fd00::1")!)
    ip.setAddress6(24, IPAddress("fd00::2")!)
  }
  let transport = ip.advanced(ipBytes)
  transport.set16(0, 1000)
  transport.set16(2, 2000)
  if isTCP { transport.set16(12, 0x5010) } else { transport.set16(4, UInt16(8 + payload)) }
  let sum = Checksum.pseudoHeader(ip, isV4: isV4, proto: proto, length: header + payload)
  transport.set16(isTCP ? 16 : 6, UInt16(bigEndian: Checksum.fold(sum)))
  for index in 0..<payload { transport.set8(header + index, UInt8(truncatingIfNeeded: index * 7)) }
  return ((0..<14 + ipBytes + header + payload).map { at.u8($0) }, 14 + ipBytes)
}

/// The payload of a frame whose IP and transport checksums are right; nil where they are not.
private func checked(_ frame: [UInt8], isV4: Bool, isTCP: Bool) -> [UInt8]? {
  let memory = UnsafeMutableRawPointer.allocate(byteCount: frame.count, alignment: 16)
  defer { memory.deallocate() }
  frame.withUnsafeBytes { memory.copyMemory(from: $0.baseAddress!, byteCount: $0.count) }
  let ip = Bytes(memory).advanced(14)
  let ipBytes = isV4 ? 20 : 40
  let length = frame.count - 14 - ipBytes
  guard !isV4 || Checksum.holds(ip.sum(0, count: 20)) else { return nil }
  guard Int(isV4 ? ip.u16(2) : ip.u16(4)) == length + (isV4 ? 20 : 0) else { return nil }
  let sum = Checksum.pseudoHeader(ip, isV4: isV4, proto: isTCP ? IPProtocol.tcp : IPProtocol.udp, length: length)
  guard Checksum.holds(ip.advanced(ipBytes).sum(0, count: length, sum)) else { return nil }
  return Array(frame[(14 + ipBytes + (isTCP ? 20 : 8))...])
}

@Suite struct ReplicationTests {
  /// A tunnel's frame without what is around the inner one, which is the same for all of a kind here.
  private func inner(_ sent: Sent) -> [UInt8] {
    let isV4 = sent.octets[12] == 0x08
    return Array(sent.octets.dropFirst(isV4 ? 50 : 70))
  }

  private func untagged(_ sent: Sent) -> [UInt8] {
    #expect(Array(sent.octets[12..<16]) == [0x81, 0, 0, 100])
    return Array(sent.octets[..<12] + sent.octets[16...])
  }

  /// Copies share the packet's memory: what is done to it for one must be right for all.
  @Test(arguments: [true, false], [true, false])
  func unfinishedChecksums(isV4: Bool, isTCP: Bool) throws {
    var node = try Node.made()
    let (octets, transport) = packet(isV4: isV4, isTCP: isTCP, payload: 100)
    var virtio = VirtioNetHeader()
    virtio.flags = VirtioNetHeader.needsChecksum
    virtio.checksumStart = UInt16(transport)
    virtio.checksumOffset = isTCP ? 16 : 6
    let sent = node.send(octets, virtio, from: 3)
    #expect(sent.map(\.interface) == [0, 0, 1, 2, 4, 5, 6])
    for one in sent {
      let frame = one.interface == 0 ? inner(one) : one.interface > 4 ? untagged(one) : one.octets
      #expect(checked(frame, isV4: isV4, isTCP: isTCP) == Array(octets.suffix(100)), "\(one)")
      if one.interface > 0 { #expect(one.virtio == VirtioNetHeader()) }
    }
  }

  @Test(arguments: [true, false]) func superFrames(isV4: Bool) throws {
    var node = try Node.made()
    let (octets, transport) = packet(isV4: isV4, isTCP: true, payload: 2500)
    var virtio = VirtioNetHeader()
    virtio.flags = VirtioNetHeader.needsChecksum
    virtio.checksumStart = UInt16(transport)
    virtio.checksumOffset = 16
    virtio.gso = isV4 ? VirtioNetHeader.gsoTCPv4 : VirtioNetHeader.gsoTCPv6
    virtio.gsoBytes = 1000
    virtio.headerBytes = UInt16(transport + 20)
    // From a VLAN, whose tag counts as headers.
    var tagged = virtio
    tagged.checksumStart += 4
    tagged.headerBytes += 4
    let frame = Array(octets[..<12] + [0x81, 0, 0, 100] + octets[12...])
    for (input, header, from, targets) in [
      (octets, virtio, 3, [0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 4, 5, 5, 5, 6]),
      (frame, tagged, 2, [0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 3, 3, 3, 4, 5, 5, 5]),
    ] as [([UInt8], VirtioNetHeader, UInt32, [UInt32])] {
      let sent = node.send(input, header, from: from)
      #expect(sent.map(\.interface) == targets)
      // Whole where the port takes that, with the tag counted in.
      for one in sent where [2, 4].contains(one.interface) {
        #expect(one.octets == octets && one.virtio == virtio)
      }
      for one in sent where one.interface == 6 { #expect(untagged(one) == octets && one.virtio == tagged) }
      // In segments elsewhere.
      for target in [0, 1, 3, 5] as [UInt32] {
        let frames = sent.filter { $0.interface == target }.map {
          target == 0 ? inner($0) : target == 5 ? untagged($0) : $0.octets
        }
        for start in stride(from: 0, to: frames.count, by: 3) {
          let payload = frames[start..<start + 3].flatMap { checked($0, isV4: isV4, isTCP: true) ?? [] }
          #expect(payload == Array(octets.suffix(2500)))
        }
      }
    }
  }
}
