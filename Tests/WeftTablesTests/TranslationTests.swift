import Testing
import WeftTables
import WeftWire

/// What becomes of a new flow's addresses, in tables with two inside VRFs (1 and 2) that lead to an outside one (9).
@Suite struct TranslationTests {
  private static let inside: UInt32 = 1
  private static let other: UInt32 = 2
  private static let outside: UInt32 = 9

  private final class World {
    let memory: TableMemory
    var worker: NATWorker
    var now: UInt64 = 1_000_000_000

    init() throws {
      memory = try TableMemory(
        sizes: TableSizes(interfaces: 4, vrfs: 16, nexthops: 16, routes: 64, routeNodes: 256, bridge: 16), workers: 1)
      worker = try NATWorker(worker: 0, seed: 1)
      for vrf in [inside, other, outside] {
        memory.roots.set(Int(vrf) * 2, memory.routes.makeRoot()!)
        memory.roots.set(Int(vrf) * 2 + 1, memory.routes6.makeRoot()!)
      }
      memory.publish(nexthop: 1, NexthopEntry(kind: .encap))
      memory.publish(nexthop: 3, NexthopEntry(kind: .receive))
      var out = NexthopEntry(kind: .vrfTranslate)
      out.vrf = outside
      memory.publish(nexthop: 2, out)
      for vrf in [inside, other] {
        route(vrf, "10.0.0.0/8", 1)
        route(vrf, "10.0.0.254/32", 3)
        route(vrf, "fd00::/8", 1)
        route(vrf, "0.0.0.0/0", 2)
        route(vrf, "::/0", 2)
      }
      route(outside, "0.0.0.0/0", 1)
      route(outside, "::/0", 1)
    }

    func route(_ vrf: UInt32, _ prefix: String, _ nexthop: UInt32) {
      let prefix = IPPrefix(prefix)!
      let path = memory.paths.acquire(Path(nexthop: nexthop, label: 0))!
      let root = memory.roots.reader[vrf * 2 + (prefix.isV4 ? 0 : 1)]
      if prefix.isV4 {
        memory.routes.set(root: root, prefix, path: path, isNew: true)
      } else {
        memory.routes6.set(root: root, prefix, path: path)
      }
    }

    func translate(
      _ source: String, _ sourcePort: UInt16, _ destination: String, _ port: UInt16, vrf: UInt32 = inside,
      proto: UInt8 = IPProtocol.tcp, hasPorts: Bool = true, attempt: Int = 0
    ) -> Translation {
      memory.reader.translate(
        FlowKey(
          vrf: vrf, source: IPAddress(source)!, destination: IPAddress(destination)!, proto: proto,
          sourcePort: sourcePort, destinationPort: port),
        hasPorts: hasPorts, worker: &worker, now: now, attempt: attempt)
    }

    func service(
      _ address: String, _ port: UInt16, _ backends: [(address: String, port: UInt16)], affinity: UInt64 = 0,
      pool: UInt32? = nil, serial: UInt32 = 1
    ) {
      let address = IPAddress(address)!
      var entry = TranslationEntry(
        key: TranslationKey(.destination, vrf: inside, address: address, proto: IPProtocol.tcp, port: port),
        target: address, vrf: inside)
      entry.isService = true
      entry.serial = serial
      entry.affinity = affinity
      if let pool {
        entry.translatesSource = true
        entry.pool = pool
      }
      memory.nat.set(
        .destination, entry,
        backends: backends.map { backend in
          let address = IPAddress(backend.address)!
          return ServiceBackend(
            address: address, vrf: inside, port: backend.port, number: address.v4 & 0xFFFF)
        })
    }

    func pool(_ id: UInt32, _ first: String, count: UInt32 = 1, ports: ClosedRange<UInt16> = 1024...65535) throws {
      try memory.nat.setPool(
        id, vrf: outside, first: IPAddress(first)!, count: count, firstPort: ports.lowerBound,
        lastPort: ports.upperBound, blockPorts: 64)
    }

    func floating(_ inside: String, vrf: UInt32, _ outside: String) {
      let inner = IPAddress(inside)!
      let outer = IPAddress(outside)!
      memory.nat.set(
        .inside,
        TranslationEntry(
          key: TranslationKey(.inside, vrf: vrf, address: inner), target: outer, vrf: TranslationTests.outside))
      memory.nat.set(
        .outside,
        TranslationEntry(
          key: TranslationKey(.outside, vrf: TranslationTests.outside, address: outer), target: inner, vrf: vrf))
    }

    func rules(_ rules: SourceRule...) { memory.nat.setRules(vrf: inside, rules) }
  }

  private func prefix(_ text: String) -> IPPrefix { IPPrefix(text)! }

  private func key(
    _ vrf: UInt32, _ source: String, _ sourcePort: UInt16, _ destination: String, _ port: UInt16,
    proto: UInt8 = IPProtocol.tcp
  ) -> FlowKey {
    FlowKey(
      vrf: vrf, source: IPAddress(source)!, destination: IPAddress(destination)!, proto: proto,
      sourcePort: sourcePort, destinationPort: port)
  }

  @Test func leavesAloneWhatNothingIsSaidOf() throws {
    let world = try World()
    #expect(world.translate("10.0.0.1", 1000, "198.51.100.1", 80).outcome == .none)
    world.service("10.96.0.1", 80, [("10.0.0.9", 8080)])
    #expect(world.translate("10.0.0.1", 1000, "198.51.100.1", 80).outcome == .none)
    #expect(world.translate("10.0.0.1", 1000, "10.96.0.1", 81).outcome == .none)
    #expect(world.translate("10.0.0.1", 1000, "10.96.0.1", 80, proto: IPProtocol.udp).outcome == .none)
    #expect(world.translate("10.0.0.1", 1000, "10.96.0.1", 80, vrf: Self.other).outcome == .none)
    world.memory.nat.remove(
      TranslationKey(.destination, vrf: 1, address: IPAddress("10.96.0.1")!, proto: IPProtocol.tcp, port: 80))
    #expect(world.memory.nat.reader.isEmpty)
  }

  /// The metadata service at a link-local address: destination NAT into the host's VRF, for each VRF of its own.
  @Test func translatesTheMetadataAddress() throws {
    let world = try World()
    for vrf in [Self.inside, Self.other] {
      world.memory.nat.set(
        .destination,
        TranslationEntry(
          key: TranslationKey(
            .destination, vrf: vrf, address: IPAddress("169.254.169.254")!, proto: IPProtocol.tcp, port: 80),
          target: IPAddress("192.0.2.10")!, vrf: Self.outside, port: UInt16(8000 + vrf)))
    }
    for vrf in [Self.inside, Self.other] {
      let result = world.translate("10.0.0.1", 1000, "169.254.169.254", 80, vrf: vrf)
      #expect(result.outcome == .translated && result.flags == .destination && result.reference == 0)
      #expect(result.key == key(Self.outside, "10.0.0.1", 1000, "192.0.2.10", UInt16(8000 + vrf)))
    }
    let found = world.memory.nat.reader.service(
      vrf: Self.inside, address: IPAddress("169.254.169.254")!, proto: IPProtocol.tcp, port: 80)
    #expect(found?.entry.targetPort == 8001)
  }

  @Test func spreadsOverBackendsAndStaysWithOne() throws {
    let world = try World()
    let all = (1...4).map { ("10.0.1.\($0)", UInt16(8080)) }
    world.service("10.96.0.1", 80, all)
    var shares: [IPAddress: Int] = [:]
    var chosen: [UInt16: IPAddress] = [:]
    for port: UInt16 in 1...8000 {
      let result = world.translate("10.0.0.1", port, "10.96.0.1", 80)
      #expect(result.flags == [.destination, .service] && result.key.destinationPort == 8080)
      #expect(result.key.source == IPAddress("10.0.0.1") && result.key.sourcePort == port)
      shares[result.key.destination, default: 0] += 1
      chosen[port] = result.key.destination
    }
    #expect(shares.count == 4 && shares.values.allSatisfy { (1800...2200).contains($0) })
    // One backend drains: its flows go elsewhere, few of the others' do.
    world.service("10.96.0.1", 80, Array(all.dropLast()))
    var moved = 0
    for port: UInt16 in 1...8000 {
      let now = world.translate("10.0.0.1", port, "10.96.0.1", 80).key.destination
      #expect(now != IPAddress("10.0.1.4"))
      if chosen[port] != IPAddress("10.0.1.4"), now != chosen[port] { moved += 1 }
    }
    #expect(moved < 8000 * 3 / 4 / 8, "\(moved)")
    world.service("10.96.0.1", 80, [])
    #expect(world.translate("10.0.0.1", 1, "10.96.0.1", 80).outcome == .noBackend)
  }

  @Test func keepsClientsWithTheirBackends() throws {
    let world = try World()
    let second: UInt64 = 1_000_000_000
    let all = (1...10).map { ("10.0.1.\($0)", UInt16(8080)) }
    world.service("10.96.0.1", 80, all, affinity: 100 * second)
    let first = world.translate("10.0.0.1", 1, "10.96.0.1", 80).key.destination
    for port: UInt16 in 2...50 {
      #expect(world.translate("10.0.0.1", port, "10.96.0.1", 80).key.destination == first)
    }
    let other = (2...100).map { world.translate("10.0.0.\($0)", 1, "10.96.0.1", 80).key.destination }
    #expect(Set(other).count > 5)
    // Others come: the client stays for as long as it comes back in time.
    let more = all + (11...30).map { ("10.0.1.\($0)", UInt16(8080)) }
    world.service("10.96.0.1", 80, more, affinity: 100 * second)
    for _ in 0..<5 {
      world.now += 99 * second
      #expect(world.translate("10.0.0.1", 1, "10.96.0.1", 80).key.destination == first)
    }
    // Its backend goes: it has another from then on.
    let rest = more.filter { IPAddress($0.0) != first }
    world.service("10.96.0.1", 80, rest, affinity: 100 * second)
    let second1 = world.translate("10.0.0.1", 1, "10.96.0.1", 80).key.destination
    #expect(second1 != first)
    world.service("10.96.0.1", 80, more, affinity: 100 * second)
    #expect(world.translate("10.0.0.1", 2, "10.96.0.1", 80).key.destination == second1)
    // Another service under the same key knows nothing of it.
    world.service("10.96.0.1", 80, [("10.0.2.1", 1)], affinity: 100 * second, serial: 2)
    #expect(world.translate("10.0.0.1", 2, "10.96.0.1", 80).key.destination == IPAddress("10.0.2.1"))
  }

  /// A backend that is its own client sees the service's address, so that its answers come to the router.
  @Test func turnsHairpinsAround() throws {
    let world = try World()
    world.service("10.96.0.1", 80, [("10.0.0.1", 8080)])
    let result = world.translate("10.0.0.1", 1000, "10.96.0.1", 80)
    #expect(result.flags == [.destination, .service, .source, .hairpin])
    #expect(result.key == key(Self.inside, "10.96.0.1", 1000, "10.0.0.1", 8080))
    // Its answers' key may be taken: other ports are tried.
    let ports = (0..<64).map { world.translate("10.0.0.1", 1000, "10.96.0.1", 80, attempt: $0).key.sourcePort }
    #expect(Set(ports).count == 64 && ports.allSatisfy { $0 >= 1000 })
    #expect(world.translate("10.0.0.1", 1000, "10.96.0.1", 80, attempt: 64).outcome == .exhausted)
    // Others keep their addresses.
    #expect(world.translate("10.0.0.2", 1000, "10.96.0.1", 80).key.source == IPAddress("10.0.0.2"))
  }

  /// A node port: the client gets an address of this node, so that the backend's answers come back here.
  @Test func translatesClientsOfAService() throws {
    let world = try World()
    try world.pool(3, "203.0.113.5")
    world.service("10.96.0.1", 30080, [("10.0.0.1", 8080)], pool: 3)
    let result = world.translate("198.51.100.1", 1000, "10.96.0.1", 30080)
    #expect(result.flags == [.destination, .service, .source] && result.reference != 0)
    #expect(result.key.source == IPAddress("203.0.113.5") && result.key.destination == IPAddress("10.0.0.1"))
    #expect(result.key.vrf == UInt64(Self.inside), "answers come in where the backend is")
    world.worker.release(result.reference)
    #expect(world.worker.ports.leased == 0)
  }

  @Test(arguments: [("10.0.0.5", "203.0.113.7", "198.51.100.1"), ("fd00::5", "2001:db8::7", "2001:db8:1::1")])
  func translatesFloatingAddressesBothWays(inner: String, outer: String, far: String) throws {
    let world = try World()
    world.floating(inner, vrf: Self.inside, outer)
    let out = world.translate(inner, 1000, far, 80)
    #expect(out.flags == .source && out.key == key(Self.outside, outer, 1000, far, 80))
    let into = world.translate(far, 5555, outer, 22, vrf: Self.outside)
    #expect(into.flags == .destination && into.key == key(Self.inside, far, 5555, inner, 22))
    // Any protocol, ports or not.
    let gre = world.translate(inner, 0, far, 0, proto: 47, hasPorts: false)
    #expect(gre.key == key(Self.outside, outer, 0, far, 0, proto: 47))
    // What stays inside stays as it is; so does another VRF's host of the same address.
    let near = inner.contains(":") ? "fd00::6" : "10.0.0.6"
    #expect(world.translate(inner, 1000, near, 80).outcome == .none)
    #expect(world.translate(inner, 1000, far, 80, vrf: Self.other).outcome == .none)
    #expect(world.translate(inner, 1000, far, 80, attempt: 1).outcome == .exhausted)
  }

  /// From one floating address to another: through the outside, so both ends are translated.
  @Test func translatesFloatingToFloating() throws {
    let world = try World()
    world.floating("10.0.0.5", vrf: Self.inside, "203.0.113.7")
    world.floating("10.0.0.5", vrf: Self.other, "203.0.113.8")
    let result = world.translate("10.0.0.5", 1000, "203.0.113.8", 80)
    #expect(result.flags == [.source, .destination])
    #expect(result.key == key(Self.other, "203.0.113.7", 1000, "10.0.0.5", 80))
  }

  @Test func translatesSourcesByRule() throws {
    let world = try World()
    try world.pool(0, "203.0.113.1", count: 2)
    try world.pool(1, "203.0.113.100")
    world.rules(
      SourceRule(source: prefix("10.0.9.0/24"), destination: nil, egress: nil, pool: nil),
      SourceRule(source: prefix("10.0.0.0/16"), destination: prefix("198.51.100.0/24"), egress: Self.outside, pool: 1),
      SourceRule(source: prefix("10.0.0.0/8"), destination: nil, egress: Self.outside, pool: 0))
    let result = world.translate("10.0.0.1", 1000, "192.0.2.1", 80)
    #expect(result.flags == .source && result.reference != 0)
    #expect((1...2).contains(result.key.source.v4 & 0xFF) && result.key.vrf == UInt64(Self.outside))
    #expect(result.key.destination == IPAddress("192.0.2.1") && result.key.destinationPort == 80)
    #expect(world.translate("10.0.0.1", 1000, "198.51.100.7", 80).key.source == IPAddress("203.0.113.100"))
    #expect(world.translate("10.0.9.1", 1000, "192.0.2.1", 80).outcome == .none, "an exception")
    #expect(world.translate("172.16.0.1", 1000, "192.0.2.1", 80).outcome == .none)
    // Not what is for the router itself.
    world.rules(SourceRule(source: prefix("10.0.0.0/8"), destination: nil, egress: nil, pool: 0))
    #expect(world.translate("10.0.0.1", 7, "10.0.0.254", 7, proto: IPProtocol.icmp).outcome == .none)
    #expect(world.translate("10.0.0.1", 7, "10.0.0.253", 7, proto: IPProtocol.icmp).outcome == .translated)
    world.rules(
      SourceRule(source: prefix("10.0.9.0/24"), destination: nil, egress: nil, pool: nil),
      SourceRule(source: prefix("10.0.0.0/8"), destination: nil, egress: Self.outside, pool: 0))
    #expect(world.translate("10.0.0.1", 1000, "10.0.0.2", 80).outcome == .none, "it does not leave")
    // The identifier of an echo is its port, on both sides.
    let echo = world.translate("10.0.0.1", 77, "192.0.2.1", 77, proto: IPProtocol.icmp)
    #expect(echo.outcome == .translated && echo.key.sourcePort == echo.key.destinationPort)
    // Without ports, one address each.
    let gre = world.translate("10.0.0.1", 0, "192.0.2.1", 0, proto: 47, hasPorts: false)
    let again = world.translate("10.0.0.1", 0, "192.0.2.1", 0, proto: 47, hasPorts: false, attempt: 1)
    #expect(gre.key.source != again.key.source && gre.reference == 0)
    #expect(
      world.translate("10.0.0.1", 0, "192.0.2.1", 0, proto: 47, hasPorts: false, attempt: 2).outcome == .exhausted)
    #expect(world.translate("10.0.0.1", 0, "192.0.2.1", 0, hasPorts: false).outcome == .unsupported)
  }

  @Test func runsOutOfPorts() throws {
    let world = try World()
    try world.pool(0, "203.0.113.1", ports: 1024...1123)
    world.rules(SourceRule(source: prefix("10.0.0.0/8"), destination: nil, egress: nil, pool: 0))
    var references: [UInt32] = []
    for port: UInt16 in 1...100 {
      let result = world.translate("10.0.0.1", port, "192.0.2.1", 80)
      #expect(result.outcome == .translated)
      references.append(result.reference)
    }
    #expect(world.translate("10.0.0.1", 200, "192.0.2.1", 80).outcome == .exhausted)
    #expect(world.translate("10.0.0.1", 200, "192.0.2.1", 80, proto: IPProtocol.udp).outcome == .translated)
    world.worker.release(references[50])
    #expect(world.translate("10.0.0.1", 200, "192.0.2.1", 80).outcome == .translated)
  }

  /// A pool that goes while flows have its ports stays until the last of them has ended.
  @Test func keepsAPoolForItsFlows() throws {
    let world = try World()
    try world.pool(0, "203.0.113.1")
    world.rules(SourceRule(source: prefix("10.0.0.0/8"), destination: nil, egress: nil, pool: 0))
    let result = world.translate("10.0.0.1", 1, "192.0.2.1", 80)
    world.memory.nat.removePool(0)
    world.memory.epochs.reclaim()
    world.memory.nat.collect()
    #expect(world.memory.nat.leavingPools == 1)
    #expect(world.translate("10.0.0.1", 2, "192.0.2.1", 80).outcome == .exhausted)
    try world.pool(0, "203.0.113.9")
    #expect(world.translate("10.0.0.1", 2, "192.0.2.1", 80).key.source == IPAddress("203.0.113.9"))
    world.worker.release(result.reference)
    world.memory.nat.collect()
    #expect(world.memory.nat.leavingPools == 0)
  }
}
