import Testing
import WeftRing
import WeftTables
import WeftVRouter
import WeftWire

private final class NoPorts: PortProvider {
  func open(_ interface: InterfaceConfiguration) throws(Refusal) -> PortCapabilities {
    PortCapabilities(takesVirtio: false, takesUDPSegmentation: false)
  }
  func start(_ id: UInt32) {}
  func close(_ id: UInt32) {}
  func state(_ id: UInt32) -> InterfaceState { InterfaceState(isUp: true, kernelIndex: 0) }
  func isStale(_ interface: InterfaceConfiguration) -> Bool { false }
}

private struct Fixture {
  let memory: TableMemory
  let programmer: TableProgrammer

  init() throws {
    var limits = TableLimits()
    limits.vrfs = 16
    memory = try TableMemory(
      sizes: TableSizes(interfaces: 4, vrfs: 16, nexthops: 16, routes: 16, routeNodes: 64, bridge: 16), workers: 1)
    programmer = TableProgrammer(memory: memory, limits: limits, ports: NoPorts())
    try programmer.apply(.setVRF(VRFConfiguration(id: 1, name: "inside")))
    try programmer.apply(.setVRF(VRFConfiguration(id: 2, name: "outside")))
  }

  func apply(_ commands: [Command]) throws {
    for command in commands { try programmer.apply(command) }
    programmer.commit()
  }

  func refusal(_ command: Command) -> RefusalCode? {
    let before = picture()
    do throws(Refusal) {
      try programmer.apply(command)
      return nil
    } catch {
      #expect(!error.reason.isEmpty)
      programmer.commit()
      #expect(picture() == before, "a refused command changes nothing")
      return error.code
    }
  }

  func entries(_ table: TableName) -> [TableEntry] {
    var entries: [TableEntry] = []
    var cursor: UInt64 = 0
    repeat { cursor = programmer.dump(table, cursor: cursor, limit: 3) { entries.append($0) } } while cursor != 0
    return entries
  }

  func picture() -> [String] {
    TableName.allCases.flatMap { entries($0).map { "\($0)" } } + ["\(memory.nat.translations.count)"]
  }

  static let inner = IPAddress("10.0.0.5")!
  static let outer = IPAddress("203.0.113.5")!
  static let key = ServiceKey(vrf: 1, address: IPAddress("10.96.0.1")!, proto: 6, port: 80)
  static let metadata = ServiceKey(vrf: 1, address: IPAddress("169.254.169.254")!, proto: 6, port: 80)
  static let pool = NATPoolConfiguration(
    id: 3, name: "out", vrf: 2, first: IPAddress("203.0.113.8")!, last: IPAddress("203.0.113.15")!)

  static func backend(
    _ number: UInt8, weight: UInt16 = 1, _ flags: BackendConfiguration.Flags = []
  ) -> BackendConfiguration {
    BackendConfiguration(
      service: key, address: IPAddress("10.0.1.\(number)")!, port: 8080, vrf: 1, weight: weight, flags: flags)
  }

  static let commands: [Command] = [
    .setNATPool(pool),
    .setSourceNAT(SourceNATConfiguration(id: 1, priority: 10, vrf: 1, source: IPPrefix("10.0.0.0/8")!, pool: 3)),
    .setSourceNAT(
      SourceNATConfiguration(
        id: 2, priority: 5, vrf: 1, source: IPPrefix("10.0.9.0/24")!, destination: IPPrefix("192.0.2.0/24")!, egress: 2,
        pool: nil)),
    .setStaticNAT(StaticNATConfiguration(insideVRF: 1, inside: inner, outsideVRF: 2, outside: outer)),
    .setDestinationNAT(
      DestinationNATConfiguration(key: metadata, target: IPAddress("192.0.2.9")!, targetVRF: 2, targetPort: 8775)),
    .setService(ServiceConfiguration(key: key, name: "web", affinitySeconds: 60)),
    .setBackend(backend(1)), .setBackend(backend(2)),
  ]

  func service() -> EntryReference<TranslationEntry>? {
    memory.reader.nat.service(vrf: 1, address: Self.key.address, proto: 6, port: 80)
  }

  /// Which backends new flows go to.
  func chosen() -> Set<String> {
    guard let service = service() else { return [] }
    return Set((0..<512).compactMap { service.backend(hash: $0 << 55)?.address.description })
  }
}

@Suite("Table programmer, address translation")
struct TableProgrammerNATTests {
  @Test("what is set is found by lookups and read back")
  func sets() throws {
    let fixture = try Fixture()
    try fixture.apply(Fixture.commands)
    for (table, count) in [
      (TableName.natPools, 1), (.sourceNAT, 2), (.staticNAT, 1), (.destinationNAT, 1), (.services, 1), (.backends, 2),
    ] { #expect(fixture.entries(table).count == count, "\(table)") }
    #expect(fixture.chosen() == ["10.0.1.1", "10.0.1.2"])
    #expect(fixture.service()?.entry.affinity == 60_000_000_000)
    let outside = fixture.memory.reader.nat.translations.find(TranslationKey(.outside, vrf: 2, address: Fixture.outer))
    #expect(outside?.entry.target == Fixture.inner && outside?.entry.targetVRF == 1)
    guard case .natPool(_, let state)? = fixture.entries(.natPools).first else { throw Refusal(.notFound, "no pool") }
    #expect(state == NATPoolState(taken: [0, 0, 0, 0], blocks: 8 * 252))
    let before = fixture.picture()
    try fixture.apply(Fixture.commands)
    #expect(fixture.picture() == before)
  }

  @Test("a service's new flows go to those backends that take them")
  func backends() throws {
    let fixture = try Fixture()
    try fixture.apply(Fixture.commands)
    let serial = fixture.service()?.entry.serial
    try fixture.apply([.setBackend(Fixture.backend(1, [.draining]))])
    #expect(fixture.chosen() == ["10.0.1.2"])
    try fixture.apply([.setBackend(Fixture.backend(1, weight: 0)), .setBackend(Fixture.backend(3, [.local]))])
    #expect(fixture.chosen() == ["10.0.1.2", "10.0.1.3"])
    try fixture.apply([.setService(ServiceConfiguration(key: Fixture.key, flags: .localOnly))])
    #expect(fixture.chosen() == ["10.0.1.3"])
    try fixture.apply([.removeBackend(service: Fixture.key, vrf: 1, address: IPAddress("10.0.1.3")!, port: 8080)])
    #expect(fixture.chosen().isEmpty && fixture.service() != nil)
    #expect(fixture.service()?.entry.serial == serial)
    try fixture.apply([.removeService(Fixture.key)])
    #expect(fixture.service() == nil && fixture.entries(.backends).isEmpty)
    try fixture.apply([.setService(ServiceConfiguration(key: Fixture.key))])
    #expect(fixture.service()?.entry.serial != serial)
  }

  @Test("an outside address that changes is found no more")
  func changesStatic() throws {
    let fixture = try Fixture()
    try fixture.apply(Fixture.commands)
    let new = IPAddress("203.0.113.6")!
    try fixture.apply([
      .setStaticNAT(StaticNATConfiguration(insideVRF: 1, inside: Fixture.inner, outsideVRF: 2, outside: new))
    ])
    let translations = fixture.memory.reader.nat.translations
    #expect(translations.find(TranslationKey(.outside, vrf: 2, address: Fixture.outer)) == nil)
    #expect(translations.find(TranslationKey(.outside, vrf: 2, address: new))?.entry.target == Fixture.inner)
    #expect(translations.find(TranslationKey(.inside, vrf: 1, address: Fixture.inner))?.entry.target == new)
    try fixture.apply([.removeStaticNAT(insideVRF: 1, inside: Fixture.inner)])
    #expect(translations.find(TranslationKey(.outside, vrf: 2, address: new)) == nil)
  }

  @Test("what is wrong is refused by name")
  func refuses() throws {
    let fixture = try Fixture()
    try fixture.apply(Fixture.commands)
    func pool(_ change: (inout NATPoolConfiguration) -> Void) -> Command {
      var pool = Fixture.pool
      pool.id = 4
      pool.first = IPAddress("198.51.100.1")!
      pool.last = pool.first
      change(&pool)
      return .setNATPool(pool)
    }
    func rule(_ change: (inout SourceNATConfiguration) -> Void) -> Command {
      var rule = SourceNATConfiguration(id: 9, priority: 1, vrf: 1, source: IPPrefix("10.0.0.0/8")!, pool: 3)
      change(&rule)
      return .setSourceNAT(rule)
    }
    func service(_ change: (inout ServiceConfiguration) -> Void) -> Command {
      var service = ServiceConfiguration(key: Fixture.key)
      service.key.port = 81
      change(&service)
      return .setService(service)
    }
    let rows: [(Command, RefusalCode)] = [
      (pool { $0.id = 4096 }, .outOfRange), (pool { $0.vrf = 7 }, .notFound),
      (pool { $0.last = IPAddress("198.51.100.0")! }, .outOfRange),
      (pool { $0.last = IPAddress("fd00::1")! }, .outOfRange),
      (pool { $0.last = IPAddress("198.52.200.1")! }, .outOfRange), (pool { $0.first = IPAddress("::")! }, .outOfRange),
      (pool { $0.firstPort = 0 }, .outOfRange), (pool { $0.lastPort = 5 }, .outOfRange),
      (pool { $0.blockPorts = 100 }, .outOfRange), (pool { $0.blockPorts = 1024 }, .outOfRange),
      (
        pool {
          $0.last = IPAddress("198.51.150.1")!
          $0.blockPorts = 64
        }, .outOfRange
      ),
      (
        pool {
          $0.first = IPAddress("203.0.113.15")!
          $0.last = $0.first
        }, .conflict
      ),
      (
        pool {
          $0.first = Fixture.outer
          $0.last = $0.first
        }, .conflict
      ),
      (.removeNATPool(id: 3), .inUse), (.removeNATPool(id: 5), .notFound),
      (rule { $0.vrf = 7 }, .notFound), (rule { $0.pool = 5 }, .notFound), (rule { $0.egress = 7 }, .notFound),
      (rule { $0.egress = 1 }, .conflict), (rule { $0.source = IPPrefix("fd00::/8")! }, .conflict),
      (rule { $0.destination = IPPrefix("::/0")! }, .outOfRange), (.removeSourceNAT(id: 9), .notFound),
      (
        .setStaticNAT(
          StaticNATConfiguration(
            insideVRF: 1, inside: IPAddress("10.0.0.6")!, outsideVRF: 2, outside: Fixture.outer)), .conflict
      ),
      (
        .setStaticNAT(
          StaticNATConfiguration(
            insideVRF: 1, inside: IPAddress("10.0.0.6")!, outsideVRF: 2, outside: IPAddress("203.0.113.9")!)), .conflict
      ),
      (
        .setStaticNAT(
          StaticNATConfiguration(
            insideVRF: 1, inside: IPAddress("10.0.0.6")!, outsideVRF: 2, outside: IPAddress("fd00::1")!)), .outOfRange
      ),
      (
        .setStaticNAT(
          StaticNATConfiguration(insideVRF: 1, inside: Fixture.inner, outsideVRF: 1, outside: Fixture.inner)), .conflict
      ),
      (.removeStaticNAT(insideVRF: 2, inside: Fixture.inner), .notFound),
      (
        .setDestinationNAT(
          DestinationNATConfiguration(key: Fixture.key, target: Fixture.inner, targetVRF: 1)), .conflict
      ),
      (
        .setDestinationNAT(
          DestinationNATConfiguration(
            key: ServiceKey(vrf: 1, address: Fixture.inner, proto: 1, port: 1), target: Fixture.inner, targetVRF: 1)),
        .outOfRange
      ),
      (
        .setDestinationNAT(
          DestinationNATConfiguration(
            key: ServiceKey(vrf: 1, address: Fixture.inner, proto: 6, port: 0), target: Fixture.inner, targetVRF: 1)),
        .outOfRange
      ),
      (.removeDestinationNAT(Fixture.key), .notFound),
      (service { $0.key = Fixture.metadata }, .conflict), (service { $0.key.vrf = 7 }, .notFound),
      (service { $0.pool = 3 }, .conflict), (service { $0.flags = .sourceNAT }, .conflict),
      (
        service {
          $0.flags = .sourceNAT
          $0.pool = 9
        }, .notFound
      ),
      (service { $0.hairpin = IPAddress("fd00::1")! }, .outOfRange), (service { $0.key.proto = 1 }, .outOfRange),
      (.removeService(Fixture.metadata), .notFound),
      (
        .setBackend(
          BackendConfiguration(service: Fixture.metadata, address: Fixture.inner, port: 1, vrf: 1)), .notFound
      ),
      (.setBackend(BackendConfiguration(service: Fixture.key, address: Fixture.inner, port: 1, vrf: 7)), .notFound),
      (
        .setBackend(BackendConfiguration(service: Fixture.key, address: IPAddress("fd00::1")!, port: 1, vrf: 1)),
        .outOfRange
      ),
      (
        .setBackend(BackendConfiguration(service: Fixture.key, address: IPAddress("224.0.0.1")!, port: 1, vrf: 1)),
        .outOfRange
      ),
      (.removeBackend(service: Fixture.key, vrf: 1, address: Fixture.inner, port: 1), .notFound),
      (.removeVRF(id: 1), .inUse), (.removeVRF(id: 2), .inUse),
    ]
    for (command, code) in rows { #expect(fixture.refusal(command) == code, "\(command)") }
  }

  @Test("a sweep takes what was not renewed, and leaves nothing behind")
  func sweeps() throws {
    let fixture = try Fixture()
    try fixture.apply(Fixture.commands)
    let before = fixture.picture()
    let vrfs = [VRFConfiguration(id: 1, name: "inside"), VRFConfiguration(id: 2, name: "outside")].map(Command.setVRF)
    try fixture.apply([.begin(generation: 1)] + vrfs + Fixture.commands + [.sweep(generation: 1)])
    #expect(fixture.picture() == before)
    // One backend alone is renewed: its service stays for it.
    try fixture.apply([.begin(generation: 2)] + vrfs + [.setBackend(Fixture.backend(1)), .sweep(generation: 2)])
    #expect(fixture.entries(.services).count == 1 && fixture.chosen() == ["10.0.1.1"])
    #expect(fixture.entries(.natPools).isEmpty && fixture.entries(.sourceNAT).isEmpty)
    try fixture.apply([.begin(generation: 3), .sweep(generation: 3)])
    for table in TableName.allCases { #expect(fixture.entries(table).isEmpty, "\(table)") }
    #expect(fixture.memory.nat.reader.isEmpty && fixture.memory.nat.translations.count == 0)
  }

  @Test("many backends of one service come and go at little cost")
  func manyBackends() throws {
    let fixture = try Fixture()
    let service = ServiceConfiguration(key: Fixture.key)
    let backends = (0..<4096).map {
      BackendConfiguration(
        service: Fixture.key, address: IPAddress(v4: 0x0A10_0000 + UInt32($0)), port: 8080, vrf: 1)
    }
    let time = try ContinuousClock().measure {
      try fixture.apply([.setService(service)] + backends.map(Command.setBackend))
    }
    #expect(time < .seconds(1))
    #expect(fixture.service()?.entry.backendCount == 4096)
    #expect(
      fixture.refusal(
        .setBackend(BackendConfiguration(service: Fixture.key, address: Fixture.inner, port: 1, vrf: 1))) == .tableFull)
    try fixture.apply([.removeService(Fixture.key)])
    #expect(fixture.entries(.backends).isEmpty)
    try fixture.apply([.removeVRF(id: 1), .removeVRF(id: 2)])
  }
}
