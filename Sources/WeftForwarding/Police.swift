import WeftTables
import WeftWire

// Policers: of what comes in by an interface, of the flows that a rule allows, of what goes out by an interface. Bytes
// are those of Ethernet frames without preamble and check sequence, each segment of a super-frame one of its own. A
// super-frame of which not all conforms goes on with the segments that do.

extension PacketPath {
  /// What came in by interfaces with a policer.
  mutating func policeIngress() {
    let batch = batch
    for index in 0..<batch.count where !batch[index].isOwn {
      guard batch[index].verdict == .forward || batch[index].verdict == .flood else { continue }
      guard let interface = tables.interface(batch[index].interface), interface.entry.ingressPolicer != 0 else {
        continue
      }
      police(
        &batch[index], by: interface.entry.ingressPolicer, overhead: Int(batch[index].overhead),
        following: batch.count &- 1 &- index)
    }
  }

  /// What is about to go out by an interface with a policer. Returns as `police` does.
  @discardableResult mutating func policeEgress(
    _ packet: inout Packet, _ nexthop: EntryReference<NexthopEntry>, _ interface: EntryReference<InterfaceEntry>,
    following: Int
  ) -> UInt32 {
    let overhead =
      nexthop.entry.kind == .encap ? Ethernet.bytes : nexthop.entry.outerBytes &+ Self.shimBytes(nexthop, packet)
    return police(&packet, by: interface.entry.egressPolicer, overhead: overhead, following: following)
  }

  /// What rules say of the packets of the flows that they allow: policers, then marks.
  mutating func enact() {
    let batch = batch
    for index in 0..<batch.count where batch[index].verdict == .forward && batch[index].actions != 0 {
      let slots = batch[index].actions
      enact(&batch[index], slots & 0xFFFF, following: batch.count &- 1 &- index)
      if batch[index].verdict == .forward {
        enact(&batch[index], slots >> 16, following: batch.count &- 1 &- index)
      }
    }
  }

  private mutating func enact(_ packet: inout Packet, _ slot: UInt32, following: Int) {
    guard slot != 0 else { return }
    let actions = tables.policy.actions(slot &- 1)
    if actions.dscp != PolicyRule.keepDSCP { mark(&packet, dscp: actions.dscp) }
    if actions.policer != 0 {
      police(&packet, by: actions.policer, overhead: Int(packet.overhead), following: following)
    }
  }

  /// Meters a packet, and drops what violates. `overhead`: bytes of frame before the IP packet. `following`: packets of the
  /// batch behind it. Returns what followed, in the batch, the last one of merged segments that goes on; `Packet.none` where
  /// nothing has been cut off.
  @discardableResult
  mutating func police(_ packet: inout Packet, by number: UInt32, overhead: Int, following: Int) -> UInt32 {
    let policers = tables.policers
    guard packet.segments > 1 else {
      let color = color(by: number, packet.ipLength &+ overhead, packet, following)
      if color == .red { drop(&packet, .policed) }
      if color == .yellow { markYellow(&packet, number) }
      return Packet.none
    }
    var passed = 0
    var isYellow = false
    var next = packet.next
    var bytes = segmentBytes(packet, 0)
    while passed < packet.segments {
      let color = color(by: number, bytes &+ overhead, packet, packet.segments &- passed &+ following)
      if color == .red { break }
      if color == .yellow { isYellow = true }
      passed &+= 1
      guard passed < packet.segments else { break }
      if next != Packet.none {
        bytes = batch[Int(next)].ipLength
        next = batch[Int(next)].next
      } else {
        bytes = segmentBytes(packet, passed)
      }
    }
    var cut = Packet.none
    if passed < packet.segments {
      // The one that violated has been counted.
      let rest = packet.segments &- passed &- 1
      let left = restBytes(packet, after: passed &+ 1)
      self.policers.violate(policers, number, packets: rest, bytes: left &+ rest &* overhead)
      guard passed > 0 else {
        drop(&packet, .policed)
        return Packet.none
      }
      counters.dropped(.policed, packet.interface, packets: packet.segments &- passed)
      cut = shorten(&packet, to: passed)
    }
    if isYellow { markYellow(&packet, number) }
    return cut
  }

  @inline(__always)
  private mutating func color(
    by number: UInt32, _ bytes: Int, _ packet: Packet, _ following: Int
  ) -> PolicerColor {
    let color =
      policers.meter(
        tables.policers, number, bytes: bytes, dscp: packet.trafficClass >> 2,
        isDropEligible: packet.isDropEligible, following: following, now: clock)
      ?? .green
    if traces.isOn { notePolicer(number, color) }
    return color
  }

  private mutating func markYellow(_ packet: inout Packet, _ number: UInt32) {
    let dscp = policers.yellowDSCP(tables.policers, number)
    if dscp != PolicyRule.keepDSCP { mark(&packet, dscp: dscp) }
  }

  /// Bytes of IP packet of a super-frame's segment.
  private func segmentBytes(_ packet: Packet, _ index: Int) -> Int {
    guard packet.next == Packet.none else { return packet.ipLength }
    let data = packet.ipLength &- packet.payload &- index &* packet.gsoBytes
    return packet.payload &+ min(max(0, data), packet.gsoBytes)
  }

  /// The same of all segments from one on.
  private func restBytes(_ packet: Packet, after first: Int) -> Int {
    guard first < packet.segments else { return 0 }
    if packet.next == Packet.none {
      return packet.ipLength &- packet.payload &- first &* packet.gsoBytes
        &+ (packet.segments &- first) &* packet.payload
    }
    var bytes = 0
    var index = 1
    var next = packet.next
    while next != Packet.none {
      if index >= first { bytes &+= batch[Int(next)].ipLength }
      index &+= 1
      next = batch[Int(next)].next
    }
    return bytes
  }

  /// Cuts a super-frame behind its first `count` segments, at least one. Of merged segments, returns the first that no
  /// longer belongs to it.
  private mutating func shorten(_ packet: inout Packet, to count: Int) -> UInt32 {
    packet.segments = count
    if packet.next != Packet.none {
      let batch = batch
      guard count > 1 else {
        // Nothing but the head's own number changes.
        packet.next = Packet.none
        packet.last = Packet.none
        return Packet.none
      }
      var last = packet.next
      for _ in 2..<count { last = batch[Int(last)].next }
      let rest = batch[Int(last)].next
      batch[Int(last)].next = Packet.none
      packet.last = last
      return rest
    }
    let length = packet.payload &+ count &* packet.gsoBytes
    guard length < packet.ipLength else { return Packet.none }
    packet.ipLength = length
    if count == 1 { packet.gso = VirtioNetHeader.gsoNone }
    setIPLength(packet.ip, packet, length)
    let header = packet.transportHeader
    if packet.proto == IPProtocol.tcp {
      // What ends the stream, or pushes it, was in the last segment.
      header.set8(13, header.u8(13) & ~(TCP.fin | TCP.psh))
    } else {
      header.set16(4, UInt16(truncatingIfNeeded: length &- packet.transport))
    }
    // Unfinished, as every super-frame's: the pseudo-header's sum, in which the length is.
    let sum = Checksum.pseudoHeader(
      packet.ip, isV4: packet.isV4, proto: packet.proto, length: length &- packet.transport)
    // Where a sender asked for another place, that may be cut off.
    packet.checksumOffset = packet.proto == IPProtocol.tcp ? TCP.checksum : UDP.checksum
    header.set16(packet.checksumOffset, UInt16(bigEndian: Checksum.fold(sum)))
    return Packet.none
  }

  // MARK: marks

  /// Gives a packet, and what was merged with it, another DSCP; ECN stays.
  mutating func mark(_ packet: inout Packet, dscp: UInt8) {
    let value = dscp << 2 | packet.trafficClass & ECN.mask
    guard value != packet.trafficClass, packet.etherType != Ethernet.arp else { return }
    if traces.isOn { noteMark(dscp: dscp) }
    Self.setTrafficClass(packet, value)
    packet.trafficClass = value
    let batch = batch
    var next = packet.next
    while next != Packet.none {
      let number = Int(next)
      Self.setTrafficClass(batch[number], value)
      batch[number].trafficClass = value
      next = batch[number].next
    }
  }

  /// The whole field, in the header; IPv4's checksum is updated (RFC 1624).
  static func setTrafficClass(_ packet: Packet, _ value: UInt8) {
    if packet.isV4 {
      let old = packet.ip.u16(0)
      let new = old & 0xFF00 | UInt16(value)
      packet.ip.set16(0, new)
      packet.ip.set16(10, Checksum.updated(packet.ip.u16(10), from: old, to: new))
    } else {
      IPv6.setTrafficClass(packet.ip, value)
    }
  }
}
