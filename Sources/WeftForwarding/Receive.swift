import WeftTables
import WeftWire

extension PacketPath {
  /// Frames from a pod, a VM or a server: each becomes one packet of the interface's VRF.
  mutating func receive(
    _ frames: RxFrames, from first: Int, _ id: UInt32, _ interface: EntryReference<InterfaceEntry>
  ) {
    let takesTags = interface.entry.takesTags
    for index in first..<frames.count {
      let frame = frames[index]
      if takesTags, frame.length >= Ethernet.bytes, Ethernet.isTag(frame.bytes.u16(Ethernet.type)) {
        receiveTagged(frame, index, id, interface)
      } else {
        receive(frame, id, interface)
      }
    }
  }

  /// A frame of one interface.
  @inline(__always)
  private mutating func receive(_ frame: RxFrame, _ id: UInt32, _ interface: EntryReference<InterfaceEntry>) {
    guard frame.length >= Ethernet.bytes else { return dropFrame(frame, .shortFrame, id) }
    var packet = Packet(
      ethernet: frame.bytes, length: frame.length, interface: id, vrf: interface.entry.vrf, virtio: frame.virtio)
    packet.priority = frame.priority
    classify(&packet)
    if packet.gso != VirtioNetHeader.gsoNone { packet.segments = Self.estimatedSegments(packet) }
    received(id, packets: packet.segments, bytes: frame.length)
    if !interface.entry.conditions.isEmpty { admit(&packet, interface) }
    batch.append(packet)
  }

  /// A frame with a tag, on a port that several interfaces share.
  @inline(never)
  private mutating func receiveTagged(
    _ tagged: RxFrame, _ index: Int, _ id: UInt32, _ interface: EntryReference<InterfaceEntry>
  ) {
    var frame = tagged
    switch untag(&frame, index, on: id) {
    case .parents: receive(frame, id, interface)
    case .subinterface(let number): receive(frame, subinterface: number, parent: id)
    case .dropped(let reason): dropFrame(tagged, reason, id)
    }
  }

  /// A frame whose tags have been taken off.
  mutating func receive(_ frame: RxFrame, subinterface id: UInt32, parent: UInt32) {
    guard let interface = tables.interface(id) else { return dropFrame(frame, .interfaceGone, parent) }
    ask(interface)
    if interface.entry.isWatched { arrived(frame, id, interface) }
    receive(frame, id, interface)
  }

  /// A frame that does not become a packet.
  mutating func dropFrame(_ frame: RxFrame, _ reason: DropReason, _ id: UInt32) {
    received(id, packets: 1, bytes: frame.length)
    lose(reason, id, packets: 1, frame)
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
  /// of received packets say. Where its virtio-net header is right, the number that `parse` finds.
  private static func estimatedSegments(_ packet: Packet) -> Int {
    guard packet.gsoBytes > 0 else { return 1 }
    let isV6 = packet.gso == VirtioNetHeader.gsoTCPv6 || packet.etherType == Ethernet.ipv6
    var headers = (isV6 ? IPv6.bytes : IPv4.minimumBytes) + TCP.minimumBytes
    let start = packet.checksumStart
    if packet.needsChecksum, start >= IPv4.minimumBytes, start + TCP.minimumBytes <= packet.available {
      let transport = packet.ip.advanced(start)
      headers = start + (packet.gso == VirtioNetHeader.gsoUDP ? UDP.bytes : TCP.headerBytes(transport))
    }
    return max(1, (packet.available - headers + packet.gsoBytes - 1) / packet.gsoBytes)
  }
}
