import Testing
import WeftRing
import WeftTables
import WeftVRouter
import WeftWire

/// Devices that are always there.
private final class Devices: PortProvider {
  func open(_ interface: InterfaceConfiguration) throws(Refusal) -> PortCapabilities {
    PortCapabilities(takesVirtio: true, takesUDPSegmentation: true)
  }
  func start(_ id: UInt32) {}
  func close(_ id: UInt32) {}
  func state(_ id: UInt32) -> InterfaceState { InterfaceState(isUp: true, kernelIndex: id) }
  func isStale(_ interface: InterfaceConfiguration) -> Bool { false }
}

@Suite struct TableProgrammerPolicyTests {
  private struct Fixture {
    let memory: TableMemory
    let programmer: TableProgrammer

    init() throws {
      var limits = TableLimits()
      limits.interfaces = 16
      limits.vrfs = 4
      limits.routeNodes = 64
      memory = try TableMemory(
        sizes: TableSizes(interfaces: 16, vrfs: 4, nexthops: 16, routes: 64, routeNodes: 64, bridge: 16), workers: 1)
      programmer = TableProgrammer(memory: memory, limits: limits, ports: Devices())
      for command in [
        Command.begin(generation: 1), .setVRF(VRFConfiguration(id: 1, name: "blue")),
        .setVRF(VRFConfiguration(id: 2, name: "red")), .setInterface(Self.pod(1, flags: [.usual, .policy], tags: [7])),
        .setInterface(Self.pod(2, flags: .usual)),
        .setAddressSet(AddressSetConfiguration(id: 5, name: "pods")),
        .setAddressSetMember(AddressSetMember(set: 5, prefix: IPPrefix("10.1.0.0/16")!)),
        .setAddressSetMember(AddressSetMember(set: 5, prefix: IPPrefix("10.1.9.0/24")!, isExcluded: true)),
        .setRule(
          Self.rule(1) {
            $0.tag = 7
            $0.remoteSets = [5]
            $0.proto = 6
            $0.destinationPorts = [80...80]
          }),
      ] { try programmer.apply(command) }
    }

    static func pod(
      _ id: UInt32, vrf: UInt32 = 1, flags: InterfaceFlags, tags: [UInt32] = []
    ) -> InterfaceConfiguration {
      InterfaceConfiguration(
        id: id, role: .virtual, port: .packet, device: "pod\(id)", mac: MACAddress(bits: 0x0200_0000_0000 | UInt64(id)),
        vrf: vrf, flags: flags, tags: tags)
    }

    static func rule(_ id: UInt32, _ change: (inout RuleConfiguration) -> Void = { _ in }) -> RuleConfiguration {
      var rule = RuleConfiguration(id: id, priority: 100, direction: .ingress, action: .allow)
      change(&rule)
      return rule
    }

    /// The rule that decides about a TCP connection to an interface; nil where the interface is not under the policy.
    func ask(_ remote: String, to interface: UInt32 = 1, port: UInt16 = 80) throws -> UInt32? {
      let subject = try #require(memory.reader.interface(interface)).entry.policyClass
      guard subject != InterfaceEntry.noPolicy else { return nil }
      let verdict = memory.reader.policy.evaluate(
        PolicyQuery(
          subject: subject, isIngress: true, local: IPAddress("10.1.0.1")!, remote: IPAddress(remote)!, proto: 6,
          sourcePort: 40000, destinationPort: port, tcpFlags: 2))
      memory.reader.policy.countHit(verdict)
      return verdict.rule
    }

    func entries(_ table: TableName) -> [TableEntry] {
      var result: [TableEntry] = []
      _ = programmer.dump(table, cursor: 0, limit: .max) { result.append($0) }
      return result
    }

    func expectRefusal(
      _ command: Command, _ code: RefusalCode, _ words: String, sourceLocation: SourceLocation = #_sourceLocation
    ) {
      do throws(Refusal) {
        try programmer.apply(command)
        Issue.record("\(command) was not refused", sourceLocation: sourceLocation)
      } catch {
        #expect(error.code == code, "\(error)", sourceLocation: sourceLocation)
        #expect(error.reason.contains(words), "\(error)", sourceLocation: sourceLocation)
      }
    }
  }

  @Test func rulesAreInForceAfterCommit() throws {
    let fixture = try Fixture()
    #expect(try fixture.ask("10.1.2.3") == PolicyRule.noRule)
    #expect(fixture.programmer.hasUncommitted)
    fixture.programmer.commit()
    #expect(!fixture.programmer.hasUncommitted)
    #expect(try fixture.ask("10.1.2.3") == 1)
    #expect(try fixture.ask("10.1.9.3") == PolicyRule.noRule, "excepted from the set")
    #expect(try fixture.ask("10.1.2.3", port: 81) == PolicyRule.noRule)
    #expect(try fixture.ask("10.1.2.3", to: 2) == nil)
    #expect(
      fixture.entries(.rules) == [
        .rule(
          Fixture.rule(1) {
            $0.tag = 7
            $0.remoteSets = [5]
            $0.proto = 6
            $0.destinationPorts = [80...80]
          }, hits: 1)
      ])
    #expect(fixture.entries(.addressSets) == [.addressSet(AddressSetConfiguration(id: 5, name: "pods"))])
    #expect(fixture.entries(.addressSetMembers).count == 2)
  }

  @Test func interfacesChangeTheirTags() throws {
    let fixture = try Fixture()
    fixture.programmer.commit()
    func generationGrows(_ command: Command) throws -> Bool {
      let before = fixture.memory.policy.generation
      try fixture.programmer.apply(command)
      fixture.programmer.commit()
      return fixture.memory.policy.generation != before
    }
    #expect(try generationGrows(.setInterface(Fixture.pod(1, flags: [.usual, .policy], tags: [8]))))
    #expect(try fixture.ask("10.1.2.3") == PolicyRule.noRule)
    #expect(try generationGrows(.setInterface(Fixture.pod(1, flags: [.usual, .policy], tags: [8, 7]))))
    #expect(try fixture.ask("10.1.2.3") == 1)
    #expect(try !generationGrows(.setInterface(Fixture.pod(1, flags: [.usual, .policy], tags: [8, 7]))))
    #expect(try !generationGrows(.setInterface(Fixture.pod(1, flags: [.usual, .policy], tags: [7, 8]))))
    #expect(try generationGrows(.setInterface(Fixture.pod(1, flags: .usual, tags: [7]))))
    #expect(try fixture.ask("10.1.2.3") == nil)
    #expect(try generationGrows(.setInterface(Fixture.pod(1, flags: [.usual, .policy], tags: [7]))))
    // One that comes or goes has no flows that could be judged again.
    #expect(try !generationGrows(.setInterface(Fixture.pod(3, vrf: 2, flags: [.usual, .policy], tags: [7]))))
    #expect(try fixture.ask("10.1.2.3", to: 3) == 1)
    #expect(try !generationGrows(.removeInterface(id: 3)))
  }

  @Test func refusesWhatMakesNoSense() throws {
    let fixture = try Fixture()
    typealias Change = (inout RuleConfiguration) -> Void
    let rows: [(RefusalCode, String, Change)] = [
      (.notFound, "VRF 3", { $0.vrf = 3 }),
      (.notFound, "address set 6", { $0.remoteSets = [5, 6] }),
      (.outOfRange, "9 address sets", { $0.remoteSets = Array(repeating: 5, count: 9) }),
      (
        .outOfRange, "make two rules",
        {
          $0.proto = 6
          $0.sourcePorts = Array(repeating: 1...1, count: 5)
        }
      ),
      (
        .outOfRange, "make two rules",
        {
          $0.proto = 6
          $0.destinationPorts = Array(repeating: 1...1, count: 9)
        }
      ),
      (
        .outOfRange, "one family",
        {
          $0.remotePrefix = IPPrefix("10.0.0.0/8")!
          $0.localPrefix = IPPrefix("::/0")!
        }
      ),
      (.outOfRange, "ports go with", { $0.destinationPorts = [80...80] }),
      (
        .outOfRange, "ports go with",
        {
          $0.proto = 1
          $0.sourcePorts = [80...80]
        }
      ),
      (.outOfRange, "ICMP type", { $0.icmpType = 8 }),
      (
        .outOfRange, "ICMP type",
        {
          $0.proto = 6
          $0.icmpType = 8
        }
      ),
      (
        .outOfRange, "only with a type",
        {
          $0.proto = 1
          $0.icmpCode = 0
        }
      ),
      (
        .outOfRange, "TCP flags go",
        {
          $0.proto = 17
          $0.tcpFlagsMask = 2
        }
      ),
      (
        .outOfRange, "outside the mask",
        {
          $0.proto = 6
          $0.tcpFlagsMask = 2
          $0.tcpFlagsValue = 3
        }
      ),
      (.outOfRange, "DSCP 64", { $0.dscp = 64 }),
      (.outOfRange, "no rule matched", { $0.id = .max }),
    ]
    for (code, words, change) in rows { fixture.expectRefusal(.setRule(Fixture.rule(2, change)), code, words) }
    let tags = { (tags: [UInt32]) in Command.setInterface(Fixture.pod(1, flags: .usual, tags: tags)) }
    fixture.expectRefusal(tags([0]), .outOfRange, "tag 0")
    fixture.expectRefusal(tags(Array(1...9)), .outOfRange, "9 tags")
    var fabric = InterfaceConfiguration(
      id: 9, role: .fabric, port: .packet, device: "fab0", mac: MACAddress(bits: 0x0200_0000_00F0), flags: .policy)
    fixture.expectRefusal(.setInterface(fabric), .outOfRange, "fabric")
    fabric.flags = .usual
    fabric.tags = [1]
    fixture.expectRefusal(.setInterface(fabric), .outOfRange, "fabric")
    fixture.expectRefusal(.removeRule(id: 2), .notFound, "rule 2")
    fixture.expectRefusal(.removeAddressSet(id: 5), .inUse, "pods")
    fixture.expectRefusal(.removeAddressSet(id: 6), .notFound, "address set 6")
    fixture.expectRefusal(
      .setAddressSetMember(AddressSetMember(set: 6, prefix: IPPrefix("::/0")!)), .notFound, "address set 6")
    fixture.expectRefusal(.removeAddressSetMember(set: 6, prefix: IPPrefix("::/0")!), .notFound, "address set 6")
    fixture.expectRefusal(.removeAddressSetMember(set: 5, prefix: IPPrefix("::/0")!), .notFound, "no member")
    // Nothing of all that has left a trace.
    fixture.programmer.commit()
    #expect(fixture.memory.policy.ruleCount == 1)
    #expect(try fixture.ask("10.1.2.3") == 1)
  }

  @Test func whatRulesReferToStays() throws {
    let fixture = try Fixture()
    let apply = { (command: Command) in try fixture.programmer.apply(command) }
    try apply(
      .setRule(
        Fixture.rule(2) {
          $0.vrf = 2
          $0.remoteSets = [5, 5]
        }))
    fixture.expectRefusal(.removeVRF(id: 2), .inUse, "red")
    // A rule that changes lets go of what it referred to.
    try apply(.setRule(Fixture.rule(2)))
    try apply(.removeVRF(id: 2))
    fixture.expectRefusal(.removeAddressSet(id: 5), .inUse, "1 other entry")
    try apply(.removeRule(id: 1))
    try apply(.removeAddressSet(id: 5))
    #expect(fixture.entries(.addressSetMembers).isEmpty)
    fixture.programmer.commit()
    #expect(try fixture.ask("10.1.2.3") == 2)
    #expect(fixture.memory.policy.classCount == 1)
    // The number is free for another set, which has nothing of the first.
    try apply(.setAddressSet(AddressSetConfiguration(id: 5, name: "others")))
    try apply(.setRule(Fixture.rule(2) { $0.remoteSets = [5] }))
    fixture.programmer.commit()
    #expect(try fixture.ask("10.1.2.3") == PolicyRule.noRule)
  }

  @Test func sweepTakesWhatIsStale() throws {
    let fixture = try Fixture()
    let apply = { (command: Command) in try fixture.programmer.apply(command) }
    fixture.programmer.commit()
    try apply(.begin(generation: 2))
    for command in [
      Command.setVRF(VRFConfiguration(id: 1, name: "blue")),
      .setInterface(Fixture.pod(1, flags: [.usual, .policy], tags: [7])),
      .setAddressSet(AddressSetConfiguration(id: 5, name: "pods")),
      .setAddressSetMember(AddressSetMember(set: 5, prefix: IPPrefix("10.1.0.0/16")!)),
      .setAddressSet(AddressSetConfiguration(id: 6, name: "new")),
      .setRule(Fixture.rule(3) { $0.remoteSets = [5] }),
      .sweep(generation: 2),
    ] { try apply(command) }
    fixture.programmer.commit()
    #expect(try fixture.ask("10.1.2.3", port: 9) == 3)
    #expect(try fixture.ask("10.1.9.3", port: 9) == 3, "the exception was not renewed")
    #expect(fixture.entries(.rules).count == 1)
    #expect(fixture.entries(.addressSets).count == 2)
    #expect(fixture.entries(.addressSetMembers).count == 1)
    #expect(fixture.entries(.interfaces).count == 1)
  }
}
