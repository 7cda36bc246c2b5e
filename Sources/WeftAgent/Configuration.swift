import WeftRing
import WeftWire

/// What an agent is told by its file: the node, its networks, and the peers that carry the same networks elsewhere.
public struct AgentConfiguration: Hashable, Sendable {
  public static let defaultForwarderSocket = "/run/weft/forwarder.sock"
  public static let defaultDatabase = "/var/lib/weft/agent.db"

  /// The node's name, for people.
  public var node: String
  public var fabric: Fabric
  /// Path of the forwarder's Unix socket.
  public var forwarderSocket: String
  /// Path of the SQLite file.
  public var database: String
  public var listen: ListenAddress
  /// The network of who names none.
  public var defaultNetwork: String
  public var networks: [VirtualNetwork]
  public var peers: [Peer]
  /// The host ends of pods' interfaces.
  public var pods = PortSettings()
  /// How long `POST /syncports` waits before ports that were not posted again are deleted; nil: they never are.
  public var stalePortTime: Duration? = .seconds(60)
  /// Where a new database finds what is on the node.
  public var recovery = RecoverySettings()
  public var api = APISettings()
  /// The ports of virtual machines.
  public var machines = MachineSettings()

  public func network(_ name: String) -> VirtualNetwork? { networks.first { $0.name == name } }
}

/// Folders that a new database is filled from.
public struct RecoverySettings: Hashable, Sendable {
  /// The CNI plugin's config-dir.
  public var plugin = "/var/lib/contrail/ports/vm"
  /// Where Tungsten Fabric's port-control script keeps virtual machines' ports.
  public var ports = "/var/lib/contrail/ports"
}

/// The kernel's interface towards the underlay, where tunnels begin and end.
public struct Fabric: Hashable, Sendable {
  public var interface: String
  /// Nil: the interface's own global addresses.
  public var addresses: [IPAddress]?
  /// Bytes of IP packet; nil: the interface's own. Never more than that.
  public var mtu: Int?
  public var port = PortSettings()
}

/// Where the HTTP API listens.
public struct ListenAddress: Hashable, Sendable, CustomStringConvertible {
  public static let standard = ListenAddress(host: "127.0.0.1", port: 9091)

  public var host: String
  /// 0: any free port.
  public var port: Int

  public init(host: String, port: Int) {
    self.host = host
    self.port = port
  }

  /// Reads "127.0.0.1:9091", "[::1]:9091" or "localhost:9091".
  public init?(_ text: String) {
    guard let colon = text.lastIndex(of: ":"), let port = Int(text[text.index(after: colon)...]),
      (0...65535).contains(port)
    else { return nil }
    var host = String(text[..<colon])
    if host.hasPrefix("[") && host.hasSuffix("]") {
      host = String(host.dropFirst().dropLast())
      guard let address = IPAddress(host), !address.isV4 else { return nil }
    } else if host.contains(":") {
      return nil
    }
    guard !host.isEmpty, host.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7F && $0 != UInt8(ascii: "/") }) else { return nil }
    self.init(host: host, port: port)
  }

  /// Only processes of this machine (and network namespace) reach it.
  public var isLoopback: Bool {
    if host == "localhost" { return true }
    guard let address = IPAddress(host) else { return false }
    return address.isV4 ? address.v4 >> 24 == 127 : address.high == 0 && address.low == 1
  }

  public var description: String { host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)" }
}

/// A virtual network: a VRF in the forwarder, a VNI or label on the wire.
public struct VirtualNetwork: Hashable, Sendable {
  public var name: String
  public var subnets: [Subnet]
  public var encapsulation: Encapsulation
  /// The VNI or the label, as the encapsulation has it.
  public var identifier: UInt32
  /// Name servers that its members are told.
  public var dns: [IPAddress]
  /// Bytes of IP packet; nil: what fits through the fabric. Never more than that.
  public var mtu: Int?
  /// Routes that its members are told; nil: a default route through each subnet's gateway.
  public var routes: [NetworkRoute]?
  /// Nil: the host has no interface in it.
  public var host: HostGateway?
  /// Nil: none.
  public var services: NetworkServices?
  /// What they are told by DHCP and router advertisements.
  public var dhcp = DHCPSettings()

  /// The subnet that holds an address.
  public func subnet(of address: IPAddress) -> Subnet? { subnets.first { $0.prefix.contains(address) } }
}

public struct Subnet: Hashable, Sendable {
  public var prefix: IPPrefix
  /// The addresses that this node gives out by itself.
  public var range: AddressRange
  /// The forwarder answers for it.
  public var gateway: IPAddress
}

/// A route that a network's members are told.
public struct NetworkRoute: Hashable, Sendable {
  public var destination: IPPrefix
  public var gateway: IPAddress
}

/// Another node: a tunnel's far end.
public struct Peer: Hashable, Sendable {
  public var name: String
  /// In the underlay.
  public var address: IPAddress
  public var networks: [PeerNetwork]
}

/// What of a network is behind a peer.
public struct PeerNetwork: Hashable, Sendable {
  /// A network of the configuration.
  public var name: String
  public var subnets: [IPPrefix]
  /// Blocks of single pods, /32 and /128 as a rule. They are treated as `subnets` are.
  public var pods: [IPPrefix]
  /// VXLAN: the Ethernet destination of routed packets.
  public var routerMAC: MACAddress
  /// VXLAN: MAC addresses of the network's bridge that are behind the peer.
  public var macs: [MACAddress]

  public var prefixes: [IPPrefix] { subnets + pods }
}

extension AgentConfiguration {
  /// Bytes that the tunnel puts in front of an inner IP packet.
  static func overhead(_ encapsulation: Encapsulation, underlayIsV4: Bool) -> Int {
    // Outer IP, UDP or GRE, then VXLAN and inner Ethernet or one label: as NexthopEntry counts them.
    (underlayIsV4 ? 20 : 40) + (encapsulation == .mplsOverGRE ? 4 : 8) + (encapsulation == .vxlan ? 8 + 14 : 4)
  }

  /// The peers that carry a network.
  public func peers(of network: String) -> [Peer] { peers.filter { $0.networks.contains { $0.name == network } } }

  /// Bytes of IP packet that a member of a network may send: what fits through its widest tunnel over a fabric of
  /// `fabricMTU`, and no more than was configured.
  public func mtu(of network: VirtualNetwork, fabricMTU: Int) -> Int {
    let hasV6Peer = peers(of: network.name).contains { !$0.address.isV4 }
    let fabric = min(fabricMTU, self.fabric.mtu ?? fabricMTU)
    let fits = fabric - Self.overhead(network.encapsulation, underlayIsV4: !hasV6Peer)
    return max(68, min(network.mtu ?? fits, fits, 65535))
  }

  /// What this node does not give out of a network though it lies in a subnet: what is behind peers. A peer's prefix
  /// that holds a whole subnet is an aggregate and takes nothing away.
  func addressesElsewhere(_ network: VirtualNetwork, _ subnet: Subnet) -> [IPPrefix] {
    peers.flatMap(\.networks).filter { $0.name == network.name }.flatMap(\.prefixes)
      .filter { subnet.prefix.contains($0) && $0 != subnet.prefix }
  }
}
