import WeftForwarding
import WeftRing
import WeftTables
import WeftWire

/// Puts what the packet path noted of a packet into words, with the entries of the tables that it went by.
struct TraceReport {
  let programmer: TableProgrammer
  let flows: [FlowSnapshot]
  let now: UInt64
  private(set) var steps: [TraceStep] = []
  /// By packet of the batch: its key as it came in; what has been said of it.
  private var keys: [UInt32: FlowKey] = [:]
  private var saidFlow: Set<UInt32> = []
  private var saidRoute: Set<UInt32> = []

  init(programmer: TableProgrammer, flows: [FlowSnapshot], now: UInt64) {
    self.programmer = programmer
    self.flows = flows
    self.now = now
  }

  private mutating func say(_ stage: String, _ fields: [TraceStep.Field?]) {
    steps.append(TraceStep(stage, fields.compactMap { $0 }))
  }

  // MARK: in

  mutating func arrival(_ frame: [UInt8], _ id: UInt32) {
    guard let interface = programmer.interfaces[id]?.value.configuration else { return }
    let description = FrameDescription(frame)
    say(
      "receive",
      [
        .number("interface", id), .text("device", interface.device), .text("role", interface.role.name),
        interface.role == .fabric ? nil : .number("vrf", interface.vrf),
        interface.role == .fabric ? nil : vrfName(interface.vrf), .number("bytes", frame.count),
      ] + description.ethernet)
    if interface.role == .fabric, !description.outer.isEmpty { say("outer", description.outer) }
  }

  mutating func add(_ record: TraceRecord) {
    switch record.stage {
    case .receive, .coalesce: break
    case .decapsulate:
      guard record.outcome == .forward else { return }
      say(
        "decapsulate",
        [
          .number("vrf", record.vrf), vrfName(record.vrf),
          record.hasPath || record.path.nexthop != 0 ? .number("nexthop", record.path.nexthop) : nil,
          record.hasEthernet
            ? .text("inner-destination-mac", MACAddress(bits: record.destinationMAC).description) : nil,
        ])
    case .parse: parsed(record)
    case .policy: judged(record)
    case .police:
      say(
        "policer",
        [
          .number("policer", record.policer &- 1),
          programmer.policers[record.policer &- 1].flatMap {
            $0.value.name.isEmpty ? nil : .text("name", $0.value.name)
          },
          .text("color", "\(record.color)"),
        ])
    case .mark:
      say("mark", [record.pcp == noMark ? .number("dscp", record.dscp) : .number("pcp", record.pcp)])
    case .classify:
      if record.isOwn { received(record) } else if record.outcome == .forward { flow(record) }
    case .route:
      if record.outcome == .forward { routed(record) }
      if record.outcome == .flood { replicated(record) }
    case .transmit: if record.isOwn, record.etherType != Ethernet.arp { made(record) }
    case .trap: say("trap", [.text("to", "agent"), .number("interface", record.interface)])
    case .drop: dropped(record)
    }
  }

  private mutating func parsed(_ record: TraceRecord) {
    if record.outcome == .reply {
      say("answer", [.text("question", record.etherType == Ethernet.arp ? "arp" : "neighbor-solicitation")])
      return
    }
    guard record.outcome == .forward || record.outcome == .merged, record.etherType != Ethernet.arp else { return }
    keys[record.packet] = record.key
    let isTCP = record.key.proto == IPProtocol.tcp && !record.isFragment
    say(
      "parse",
      [
        .text("family", record.isV4 ? "ipv4" : "ipv6"), .number("protocol", record.key.proto),
        .text("source", record.key.source.description), .text("destination", record.key.destination.description),
        hasPorts(record.key) ? .number("source-port", record.key.sourcePort) : nil,
        hasPorts(record.key) ? .number("destination-port", record.key.destinationPort) : nil,
        isTCP ? .text("tcp-flags", Self.flags(record.tcpFlags)) : nil, .number("ttl", record.hops),
        .number("dscp", record.trafficClass >> 2), .number("ecn", record.trafficClass & 3),
        record.forwardingClass == 0 ? nil : .number("forwarding-class", record.forwardingClass),
        .number("bytes", record.bytes), record.isFragment ? .text("fragment", "yes") : nil,
        .text("to", record.isRouted ? "router" : MACAddress(bits: record.destinationMAC).description),
      ])
  }

  // MARK: flow, policy, translation

  private mutating func judged(_ record: TraceRecord) {
    let interface = programmer.interfaces[record.interface]?.value.configuration
    let rule = programmer.policy.rules[record.verdict.rule]?.value
    say(
      "policy",
      [
        .text("direction", record.isIngress ? "ingress" : "egress"), .number("interface", record.interface),
        interface.flatMap { $0.tags.isEmpty ? nil : .text("tags", $0.tags.map(String.init).joined(separator: ",")) },
        rule.map { .number("rule", $0.id) } ?? .text("rule", "none matches"),
        rule.flatMap { $0.name.isEmpty ? nil : .text("name", $0.name) }, rule.map { .number("priority", $0.priority) },
        .text("action", Self.name(record.verdict.action)), record.verdict.isLogged ? .text("log", "yes") : nil,
        record.verdict.mirror == 0 ? nil : .number("mirror", record.verdict.mirror),
      ])
  }

  private mutating func flow(_ record: TraceRecord) {
    guard !record.isOwn, saidFlow.insert(record.packet).inserted else { return }
    let key = keys[record.packet] ?? record.key
    guard record.hasFlow else {
      say("flow", [.text("state", "none")])
      translated(record, from: key)
      return
    }
    let known = flows.first { $0.forward.key == record.flowKey || $0.reverse?.key == record.flowKey }
    var fields: [TraceStep.Field?] = [.text("state", known == nil ? "new" : "known")]
    if let known {
      let entry = known.forward.key == record.flowKey ? known.forward : known.reverse ?? known.forward
      fields += [
        .number("worker", known.worker), .text("direction", entry.isForward ? "forward" : "reverse"),
        .number("packets", entry.packets), .number("bytes", entry.bytes),
        .number("age-milliseconds", (now &- min(now, entry.created)) / 1_000_000),
      ]
    }
    if key.proto == IPProtocol.tcp, !record.isFragment { fields.append(.text("tcp", "\(record.tcpState)")) }
    var flags: [String] = []
    for (flag, name) in [
      (FlowFlags.denied, "denied"), (.rejected, "rejected"), (.nat, "nat"), (.mirrored, "mirrored"),
      (.logged, "logged"),
    ] where record.flowFlags.contains(flag) { flags.append(name) }
    if !flags.isEmpty { fields.append(.text("flags", flags.joined(separator: ","))) }
    if record.flowRule != PolicyRule.noRule { fields.append(.number("rule", record.flowRule)) }
    if record.mirror != 0 { fields.append(.number("mirror", record.mirror)) }
    say("flow", fields)
    translated(record, from: key)
  }

  private mutating func translated(_ record: TraceRecord, from key: FlowKey) {
    let target = record.key
    guard target != key else { return }
    var fields: [TraceStep.Field?] = []
    if target.destination != key.destination || target.destinationPort != key.destinationPort {
      let asked = ServiceKey(
        vrf: UInt32(truncatingIfNeeded: key.vrf), address: key.destination, proto: key.proto, port: key.destinationPort)
      let nat = programmer.nat
      if let service = nat.services[asked]?.value.configuration {
        fields += [
          .text("service", service.key.description), service.name.isEmpty ? nil : .text("name", service.name),
          .text("backend", end(target.destination, target.destinationPort, target)),
        ]
      } else {
        if nat.destinations.contains(asked) { fields.append(.text("destination-nat", asked.description)) }
        fields.append(.text("destination", end(target.destination, target.destinationPort, target)))
      }
    }
    if target.source != key.source || target.sourcePort != key.sourcePort {
      fields.append(.text("source", end(target.source, target.sourcePort, target)))
      if let pool = pool(of: target.source) {
        fields += [.number("pool", pool.id), pool.name.isEmpty ? nil : .text("pool-name", pool.name)]
      }
    }
    if target.vrf != key.vrf {
      fields += [.number("vrf", target.vrf), vrfName(UInt32(truncatingIfNeeded: target.vrf))]
    }
    say("nat", fields)
  }

  private func pool(of address: IPAddress) -> NATPoolConfiguration? {
    var found: NATPoolConfiguration?
    _ = programmer.nat.pools.read(from: 0, limit: .max) { entry in
      let pool = entry.value
      if pool.first.isV4 == address.isV4, pool.first <= address, address <= pool.last { found = found ?? pool }
    }
    return found
  }

  // MARK: routes and nexthops

  private mutating func routed(_ record: TraceRecord) {
    guard saidRoute.insert(record.packet).inserted else { return }
    if record.isOwn, !record.fromFabric { return }
    guard record.isRouted else { return bridged(record) }
    var vrf = UInt32(truncatingIfNeeded: record.key.vrf)
    for _ in 0..<4 {
      guard let route = longest(vrf, record.key.destination) else {
        say("route", [.number("vrf", vrf), vrfName(vrf), .text("prefix", "none")])
        return
      }
      say(
        "route",
        [
          .number("vrf", vrf), vrfName(vrf), .text("prefix", route.prefix.description),
          .number("nexthop", route.nexthop), route.label == 0 ? nil : .number("label", route.label),
        ])
      guard let nexthop = programmer.nexthops[route.nexthop]?.value else { return }
      self.nexthop(nexthop)
      if case .vrfTranslate(let next) = nexthop.action {
        vrf = next
        continue
      }
      chosen(record, of: nexthop)
      return
    }
  }

  /// What the router has answered is for an address of its own.
  private mutating func received(_ record: TraceRecord) {
    guard let key = keys[record.packet], saidRoute.insert(record.packet).inserted else { return }
    let vrf = UInt32(truncatingIfNeeded: key.vrf)
    guard let route = longest(vrf, key.destination) else { return }
    say(
      "route",
      [
        .number("vrf", vrf), vrfName(vrf), .text("prefix", route.prefix.description), .number("nexthop", route.nexthop),
      ])
    if let nexthop = programmer.nexthops[route.nexthop]?.value { self.nexthop(nexthop) }
  }

  private mutating func bridged(_ record: TraceRecord) {
    let mac = MACAddress(bits: record.destinationMAC)
    let entry = programmer.bridge[TableProgrammer.BridgeKey(vrf: record.vrf, mac: mac)]?.value.configuration
    say(
      "bridge",
      [
        .number("vrf", record.vrf), vrfName(record.vrf), .text("mac", mac.description),
        entry.map { .number("nexthop", $0.nexthop) } ?? .text("nexthop", "none"),
        entry.flatMap { $0.label == 0 ? nil : .number("label", $0.label) },
      ])
    guard let entry, let nexthop = programmer.nexthops[entry.nexthop]?.value else { return }
    self.nexthop(nexthop)
    chosen(record, of: nexthop)
  }

  /// Of several ways, the one that this flow takes.
  private mutating func chosen(_ record: TraceRecord, of nexthop: NexthopConfiguration) {
    guard case .ecmp = nexthop.action, record.hasPath, let member = programmer.nexthops[record.path.nexthop]?.value
    else { return }
    say(
      "member",
      [.number("nexthop", member.id), record.path.label == 0 ? nil : .number("label", record.path.label)])
    self.nexthop(member)
  }

  /// To all members of a multicast nexthop.
  private mutating func replicated(_ record: TraceRecord) {
    guard let nexthop = programmer.nexthops[record.path.nexthop]?.value,
      saidRoute.insert(record.packet).inserted
    else { return }
    say(
      "replicate",
      [
        .number("vrf", record.vrf), vrfName(record.vrf),
        .text("mac", MACAddress(bits: record.destinationMAC).description),
      ])
    self.nexthop(nexthop)
  }

  private func longest(_ vrf: UInt32, _ address: IPAddress) -> RouteConfiguration? {
    for length in stride(from: address.width, through: 0, by: -1) {
      guard let prefix = IPPrefix(address, length: length) else { continue }
      let key = TableProgrammer.RouteKey(vrf: vrf, prefix: prefix)
      if let route = programmer.routes[key]?.value.configuration { return route }
    }
    return nil
  }

  private mutating func nexthop(_ nexthop: NexthopConfiguration) {
    let fields: [TraceStep.Field?]
    switch nexthop.action {
    case .discard: fields = [.text("action", "discard")]
    case .receive: fields = [.text("action", "receive")]
    case .receiveAt(let interface): fields = [.text("action", "receive"), .number("interface", interface)]
    case .resolve(let interface): fields = [.text("action", "resolve"), .number("interface", interface)]
    case .l2Receive(let vrf): fields = [.text("action", "l2-receive"), .number("vrf", vrf), vrfName(vrf)]
    case .l3Receive(let vrf): fields = [.text("action", "l3-receive"), .number("vrf", vrf), vrfName(vrf)]
    case .multicast(let members):
      fields = [
        .text("action", "multicast"), .text("members", members.map { String($0.nexthop) }.joined(separator: ",")),
      ]
    case .encap(let interface, let mac):
      fields = [.text("action", "encap"), .number("interface", interface), .text("destination-mac", mac.description)]
    case .tunnel(let tunnel):
      fields = [
        .text("action", "tunnel"), .text("encapsulation", tunnel.encapsulation.name),
        .number("interface", tunnel.interface), .text("source", tunnel.source.description),
        .text("destination", tunnel.destination.description),
        .text("destination-mac", tunnel.destinationMAC.isZero ? "not resolved" : tunnel.destinationMAC.description),
      ]
    case .vrfTranslate(let vrf): fields = [.text("action", "vrf-translate"), .number("vrf", vrf), vrfName(vrf)]
    case .ecmp(let members):
      fields = [
        .text("action", "ecmp"), .text("members", members.map { String($0.nexthop) }.joined(separator: ",")),
      ]
    }
    say("nexthop", [.number("nexthop", nexthop.id)] + fields)
  }

  // MARK: out

  private mutating func made(_ record: TraceRecord) {
    guard record.outcome == .forward || record.outcome == .reply else { return }
    say(
      "answer",
      [
        .number("protocol", record.key.proto), .text("source", record.key.source.description),
        .text("destination", record.key.destination.description),
      ])
  }

  private mutating func dropped(_ record: TraceRecord) {
    guard let reason = record.reason else { return }
    if record.hasFlow { flow(record) }
    switch reason {
    case .noRoute, .discardNexthop, .nexthopInvalid, .nexthopUnresolved, .unknownMAC, .hairpin, .noService,
      .linkLocalRouted:
      routed(record)
    default: break
    }
    say("drop", [.text("reason", reason.name), .text("explanation", reason.explanation)])
  }

  mutating func mirror(_ id: UInt32, _ counts: MirrorCounts) {
    guard let mirror = programmer.mirrors.mirrors[id]?.value.configuration else { return }
    var fields: [TraceStep.Field?] = [.number("mirror", id)]
    switch mirror.destination {
    case .interface(let interface): fields.append(.number("interface", interface))
    case .tunnel(let nexthop, let vni): fields += [.number("nexthop", nexthop), .number("vni", vni)]
    }
    fields += [
      .number("packets", counts.packets), .number("bytes", counts.bytes),
      counts.shortened == 0 ? nil : .number("shortened", counts.shortened),
      counts.lost == 0 ? nil : .number("lost", counts.lost),
    ]
    say("mirror", fields)
  }

  mutating func departure(_ sent: Trace.Frame) {
    let interface = programmer.interfaces[sent.interface]?.value.configuration
    let description = FrameDescription(sent.bytes)
    say(
      "transmit",
      [
        .number("interface", sent.interface), interface.map { .text("device", $0.device) },
        .number("bytes", sent.bytes.count),
      ] + description.ethernet + (interface?.role == .fabric ? description.outer : []))
  }

  // MARK: words

  private func vrfName(_ vrf: UInt32) -> TraceStep.Field? {
    programmer.vrfs[vrf].map { .text("vrf-name", $0.value.configuration.name) }
  }

  private func hasPorts(_ key: FlowKey) -> Bool { key.transport >> 32 != 0 }

  private func end(_ address: IPAddress, _ port: UInt16, _ key: FlowKey) -> String {
    guard hasPorts(key) else { return address.description }
    return address.isV4 ? "\(address):\(port)" : "[\(address)]:\(port)"
  }

  private static func name(_ action: PolicyAction) -> String {
    switch action {
    case .allow: "allow"
    case .deny: "deny"
    case .reject: "reject"
    }
  }

  private static func flags(_ value: UInt8) -> String {
    let names = ["fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr"]
    let set = names.indices.filter { value >> UInt8($0) & 1 == 1 }.map { names[$0] }
    return set.isEmpty ? "none" : set.joined(separator: ",")
  }
}

extension TraceStep.Field {
  static func number(_ name: String, _ value: some BinaryInteger) -> TraceStep.Field {
    TraceStep.Field(name, .number(UInt64(clamping: value)))
  }
  static func text(_ name: String, _ value: String) -> TraceStep.Field { TraceStep.Field(name, .text(value)) }
}
