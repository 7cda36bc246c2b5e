import WeftTables
import WeftWire

extension PacketPath {
  /// Whether a packet that does not fit a tunnel goes in fragments of the outer packet, where the tunnel allows that: only
  /// one whose sender cannot make it smaller. With DF, or as an IPv6 packet beyond the least MTU, the sender is told.
  static func takesFragments(_ packet: Packet) -> Bool {
    packet.isV4 ? packet.ip.u16(6) & IPv4.dontFragment == 0 : packet.ipLength <= IPv6.minimumMTU
  }

  /// Into a tunnel, as fragments of the outer packet (RFC 791 section 3.2, RFC 8200 section 4.5), which the tunnel's end
  /// puts together.
  mutating func encapsulateFragments(_ packet: inout Packet, _ nexthop: EntryReference<NexthopEntry>) {
    let isV4 = nexthop.entry.underlayIsV4
    let outerIP = isV4 ? IPv4.minimumBytes : IPv6.bytes
    let extra = isV4 ? 0 : IPv6.fragmentBytes
    let header = nexthop.entry.outerBytes - Ethernet.bytes - outerIP
    let shim = Self.shimBytes(nexthop, packet)
    let total = header + shim + packet.ipLength
    let limit = (Int(nexthop.entry.linkMTU) - outerIP - extra) & ~7
    // The first one holds every header that is not the packet's own.
    guard limit >= header + shim, outerIP + total <= Int(UInt16.max) else {
      return refuse(&packet, .mtuExceeded, .tooBig(mtu: Int(nexthop.entry.mtu)))
    }
    guard lowerTTL(&packet) else { return refuse(&packet, .ttlExceeded, .timeExceeded) }
    let count = (total + limit - 1) / limit
    let fixed = VirtioNetHeader.bytes + Ethernet.bytes + outerIP + extra
    guard tx.hasRoom(pieces: count * 2 + 1, bytes: Self.outerRoom + 8 + count * (fixed + 8)) else {
      return drop(&packet, .transmitFull)
    }
    if packet.needsChecksum { finishChecksum(&packet) }
    let outer = tx.headers(Self.outerRoom)
    nexthop.entry.writeOuter(outer)
    writeShim(outer.advanced(nexthop.entry.outerBytes), packet, nexthop)
    finishOuter(outer, packet, nexthop, payload: shim + packet.ipLength)
    if !isV4 {
      identification &+= 1
      if nexthop.entry.kind != .mplsOverGRE {
        let udp = outer.advanced(nexthop.entry.outerBytes - UDP.bytes)
        var sum = nexthop.entry.outerSum &+ Checksum.addend(udp.u16(4))
        sum = udp.sum(0, count: UDP.bytes + shim, sum)
        let value = Checksum.finish(packet.ip.sum(0, count: packet.ipLength, sum))
        udp.set16(UDP.checksum, value == 0 ? 0xFFFF : value)
      }
    }
    let headers = outer.advanced(Ethernet.bytes + outerIP)
    var offset = 0
    while offset < total {
      let bytes = min(limit, total - offset)
      let isLast = offset + bytes == total
      let mark = tx.pieceMark
      // The first has what stands before the packet in one piece with its own headers.
      let before = offset == 0 ? header + shim : 0
      let head = tx.headers(fixed + before)
      VirtioNetHeader().write(head)
      let frame = head.advanced(VirtioNetHeader.bytes)
      frame.copy(from: outer, count: Ethernet.bytes + outerIP)
      writeFragment(frame.advanced(Ethernet.bytes), isV4: isV4, offset: offset, bytes: bytes, isLast: isLast)
      frame.advanced(fixed - VirtioNetHeader.bytes).copy(from: headers, count: before)
      tx.piece(head, count: fixed + before)
      tx.piece(packet.ip.advanced(max(0, offset - header - shim)), count: bytes - before)
      tx.finish(
        from: mark, length: fixed - VirtioNetHeader.bytes + bytes, packets: 1, interface: nexthop.entry.interface)
      offset += bytes
    }
    madeFragments(count - 1)
  }

  private func writeFragment(_ ip: Bytes, isV4: Bool, offset: Int, bytes: Int, isLast: Bool) {
    if isV4 {
      ip.set16(2, UInt16(IPv4.minimumBytes + bytes))
      ip.set16(6, UInt16(offset / 8) | (isLast ? 0 : IPv4.moreFragments))
      IPv4.writeChecksum(ip, bytes: IPv4.minimumBytes)
    } else {
      let fragment = ip.advanced(IPv6.bytes)
      fragment.set8(0, ip.u8(6))
      fragment.set8(1, 0)
      fragment.set16(2, UInt16(offset) | (isLast ? 0 : 1))
      fragment.set32(4, identification)
      ip.set16(4, UInt16(IPv6.fragmentBytes + bytes))
      ip.set8(6, IPv6.fragment)
    }
  }

  /// Fragments are packets that nobody sent us.
  private mutating func madeFragments(_ count: Int) { made &+= UInt64(truncatingIfNeeded: count) }
}
