import WeftTables
import WeftWire

extension PacketPath {
  /// Lowers the maximum segment size that a TCP SYN announces (RFC 9293 section 3.7.1) to what fits both ways: where this
  /// packet goes, and where the segments come back from that it is about. The checksum is updated, unless it is not
  /// finished and covers only the pseudo-header so far. `mtu`: bytes of IP packet.
  @inline(__always) func clamp(_ packet: Packet, mtu: Int) {
    guard packet.proto == IPProtocol.tcp, !packet.isFragment, packet.transportHeader.u8(13) & TCP.syn != 0 else {
      return
    }
    clampOption(packet, mtu: min(mtu, returnMTU(packet)))
  }

  private func clampOption(_ packet: Packet, mtu: Int) {
    let limit = UInt16(clamping: mtu - packet.transport - TCP.minimumBytes)
    let tcp = packet.transportHeader
    let end = packet.payload - packet.transport
    var at = TCP.minimumBytes
    while at < end {
      let kind = tcp.u8(at)
      if kind == 0 { return }
      if kind == 1 {
        at += 1
        continue
      }
      guard at + 2 <= end else { return }
      let length = Int(tcp.u8(at + 1))
      guard length >= 2, at + length <= end else { return }
      if kind == TCP.maximumSegmentSize, length == 4 {
        let old = tcp.u16(at + 2)
        guard old > limit else { return }
        tcp.set16(at + 2, limit)
        guard !packet.needsChecksum else { return }
        // At an odd place the two bytes lie in two words, each in the other half.
        let isOdd = at & 1 != 0
        tcp.set16(
          TCP.checksum,
          Checksum.updated(
            tcp.u16(TCP.checksum), from: isOdd ? old.byteSwapped : old, to: isOdd ? limit.byteSwapped : limit))
        return
      }
      at += length
    }
  }

  /// What fits on the way to where the packet came from.
  private func returnMTU(_ packet: Packet) -> Int {
    if !packet.fromFabric { return Int(tables.interface(packet.interface)?.entry.mtu ?? .max) }
    var vrf = packet.vrf
    for _ in 0..<4 {
      let number = tables.route(vrf: vrf, to: packet.key.source)
      guard number != 0, let nexthop = tables.nexthop(tables.paths[number].nexthop) else { break }
      switch nexthop.entry.kind {
      case .vrfTranslate: vrf = nexthop.entry.vrf
      case .ecmp:
        guard let members = nexthop.entry.members else { return Int(UInt16.max) }
        var least = Int(UInt16.max)
        for index in 0..<members.count {
          if let member = tables.nexthop(members.path(index).nexthop) { least = min(least, Int(member.entry.mtu)) }
        }
        return least
      case .encap, .vxlan, .mplsOverUDP, .mplsOverGRE: return Int(nexthop.entry.mtu)
      case .discard, .receive, .multicast, .resolve, .l2Receive, .l3Receive: return Int(UInt16.max)
      }
    }
    return Int(UInt16.max)
  }
}
