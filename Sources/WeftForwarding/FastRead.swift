import WeftTables
import WeftWire

// The short way's first round: what is in the frames. Fields are compared where they stand, with constants: what is looked
// at once needs no register.

extension PacketPath {
  /// Frames of a pod up to the first that is not simple; the flows' buckets are on their way into the cache.
  @inline(never)
  mutating func readFast(_ frames: RxFrames, _ interface: EntryReference<InterfaceEntry>) -> Int {
    let vrf = UInt64(interface.entry.vrf)
    let seeds = FlowSeeds(seed)
    let places = flows.places
    var place = fast.place(0)
    var count = 0
    while count < frames.count {
      let ethernet = frames[count].bytes
      let length = frames[count].length
      guard length >= Ethernet.bytes &+ IPv4.minimumBytes &+ UDP.bytes, ethernet.isForRouter, ethernet.isIPv4,
        frames.isWhole(count) || Self.takesOffload(frames[count]),
        Self.read(&place.packet, ethernet.advanced(Ethernet.bytes), length &- Ethernet.bytes, vrf, seeds, places)
      else { break }
      if !frames.isWhole(count) {
        place.packet.special.insert(.needsChecksum)
        fast.hasUnfinished = true
      }
      count &+= 1
      place.advance()
    }
    return count
  }

  /// Of a frame with offloads: it is an IPv4 packet without options whose TCP or UDP checksum is to be finished.
  @inline(never) private static func takesOffload(_ frame: RxFrame) -> Bool {
    let place = frame.bytes.u8(Ethernet.bytes &+ 9) == IPProtocol.tcp ? TCP.checksum : UDP.checksum
    return frame.virtio.gso == VirtioNetHeader.gsoNone
      && frame.virtio.checksumStart == UInt16(Ethernet.bytes &+ IPv4.minimumBytes)
      && frame.virtio.checksumOffset == UInt16(truncatingIfNeeded: place)
  }

  /// An IPv4 packet of TCP or UDP, whole and without options; TCP with nothing but ACK and PSH, or SYN. There are 28
  /// bytes of it at least.
  @inline(__always)
  private static func read(
    _ packet: inout FastPacket, _ ip: Bytes, _ available: Int, _ vrf: UInt64, _ seeds: FlowSeeds, _ places: FlowPlaces
  ) -> Bool {
    let length = Int(ip.u16(2))
    // What is left behind the least that there must be: unsigned, so that too little is too much.
    let least = IPv4.minimumBytes &+ UDP.bytes
    let rest = UInt(bitPattern: length &- least)
    guard ip.isPlainIPv4, rest <= UInt(bitPattern: available &- least), ip.u8(8) > 1, ip.holdsIPv4 else { return false }
    let transport = ip.advanced(IPv4.minimumBytes)
    if ip.u8(9) == IPProtocol.udp {
      guard UInt(transport.u16(4)) &- UInt(UDP.bytes) <= rest else { return false }
      enter(&packet, ip, length, UInt64(IPProtocol.udp) << 24 | vrf, seeds, places)
      return true
    }
    let segment = length &- IPv4.minimumBytes
    guard ip.u8(9) == IPProtocol.tcp, segment >= TCP.minimumBytes else { return false }
    let bytes = TCP.headerBytes(transport)
    let flags = transport.u8(13)
    guard bytes >= TCP.minimumBytes, bytes <= segment, flags & ~TCP.psh == TCP.ack || flags == TCP.syn else {
      return false
    }
    enter(&packet, ip, length, UInt64(IPProtocol.tcp) << 24 | vrf, seeds, places)
    if flags == TCP.syn {
      packet.special = .isOpening
      packet.bucket = places.noBucket
    }
    return true
  }

  @inline(__always)
  private static func enter(
    _ packet: inout FastPacket, _ ip: Bytes, _ length: Int, _ kind: UInt64, _ seeds: FlowSeeds, _ places: FlowPlaces
  ) {
    let addresses = ip.u64(12)
    let transport = UInt64(ip.u32(IPv4.minimumBytes)) << 32 | kind
    let hash = FlowKey.hash(addresses: addresses, transport: transport, seeds)
    packet.ip = ip
    packet.ipBytes = length
    packet.addresses = addresses
    packet.transport = transport
    packet.hash = hash
    packet.bucket = places.bucket(hash)
    packet.special = []
  }

  /// Frames from the fabric up to the first that is not simple: over IPv4, with no UDP checksum, a VNI or label of a VRF,
  /// a routed packet inside. TCP goes the other way, where segments are merged.
  @inline(never)
  mutating func openFast(_ frames: RxFrames, _ interface: EntryReference<InterfaceEntry>) -> Int {
    var place = fast.place(0)
    let seeds = FlowSeeds(seed)
    let places = flows.places
    var count = 0
    guard interface.entry.address0.isV4, interface.entry.addressCount > 0 else { return count }
    let own = interface.entry.address0.v4.bigEndian
    let mac = (interface.entry.mac << 16).bigEndian << 16
    let outerBytes = Ethernet.bytes &+ IPv4.minimumBytes &+ UDP.bytes
    while count < frames.count {
      let ethernet = frames[count].bytes
      let length = frames[count].length
      let ip = ethernet.advanced(Ethernet.bytes)
      let udp = ip.advanced(IPv4.minimumBytes)
      guard length >= outerBytes &+ MPLS.bytes &+ IPv4.minimumBytes &+ UDP.bytes,
        ethernet.raw64(0) << 16 == mac, frames.isWhole(count),
        // IPv4 without options, and neither congestion nor ECT(1) outside: the inner field stays (RFC 6040).
        ethernet.u32(Ethernet.type) & (0xFFFF_FF00 | UInt32(ECN.ect1)) == UInt32(Ethernet.ipv4) << 16 | 0x4500,
        ip.isWholeUDP, ip.raw32(16) == own, ip.holdsIPv4
      else { break }
      let udpBytes = Int(ip.u16(2)) &- IPv4.minimumBytes
      guard udpBytes <= length &- Ethernet.bytes &- IPv4.minimumBytes,
        // Length and no checksum.
        udp.u32(4) == UInt32(truncatingIfNeeded: udpBytes) << 16
      else { break }
      let tunnel = udp.advanced(UDP.bytes)
      if udp.u16(2) == VXLAN.port {
        let shim = VXLAN.bytes &+ Ethernet.bytes
        guard udpBytes >= UDP.bytes &+ shim &+ IPv4.minimumBytes &+ UDP.bytes, tunnel.u8(0) & VXLAN.validVNI != 0,
          tunnel.advanced(VXLAN.bytes).isForRouter, tunnel.advanced(VXLAN.bytes).isIPv4,
          let vrf = tables.vrf(behind: tables.vnis[published: tunnel.u32(4) >> 8]),
          readInner(&place.packet, tunnel.advanced(shim), udpBytes &- UDP.bytes &- shim, vrf, seeds, places)
        else { break }
      } else {
        let shim = MPLS.bytes
        let entry = tunnel.u32(0)
        guard udp.u16(2) == MPLS.port, udpBytes >= UDP.bytes &+ shim &+ IPv4.minimumBytes &+ UDP.bytes,
          entry & MPLS.bottomOfStack != 0, let vrf = tables.vrf(behind: tables.labels[published: entry >> 12]),
          readInner(&place.packet, tunnel.advanced(shim), udpBytes &- UDP.bytes &- shim, vrf, seeds, places)
        else { break }
      }
      count &+= 1
      place.advance()
    }
    return count
  }

  /// The same of UDP alone.
  @inline(__always)
  private func readInner(
    _ packet: inout FastPacket, _ ip: Bytes, _ available: Int, _ vrf: UInt32, _ seeds: FlowSeeds, _ places: FlowPlaces
  ) -> Bool {
    let length = Int(ip.u16(2))
    let least = IPv4.minimumBytes &+ UDP.bytes
    let rest = UInt(bitPattern: length &- least)
    guard ip.u8(0) == 0x45, ip.isWholeUDP, rest <= UInt(bitPattern: available &- least), ip.u8(8) > 1, ip.holdsIPv4,
      UInt(ip.u16(IPv4.minimumBytes &+ 4)) &- UInt(UDP.bytes) <= rest
    else { return false }
    Self.enter(&packet, ip, length, UInt64(IPProtocol.udp) << 24 | UInt64(vrf), seeds, places)
    return true
  }
}

extension Bytes {
  /// Of an Ethernet header: to the router's MAC address.
  @inline(__always) fileprivate var isForRouter: Bool {
    let mac = MACAddress.virtualRouter.bits
    return u32(0) == UInt32(truncatingIfNeeded: mac >> 16) && u16(4) == UInt16(truncatingIfNeeded: mac)
  }

  @inline(__always) fileprivate var isIPv4: Bool { u16(Ethernet.type) == Ethernet.ipv4 }

  /// Of an IPv4 header: version 4, no options, no fragment.
  @inline(__always) fileprivate var isPlainIPv4: Bool {
    u8(0) == 0x45 && u16(6) & (IPv4.moreFragments | IPv4.offsetMask) == 0
  }

  /// Of an IPv4 header: no fragment, of UDP, whatever the TTL between the two says.
  @inline(__always) fileprivate var isWholeUDP: Bool {
    u32(6) & (UInt32(IPv4.moreFragments | IPv4.offsetMask) << 16 | 0xFF) == UInt32(IPProtocol.udp)
  }

  /// Of an IPv4 header of 20 bytes: the checksum is right, that is, the one's complement sum of its 16-bit words has all
  /// bits set (RFC 1071), whichever byte of a word comes first. Such a sum is a multiple of 65,535 and not 0, and so is
  /// that of longer words with the carries added, since 2^16, 2^32 and 2^64 all leave 1. A number can be divided if,
  /// times the divisor's inverse, it comes to no more than the largest quotient.
  @inline(__always) fileprivate var holdsIPv4: Bool {
    let (a, carryA) = raw64(0).addingReportingOverflow(raw64(8))
    let (b, carryB) = (a &+ (carryA ? 1 : 0)).addingReportingOverflow(UInt64(raw32(16)))
    let sum = b &+ (carryB ? 1 : 0)
    return sum &* 0xFFFE_FFFE_FFFE_FFFF <= 0x0001_0001_0001_0001
  }
}
