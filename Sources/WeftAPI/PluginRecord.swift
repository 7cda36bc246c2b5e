import WeftWire

/// What the plugin remembers of an interface that it made or was about to make: a file in its config-dir. An agent that has
/// lost its database reads them too.
public struct PluginRecord: Hashable, Sendable, Codable {
  /// The name of the network configuration that it was made under.
  public var configuration: String
  public var containerID: String
  public var interface: String
  public var netns: String
  /// From here on nil until the agent has answered.
  public var hostInterface: String?
  /// The interface is a TAP interface; nil: an end of a veth.
  public var isTap: Bool?
  public var network: String?
  public var mac: MACAddress?
  /// Bytes, as it was set.
  public var mtu: Int?
  public var addresses: [InterfaceAddress]?
  /// Those that were set: not one that another interface of the container had already.
  public var routes: [AttachmentRoute]?
  /// Nested mode: the machine's interface that it is on, and whether the plugin made that.
  public var vlanInterface: String?
  public var isVLANOurs: Bool?
  /// How fast it may be; nil: as fast as it can.
  public var bandwidth: Bandwidth?
  /// Kubernetes' pod, where the runtime said so.
  public var podName: String?
  public var podNamespace: String?
  public var podUID: String?

  public init(
    configuration: String, containerID: String, interface: String, netns: String, hostInterface: String? = nil,
    isTap: Bool? = nil, network: String? = nil, mac: MACAddress? = nil, mtu: Int? = nil,
    addresses: [InterfaceAddress]? = nil, routes: [AttachmentRoute]? = nil,
    bandwidth: Bandwidth? = nil, podName: String? = nil, podNamespace: String? = nil, podUID: String? = nil
  ) {
    self.configuration = configuration
    self.containerID = containerID
    self.interface = interface
    self.netns = netns
    self.hostInterface = hostInterface
    self.isTap = isTap
    self.network = network
    self.mac = mac
    self.mtu = mtu
    self.addresses = addresses
    self.routes = routes
    self.bandwidth = bandwidth
    self.podName = podName
    self.podNamespace = podNamespace
    self.podUID = podUID
  }

  public enum CodingKeys: String, CodingKey {
    case configuration
    case containerID = "container-id"
    case interface, netns
    case hostInterface = "host-interface"
    case isTap = "tap"
    case network, mac, mtu, addresses, routes
    case vlanInterface = "vlan-interface"
    case isVLANOurs = "made-vlan"
    case bandwidth
    case podName = "pod-name"
    case podNamespace = "pod-namespace"
    case podUID = "pod-uid"
  }
}
