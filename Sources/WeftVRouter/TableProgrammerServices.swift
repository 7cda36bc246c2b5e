import WeftRing
import WeftTables
import WeftWire

// Services and their backends. A change is noted and put into force by `commitNAT`.

extension TableProgrammer {
  func set(_ new: ServiceConfiguration) throws(Refusal) {
    let what = "service \(new.key)"
    let old = nat.services[new.key]?.value
    if old?.configuration == new {
      nat.services.renew(new.key, generation: generation)
      return
    }
    try check(new.key, what)
    guard !nat.destinations.contains(new.key) else {
      throw Refusal(.conflict, "\(new.key) has destination NAT already; remove that first")
    }
    if let hairpin = new.hairpin {
      try requireHost(hairpin, what)
      guard hairpin.isV4 == new.key.address.isV4 else {
        throw Refusal(.outOfRange, "\(what): the hairpin address \(hairpin) is not of the same family")
      }
    }
    if let pool = new.pool {
      guard new.flags.contains(.sourceNAT) else {
        throw Refusal(.conflict, "\(what) names NAT pool \(pool) but does not translate its clients (flag source NAT)")
      }
      _ = try requirePool(pool, isV4: new.key.address.isV4, what)
    } else if new.flags.contains(.sourceNAT) {
      throw Refusal(.conflict, "\(what) translates its clients but names no NAT pool for them")
    }
    guard old != nil || nat.services.count < NATStore.maximumServices else {
      throw Refusal(.tableFull, "all \(NATStore.maximumServices) services are in use")
    }
    if let pool = new.pool { nat.pools.use(pool, 1) }
    if let pool = old?.configuration.pool { nat.pools.use(pool, -1) }
    if var service = old {
      service.configuration = new
      nat.services.set(new.key, service, generation: generation)
    } else {
      vrfs.use(new.key.vrf, 1)
      nat.lastSerial &+= 1
      nat.services.set(
        new.key, NATStore.Service(configuration: new, serial: nat.lastSerial), generation: generation)
    }
    nat.changedServices.insert(new.key)
  }

  /// A service goes with its backends.
  func remove(service key: ServiceKey) throws(Refusal) {
    guard let old = nat.services[key]?.value else { throw Refusal(.notFound, "service \(key) is not there") }
    for server in nat.serversOfService[key] ?? [] {
      try remove(backend: NATStore.BackendKey(service: key, server: server))
    }
    memory.nat.remove(Self.translationKey(key))
    nat.changedServices.remove(key)
    if let pool = old.configuration.pool { nat.pools.use(pool, -1) }
    vrfs.use(key.vrf, -1)
    nat.services.remove(key)
  }

  func set(_ new: BackendConfiguration) throws(Refusal) {
    let server = NATStore.Server(vrf: new.vrf, address: new.address, port: new.port)
    let key = NATStore.BackendKey(service: new.service, server: server)
    let what = "backend \(new.address) of \(new.service)"
    let old = nat.backends[key]?.value
    if old?.configuration == new {
      nat.backends.renew(key, generation: generation)
      return
    }
    guard nat.services.contains(new.service) else {
      throw Refusal(.notFound, "\(what): the service is not there; set it first")
    }
    try requireVRF(new.vrf)
    try requireHost(new.address, what)
    guard new.address.isV4 == new.service.address.isV4 else {
      throw Refusal(.outOfRange, "\(what): it is not of the service's family")
    }
    if old == nil {
      guard nat.serversOfService[new.service, default: []].count < NATStore.maximumBackendsOfService else {
        throw Refusal(.tableFull, "\(what): the service has all of its \(NATStore.maximumBackendsOfService) backends")
      }
      guard nat.backends.count < NATStore.maximumBackends else {
        throw Refusal(.tableFull, "all \(NATStore.maximumBackends) backends are in use")
      }
      nat.lastSerial &+= 1
      nat.serversOfService[new.service, default: []].insert(server)
      nat.services.use(new.service, 1)
      vrfs.use(new.vrf, 1)
    }
    nat.backends.set(
      key, NATStore.Backend(configuration: new, number: old?.number ?? nat.lastSerial), generation: generation)
    nat.changedServices.insert(new.service)
  }

  func remove(backend key: NATStore.BackendKey) throws(Refusal) {
    guard let old = nat.backends[key]?.value else {
      throw Refusal(
        .notFound,
        "\(key.service) has no backend \(key.server.address) port \(key.server.port) in VRF \(key.server.vrf)")
    }
    nat.serversOfService[key.service]?.remove(key.server)
    if nat.serversOfService[key.service]?.isEmpty ?? false { nat.serversOfService[key.service] = nil }
    nat.services.use(key.service, -1)
    vrfs.use(old.configuration.vrf, -1)
    nat.backends.remove(key)
    nat.changedServices.insert(key.service)
  }

  /// Makes the service that workers see: with the backends that get new flows.
  func publishService(_ key: ServiceKey) {
    guard let service = nat.services[key]?.value else { return }
    let configuration = service.configuration
    var entry = TranslationEntry(
      key: Self.translationKey(key), target: configuration.hairpin ?? key.address, vrf: key.vrf)
    entry.isService = true
    entry.serial = service.serial
    entry.translatesSource = configuration.flags.contains(.sourceNAT)
    entry.pool = configuration.pool ?? 0
    entry.affinity = UInt64(configuration.affinitySeconds) * 1_000_000_000
    var backends: [ServiceBackend] = []
    for server in nat.serversOfService[key] ?? [] {
      guard let backend = nat.backends[NATStore.BackendKey(service: key, server: server)]?.value else { continue }
      let flags = backend.configuration.flags
      guard !flags.contains(.draining), backend.configuration.weight > 0,
        flags.contains(.local) || !configuration.flags.contains(.localOnly)
      else { continue }
      backends.append(
        ServiceBackend(
          address: server.address, vrf: server.vrf, port: server.port, number: backend.number,
          weight: UInt32(backend.configuration.weight)))
    }
    memory.nat.set(.destination, entry, backends: backends)
  }
}
