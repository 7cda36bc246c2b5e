import WeftWire

// How the model's entries lie in a slot. Writer and reader of each stand together.

private let deviceBytes = 15
private let nameBytes = 63

extension SlotWriter {
  mutating func put(_ entry: InterfaceConfiguration) {
    put(entry.id)
    put(entry.role.rawValue)
    put(entry.port.rawValue)
    put(entry.mtu)
    put(entry.vrf)
    put(entry.mac)
    put(entry.device, maximum: deviceBytes)
    let addresses = entry.addresses.prefix(InterfaceConfiguration.maximumAddresses)
    put(UInt8(addresses.count))
    for address in addresses { put(address) }
    put(entry.flags.rawValue)
    let tags = entry.tags.prefix(InterfaceConfiguration.maximumTags)
    put(UInt8(tags.count))
    for tag in tags { put(tag) }
    put(entry.vlan)
    put(entry.macLimit)
    put(entry.fatFlows)
    put(entry.qos)
    put(entry.xdp)
    // The two are large, and no interface has both.
    if entry.port == .vhostUser { put(entry.vhost) } else { put(entry.tap) }
  }

  mutating func put(_ entry: VRFConfiguration) {
    put(entry.id)
    put(entry.name, maximum: nameBytes)
    put(entry.flags.rawValue)
    put(entry.learning)
  }

  mutating func put(_ entry: NexthopConfiguration) {
    put(entry.id)
    switch entry.action {
    case .discard: put(UInt8(1))
    case .receive: put(UInt8(2))
    case .encap(let interface, let mac):
      put(UInt8(3))
      put(interface)
      put(mac)
    case .tunnel(let tunnel):
      put(UInt8(4))
      put(tunnel.encapsulation.rawValue)
      put(tunnel.interface)
      put(tunnel.source)
      put(tunnel.destination)
      put(tunnel.destinationMAC)
      put(tunnel.innerDestinationMAC)
      put(UInt8(tunnel.fragments ? 1 : 0))
      putOptional(tunnel.outerDSCP)
    case .vrfTranslate(let vrf):
      put(UInt8(5))
      put(vrf)
    case .ecmp(let members):
      put(UInt8(6))
      let kept = members.prefix(NexthopConfiguration.maximumMembers)
      put(UInt8(kept.count))
      for member in kept {
        put(member.nexthop)
        put(member.label)
        put(member.weight)
      }
    case .receiveAt(let interface):
      put(UInt8(7))
      put(interface)
    case .multicast(let members):
      put(UInt8(8))
      put(members)
    case .resolve(let interface):
      put(UInt8(9))
      put(interface)
    case .l2Receive(let vrf):
      put(UInt8(10))
      put(vrf)
    case .l3Receive(let vrf):
      put(UInt8(11))
      put(vrf)
    }
  }

  mutating func put(_ entry: LabelConfiguration) {
    put(entry.label)
    put(entry.nexthop)
  }

  mutating func put(_ entry: VNIConfiguration) {
    put(entry.vni)
    put(entry.nexthop)
  }

  mutating func put(_ entry: RouteConfiguration) {
    put(entry.vrf)
    put(entry.prefix)
    put(entry.nexthop)
    put(entry.label)
  }

  mutating func put(_ entry: BridgeConfiguration) {
    put(entry.vrf)
    put(entry.mac)
    put(entry.nexthop)
    put(entry.label)
  }

  mutating func put(_ flow: FlowRecord) {
    put(flow.worker)
    put(flow.vrf)
    put(flow.source)
    put(flow.destination)
    put(flow.proto)
    put(flow.sourcePort)
    put(flow.destinationPort)
    put(UInt8(flow.isForward ? 1 : 0))
    put(flow.nexthop)
    put(flow.packets)
    put(flow.bytes)
    put(flow.ageMilliseconds)
    put(flow.idleMilliseconds)
  }
}

extension SlotReader {
  mutating func interface() throws(SlotFault) -> InterfaceConfiguration {
    let id: UInt32 = try get("interface id")
    let role: InterfaceRole = try option("interface role")
    let port: PortKind = try option("port kind")
    let mtu: UInt16 = try get("mtu")
    let vrf: UInt32 = try get("vrf")
    let mac = try mac("mac")
    let device = try text("device", maximum: deviceBytes)
    let count = Int(try get("address count", as: UInt8.self))
    guard count <= InterfaceConfiguration.maximumAddresses else { throw SlotFault(what: "address count") }
    var addresses: [IPAddress] = []
    for _ in 0..<count { addresses.append(try address("address")) }
    let flags = InterfaceFlags(rawValue: try get("interface flags"))
    guard flags.isSubset(of: .all) else { throw SlotFault(what: "interface flags") }
    let tagCount = Int(try get("tag count", as: UInt8.self))
    guard tagCount <= InterfaceConfiguration.maximumTags else { throw SlotFault(what: "tag count") }
    var tags: [UInt32] = []
    for _ in 0..<tagCount { tags.append(try get("tag")) }
    let vlan = try vlan()
    var interface = InterfaceConfiguration(
      id: id, role: role, port: port, device: device, mac: mac, vrf: vrf, mtu: mtu, addresses: addresses,
      flags: flags, tags: tags, vlan: vlan, macLimit: try get("mac limit"))
    interface.fatFlows = try fatFlows()
    interface.qos = try interfaceQoS()
    interface.xdp = try xdp()
    if port == .vhostUser { interface.vhost = try vhost() } else { interface.tap = try tap() }
    return interface
  }

  mutating func vrf() throws(SlotFault) -> VRFConfiguration {
    let id: UInt32 = try get("vrf id")
    let name = try text("vrf name", maximum: nameBytes)
    let flags = VRFFlags(rawValue: try get("vrf flags"))
    guard flags.isSubset(of: .all) else { throw SlotFault(what: "vrf flags") }
    return VRFConfiguration(id: id, name: name, flags: flags, learning: try learning())
  }

  mutating func nexthop() throws(SlotFault) -> NexthopConfiguration {
    let id: UInt32 = try get("nexthop id")
    switch try get("nexthop action", as: UInt8.self) {
    case 1: return NexthopConfiguration(id: id, action: .discard)
    case 2: return NexthopConfiguration(id: id, action: .receive)
    case 3:
      return NexthopConfiguration(
        id: id, action: .encap(interface: try get("interface"), destinationMAC: try mac("destination mac")))
    case 4:
      var tunnel = TunnelConfiguration(
        encapsulation: try option("encapsulation"), interface: try get("interface"), source: try address("source"),
        destination: try address("destination"), destinationMAC: try mac("destination mac"),
        innerDestinationMAC: try mac("inner destination mac"), fragments: try flag("fragments"))
      tunnel.outerDSCP = try optional("outer dscp")
      return NexthopConfiguration(id: id, action: .tunnel(tunnel))
    case 5: return NexthopConfiguration(id: id, action: .vrfTranslate(vrf: try get("vrf")))
    case 6:
      let count = Int(try get("member count", as: UInt8.self))
      guard count <= NexthopConfiguration.maximumMembers else { throw SlotFault(what: "member count") }
      var members: [NexthopMember] = []
      for _ in 0..<count {
        members.append(
          NexthopMember(
            nexthop: try get("member nexthop"), label: try get("member label"), weight: try get("member weight")))
      }
      return NexthopConfiguration(id: id, action: .ecmp(members))
    case 7: return NexthopConfiguration(id: id, action: .receiveAt(interface: try get("interface")))
    case 8: return NexthopConfiguration(id: id, action: .multicast(try multicastMembers()))
    case 9: return NexthopConfiguration(id: id, action: .resolve(interface: try get("interface")))
    case 10: return NexthopConfiguration(id: id, action: .l2Receive(vrf: try get("vrf")))
    case 11: return NexthopConfiguration(id: id, action: .l3Receive(vrf: try get("vrf")))
    default: throw SlotFault(what: "nexthop action")
    }
  }

  mutating func label() throws(SlotFault) -> LabelConfiguration {
    LabelConfiguration(label: try get("label"), nexthop: try get("nexthop"))
  }

  mutating func vni() throws(SlotFault) -> VNIConfiguration {
    VNIConfiguration(vni: try get("vni"), nexthop: try get("nexthop"))
  }

  mutating func route() throws(SlotFault) -> RouteConfiguration {
    RouteConfiguration(
      vrf: try get("vrf"), prefix: try prefix("prefix"), nexthop: try get("nexthop"), label: try get("label"))
  }

  mutating func bridge() throws(SlotFault) -> BridgeConfiguration {
    BridgeConfiguration(vrf: try get("vrf"), mac: try mac("mac"), nexthop: try get("nexthop"), label: try get("label"))
  }

  mutating func flow() throws(SlotFault) -> FlowRecord {
    FlowRecord(
      worker: try get("worker"), vrf: try get("vrf"), source: try address("source"),
      destination: try address("destination"), proto: try get("protocol"), sourcePort: try get("source port"),
      destinationPort: try get("destination port"), isForward: try flag("direction"), nexthop: try get("nexthop"),
      packets: try get("packets"), bytes: try get("bytes"), ageMilliseconds: try get("age"),
      idleMilliseconds: try get("idle"))
  }
}
