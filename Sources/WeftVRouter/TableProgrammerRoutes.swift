import WeftRing
import WeftTables
import WeftWire

// Labels, VNIs, routes and bridge entries: what packets are looked up by.

extension TableProgrammer {
  // MARK: labels and VNIs

  func set(_ new: LabelConfiguration) throws(Refusal) {
    try checkMPLSLabel(new.label)
    try checkEnd(try requireNexthop(new.nexthop), "label \(new.label)")
    nexthops.use(new.nexthop, 1)
    if let old = labels[new.label]?.value { nexthops.use(old.nexthop, -1) }
    labels.set(new.label, new, generation: generation)
    memory.labels.set(Int(new.label), new.nexthop + 1)
  }

  func remove(label: UInt32) throws(Refusal) {
    guard let old = labels[label]?.value else { throw Refusal(.notFound, "label \(label) is not there") }
    memory.labels.set(Int(label), 0)
    nexthops.use(old.nexthop, -1)
    labels.remove(label)
  }

  func set(_ new: VNIConfiguration) throws(Refusal) {
    guard new.vni <= 0xFF_FFFF else { throw Refusal(.outOfRange, "VNI \(new.vni) has more than 24 bits") }
    try checkEnd(try requireNexthop(new.nexthop), "VNI \(new.vni)")
    nexthops.use(new.nexthop, 1)
    if let old = vnis[new.vni]?.value { nexthops.use(old.nexthop, -1) }
    vnis.set(new.vni, new, generation: generation)
    memory.vnis.set(Int(new.vni), new.nexthop + 1)
  }

  func remove(vni: UInt32) throws(Refusal) {
    guard let old = vnis[vni]?.value else { throw Refusal(.notFound, "VNI \(vni) is not there") }
    memory.vnis.set(Int(vni), 0)
    nexthops.use(old.nexthop, -1)
    vnis.remove(vni)
  }

  /// Where a tunnel may end.
  private func checkEnd(_ nexthop: NexthopConfiguration, _ what: String) throws(Refusal) {
    switch nexthop.action {
    case .vrfTranslate, .l2Receive, .l3Receive, .encap, .discard: return
    case .receive, .receiveAt, .resolve, .multicast, .tunnel, .ecmp:
      throw Refusal(.conflict, "\(what) cannot end at nexthop \(nexthop.id): only at a VRF, an interface or a discard")
    }
  }

  // MARK: routes

  func set(_ new: RouteConfiguration) throws(Refusal) {
    try requireVRF(new.vrf)
    let nexthop = try requireNexthop(new.nexthop)
    try checkRoute(new, nexthop)
    try checkLabel(new.label, nexthop)
    let key = RouteKey(vrf: new.vrf, prefix: new.prefix)
    let old = routes[key]?.value
    if old?.configuration == new {
      routes.renew(key, generation: generation)
      return
    }
    if old == nil {
      guard routes.count < Int(limits.routes) else {
        throw Refusal(.tableFull, "all \(limits.routes) routes are in use; start the forwarder with more")
      }
      if !hasNodes(for: new.prefix) { memory.epochs.reclaim() }
      guard hasNodes(for: new.prefix) else {
        throw Refusal(.tableFull, "all \(limits.routeNodes) route nodes are in use; start the forwarder with more")
      }
    }
    let path = try acquirePath(new.nexthop, new.label)
    if new.prefix.isV4 {
      memory.routes.set(root: root(key), new.prefix, path: path, isNew: old == nil)
    } else {
      memory.routes6.set(root: root(key), new.prefix, path: path)
    }
    memory.paths.advance()
    nexthops.use(new.nexthop, 1)
    if let old {
      memory.paths.release(old.path)
      nexthops.use(old.configuration.nexthop, -1)
    } else {
      vrfs.use(new.vrf, 1)
    }
    routes.set(key, Route(configuration: new, path: path), generation: generation)
    noteGateway(new.vrf, new.prefix, leadsTo: nexthops[new.nexthop]?.value)
  }

  /// Each family has its nodes.
  private func hasNodes(for prefix: IPPrefix) -> Bool {
    prefix.isV4
      ? memory.routes.nodesFree >= PrefixTrees.nodesNeeded(length: prefix.length)
      : memory.routes6.nodesFree >= CompressedTrees.nodesNeeded(length: prefix.length)
  }

  /// Multicast groups lead to multicast nexthops, and nothing else does.
  private func checkRoute(_ new: RouteConfiguration, _ nexthop: NexthopConfiguration) throws(Refusal) {
    let isGroup = new.prefix.address.isMulticast && new.prefix.length >= (new.prefix.isV4 ? 4 : 8)
    switch nexthop.action {
    case .multicast:
      guard isGroup, new.prefix.length == new.prefix.address.width else {
        throw Refusal(
          .conflict,
          "\(new.prefix) of VRF \(new.vrf) cannot lead to nexthop \(new.nexthop), which is multicast: only one "
            + "group's address can")
      }
      guard new.vrf < BridgeTable.maximumVRFs else {
        throw Refusal(.outOfRange, "VRF \(new.vrf) is too high for the bridge table (below \(BridgeTable.maximumVRFs))")
      }
    case .l2Receive, .l3Receive:
      throw Refusal(
        .conflict, "a route cannot lead to nexthop \(new.nexthop): l2-receive and l3-receive are for VNIs and labels")
    default: break
    }
  }

  /// A host route to a receive nexthop is an address of the router, from which it sends what it makes itself, be it that
  /// the host has the address.
  private func noteGateway(_ vrf: UInt32, _ prefix: IPPrefix, leadsTo nexthop: NexthopConfiguration?) {
    guard prefix.length == prefix.address.width else { return }
    if nexthop?.action.receives == true {
      guard gateways[vrf, default: []].insert(prefix.address).inserted else { return }
    } else {
      guard gateways[vrf]?.remove(prefix.address) != nil else { return }
    }
    memory.gateways.set(vrf: vrf, gateways[vrf] ?? [])
  }

  /// A nexthop that routes may lead to receives from now on, or no longer does.
  func noteGateways(of nexthop: NexthopConfiguration) {
    _ = routes.read(from: 0, limit: .max) { entry in
      guard entry.value.configuration.nexthop == nexthop.id else { return }
      noteGateway(entry.key.vrf, entry.key.prefix, leadsTo: nexthop)
    }
  }

  func remove(_ key: RouteKey) throws(Refusal) {
    guard let old = routes[key]?.value else {
      throw Refusal(.notFound, "VRF \(key.vrf) has no route to \(key.prefix)")
    }
    routes.remove(key)
    let covering = { (prefix: IPPrefix) in self.routes[RouteKey(vrf: key.vrf, prefix: prefix)]?.value.path }
    if key.prefix.isV4 {
      memory.routes.remove(root: root(key), key.prefix, covering: covering)
    } else {
      memory.routes6.remove(root: root(key), key.prefix, covering: covering)
    }
    memory.paths.release(old.path)
    nexthops.use(old.configuration.nexthop, -1)
    vrfs.use(key.vrf, -1)
    noteGateway(key.vrf, key.prefix, leadsTo: nil)
  }

  private func root(_ key: RouteKey) -> UInt32 {
    guard let vrf = vrfs[key.vrf]?.value else { return 0 }
    return key.prefix.isV4 ? vrf.root4 : vrf.root6
  }

  // MARK: bridge

  func set(_ new: BridgeConfiguration) throws(Refusal) {
    try requireVRF(new.vrf)
    guard new.vrf < BridgeTable.maximumVRFs else {
      throw Refusal(.outOfRange, "VRF \(new.vrf) is too high for the bridge table (below \(BridgeTable.maximumVRFs))")
    }
    guard !new.mac.isZero, new.mac != .virtualRouter else {
      throw Refusal(.outOfRange, "MAC address \(new.mac) cannot stand in the bridge table")
    }
    let nexthop = try requireNexthop(new.nexthop)
    switch nexthop.action {
    case .discard: break
    case .encap, .tunnel, .ecmp:
      guard !new.mac.isGroup else {
        throw Refusal(
          .conflict,
          "\(new.mac) is a group's: it leads to a multicast nexthop or a discard, not to nexthop \(new.nexthop)")
      }
    case .multicast:
      guard new.mac.isGroup else {
        throw Refusal(
          .conflict, "\(new.mac) is one station's: it cannot lead to nexthop \(new.nexthop), which is multicast")
      }
    case .receive, .receiveAt, .resolve, .vrfTranslate, .l2Receive, .l3Receive:
      throw Refusal(.conflict, "a bridge entry cannot lead to nexthop \(new.nexthop): only to an interface or a tunnel")
    }
    try checkLabel(new.label, nexthop)
    let key = BridgeKey(vrf: new.vrf, mac: new.mac)
    let old = bridge[key]?.value
    if old?.configuration == new, old?.learned == nil {
      bridge.renew(key, generation: generation)
      return
    }
    let path = try acquirePath(new.nexthop, new.label)
    guard memory.bridge.set(vrf: new.vrf, mac: new.mac, path: path) else {
      memory.paths.release(path)
      throw Refusal(.tableFull, "all \(limits.bridge) bridge entries are in use; start the forwarder with more")
    }
    nexthops.use(new.nexthop, 1)
    if let old, old.learned != nil {
      release(key, old)
      vrfs.use(new.vrf, 1)
    } else if let old {
      memory.paths.release(old.path)
      nexthops.use(old.configuration.nexthop, -1)
    } else {
      vrfs.use(new.vrf, 1)
    }
    bridge.set(key, Bridge(configuration: new, path: path), generation: generation)
  }

  func remove(_ key: BridgeKey) throws(Refusal) {
    guard let old = bridge[key]?.value else {
      throw Refusal(.notFound, "VRF \(key.vrf) has no bridge entry for \(key.mac)")
    }
    guard old.learned == nil else { return forget(key) }
    memory.bridge.remove(vrf: key.vrf, mac: key.mac)
    memory.paths.release(old.path)
    nexthops.use(old.configuration.nexthop, -1)
    vrfs.use(key.vrf, -1)
    bridge.remove(key)
  }
}

extension NexthopConfiguration.Action {
  /// A host route to it is an address of the router's or of its host's.
  var receives: Bool {
    switch self {
    case .receive, .receiveAt: true
    default: false
    }
  }
}
