import WeftTables
import WeftWire

extension PacketPath {
  /// To a local interface. Super-frames, merged packets and unfinished checksums pass whole where the port carries
  /// virtio-net headers.
  mutating func deliver(
    _ packet: inout Packet, _ nexthop: EntryReference<NexthopEntry>, _ interface: EntryReference<InterfaceEntry>
  ) {
    let first = tx.count
    defer { departed(packet, since: first, nexthop.entry.interface, interface) }
    let segmentLength = packet.gso == VirtioNetHeader.gsoNone ? packet.ipLength : packet.payload + packet.gsoBytes
    guard segmentLength <= Int(interface.entry.mtu) else {
      return refuse(&packet, .mtuExceeded, .tooBig(mtu: Int(interface.entry.mtu)))
    }
    guard nexthop.entry.isEnd || lowerTTL(&packet) else { return refuse(&packet, .ttlExceeded, .timeExceeded) }
    let id = nexthop.entry.interface
    let destination = nexthop.entry.destinationMAC
    if packet.segments > 1, packet.next != Packet.none {
      if interface.entry.takesVirtio { return deliverMerged(&packet, id, destination) }
      return deliverSegments(&packet, id, destination, isEnd: nexthop.entry.isEnd)
    }
    if !interface.entry.takesVirtio, packet.gso != VirtioNetHeader.gsoNone {
      return deliverSegmented(&packet, id, destination)
    }
    guard tx.hasRoom(pieces: 2, bytes: 64) else { return drop(&packet, .transmitFull) }
    if packet.needsChecksum, !interface.entry.takesVirtio { finishChecksum(&packet) }
    var virtio = VirtioNetHeader()
    if packet.needsChecksum {
      virtio.flags = VirtioNetHeader.needsChecksum
      virtio.checksumStart = UInt16(truncatingIfNeeded: packet.checksumStart + Ethernet.bytes)
      virtio.checksumOffset = UInt16(truncatingIfNeeded: packet.checksumOffset)
      virtio.gso = packet.gso
      if packet.gso != VirtioNetHeader.gsoNone {
        virtio.gsoBytes = UInt16(truncatingIfNeeded: packet.gsoBytes)
        virtio.headerBytes = UInt16(truncatingIfNeeded: packet.payload + Ethernet.bytes)
      }
    }
    let mark = tx.pieceMark
    let head = tx.headers(VirtioNetHeader.bytes + Ethernet.bytes)
    virtio.write(head)
    writeEthernet(head.advanced(VirtioNetHeader.bytes), packet, destination)
    tx.piece(head, count: VirtioNetHeader.bytes + Ethernet.bytes)
    tx.piece(packet.ip, count: packet.ipLength)
    tx.finish(from: mark, length: Ethernet.bytes + packet.ipLength, packets: packet.segments, interface: id)
  }

  /// A merged packet as one super-frame: the first segment's headers with the whole length, then every payload.
  private mutating func deliverMerged(_ packet: inout Packet, _ interface: UInt32, _ destination: UInt64) {
    let fixed = VirtioNetHeader.bytes + Ethernet.bytes
    guard tx.hasRoom(pieces: packet.segments + 1, bytes: fixed + packet.payload) else {
      return drop(&packet, .transmitFull)
    }
    let batch = batch
    let size = packet.ipLength - packet.payload
    var total = size
    var flags = packet.transportHeader.u8(13)
    let mark = tx.pieceMark
    let head = tx.headers(fixed + packet.payload)
    tx.piece(head, count: fixed + packet.payload)
    tx.piece(packet.ip.advanced(packet.payload), count: size)
    var next = packet.next
    while next != Packet.none {
      let segment = batch[Int(next)]
      let count = segment.ipLength - segment.payload
      tx.piece(segment.ip.advanced(segment.payload), count: count)
      total += count
      flags |= segment.transportHeader.u8(13)
      next = segment.next
    }
    var virtio = VirtioNetHeader()
    virtio.flags = VirtioNetHeader.needsChecksum
    virtio.gso = packet.isV4 ? VirtioNetHeader.gsoTCPv4 : VirtioNetHeader.gsoTCPv6
    virtio.gsoBytes = UInt16(truncatingIfNeeded: size)
    virtio.headerBytes = UInt16(truncatingIfNeeded: Ethernet.bytes + packet.payload)
    virtio.checksumStart = UInt16(truncatingIfNeeded: Ethernet.bytes + packet.transport)
    virtio.checksumOffset = UInt16(TCP.checksum)
    virtio.write(head)
    writeEthernet(head.advanced(VirtioNetHeader.bytes), packet, destination)
    let ip = head.advanced(fixed)
    ip.copy(from: packet.ip, count: packet.payload)
    setIPLength(ip, packet, packet.payload + total)
    let tcp = ip.advanced(packet.transport)
    tcp.set8(13, flags)
    let sum = Checksum.pseudoHeader(
      ip, isV4: packet.isV4, proto: IPProtocol.tcp, length: packet.payload - packet.transport + total)
    tcp.set16(TCP.checksum, UInt16(bigEndian: Checksum.fold(sum)))
    tx.finish(
      from: mark, length: Ethernet.bytes + packet.payload + total, packets: packet.segments, interface: interface)
  }

  /// A merged packet where the port takes no super-frames: its segments as they came.
  private mutating func deliverSegments(
    _ packet: inout Packet, _ interface: UInt32, _ destination: UInt64, isEnd: Bool
  ) {
    let batch = batch
    guard tx.hasRoom(pieces: packet.segments * 2, bytes: packet.segments * 32) else {
      return drop(&packet, .transmitFull)
    }
    sendSegment(packet, interface, destination)
    var next = packet.next
    while next != Packet.none {
      let number = Int(next)
      next = batch[number].next
      if !isEnd { _ = lowerTTL(&batch[number]) }
      sendSegment(batch[number], interface, destination)
    }
  }

  private mutating func sendSegment(_ packet: Packet, _ interface: UInt32, _ destination: UInt64) {
    let mark = tx.pieceMark
    let head = tx.headers(VirtioNetHeader.bytes + Ethernet.bytes)
    VirtioNetHeader().write(head)
    writeEthernet(head.advanced(VirtioNetHeader.bytes), packet, destination)
    tx.piece(head, count: VirtioNetHeader.bytes + Ethernet.bytes)
    tx.piece(packet.ip, count: packet.ipLength)
    tx.finish(from: mark, length: Ethernet.bytes + packet.ipLength, interface: interface)
  }

  /// A super-frame of a pod where the port takes none: segmented here.
  private mutating func deliverSegmented(_ packet: inout Packet, _ interface: UInt32, _ destination: UInt64) {
    let fixed = VirtioNetHeader.bytes + Ethernet.bytes
    let room = fixed + packet.payload + 8
    guard tx.hasRoom(pieces: packet.segments * 2, bytes: packet.segments * room) else {
      return drop(&packet, .transmitFull)
    }
    for index in 0..<packet.segments {
      let mark = tx.pieceMark
      let head = tx.headers(fixed + packet.payload)
      VirtioNetHeader().write(head)
      writeEthernet(head.advanced(VirtioNetHeader.bytes), packet, destination)
      let count = writeSegmentHeaders(head.advanced(fixed), packet, index)
      tx.piece(head, count: fixed + packet.payload)
      tx.piece(packet.ip.advanced(packet.payload + index * packet.gsoBytes), count: count)
      tx.finish(from: mark, length: Ethernet.bytes + packet.payload + count, interface: interface)
    }
  }

  /// Routed packets get the nexthop's MAC and the router's; bridged ones keep theirs.
  @inline(__always) func writeEthernet(_ at: Bytes, _ packet: Packet, _ destination: UInt64) {
    if packet.link != .router {
      at.copy(from: packet.ethernet, count: Ethernet.bytes)
    } else {
      Ethernet.write(
        at, destination: destination, source: MACAddress.virtualRouter.bits,
        type: packet.isV4 ? Ethernet.ipv4 : Ethernet.ipv6)
    }
  }
}
