import WeftTables
import WeftWire

/// What becomes of a packet after the stages so far.
enum Verdict: UInt8 {
  /// Goes on to the next stage.
  case forward
  /// An answer of the router's own: leaves by the interface that the question came from.
  case reply
  /// A segment that travels as part of the packet before it.
  case merged
  /// Copies of it go to several; without a flow.
  case flood
  /// Dropped and counted.
  case dropped
  /// Goes on in another worker.
  case handedOver
  /// Has been left to the agent.
  case trapped
}

/// How a packet is addressed on its link.
enum LinkDestination: UInt8 {
  /// To the router's MAC, or without a link at all (MPLS): routed.
  case router
  /// To another MAC of the VRF: bridged.
  case other
  /// To a group.
  case group
}

/// A packet between the stages: where its headers are, what they say, what was found for it.
///
/// Offsets are in bytes. `ip` and what follows it lie in one piece; the Ethernet header is missing (`hasEthernet`)
/// after MPLS.
@safe struct Packet {
  var ethernet: Bytes
  var ip: Bytes
  /// Bytes from `ip` to the end of what was received.
  var available: Int
  /// Bytes of IP packet, by its own header.
  var ipLength: Int = 0
  /// From `ip` to the TCP, UDP, ICMP header.
  var transport: Int = 0
  /// From `ip` to what follows TCP's or UDP's header.
  var payload: Int = 0

  var interface: UInt32
  var vrf: UInt32
  var etherType: UInt16 = 0
  var proto: UInt8 = 0
  /// DSCP and ECN of the (inner) packet.
  var trafficClass: UInt8 = 0
  var verdict: Verdict = .forward
  var link: LinkDestination = .router
  var hasEthernet: Bool
  var fromFabric: Bool
  var isV4 = true
  var isFragment = false
  /// The router made it: neither tracked nor its TTL lowered.
  var isOwn = false
  /// From the fabric: the frame that it came in; and its VNI, where it had one.
  var outer: Bytes
  var vni: UInt32 = Packet.none
  /// What must hold for it, of the interface or tunnel that it came by.
  var conditions: PacketConditions = []
  /// `path` is known before routing.
  var hasPath = false
  /// `path` has been checked: it leads out.
  var isReady = false
  var outerECN: UInt8 = 0
  /// What it came with: the tunnel's DSCP, the label's traffic class (`noMark` without), and the VLAN tag's priority and
  /// drop eligibility (`RxFrame.priority`).
  var outerDSCP: UInt8 = 0
  var exp: UInt8 = noMark
  var priority = RxFrame.untagged
  /// 0 to 15.
  var forwardingClass: UInt8 = 0
  /// What the tunnel that it leaves by gets: DS field and ECN, and the label's traffic class.
  var outerTrafficClass: UInt8 = 0
  var outerEXP: UInt8 = 0
  /// Of a flood's copy that differs from others: so many bytes of IP packet, from its start, are for its frames alone.
  var ownBytes: UInt16 = 0
  /// Bytes of frame before the IP packet, of each segment: what policers count beside it.
  var overhead = UInt16(Ethernet.bytes)

  /// The transport checksum is to be finished: its field holds the pseudo-header's sum.
  var needsChecksum: Bool
  /// `VirtioNetHeader.gsoNone` for a single packet.
  var gso: UInt8
  /// Payload bytes of each segment of a super-frame.
  var gsoBytes: Int
  /// Where checksumming starts, from `ip`, and where the checksum goes from there.
  var checksumStart: Int = 0
  var checksumOffset: Int = 0

  /// Packets on a wire that this stands for.
  var segments: Int = 1
  /// The next segment of a merged packet, and the last one of the chain (of its head).
  var next: UInt32 = Packet.none
  var last: UInt32 = Packet.none

  var path = Path(nexthop: 0, label: 0)
  var key = FlowKey(
    vrf: 0, source: IPAddress(high: 0, low: 0), destination: IPAddress(high: 0, low: 0), proto: 0, sourcePort: 0,
    destinationPort: 0)
  var hash: UInt64 = 0
  /// Which rules do something to it (`PolicyReader.actionSlot`): one in the lower half, one in the upper.
  var actions: UInt32 = 0
  /// What of its key counts, where its sessions share a flow.
  var fat = FatFlowMask()
  /// The number of `path`, where it was found by address; else 0.
  var pathNumber: UInt32 = 0
  /// The entry of its direction; `FlowTable.none` for a packet without a flow.
  var flow: UInt32 = FlowTable.none

  /// With several workers: the frame of the batch that it is in, what those before have found out about it, and the
  /// other worker that it goes to.
  var frame: UInt8 = 0
  /// Its lookup among those of the batch (`RouteAhead`).
  var ahead = RouteAhead.none
  var marks = HandOverMark(rawValue: 0)
  var worker = Packet.noWorker

  static let none = UInt32.max
  static let noWorker = UInt16.max

  init(ethernet: Bytes, length: Int, interface: UInt32, vrf: UInt32, virtio: VirtioNetHeader) {
    self.ethernet = ethernet
    outer = ethernet
    ip = ethernet.advanced(Ethernet.bytes)
    available = length &- Ethernet.bytes
    self.interface = interface
    self.vrf = vrf
    hasEthernet = true
    fromFabric = false
    needsChecksum = virtio.flags & VirtioNetHeader.needsChecksum != 0
    gso = virtio.gso & ~VirtioNetHeader.gsoECN
    gsoBytes = Int(virtio.gsoBytes)
    checksumStart = Int(virtio.checksumStart) &- Ethernet.bytes
    checksumOffset = Int(virtio.checksumOffset)
  }

  /// Inner packet of a tunnel. `ethernet` is meaningless without `hasEthernet`.
  init(ethernet: Bytes, ip: Bytes, available: Int, interface: UInt32, hasEthernet: Bool, outerECN: UInt8) {
    self.ethernet = ethernet
    outer = ethernet
    self.ip = ip
    self.available = available
    self.interface = interface
    vrf = 0
    self.hasEthernet = hasEthernet
    fromFabric = true
    self.outerECN = outerECN
    needsChecksum = false
    gso = VirtioNetHeader.gsoNone
    gsoBytes = 0
  }

  /// From the fabric: who sent the tunnel's packet.
  var outerSource: IPAddress {
    let ip = outer.advanced(Ethernet.bytes)
    return outer.u16(Ethernet.type) == Ethernet.ipv4 ? IPAddress(v4: ip.u32(12)) : ip.address6(8)
  }

  var transportHeader: Bytes { ip.advanced(transport) }

  /// The priority code point of the tag that it came with, `noMark` without; and that may be dropped before others.
  var pcp: UInt8 { priority == RxFrame.untagged ? noMark : priority >> 1 }
  var isDropEligible: Bool { priority != RxFrame.untagged && priority & 1 != 0 }
}

/// The packets of one batch.
@safe struct Batch {
  /// A batch of frames, each of them a super-frame of as many segments as the kernel makes at most.
  static let capacity = RxFrames.capacity * 128

  private let packets: UnsafeMutablePointer<Packet>
  private(set) var count = 0

  init() { unsafe packets = .allocate(capacity: Self.capacity) }
  func deallocate() { unsafe packets.deallocate() }

  subscript(index: Int) -> Packet {
    @inline(__always) unsafeAddress { unsafe UnsafePointer(packets + index) }
    @inline(__always) nonmutating unsafeMutableAddress { unsafe packets + index }
  }

  @inline(__always) mutating func append(_ packet: Packet) {
    unsafe (packets + count).initialize(to: packet)
    count &+= 1
  }

  var isFull: Bool { count == Self.capacity }

  mutating func removeAll() { count = 0 }
}
