import WeftWire

// Policy: which new flows may begin. Replies belong to the flow that they answer, and are not asked about.

/// What an interface does beside taking and giving packets. Bits that are not named are refused.
public struct InterfaceFlags: OptionSet, Hashable, Sendable {
  public let rawValue: UInt32
  public init(rawValue: UInt32) { self.rawValue = rawValue }

  /// New flows from and to it are put to the rules; what no rule allows is denied.
  public static let policy = InterfaceFlags(rawValue: 1)
  /// Frames to other MAC addresses than the router's are bridged.
  public static let bridging = InterfaceFlags(rawValue: 2)
  /// Packets to the router's MAC address are routed.
  public static let routing = InterfaceFlags(rawValue: 4)
  /// Only packets from its own MAC address and from addresses that are routed to it come in.
  public static let antiSpoofing = InterfaceFlags(rawValue: 8)
  /// Flows that are there go on, no new ones begin.
  public static let dropNewFlows = InterfaceFlags(rawValue: 16)
  /// MAC addresses behind it are learned. With `bridging`, and not with `antiSpoofing`.
  public static let learning = InterfaceFlags(rawValue: 32)
  /// The maximum segment size of TCP connections is lowered to what fits.
  public static let clampMSS = InterfaceFlags(rawValue: 64)

  /// DHCP requests and router solicitations that come in go to the agent (`Event.trap`) and nowhere else; what DHCP servers
  /// and routers say does not come in.
  public static let dhcp = InterfaceFlags(rawValue: 128)

  public static let all = InterfaceFlags(rawValue: 255)
  public static let usual: InterfaceFlags = [.bridging, .routing]

  /// Each flag by its name in TABLES.json.
  public static let names: [(name: String, flag: InterfaceFlags)] = [
    ("policy", .policy), ("bridging", .bridging), ("routing", .routing), ("anti-spoofing", .antiSpoofing),
    ("drop-new-flows", .dropNewFlows), ("learning", .learning), ("clamp-mss", .clampMSS),
    ("dhcp", .dhcp),
  ]

  public var names: [String] { Self.names.filter { contains($0.flag) }.map(\.name) }
}

/// A named set of addresses that rules refer to.
public struct AddressSetConfiguration: Hashable, Sendable {
  public var id: UInt32
  /// For people; at most 63 bytes.
  public var name: String

  public init(id: UInt32, name: String) {
    self.id = id
    self.name = name
  }
}

/// A prefix in an address set, or an exception from it: of the prefixes of a set that hold an address, the longest says
/// whether the address is in the set.
public struct AddressSetMember: Hashable, Sendable {
  public var set: UInt32
  public var prefix: IPPrefix
  public var isExcluded: Bool

  public init(set: UInt32, prefix: IPPrefix, isExcluded: Bool = false) {
    self.set = set
    self.prefix = prefix
    self.isExcluded = isExcluded
  }
}

/// Which way a rule looks from its subject, the local interface that it is about.
public enum RuleDirection: UInt8, Sendable, CaseIterable {
  /// Flows to the subject.
  case ingress = 1
  /// Flows from the subject.
  case egress = 2

  public var name: String {
    switch self {
    case .ingress: "ingress"
    case .egress: "egress"
    }
  }
}

public enum RuleAction: UInt8, Sendable, CaseIterable {
  case allow = 1
  /// Drop silently.
  case deny = 2
  /// Drop and tell the sender: a TCP reset, or ICMP "administratively prohibited".
  case reject = 3

  public var name: String {
    switch self {
    case .allow: "allow"
    case .deny: "deny"
    case .reject: "reject"
    }
  }
}

/// A rule: the first one that matches a new flow decides, in the order of priority (lowest number first) and id. Of a
/// direction, everything that is said must hold; what is not said matches anything. Without a match the flow is denied.
///
/// With NetworkPolicies: a tag for each policy, on the interfaces of the pods that it selects; its rules allow; one with
/// a higher number denies the tag's direction; one with the highest number, for all, allows. With security groups: a tag
/// and allow rules for each group, and no more.
public struct RuleConfiguration: Hashable, Sendable {
  public static let maximumSets = 8
  public static let maximumSourcePorts = 4
  public static let maximumDestinationPorts = 8

  public var id: UInt32
  /// For people; at most 63 bytes, may be empty.
  public var name: String
  public var priority: UInt32
  public var direction: RuleDirection
  public var action: RuleAction
  /// A tag of the subject; 0 for any subject.
  public var tag: UInt32
  /// The subject's VRF.
  public var vrf: UInt32?
  /// The other end is in one of these sets, or in `remotePrefix`.
  public var remoteSets: [UInt32]
  public var remotePrefix: IPPrefix?
  /// The subject's own address.
  public var localPrefix: IPPrefix?
  /// IP protocol number.
  public var proto: UInt8?
  /// TCP, UDP, SCTP, DCCP, UDP-Lite: within one of the ranges; empty for any.
  public var sourcePorts: [ClosedRange<UInt16>]
  public var destinationPorts: [ClosedRange<UInt16>]
  /// ICMP, ICMPv6. A code only with a type.
  public var icmpType: UInt8?
  public var icmpCode: UInt8?
  /// TCP: flags & mask == value, in the flow's first packet.
  public var tcpFlagsMask: UInt8
  public var tcpFlagsValue: UInt8
  /// The flow is reported.
  public var isLogged: Bool
  /// The mirror that gets a copy of the flow's packets, of both directions; 0 for none.
  public var mirror: UInt16
  /// What the flow's packets, of both directions, are marked with (0...63).
  public var dscp: UInt8?
  /// The policer that meters the packets, of both directions, of all flows that the rule allows.
  public var policer: UInt32?

  public init(
    id: UInt32, name: String = "", priority: UInt32, direction: RuleDirection, action: RuleAction, tag: UInt32 = 0,
    vrf: UInt32? = nil, remoteSets: [UInt32] = [], remotePrefix: IPPrefix? = nil, localPrefix: IPPrefix? = nil,
    proto: UInt8? = nil, sourcePorts: [ClosedRange<UInt16>] = [], destinationPorts: [ClosedRange<UInt16>] = [],
    icmpType: UInt8? = nil, icmpCode: UInt8? = nil, tcpFlagsMask: UInt8 = 0, tcpFlagsValue: UInt8 = 0,
    isLogged: Bool = false, mirror: UInt16 = 0, dscp: UInt8? = nil, policer: UInt32? = nil
  ) {
    self.id = id
    self.name = name
    self.priority = priority
    self.direction = direction
    self.action = action
    self.tag = tag
    self.vrf = vrf
    self.remoteSets = remoteSets
    self.remotePrefix = remotePrefix
    self.localPrefix = localPrefix
    self.proto = proto
    self.sourcePorts = sourcePorts
    self.destinationPorts = destinationPorts
    self.icmpType = icmpType
    self.icmpCode = icmpCode
    self.tcpFlagsMask = tcpFlagsMask
    self.tcpFlagsValue = tcpFlagsValue
    self.isLogged = isLogged
    self.mirror = mirror
    self.dscp = dscp
    self.policer = policer
  }
}
