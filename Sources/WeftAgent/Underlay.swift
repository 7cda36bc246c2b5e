import WeftWire

/// What the kernel says of the underlay: the fabric interface, and the way to each peer.
public struct Underlay: Hashable, Sendable {
  public struct FabricLink: Hashable, Sendable {
    public var index: UInt32
    public var mac: MACAddress
    /// Bytes of IP packet.
    public var mtu: Int
    /// Where tunnels end: at most four, those that peers are reached from first.
    public var addresses: [IPAddress]

    public init(index: UInt32, mac: MACAddress, mtu: Int, addresses: [IPAddress]) {
      self.index = index
      self.mac = mac
      self.mtu = mtu
      self.addresses = addresses
    }
  }

  public struct PeerPath: Hashable, Sendable {
    /// Our end of the tunnel; nil: there is no way to the peer.
    public var source: IPAddress?
    /// The gateway, or the peer itself where it is on the link.
    public var nextHop: IPAddress?
    /// The next hop's; zero while it is not known.
    public var mac: MACAddress
    /// Why there is no way, or no MAC; nil when all is well.
    public var reason: String?

    public init(source: IPAddress? = nil, nextHop: IPAddress? = nil, mac: MACAddress = .zero, reason: String? = nil) {
      self.source = source
      self.nextHop = nextHop
      self.mac = mac
      self.reason = reason
    }
  }

  /// Nil: the fabric interface does not exist, or has no Ethernet address.
  public var fabric: FabricLink?
  /// By the peer's name.
  public var peers: [String: PeerPath] = [:]
  /// The kernel's own interfaces in networks, as far as they are there.
  public var hostPorts: [HostPort] = []

  public init(fabric: FabricLink? = nil, peers: [String: PeerPath] = [:]) {
    self.fabric = fabric
    self.peers = peers
  }

  /// What a network's members may send is reckoned from this.
  public func fabricMTU(_ configuration: AgentConfiguration) -> Int {
    fabric?.mtu ?? configuration.fabric.mtu ?? 1500
  }
}
