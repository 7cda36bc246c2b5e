import WeftTables
import WeftWire

// The short way. Most packets are whole IPv4 packets of TCP or UDP without options, of a flow that is known, whose path
// has not changed since its last packet: nothing is to be found out about them. They go from the frame to the port in
// three rounds over the batch, without becoming a `Packet`. So do first packets of flows that nothing is to be done for but
// to ask policy and look up the route (FastBegin.swift, in the second round). Whatever is not like that goes the way of all stages, and so
// do the frames behind it, so that no packet overtakes another. Both ways do the same to a packet that can go either
// (`usesFastPath` is there to compare them).

/// A packet that may go the short way.
@safe struct FastPacket {
  var ip: Bytes
  /// The flow's key (`FlowKey`).
  var addresses: UInt64
  var transport: UInt64
  var hash: UInt64
  /// Bytes of IP packet.
  var ipBytes: Int
  /// Its flow's entry.
  var flow: UInt32
  /// The transport checksum is to be finished: its field holds the pseudo-header's sum.
  var needsChecksum: Bool
  /// TCP with SYN alone.
  var isOpening: Bool

  @inline(__always) var key: FlowKey { FlowKey(addresses: addresses, transport: transport) }
  @inline(__always) var proto: UInt8 { UInt8(truncatingIfNeeded: transport >> 24) }
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
    guard tx.hasRoom(frames: RxFrames.capacity, bytes: 128) else { return 0 }
    let isFromFabric = interface.entry.isFabric
    let read = isFromFabric ? openFast(frames, interface) : readFast(frames, interface)
    guard read > 0 else { return 0 }
    let generation = tables.generation
    let fast = fast
    for index in 0..<read { fast[index].flow = flows.candidate(fast[index].hash) }
    var done = 0
    while true {
      var known = done
      while known < read, hasFlow(known) || beginFast(known, id, interface, generation, now) { known &+= 1 }
      done = sendKnown(done, known, isFromFabric, generation, now)
      // Another worker's, perhaps.
      guard isShared, done == known, done < read, passOnFast(done, id) else { break }
      done &+= 1
    }
    guard done > 0 else { return 0 }
    var bytes = 0
    for index in 0..<done { bytes &+= frames[index].length }
    received(id, packets: done, bytes: bytes)
    return done
  }

  /// Sends packets that have flows, up to the first whose flow does not know everything about it; returns where that is.
  @inline(never)
  private mutating func sendKnown(
    _ first: Int, _ end: Int, _ isFromFabric: Bool, _ generation: UInt32, _ now: UInt64
  ) -> Int {
    // In registers, as far as there are any.
    var sent = tx
    var index = first
    while index < end, send(index, isFromFabric, &sent, generation, now) { index &+= 1 }
    tx = sent
    return index
  }

  /// The candidate is the packet's flow.
  @inline(__always) private func hasFlow(_ index: Int) -> Bool {
    let fast = fast
    return flows.isEntry(fast[index].flow, addresses: fast[index].addresses, transport: fast[index].transport)
      && !fast[index].isOpening
  }

  // MARK: the first round: headers

  /// Frames of a pod up to the first that is not simple; the flows' buckets are on their way into the cache.
  private mutating func readFast(_ frames: RxFrames, _ interface: EntryReference<InterfaceEntry>) -> Int {
    let vrf = interface.entry.vrf
    let seeds = FlowSeeds(seed)
    let fast = fast
    var index = 0
    while index < frames.count {
      let frame = frames[index]
      let ethernet = frame.bytes
      // Destination and type at once: to the router's MAC, IPv4.
      guard frame.length >= Ethernet.bytes &+ IPv4.minimumBytes &+ UDP.bytes,
        ethernet.u64(0) >> 16 == MACAddress.virtualRouter.bits, ethernet.u16(Ethernet.type) == Ethernet.ipv4,
        frame.virtio.gso == VirtioNetHeader.gsoNone,
        read(&fast[index], ethernet.advanced(Ethernet.bytes), frame.length &- Ethernet.bytes, vrf, seeds)
      else { break }
      let needsChecksum = frames[index].virtio.flags & VirtioNetHeader.needsChecksum != 0
      fast[index].needsChecksum = needsChecksum
      if needsChecksum {
        let place = fast[index].proto == IPProtocol.tcp ? TCP.checksum : UDP.checksum
        guard frames[index].virtio.checksumStart == UInt16(Ethernet.bytes &+ IPv4.minimumBytes),
          frames[index].virtio.checksumOffset == UInt16(truncatingIfNeeded: place)
        else { break }
      }
      index &+= 1
    }
    return index
  }

  /// An IPv4 packet of TCP or UDP, whole and without options; TCP with nothing but ACK and PSH, or SYN.
  @inline(__always)
  private func read(
    _ packet: inout FastPacket, _ ip: Bytes, _ available: Int, _ vrf: UInt32, _ seeds: FlowSeeds
  ) -> Bool {
    let header = PlainHeader(ip)
    let length = header.length
    let segment = length &- IPv4.minimumBytes
    guard header.isPlain, length <= available, header.lives, header.holds else { return false }
    let proto = header.proto
    let transport = ip.advanced(IPv4.minimumBytes)
    packet.isOpening = false
    if proto == UInt64(IPProtocol.udp) {
      let claimed = Int(transport.u16(4))
      guard claimed >= UDP.bytes, claimed <= segment else { return false }
    } else {
      guard proto == UInt64(IPProtocol.tcp), segment >= TCP.minimumBytes else { return false }
      let bytes = TCP.headerBytes(transport)
      guard bytes >= TCP.minimumBytes, bytes <= segment else { return false }
      if transport.u8(13) & ~TCP.psh != TCP.ack {
        guard transport.u8(13) == TCP.syn else { return false }
        packet.isOpening = true
      }
    }
    packet.ip = ip
    packet.ipBytes = length
    packet.addresses = header.addresses
    packet.transport = UInt64(transport.u32(0)) << 32 | proto << 24 | UInt64(vrf)
    packet.hash = FlowKey.hash(addresses: packet.addresses, transport: packet.transport, seeds)
    flows.prefetch(packet.hash)
    return true
  }

  /// Frames from the fabric up to the first that is not simple: over IPv4, with no UDP checksum, a VNI or label of a VRF,
  /// a routed packet inside. TCP goes the other way, where segments are merged.
  private mutating func openFast(_ frames: RxFrames, _ interface: EntryReference<InterfaceEntry>) -> Int {
    let fast = fast
    let seeds = FlowSeeds(seed)
    guard interface.entry.address0.isV4, interface.entry.addressCount > 0 else { return 0 }
    let own = interface.entry.address0.v4
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
      let header = PlainHeader(ip)
      let length = header.length
      let udp = ip.advanced(IPv4.minimumBytes)
      guard header.isPlain, length <= frame.length &- Ethernet.bytes, header.proto == UInt64(IPProtocol.udp),
        UInt32(truncatingIfNeeded: header.addresses) == own, header.holds,
        udp.u32(4) == UInt32(truncatingIfNeeded: length &- IPv4.minimumBytes) << 16,
        // Neither congestion nor ECT(1) outside: the inner field stays (RFC 6040).
        header.trafficClass & ECN.ect1 == 0
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
        inner.u8(9) == IPProtocol.udp, read(&fast[index], inner, left, nexthop.entry.vrf, seeds)
      else { break }
      fast[index].needsChecksum = false
      index &+= 1
    }
    return index
  }

  // MARK: the third round: paths

  /// Sends a packet whose flow knows everything about it. False: nothing has been done to it.
  @inline(__always)
  private func send(
    _ index: Int, _ isFromFabric: Bool, _ tx: inout TxFrames, _ generation: UInt32, _ now: UInt64
  ) -> Bool {
    let fast = fast
    let flow = fast[index].flow
    let number = flows[flow].mark
    let flags = flows[flow].flags
    guard flows[flow].policyGeneration == generation, number != 0,
      flags.intersection([.denied, .mirrored, .staged, .steady]) == .steady
    else { return false }
    let path = tables.paths[number]
    guard let nexthop = tables.nexthop(path.nexthop), let interface = tables.interface(nexthop.entry.interface),
      interface.entry.isPlain
    else { return false }
    let ip = fast[index].ip
    let bytes = fast[index].ipBytes
    switch nexthop.entry.short {
    case .deliver:
      guard bytes <= Int(interface.entry.mtu) else { return false }
      if flags.contains(.nat) { translateFast(index, flow) }
      IPv4.decrementTTL(ip)
      deliverFast(index, nexthop, interface, &tx)
    case .vxlan, .mplsOverUDP:
      guard !isFromFabric, bytes <= Int(nexthop.entry.mtu) else { return false }
      if flags.contains(.nat) { translateFast(index, flow) }
      IPv4.decrementTTL(ip)
      if fast[index].needsChecksum { finishChecksum(ip, bytes, fast[index].proto) }
      encapsulateFast(index, path.label, nexthop, &tx)
    case .none: return false
    }
    flows.count(flow, bytes: bytes, packets: 1, nexthop: path.nexthop, now: now)
    return true
  }

  @inline(__always)
  private func deliverFast(
    _ index: Int, _ nexthop: EntryReference<NexthopEntry>, _ interface: EntryReference<InterfaceEntry>,
    _ tx: inout TxFrames
  ) {
    let fast = fast
    let head = tx.headers(VirtioNetHeader.bytes &+ Ethernet.bytes)
    if fast[index].needsChecksum {
      var virtio = VirtioNetHeader()
      if interface.entry.takesVirtio {
        virtio.flags = VirtioNetHeader.needsChecksum
        virtio.checksumStart = UInt16(Ethernet.bytes &+ IPv4.minimumBytes)
        virtio.checksumOffset = UInt16(fast[index].proto == IPProtocol.tcp ? TCP.checksum : UDP.checksum)
      } else {
        finishChecksum(fast[index].ip, fast[index].ipBytes, fast[index].proto)
      }
      virtio.write(head)
    } else {
      VirtioNetHeader().write(head)
    }
    // 16 bytes: the header and two more, which nobody sends.
    nexthop.entry.writeEthernet(head.advanced(VirtioNetHeader.bytes))
    tx.send(
      head, VirtioNetHeader.bytes &+ Ethernet.bytes, fast[index].ip, fast[index].ipBytes,
      interface: nexthop.entry.interface)
  }

  @inline(__always)
  private func encapsulateFast(
    _ index: Int, _ label: UInt32, _ nexthop: EntryReference<NexthopEntry>, _ tx: inout TxFrames
  ) {
    let fast = fast
    let bytes = fast[index].ipBytes
    let outerBytes = Ethernet.bytes &+ IPv4.minimumBytes &+ UDP.bytes
    let head = tx.headers(VirtioNetHeader.bytes &+ 64)
    VirtioNetHeader().write(head)
    let outer = head.advanced(VirtioNetHeader.bytes)
    // 64 bytes: with VXLAN all headers up to the packet, but for what is this packet's own.
    nexthop.entry.writeOuter(outer)
    var shim = MPLS.bytes
    if nexthop.entry.short == .vxlan {
      shim = VXLAN.bytes &+ Ethernet.bytes
      outer.set32(outerBytes &+ 4, label << 8)
    } else {
      MPLS.write(outer.advanced(outerBytes), label: label, ttl: 64)
    }
    let length = UInt64(truncatingIfNeeded: UDP.bytes &+ shim &+ bytes)
    let total = length &+ UInt64(IPv4.minimumBytes)
    let trafficClass = fast[index].ip.u8(1)
    let ip = outer.advanced(Ethernet.bytes)
    // Version, TOS, length, no identification, DF.
    ip.set64(0, 0x4500_0000_0000_4000 | UInt64(trafficClass) << 48 | total << 32)
    ip.set16(10, Checksum.finish(header: nexthop.entry.outerSum, length: total, trafficClass: trafficClass))
    let ports = 0xC000_0000_0000_0000 | (fast[index].hash >> 32) << 48 | nexthop.entry.port
    ip.set64(IPv4.minimumBytes, ports | length << 16)
    tx.send(
      head, VirtioNetHeader.bytes &+ outerBytes &+ shim, fast[index].ip, bytes, interface: nexthop.entry.interface)
  }

  /// Gives a packet its flow's other addresses and ports; checksums are updated (`Rewrite`, RFC 1624).
  @inline(__always)
  private func translateFast(_ index: Int, _ flow: UInt32) {
    let rewrite = flows[flow].rewrite
    let ip = fast[index].ip
    ip.set16(10, Self.updated(ip.u16(10), rewrite.addressChange))
    ip.set64(12, rewrite.addresses)
    let transport = ip.advanced(IPv4.minimumBytes)
    let isTCP = fast[index].proto == IPProtocol.tcp
    let place = isTCP ? TCP.checksum : UDP.checksum
    let checksum = transport.u16(place)
    if fast[index].needsChecksum {
      // Only the pseudo-header's part is in it: addresses, not ports.
      transport.set16(place, Self.fold(UInt32(checksum) &+ rewrite.addressChange))
    } else if isTCP {
      transport.set16(place, Self.updated(checksum, rewrite.change))
    } else if checksum != 0 {
      // UDP's zero would say that there is none.
      let new = Self.updated(checksum, rewrite.change)
      transport.set16(place, new == 0 ? 0xFFFF : new)
    }
    transport.set32(0, rewrite.ports)
  }

  @inline(__always) private static func updated(_ checksum: UInt16, _ change: UInt32) -> UInt16 {
    ~fold(UInt32(~checksum) &+ change)
  }

  /// Of two numbers of 16 bits the one's complement sum.
  @inline(__always) private static func fold(_ sum: UInt32) -> UInt16 {
    UInt16(truncatingIfNeeded: (sum &+ (sum << 16 | sum >> 16)) >> 16)
  }

  /// As the general way does it.
  @inline(never)
  private func finishChecksum(_ ip: Bytes, _ bytes: Int, _ proto: UInt8) {
    let isTCP = proto == IPProtocol.tcp
    let value = Checksum.finish(ip.sum(IPv4.minimumBytes, count: bytes &- IPv4.minimumBytes))
    ip.set16(IPv4.minimumBytes &+ (isTCP ? TCP.checksum : UDP.checksum), value == 0 && !isTCP ? 0xFFFF : value)
  }
}

/// The 20 bytes of an IPv4 header without options, in registers.
private struct PlainHeader {
  // Network order: version, TOS, length, identification, fragment; TTL, protocol, checksum, source; destination.
  private let first: UInt64
  private let second: UInt64
  private let third: UInt64

  @inline(__always) init(_ ip: Bytes) {
    first = ip.u64(0)
    second = ip.u64(8)
    third = UInt64(ip.u32(16))
  }

  /// Version 4, no options, no fragment.
  @inline(__always) var isPlain: Bool { first & 0xFF00_0000_0000_3FFF == 0x4500_0000_0000_0000 }
  @inline(__always) var length: Int { Int(truncatingIfNeeded: first >> 32 & 0xFFFF) }
  @inline(__always) var trafficClass: UInt8 { UInt8(truncatingIfNeeded: first >> 48) }
  /// The TTL is not used up.
  @inline(__always) var lives: Bool { second >> 57 != 0 }
  @inline(__always) var proto: UInt64 { second >> 48 & 0xFF }
  /// `FlowKey.addresses`.
  @inline(__always) var addresses: UInt64 { second << 32 | third }

  /// The checksum is right. One's complement sums, a word and its rotation at a time: the carry out of the lower half is
  /// that of the whole.
  @inline(__always) var holds: Bool {
    let (a, carryA) = first.addingReportingOverflow(second)
    let (b, carryB) = (a &+ (carryA ? 1 : 0)).addingReportingOverflow(third)
    let sum = b &+ (carryB ? 1 : 0)
    let half = UInt32(truncatingIfNeeded: (sum &+ (sum << 32 | sum >> 32)) >> 32)
    return (half &+ (half << 16 | half >> 16)) >> 16 == 0xFFFF
  }
}
