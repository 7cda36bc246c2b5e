import WeftTables
import WeftWire

/// The last mergeable TCP packet of some flows of a batch, found by hash.
@safe struct OpenChains {
  static let slots = 16
  private let heads: UnsafeMutablePointer<UInt32>

  init() {
    unsafe heads = .allocate(capacity: Self.slots)
    clear()
  }
  func deallocate() { unsafe heads.deallocate() }

  @inline(__always) subscript(hash: UInt64) -> UInt32 {
    get { unsafe heads[Int(truncatingIfNeeded: hash >> 8) & (Self.slots - 1)] }
    nonmutating set { unsafe heads[Int(truncatingIfNeeded: hash >> 8) & (Self.slots - 1)] = newValue }
  }
  func clear() { unsafe heads.update(repeating: Packet.none, count: Self.slots) }
}

extension PacketPath {
  /// Generic receive offload: TCP segments of a batch that follow each other without a gap become one packet, which a
  /// pod then gets as one super-frame. Only what segmentation would make again as it was is merged: same headers but
  /// for sequence number, PSH on the last, equal sizes but for the last. Checksums are verified first, since the merged
  /// packet carries none of its own.
  mutating func coalesce() {
    let batch = batch
    let open = open
    open.clear()
    for index in 0..<batch.count where batch[index].verdict == .forward {
      guard batch[index].proto == IPProtocol.tcp, !batch[index].isOwn else { continue }
      let hash = batch[index].hash
      let head = open[hash]
      guard isMergeable(batch[index]) else {
        if head != Packet.none, batch[Int(head)].key == batch[index].key { open[hash] = Packet.none }
        continue
      }
      if head != Packet.none, follows(batch[index], batch[Int(head)], batch) {
        append(index, to: Int(head), batch)
        if closes(batch[index], batch[Int(head)]) { open[hash] = Packet.none }
      } else {
        open[hash] = closes(batch[index], batch[index]) ? Packet.none : UInt32(truncatingIfNeeded: index)
      }
    }
  }

  private func isMergeable(_ packet: Packet) -> Bool {
    guard !packet.isFragment, !packet.needsChecksum, packet.gso == VirtioNetHeader.gsoNone,
      packet.ipLength > packet.payload, packet.transport == (packet.isV4 ? IPv4.minimumBytes : IPv6.bytes)
    else { return false }
    return packet.transportHeader.u8(13) & ~TCP.psh == TCP.ack
  }

  /// A pushed segment, or one shorter than the first, ends a merged packet.
  private func closes(_ packet: Packet, _ head: Packet) -> Bool {
    packet.transportHeader.u8(13) & TCP.psh != 0 || packet.ipLength != head.ipLength
  }

  private func follows(_ packet: Packet, _ head: Packet, _ batch: Batch) -> Bool {
    guard packet.key == head.key, packet.payload == head.payload, packet.trafficClass == head.trafficClass,
      packet.forwardingClass == head.forwardingClass,
      packet.link == head.link, packet.hasEthernet == head.hasEthernet, packet.path == head.path,
      packet.ipLength <= head.ipLength
    else { return false }
    let size = head.ipLength - head.payload
    let total = head.payload + size * head.segments + packet.ipLength - packet.payload
    guard total <= 65535, head.segments < 128 else { return false }
    let first = head.transportHeader
    let other = packet.transportHeader
    guard other.u32(4) == first.u32(4) &+ UInt32(truncatingIfNeeded: size * head.segments),
      other.u32(8) == first.u32(8),
      other.u16(14) == first.u16(14), other.equal(first, from: 20, count: head.payload - head.transport - 20)
    else { return false }
    let sameIP =
      packet.isV4
      ? packet.ip.u16(8) == head.ip.u16(8) && packet.ip.u16(6) == head.ip.u16(6)
      : packet.ip.u32(0) == head.ip.u32(0) && packet.ip.u8(7) == head.ip.u8(7)
    guard sameIP else { return false }
    if packet.link == .other, !packet.ethernet.equal(head.ethernet, from: 0, count: Ethernet.bytes) { return false }
    guard hasRightChecksum(packet) else { return false }
    return head.segments > 1 || hasRightChecksum(head)
  }

  private func hasRightChecksum(_ packet: Packet) -> Bool {
    let length = packet.ipLength - packet.transport
    let sum = Checksum.pseudoHeader(packet.ip, isV4: packet.isV4, proto: IPProtocol.tcp, length: length)
    return Checksum.holds(packet.transportHeader.sum(0, count: length, sum))
  }

  private func append(_ index: Int, to head: Int, _ batch: Batch) {
    let number = UInt32(truncatingIfNeeded: index)
    let last = batch[head].last
    if last == Packet.none { batch[head].next = number } else { batch[Int(last)].next = number }
    batch[head].last = number
    batch[head].segments += 1
    batch[index].verdict = .merged
  }
}
