import WeftWire

/// Asks for an attachment of a container's interface to a network: the body of `POST /v1/attachments`. The same
/// container id and interface again is answered by the attachment that is there already.
public struct AttachmentRequest: Hashable, Sendable, Codable {
  /// The runtime's id of the container: `^[A-Za-z0-9][A-Za-z0-9_.-]*$` (CNI spec), at most 255 bytes.
  public var containerID: String
  /// The interface's name inside the container, at most 15 bytes.
  public var interface: String
  /// Absolute path of the container's network namespace. The forwarder opens it
  /// where the interface is a TAP interface, and the agent looks into it then.
  public var netns: String
  /// A network of the agent's configuration; nil: its default network.
  public var network: String?
  public var podName: String?
  public var podNamespace: String?
  public var podUID: String?
  /// Addresses the container must get, at most one of each subnet; nil or empty: the agent chooses, one of each subnet.
  public var addresses: [IPAddress]?
  /// It gets no other addresses than those asked for, which then are at least one: somebody else gives them out. Nil:
  /// false.
  public var addressesOnly: Bool?
  /// Nil: no limit.
  public var bandwidth: Bandwidth?
  /// The MAC address the container must get; nil: the agent chooses one.
  public var mac: MACAddress?

  public init(
    containerID: String, interface: String, netns: String, network: String? = nil, podName: String? = nil,
    podNamespace: String? = nil, podUID: String? = nil, addresses: [IPAddress]? = nil, addressesOnly: Bool? = nil,
    bandwidth: Bandwidth? = nil, mac: MACAddress? = nil
  ) {
    self.containerID = containerID
    self.interface = interface
    self.netns = netns
    self.network = network
    self.podName = podName
    self.podNamespace = podNamespace
    self.podUID = podUID
    self.addresses = addresses
    self.addressesOnly = addressesOnly
    self.bandwidth = bandwidth
    self.mac = mac
  }

  public enum CodingKeys: String, CodingKey, CaseIterable {
    case containerID = "container-id"
    case interface, netns, network
    case podName = "pod-name"
    case podNamespace = "pod-namespace"
    case podUID = "pod-uid"
    case addresses
    case addressesOnly = "addresses-only"
    case bandwidth, mac
  }
}

/// How far an attachment has come.
public enum AttachmentState: String, Hashable, Sendable, Codable, CaseIterable {
  /// Addresses are taken and remembered; the forwarder does not know it yet.
  case reserved
  /// It is to forward and waits for its interface or for the forwarder: `reason` says for what.
  case waiting
  /// The forwarder is being told of it.
  case programming
  /// The forwarder forwards for it (or will again as soon as it is back).
  case active
  /// It could not be put into the forwarder: `reason` says why. It is tried again every few seconds, or when asked.
  case failed
  /// It was told not to forward; it keeps its addresses.
  case disabled
  /// It is being taken out of the forwarder and forgotten.
  case deleting
}

/// An address of an attachment.
public struct AttachmentAddress: Hashable, Sendable, Codable {
  /// With the length of the subnet's prefix.
  public var address: InterfaceAddress
  /// The subnet's gateway: the forwarder answers for it.
  public var gateway: IPAddress

  public init(address: InterfaceAddress, gateway: IPAddress) {
    self.address = address
    self.gateway = gateway
  }
}

/// A route that the container needs.
public struct AttachmentRoute: Hashable, Sendable, Codable {
  public var destination: IPPrefix
  public var gateway: IPAddress

  public init(destination: IPPrefix, gateway: IPAddress) {
    self.destination = destination
    self.gateway = gateway
  }
}

/// What a container's interface that is a TAP interface is to be like.
public struct AttachmentTap: Hashable, Sendable, Codable {
  /// Queues that the forwarder will open: 0 is one for each of its workers. Unless it is 1 the interface has to allow
  /// several (IFF_MULTI_QUEUE).
  public var queues: Int

  public init(queues: Int) { self.queues = queues }
}

/// A container's interface in a network, as the agent answers it.
public struct Attachment: Hashable, Sendable, Codable {
  /// The virtual machine interface's (VMI) UUID, lower case.
  public var id: String
  public var containerID: String
  public var interface: String
  public var netns: String
  public var network: String
  /// The host's end: "weft" and the id's first 11 hexadecimal digits. The plugin makes it before it activates. A TAP
  /// interface has none: there it is what the forwarder calls the port, and the interface's alias.
  public var hostInterface: String
  /// The interface is a TAP interface in the container's namespace, which the forwarder opens; nil: an end of a veth.
  public var tap: AttachmentTap?
  /// The container's own MAC address.
  public var mac: MACAddress
  /// Bytes of IP packet that the container may send.
  public var mtu: Int
  public var addresses: [AttachmentAddress]
  public var routes: [AttachmentRoute]
  public var dns: [IPAddress]
  public var state: AttachmentState
  /// Why it is failed or waiting; nil otherwise.
  public var reason: String?
  /// When it came into its state: RFC 3339, UTC, seconds.
  public var since: String?
  public var podName: String?
  public var podNamespace: String?
  public var podUID: String?

  public init(
    id: String, containerID: String, interface: String, netns: String, network: String, hostInterface: String,
    mac: MACAddress, mtu: Int, addresses: [AttachmentAddress], routes: [AttachmentRoute], dns: [IPAddress],
    state: AttachmentState, reason: String? = nil, podName: String? = nil, podNamespace: String? = nil,
    podUID: String? = nil, tap: AttachmentTap? = nil, since: String? = nil
  ) {
    self.tap = tap
    self.since = since
    self.id = id
    self.containerID = containerID
    self.interface = interface
    self.netns = netns
    self.network = network
    self.hostInterface = hostInterface
    self.mac = mac
    self.mtu = mtu
    self.addresses = addresses
    self.routes = routes
    self.dns = dns
    self.state = state
    self.reason = reason
    self.podName = podName
    self.podNamespace = podNamespace
    self.podUID = podUID
  }

  public enum CodingKeys: String, CodingKey {
    case id
    case containerID = "container-id"
    case interface, netns, network
    case hostInterface = "host-interface"
    case tap, mac, mtu, addresses, routes, dns, state, reason, since
    case podName = "pod-name"
    case podNamespace = "pod-namespace"
    case podUID = "pod-uid"
  }
}
