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
        flow, bytes: batch[index].ipLength, packets: batch[index].segments, nexthop: batch[index].path.nexthop,
        now: now)
    }
  }
}
