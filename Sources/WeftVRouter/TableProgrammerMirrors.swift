import WeftRing
import WeftTables
import WeftWire

/// Mirrors as the control thread keeps them.
struct MirrorStore {
  struct Mirror {
    var configuration: MirrorConfiguration
    /// What the workers had counted when it was set.
    let before: MirrorCounts
  }

  var mirrors = SlotStore<UInt32, Mirror>()
  /// By interface.
  var interfaces = SlotStore<UInt32, InterfaceMirrorConfiguration>()
}

// Mirrors, and the interfaces whose frames they get. Those of flows are named by rules.

extension TableProgrammer {
  func set(_ new: MirrorConfiguration) throws(Refusal) {
    try check(new)
    let old = mirrors.mirrors[new.id]?.value
    if old?.configuration == new {
      mirrors.mirrors.renew(new.id, generation: generation)
      return
    }
    use(new.destination, 1)
    if let old { use(old.configuration.destination, -1) }
    mirrors.mirrors.set(
      new.id, MirrorStore.Mirror(configuration: new, before: old?.before ?? memory.mirrors.counts(new.id)),
      generation: generation)
    let entry =
      switch new.destination {
      case .interface(let interface):
        MirrorEntry(isTunnel: false, interface: interface, nexthop: 0, vni: 0, truncation: new.truncation)
      case .tunnel(let nexthop, let vni):
        MirrorEntry(isTunnel: true, interface: 0, nexthop: nexthop, vni: vni, truncation: new.truncation)
      }
    memory.mirrors.publish(new.id, entry)
  }

  private func check(_ new: MirrorConfiguration) throws(Refusal) {
    guard (1...MirrorConfiguration.maximum).contains(new.id) else {
      throw Refusal(.outOfRange, "mirror \(new.id) is not within 1 to \(MirrorConfiguration.maximum)")
    }
    guard new.truncation == 0 || (MirrorConfiguration.minimumTruncation...65535).contains(new.truncation) else {
      throw Refusal(
        .outOfRange,
        "mirror \(new.id) keeps \(new.truncation) bytes of a frame; it is 0 for all, or "
          + "\(MirrorConfiguration.minimumTruncation) to 65535")
    }
    switch new.destination {
    case .interface(let id):
      guard let interface = interfaces[id]?.value.configuration else {
        throw Refusal(.notFound, "mirror \(new.id): interface \(id) is not there; set it first")
      }
      guard interface.role != .fabric else {
        throw Refusal(
          .conflict,
          "mirror \(new.id): interface \(id) (\(interface.device)) is a fabric interface, where copies would be taken for "
            + "packets of the underlay; send them through a VXLAN tunnel")
      }
    case .tunnel(let id, let vni):
      guard case .tunnel(let tunnel) = try requireNexthop(id).action, tunnel.encapsulation == .vxlan else {
        throw Refusal(.conflict, "mirror \(new.id): nexthop \(id) is not a VXLAN tunnel, which carries whole frames")
      }
      guard vni <= 0xFF_FFFF else { throw Refusal(.outOfRange, "mirror \(new.id): VNI \(vni) has more than 24 bits") }
    }
  }

  private func use(_ destination: MirrorConfiguration.Destination, _ change: Int) {
    switch destination {
    case .interface(let id): interfaces.use(id, change)
    case .tunnel(let id, _): nexthops.use(id, change)
    }
  }

  func remove(mirror id: UInt32) throws(Refusal) {
    guard let entry = mirrors.mirrors[id] else { throw Refusal(.notFound, "mirror \(id) is not there") }
    guard entry.uses == 0 else { throw inUse("mirror \(id)", entry.uses) }
    memory.mirrors.publish(id, nil)
    use(entry.value.configuration.destination, -1)
    mirrors.mirrors.remove(id)
  }

  func requireMirror(_ id: UInt32, _ what: String) throws(Refusal) {
    guard mirrors.mirrors.contains(id) else {
      throw Refusal(.notFound, "\(what): mirror \(id) is not there; set it first")
    }
  }

  func mirrorState(_ id: UInt32) -> MirrorState {
    guard let mirror = mirrors.mirrors[id]?.value else { return MirrorState() }
    let counts = memory.mirrors.counts(id) - mirror.before
    return MirrorState(
      packets: counts.packets, bytes: counts.bytes, shortened: counts.shortened, lost: counts.lost)
  }

  // MARK: interfaces

  func set(_ new: InterfaceMirrorConfiguration) throws(Refusal) {
    guard interfaces.contains(new.interface) else {
      throw Refusal(.notFound, "interface \(new.interface) is not there; set it first")
    }
    guard new.ingress != 0 || new.egress != 0 else {
      throw Refusal(.outOfRange, "interface \(new.interface): neither an ingress nor an egress mirror is named")
    }
    for id in Set([new.ingress, new.egress]) where id != 0 { try requireMirror(id, "interface \(new.interface)") }
    let old = mirrors.interfaces[new.interface]?.value
    if old == new {
      mirrors.interfaces.renew(new.interface, generation: generation)
      return
    }
    use(new, 1)
    if let old { use(old, -1) }
    mirrors.interfaces.set(new.interface, new, generation: generation)
    republish(new.interface)
  }

  func remove(mirrorOf interface: UInt32) throws(Refusal) {
    guard let old = mirrors.interfaces[interface]?.value else {
      throw Refusal(.notFound, "interface \(interface) has no mirror")
    }
    mirrors.interfaces.remove(interface)
    use(old, -1)
    republish(interface)
  }

  private func use(_ entry: InterfaceMirrorConfiguration, _ change: Int) {
    interfaces.use(entry.interface, change)
    for id in Set([entry.ingress, entry.egress]) where id != 0 { mirrors.mirrors.use(id, change) }
  }

  /// What an interface's entry says of its mirrors: its packets take all stages.
  func setMirrors(_ entry: inout InterfaceEntry, _ interface: UInt32) {
    guard let mirror = mirrors.interfaces[interface]?.value else { return }
    entry.mirrorIn = mirror.ingress
    entry.mirrorOut = mirror.egress
    entry.isPlain = false
  }
}
