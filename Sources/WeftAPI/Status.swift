/// What the agent says of itself: `GET /v1/status`.
public struct AgentStatus: Hashable, Sendable, Codable {
  public struct Forwarder: Hashable, Sendable, Codable {
    /// A channel is open.
    public var connected: Bool
    /// Everything that should be in the forwarder is in it. False while a resynchronisation runs.
    public var synchronized: Bool
    public var socket: String
    /// Nil while there is no channel.
    public var pid: Int32?
    /// The generation of the last resynchronisation (nanoseconds since 1970); nil before the first.
    public var generation: UInt64?
    /// Why there is no channel, or what the forwarder refused last; nil when all is well.
    public var reason: String?

    public init(
      connected: Bool, synchronized: Bool, socket: String, pid: Int32? = nil, generation: UInt64? = nil,
      reason: String? = nil
    ) {
      self.connected = connected
      self.synchronized = synchronized
      self.socket = socket
      self.pid = pid
      self.generation = generation
      self.reason = reason
    }
  }

  /// A tunnel's far end.
  public struct Peer: Hashable, Sendable, Codable {
    public var name: String
    public var address: String
    /// The MAC address of the next underlay hop; nil while it is not resolved.
    public var nextHopMAC: String?
    /// Why it is not reached; nil when it is.
    public var reason: String?

    public init(name: String, address: String, nextHopMAC: String?, reason: String? = nil) {
      self.reason = reason
      self.name = name
      self.address = address
      self.nextHopMAC = nextHopMAC
    }

    public enum CodingKeys: String, CodingKey {
      case name, address, reason
      case nextHopMAC = "next-hop-mac"
    }
  }

  /// How full a subnet's range is.
  public struct Pool: Hashable, Sendable, Codable {
    public var network: String
    public var prefix: String
    public var range: String
    public var used: UInt64
    /// Addresses that may be given out, in use or not; at most 2^64 - 1.
    public var capacity: UInt64

    public init(network: String, prefix: String, range: String, used: UInt64, capacity: UInt64) {
      self.network = network
      self.prefix = prefix
      self.range = range
      self.used = used
      self.capacity = capacity
    }
  }

  /// The host's interface in a network.
  public struct Gateway: Hashable, Sendable, Codable {
    public var network: String
    public var interface: String
    public var addresses: [String]
    /// What the network reaches through the host, beside its addresses.
    public var routes: [String]
    public var masquerade: Bool
    /// What is not as it should be; nil when all is well.
    public var reason: String?

    public init(
      network: String, interface: String, addresses: [String], routes: [String], masquerade: Bool,
      reason: String? = nil
    ) {
      self.network = network
      self.interface = interface
      self.addresses = addresses
      self.routes = routes
      self.masquerade = masquerade
      self.reason = reason
    }
  }

  public var node: String
  public var version: String
  public var forwarder: Forwarder
  public var attachments: Int
  public var activeAttachments: Int
  public var defaultNetwork: String
  public var pools: [Pool]
  public var peers: [Peer]
  /// Nil: an agent that knows of none.
  public var gateways: [Gateway]?

  public init(
    node: String, version: String, forwarder: Forwarder, attachments: Int, activeAttachments: Int,
    defaultNetwork: String, pools: [Pool], peers: [Peer], gateways: [Gateway]? = nil
  ) {
    self.node = node
    self.version = version
    self.forwarder = forwarder
    self.attachments = attachments
    self.activeAttachments = activeAttachments
    self.defaultNetwork = defaultNetwork
    self.pools = pools
    self.peers = peers
    self.gateways = gateways
  }

  public enum CodingKeys: String, CodingKey {
    case node, version, forwarder, attachments
    case activeAttachments = "active-attachments"
    case defaultNetwork = "default-network"
    case pools, peers, gateways
  }
}
