import WeftTables
import WeftWire

// The short way's third round: paths.

extension PacketPath {
  /// Bytes before a packet that headers are written to; of those 14 are its Ethernet header's.
  static var frontBytes: Int { 80 }

  /// Sends packets of known flows, up to the first of which something is to be found out (`FastBatch.end` sees that there
  /// is one); returns where that is. Headers are written in front of the packets, and no checksum is to be finished.
  @inline(never)
  mutating func sendInPlace(_ first: Int, _ isFromFabric: Bool, _ generation: UInt32, _ now: UInt64) -> Int {
    send(first, isFromFabric, generation, now, inPlace: true, completes: false)
  }

  /// The same with checksums that are to be finished.
  @inline(never)
  mutating func sendUnfinished(_ first: Int, _ isFromFabric: Bool, _ generation: UInt32, _ now: UInt64) -> Int {
    send(first, isFromFabric, generation, now, inPlace: true, completes: true)
  }

  /// The same with headers apart from the packets.
  @inline(never)
  mutating func sendApart(_ first: Int, _ isFromFabric: Bool, _ generation: UInt32, _ now: UInt64) -> Int {
    send(first, isFromFabric, generation, now, inPlace: false, completes: true)
  }

  /// What is a constant where this is called costs nothing there. Without a call for any packet nothing has to be kept
  /// in memory for the sake of one.
  @inline(__always)
  private mutating func send(
    _ first: Int, _ isFromFabric: Bool, _ generation: UInt32, _ now: UInt64, inPlace: Bool, completes: Bool
  ) -> Int {
    let start = fast.place(first)
    var tx = TxWriter(self.tx)
    // By short way: whether it leads into a tunnel that these packets may take.
    let tunnels: UInt32 = isFromFabric ? 0 : 1 << ShortWay.vxlan.rawValue | 1 << ShortWay.mplsOverUDP.rawValue
    var place = start
    while true {
      let flow = place.packet.flow
      guard flow.has(addresses: place.packet.addresses, transport: place.packet.transport),
        flow.policyGeneration == generation, flow.isShort
      else { break }
      let path = tables.paths[flow.mark]
      guard let nexthop = tables.nexthop(of: path) else { break }
      let bytes = place.packet.ipBytes
      let interface = nexthop.entry.interface
      let short = nexthop.entry.short
      if short != .deliver {
        guard tunnels &>> UInt32(short.rawValue) & 1 != 0, bytes <= Int(nexthop.entry.mtu) else { break }
      }
      guard bytes <= Int(tables.plainMTUs[published: interface]) else { break }
      let ip = place.packet.ip
      let isUnfinished = completes && place.packet.needsChecksum
      if flow.flags.contains(.nat) { Self.translate(ip, flow, isUnfinished, place.packet.proto) }
      IPv4.decrementTTL(ip)
      let isFirst: Bool
      switch short {
      case .deliver:
        let end = inPlace ? ip : headersApart()
        nexthop.entry.writeShortFront(before: end)
        if isUnfinished {
          Self.leaveChecksum(ip, bytes, place.packet.proto, end, tables.interface(interface))
        }
        let headBytes = VirtioNetHeader.bytes &+ Ethernet.bytes
        isFirst =
          inPlace
          ? tx.send(ip.advanced(0 &- headBytes), headBytes &+ bytes, interface: interface)
          : tx.send(end.advanced(0 &- headBytes), headBytes, ip, bytes, interface: interface)
      case .vxlan:
        if isUnfinished { Self.finishChecksum(ip, bytes, place.packet.proto) }
        let end = inPlace ? ip : headersApart()
        isFirst = Self.encapsulate(
          ip, bytes, place.packet.hash, path.label, VXLAN.bytes &+ Ethernet.bytes, nexthop, end, &tx,
          inPlace: inPlace)
      default:
        if isUnfinished { Self.finishChecksum(ip, bytes, place.packet.proto) }
        let end = inPlace ? ip : headersApart()
        isFirst = Self.encapsulate(
          ip, bytes, place.packet.hash, path.label, MPLS.bytes, nexthop, end, &tx, inPlace: inPlace)
      }
      if isFirst { self.tx.began(interface) }
      flow.count(bytes: bytes, now: now)
      place.advance()
    }
    self.tx.take(tx)
    return first &+ place.distance(from: start)
  }

  /// Where headers end that are made apart from their packet.
  @inline(__always) private mutating func headersApart() -> Bytes {
    tx.headers(Self.frontBytes).advanced(Self.frontBytes)
  }

  /// `shim`: bytes between the outer UDP header and the packet; a constant where this is called.
  @inline(__always)
  private static func encapsulate(
    _ packet: Bytes, _ bytes: Int, _ hash: UInt64, _ label: UInt32, _ shim: Int,
    _ nexthop: EntryReference<NexthopEntry>, _ end: Bytes, _ tx: inout TxWriter, inPlace: Bool
  ) -> Bool {
    let outerBytes = IPv4.minimumBytes &+ UDP.bytes &+ shim
    // Once more than the virtio-net header's bytes, of which those that are the outer header's are written over.
    if shim != MPLS.bytes { end.advanced(0 &- Self.frontBytes).clear16() }
    nexthop.entry.writeFront(before: end)
    if shim == MPLS.bytes {
      MPLS.write(end.advanced(0 &- MPLS.bytes), label: label, ttl: 64)
    } else {
      end.advanced(0 &- Ethernet.bytes &- 4).set32(0, label << 8)
    }
    let ip = end.advanced(0 &- outerBytes)
    let udp = ip.advanced(IPv4.minimumBytes)
    let trafficClass = packet.u8(1)
    let total = UInt32(truncatingIfNeeded: outerBytes &+ bytes)
    ip.set8(1, trafficClass)
    ip.set16(2, UInt16(truncatingIfNeeded: total))
    // The checksum is a complement: what is added to the sum is taken from it (RFC 1624), and one more for the borrow.
    let (checksum, borrow) = nexthop.entry.outerChecksum.subtractingReportingOverflow(total &+ UInt32(trafficClass))
    ip.set16(10, UInt16(truncatingIfNeeded: checksum &- (borrow ? 1 : 0)))
    udp.set16(0, 0xC000 | UInt16(truncatingIfNeeded: hash >> 32))
    udp.set16(4, UInt16(truncatingIfNeeded: UDP.bytes &+ shim &+ bytes))
    let headBytes = VirtioNetHeader.bytes &+ Ethernet.bytes &+ outerBytes
    return inPlace
      ? tx.send(end.advanced(0 &- headBytes), headBytes &+ bytes, interface: nexthop.entry.interface)
      : tx.send(end.advanced(0 &- headBytes), headBytes, packet, bytes, interface: nexthop.entry.interface)
  }

  /// A checksum that is to be finished, on its way to a local interface: finished by who gets it where its port has
  /// virtio-net headers, else here.
  @inline(never)
  private static func leaveChecksum(
    _ ip: Bytes, _ bytes: Int, _ proto: UInt8, _ end: Bytes, _ interface: EntryReference<InterfaceEntry>?
  ) {
    guard interface?.entry.takesVirtio == true else { return finishChecksum(ip, bytes, proto) }
    var virtio = VirtioNetHeader()
    virtio.flags = VirtioNetHeader.needsChecksum
    virtio.checksumStart = UInt16(Ethernet.bytes &+ IPv4.minimumBytes)
    virtio.checksumOffset = UInt16(proto == IPProtocol.tcp ? TCP.checksum : UDP.checksum)
    virtio.write(end.advanced(0 &- VirtioNetHeader.bytes &- Ethernet.bytes))
  }

  /// Gives a packet its flow's other addresses and ports; checksums are updated (`Rewrite`, RFC 1624).
  @inline(__always)
  private static func translate(_ ip: Bytes, _ flow: FlowPlace, _ isUnfinished: Bool, _ proto: UInt8) {
    let rewrite = flow.rewrite
    ip.set16(10, updated(ip.u16(10), rewrite.addressChange))
    ip.set64(12, rewrite.addresses)
    let transport = ip.advanced(IPv4.minimumBytes)
    let isTCP = proto == IPProtocol.tcp
    let place = isTCP ? TCP.checksum : UDP.checksum
    let checksum = transport.u16(place)
    if isUnfinished {
      // Only the pseudo-header's part is in it: addresses, not ports.
      transport.set16(place, fold(UInt32(checksum) &+ rewrite.addressChange))
    } else if isTCP {
      transport.set16(place, updated(checksum, rewrite.change))
    } else if checksum != 0 {
      // UDP's zero would say that there is none.
      let new = updated(checksum, rewrite.change)
      transport.set16(place, new == 0 ? 0xFFFF : new)
    }
    transport.set32(0, rewrite.ports)
  }

  @inline(__always) private static func updated(_ checksum: UInt16, _ change: UInt32) -> UInt16 {
    ~fold(UInt32(~checksum) &+ change)
  }

  /// Of two numbers of 16 bits the one's complement sum.
  @inline(__always) private static func fold(_ sum: UInt32) -> UInt16 {
    UInt16(truncatingIfNeeded: (sum &+ (sum << 16 | sum >> 16)) >> 16)
  }

  /// As the general way does it.
  @inline(never)
  private static func finishChecksum(_ ip: Bytes, _ bytes: Int, _ proto: UInt8) {
    let isTCP = proto == IPProtocol.tcp
    let value = Checksum.finish(ip.sum(IPv4.minimumBytes, count: bytes &- IPv4.minimumBytes))
    ip.set16(IPv4.minimumBytes &+ (isTCP ? TCP.checksum : UDP.checksum), value == 0 && !isTCP ? 0xFFFF : value)
  }
}
