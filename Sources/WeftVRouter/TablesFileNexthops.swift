import WeftRing
import WeftWire

// Nexthops in TABLES.json.

extension TablesFileBuilder {
  enum ActionName: String, CaseIterable {
    case discard
    case receive
    case encap
    case tunnel
    case vrfTranslate = "vrf-translate"
    case ecmp
    case multicast
    case resolve
    case l2Receive = "l2-receive"
    case l3Receive = "l3-receive"

    /// The keys that a nexthop of this action has beside `id` and `action`.
    var keys: [String] {
      switch self {
      case .discard: []
      case .receive, .resolve: ["interface"]
      case .encap: ["interface", "destination-mac"]
      case .tunnel:
        [
          "encapsulation", "interface", "source", "destination", "destination-mac", "inner-destination-mac", "fragment",
          "outer-dscp",
        ]
      case .vrfTranslate, .l2Receive, .l3Receive: ["vrf"]
      case .ecmp, .multicast: ["members"]
      }
    }
  }

  mutating func readNexthop(_ node: TablesFileNode, _ paths: inout [UInt32: String]) throws(TablesFileError) {
    let common = ["id", "action"]
    let all = common + ActionName.tunnel.keys + ActionName.vrfTranslate.keys + ActionName.ecmp.keys
    let object = try node.object(keys: all)
    let idNode = try object.required("id")
    let id = try index(idNode, limit: limits.nexthops, "nexthops")
    try claim(id, in: &paths, node.path, at: idNode, "nexthop \(id)")
    let name: ActionName = try object.required("action").choice { $0.rawValue }
    let keys = (common + name.keys).joined(separator: ", ")
    try object.refuse(
      all.filter { !common.contains($0) && !name.keys.contains($0) },
      "the action \(name.rawValue) has no such key; its keys are \(keys)")
    let action: NexthopConfiguration.Action =
      switch name {
      case .discard: .discard
      case .receive:
        if let node = object.optional("interface") {
          .receiveAt(interface: try interface(node, "host") { $0 == .host })
        } else {
          .receive
        }
      case .resolve: .resolve(interface: try interface(object.required("interface"), "virtual or host") { $0.isLocal })
      case .l2Receive: .l2Receive(vrf: try vrf(object.required("vrf")))
      case .l3Receive: .l3Receive(vrf: try vrf(object.required("vrf")))
      case .multicast: .multicast(try replicas(object))
      case .encap:
        .encap(
          interface: try interface(object.required("interface"), "virtual") { $0.isLocal },
          destinationMAC: try object.required("destination-mac").stationMAC())
      case .tunnel: .tunnel(try tunnel(object))
      case .vrfTranslate: .vrfTranslate(vrf: try vrf(object.required("vrf")))
      case .ecmp: .ecmp(try members(object))
      }
    nexthops[id] = action
    add(.setNexthop(NexthopConfiguration(id: id, action: action)), node)
  }

  /// Each after those that can be its members, wherever they stand: ECMP nexthops before multicast ones, and these after
  /// those in them. What is a member of itself comes last, and is refused there.
  static func inOrder(_ nodes: [TablesFileNode]) -> [TablesFileNode] {
    let first = nodes.filter { isPlain($0) }
    let ecmp = nodes.filter { $0.text(at: "action") == ActionName.ecmp.rawValue }
    var left = nodes.filter { $0.text(at: "action") == ActionName.multicast.rawValue }
    var waiting = Set(left.compactMap { $0.number(at: "id") })
    var sorted: [TablesFileNode] = []
    while true {
      let ready = left.filter { waiting.isDisjoint(with: $0.numbers(at: "members", "nexthop")) }
      guard !ready.isEmpty else { break }
      left.removeAll { waiting.isDisjoint(with: $0.numbers(at: "members", "nexthop")) }
      waiting.subtract(ready.compactMap { $0.number(at: "id") })
      sorted += ready
    }
    return first + ecmp + sorted + left
  }

  private static func isPlain(_ node: TablesFileNode) -> Bool {
    let action = node.text(at: "action")
    return action != ActionName.ecmp.rawValue && action != ActionName.multicast.rawValue
  }

  /// Members of an ECMP nexthop, which are read before it.
  private func members(_ object: TablesFileObject) throws(TablesFileError) -> [NexthopMember] {
    let list = try object.required("members")
    var members: [NexthopMember] = []
    var taken: [[UInt32]: String] = [:]
    for node in try list.array() {
      let entry = try node.object(keys: ["nexthop", "label", "weight"])
      let idNode = try entry.required("nexthop")
      let id = try nexthop(idNode)
      switch nexthops[id] {
      case .encap, .tunnel: break
      default: throw idNode.fail("nexthop \(id) is neither a tunnel nor an encap; a member is one of these")
      }
      var member = NexthopMember(nexthop: id, label: try label(entry, id))
      if let weight = entry.optional("weight") { member.weight = UInt16(try weight.integer(1...65535)) }
      try claim([id, member.label], in: &taken, node.path, at: idNode, "nexthop \(id) with label \(member.label)")
      members.append(member)
    }
    guard (1...NexthopConfiguration.maximumMembers).contains(members.count) else {
      throw list.fail("an ECMP nexthop has 1 to \(NexthopConfiguration.maximumMembers) members")
    }
    return members
  }

  private func tunnel(_ object: TablesFileObject) throws(TablesFileError) -> TunnelConfiguration {
    let encapsulation: Encapsulation = try object.required("encapsulation").choice { $0.name }
    let interface = try interface(object.required("interface"), "fabric") { $0 == .fabric }
    let source = try object.required("source").hostAddress()
    let destinationNode = try object.required("destination")
    let destination = try destinationNode.hostAddress()
    guard source.isV4 == destination.isV4 else {
      throw destinationNode.fail("\(destination) and the source \(source) are not of one family")
    }
    var tunnel = TunnelConfiguration(
      encapsulation: encapsulation, interface: interface, source: source, destination: destination,
      destinationMAC: try object.optional("destination-mac")?.stationMAC() ?? .zero)
    if let inner = object.optional("inner-destination-mac") {
      guard encapsulation == .vxlan else {
        throw inner.fail("\(encapsulation.name) carries no Ethernet header; remove the key")
      }
      tunnel.innerDestinationMAC = try inner.stationMAC()
    }
    if let fragment = object.optional("fragment") { tunnel.fragments = try fragment.flag() }
    if let dscp = object.optional("outer-dscp") { tunnel.outerDSCP = UInt8(try dscp.integer(0...63)) }
    return tunnel
  }

  /// Members of a multicast nexthop, which are read before it.
  private func replicas(_ object: TablesFileObject) throws(TablesFileError) -> [MulticastMember] {
    let list = try object.required("members")
    var members: [MulticastMember] = []
    var taken: [[UInt32]: String] = [:]
    for node in try list.array() {
      let entry = try node.object(keys: ["nexthop", "label", "group"])
      let idNode = try entry.required("nexthop")
      let id = try nexthop(idNode)
      var member = MulticastMember(nexthop: id)
      switch nexthops[id] {
      case .encap, .multicast:
        try entry.refuse(["group"], "nexthop \(id) is not a tunnel; only a tunnel has a split-horizon group")
        member.label = try label(entry, id)
      case .tunnel:
        member.label = try label(entry, id)
        if let group = entry.optional("group") { member.group = UInt16(try group.integer(0...65535)) }
      default: throw idNode.fail("nexthop \(id) is no encap, tunnel or multicast nexthop; a member is one of these")
      }
      try claim([id, member.label], in: &taken, node.path, at: idNode, "nexthop \(id) with label \(member.label)")
      members.append(member)
    }
    guard members.count <= NexthopConfiguration.maximumMembers else {
      throw list.fail(
        "a multicast nexthop has up to \(NexthopConfiguration.maximumMembers) members, some of which may be multicast")
    }
    return members
  }
}
