import WeftTables
import WeftWire

/// What the sender of a dropped packet is told.
enum Complaint {
  case timeExceeded
  case noRoute
  case prohibited
  case portUnreachable
  /// Bytes of IP packet that would have fit.
  case tooBig(mtu: Int)
}

extension PacketPath {
  /// Drops a packet and tells its sender why (RFC 792, RFC 1812 section 4.3, RFC 4443): from the router's address in the
  /// sender's VRF that is nearest to the sender, as far as `errors` allows. Silent where that must be (RFC 1812 section
  /// 4.3.2.7, RFC 4443 section 2.4 (e)), and in a VRF in which the router has no address.
  mutating func refuse(_ packet: inout Packet, _ reason: DropReason, _ complaint: Complaint) {
    if mayComplain(about: packet) {
      undoTranslation(&packet)
      if packet.needsChecksum, packet.gso == VirtioNetHeader.gsoNone { finishChecksum(&packet) }
      complain(packet, complaint)
    }
    drop(&packet, reason)
  }

  /// Drops a packet that may not pass and tells its sender: TCP by a reset from where it wanted to go, anything else by
  /// an ICMP error.
  mutating func reject(_ packet: inout Packet, _ reason: DropReason, _ complaint: Complaint = .prohibited) {
    guard packet.proto == IPProtocol.tcp, !packet.isFragment else { return refuse(&packet, reason, complaint) }
    if !packet.isOwn, packet.link != .group {
      undoTranslation(&packet)
      reset(packet)
    }
    drop(&packet, reason)
  }

  /// Neither about errors, nor what came to a group, nor later fragments. (Sources that are nobody's never come here.)
  private func mayComplain(about packet: Packet) -> Bool {
    guard !packet.isOwn, packet.link != .group else { return false }
    guard
      Rewrite.showsTransport(
        packet.ip, isV4: packet.isV4, isFragment: packet.isFragment, transport: packet.transport)
    else { return false }
    if packet.isV4 {
      guard packet.proto == IPProtocol.icmp else { return true }
      return packet.ipLength > packet.transport && !ICMP.isError(packet.transportHeader.u8(0), isV4: true)
    }
    guard packet.proto == IPProtocol.icmpv6 else { return true }
    // Types below 128 are errors, known or not (RFC 4443 section 2.1).
    return packet.ipLength > packet.transport && packet.transportHeader.u8(0) >= 128
  }

  /// What is quoted is what the sender sent.
  mutating func undoTranslation(_ packet: inout Packet) {
    if let original = untranslated {
      rewrite(&packet, to: original)
      packet.verdict = .forward
      return
    }
    guard packet.flow != FlowTable.none, flows[packet.flow].flags.contains(.nat) else { return }
    let original = flows[packet.flow].key
    guard original != packet.key else { return }
    rewrite(&packet, to: original)
    packet.verdict = .forward
  }

  private mutating func complain(_ packet: Packet, _ complaint: Complaint) {
    let vrf = UInt32(truncatingIfNeeded: packet.key.vrf)
    let target = packet.key.source
    guard let source = tables.gateways.nearest(vrf: vrf, to: target) else { return }
    // RFC 1812 section 4.3.2.3: as much as possible, 576 bytes in all; RFC 4443 section 2.4 (c): 1280.
    let header = packet.isV4 ? IPv4.minimumBytes : IPv6.bytes
    // Of a super-frame its first segment, as it would have been on a wire.
    let isSuper = packet.gso != VirtioNetHeader.gsoNone
    let sent = isSuper ? min(packet.ipLength, packet.payload + packet.gsoBytes) : packet.ipLength
    let quoted = min(sent, (packet.isV4 ? 576 : 1280) - header - ICMP.minimumBytes)
    guard let frame = makeRoom(header + ICMP.minimumBytes + quoted) else { return }
    let ip = frame.advanced(Ethernet.bytes)
    let message = ip.advanced(header)
    let copy = message.advanced(ICMP.minimumBytes)
    copy.copy(from: packet.ip, count: quoted)
    if isSuper {
      if packet.payload <= quoted { _ = writeSegmentHeaders(copy, packet, 0) } else { setIPLength(copy, packet, sent) }
    }
    let length = ICMP.minimumBytes + quoted
    message.set32(4, 0)
    message.set32(0, Self.typeAndCode(complaint, isV4: packet.isV4))
    if case .tooBig(let mtu) = complaint {
      // No less than what each link must carry (RFC 791 section 3.2, RFC 8200 section 5).
      message.set32(4, UInt32(max(mtu, packet.isV4 ? 68 : 1280)))
    }
    writeHeader(
      ip, isV4: packet.isV4, from: source, to: target, proto: packet.isV4 ? IPProtocol.icmp : IPProtocol.icmpv6,
      payload: length)
    let start = packet.isV4 ? 0 : Checksum.pseudoHeader(ip, isV4: false, proto: IPProtocol.icmpv6, length: length)
    message.set16(2, Checksum.finish(message.sum(0, count: length, start)))
    answer(packet, with: frame, length: header + length, transport: header)
  }

  /// The first four bytes of the ICMP message, checksum zero.
  private static func typeAndCode(_ complaint: Complaint, isV4: Bool) -> UInt32 {
    let (type, code): (UInt8, UInt32) =
      switch complaint {
      case .timeExceeded: (isV4 ? ICMP.timeExceeded : ICMP.timeExceeded6, 0)
      case .noRoute: (isV4 ? ICMP.unreachable : ICMP.unreachable6, 0)
      // RFC 1812 section 5.2.7.1: communication administratively prohibited.
      case .prohibited: isV4 ? (ICMP.unreachable, 13) : (ICMP.unreachable6, 1)
      case .portUnreachable: isV4 ? (ICMP.unreachable, 3) : (ICMP.unreachable6, 4)
      case .tooBig: isV4 ? (ICMP.unreachable, 4) : (ICMP.packetTooBig6, 0)
      }
    return UInt32(type) << 24 | code << 16
  }

  /// Refuses a TCP connection as the one asked would (RFC 9293 section 3.10.7.1). Resets are not answered.
  private mutating func reset(_ packet: Packet) {
    let tcp = packet.transportHeader
    let flags = tcp.u8(13)
    guard flags & TCP.rst == 0 else { return }
    let header = packet.isV4 ? IPv4.minimumBytes : IPv6.bytes
    guard let frame = makeRoom(header + TCP.minimumBytes) else { return }
    let ip = frame.advanced(Ethernet.bytes)
    let answer = ip.advanced(header)
    answer.set16(0, tcp.u16(2))
    answer.set16(2, tcp.u16(0))
    if flags & TCP.ack != 0 {
      answer.set32(4, tcp.u32(8))
      answer.set32(8, 0)
      answer.set16(12, 0x5000 | UInt16(TCP.rst))
    } else {
      let data = packet.ipLength - packet.payload + (flags & TCP.syn == 0 ? 0 : 1) + (flags & TCP.fin == 0 ? 0 : 1)
      answer.set32(4, 0)
      answer.set32(8, tcp.u32(4) &+ UInt32(truncatingIfNeeded: data))
      answer.set16(12, 0x5000 | UInt16(TCP.rst | TCP.ack))
    }
    answer.set16(14, 0)
    answer.set32(16, 0)
    writeHeader(
      ip, isV4: packet.isV4, from: packet.key.destination, to: packet.key.source, proto: IPProtocol.tcp,
      payload: TCP.minimumBytes)
    let sum = Checksum.pseudoHeader(ip, isV4: packet.isV4, proto: IPProtocol.tcp, length: TCP.minimumBytes)
    answer.set16(TCP.checksum, Checksum.finish(answer.sum(0, count: TCP.minimumBytes, sum)))
    self.answer(packet, with: frame, length: header + TCP.minimumBytes, transport: header)
  }

  /// Memory for a frame around an IP packet of `bytes`; nil where there is none, or too many were made of late.
  private mutating func makeRoom(_ bytes: Int) -> Bytes? {
    guard !batch.isFull, tx.hasRoom(pieces: 4, bytes: Ethernet.bytes + bytes + 256), errors.take(clock) else {
      return nil
    }
    return tx.headers(Ethernet.bytes + bytes)
  }

  private func writeHeader(
    _ ip: Bytes, isV4: Bool, from source: IPAddress, to destination: IPAddress, proto: UInt8, payload: Int
  ) {
    if isV4 {
      // Internetwork control (RFC 1812 section 4.3.2.5); it is never fragmented, so that it needs no identification
      // (RFC 6864).
      ip.set16(0, 0x4500 | (proto == IPProtocol.icmp ? 0xC0 : 0))
      ip.set16(2, UInt16(IPv4.minimumBytes + payload))
      ip.set16(4, 0)
      ip.set16(6, IPv4.dontFragment)
      ip.set8(8, 64)
      ip.set8(9, proto)
      ip.set32(12, source.v4)
      ip.set32(16, destination.v4)
      IPv4.writeChecksum(ip, bytes: IPv4.minimumBytes)
    } else {
      ip.set32(0, 0x6000_0000)
      ip.set16(4, UInt16(payload))
      ip.set8(6, proto)
      ip.set8(7, 64)
      ip.setAddress6(8, source)
      ip.setAddress6(24, destination)
    }
  }

  /// Sends what was made about a packet to where that came from: the frame's sender, or through the tunnel behind which
  /// the sender is.
  private mutating func answer(_ packet: Packet, with frame: Bytes, length: Int, transport: Int) {
    let ip = frame.advanced(Ethernet.bytes)
    var own = Packet(
      ethernet: frame, ip: ip, available: length, interface: packet.interface, hasEthernet: true,
      outerECN: ECN.notECT)
    own.fromFabric = packet.fromFabric
    own.isOwn = true
    own.isV4 = packet.isV4
    own.etherType = packet.isV4 ? Ethernet.ipv4 : Ethernet.ipv6
    own.ipLength = length
    own.transport = transport
    own.payload = transport
    own.proto = packet.isV4 ? ip.u8(9) : ip.u8(6)
    own.trafficClass = packet.isV4 ? ip.u8(1) : 0
    own.vrf = UInt32(truncatingIfNeeded: packet.key.vrf)
    own.key = FlowKey(
      vrf: own.vrf, source: packet.isV4 ? IPAddress(v4: ip.u32(12)) : ip.address6(8), destination: packet.key.source,
      proto: own.proto, sourcePort: 0, destinationPort: 0)
    own.hash = packet.hash
    made &+= 1
    if packet.fromFabric {
      routeAddress(&own, packet.key.source)
    } else {
      let sender = packet.ethernet.mac(Ethernet.source)
      Ethernet.write(frame, destination: sender, source: MACAddress.virtualRouter.bits, type: own.etherType)
      own.link = .other
      own.verdict = .reply
      // Nobody has such an address; a frame to it would go to everybody.
      if sender & 0x0100_0000_0000 != 0 || sender == 0 { drop(&own, .sourceInvalid) }
    }
    batch.append(own)
  }
}
