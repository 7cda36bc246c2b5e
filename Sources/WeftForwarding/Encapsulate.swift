import WeftTables
import WeftWire

extension PacketPath {
  /// Into a tunnel (RFC 7348, RFC 7510, RFC 4023).
  mutating func encapsulate(
    _ packet: inout Packet, _ nexthop: EntryReference<NexthopEntry>, _ interface: EntryReference<InterfaceEntry>
  ) {
    guard packet.next == Packet.none else { return encapsulateMerged(packet, nexthop, interface) }
    setOuterMarks(&packet, nexthop, interface)
    let first = tx.count
    defer { departed(packet, since: first, nexthop.entry.interface, interface) }
    let isSuper = packet.gso != VirtioNetHeader.gsoNone
    let segmentLength = isSuper ? packet.payload + packet.gsoBytes : packet.ipLength
    // MPLS of a bridge carries an Ethernet header, which the nexthop's MTU does not know of.
    let extra = packet.link == .group && nexthop.entry.kind != .vxlan ? Ethernet.bytes : 0
    guard segmentLength &+ extra <= Int(nexthop.entry.mtu) else {
      if nexthop.entry.fragments, !isSuper, packet.segments == 1, Self.takesFragments(packet) {
        return encapsulateFragments(&packet, nexthop)
      }
      return refuse(&packet, .mtuExceeded, .tooBig(mtu: Int(nexthop.entry.mtu)))
    }
    guard lowerTTL(&packet) else { return refuse(&packet, .ttlExceeded, .timeExceeded) }
    if isSuper {
      encapsulateSegments(&packet, nexthop, interface)
    } else {
      encapsulateWhole(&packet, nexthop, interface)
    }
  }

  /// Segments that were merged, of a flood from one tunnel into another: as they came.
  @inline(never)
  private mutating func encapsulateMerged(
    _ packet: Packet, _ nexthop: EntryReference<NexthopEntry>, _ interface: EntryReference<InterfaceEntry>
  ) {
    let batch = batch
    var segment = packet
    segment.segments = 1
    var next = packet.next
    segment.next = Packet.none
    segment.last = Packet.none
    encapsulate(&segment, nexthop, interface)
    while next != Packet.none {
      let other = batch[Int(next)]
      segment.verdict = packet.verdict
      segment.ip = other.ip
      segment.ipLength = other.ipLength
      encapsulate(&segment, nexthop, interface)
      next = other.next
    }
  }

  private mutating func encapsulateWhole(
    _ packet: inout Packet, _ nexthop: EntryReference<NexthopEntry>, _ interface: EntryReference<InterfaceEntry>
  ) {
    let shim = Self.shimBytes(nexthop, packet)
    let room = VirtioNetHeader.bytes + Self.outerRoom
    guard tx.hasRoom(pieces: 2, bytes: room + 8) else { return drop(&packet, .transmitFull) }
    if packet.needsChecksum { finishChecksum(&packet) }
    let mark = tx.pieceMark
    let head = tx.headers(room)
    let outer = head.advanced(VirtioNetHeader.bytes)
    nexthop.entry.writeOuter(outer)
    writeShim(outer.advanced(nexthop.entry.outerBytes), packet, nexthop)
    finishOuter(outer, packet, nexthop, payload: shim + packet.ipLength)
    var virtio = VirtioNetHeader()
    if !nexthop.entry.underlayIsV4, nexthop.entry.kind != .mplsOverGRE {
      // The UDP checksum over IPv6: left to the kernel where it takes that, else made here.
      let udp = outer.advanced(nexthop.entry.outerBytes - UDP.bytes)
      if interface.entry.takesVirtio {
        virtio.flags = VirtioNetHeader.needsChecksum
        virtio.checksumStart = UInt16(truncatingIfNeeded: nexthop.entry.outerBytes - UDP.bytes)
        virtio.checksumOffset = UInt16(UDP.checksum)
        udp.set16(UDP.checksum, pseudoHeader(nexthop, shim + packet.ipLength))
      } else {
        var sum = nexthop.entry.outerSum &+ Checksum.addend(udp.u16(4))
        sum = udp.sum(0, count: UDP.bytes + shim, sum)
        sum = packet.ip.sum(0, count: packet.ipLength, sum)
        let value = Checksum.finish(sum)
        udp.set16(UDP.checksum, value == 0 ? 0xFFFF : value)
      }
    }
    virtio.write(head)
    tx.piece(head, count: VirtioNetHeader.bytes + nexthop.entry.outerBytes + shim)
    tx.piece(packet.ip, count: packet.ipLength)
    tx.finish(
      from: mark, length: nexthop.entry.outerBytes + shim + packet.ipLength, interface: nexthop.entry.interface)
  }

  /// A pod's super-frame is segmented inside: outer headers once, then each segment with its tunnel and inner headers,
  /// handed over as one UDP super-frame that the kernel or the NIC cuts where a tunnel header begins. Where the port
  /// takes no such frames, each segment is one of its own.
  private mutating func encapsulateSegments(
    _ packet: inout Packet, _ nexthop: EntryReference<NexthopEntry>, _ interface: EntryReference<InterfaceEntry>
  ) {
    let shim = Self.shimBytes(nexthop, packet)
    let outerBytes = nexthop.entry.outerBytes
    let stride = shim + packet.payload + packet.gsoBytes
    let isUDP = nexthop.entry.kind != .mplsOverGRE
    let takesSuper = isUDP && interface.entry.takesVirtio && interface.entry.takesUDPSegmentation
    let perFrame = takesSuper ? max(1, min(64, (65535 - outerBytes + Ethernet.bytes) / stride)) : 1
    let count = packet.segments
    let frames = (count + perFrame - 1) / perFrame
    guard
      tx.hasRoom(
        pieces: frames + count * 2,
        bytes: frames * (VirtioNetHeader.bytes + Self.outerRoom + 8) + count * (shim + packet.payload + 8))
    else { return drop(&packet, .transmitFull) }
    var index = 0
    while index < count {
      let first = index
      let end = min(count, index + perFrame)
      let mark = tx.pieceMark
      let head = tx.headers(VirtioNetHeader.bytes + Self.outerRoom)
      let outer = head.advanced(VirtioNetHeader.bytes)
      nexthop.entry.writeOuter(outer)
      tx.piece(head, count: VirtioNetHeader.bytes + outerBytes)
      var payload = 0
      var sum: UInt64 = 0
      while index < end {
        let headers = tx.headers(shim + packet.payload)
        writeShim(headers, packet, nexthop)
        let bytes = writeSegmentHeaders(headers.advanced(shim), packet, index)
        let data = packet.ip.advanced(packet.payload + index * packet.gsoBytes)
        tx.piece(headers, count: shim + packet.payload)
        tx.piece(data, count: bytes)
        payload += shim + packet.payload + bytes
        if isUDP, !interface.entry.takesVirtio, !nexthop.entry.underlayIsV4 {
          sum = data.sum(0, count: bytes, headers.sum(0, count: shim + packet.payload, sum))
        }
        index += 1
      }
      finishOuter(outer, packet, nexthop, payload: payload)
      var virtio = VirtioNetHeader()
      let udp = outer.advanced(outerBytes - UDP.bytes)
      if !isUDP {
        // GRE has nothing that says whose packet it is, and no checksum.
      } else if interface.entry.takesVirtio, end - first > 1 || !nexthop.entry.underlayIsV4 {
        virtio.flags = VirtioNetHeader.needsChecksum
        virtio.checksumStart = UInt16(truncatingIfNeeded: outerBytes - UDP.bytes)
        virtio.checksumOffset = UInt16(UDP.checksum)
        udp.set16(UDP.checksum, pseudoHeader(nexthop, payload))
      } else if !nexthop.entry.underlayIsV4 {
        sum = udp.sum(0, count: UDP.bytes, sum &+ nexthop.entry.outerSum &+ Checksum.addend(udp.u16(4)))
        let value = Checksum.finish(sum)
        udp.set16(UDP.checksum, value == 0 ? 0xFFFF : value)
      }
      if end - first > 1 {
        virtio.gso = VirtioNetHeader.gsoUDP
        virtio.gsoBytes = UInt16(truncatingIfNeeded: stride)
        virtio.headerBytes = UInt16(truncatingIfNeeded: outerBytes)
      }
      virtio.write(head)
      tx.finish(
        from: mark, length: outerBytes + payload, packets: end - first, interface: nexthop.entry.interface)
    }
  }

  /// Room for the longest outer headers (62 bytes, written as 64) and what stands between them and the inner packet.
  static var outerRoom: Int { 64 + VXLAN.bytes + Ethernet.bytes }

  /// Bytes between the outer UDP or GRE header and the inner IP packet.
  @inline(__always) static func shimBytes(_ nexthop: EntryReference<NexthopEntry>, _ packet: Packet) -> Int {
    if nexthop.entry.kind == .vxlan { return VXLAN.bytes + Ethernet.bytes }
    return packet.link == .group ? MPLS.bytes + Ethernet.bytes : MPLS.bytes
  }

  @inline(__always)
  func writeShim(_ at: Bytes, _ packet: Packet, _ nexthop: EntryReference<NexthopEntry>) {
    if nexthop.entry.kind == .vxlan {
      VXLAN.write(at, vni: packet.path.label)
      writeEthernet(at.advanced(VXLAN.bytes), packet, nexthop.entry.destinationMAC)
    } else {
      MPLS.write(at, label: packet.path.label, trafficClass: packet.outerEXP, ttl: 64)
      if packet.link == .group { writeEthernet(at.advanced(MPLS.bytes), packet, 0) }
    }
  }

  /// Lengths, DS field and ECN (RFC 6040 section 4.1, normal mode: copied), IPv4's checksum, and the source port from
  /// the inner flow's hash (RFC 7348 section 5, RFC 7510 section 3), over IPv6 the flow label too (RFC 6438).
  @inline(__always)
  mutating func finishOuter(
    _ outer: Bytes, _ packet: Packet, _ nexthop: EntryReference<NexthopEntry>, payload: Int
  ) {
    let ip = outer.advanced(Ethernet.bytes)
    let isUDP = nexthop.entry.kind != .mplsOverGRE
    let length = UInt16(truncatingIfNeeded: (isUDP ? UDP.bytes : GRE.bytes) &+ payload)
    let entropy = UInt32(truncatingIfNeeded: packet.hash >> 32)
    let udp: Bytes
    if nexthop.entry.underlayIsV4 {
      let total = UInt16(truncatingIfNeeded: IPv4.minimumBytes) &+ length
      ip.set8(1, packet.outerTrafficClass)
      ip.set16(2, total)
      var sum =
        nexthop.entry.outerSum &+ Checksum.addend(total) &+ Checksum.addend(UInt16(packet.outerTrafficClass))
      if nexthop.entry.fragments {
        identification &+= 1
        ip.set16(4, UInt16(truncatingIfNeeded: identification))
        sum &+= Checksum.addend(UInt16(truncatingIfNeeded: identification))
      }
      ip.set16(10, Checksum.finish(sum))
      udp = ip.advanced(IPv4.minimumBytes)
    } else {
      ip.set32(0, 0x6000_0000 | UInt32(packet.outerTrafficClass) << 20 | entropy & 0xF_FFFF)
      ip.set16(4, length)
      udp = ip.advanced(IPv6.bytes)
    }
    guard isUDP else { return }
    udp.set16(0, 0xC000 | UInt16(truncatingIfNeeded: entropy & 0x3FFF))
    udp.set16(4, length)
    udp.set16(UDP.checksum, 0)
  }

  /// What an unfinished outer UDP checksum holds: the pseudo-header's sum, host order.
  @inline(__always)
  private func pseudoHeader(_ nexthop: EntryReference<NexthopEntry>, _ payload: Int) -> UInt16 {
    let length = UInt16(truncatingIfNeeded: UDP.bytes &+ payload)
    return UInt16(bigEndian: Checksum.fold(nexthop.entry.pseudoHeaderSum &+ Checksum.addend(length)))
  }
}
