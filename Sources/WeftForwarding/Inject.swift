import WeftTables
import WeftWire

extension PacketPath {
  /// A frame of the agent's goes out of an interface, with its tags where it has any. `bytes` must stay until `tx` has been
  /// sent. False: there is no such interface, or no room.
  public mutating func inject(_ bytes: Bytes, count: Int, interface id: UInt32, now: UInt64) -> Bool {
    guard let interface = tables.interface(id), count >= Ethernet.bytes, tx.hasRoom(pieces: 2, bytes: 64) else {
      return false
    }
    clock = now
    let first = tx.count
    let mark = tx.pieceMark
    let virtio = tx.headers(VirtioNetHeader.bytes)
    VirtioNetHeader().write(virtio)
    tx.piece(virtio, count: VirtioNetHeader.bytes)
    tx.piece(bytes, count: count)
    tx.finish(from: mark, length: count, interface: id)
    let packet = Packet(
      ethernet: bytes, length: count, interface: id, vrf: interface.entry.vrf, virtio: VirtioNetHeader())
    departed(packet, since: first, id, interface)
    tag()
    return true
  }
}
