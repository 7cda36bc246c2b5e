import WeftWire

// What Tungsten Fabric's plugin and compute driver say to the agent on port 9091, in their own words.

/// One interface of a pod: an element of the answers to `GET /vm-cfg/{pod}` and `GET /vm/{vm-uuid}`.
public struct VMInterface: Hashable, Sendable, Codable {
  /// The pod's UUID.
  public var vmUUID: String
  /// The virtual machine interface's (VMI) UUID.
  public var id: String
  public var vnID: String
  public var vnName: String
  public var macAddress: String
  /// 65535 when the interface is no VLAN sub-interface, as Tungsten Fabric's agent answers it.
  public var vlanID: Int
  public static let noVLAN = 65535
  /// "" when it has no IPv4 address.
  public var ipAddress: String
  public var plen: Int
  public var gateway: String
  public var dnsServer: String
  public var ip6Address: String?
  public var ip6PLen: Int?
  public var ip6Gateway: String?
  public var networkLabel: String
  /// Each "{key:value}".
  public var annotations: [String]

  public init(
    vmUUID: String, id: String, vnID: String, vnName: String, macAddress: String, vlanID: Int = 65535,
    ipAddress: String, plen: Int, gateway: String, dnsServer: String, ip6Address: String? = nil, ip6PLen: Int? = nil,
    ip6Gateway: String? = nil, networkLabel: String = "", annotations: [String]
  ) {
    self.vmUUID = vmUUID
    self.id = id
    self.vnID = vnID
    self.vnName = vnName
    self.macAddress = macAddress
    self.vlanID = vlanID
    self.ipAddress = ipAddress
    self.plen = plen
    self.gateway = gateway
    self.dnsServer = dnsServer
    self.ip6Address = ip6Address
    self.ip6PLen = ip6PLen
    self.ip6Gateway = ip6Gateway
    self.networkLabel = networkLabel
    self.annotations = annotations
  }

  public enum CodingKeys: String, CodingKey {
    case vmUUID = "vm-uuid"
    case id
    case vnID = "vn-id"
    case vnName = "vn-name"
    case macAddress = "mac-address"
    case vlanID = "vlan-id"
    case ipAddress = "ip-address"
    case plen, gateway
    case dnsServer = "dns-server"
    case ip6Address = "ip6-address"
    case ip6PLen = "ip6-plen"
    case ip6Gateway = "ip6-gateway"
    case networkLabel = "network-label"
    case annotations
  }
}

/// An interface that the plugin has made: the body of `POST /vm`.
public struct VMReport: Hashable, Sendable, Codable {
  public var time: String?
  /// The container's id.
  public var vmID: String
  public var vmUUID: String
  public var vmName: String
  public var hostIfname: String
  public var vmIfname: String
  /// Path of the network namespace.
  public var vmNamespace: String
  public var vnUUID: String?
  public var vmiUUID: String?

  public init(
    time: String? = nil, vmID: String, vmUUID: String, vmName: String, hostIfname: String, vmIfname: String,
    vmNamespace: String, vnUUID: String? = nil, vmiUUID: String? = nil
  ) {
    self.time = time
    self.vmID = vmID
    self.vmUUID = vmUUID
    self.vmName = vmName
    self.hostIfname = hostIfname
    self.vmIfname = vmIfname
    self.vmNamespace = vmNamespace
    self.vnUUID = vnUUID
    self.vmiUUID = vmiUUID
  }

  public enum CodingKeys: String, CodingKey {
    case time
    case vmID = "vm-id"
    case vmUUID = "vm-uuid"
    case vmName = "vm-name"
    case hostIfname = "host-ifname"
    case vmIfname = "vm-ifname"
    case vmNamespace = "vm-namespace"
    case vnUUID = "vn-uuid"
    case vmiUUID = "vmi-uuid"
  }
}

/// A VM's port: the body of `POST /port` (one, or an array) and of the answer to `GET /port/{uuid}`.
public struct Port: Hashable, Sendable, Codable {
  /// The VMI's UUID.
  public var id: String
  public var instanceID: String
  /// "None" or "" when absent: what the compute driver sends.
  public var ipAddress: String?
  public var ip6Address: String?
  public var vnID: String?
  public var displayName: String?
  public var macAddress: String
  public var vmProjectID: String?
  /// -1 when the port carries no VLAN tag.
  public var txVLANID: Int?
  public var rxVLANID: Int?
  /// 0: a VM's TAP, 1: a namespace's veth, as the compute driver counts them.
  public var type: Int?
  /// The kernel's interface (TAP or veth), at most 15 bytes.
  public var systemName: String
  /// What QEMU is at a vhost-user socket. 0: it connects; 1: it listens.
  public var vhostuserMode: Int?
  /// Not the compute driver's: the path of the socket, of a port that is vhost-user whatever the agent's file says.
  public var vhostuserSocket: String?
  /// Whether the port forwards. Absent: it does.
  public var linkState: LinkState?
  /// Answers only: who made it, and when.
  public var author: String?
  public var time: String?

  public init(
    id: String, instanceID: String, ipAddress: String? = nil, ip6Address: String? = nil, vnID: String? = nil,
    displayName: String? = nil, macAddress: String, vmProjectID: String? = nil, txVLANID: Int? = nil,
    rxVLANID: Int? = nil, type: Int? = nil, systemName: String, vhostuserMode: Int? = nil,
    vhostuserSocket: String? = nil, linkState: LinkState? = nil,
    author: String? = nil, time: String? = nil
  ) {
    self.id = id
    self.instanceID = instanceID
    self.ipAddress = ipAddress
    self.ip6Address = ip6Address
    self.vnID = vnID
    self.displayName = displayName
    self.macAddress = macAddress
    self.vmProjectID = vmProjectID
    self.txVLANID = txVLANID
    self.rxVLANID = rxVLANID
    self.type = type
    self.systemName = systemName
    self.vhostuserMode = vhostuserMode
    self.vhostuserSocket = vhostuserSocket
    self.linkState = linkState
    self.author = author
    self.time = time
  }

  public enum CodingKeys: String, CodingKey {
    case id
    case instanceID = "instance-id"
    case ipAddress = "ip-address"
    case ip6Address = "ip6-address"
    case vnID = "vn-id"
    case displayName = "display-name"
    case macAddress = "mac-address"
    case vmProjectID = "vm-project-id"
    case txVLANID = "tx-vlan-id"
    case rxVLANID = "rx-vlan-id"
    case type
    case systemName = "system-name"
    case vhostuserMode = "vhostuser-mode"
    case vhostuserSocket = "vhostuser-socket"
    case linkState = "link-state"
    case author, time
  }
}
