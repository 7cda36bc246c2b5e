import WeftRing
import WeftTables
import WeftWire

// Interfaces, VRFs and nexthops: what routes and bridge entries lead to.

extension TableProgrammer {
  // MARK: interfaces

  func set(_ new: InterfaceConfiguration) throws(Refusal) {
    try check(new)
    let old = interfaces[new.id]?.value
    if let old {
      guard old.configuration.device == new.device, old.configuration.port == new.port,
        old.configuration.role == new.role
      else {
        throw Refusal(
          .conflict,
          "interface \(new.id) is \(old.configuration.device) (\(old.configuration.role.name), "
            + "\(old.configuration.port.name)); remove it first")
      }
      if old.configuration == new, !ports.isStale(new) {
        interfaces.renew(new.id, generation: generation)
        return
      }
    } else if let owner = devices[new.device] {
      throw Refusal(.conflict, "\(new.device) is interface \(owner) already; remove that first")
    }
    let capabilities = try ports.open(new)
    let subject = subject(of: new)
    interfaces.set(
      new.id, Interface(configuration: new, capabilities: capabilities, subject: subject), generation: generation)
    devices[new.device] = new.id
    if new.role == .virtual, old?.configuration.vrf != new.vrf || old == nil {
      vrfs.use(new.vrf, 1)
      if let old { vrfs.use(old.configuration.vrf, -1) }
    }
    publish(new, capabilities)
    replaceSubject(old?.subject, by: subject, isNew: old == nil)
    for id in tunnels[new.id] ?? [] { if let tunnel = nexthops[id]?.value { publish(tunnel) } }
    ports.start(new.id)
  }

  private func check(_ new: InterfaceConfiguration) throws(Refusal) {
    try checkIndex(new.id, limits.interfaces, "interface")
    guard isDeviceName(new.device) else {
      throw Refusal(.outOfRange, "\"\(new.device)\" is no name of a device: 1 to 15 bytes, no '/', ':' or space")
    }
    guard !new.mac.isZero, !new.mac.isGroup else {
      throw Refusal(.outOfRange, "MAC address \(new.mac) of interface \(new.id) is not one device's")
    }
    guard new.mtu >= 68 else { throw Refusal(.outOfRange, "MTU \(new.mtu) is below IPv4's minimum of 68") }
    switch new.role {
    case .virtual:
      try requireVRF(new.vrf)
      guard new.addresses.isEmpty else {
        throw Refusal(.outOfRange, "a virtual interface has no underlay addresses; those belong to fabric interfaces")
      }
    case .fabric:
      guard new.vrf == 0 else { throw Refusal(.outOfRange, "a fabric interface has no VRF; it must be 0") }
      guard !new.addresses.contains(where: { $0.isMulticast || $0.isUnspecified }) else {
        throw Refusal(.outOfRange, "an underlay address of interface \(new.id) is multicast or unspecified")
      }
    }
    try checkTags(new)
    try check(new.flags, new.id)
  }

  /// A flag without effect would be worse than none: who asks for protection that is not there has to hear it.
  private func check(_ flags: InterfaceFlags, _ interface: UInt32) throws(Refusal) {
    let missing = flags.intersection([.antiSpoofing, .dropNewFlows, .learning])
    guard missing.isEmpty else {
      throw Refusal(
        .outOfRange,
        "interface \(interface): this forwarder does not do \(missing.names.joined(separator: ", ")); leave it out")
    }
    guard flags.isSuperset(of: .usual) else {
      throw Refusal(
        .outOfRange,
        "interface \(interface): this forwarder cannot do without \(InterfaceFlags.usual.subtracting(flags).names.joined(separator: ", "))"
      )
    }
  }

  /// What the kernel takes as a name, which is also safe as a file's.
  private func isDeviceName(_ name: String) -> Bool {
    (1...15).contains(name.utf8.count) && name != "." && name != ".."
      && name.utf8.allSatisfy { $0 > 0x20 && $0 < 0x7F && $0 != UInt8(ascii: "/") && $0 != UInt8(ascii: ":") }
  }

  /// The port's abilities have changed: the packet path is told.
  public func refresh(interface id: UInt32, _ capabilities: PortCapabilities) {
    guard var entry = interfaces[id] else { return }
    entry.value.capabilities = capabilities
    interfaces.set(id, entry.value, generation: entry.generation)
    publish(entry.value.configuration, capabilities)
  }

  /// Publishes an interface once more, after something that it goes by has changed.
  func republish(interface id: UInt32) {
    guard let entry = interfaces[id]?.value else { return }
    publish(entry.configuration, entry.capabilities)
  }

  private func publish(_ interface: InterfaceConfiguration, _ capabilities: PortCapabilities) {
    var entry = InterfaceEntry(
      isFabric: interface.role == .fabric, mtu: interface.mtu, vrf: interface.vrf, mac: interface.mac.bits,
      addresses: interface.addresses, takesUDPSegmentation: capabilities.takesUDPSegmentation,
      takesVirtio: capabilities.takesVirtio)
    if let subject = interfaces[interface.id]?.value.subject { entry.policyClass = subject }
    entry.clampsMSS = interface.flags.contains(.clampMSS)
    setMirrors(&entry, interface.id)
    setCaptures(&entry, interface.id)
    memory.publish(interface: interface.id, entry)
  }

  func remove(interface id: UInt32) throws(Refusal) {
    guard let entry = interfaces[id] else { throw Refusal(.notFound, "interface \(id) is not there") }
    guard entry.uses == 0 else { throw inUse("interface \(id) (\(entry.value.configuration.device))", entry.uses) }
    ports.close(id)
    memory.publish(interface: id, nil)
    replaceSubject(entry.value.subject, by: nil, isNew: true)
    if entry.value.configuration.role == .virtual { vrfs.use(entry.value.configuration.vrf, -1) }
    devices[entry.value.configuration.device] = nil
    interfaces.remove(id)
  }

  // MARK: VRFs

  func set(_ new: VRFConfiguration) throws(Refusal) {
    try checkIndex(new.id, limits.vrfs, "VRF")
    guard !new.name.isEmpty else { throw Refusal(.outOfRange, "VRF \(new.id) has no name") }
    if let owner = vrfNames[new.name], owner != new.id {
      throw Refusal(.conflict, "VRF \(owner) is named \"\(new.name)\" already")
    }
    if let old = vrfs[new.id]?.value {
      vrfNames[old.configuration.name] = nil
      vrfNames[new.name] = new.id
      vrfs.set(new.id, VRF(configuration: new, root4: old.root4, root6: old.root6), generation: generation)
      return
    }
    guard memory.routes.nodesFree >= 2, let root4 = memory.routes.makeRoot(), let root6 = memory.routes.makeRoot()
    else {
      throw Refusal(.tableFull, "no room for the routes of another VRF; start the forwarder with more route nodes")
    }
    memory.roots.set(Int(new.id) * 2, root4)
    memory.roots.set(Int(new.id) * 2 + 1, root6)
    vrfNames[new.name] = new.id
    vrfs.set(new.id, VRF(configuration: new, root4: root4, root6: root6), generation: generation)
  }

  func remove(vrf id: UInt32) throws(Refusal) {
    guard let entry = vrfs[id] else { throw Refusal(.notFound, "VRF \(id) is not there") }
    guard entry.uses == 0 else { throw inUse("VRF \(id) (\(entry.value.configuration.name))", entry.uses) }
    memory.roots.set(Int(id) * 2, 0)
    memory.roots.set(Int(id) * 2 + 1, 0)
    memory.routes.releaseRoot(entry.value.root4)
    memory.routes.releaseRoot(entry.value.root6)
    vrfNames[entry.value.configuration.name] = nil
    vrfs.remove(id)
  }

  // MARK: nexthops

  func set(_ new: NexthopConfiguration) throws(Refusal) {
    try checkIndex(new.id, limits.nexthops, "nexthop")
    try check(new)
    let old = nexthops[new.id]?.value
    if old == new {
      nexthops.renew(new.id, generation: generation)
      return
    }
    if old == nil, nexthops.count >= Int(limits.nexthops) {
      throw Refusal(.tableFull, "all \(limits.nexthops) nexthops are in use")
    }
    if let old { count(old, -1) }
    count(new, 1)
    nexthops.set(new.id, new, generation: generation)
    publish(new)
    if let old, (old.action == .receive) != (new.action == .receive) { noteGateways(of: new) }
  }

  private func check(_ new: NexthopConfiguration) throws(Refusal) {
    switch new.action {
    case .discard, .receive: break
    case .encap(let interface, let mac):
      try require(interface, .virtual, new.id)
      guard !mac.isZero, !mac.isGroup else {
        throw Refusal(.outOfRange, "nexthop \(new.id) sends to MAC address \(mac), which is not one device's")
      }
    case .tunnel(let tunnel):
      try require(tunnel.interface, .fabric, new.id)
      guard tunnel.source.isV4 == tunnel.destination.isV4 else {
        throw Refusal(.outOfRange, "nexthop \(new.id): source and destination of a tunnel are of two families")
      }
      for address in [tunnel.source, tunnel.destination] where address.isMulticast || address.isUnspecified {
        throw Refusal(.outOfRange, "nexthop \(new.id): a tunnel cannot end at \(address)")
      }
      guard !tunnel.destinationMAC.isGroup, !tunnel.innerDestinationMAC.isGroup else {
        throw Refusal(.outOfRange, "nexthop \(new.id): a MAC address of a tunnel is a group's")
      }
    case .vrfTranslate(let vrf): try requireVRF(vrf)
    case .ecmp(let members): try check(members, of: new.id)
    }
  }

  private func check(_ members: [NexthopMember], of id: UInt32) throws(Refusal) {
    guard (1...NexthopConfiguration.maximumMembers).contains(members.count) else {
      throw Refusal(
        .outOfRange,
        "nexthop \(id) has \(members.count) members, not 1 to \(NexthopConfiguration.maximumMembers)")
    }
    for member in members {
      guard member.weight > 0 else {
        throw Refusal(.outOfRange, "nexthop \(id): the weight of member \(member.nexthop) is 0; leave the member out")
      }
      let nexthop = try requireNexthop(member.nexthop)
      switch nexthop.action {
      case .encap, .tunnel: try checkLabel(member.label, nexthop)
      case .discard, .receive, .vrfTranslate, .ecmp:
        throw Refusal(
          .conflict, "nexthop \(id): member \(member.nexthop) is neither a tunnel nor an encap to a local interface")
      }
    }
    guard Set(members.map { Path(nexthop: $0.nexthop, label: $0.label) }).count == members.count else {
      throw Refusal(.conflict, "nexthop \(id) has a member twice; give one of them the weight of both")
    }
  }

  private func require(_ interface: UInt32, _ role: InterfaceRole, _ nexthop: UInt32) throws(Refusal) {
    guard let entry = interfaces[interface] else {
      throw Refusal(.notFound, "nexthop \(nexthop): interface \(interface) is not there; set it first")
    }
    guard entry.value.configuration.role == role else {
      throw Refusal(
        .conflict,
        "nexthop \(nexthop): interface \(interface) (\(entry.value.configuration.device)) is not \(role.name)")
    }
  }

  /// What the nexthop refers to has one use more or less.
  private func count(_ nexthop: NexthopConfiguration, _ change: Int) {
    switch nexthop.action {
    case .discard, .receive: break
    case .encap(let interface, _): interfaces.use(interface, change)
    case .tunnel(let tunnel):
      interfaces.use(tunnel.interface, change)
      if change > 0 {
        tunnels[tunnel.interface, default: []].insert(nexthop.id)
      } else {
        tunnels[tunnel.interface]?.remove(nexthop.id)
      }
    case .vrfTranslate(let vrf): vrfs.use(vrf, change)
    case .ecmp(let members): for member in members { nexthops.use(member.nexthop, change) }
    }
  }

  func publish(_ nexthop: NexthopConfiguration) {
    var entry: NexthopEntry
    switch nexthop.action {
    case .discard: entry = NexthopEntry(kind: .discard)
    case .receive: entry = NexthopEntry(kind: .receive)
    case .encap(let interface, let mac):
      entry = NexthopEntry(kind: .encap)
      entry.interface = interface
      entry.destinationMAC = mac.bits
      entry.mtu = interfaces[interface]?.value.configuration.mtu ?? 0
    case .tunnel(let tunnel):
      let fabric = interfaces[tunnel.interface]?.value.configuration
      entry = NexthopEntry(
        kind: kind(of: tunnel.encapsulation), interface: tunnel.interface,
        interfaceMAC: fabric?.mac.bits ?? 0, mtu: fabric?.mtu ?? 0, source: tunnel.source,
        destination: tunnel.destination, nextHopMAC: tunnel.destinationMAC.bits,
        innerDestinationMAC: tunnel.innerDestinationMAC.bits, fragments: tunnel.fragments)
    case .vrfTranslate(let vrf):
      entry = NexthopEntry(kind: .vrfTranslate)
      entry.vrf = vrf
    case .ecmp(let members):
      entry = NexthopEntry(kind: .ecmp)
      entry.members = MemberTable(
        members.map { .init(path: Path(nexthop: $0.nexthop, label: $0.label), weight: $0.weight) })
    }
    memory.publish(nexthop: nexthop.id, entry)
  }

  private func kind(of encapsulation: Encapsulation) -> NexthopKind {
    switch encapsulation {
    case .vxlan: .vxlan
    case .mplsOverUDP: .mplsOverUDP
    case .mplsOverGRE: .mplsOverGRE
    }
  }

  func remove(nexthop id: UInt32) throws(Refusal) {
    guard let entry = nexthops[id] else { throw Refusal(.notFound, "nexthop \(id) is not there") }
    guard entry.uses == 0 else { throw inUse("nexthop \(id)", entry.uses) }
    memory.publish(nexthop: id, nil)
    count(entry.value, -1)
    nexthops.remove(id)
  }
}
