import WeftWire

// What an agent tells a forwarder: the tables' entries as they travel through the ring and stand in TABLES.json.
// Indexes are the sender's choice, 0 up to the forwarder's limit for that table.

/// Where packets of an interface come from and go to.
public enum PortKind: UInt8, Sendable, CaseIterable {
  /// AF_PACKET on a kernel interface (the host end of a pod's veth, or the fabric NIC).
  case packet = 1
  /// A TAP interface that the forwarder opens, a pod's in its namespace among them: `TapConfiguration`.
  case tap = 2
  /// pcap files, for replay only: refused by a running forwarder.
  case pcap = 3
  /// Tagged frames of another interface's port: `VLANConfiguration`.
  case vlan = 4
  /// AF_XDP on a kernel interface (the fabric NIC, or the host end of a pod's veth): `XDPConfiguration`.
  case xdp = 5
  /// A virtual machine's network card by vhost-user: `VhostConfiguration`.
  case vhostUser = 6

  public var name: String {
    switch self {
    case .packet: "packet"
    case .tap: "tap"
    case .pcap: "pcap"
    case .vlan: "vlan"
    case .xdp: "af_xdp"
    case .vhostUser: "vhost-user"
    }
  }
}

/// Which way an interface looks.
public enum InterfaceRole: UInt8, Sendable, CaseIterable {
  /// Towards a pod, a VM or a server.
  case virtual = 1
  /// Towards the underlay network, where tunnels begin and end.
  case fabric = 2
  /// Towards the host that the forwarder runs on: a TAP, or one end of a veth, whose other end is the host's.
  case host = 3
  /// Copies go out by it, nothing comes in.
  case monitoring = 4

  /// It belongs to a VRF, from which its packets go on.
  public var isLocal: Bool { self == .virtual || self == .host }

  public var name: String {
    switch self {
    case .virtual: "virtual"
    case .fabric: "fabric"
    case .host: "host"
    case .monitoring: "monitoring"
    }
  }
}

/// A virtual interface (vif).
public struct InterfaceConfiguration: Hashable, Sendable {
  /// The most underlay addresses of one fabric interface.
  public static let maximumAddresses = 4
  public static let maximumTags = 8

  public var id: UInt32
  public var role: InterfaceRole
  public var port: PortKind
  /// The kernel's name of the interface, at most 15 bytes; in a replay the name of the port.
  public var device: String
  /// virtual: the pod's own MAC; fabric: the NIC's; host: that of the host's end; monitoring: the destination's.
  public var mac: MACAddress
  /// virtual, host: the VRF of packets that come in; others have none (0).
  public var vrf: UInt32
  /// Bytes of IP packet (without the Ethernet header) that go out whole.
  public var mtu: UInt16
  /// fabric: the addresses at which tunnels end.
  public var addresses: [IPAddress]
  public var flags: InterfaceFlags
  /// virtual: by which rules know it; not 0.
  public var tags: [UInt32]
  /// Port kind vlan, and only that. `device` is then a name for people, no kernel interface's.
  public var vlan: VLANConfiguration?
  /// With the flag `learning`: how many MAC addresses are learned behind it.
  public var macLimit: UInt32
  /// virtual: which of its sessions share flows.
  public var fatFlows: [FatFlow] = []
  public var qos = InterfaceQoS()
  /// Port kind af_xdp.
  public var xdp = XDPConfiguration()
  /// Port kind tap. `device` is then a name for people where the interface is in another network namespace.
  public var tap = TapConfiguration()
  /// Port kind vhost-user. `device` is then a name for people.
  public var vhost = VhostConfiguration()

  public init(
    id: UInt32, role: InterfaceRole, port: PortKind, device: String, mac: MACAddress, vrf: UInt32 = 0,
    mtu: UInt16 = 1500, addresses: [IPAddress] = [], flags: InterfaceFlags = .usual, tags: [UInt32] = [],
    vlan: VLANConfiguration? = nil, macLimit: UInt32 = 1024
  ) {
    self.id = id
    self.role = role
    self.port = port
    self.device = device
    self.mac = mac
    self.vrf = vrf
    self.mtu = mtu
    self.addresses = addresses
    self.flags = flags
    self.tags = tags
    self.vlan = vlan
    self.macLimit = macLimit
  }
}

/// A routing and bridging instance: one virtual network's addresses and MACs.
public struct VRFConfiguration: Hashable, Sendable {
  public var id: UInt32
  /// For people; at most 63 bytes.
  public var name: String
  public var flags: VRFFlags
  public var learning: LearningConfiguration

  public init(
    id: UInt32, name: String, flags: VRFFlags = [], learning: LearningConfiguration = LearningConfiguration()
  ) {
    self.id = id
    self.name = name
    self.flags = flags
    self.learning = learning
  }
}

public enum Encapsulation: UInt8, Sendable, CaseIterable {
  /// RFC 7348, UDP port 4789.
  case vxlan = 1
  /// RFC 7510, UDP port 6635, one label.
  case mplsOverUDP = 2
  /// RFC 4023, IP protocol 47, one label.
  case mplsOverGRE = 3

  public var name: String {
    switch self {
    case .vxlan: "vxlan"
    case .mplsOverUDP: "mpls-over-udp"
    case .mplsOverGRE: "mpls-over-gre"
    }
  }
}

/// Where a tunnel goes.
public struct TunnelConfiguration: Hashable, Sendable {
  public var encapsulation: Encapsulation
  /// The fabric interface it leaves by.
  public var interface: UInt32
  /// Underlay addresses, both of one family.
  public var source: IPAddress
  public var destination: IPAddress
  /// The next underlay hop's MAC; zero while it is not resolved: packets are dropped with a reason.
  public var destinationMAC: MACAddress
  /// VXLAN, routed packets: the Ethernet destination inside, the remote router's MAC.
  public var innerDestinationMAC: MACAddress
  /// What does not fit the underlay's MTU and must not be refused (IPv4 without DF, IPv6 up to 1280 bytes) goes in
  /// fragments of the outer packet, and the underlay may fragment that too: over IPv4 it has no DF.
  public var fragments: Bool
  /// The outer header's DSCP (0...63); nil copies the packet's own (RFC 2983: pipe and uniform model).
  public var outerDSCP: UInt8?

  public init(
    encapsulation: Encapsulation, interface: UInt32, source: IPAddress, destination: IPAddress,
    destinationMAC: MACAddress, innerDestinationMAC: MACAddress = .virtualRouter, fragments: Bool = false
  ) {
    self.fragments = fragments
    self.encapsulation = encapsulation
    self.interface = interface
    self.source = source
    self.destination = destination
    self.destinationMAC = destinationMAC
    self.innerDestinationMAC = innerDestinationMAC
  }
}

/// One of the ways that an ECMP nexthop divides flows between.
public struct NexthopMember: Hashable, Sendable {
  /// A tunnel or an encap.
  public var nexthop: UInt32
  /// The VNI or MPLS label to send with through a tunnel (0 otherwise).
  public var label: UInt32
  /// Its share of the flows, in proportion to the other members'; not 0.
  public var weight: UInt16

  public init(nexthop: UInt32, label: UInt32 = 0, weight: UInt16 = 1) {
    self.nexthop = nexthop
    self.label = label
    self.weight = weight
  }
}

/// What to do with a packet.
public struct NexthopConfiguration: Hashable, Sendable {
  public enum Action: Hashable, Sendable {
    /// Drop, with the reason `discard_nexthop`.
    case discard
    /// For the router itself: the forwarder answers ARP, neighbour solicitations and echo requests.
    case receive
    /// Out of a local interface; routed packets get this Ethernet destination.
    case encap(interface: UInt32, destinationMAC: MACAddress)
    case tunnel(TunnelConfiguration)
    /// Look the (inner) packet up in a VRF: where VNIs and labels of a VRF end.
    case vrfTranslate(vrf: UInt32)
    /// By one of up to `maximumMembers` ways, the same for all packets of a flow.
    case ecmp([NexthopMember])
    /// For the host: out of its interface, with that interface's MAC as the Ethernet destination; the TTL stays.
    case receiveAt(interface: UInt32)
    /// A copy to each of up to `maximumMembers` members: broadcast, multicast, unknown unicast.
    case multicast([MulticastMember])
    /// To hosts of a subnet that is on an interface: the agent is asked for their MAC (`Event.resolve`), and packets are
    /// dropped until it has set routes for them.
    case resolve(interface: UInt32)
    /// As `vrfTranslate`, where what comes in is bridged and never routed. Behind an MPLS label stands an Ethernet frame.
    case l2Receive(vrf: UInt32)
    /// As `vrfTranslate`, where what comes in is routed and never bridged.
    case l3Receive(vrf: UInt32)
  }

  public static let maximumMembers = 64

  public var id: UInt32
  public var action: Action

  public init(id: UInt32, action: Action) {
    self.id = id
    self.action = action
  }
}

/// An MPLS label (20 bits) that ends here.
public struct LabelConfiguration: Hashable, Sendable {
  public var label: UInt32
  public var nexthop: UInt32

  public init(label: UInt32, nexthop: UInt32) {
    self.label = label
    self.nexthop = nexthop
  }
}

/// A VXLAN network identifier (24 bits) that ends here.
public struct VNIConfiguration: Hashable, Sendable {
  public var vni: UInt32
  public var nexthop: UInt32

  public init(vni: UInt32, nexthop: UInt32) {
    self.vni = vni
    self.nexthop = nexthop
  }
}

/// A route of a VRF. `label` is the VNI or MPLS label to send with through a tunnel (0 otherwise).
public struct RouteConfiguration: Hashable, Sendable {
  public var vrf: UInt32
  public var prefix: IPPrefix
  public var nexthop: UInt32
  public var label: UInt32

  public init(vrf: UInt32, prefix: IPPrefix, nexthop: UInt32, label: UInt32 = 0) {
    self.vrf = vrf
    self.prefix = prefix
    self.nexthop = nexthop
    self.label = label
  }
}

/// Where a MAC address of a VRF's bridge is. `label` as in `RouteConfiguration`.
public struct BridgeConfiguration: Hashable, Sendable {
  public var vrf: UInt32
  public var mac: MACAddress
  public var nexthop: UInt32
  public var label: UInt32

  public init(vrf: UInt32, mac: MACAddress, nexthop: UInt32, label: UInt32 = 0) {
    self.vrf = vrf
    self.mac = mac
    self.nexthop = nexthop
    self.label = label
  }
}

/// How many entries a forwarder holds, set when it starts.
public struct TableLimits: Hashable, Sendable {
  public var interfaces: UInt32 = 4096
  public var vrfs: UInt32 = 4096
  public var nexthops: UInt32 = 1 << 18
  /// All VRFs and both families together.
  public var routes: UInt32 = 1 << 20
  /// Inner nodes of the longest-prefix-match trees, for each family, taken from the system as they are used: 2 KiB each for
  /// IPv4, 32 bytes and what stands in them for IPv6.
  public var routeNodes: UInt32 = 1 << 18
  public var bridge: UInt32 = 1 << 18
  /// Flow entries (two for each flow) of each worker.
  public var flows: UInt32 = 1 << 19

  public init() {}
}

/// What the forwarder says of an interface when it is asked.
public struct InterfaceState: Hashable, Sendable {
  /// The kernel says that the link is up and running.
  public var isUp: Bool
  /// The kernel's index, 0 if it has none.
  public var kernelIndex: UInt32

  public init(isUp: Bool, kernelIndex: UInt32) {
    self.isUp = isUp
    self.kernelIndex = kernelIndex
  }
}

/// One direction of a flow.
public struct FlowRecord: Hashable, Sendable {
  public var worker: UInt32
  public var vrf: UInt32
  public var source: IPAddress
  public var destination: IPAddress
  /// IP protocol number.
  public var proto: UInt8
  /// 0 where the protocol has none; ICMP echo: the identifier in both.
  public var sourcePort: UInt16
  public var destinationPort: UInt16
  /// The direction of the first packet.
  public var isForward: Bool
  public var nexthop: UInt32
  public var packets: UInt64
  /// Bytes of IP packet.
  public var bytes: UInt64
  public var ageMilliseconds: UInt64
  public var idleMilliseconds: UInt64

  public init(
    worker: UInt32, vrf: UInt32, source: IPAddress, destination: IPAddress, proto: UInt8, sourcePort: UInt16,
    destinationPort: UInt16, isForward: Bool, nexthop: UInt32, packets: UInt64, bytes: UInt64,
    ageMilliseconds: UInt64, idleMilliseconds: UInt64
  ) {
    self.worker = worker
    self.vrf = vrf
    self.source = source
    self.destination = destination
    self.proto = proto
    self.sourcePort = sourcePort
    self.destinationPort = destinationPort
    self.isForward = isForward
    self.nexthop = nexthop
    self.packets = packets
    self.bytes = bytes
    self.ageMilliseconds = ageMilliseconds
    self.idleMilliseconds = idleMilliseconds
  }
}
