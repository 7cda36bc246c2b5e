import WeftWire

// Address translation: source NAT, addresses that stand for others, destination NAT, services.

/// Outside addresses and ports that source NAT gives to flows.
public struct NATPoolConfiguration: Hashable, Sendable {
  public static let blockPorts: ClosedRange<UInt16> = 64...512

  public var id: UInt32
  /// For people; at most 63 bytes.
  public var name: String
  /// The VRF in which the addresses are: where answers come in.
  public var vrf: UInt32
  /// Both of one family, `last` not below `first`.
  public var first: IPAddress
  public var last: IPAddress
  public var firstPort: UInt16
  public var lastPort: UInt16
  /// Ports of the blocks that workers take and give back: a power of two within `NATPoolConfiguration.blockPorts`.
  public var blockPorts: UInt16

  public init(
    id: UInt32, name: String = "", vrf: UInt32, first: IPAddress, last: IPAddress, firstPort: UInt16 = 1024,
    lastPort: UInt16 = 65535, blockPorts: UInt16 = 256
  ) {
    self.id = id
    self.name = name
    self.vrf = vrf
    self.first = first
    self.last = last
    self.firstPort = firstPort
    self.lastPort = lastPort
    self.blockPorts = blockPorts
  }
}

/// Which new flows of a VRF get a source address of a pool. The rule of the lowest priority number that fits decides.
public struct SourceNATConfiguration: Hashable, Sendable {
  public var id: UInt32
  public var priority: UInt32
  /// The VRF that the flow comes from.
  public var vrf: UInt32
  public var source: IPPrefix
  /// nil for all.
  public var destination: IPPrefix?
  /// The VRF in which the way to the destination ends; nil for any.
  public var egress: UInt32?
  /// nil leaves the flow as it is: an exception from the rules after this one.
  public var pool: UInt32?

  public init(
    id: UInt32, priority: UInt32, vrf: UInt32, source: IPPrefix, destination: IPPrefix? = nil, egress: UInt32? = nil,
    pool: UInt32?
  ) {
    self.id = id
    self.priority = priority
    self.vrf = vrf
    self.source = source
    self.destination = destination
    self.egress = egress
    self.pool = pool
  }
}

/// An outside address that stands for an inside one (floating IP): flows may begin on either side, ports stay.
public struct StaticNATConfiguration: Hashable, Sendable {
  public var insideVRF: UInt32
  public var inside: IPAddress
  public var outsideVRF: UInt32
  public var outside: IPAddress

  public init(insideVRF: UInt32, inside: IPAddress, outsideVRF: UInt32, outside: IPAddress) {
    self.insideVRF = insideVRF
    self.inside = inside
    self.outsideVRF = outsideVRF
    self.outside = outside
  }
}

/// What packets are sent to: a service, or an address and port that stands for another.
public struct ServiceKey: Hashable, Sendable, CustomStringConvertible {
  public var vrf: UInt32
  public var address: IPAddress
  /// TCP, UDP or SCTP.
  public var proto: UInt8
  public var port: UInt16

  public init(vrf: UInt32, address: IPAddress, proto: UInt8, port: UInt16) {
    self.vrf = vrf
    self.address = address
    self.proto = proto
    self.port = port
  }

  public var description: String {
    let name = ServiceProtocol(rawValue: proto)?.name ?? "protocol \(proto)"
    return "VRF \(vrf) \(name) \(address.isV4 ? "\(address)" : "[\(address)]"):\(port)"
  }
}

/// The protocols of services.
public enum ServiceProtocol: UInt8, CaseIterable, Sendable {
  case tcp = 6
  case udp = 17
  case sctp = 132

  public var name: String {
    switch self {
    case .tcp: "tcp"
    case .udp: "udp"
    case .sctp: "sctp"
    }
  }
}

/// An address and port that stands for another, possibly in another VRF.
public struct DestinationNATConfiguration: Hashable, Sendable {
  public var key: ServiceKey
  public var target: IPAddress
  public var targetVRF: UInt32
  /// 0 leaves the port as it is.
  public var targetPort: UInt16

  public init(key: ServiceKey, target: IPAddress, targetVRF: UInt32, targetPort: UInt16 = 0) {
    self.key = key
    self.target = target
    self.targetVRF = targetVRF
    self.targetPort = targetPort
  }
}

/// An address and port behind which there are backends.
public struct ServiceConfiguration: Hashable, Sendable {
  public struct Flags: OptionSet, Hashable, Sendable {
    public let rawValue: UInt8
    public init(rawValue: UInt8) { self.rawValue = rawValue }
    /// Only backends of this node (a "Local" traffic policy); clients keep their address.
    public static let localOnly = Flags(rawValue: 1)
    /// Clients get an address of `pool` towards the backend, so that answers come back here ("Cluster").
    public static let sourceNAT = Flags(rawValue: 2)
    static let known: Flags = [.localOnly, .sourceNAT]
  }

  public var key: ServiceKey
  /// For people; at most 63 bytes.
  public var name: String
  public var flags: Flags
  /// With `sourceNAT`.
  public var pool: UInt32?
  /// Seconds that a client keeps its backend after its last new flow; 0 without affinity.
  public var affinitySeconds: UInt32
  /// What a backend that is its own client sees as the client's address; nil for the service's own.
  public var hairpin: IPAddress?

  public init(
    key: ServiceKey, name: String = "", flags: Flags = [], pool: UInt32? = nil, affinitySeconds: UInt32 = 0,
    hairpin: IPAddress? = nil
  ) {
    self.key = key
    self.name = name
    self.flags = flags
    self.pool = pool
    self.affinitySeconds = affinitySeconds
    self.hairpin = hairpin
  }
}

/// A server behind a service.
public struct BackendConfiguration: Hashable, Sendable {
  public struct Flags: OptionSet, Hashable, Sendable {
    public let rawValue: UInt8
    public init(rawValue: UInt8) { self.rawValue = rawValue }
    /// Keeps its flows and gets no new ones.
    public static let draining = Flags(rawValue: 1)
    /// Of this node.
    public static let local = Flags(rawValue: 2)
    static let known: Flags = [.draining, .local]
  }

  public var service: ServiceKey
  public var address: IPAddress
  /// 0 leaves the port as it is.
  public var port: UInt16
  public var vrf: UInt32
  /// Its share of new flows among the others'; 0 for none.
  public var weight: UInt16
  public var flags: Flags

  public init(
    service: ServiceKey, address: IPAddress, port: UInt16, vrf: UInt32, weight: UInt16 = 1, flags: Flags = []
  ) {
    self.service = service
    self.address = address
    self.port = port
    self.vrf = vrf
    self.weight = weight
    self.flags = flags
  }
}

/// What the forwarder says of a pool when it is asked.
public struct NATPoolState: Hashable, Sendable {
  /// Blocks that workers have, of TCP, UDP, SCTP and echo identifiers.
  public var taken: [UInt32]
  /// Blocks that there are of each.
  public var blocks: UInt32

  public init(taken: [UInt32], blocks: UInt32) {
    self.taken = taken
    self.blocks = blocks
  }
}
