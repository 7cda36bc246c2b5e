import WeftTables
import WeftWire

// Copies of packets for an analyser. A copy has headers of its own and shares the rest with the packet; it is handed to
// the port as any frame is, and goes through no stage: a copy is never copied again. One that finds no room is counted.

extension PacketPath {
  /// A frame as it came in, before anything is done to it.
  mutating func mirrorArrival(_ frame: RxFrame, _ interface: EntryReference<InterfaceEntry>) {
    guard frame.length >= Ethernet.bytes else { return }
    let changing =
      frame.virtio.gso & ~VirtioNetHeader.gsoECN == VirtioNetHeader.gsoUDP && interface.entry.isFabric
      ? frame.length : ChangingBytes.of(frame.bytes, frame.length)
    mirror(
      frame.bytes, head: changing, rest: frame.bytes.advanced(changing), restBytes: frame.length &- changing,
      frame.virtio, to: interface.entry.mirrorIn)
  }

  /// A packet of a mirrored flow as it came in, without what a tunnel put around it; segments that were merged each for
  /// itself.
  mutating func mirrorFlow(_ packet: Packet, to id: UInt32) {
    guard id != 0 else { return }
    let batch = batch
    mirrorSegment(packet, to: id)
    var next = packet.next
    while next != Packet.none {
      mirrorSegment(batch[Int(next)], to: id)
      next = batch[Int(next)].next
    }
  }

  private mutating func mirrorSegment(_ packet: Packet, to id: UInt32) {
    // Translation changes what ICMP errors quote, and of later fragments nothing behind the header.
    let isICMP = packet.proto == IPProtocol.icmp || packet.proto == IPProtocol.icmpv6
    let changing = isICMP ? packet.ipLength : min(packet.ipLength, packet.payload &+ 64)
    let head = Ethernet.bytes &+ changing
    guard tx.hasRoomForCopy(pieces: 8, bytes: VirtioNetHeader.bytes &+ head &+ 8) else {
      return mirrorCounts.lost(id, packets: packet.segments)
    }
    let mark = tx.pieceMark
    let block = tx.headers(VirtioNetHeader.bytes &+ head)
    let frame = block.advanced(VirtioNetHeader.bytes)
    if packet.hasEthernet {
      frame.copy(from: packet.ethernet, count: Ethernet.bytes)
    } else {
      // From a tunnel that carries none: to the router, from a router.
      Ethernet.write(
        frame, destination: MACAddress.virtualRouter.bits, source: MACAddress.virtualRouter.bits,
        type: packet.isV4 ? Ethernet.ipv4 : Ethernet.ipv6)
    }
    frame.advanced(Ethernet.bytes).copy(from: packet.ip, count: changing)
    tx.piece(block, count: VirtioNetHeader.bytes &+ head)
    if packet.ipLength > changing { tx.piece(packet.ip.advanced(changing), count: packet.ipLength &- changing) }
    var virtio = VirtioNetHeader()
    if packet.needsChecksum {
      virtio.flags = VirtioNetHeader.needsChecksum
      virtio.checksumStart = UInt16(truncatingIfNeeded: packet.checksumStart &+ Ethernet.bytes)
      virtio.checksumOffset = UInt16(truncatingIfNeeded: packet.checksumOffset)
      virtio.gso = packet.gso
      virtio.gsoBytes = UInt16(truncatingIfNeeded: packet.gsoBytes)
      virtio.headerBytes = UInt16(truncatingIfNeeded: packet.payload &+ Ethernet.bytes)
    }
    mirror(tx.gathered(from: mark, length: Ethernet.bytes &+ packet.ipLength), virtio, to: id)
  }

  /// Puts a frame together whose first `head` bytes are copied now, since they may change, and mirrors it.
  private mutating func mirror(
    _ at: Bytes, head: Int, rest: Bytes, restBytes: Int, _ virtio: VirtioNetHeader, to id: UInt32
  ) {
    guard tx.hasRoomForCopy(pieces: 8, bytes: VirtioNetHeader.bytes &+ head &+ 8) else {
      return mirrorCounts.lost(id, packets: 1)
    }
    let mark = tx.pieceMark
    let block = tx.headers(VirtioNetHeader.bytes &+ head)
    block.advanced(VirtioNetHeader.bytes).copy(from: at, count: head)
    tx.piece(block, count: VirtioNetHeader.bytes &+ head)
    if restBytes > 0 { tx.piece(rest, count: restBytes) }
    mirror(tx.gathered(from: mark, length: head &+ restBytes), virtio, to: id)
  }

  // MARK: the way of a copy

  /// Where a copy goes and what it may be like there.
  private struct Way {
    let id: UInt32
    let interface: UInt32
    /// A tunnel's.
    let nexthop: EntryReference<NexthopEntry>?
    let vni: UInt32
    /// Bytes of frame: asked for, and those that go there at all.
    let truncation: Int
    let limit: Int
    let takesVirtio: Bool
    let takesUDPSegmentation: Bool

    /// Bytes before the copied frame, the virtio-net header among them.
    var prefix: Int {
      VirtioNetHeader.bytes &+ (nexthop.map { $0.entry.outerBytes &+ VXLAN.bytes } ?? 0)
    }
  }

  private func way(of id: UInt32) -> Way? {
    guard let mirror = tables.mirrors[id] else { return nil }
    let truncation = mirror.entry.truncation == 0 ? Int.max : Int(mirror.entry.truncation)
    if mirror.entry.isTunnel {
      guard let nexthop = tables.nexthop(mirror.entry.nexthop), nexthop.entry.kind == .vxlan,
        nexthop.entry.isResolved, let interface = tables.interface(nexthop.entry.interface)
      else { return nil }
      let around = nexthop.entry.outerBytes &- Ethernet.bytes &+ VXLAN.bytes
      return Way(
        id: id, interface: nexthop.entry.interface, nexthop: nexthop, vni: mirror.entry.vni, truncation: truncation,
        limit: max(0, Int(nexthop.entry.linkMTU) &- around), takesVirtio: interface.entry.takesVirtio,
        takesUDPSegmentation: false)
    }
    guard let interface = tables.interface(mirror.entry.interface) else { return nil }
    return Way(
      id: id, interface: mirror.entry.interface, nexthop: nil, vni: 0, truncation: truncation,
      // A tag does not count as part of what the MTU is about.
      limit: Int(interface.entry.mtu) &+ Ethernet.bytes &+ 4, takesVirtio: interface.entry.takesVirtio,
      takesUDPSegmentation: interface.entry.takesVirtio && interface.entry.takesUDPSegmentation)
  }

  mutating func mirror(_ frame: GatheredFrame, _ virtio: VirtioNetHeader, to id: UInt32) {
    guard let way = way(of: id) else { return mirrorCounts.lost(id, packets: 1) }
    let gso = virtio.gso & ~VirtioNetHeader.gsoECN
    if gso != VirtioNetHeader.gsoNone {
      let takesWhole =
        way.nexthop == nil && way.truncation == .max && Int(virtio.headerBytes) &+ Int(virtio.gsoBytes) <= way.limit
        && (gso == VirtioNetHeader.gsoUDP ? way.takesUDPSegmentation : way.takesVirtio)
      if takesWhole {
        return shareCopy(frame, virtio, way)
      }
      return mirrorSegments(frame, virtio, way)
    }
    let kept = min(frame.length, way.truncation)
    let needsChecksum = virtio.flags & VirtioNetHeader.needsChecksum != 0 && kept == frame.length
    if needsChecksum, way.nexthop != nil || !way.takesVirtio || kept > way.limit {
      return mirrorFinished(frame, virtio, way)
    }
    guard let (block, _) = beginCopy(way, head: 0, pieces: frame.pieces) else {
      return mirrorCounts.lost(id, packets: 1)
    }
    finishCopy(block, way, head: 0, frame, from: 0, count: kept, needsChecksum ? virtio : VirtioNetHeader())
  }

  /// The frame as it is, whatever is left to do to it.
  private mutating func shareCopy(_ frame: GatheredFrame, _ virtio: VirtioNetHeader, _ way: Way) {
    guard let (block, _) = beginCopy(way, head: 0, pieces: frame.pieces) else {
      return mirrorCounts.lost(way.id, packets: 1)
    }
    finishCopy(block, way, head: 0, frame, from: 0, count: frame.length, virtio, mayShorten: false)
  }

  /// With the checksum that was left to others.
  private mutating func mirrorFinished(_ frame: GatheredFrame, _ virtio: VirtioNetHeader, _ way: Way) {
    let start = Int(virtio.checksumStart)
    let place = start &+ Int(virtio.checksumOffset)
    guard place &+ 4 <= frame.length else { return mirrorCounts.lost(way.id, packets: 1) }
    // SCTP's CRC (RFC 9260) wants the packet in one piece, and 32 bits.
    let isSCTP = virtio.checksumOffset == 8
    let head = isSCTP ? frame.length : place &+ 2
    guard let (block, at) = beginCopy(way, head: head, pieces: frame.pieces) else {
      return mirrorCounts.lost(way.id, packets: 1)
    }
    frame.copy(0, count: head, to: at)
    if isSCTP {
      at.set32(place, 0)
      at.set32(place, at.advanced(start).crc32c(0, count: frame.length &- start).byteSwapped)
    } else {
      let value = Checksum.finish(frame.sum(start, count: frame.length &- start))
      // UDP's zero says "no checksum" (RFC 768).
      at.set16(place, value == 0 && Int(virtio.checksumOffset) == UDP.checksum ? 0xFFFF : value)
    }
    finishCopy(block, way, head: head, frame, from: head, count: frame.length &- head, VirtioNetHeader())
  }

  /// A super-frame as the packets that it stands for.
  private mutating func mirrorSegments(_ frame: GatheredFrame, _ virtio: VirtioNetHeader, _ way: Way) {
    guard tx.hasRoomForCopy(pieces: 0, bytes: SuperFrame.headerRoom) else {
      return mirrorCounts.lost(way.id, packets: 1)
    }
    let headers = tx.headers(SuperFrame.headerRoom)
    guard let parts = SuperFrame(frame, virtio, headers: headers) else { return mirrorCounts.lost(way.id, packets: 1) }
    for index in 0..<parts.segments {
      guard let (block, at) = beginCopy(way, head: parts.headerBytes, pieces: frame.pieces) else {
        return mirrorCounts.lost(way.id, packets: parts.segments &- index)
      }
      let (offset, count) = parts.write(index, to: at)
      finishCopy(block, way, head: parts.headerBytes, frame, from: offset, count: count, VirtioNetHeader())
    }
  }

  // MARK: one frame

  /// Memory for a copy's headers, with those of a tunnel written as far as they are always the same; and where `head`
  /// bytes of the copied frame's own go.
  private mutating func beginCopy(_ way: Way, head: Int, pieces: Int) -> (block: Bytes, head: Bytes)? {
    let bytes = max(way.prefix &+ head, VirtioNetHeader.bytes &+ 64)
    guard tx.hasRoomForCopy(pieces: pieces &+ 2, bytes: bytes &+ 8) else { return nil }
    let block = tx.headers(bytes)
    if let nexthop = way.nexthop { nexthop.entry.writeOuter(block.advanced(VirtioNetHeader.bytes)) }
    return (block, block.advanced(way.prefix))
  }

  /// Hands a copy to its port: `head` bytes that stand in `block`, and `count` bytes of `frame` from `offset` on.
  private mutating func finishCopy(
    _ block: Bytes, _ way: Way, head: Int, _ frame: GatheredFrame, from offset: Int, count: Int,
    _ given: VirtioNetHeader, mayShorten: Bool = true
  ) {
    let asked = min(head &+ count, way.truncation)
    let length = mayShorten ? min(asked, way.limit) : asked
    let ownBytes = min(head, length)
    let shared = length &- ownBytes
    var virtio = given
    let mark = tx.pieceMark
    if let nexthop = way.nexthop {
      let outer = block.advanced(VirtioNetHeader.bytes)
      VXLAN.write(outer.advanced(nexthop.entry.outerBytes), vni: way.vni)
      var cover = Packet(
        ethernet: outer, ip: outer, available: 0, interface: way.interface, hasEthernet: true, outerECN: ECN.notECT)
      cover.hash = Self.entropy(block.advanced(way.prefix), ownBytes, frame)
      finishOuter(outer, cover, nexthop, payload: VXLAN.bytes &+ length)
      if !nexthop.entry.underlayIsV4 {
        let udp = outer.advanced(nexthop.entry.outerBytes &- UDP.bytes)
        var sum = nexthop.entry.outerSum &+ Checksum.addend(udp.u16(4))
        sum = udp.sum(0, count: UDP.bytes &+ VXLAN.bytes &+ ownBytes, sum)
        sum &+= frame.sum(offset, count: shared, isOdd: ownBytes & 1 != 0)
        let value = Checksum.finish(sum)
        udp.set16(UDP.checksum, value == 0 ? 0xFFFF : value)
      }
    }
    if !way.takesVirtio { virtio = VirtioNetHeader() }
    virtio.write(block)
    tx.piece(block, count: way.prefix &+ ownBytes)
    tx.share(frame, from: offset, count: shared)
    tx.finish(from: mark, length: way.prefix &- VirtioNetHeader.bytes &+ length, interface: way.interface)
    mirrorCounts.copied(way.id, bytes: length, isShortened: length < asked)
  }

  /// What chooses a tunnel's source port: the same for both directions of a conversation between two hosts.
  private static func entropy(_ head: Bytes, _ headBytes: Int, _ frame: GatheredFrame) -> UInt64 {
    unsafe withUnsafeTemporaryAllocation(byteCount: 64, alignment: 8) { buffer in
      guard let base = buffer.baseAddress else { return 0 }
      let at = unsafe Bytes(base)
      let count = min(54, frame.length)
      guard count == 54 else { return 0 }
      if headBytes >= count { at.copy(from: head, count: count) } else { frame.copy(0, count: count, to: at) }
      let a: UInt64
      switch at.u16(Ethernet.type) {
      case Ethernet.ipv4: a = UInt64(at.u32(26) ^ at.u32(30))
      case Ethernet.ipv6: a = at.u64(22) ^ at.u64(30) ^ at.u64(38) ^ at.u64(46)
      default: a = at.mac(0) ^ at.mac(6)
      }
      return a &* 0x9E37_79B9_7F4A_7C15
    }
  }
}

/// How many bytes from a frame's start the packet path may change in place: its headers, those inside a tunnel too, and
/// all of what it turns into an answer.
enum ChangingBytes {
  static func of(_ frame: Bytes, _ length: Int) -> Int {
    var type = frame.u16(Ethernet.type)
    var offset = Ethernet.bytes
    var tags = 0
    while type == Ethernet.vlan || type == Ethernet.serviceVLAN, tags < 2, offset &+ 4 <= length {
      type = frame.u16(offset &+ 2)
      offset &+= 4
      tags &+= 1
    }
    return min(length, ip(frame, offset, length, type, isInner: false))
  }

  private static func ip(_ frame: Bytes, _ offset: Int, _ length: Int, _ type: UInt16, isInner: Bool) -> Int {
    let proto: UInt8
    let header: Int
    switch type {
    case Ethernet.ipv4:
      guard offset &+ IPv4.minimumBytes <= length else { return length }
      header = IPv4.headerBytes(frame.advanced(offset))
      proto = frame.u8(offset &+ 9)
    case Ethernet.ipv6:
      guard offset &+ IPv6.bytes <= length else { return length }
      header = IPv6.bytes
      proto = frame.u8(offset &+ 6)
    default: return length
    }
    let transport = offset &+ header
    switch proto {
    case IPProtocol.tcp: return transport &+ 60
    case IPProtocol.sctp: return transport &+ 12
    case IPProtocol.udp:
      guard !isInner, transport &+ UDP.bytes <= length else { return transport &+ UDP.bytes }
      let inner = transport &+ UDP.bytes
      switch frame.u16(transport &+ 2) {
      case VXLAN.port:
        let ethernet = inner &+ VXLAN.bytes
        guard ethernet &+ Ethernet.bytes <= length else { return length }
        return ip(frame, ethernet &+ Ethernet.bytes, length, frame.u16(ethernet &+ Ethernet.type), isInner: true)
      case MPLS.port:
        guard inner &+ MPLS.bytes < length else { return length }
        let version = frame.u8(inner &+ MPLS.bytes) >> 4
        let type = version == 4 ? Ethernet.ipv4 : version == 6 ? Ethernet.ipv6 : 0
        return ip(frame, inner &+ MPLS.bytes, length, type, isInner: true)
      default: return inner
      }
    // Errors are translated in what they quote; extension headers say nothing of where they end.
    default: return length
    }
  }
}
