import WeftTables
import WeftWire

extension PacketPath {
  /// Frames from a pod, a VM or a server: each becomes one packet of the interface's VRF.
  mutating func receive(
    _ frames: RxFrames, from first: Int, _ id: UInt32, _ interface: EntryReference<InterfaceEntry>
  ) {
    let vrf = interface.entry.vrf
    for index in first..<frames.count {
      let frame = frames[index]
      guard frame.length >= Ethernet.bytes else {
        counters.received(id, packets: 1, bytes: frame.length)
        lose(.shortFrame, id, packets: 1, frame)
        continue
      }
      var packet = Packet(
        ethernet: frame.bytes, length: frame.length, interface: id, vrf: vrf, virtio: frame.virtio)
      classify(&packet)
      if packet.gso != VirtioNetHeader.gsoNone { packet.segments = Self.estimatedSegments(packet) }
      counters.received(id, packets: packet.segments, bytes: frame.length)
      batch.append(packet)
    }
  }

  /// Looks at the Ethernet header: what is inside, and for whom it is.
  @inline(__always) func classify(_ packet: inout Packet) {
    packet.etherType = packet.ethernet.u16(Ethernet.type)
    let destination = packet.ethernet.mac(Ethernet.destination)
    if destination == MACAddress.virtualRouter.bits {
      packet.link = .router
    } else {
      packet.link = destination & 0x0100_0000_0000 != 0 ? .group : .other
    }
  }

  /// How many packets a super-frame of a pod will be on a wire, before its headers have been looked at: what counters
  /// of received packets say. `parse` finds the exact number.
  private static func estimatedSegments(_ packet: Packet) -> Int {
    guard packet.gsoBytes > 0 else { return 1 }
    let isV6 = packet.gso == VirtioNetHeader.gsoTCPv6 || packet.etherType == Ethernet.ipv6
    let headers = (isV6 ? IPv6.bytes : IPv4.minimumBytes) + TCP.minimumBytes
    return max(1, (packet.available - headers + packet.gsoBytes - 1) / packet.gsoBytes)
  }
}
