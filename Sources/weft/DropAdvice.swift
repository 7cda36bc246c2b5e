/// What to do about drops. Their meaning comes from the forwarder; this says whose matter they are.
enum DropAdvice {
  /// The node, its underlay or its configuration is to blame, not who sent the packet.
  static func isNodes(_ reason: String) -> Bool { advices[reason] != nil }

  static func advice(_ reason: String) -> String {
    advices[reason] ?? "weft capture --drops shows such packets"
  }

  private static let advices: [String: String] = [
    "receive_full": "more cores for weft-vrouter (--cores), or fewer others on them: weft worker, weft doctor",
    "replication_full": "a flood has too many members at this rate: weft top, weft bridge",
    "outer_checksum": "something on the way damages tunnel packets: look at the NIC's and switches' error counters",
    "unknown_vni":
      "a peer sends for a network that this node does not have: the same vni must stand in both agents' files",
    "unknown_label":
      "a peer sends for a network that this node does not have: the same label must stand in both agents' files",
    "no_vrf": "an entry leads to a VRF that is not there: weft-agent's log; restarting it replays everything",
    "nexthop_invalid": "an entry leads nowhere: weft nexthop; restarting weft-agent replays everything",
    "nexthop_unresolved": "a peer's next hop does not answer: see peers",
    "flow_table_full": "start weft-vrouter with a larger --max-flows; weft top shows who makes so many",
    "handover_full": "a worker does not keep up: weft worker; more cores for weft-vrouter",
    "handover_loop": "workers disagree on who has a flow: report it, with weft worker's output",
    "nat_exhausted": "give the NAT pool more addresses or ports: weft nat",
    "mtu_exceeded": "senders do not learn the MTU, or it is too large: weft doctor compares MTUs",
    "interface_gone": "an interface was removed under its port: see ports; weft vif shows which has no link",
    "transmit_full": "a receiver or the NIC does not keep up: weft vif, weft top",
    "transmit_failed": "the kernel refuses packets: weft capture --drops; is an interface down, or its MTU too small?",
  ]
}
