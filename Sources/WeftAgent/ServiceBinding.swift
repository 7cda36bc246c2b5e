import WeftAPI
import WeftWire

/// What an interface with DHCP is told when it asks: of its attachment and of its network.
package struct ServiceBinding: Hashable, Sendable {
  /// The attachment's.
  package var id: String
  /// The interface's number in the forwarder.
  package var interface: UInt32
  package var mac: MACAddress
  /// A label.
  var hostName: String?
  var mtu: Int
  /// With the lengths of their subnets, and the gateways, which answer for the router.
  var addresses: [AttachmentAddress]
  var routes: [AttachmentRoute]
  var dns: [IPAddress]
  var settings: DHCPSettings

  /// The IPv4 address that it gets.
  var v4: AttachmentAddress? { addresses.first { $0.address.address.isV4 } }
  var v6: [AttachmentAddress] { addresses.filter { !$0.address.address.isV4 } }

  /// Where the router answers over IPv6, on every node (`NeighborDiscovery.routerLinkLocal`).
  static var routerLinkLocal: IPAddress { NeighborDiscovery.routerLinkLocal }
}

extension AgentConfiguration {
  /// An attachment's interface has DHCP.
  package func hasDHCP(_ record: AttachmentRecord) -> Bool {
    guard let settings = network(record.network)?.dhcp else { return false }
    switch record.origin {
    case .port: return settings.ports
    // A machine's, unless it is what the plugin makes.
    case .recovered:
      let isPods = record.tapQueues != nil || record.hostInterface.hasPrefix("weft")
      return isPods ? settings.pods : settings.ports
    case .cni, .pod: return settings.pods
    }
  }

  package func serviceBinding(
    _ record: AttachmentRecord, interface: UInt32, fabricMTU: Int, parentMTU: Int? = nil
  )
    -> ServiceBinding?
  {
    guard hasDHCP(record), let network = network(record.network) else { return nil }
    let attachment = attachment(record, fabricMTU: fabricMTU)
    return ServiceBinding(
      id: record.id, interface: interface, mac: record.mac,
      hostName: record.podName.flatMap { DomainName($0)?.labels.first }, mtu: min(attachment.mtu, parentMTU ?? .max),
      addresses: attachment.addresses, routes: attachment.routes, dns: attachment.dns, settings: network.dhcp)
  }
}

/// What became of a frame that was trapped.
package enum ServiceOutcome: Hashable, Sendable {
  /// `what`: for counters, such as "ack".
  case answer(HostFrame, what: String, note: String? = nil)
  /// Taken note of; `isOdd`: somebody should look at it.
  case noted(what: String, note: String, isOdd: Bool)
  /// Not answered: why.
  case refused(String)
}
