import WeftTables
import WeftWire

// The short way. Most packets are whole IPv4 packets of TCP or UDP without options, of a flow that is known, whose path
// has not changed since its last packet: nothing is to be found out about them. They go from the frame to the port in
// two rounds over the batch, without becoming a `Packet`. Whatever is not like that goes the way of all stages, and so
// do the frames behind it, so that no packet overtakes another. Both ways do the same to a packet that can go either
// (`usesFastPath` is there to compare them).

/// A packet that may go the short way.
@safe struct FastPacket {
  var ip: Bytes
  var key: FlowKey
  var hash: UInt64
  /// Bytes of frame as it was received, and of IP packet.
  var frameBytes: Int
  var ipBytes: Int
  var tcpFlags: UInt8
  var trafficClass: UInt8
  /// The transport checksum is to be finished: its field holds the pseudo-header's sum.
  var needsChecksum: Bool
}

@safe struct FastBatch {
  private let packets: UnsafeMutablePointer<FastPacket>

  init() { unsafe packets = .allocate(capacity: RxFrames.capacity) }
  func deallocate() { unsafe packets.deallocate() }

  subscript(index: Int) -> FastPacket {
    @inline(__always) unsafeAddress { unsafe UnsafePointer(packets + index) }
    @inline(__always) nonmutating unsafeMutableAddress { unsafe packets + index }
  }
}

extension PacketPath {
  /// Takes packets from the batch's front the short way; returns how many frames are done.
  mutating func forwardFast(
    _ frames: RxFrames, _ id: UInt32, _ interface: EntryReference<InterfaceEntry>, _ now: UInt64
  ) -> Int {
    let count = interface.entry.isFabric ? openFast(frames, interface) : readFast(frames, interface)
    guard count > 0 else { return 0 }
    let generation = tables.generation
    let fast = fast
    for index in 0..<count { flows.prefetchEntry(fast[index].hash) }
    var bytes = 0
    var index = 0
    while index < count, send(index, interface.entry.isFabric, generation, now) {
      bytes &+= fast[index].frameBytes
      index &+= 1
    }
    if index > 0 { counters.received(id, packets: index, bytes: bytes) }
    return index
  }

  // MARK: the first round: headers

  /// Frames of a pod up to the first that is not simple; the flows' buckets are on their way into the cache.
  private mutating func readFast(_ frames: RxFrames, _ interface: EntryReference<InterfaceEntry>) -> Int {
    let vrf = interface.entry.vrf
    let fast = fast
    var index = 0
    while index < frames.count {
      let frame = frames[index]
      let ethernet = frame.bytes
      // Destination and type at once: to the router's MAC, IPv4.
      guard frame.length >= Ethernet.bytes &+ IPv4.minimumBytes &+ UDP.bytes,
        ethernet.u64(0) >> 16 == MACAddress.virtualRouter.bits, ethernet.u16(Ethernet.type) == Ethernet.ipv4,
        frame.virtio.gso == VirtioNetHeader.gsoNone,
        read(&fast[index], ethernet.advanced(Ethernet.bytes), frame.length &- Ethernet.bytes, vrf)
      else { break }
      fast[index].frameBytes = frame.length
      fast[index].needsChecksum = frame.virtio.flags & VirtioNetHeader.needsChecksum != 0
      if fast[index].needsChecksum {
        let place = fast[index].key.proto == IPProtocol.tcp ? TCP.checksum : UDP.checksum
        guard frame.virtio.checksumStart == UInt16(Ethernet.bytes &+ IPv4.minimumBytes),
          frame.virtio.checksumOffset == UInt16(truncatingIfNeeded: place)
        else { break }
      }
      index &+= 1
    }
    return index
  }

  /// An IPv4 packet of TCP or UDP, whole and without options; TCP with nothing but ACK and PSH.
  @inline(__always)
  private func read(_ packet: inout FastPacket, _ ip: Bytes, _ available: Int, _ vrf: UInt32) -> Bool {
    let length = Int(ip.u16(2))
    let transport = ip.advanced(IPv4.minimumBytes)
    let proto = ip.u8(9)
    let segment = length &- IPv4.minimumBytes
    guard ip.u8(0) == 0x45, length <= available, segment >= UDP.bytes,
      ip.u16(6) & (IPv4.moreFragments | IPv4.offsetMask) == 0, ip.u8(8) > 1,
      Checksum.holds(Self.headerSum(ip))
    else { return false }
    if proto == IPProtocol.udp {
      let claimed = Int(transport.u16(4))
      guard claimed >= UDP.bytes, claimed <= segment else { return false }
      packet.tcpFlags = 0
    } else {
      guard proto == IPProtocol.tcp, segment >= TCP.minimumBytes else { return false }
      let header = TCP.headerBytes(transport)
      packet.tcpFlags = transport.u8(13)
      guard header >= TCP.minimumBytes, header <= segment, packet.tcpFlags & ~TCP.psh == TCP.ack else { return false }
    }
    packet.ip = ip
    packet.ipBytes = length
    packet.trafficClass = ip.u8(1)
    packet.key = FlowKey(
      vrf: vrf, source: IPAddress(v4: ip.u32(12)), destination: IPAddress(v4: ip.u32(16)), proto: proto,
      sourcePort: transport.u16(0), destinationPort: transport.u16(2))
    packet.hash = packet.key.hash(seed: seed)
    flows.prefetch(packet.hash)
    return true
  }

  /// The sum of a header of 20 bytes.
  @inline(__always) private static func headerSum(_ ip: Bytes) -> UInt64 {
    let a = ip.u64(0)
    let b = ip.u64(8)
    // In host order, which sums as well; `holds` only asks whether all bits are set.
    return (a >> 32) &+ (a & 0xFFFF_FFFF) &+ (b >> 32) &+ (b & 0xFFFF_FFFF) &+ UInt64(ip.u32(16))
  }

  /// Frames from the fabric up to the first that is not simple: over IPv4, with no UDP checksum, a VNI or label of a VRF,
  /// a routed packet inside. TCP goes the other way, where segments are merged.
  private mutating func openFast(_ frames: RxFrames, _ interface: EntryReference<InterfaceEntry>) -> Int {
    let fast = fast
    let own = interface.entry.address0
    guard own.isV4, interface.entry.addressCount > 0 else { return 0 }
    let outerBytes = Ethernet.bytes &+ IPv4.minimumBytes &+ UDP.bytes
    var index = 0
    while index < frames.count {
      let frame = frames[index]
      let ethernet = frame.bytes
      guard frame.length >= outerBytes &+ MPLS.bytes &+ IPv4.minimumBytes &+ UDP.bytes,
        ethernet.u64(0) >> 16 == interface.entry.mac, ethernet.u16(Ethernet.type) == Ethernet.ipv4,
        frame.virtio.gso == VirtioNetHeader.gsoNone, frame.virtio.flags & VirtioNetHeader.needsChecksum == 0
      else { break }
      let ip = ethernet.advanced(Ethernet.bytes)
      let length = Int(ip.u16(2))
      let udp = ip.advanced(IPv4.minimumBytes)
      guard ip.u8(0) == 0x45, length <= frame.length &- Ethernet.bytes, ip.u8(9) == IPProtocol.udp,
        ip.u16(6) & (IPv4.moreFragments | IPv4.offsetMask) == 0, ip.u32(16) == own.v4,
        Checksum.holds(Self.headerSum(ip)), udp.u32(4) == UInt32(truncatingIfNeeded: length &- IPv4.minimumBytes) << 16,
        // Neither congestion nor ECT(1) outside: the inner field stays (RFC 6040).
        ip.u8(1) & ECN.ect1 == 0
      else { break }
      let tunnel = udp.advanced(UDP.bytes)
      var left = length &- IPv4.minimumBytes &- UDP.bytes
      let number: UInt32
      let inner: Bytes
      if udp.u16(2) == VXLAN.port {
        left &-= VXLAN.bytes &+ Ethernet.bytes
        inner = tunnel.advanced(VXLAN.bytes &+ Ethernet.bytes)
        guard left >= IPv4.minimumBytes &+ UDP.bytes, tunnel.u8(0) & VXLAN.validVNI != 0,
          tunnel.u64(VXLAN.bytes) >> 16 == MACAddress.virtualRouter.bits,
          tunnel.u16(VXLAN.bytes &+ Ethernet.type) == Ethernet.ipv4
        else { break }
        number = tables.vnis[tunnel.u32(4) >> 8]
      } else {
        left &-= MPLS.bytes
        inner = tunnel.advanced(MPLS.bytes)
        let entry = tunnel.u32(0)
        guard udp.u16(2) == MPLS.port, left >= IPv4.minimumBytes &+ UDP.bytes, entry & MPLS.bottomOfStack != 0 else {
          break
        }
        number = tables.labels[entry >> 12]
      }
      guard number != 0, let nexthop = tables.nexthop(number &- 1), nexthop.entry.kind == .vrfTranslate,
        inner.u8(9) == IPProtocol.udp, read(&fast[index], inner, left, nexthop.entry.vrf)
      else { break }
      fast[index].frameBytes = frame.length
      fast[index].needsChecksum = false
      index &+= 1
    }
    return index
  }

  // MARK: the second round: flow and path

  /// Sends a packet whose flow knows everything about it. False: nothing has been done to it.
  @inline(__always)
  private mutating func send(_ index: Int, _ isFromFabric: Bool, _ generation: UInt32, _ now: UInt64) -> Bool {
    let fast = fast
    let flow = flows.find(fast[index].key, hash: fast[index].hash)
    guard flow != FlowTable.none else { return false }
    let number = flows[flow].mark
    guard flows[flow].policyGeneration == generation, number != 0,
      flows[flow].flags.isDisjoint(with: [.denied, .nat, .mirrored, .staged]),
      flows.isSteady(flow, tcpFlags: fast[index].tcpFlags)
    else { return false }
    let path = tables.paths[number]
    guard let nexthop = tables.nexthop(path.nexthop), let interface = tables.interface(nexthop.entry.interface),
      interface.entry.isPlain
    else { return false }
    switch nexthop.entry.kind {
    case .encap:
      guard fast[index].ipBytes <= Int(interface.entry.mtu), tx.hasRoom(pieces: 2, bytes: 64) else { return false }
      deliverFast(index, nexthop, interface)
    case .vxlan, .mplsOverUDP:
      guard !isFromFabric, nexthop.entry.underlayIsV4, nexthop.entry.isResolved, nexthop.entry.isPlain,
        fast[index].ipBytes <= Int(nexthop.entry.mtu), tx.hasRoom(pieces: 2, bytes: 128)
      else { return false }
      encapsulateFast(index, path.label, nexthop)
    default: return false
    }
    flows.count(flow, bytes: fast[index].ipBytes, packets: 1, nexthop: path.nexthop, now: now)
    return true
  }

  @inline(__always)
  private mutating func deliverFast(
    _ index: Int, _ nexthop: EntryReference<NexthopEntry>, _ interface: EntryReference<InterfaceEntry>
  ) {
    let fast = fast
    IPv4.decrementTTL(fast[index].ip)
    var virtio = VirtioNetHeader()
    if fast[index].needsChecksum {
      if interface.entry.takesVirtio {
        virtio.flags = VirtioNetHeader.needsChecksum
        virtio.checksumStart = UInt16(Ethernet.bytes &+ IPv4.minimumBytes)
        virtio.checksumOffset = UInt16(fast[index].key.proto == IPProtocol.tcp ? TCP.checksum : UDP.checksum)
      } else {
        finishChecksum(fast[index])
      }
    }
    let mark = tx.pieceMark
    let head = tx.headers(VirtioNetHeader.bytes &+ Ethernet.bytes)
    virtio.write(head)
    Ethernet.write(
      head.advanced(VirtioNetHeader.bytes), destination: nexthop.entry.destinationMAC,
      source: MACAddress.virtualRouter.bits,
      type: Ethernet.ipv4)
    tx.piece(head, count: VirtioNetHeader.bytes &+ Ethernet.bytes)
    tx.piece(fast[index].ip, count: fast[index].ipBytes)
    tx.finish(from: mark, length: Ethernet.bytes &+ fast[index].ipBytes, interface: nexthop.entry.interface)
  }

  @inline(__always)
  private mutating func encapsulateFast(
    _ index: Int, _ label: UInt32, _ nexthop: EntryReference<NexthopEntry>
  ) {
    let fast = fast
    IPv4.decrementTTL(fast[index].ip)
    if fast[index].needsChecksum { finishChecksum(fast[index]) }
    let outerBytes = Ethernet.bytes &+ IPv4.minimumBytes &+ UDP.bytes
    let mark = tx.pieceMark
    let head = tx.headers(VirtioNetHeader.bytes &+ 64)
    VirtioNetHeader().write(head)
    let outer = head.advanced(VirtioNetHeader.bytes)
    // 64 bytes: with VXLAN all headers up to the packet, but for what is this packet's own.
    nexthop.entry.writeOuter(outer)
    var shim = MPLS.bytes
    if nexthop.entry.kind == .vxlan {
      shim = VXLAN.bytes &+ Ethernet.bytes
      outer.set32(outerBytes &+ 4, label << 8)
    } else {
      MPLS.write(outer.advanced(outerBytes), label: label, ttl: 64)
    }
    let length = UDP.bytes &+ shim &+ fast[index].ipBytes
    let total = UInt16(truncatingIfNeeded: IPv4.minimumBytes &+ length)
    let ip = outer.advanced(Ethernet.bytes)
    ip.set8(1, fast[index].trafficClass)
    ip.set16(2, total)
    ip.set16(
      10,
      Checksum.finish(
        short: nexthop.entry.outerSum &+ Checksum.addend(total) &+ Checksum.addend(UInt16(fast[index].trafficClass))))
    let udp = ip.advanced(IPv4.minimumBytes)
    udp.set16(0, 0xC000 | UInt16(truncatingIfNeeded: fast[index].hash >> 32 & 0x3FFF))
    udp.set16(4, UInt16(truncatingIfNeeded: length))
    tx.piece(head, count: VirtioNetHeader.bytes &+ outerBytes &+ shim)
    tx.piece(fast[index].ip, count: fast[index].ipBytes)
    tx.finish(
      from: mark, length: outerBytes &+ shim &+ fast[index].ipBytes, interface: nexthop.entry.interface)
  }

  /// As the general way does it.
  private func finishChecksum(_ packet: FastPacket) {
    let isTCP = packet.key.proto == IPProtocol.tcp
    let value = Checksum.finish(
      packet.ip.sum(IPv4.minimumBytes, count: packet.ipBytes &- IPv4.minimumBytes))
    packet.ip.set16(
      IPv4.minimumBytes &+ (isTCP ? TCP.checksum : UDP.checksum), value == 0 && !isTCP ? 0xFFFF : value)
  }
}
