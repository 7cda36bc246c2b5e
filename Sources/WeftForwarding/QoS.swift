import WeftTables
import WeftWire

// Quality of service: packets get a forwarding class by what marks they come in with, and marks by their class where they
// go out. ECN is nobody's business here.

extension PacketPath {
  /// Gives packets that came in by an interface with a classifier their class. From a tunnel, the marks are the tunnel's.
  mutating func classifyService() {
    let batch = batch
    for index in 0..<batch.count where batch[index].verdict == .forward || batch[index].verdict == .flood {
      guard let interface = tables.interface(batch[index].interface),
        let classifier = tables.classifier(interface.entry.classifier)
      else { continue }
      batch[index].forwardingClass = classifier.entry.forwardingClass(
        dscp: batch[index].fromFabric ? batch[index].outerDSCP : batch[index].trafficClass >> 2,
        pcp: batch[index].pcp, exp: batch[index].exp)
    }
  }

  /// Marks a packet that goes out by an interface with marks for its class.
  mutating func remark(_ packet: inout Packet, by number: UInt32) {
    guard !packet.isOwn, let marks = tables.remark(number)?.entry[packet.forwardingClass] else { return }
    if marks.dscp != noMark { mark(&packet, dscp: marks.dscp) }
  }

  /// The tag of what leaves in a VLAN: by class, where the interface has marks for it. What is bridged from one VLAN into
  /// another otherwise keeps priority and drop eligibility (IEEE 802.1Q clause 6.9); anything else has 0.
  @inline(never) mutating func prioritize(
    _ packet: Packet, since first: Int, _ interface: EntryReference<InterfaceEntry>
  ) {
    // What the router makes has none; ARP that passes is not of its making.
    guard packet.verdict != .reply, !packet.isOwn || packet.etherType == Ethernet.arp else { return }
    var priority: UInt8 = 0
    if packet.link != .router, !packet.fromFabric, !interface.entry.isFabric, packet.priority != RxFrame.untagged {
      priority = packet.priority
    }
    if interface.entry.remark != 0, let marks = tables.remark(interface.entry.remark)?.entry[packet.forwardingClass],
      marks.pcp != noMark
    {
      if traces.isOn { noteMark(pcp: marks.pcp) }
      priority = marks.pcp << 1 | priority & 1
    }
    if priority != 0 { tx.prioritize(since: first, priority) }
  }

  /// The tunnel's marks: by class, where the interface has marks for it, else the tunnel's own, else the packet's (RFC 2983
  /// section 3.1, uniform model). ECN is the packet's (RFC 6040 section 4.1, normal mode).
  @inline(__always) mutating func setOuterMarks(
    _ packet: inout Packet, _ nexthop: EntryReference<NexthopEntry>, _ interface: EntryReference<InterfaceEntry>
  ) {
    packet.outerTrafficClass = packet.trafficClass
    packet.outerEXP = 0
    var dscp = nexthop.entry.outerDSCP
    if interface.entry.remark != 0, !packet.isOwn,
      let marks = tables.remark(interface.entry.remark)?.entry[packet.forwardingClass]
    {
      if marks.outerDSCP != noMark { dscp = marks.outerDSCP }
      if marks.exp != noMark { packet.outerEXP = marks.exp }
    }
    if dscp != noMark { packet.outerTrafficClass = dscp << 2 | packet.trafficClass & ECN.mask }
  }
}
