/// Why a packet went no further. Declared here and nowhere else: the counters, `weft drops`, replay reports, metrics
/// and docs/drop-reasons.md are made from these cases and their comments.
///
/// `outer…` is about the packet that carries a tunnel, the others about a pod's own packet.
public enum DropReason: UInt8, CaseIterable, Sendable {
  // Before the packet path
  case receiveFull
  // Ethernet
  case shortFrame
  case vlanUnexpected
  case vlanUnknown
  case etherTypeUnknown
  case unknownMAC
  case multicast
  case floodEmpty
  case replicationFull
  // Flags of interfaces
  case spoofedMAC
  case spoofedAddress
  case bridgingOff
  case routingOff
  case monitoringPort
  // DHCP and router discovery
  case rogueDHCP
  case rogueRouter
  case trapUnfit
  case trapNobody
  case trapRate
  case trapFull
  // IP
  case ipv4Short
  case ipv4Header
  case ipv4Length
  case ipv4Checksum
  case ipv6Short
  case ipv6Header
  case ipv6Length
  case ipv6Extension
  case sourceInvalid
  case destinationInvalid
  case linkLocalRouted
  case ttlExceeded
  // Transport
  case transportShort
  case transportHeader
  // ARP and neighbour discovery
  case arpMalformed
  case arpUnknown
  case ndMalformed
  case ndUnknown
  // Tunnels, on the way in
  case notTunnel
  case outerShort
  case outerHeader
  case outerChecksum
  case outerNotOurs
  case outerFragment
  case outerUDPLength
  case vxlanShort
  case vxlanFlags
  case unknownVNI
  case mplsShort
  case mplsStack
  case unknownLabel
  case ecnInvalid
  // Lookups
  case noRoute
  case noVRF
  case discardNexthop
  case nexthopInvalid
  case nexthopUnresolved
  case noService
  case hairpin
  // Flows and policy
  case policyDenied
  case policyRejected
  case tcpFlags
  case tcpState
  case flowTableFull
  case newFlow
  // Between workers
  case handoverFull
  case handoverLoop
  // Address translation
  case natExhausted
  case natUntranslatable
  case serviceNoBackend
  // Quality of service
  case policed
  // On the way out
  case mtuExceeded
  case gsoMalformed
  case interfaceGone
  case transmitFull
  case transmitFailed

  /// The name that people see: lower case with underscores.
  public var name: String { Self.table[Int(rawValue)].name }
  /// One line for people.
  public var explanation: String { Self.table[Int(rawValue)].text }

  private static let table: [(name: String, text: String)] = Self.allCases.map { reason in
    switch reason {
    case .receiveFull: ("receive_full", "the forwarder did not keep up and the kernel had no more room for the packet")
    case .shortFrame: ("short_frame", "the frame is shorter than an Ethernet header")
    case .vlanUnexpected: ("vlan_unexpected", "an 802.1Q tag on an interface that takes none")
    case .vlanUnknown: ("vlan_unknown", "an 802.1Q or 802.1ad tag that no interface of the port has")
    case .etherTypeUnknown: ("ethertype_unknown", "neither IPv4, IPv6 nor ARP")
    case .unknownMAC: ("unknown_mac", "the destination MAC is neither the router's nor in the bridge table")
    case .multicast: ("multicast", "broadcast or multicast, for which the VRF has no multicast nexthop")
    case .floodEmpty: ("flood_empty", "broadcast, multicast or unknown unicast that nobody else is to get")
    case .replicationFull: ("replication_full", "its copies are too many to be made: none was (each is counted)")
    case .spoofedMAC: ("spoofed_mac", "a source MAC address that is not the interface's (anti-spoofing)")
    case .spoofedAddress: ("spoofed_address", "a source address that is not routed to the interface (anti-spoofing)")
    case .bridgingOff: ("bridging_off", "to another MAC address than the router's, from or to what does not bridge")
    case .routingOff: ("routing_off", "to the router, from or to what does not route")
    case .monitoringPort:
      ("monitoring_port", "it came in by a monitoring interface, out of which copies go and no more")
    case .rogueDHCP:
      ("rogue_dhcp", "what a DHCP server says, from an interface whose DHCP is the agent's (flag dhcp)")
    case .rogueRouter:
      ("rogue_router", "a router advertisement from an interface whose router is the forwarder (flag dhcp)")
    case .trapUnfit: ("trap_unfit", "for the agent, but in fragments or of more than 2000 bytes")
    case .trapNobody: ("trap_nobody", "for the agent, which is not connected: it is asked again later")
    case .trapRate: ("trap_rate", "for the agent, which gets no more frames of one interface in a second")
    case .trapFull: ("trap_full", "for the agent, which did not keep up: there was no more room for the frame")
    case .ipv4Short: ("ipv4_short", "the frame ends inside the IPv4 header")
    case .ipv4Header: ("ipv4_header", "the IPv4 version or header length is wrong")
    case .ipv4Length: ("ipv4_length", "the IPv4 total length is below the header or beyond the frame")
    case .ipv4Checksum: ("ipv4_checksum", "the IPv4 header checksum is wrong")
    case .ipv6Short: ("ipv6_short", "the frame ends inside the IPv6 header")
    case .ipv6Header: ("ipv6_header", "the IPv6 version is wrong")
    case .ipv6Length: ("ipv6_length", "the IPv6 payload length is beyond the frame")
    case .ipv6Extension: ("ipv6_extension", "an IPv6 extension header is cut, or there are too many")
    case .sourceInvalid: ("source_invalid", "the source address is multicast, loopback, unspecified or reserved")
    case .destinationInvalid: ("destination_invalid", "the destination address is loopback, unspecified or reserved")
    case .linkLocalRouted: ("link_local_routed", "from or to an IPv6 link-local address, which no router passes on")
    case .ttlExceeded: ("ttl_exceeded", "the TTL or hop limit ran out")
    case .transportShort: ("transport_short", "the packet ends inside the TCP, UDP or ICMP header")
    case .transportHeader: ("transport_header", "the TCP data offset or the UDP length is wrong")
    case .arpMalformed: ("arp_malformed", "an ARP packet that is cut or not IPv4 over Ethernet")
    case .arpUnknown: ("arp_unknown", "an ARP request for an address that has no route, or a reply nobody asked for")
    case .ndMalformed: ("nd_malformed", "a neighbour discovery packet that is cut or fails RFC 4861's checks")
    case .ndUnknown: ("nd_unknown", "a neighbour solicitation for an address that has no route")
    case .notTunnel: ("not_tunnel", "a packet from the fabric that carries no tunnel: the host's, not ours")
    case .outerShort: ("outer_short", "the frame ends inside the headers that carry a tunnel")
    case .outerHeader: ("outer_header", "a header that carries a tunnel is wrong")
    case .outerChecksum: ("outer_checksum", "the outer IPv4 or UDP checksum is wrong")
    case .outerNotOurs: ("outer_not_ours", "a tunnel packet for an address or MAC that is not ours")
    case .outerFragment: ("outer_fragment", "a fragment of a tunnel packet")
    case .outerUDPLength: ("outer_udp_length", "the outer UDP length is wrong")
    case .vxlanShort: ("vxlan_short", "the packet ends inside the VXLAN header")
    case .vxlanFlags: ("vxlan_flags", "the VXLAN header's I flag is not set")
    case .unknownVNI: ("unknown_vni", "a VNI that does not end here")
    case .mplsShort: ("mpls_short", "the packet ends inside the MPLS label stack")
    case .mplsStack: ("mpls_stack", "more than one MPLS label")
    case .unknownLabel: ("unknown_label", "an MPLS label that does not end here")
    case .ecnInvalid: ("ecn_invalid", "congestion marked outside on a packet that knows no ECN (RFC 6040)")
    case .noRoute: ("no_route", "the VRF has no route to the destination")
    case .noVRF: ("no_vrf", "the interface, VNI or label leads to a VRF that is not there")
    case .discardNexthop: ("discard_nexthop", "the route says to discard")
    case .nexthopInvalid: ("nexthop_invalid", "a nexthop that cannot be used from here, or loops")
    case .nexthopUnresolved: ("nexthop_unresolved", "the underlay neighbour's MAC is not known yet")
    case .noService: ("no_service", "for the router itself, which does not serve it")
    case .hairpin: ("hairpin", "a packet that would go back into the fabric, or bridged to where it came from")
    case .policyDenied: ("policy_denied", "a policy rule, or none, does not let the flow pass")
    case .policyRejected: ("policy_rejected", "a policy rule does not let the flow pass and has its sender told")
    case .tcpFlags: ("tcp_flags", "a first packet with flags that no TCP sends, such as SYN and FIN")
    case .tcpState:
      (
        "tcp_state",
        "a TCP segment of a connection that was not opened, or that does not fit its state (flow-settings)"
      )
    case .flowTableFull: ("flow_table_full", "a flow that needs an entry, to be translated, found no place")
    case .newFlow: ("new_flow", "a new flow from or to an interface that takes none (drop-new-flows)")
    case .handoverFull:
      ("handover_full", "the worker that owns the packet's flow did not keep up: the ring to it had no more room")
    case .handoverLoop: ("handover_loop", "workers handed the packet to each other too often")
    case .natExhausted: ("nat_exhausted", "the NAT pool has no port left for a new flow")
    case .natUntranslatable:
      (
        "nat_untranslatable",
        "its addresses should be translated but cannot be: a fragment whose first one was not seen"
      )
    case .serviceNoBackend: ("service_no_backend", "the service has no backend that takes new flows")
    case .policed: ("policed", "it violates the rate of a policer: an interface's or a rule's")
    case .mtuExceeded: ("mtu_exceeded", "the packet does not fit the MTU of where it goes")
    case .gsoMalformed: ("gso_malformed", "the segmentation or checksum request does not fit the packet")
    case .interfaceGone: ("interface_gone", "the interface it should leave by is not there")
    case .transmitFull: ("transmit_full", "the kernel took no more packets of the interface")
    case .transmitFailed: ("transmit_failed", "the kernel refused the packet")
    }
  }
}
