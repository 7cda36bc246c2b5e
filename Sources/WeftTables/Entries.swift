import CLinux
import WeftWire

/// What the packet path knows of an interface. Never changed once published.
@frozen public struct InterfaceEntry: Sendable {
  public var isFabric: Bool
  public var mtu: UInt16
  public var vrf: UInt32
  public var mac: UInt64
  /// fabric: where tunnels end, `addressCount` of them.
  public var addressCount: Int
  public var address0: IPAddress
  public var address1: IPAddress
  public var address2: IPAddress
  public var address3: IPAddress
  /// The kernel takes UDP super-frames from this interface's port (VIRTIO_NET_HDR_GSO_UDP_L4).
  public var takesUDPSegmentation: Bool
  /// The port carries virtio-net headers at all.
  public var takesVirtio: Bool
  /// The policy class of its VRF and tags (`PolicyQuery.subject`), or `noPolicy`: new flows from and to it are not put to
  /// the rules.
  public var policyClass: UInt32 = InterfaceEntry.noPolicy

  /// TCP's maximum segment size is lowered to what fits.
  public var clampsMSS = false
  /// Policers of what comes in and of what goes out, by number; 0 for none.
  public var ingressPolicer: UInt32 = 0
  public var egressPolicer: UInt32 = 0
  /// The classifier of what comes in and the marks of what goes out, by number; 0 for none.
  public var classifier: UInt32 = 0
  public var remark: UInt32 = 0
  /// Which of its sessions share flows.
  public var fatFlows: FatFlowList?
  /// Mirrors that get its frames as they come in and as they go out; 0 for none.
  public var mirrorIn: UInt32 = 0
  public var mirrorOut: UInt32 = 0
  /// Somebody captures its frames.
  public var isCaptured = false
  /// Its frames are looked at as they come in and go out: mirrored or captured.
  @inlinable @inline(__always) public var isWatched: Bool { mirrorIn | mirrorOut != 0 || isCaptured }
  /// Packets from and to it are forwarded and nothing else: they may go the short way.
  public var isPlain = true
  /// What holds for packets that come in by it; empty for most.
  public var conditions: PacketConditions = []
  /// New flows from and to it do not begin.
  public var dropsNewFlows = false
  /// Its port takes tagged frames: of other interfaces, or with a priority that its classifier may ask about.
  public var takesTags = false
  /// Of port kind vlan: the interface whose port it uses, bytes of tags (4 or 8, else 0), and the tags as they stand in a
  /// frame, from the top.
  public var parent: UInt32 = 0
  public var tagBytes = 0
  public var tags: UInt64 = 0

  public static var noPolicy: UInt32 { .max }

  public init(
    isFabric: Bool, mtu: UInt16, vrf: UInt32, mac: UInt64, addresses: [IPAddress], takesUDPSegmentation: Bool,
    takesVirtio: Bool
  ) {
    self.isFabric = isFabric
    self.mtu = mtu
    self.vrf = vrf
    self.mac = mac
    addressCount = min(addresses.count, 4)
    let none = IPAddress(high: 0, low: 0)
    func address(_ index: Int) -> IPAddress { index < addresses.count ? addresses[index] : none }
    address0 = address(0)
    address1 = address(1)
    address2 = address(2)
    address3 = address(3)
    self.takesUDPSegmentation = takesUDPSegmentation
    self.takesVirtio = takesVirtio
  }

  /// True for an underlay address of this interface.
  @inlinable @inline(__always) public func owns(_ address: IPAddress) -> Bool {
    address == address0 && addressCount > 0 || address == address1 && addressCount > 1
      || address == address2 && addressCount > 2 || address == address3 && addressCount > 3
  }
}

/// What must hold for packets of an interface, or of where a tunnel ends.
@frozen public struct PacketConditions: OptionSet, Sendable {
  public let rawValue: UInt8
  @inlinable public init(rawValue: UInt8) { self.rawValue = rawValue }

  /// Its MAC address and its IP addresses are those of the interface.
  @inlinable public static var guarded: PacketConditions { PacketConditions(rawValue: 1) }
  /// It is not bridged.
  @inlinable public static var notBridged: PacketConditions { PacketConditions(rawValue: 2) }
  /// It is not routed.
  @inlinable public static var notRouted: PacketConditions { PacketConditions(rawValue: 4) }
  /// It does not come in at all.
  @inlinable public static var refused: PacketConditions { PacketConditions(rawValue: 8) }
  /// Its DHCP requests and router solicitations are the agent's.
  @inlinable public static var served: PacketConditions { PacketConditions(rawValue: 32) }
  /// Its source MAC address is learned.
  @inlinable public static var learned: PacketConditions { PacketConditions(rawValue: 16) }
}

@frozen public enum NexthopKind: UInt8, Sendable {
  case discard
  case receive
  case encap
  case vxlan
  case mplsOverUDP
  case vrfTranslate
  case mplsOverGRE
  case ecmp
  case multicast
  case resolve
  /// As `vrfTranslate`, for bridged and for routed packets alone.
  case l2Receive
  case l3Receive
}

/// What can be done to a simple packet without looking any further.
@frozen public enum ShortWay: UInt8, Sendable {
  case none
  /// encap.
  case deliver
  /// VXLAN over IPv4, resolved, outer packets not to be fragmented, with the packet's own DSCP.
  case vxlan
  /// MPLS-over-UDP, the same.
  case mplsOverUDP
}

/// What the packet path knows of a nexthop. Never changed once published.
@frozen public struct NexthopEntry: Sendable {
  // What the short way reads stands first.
  public var kind: NexthopKind
  public var short = ShortWay.none
  /// Bytes of IP packet (inner for tunnels) that fit.
  public var mtu: UInt16
  public var interface: UInt32
  /// With a short way into a tunnel: the outer IPv4 header's checksum with total length and TOS zero.
  public var outerChecksum: UInt32 = 0
  public var vrf: UInt32
  /// With a short way: the 64 bytes before a packet of IPv4, with everything that is the same for each of them. From the
  /// end: what is between tunnel and packet, the outer headers, a virtio-net header of zeros as far as it has room.
  public var front: InlineArray<64, UInt8>
  /// Tunnels: the underlay is IPv4.
  public var underlayIsV4: Bool
  /// Tunnels: the underlay neighbour's MAC is known.
  public var isResolved: Bool
  /// encap: the Ethernet destination; VXLAN: the inner Ethernet destination of routed packets.
  public var destinationMAC: UInt64
  /// Tunnels: outer Ethernet, IP and UDP headers with everything that is the same for each packet, `outerBytes` long.
  public var outer: InlineArray<64, UInt8>
  public var outerBytes: Int
  /// Tunnels over IPv4: the header's sum with total length, TOS and checksum zero. Over IPv6: `pseudoHeaderSum`.
  public var outerSum: UInt64
  /// Tunnels in UDP: the pseudo-header's sum with length zero.
  public var pseudoHeaderSum: UInt64
  /// Tunnels: the outer packet may be fragmented, and has an identification; else it has DF.
  public var fragments = false
  /// Tunnels: bytes of outer IP packet that fit.
  public var linkMTU: UInt16 = 0
  /// Tunnels: the outer header's DSCP; `noMark` for the packet's own.
  public var outerDSCP: UInt8 = noMark {
    didSet { if outerDSCP != noMark { short = .none } }
  }
  /// ecmp: between which paths flows are divided.
  public var members: MemberTable?
  /// multicast: where copies go.
  public var replicas: ReplicaList?
  /// Tunnels: where they end.
  public var remote = IPAddress(high: 0, low: 0)
  /// encap: the packet has arrived where it goes to, its TTL stays.
  public var isEnd = false

  public init(kind: NexthopKind) {
    self.kind = kind
    underlayIsV4 = true
    isResolved = true
    mtu = 0
    interface = 0
    vrf = 0
    destinationMAC = 0
    outer = .init(repeating: 0)
    front = .init(repeating: 0)
    outerBytes = 0
    outerSum = 0
    pseudoHeaderSum = 0
  }

  /// The end of a tunnel in a VRF.
  public init(kind: NexthopKind, vrf: UInt32) {
    self.init(kind: kind)
    self.vrf = vrf
  }

  /// A tunnel. `interfaceMAC` and `mtu` are the fabric interface's.
  public init(
    kind: NexthopKind, interface: UInt32, interfaceMAC: UInt64, mtu: UInt16, source: IPAddress,
    destination: IPAddress, nextHopMAC: UInt64, innerDestinationMAC: UInt64, fragments: Bool = false
  ) {
    self.init(kind: kind)
    self.interface = interface
    remote = destination
    destinationMAC = innerDestinationMAC
    underlayIsV4 = destination.isV4
    isResolved = nextHopMAC != 0
    let ipBytes = underlayIsV4 ? IPv4.minimumBytes : IPv6.bytes
    self.fragments = fragments
    linkMTU = mtu
    let proto = kind == .mplsOverGRE ? IPProtocol.gre : IPProtocol.udp
    let headerBytes = kind == .mplsOverGRE ? GRE.bytes : UDP.bytes
    outerBytes = Ethernet.bytes + ipBytes + headerBytes
    let shim = kind == .vxlan ? VXLAN.bytes + Ethernet.bytes : MPLS.bytes
    self.mtu = mtu == 0 ? 0 : UInt16(max(0, Int(mtu) - ipBytes - headerBytes - shim))
    var header = [UInt8](repeating: 0, count: 64)
    unsafe header.withUnsafeMutableBytes { buffer in
      let at = unsafe Bytes(buffer.baseAddress!)
      Ethernet.write(
        at, destination: nextHopMAC, source: interfaceMAC, type: underlayIsV4 ? Ethernet.ipv4 : Ethernet.ipv6)
      let ip = at.advanced(Ethernet.bytes)
      if underlayIsV4 {
        ip.set8(0, 0x45)
        ip.set16(6, fragments ? 0 : IPv4.dontFragment)
        ip.set8(8, 64)
        ip.set8(9, proto)
        ip.set32(12, source.v4)
        ip.set32(16, destination.v4)
        outerSum = UInt64(Checksum.fold(ip.sum(0, count: IPv4.minimumBytes)))
        pseudoHeaderSum = Checksum.pseudoHeader(ip, isV4: true, proto: IPProtocol.udp, length: 0)
      } else {
        ip.set32(0, 0x6000_0000)
        ip.set8(6, proto)
        ip.set8(7, 64)
        ip.setAddress6(8, source)
        ip.setAddress6(24, destination)
        pseudoHeaderSum = Checksum.pseudoHeader(ip, isV4: false, proto: IPProtocol.udp, length: 0)
        outerSum = pseudoHeaderSum
      }
      let next = ip.advanced(ipBytes)
      switch kind {
      case .mplsOverGRE: next.set16(2, GRE.mpls)
      case .vxlan: next.set16(2, VXLAN.port)
      default: next.set16(2, MPLS.port)
      }
      if kind == .vxlan, underlayIsV4 {
        // What fits behind the outer headers: VXLAN's, and the inner Ethernet header of a routed IPv4 packet.
        VXLAN.write(next.advanced(UDP.bytes), vni: 0)
        Ethernet.write(
          next.advanced(UDP.bytes + VXLAN.bytes), destination: innerDestinationMAC,
          source: MACAddress.virtualRouter.bits, type: Ethernet.ipv4)
      }
    }
    for index in 0..<64 { outer[index] = header[index] }
    // Length and TOS are taken from the checksum at once, in 16 bits.
    if underlayIsV4, isResolved, !fragments, mtu <= 65_280 {
      if kind == .vxlan { short = .vxlan }
      if kind == .mplsOverUDP { short = .mplsOverUDP }
      let bytes = outerBytes + shim
      for index in 0..<bytes { front[64 - bytes + index] = header[index] }
      outerChecksum = UInt32(Checksum.finish(outerSum))
    }
  }

  /// Out of a local interface; routed packets get this Ethernet destination.
  public init(encapTo interface: UInt32, destinationMAC: UInt64) {
    self.init(kind: .encap)
    self.interface = interface
    self.destinationMAC = destinationMAC
    short = .deliver
    var header = [UInt8](repeating: 0, count: Ethernet.bytes)
    unsafe header.withUnsafeMutableBytes { buffer in
      Ethernet.write(
        unsafe Bytes(buffer.baseAddress!), destination: destinationMAC, source: MACAddress.virtualRouter.bits,
        type: Ethernet.ipv4)
    }
    for index in 0..<Ethernet.bytes { front[64 - Ethernet.bytes + index] = header[index] }
  }

  /// A short way into a tunnel: writes the 64 bytes before `end`.
  @inlinable @inline(__always) public func writeFront(before end: Bytes) {
    unsafe end.pointer.storeBytes(of: front, toByteOffset: -64, as: InlineArray<64, UInt8>.self)
  }

  /// A short way to a local interface: writes the 32 bytes before `end`, of which the last 24 are virtio-net header and
  /// Ethernet header.
  @inlinable @inline(__always) public func writeShortFront(before end: Bytes) {
    unsafe withUnsafePointer(to: front) { front in
      unsafe end.advanced(-32).pointer.copyMemory(from: UnsafeRawPointer(front) + 32, byteCount: 32)
    }
  }

  /// Copies the outer headers to `at`.
  @inlinable @inline(__always) public func writeOuter(_ at: Bytes) {
    // Always 64 bytes: a fixed size is a few moves, and what follows the headers is written afterwards.
    unsafe at.pointer.storeBytes(of: outer, as: InlineArray<64, UInt8>.self)
  }
}

/// A published entry, read in place.
@safe @frozen public struct EntryReference<Entry> {
  @usableFromInline let pointer: UnsafeMutablePointer<Entry>

  @inlinable @inline(__always) init(_ raw: UnsafeMutableRawPointer) {
    unsafe pointer = raw.assumingMemoryBound(to: Entry.self)
  }

  @inlinable @inline(__always) public var entry: Entry {
    unsafeAddress { unsafe UnsafePointer(pointer) }
  }
}
