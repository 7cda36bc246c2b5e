import WeftWire

// Interfaces of VLANs, bridging and multicast in the model: see Model.swift.

/// Which tagged frames of a parent interface are an interface's own (IEEE 802.1Q): port kind `vlan`.
public struct VLANConfiguration: Hashable, Sendable {
  /// 802.1Q, 802.1ad, and what older equipment has outside.
  public static let protocols: [UInt16] = [0x8100, 0x88A8, 0x9100]
  public static let identifiers: ClosedRange<UInt16> = 1...4094

  /// The interface on whose port the frames are. Not itself of port kind `vlan`.
  public var parent: UInt32
  /// The outer tag's protocol (TPID), one of `protocols`.
  public var proto: UInt16
  /// VLAN identifiers of the outer tag and, where frames have two, of the inner one, whose protocol is 802.1Q.
  public var outer: UInt16
  public var inner: UInt16?

  public init(parent: UInt32, proto: UInt16 = 0x8100, outer: UInt16, inner: UInt16? = nil) {
    self.parent = parent
    self.proto = proto
    self.outer = outer
    self.inner = inner
  }
}

/// How a VRF bridges.
public struct VRFFlags: OptionSet, Hashable, Sendable {
  public let rawValue: UInt32
  public init(rawValue: UInt32) { self.rawValue = rawValue }

  /// Frames to a MAC address that the bridge table does not have go to all, as broadcasts do; else they are dropped.
  public static let floodUnknown = VRFFlags(rawValue: 1)
  /// MAC addresses behind VXLAN tunnels are learned from what comes out of them (RFC 7348 section 4.1).
  public static let learning = VRFFlags(rawValue: 2)
  /// ARP requests and neighbour solicitations for addresses whose MAC is known are answered with that (RFC 9161), for
  /// others they go to all.
  public static let suppression = VRFFlags(rawValue: 4)

  public static let all = VRFFlags(rawValue: 7)

  /// Each flag by its name in TABLES.json.
  public static let names: [(name: String, flag: VRFFlags)] = [
    ("flood-unknown", .floodUnknown), ("learning", .learning), ("suppression", .suppression),
  ]
  public var names: [String] { Self.names.filter { contains($0.flag) }.map(\.name) }
}

/// How a VRF learns MAC addresses.
public struct LearningConfiguration: Hashable, Sendable {
  /// Seconds after which a MAC address that is not heard of is forgotten.
  public var ageing: UInt32
  /// A MAC address that moves more often than `moves` times within `moveSeconds` stays where it is until it has been quiet
  /// for as long (RFC 7432 section 15.1).
  public var moves: UInt16
  public var moveSeconds: UInt16
  /// How many are learned behind tunnels.
  public var limit: UInt32

  public init(ageing: UInt32 = 300, moves: UInt16 = 5, moveSeconds: UInt16 = 180, limit: UInt32 = 8192) {
    self.ageing = ageing
    self.moves = moves
    self.moveSeconds = moveSeconds
    self.limit = limit
  }
}

/// One of those who get a copy of what a multicast nexthop replicates.
public struct MulticastMember: Hashable, Sendable {
  /// An encap, a tunnel, or another multicast nexthop.
  public var nexthop: UInt32
  /// The VNI or MPLS label to send with through a tunnel (0 otherwise).
  public var label: UInt32
  /// Tunnels: what came through a tunnel of this split-horizon group goes to no tunnel of the group.
  public var group: UInt16

  public init(nexthop: UInt32, label: UInt32 = 0, group: UInt16 = 0) {
    self.nexthop = nexthop
    self.label = label
    self.group = group
  }
}

/// Whose MAC address an IP address of a VRF's bridge has (a MAC/IP route of RFC 7432): what suppression answers with.
public struct NeighborConfiguration: Hashable, Sendable {
  public var vrf: UInt32
  public var address: IPAddress
  public var mac: MACAddress

  public init(vrf: UInt32, address: IPAddress, mac: MACAddress) {
    self.vrf = vrf
    self.address = address
    self.mac = mac
  }
}

/// What the forwarder says of a bridge entry when it is asked.
public struct BridgeState: Hashable, Sendable {
  /// From packets; else somebody has set it.
  public var isLearned: Bool
  /// Learned: it moves too often and stays where it is.
  public var isDamped: Bool
  /// Learned: seconds since it was heard of, give or take the time between two reports of a worker.
  public var idleSeconds: UInt32
  /// Learned: how often it has moved.
  public var moves: UInt32

  public init(isLearned: Bool = false, isDamped: Bool = false, idleSeconds: UInt32 = 0, moves: UInt32 = 0) {
    self.isLearned = isLearned
    self.isDamped = isDamped
    self.idleSeconds = idleSeconds
    self.moves = moves
  }
}

/// What has become of a learned MAC address.
public enum StationChange: UInt8, Sendable, CaseIterable {
  case learned = 1
  case moved, aged
  /// It moves too often, and stays where it is.
  case damped
  /// There are as many as the interface or the VRF may have.
  case refused

  public var name: String {
    switch self {
    case .learned: "learned"
    case .moved: "moved"
    case .aged: "aged"
    case .damped: "damped"
    case .refused: "refused"
    }
  }
}
