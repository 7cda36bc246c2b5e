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
  /// Mirrors that get its frames as they come in and as they go out; 0 for none.
  public var mirrorIn: UInt32 = 0
  public var mirrorOut: UInt32 = 0
  /// Somebody captures its frames.
  public var isCaptured = false
  /// Its frames are looked at as they come in and go out: mirrored or captured.
  @inlinable @inline(__always) public var isWatched: Bool { mirrorIn | mirrorOut != 0 || isCaptured }
  /// Packets from and to it are forwarded and nothing else: they may go the short way.
  public var isPlain = true

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

@frozen public enum NexthopKind: UInt8, Sendable {
  case discard
  case receive
  case encap
  case vxlan
  case mplsOverUDP
  case vrfTranslate
  case mplsOverGRE
  case ecmp
}

/// What the packet path knows of a nexthop. Never changed once published.
@frozen public struct NexthopEntry: Sendable {
  public var kind: NexthopKind
  /// Tunnels: the underlay is IPv4.
  public var underlayIsV4: Bool
  /// Tunnels: the underlay neighbour's MAC is known.
  public var isResolved: Bool
  /// Bytes of IP packet (inner for tunnels) that fit.
  public var mtu: UInt16
  public var interface: UInt32
  public var vrf: UInt32
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
  /// ecmp: between which paths flows are divided.
  public var members: MemberTable?

  public init(kind: NexthopKind) {
    self.kind = kind
    underlayIsV4 = true
    isResolved = true
    mtu = 0
    interface = 0
    vrf = 0
    destinationMAC = 0
    outer = .init(repeating: 0)
    outerBytes = 0
    outerSum = 0
    pseudoHeaderSum = 0
  }

  /// A tunnel. `interfaceMAC` and `mtu` are the fabric interface's.
  public init(
    kind: NexthopKind, interface: UInt32, interfaceMAC: UInt64, mtu: UInt16, source: IPAddress,
    destination: IPAddress, nextHopMAC: UInt64, innerDestinationMAC: UInt64, fragments: Bool = false
  ) {
    self.init(kind: kind)
    self.interface = interface
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
