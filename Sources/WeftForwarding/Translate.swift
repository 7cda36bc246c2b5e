import WeftTables
import WeftWire

/// A new flow with its addresses translated.
struct Translated {
  /// The addresses, ports and VRF with which the flow's packets go on; reversed, the key of its answers.
  let key: FlowKey
  let flags: Translation.Flags
  /// What the flow's end gives back to `PacketPath.nat` (0: nothing), and a flow that is not made after all.
  let reference: UInt32
}

extension PacketPath {
  /// Decides about the addresses of a new flow's first packet, before it is routed: services, destination NAT,
  /// one-to-one and source NAT. nil where nothing is translated, and where the packet had to be dropped: its verdict
  /// says which. The packet itself is left as it is (see `rewrite`).
  ///
  /// Where the flow table says that the key of the answers is another flow's, the next `attempt` (from 0) gives another
  /// port. What was given before must be released first.
  mutating func translate(_ packet: inout Packet, now: UInt64, attempt: Int = 0) -> Translated? {
    guard !tables.nat.isEmpty else { return nil }
    let translation = tables.translate(
      packet.key, hasPorts: hasPorts(packet), worker: &nat, now: now, attempt: attempt,
      isDecided: packet.marks.contains(.decided))
    switch translation.outcome {
    case .none: return nil
    case .translated:
      return Translated(key: translation.key, flags: translation.flags, reference: translation.reference)
    case .exhausted: drop(&packet, .natExhausted)
    case .noBackend: refuse(&packet, .serviceNoBackend, .portUnreachable)
    case .unsupported: drop(&packet, .natUntranslatable)
    case .elsewhere: passOn(&packet, toDecide: translation.worker)
    }
    return nil
  }

  /// The key tells ports, or an echo's identifier.
  private func hasPorts(_ packet: Packet) -> Bool {
    switch packet.proto {
    case IPProtocol.tcp, IPProtocol.udp, IPProtocol.sctp: !packet.isFragment || packet.key.transport >> 32 != 0
    case IPProtocol.icmp, IPProtocol.icmpv6:
      !packet.isFragment && packet.ipLength &- packet.transport >= ICMP.minimumBytes
        && ICMP.isEcho(packet.transportHeader.u8(0), isV4: packet.isV4)
    default: false
    }
  }

  /// Gives a packet, and what was merged with it, the addresses and ports of `target` in place of those of its key; it
  /// goes on in `target`'s VRF. Routed anew where it goes elsewhere. A packet that cannot be rewritten is dropped.
  mutating func rewrite(_ packet: inout Packet, to target: FlowKey) {
    let rewrite = Rewrite(from: packet.key.ends, to: target.ends)
    guard Self.apply(rewrite, packet) else {
      return drop(&packet, packet.proto == IPProtocol.sctp ? .natUntranslatable : .transportShort)
    }
    let batch = batch
    var next = packet.next
    while next != Packet.none {
      let number = Int(next)
      // What was merged has headers as the first one has.
      _ = Self.apply(rewrite, batch[number])
      batch[number].key = target
      batch[number].vrf = UInt32(truncatingIfNeeded: target.vrf)
      next = batch[number].next
    }
    follow(&packet, target)
  }

  /// An ICMP error about a packet of a translated flow is translated as that flow is, outside and in what it quotes.
  /// `flow` is the flow's entry of the direction in which the error goes (that of the packets which answer the quoted
  /// one), `target` what packets of that entry are rewritten to.
  mutating func rewriteError(_ packet: inout Packet, quoting quoted: QuotedPacket, flow: FlowKey, to target: FlowKey) {
    // Who reports a fault from beyond an address that stands for others, reports it from that address (RFC 5508 section
    // 4.2); anybody else on the way keeps his own.
    let source = flow.source == target.source ? packet.key.source : target.source
    let outer = Rewrite.Ends(
      source: source, destination: target.destination, sourcePort: 0, destinationPort: 0)
    let old = Rewrite.Ends(
      source: packet.key.source, destination: packet.key.destination, sourcePort: 0, destinationPort: 0)
    quoted.rewriteError(
      at: packet.ip, length: packet.ipLength, transport: packet.transport, quoted: target.reversed.ends,
      from: old, to: outer, unfinished: Self.unfinished(packet))
    let vrf = UInt32(truncatingIfNeeded: target.vrf)
    follow(
      &packet,
      FlowKey(
        vrf: vrf, source: source, destination: target.destination, proto: packet.proto, sourcePort: 0,
        destinationPort: 0))
  }

  /// What an ICMP error quotes, nil for any other packet; and the key of the packets that answer the quoted one, under
  /// which the flow that the error is about stands.
  func quoted(_ packet: Packet) -> (packet: QuotedPacket, answers: FlowKey)? {
    guard packet.proto == (packet.isV4 ? IPProtocol.icmp : IPProtocol.icmpv6), !packet.isFragment, !packet.isOwn,
      let quoted = QuotedPacket(
        inErrorAt: packet.ip, length: packet.ipLength, transport: packet.transport, isV4: packet.isV4)
    else { return nil }
    let key = FlowKey(
      vrf: packet.vrf, source: quoted.ends.destination, destination: quoted.ends.source, proto: quoted.proto,
      sourcePort: quoted.ends.destinationPort, destinationPort: quoted.ends.sourcePort)
    return (quoted, key)
  }

  /// The packet has got the addresses of `target` and goes where they lead.
  private func follow(_ packet: inout Packet, _ target: FlowKey) {
    let vrf = UInt32(truncatingIfNeeded: target.vrf)
    if packet.key.destination != target.destination || packet.vrf != vrf {
      // Neither the MAC address that it was sent to nor a label's nexthop leads to the new destination.
      packet.hasPath = false
      packet.isReady = false
      packet.link = .router
    }
    packet.vrf = vrf
    packet.key = target
  }

  private static func unfinished(_ packet: Packet) -> Int? {
    packet.needsChecksum ? packet.checksumStart &+ packet.checksumOffset : nil
  }

  private static func apply(_ rewrite: Rewrite, _ packet: Packet) -> Bool {
    rewrite.apply(
      to: packet.ip, length: packet.ipLength, transport: packet.transport, proto: packet.proto,
      isFragment: packet.isFragment, unfinished: unfinished(packet))
  }
}
