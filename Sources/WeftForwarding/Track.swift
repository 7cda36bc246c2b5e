import WeftTables
import WeftWire

extension PacketPath {
  /// Counts each forwarded packet on its flow; the first packet of a flow makes the flow's two entries here, in the
  /// worker. A flow that finds no place is forwarded all the same, uncounted.
  mutating func track(_ now: UInt64) {
    let batch = batch
    for index in 0..<batch.count where batch[index].verdict == .forward && !batch[index].isOwn {
      let key = batch[index].key
      var flow = flows.find(key, hash: batch[index].hash)
      if flow == FlowTable.none {
        flow = flows.insert(key, hash: batch[index].hash, now: now)
        if flow == FlowTable.none { continue }
      }
      flows.count(
        flow, bytes: wireBytes(batch[index], batch), packets: batch[index].segments,
        nexthop: batch[index].path.nexthop, now: now)
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
}
