import WeftTables
import WeftWire

extension PacketPath {
  /// Makes the frames that leave: to a pod, through a tunnel, or back with an answer.
  mutating func transmit(_ now: UInt64) {
    var start = 0
    // What is made about a packet that does not fit comes to the batch's end, and has its turn.
    while start < batch.count {
      let end = batch.count
      transmit(start..<end, now)
      start = end
    }
  }

  private mutating func transmit(_ range: Range<Int>, _ now: UInt64) {
    let batch = batch
    for index in range {
      switch batch[index].verdict {
      case .forward:
        guard let nexthop = tables.nexthop(batch[index].path.nexthop),
          let interface = tables.interface(nexthop.entry.interface)
        else {
          drop(&batch[index], .interfaceGone)
          continue
        }
        if interface.entry.remark != 0 { remark(&batch[index], by: interface.entry.remark) }
        if interface.entry.egressPolicer != 0, !batch[index].isOwn {
          policeEgress(&batch[index], nexthop, interface, following: batch.count &- 1 &- index)
          guard batch[index].verdict == .forward else { continue }
        }
        if clamps && comesClamped(batch[index]) || interface.entry.clampsMSS {
          clamp(batch[index], mtu: Int(nexthop.entry.kind == .encap ? interface.entry.mtu : nexthop.entry.mtu))
        }
        if nexthop.entry.kind == .encap {
          if !interface.entry.conditions.isEmpty, let reason = refusal(of: interface, to: batch[index]) {
            drop(&batch[index], reason)
            continue
          }
          deliver(&batch[index], nexthop, interface)
        } else {
          encapsulate(&batch[index], nexthop, interface)
        }
        count(batch[index], batch, now)
      case .reply: answer(&batch[index])
      case .flood: replicate(&batch[index])
      case .merged, .dropped, .handedOver, .trapped: continue
      }
    }
  }

  /// The interface that a packet came in by has the flag to clamp; not all of a batch's have to.
  private func comesClamped(_ packet: Packet) -> Bool {
    tables.interface(packet.interface)?.entry.clampsMSS == true
  }

  /// Counts a packet that left on its flow.
  @inline(__always) private func count(_ packet: Packet, _ batch: Batch, _ now: UInt64) {
    guard packet.flow != FlowTable.none, packet.verdict == .forward,
      removals == flows.removals || flows.holds(packet.flow, hash: packet.hash)
    else { return }
    flows.count(
      packet.flow, bytes: wireBytes(packet, batch), packets: packet.segments, nexthop: packet.path.nexthop, now: now)
    // The next ones of the flow need not look it up (FastPath.swift), as long as they go where this one went.
    let number = packet.link == .router ? packet.pathNumber : 0
    if flows[packet.flow].mark != number, !flows[packet.flow].flags.contains(.staged) {
      flows.setMark(packet.flow, number)
    }
  }

  /// Bytes of IP packet on a wire: each segment of a super-frame has headers of its own.
  @inline(__always) private func wireBytes(_ packet: Packet, _ batch: Batch) -> Int {
    guard packet.segments > 1 else { return packet.ipLength }
    if packet.next == Packet.none { return packet.ipLength &+ (packet.segments &- 1) &* packet.payload }
    var bytes = packet.ipLength
    var next = packet.next
    while next != Packet.none {
      bytes &+= batch[Int(next)].ipLength
      next = batch[Int(next)].next
    }
    return bytes
  }

  /// Sends an answer of the router's own, whole frame in one piece, out of the interface of the question.
  private mutating func answer(_ packet: inout Packet) {
    guard tx.hasRoom(pieces: 2, bytes: 64) else { return drop(&packet, .transmitFull) }
    let first = tx.count
    let mark = tx.pieceMark
    let virtio = tx.headers(VirtioNetHeader.bytes)
    VirtioNetHeader().write(virtio)
    tx.piece(virtio, count: VirtioNetHeader.bytes)
    let length = Ethernet.bytes + packet.ipLength
    tx.piece(packet.ethernet, count: length)
    tx.finish(from: mark, length: length, interface: packet.interface)
    if let interface = tables.interface(packet.interface) {
      departed(packet, since: first, packet.interface, interface)
    }
  }

  /// Lowers the TTL of a routed packet; false when it ran out.
  @inline(__always) func lowerTTL(_ packet: inout Packet) -> Bool {
    guard packet.link == .router, !packet.isOwn else { return true }
    if packet.isV4 {
      guard packet.ip.u8(8) > 1 else { return false }
      IPv4.decrementTTL(packet.ip)
    } else {
      guard packet.ip.u8(7) > 1 else { return false }
      packet.ip.set8(7, packet.ip.u8(7) &- 1)
    }
    return true
  }

  /// Finishes a transport checksum whose field holds the pseudo-header's sum; for SCTP, the CRC (RFC 9260).
  func finishChecksum(_ packet: inout Packet) {
    packet.needsChecksum = false
    let count = packet.ipLength - packet.checksumStart
    let place = packet.checksumStart + packet.checksumOffset
    if packet.proto == IPProtocol.sctp {
      guard place + 4 <= packet.ipLength else { return }
      packet.ip.set32(place, 0)
      packet.ip.set32(place, packet.ip.advanced(packet.checksumStart).crc32c(0, count: count).byteSwapped)
      return
    }
    let value = Checksum.finish(packet.ip.sum(packet.checksumStart, count: count))
    // UDP's zero says "no checksum": its other form is sent (RFC 768).
    packet.ip.set16(place, value == 0 && packet.proto == IPProtocol.udp ? 0xFFFF : value)
  }
}

extension PacketPath {
  /// Datagrams that are for an interface and differ only in their payload leave as one super-frame, where the interface
  /// takes those.
  public mutating func bundle(interface: UInt32) {
    guard let entry = tables.interface(interface)?.entry, entry.takesVirtio, entry.takesUDPSegmentation else { return }
    tx.bundle(interface: interface, areTunnels: entry.isFabric)
  }
}
