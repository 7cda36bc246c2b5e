import WeftRing
import WeftSystem
import WeftTables
import WeftWire

/// Address translation as the control thread keeps it.
struct NATStore {
  /// An address of a VRF.
  struct Place: Hashable {
    let vrf: UInt32
    let address: IPAddress
  }
  struct Service {
    var configuration: ServiceConfiguration
    /// Never the same for two services.
    let serial: UInt32
  }
  struct Server: Hashable {
    let vrf: UInt32
    let address: IPAddress
    let port: UInt16
  }
  struct BackendKey: Hashable {
    let service: ServiceKey
    let server: Server
  }
  struct Backend {
    var configuration: BackendConfiguration
    /// Never the same for two backends, for affinity.
    let number: UInt32
  }

  var pools = SlotStore<UInt32, NATPoolConfiguration>()
  var rules = SlotStore<UInt32, SourceNATConfiguration>()
  var rulesOfVRF: [UInt32: Set<UInt32>] = [:]
  /// By inside address.
  var statics = SlotStore<Place, StaticNATConfiguration>()
  /// Outside addresses, and whose they are.
  var outsides: [Place: Place] = [:]
  var destinations = SlotStore<ServiceKey, DestinationNATConfiguration>()
  var services = SlotStore<ServiceKey, Service>()
  var backends = SlotStore<BackendKey, Backend>()
  var serversOfService: [ServiceKey: Set<Server>] = [:]
  /// Of services and backends.
  var lastSerial: UInt32 = 0
  /// What has changed and is not in force yet: a service is made anew once, however many of its backends change.
  var changedServices: Set<ServiceKey> = []
  var changedRules: Set<UInt32> = []

  static let maximumRules = 4096
  static let maximumRulesOfVRF = 256
  static let maximumStatics = 1 << 18
  static let maximumDestinations = 1 << 18
  static let maximumServices = 1 << 17
  static let maximumBackends = 1 << 20
  static let maximumBackendsOfService = 4096
  static let maximumPoolAddresses: UInt64 = 1 << 16
}

// Source NAT, addresses that stand for others, destination NAT. Services stand in TableProgrammerServices.swift.

extension TableProgrammer {
  /// Puts into force what commands have changed of services and of source NAT's rules. To be called after each batch
  /// of commands, and before a barrier is answered.
  public func commitNAT() {
    for key in nat.changedServices { publishService(key) }
    nat.changedServices.removeAll(keepingCapacity: true)
    for vrf in nat.changedRules { publishRules(vrf) }
    nat.changedRules.removeAll(keepingCapacity: true)
    memory.nat.collect()
  }

  // MARK: pools

  func set(_ new: NATPoolConfiguration) throws(Refusal) {
    if nat.pools[new.id]?.value == new {
      nat.pools.renew(new.id, generation: generation)
      return
    }
    let count = try check(new)
    do throws(SystemError) {
      try memory.nat.setPool(
        new.id, vrf: new.vrf, first: new.first, count: count, firstPort: new.firstPort, lastPort: new.lastPort,
        blockPorts: UInt32(new.blockPorts))
    } catch {
      throw Refusal(.tableFull, "NAT pool \(new.id): \(error)")
    }
    vrfs.use(new.vrf, 1)
    if let old = nat.pools[new.id]?.value { vrfs.use(old.vrf, -1) }
    nat.pools.set(new.id, new, generation: generation)
  }

  /// How many addresses it has.
  private func check(_ new: NATPoolConfiguration) throws(Refusal) -> UInt32 {
    let what = "NAT pool \(new.id)"
    try checkIndex(new.id, UInt32(NATMemory.maximumPools), "NAT pool")
    try requireVRF(new.vrf)
    try requireHost(new.first, what)
    try requireHost(new.last, what)
    guard let addresses = Self.distance(new.first, new.last) else {
      throw Refusal(.outOfRange, "\(what): \(new.first) to \(new.last) is no range of one family's addresses")
    }
    guard addresses < NATStore.maximumPoolAddresses else {
      throw Refusal(
        .outOfRange,
        "\(what) has more than \(NATStore.maximumPoolAddresses) addresses; make several pools and rules of it")
    }
    guard new.firstPort > 0, new.firstPort <= new.lastPort else {
      throw Refusal(.outOfRange, "\(what): ports \(new.firstPort) to \(new.lastPort) are no range from 1 on")
    }
    guard NATPoolConfiguration.blockPorts.contains(new.blockPorts), new.blockPorts.nonzeroBitCount == 1 else {
      throw Refusal(.outOfRange, "\(what): blocks of \(new.blockPorts) ports; 64, 128, 256 or 512 are possible")
    }
    let ports = UInt64(new.lastPort) - UInt64(new.firstPort) + 1
    let blocks = (addresses + 1) * ((ports + UInt64(new.blockPorts) - 1) / UInt64(new.blockPorts))
    guard blocks <= PortPool.maximumBlocks else {
      throw Refusal(
        .outOfRange,
        "\(what) has \(blocks) blocks of ports, more than \(PortPool.maximumBlocks); take larger blocks or fewer addresses"
      )
    }
    var clash: UInt32?
    _ = nat.pools.read(from: 0, limit: .max) { entry in
      let other = entry.value
      guard other.id != new.id, other.vrf == new.vrf, other.first.isV4 == new.first.isV4, other.first <= new.last,
        new.first <= other.last, other.firstPort <= new.lastPort, new.firstPort <= other.lastPort
      else { return }
      clash = other.id
    }
    if let clash {
      throw Refusal(.conflict, "\(what) has addresses and ports in common with pool \(clash) of the same VRF")
    }
    if let place = nat.outsides.keys.first(where: { $0.vrf == new.vrf && Self.holds(new, $0.address) }) {
      throw Refusal(.conflict, "\(what) holds \(place.address), which stands for an inside address already")
    }
    if let old = nat.pools[new.id], old.uses > 0, old.value.first.isV4 != new.first.isV4 {
      throw Refusal(.conflict, "\(what) changes its family, but rules or services use it; remove those first")
    }
    if let old = nat.pools[new.id], old.uses > 0, old.value.vrf != new.vrf {
      throw Refusal(.conflict, "\(what) changes its VRF, but rules or services use it; remove those first")
    }
    return UInt32(addresses + 1)
  }

  /// From one address to another of its family that is not below it.
  private static func distance(_ first: IPAddress, _ last: IPAddress) -> UInt64? {
    guard first.isV4 == last.isV4, first <= last else { return nil }
    let (low, borrow) = last.low.subtractingReportingOverflow(first.low)
    return last.high - first.high - (borrow ? 1 : 0) == 0 ? low : .max
  }

  private static func holds(_ pool: NATPoolConfiguration, _ address: IPAddress) -> Bool {
    address.isV4 == pool.first.isV4 && pool.first <= address && address <= pool.last
  }

  func remove(natPool id: UInt32) throws(Refusal) {
    guard let old = nat.pools[id] else { throw Refusal(.notFound, "NAT pool \(id) is not there") }
    guard old.uses == 0 else { throw inUse("NAT pool \(id)", old.uses) }
    // What used it until now is out of force first.
    commitNAT()
    memory.nat.removePool(id)
    vrfs.use(old.value.vrf, -1)
    nat.pools.remove(id)
  }

  func requirePool(_ id: UInt32, isV4: Bool, _ what: String) throws(Refusal) -> NATPoolConfiguration {
    guard let pool = nat.pools[id]?.value else {
      throw Refusal(.notFound, "\(what): NAT pool \(id) is not there; set it first")
    }
    guard pool.first.isV4 == isV4 else {
      throw Refusal(.conflict, "\(what): NAT pool \(id) has addresses of the other family")
    }
    return pool
  }

  func poolState(_ id: UInt32) -> NATPoolState {
    let uses = PortClass.allCases.map { memory.nat.use(pool: id, $0) }
    return NATPoolState(taken: uses.map { UInt32(clamping: $0.taken) }, blocks: UInt32(clamping: uses[0].all))
  }

  // MARK: rules

  func set(_ new: SourceNATConfiguration) throws(Refusal) {
    let what = "source NAT rule \(new.id)"
    let old = nat.rules[new.id]?.value
    if old == new {
      nat.rules.renew(new.id, generation: generation)
      return
    }
    try requireVRF(new.vrf)
    if let egress = new.egress { try requireVRF(egress) }
    if let destination = new.destination, destination.isV4 != new.source.isV4 {
      throw Refusal(.outOfRange, "\(what): \(new.source) and \(destination) are not of one family")
    }
    if let number = new.pool {
      let pool = try requirePool(number, isV4: new.source.isV4, what)
      if let egress = new.egress, egress != pool.vrf {
        throw Refusal(
          .conflict, "\(what): what leaves by VRF \(egress) cannot have addresses of pool \(number), of VRF \(pool.vrf)"
        )
      }
    }
    if old == nil, nat.rules.count >= NATStore.maximumRules {
      throw Refusal(.tableFull, "all \(NATStore.maximumRules) source NAT rules are in use")
    }
    if old?.vrf != new.vrf, nat.rulesOfVRF[new.vrf, default: []].count >= NATStore.maximumRulesOfVRF {
      throw Refusal(.tableFull, "VRF \(new.vrf) has all of its \(NATStore.maximumRulesOfVRF) source NAT rules")
    }
    count(new, 1)
    if let old { count(old, -1) }
    if old?.vrf != new.vrf {
      if let old { forget(rule: new.id, of: old.vrf) }
      nat.rulesOfVRF[new.vrf, default: []].insert(new.id)
    }
    nat.changedRules.insert(new.vrf)
    nat.rules.set(new.id, new, generation: generation)
  }

  private func forget(rule id: UInt32, of vrf: UInt32) {
    nat.rulesOfVRF[vrf]?.remove(id)
    if nat.rulesOfVRF[vrf]?.isEmpty ?? false { nat.rulesOfVRF[vrf] = nil }
    nat.changedRules.insert(vrf)
  }

  private func count(_ rule: SourceNATConfiguration, _ change: Int) {
    vrfs.use(rule.vrf, change)
    if let egress = rule.egress { vrfs.use(egress, change) }
    if let pool = rule.pool { nat.pools.use(pool, change) }
  }

  func remove(sourceNAT id: UInt32) throws(Refusal) {
    guard let old = nat.rules[id]?.value else { throw Refusal(.notFound, "source NAT rule \(id) is not there") }
    forget(rule: id, of: old.vrf)
    count(old, -1)
    nat.rules.remove(id)
  }

  private func publishRules(_ vrf: UInt32) {
    let rules = nat.rulesOfVRF[vrf, default: []].compactMap { nat.rules[$0]?.value }
      .sorted { ($0.priority, $0.id) < ($1.priority, $1.id) }
    memory.nat.setRules(
      vrf: vrf,
      rules.map { SourceRule(source: $0.source, destination: $0.destination, egress: $0.egress, pool: $0.pool) })
  }

  // MARK: addresses that stand for others

  func set(_ new: StaticNATConfiguration) throws(Refusal) {
    let what = "static NAT of \(new.inside)"
    let key = NATStore.Place(vrf: new.insideVRF, address: new.inside)
    let outside = NATStore.Place(vrf: new.outsideVRF, address: new.outside)
    let old = nat.statics[key]?.value
    if old == new {
      nat.statics.renew(key, generation: generation)
      return
    }
    try requireVRF(new.insideVRF)
    try requireVRF(new.outsideVRF)
    try requireHost(new.inside, what)
    try requireHost(new.outside, what)
    guard new.inside.isV4 == new.outside.isV4 else {
      throw Refusal(.outOfRange, "\(what): \(new.outside) is not of the same family")
    }
    guard key != outside else { throw Refusal(.conflict, "\(what): it would stand for itself") }
    if let owner = nat.outsides[outside], owner != key {
      throw Refusal(
        .conflict,
        "\(what): \(new.outside) of VRF \(new.outsideVRF) stands for \(owner.address) of VRF \(owner.vrf) already")
    }
    var clash: UInt32?
    _ = nat.pools.read(from: 0, limit: .max) { entry in
      if entry.value.vrf == new.outsideVRF, Self.holds(entry.value, new.outside) { clash = entry.key }
    }
    if let clash { throw Refusal(.conflict, "\(what): \(new.outside) is in NAT pool \(clash)") }
    guard old != nil || nat.statics.count < NATStore.maximumStatics else {
      throw Refusal(.tableFull, "all \(NATStore.maximumStatics) static NAT entries are in use")
    }
    vrfs.use(new.insideVRF, 1)
    vrfs.use(new.outsideVRF, 1)
    if let old {
      let place = NATStore.Place(vrf: old.outsideVRF, address: old.outside)
      if place != outside {
        nat.outsides[place] = nil
        memory.nat.remove(TranslationKey(.outside, vrf: place.vrf, address: place.address))
      }
      vrfs.use(old.insideVRF, -1)
      vrfs.use(old.outsideVRF, -1)
    }
    nat.outsides[outside] = key
    memory.nat.set(
      .inside,
      TranslationEntry(
        key: TranslationKey(.inside, vrf: key.vrf, address: key.address), target: new.outside, vrf: new.outsideVRF))
    memory.nat.set(
      .outside,
      TranslationEntry(
        key: TranslationKey(.outside, vrf: outside.vrf, address: outside.address), target: new.inside,
        vrf: new.insideVRF))
    nat.statics.set(key, new, generation: generation)
  }

  func remove(staticNAT key: NATStore.Place) throws(Refusal) {
    guard let old = nat.statics[key]?.value else {
      throw Refusal(.notFound, "\(key.address) of VRF \(key.vrf) has no static NAT")
    }
    memory.nat.remove(TranslationKey(.inside, vrf: key.vrf, address: key.address))
    memory.nat.remove(TranslationKey(.outside, vrf: old.outsideVRF, address: old.outside))
    nat.outsides[NATStore.Place(vrf: old.outsideVRF, address: old.outside)] = nil
    vrfs.use(old.insideVRF, -1)
    vrfs.use(old.outsideVRF, -1)
    nat.statics.remove(key)
  }

  // MARK: destination NAT

  func set(_ new: DestinationNATConfiguration) throws(Refusal) {
    let what = "destination NAT of \(new.key)"
    let old = nat.destinations[new.key]?.value
    if old == new {
      nat.destinations.renew(new.key, generation: generation)
      return
    }
    try check(new.key, what)
    try requireVRF(new.targetVRF)
    try requireHost(new.target, what)
    guard new.target.isV4 == new.key.address.isV4 else {
      throw Refusal(.outOfRange, "\(what): \(new.target) is not of the same family")
    }
    guard !nat.services.contains(new.key) else {
      throw Refusal(.conflict, "\(new.key) is a service already; remove that first")
    }
    guard old != nil || nat.destinations.count < NATStore.maximumDestinations else {
      throw Refusal(.tableFull, "all \(NATStore.maximumDestinations) destination NAT entries are in use")
    }
    vrfs.use(new.key.vrf, 1)
    vrfs.use(new.targetVRF, 1)
    if let old {
      vrfs.use(old.key.vrf, -1)
      vrfs.use(old.targetVRF, -1)
    }
    memory.nat.set(
      .destination,
      TranslationEntry(
        key: Self.translationKey(new.key), target: new.target, vrf: new.targetVRF, port: new.targetPort))
    nat.destinations.set(new.key, new, generation: generation)
  }

  func remove(destinationNAT key: ServiceKey) throws(Refusal) {
    guard let old = nat.destinations[key]?.value else { throw Refusal(.notFound, "\(key) has no destination NAT") }
    memory.nat.remove(Self.translationKey(key))
    vrfs.use(key.vrf, -1)
    vrfs.use(old.targetVRF, -1)
    nat.destinations.remove(key)
  }

  // MARK: checks

  static func translationKey(_ key: ServiceKey) -> TranslationKey {
    TranslationKey(.destination, vrf: key.vrf, address: key.address, proto: key.proto, port: key.port)
  }

  func check(_ key: ServiceKey, _ what: String) throws(Refusal) {
    try requireVRF(key.vrf)
    try requireHost(key.address, what)
    guard ServiceProtocol(rawValue: key.proto) != nil else {
      throw Refusal(.outOfRange, "\(what): only TCP (6), UDP (17) and SCTP (132) have ports")
    }
    guard key.port > 0 else { throw Refusal(.outOfRange, "\(what): port 0 cannot be sent to") }
  }

  func requireHost(_ address: IPAddress, _ what: String) throws(Refusal) {
    guard !address.isMulticast, !address.isUnspecified else {
      throw Refusal(.outOfRange, "\(what): \(address) is not the address of one host")
    }
  }
}
