import WeftRing
import WeftTables
import WeftWire

// Interfaces and VRFs.

extension TableProgrammer {
  // MARK: interfaces

  func set(_ new: InterfaceConfiguration) throws(Refusal) {
    try check(new)
    let old = interfaces[new.id]?.value
    if let old {
      guard old.configuration.device == new.device, old.configuration.port == new.port,
        old.configuration.role == new.role, old.configuration.vlan?.parent == new.vlan?.parent
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
      new.id,
      Interface(
        configuration: new, capabilities: capabilities, subject: subject, subinterfaces: old?.subinterfaces ?? []),
      generation: generation)
    devices[new.device] = new.id
    if new.role.isLocal, old?.configuration.vrf != new.vrf || old == nil {
      vrfs.use(new.vrf, 1)
      if let old { vrfs.use(old.configuration.vrf, -1) }
    }
    place(new, old?.configuration)
    countQoS(new, 1)
    if let old { countQoS(old.configuration, -1) }
    if let old { countFatFlows(old.configuration, -1) }
    countFatFlows(new, 1)
    publish(new, capabilities)
    replaceSubject(old?.subject, by: subject, isNew: old == nil)
    republishNexthops(leavingBy: new.id)
    if let old, old.configuration.mtu != new.mtu { applyMTU(toSubinterfacesOf: new.id) }
    ports.start(new.id)
    if let old, !new.flags.contains(.learning) || old.configuration.vrf != new.vrf { forget(learnedBehind: new.id) }
    if capabilities != old?.capabilities { refreshSubinterfaces(of: new.id, capabilities) }
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
    case .virtual, .host, .monitoring:
      if new.role == .monitoring {
        guard new.vrf == 0 else { throw Refusal(.outOfRange, "a monitoring interface has no VRF; it must be 0") }
      } else {
        try requireVRF(new.vrf)
      }
      guard new.addresses.isEmpty else {
        throw Refusal(
          .outOfRange, "a \(new.role.name) interface has no underlay addresses; those belong to fabric interfaces")
      }
    case .fabric:
      guard new.vrf == 0 else { throw Refusal(.outOfRange, "a fabric interface has no VRF; it must be 0") }
      guard !new.addresses.contains(where: { $0.isMulticast || $0.isUnspecified }) else {
        throw Refusal(.outOfRange, "an underlay address of interface \(new.id) is multicast or unspecified")
      }
    }
    try checkTags(new)
    try checkFlags(of: new)
    try checkVLAN(of: new)
    try checkFatFlows(new)
    try checkXDP(of: new)
    try checkTap(of: new)
    try checkVhost(of: new)
    try checkQoS(new)
  }

  /// What the kernel takes as a name, which is also safe as a file's.
  func isDeviceName(_ name: String) -> Bool {
    (1...15).contains(name.utf8.count) && name != "." && name != ".."
      && name.utf8.allSatisfy { $0 > 0x20 && $0 < 0x7F && $0 != UInt8(ascii: "/") && $0 != UInt8(ascii: ":") }
  }

  /// The port's abilities have changed: the packet path is told.
  public func refresh(interface id: UInt32, _ capabilities: PortCapabilities) {
    guard var entry = interfaces[id] else { return }
    entry.value.capabilities = capabilities
    interfaces.set(id, entry.value, generation: entry.generation)
    publish(entry.value.configuration, capabilities)
    refreshSubinterfaces(of: id, capabilities)
  }

  func publish(_ interface: InterfaceConfiguration, _ capabilities: PortCapabilities) {
    var entry = InterfaceEntry(
      isFabric: interface.role == .fabric, mtu: mtu(of: interface.id), vrf: interface.vrf, mac: interface.mac.bits,
      addresses: interface.addresses, takesUDPSegmentation: capabilities.takesUDPSegmentation,
      takesVirtio: capabilities.takesVirtio)
    if let subject = interfaces[interface.id]?.value.subject { entry.policyClass = subject }
    entry.clampsMSS = interface.flags.contains(.clampMSS)
    entry.fatFlows = fatFlowList(interface)
    entry.isPlain = entry.isPlain && entry.fatFlows == nil
    setQoS(&entry, interface)
    apply(interface, to: &entry)
    setMirrors(&entry, interface.id)
    setCaptures(&entry, interface.id)
    memory.publish(interface: interface.id, entry)
  }

  /// What they know of the interface has changed.
  func republishNexthops(leavingBy id: UInt32) {
    for number in leaving[id] ?? [] { if let nexthop = nexthops[number]?.value { publish(nexthop) } }
  }

  func remove(interface id: UInt32) throws(Refusal) {
    guard let entry = interfaces[id] else { throw Refusal(.notFound, "interface \(id) is not there") }
    guard entry.uses == 0 else { throw inUse("interface \(id) (\(entry.value.configuration.device))", entry.uses) }
    ports.close(id)
    memory.publish(interface: id, nil)
    displace(entry.value.configuration)
    countFatFlows(entry.value.configuration, -1)
    countQoS(entry.value.configuration, -1)
    replaceSubject(entry.value.subject, by: nil, isNew: true)
    if entry.value.configuration.role.isLocal { vrfs.use(entry.value.configuration.vrf, -1) }
    devices[entry.value.configuration.device] = nil
    interfaces.remove(id)
  }

  // MARK: VRFs

  func set(_ new: VRFConfiguration) throws(Refusal) {
    try checkIndex(new.id, limits.vrfs, "VRF")
    guard !new.name.isEmpty else { throw Refusal(.outOfRange, "VRF \(new.id) has no name") }
    try checkLearning(of: new)
    if let owner = vrfNames[new.name], owner != new.id {
      throw Refusal(.conflict, "VRF \(owner) is named \"\(new.name)\" already")
    }
    if let old = vrfs[new.id]?.value {
      vrfNames[old.configuration.name] = nil
      vrfNames[new.name] = new.id
      vrfs.set(new.id, VRF(configuration: new, root4: old.root4, root6: old.root6), generation: generation)
      applyBridging(of: new, old.configuration)
      return
    }
    guard memory.routes.nodesFree > 0, memory.routes6.nodesFree > 0, let root4 = memory.routes.makeRoot(),
      let root6 = memory.routes6.makeRoot()
    else {
      throw Refusal(.tableFull, "no room for the routes of another VRF; start the forwarder with more route nodes")
    }
    memory.roots.set(Int(new.id) * 2, root4)
    memory.roots.set(Int(new.id) * 2 + 1, root6)
    vrfNames[new.name] = new.id
    vrfs.set(new.id, VRF(configuration: new, root4: root4, root6: root6), generation: generation)
    applyBridging(of: new, nil)
  }

  func remove(vrf id: UInt32) throws(Refusal) {
    guard let entry = vrfs[id] else { throw Refusal(.notFound, "VRF \(id) is not there") }
    guard entry.uses == 0 else { throw inUse("VRF \(id) (\(entry.value.configuration.name))", entry.uses) }
    forget(learnedIn: id)
    memory.vrfBits.set(Int(id), 0)
    if entry.value.configuration.flags.contains(.learning) { countLearning(-1) }
    memory.roots.set(Int(id) * 2, 0)
    memory.roots.set(Int(id) * 2 + 1, 0)
    memory.routes.releaseRoot(entry.value.root4)
    memory.routes6.releaseRoot(entry.value.root6)
    vrfNames[entry.value.configuration.name] = nil
    vrfs.remove(id)
  }
}
