import CLinux
import WeftRing
import WeftTables
import WeftWire

/// The policy as the control thread keeps it.
struct PolicyStore {
  struct AddressSet {
    var configuration: AddressSetConfiguration
    /// In `PolicyTable`.
    let number: UInt32
    var members: Set<IPPrefix> = []
  }
  struct MemberKey: Hashable {
    let set: UInt32
    let prefix: IPPrefix
  }

  var sets = SlotStore<UInt32, AddressSet>()
  /// true: excluded.
  var members = SlotStore<MemberKey, Bool>()
  var rules = SlotStore<UInt32, RuleConfiguration>()
  /// When rules may be compiled again (CLOCK_MONOTONIC, ns).
  var nextCommit: UInt64 = 0

  static let maximumSets = 1 << 16
  static let maximumMembers = 1 << 20
}

// Rules, address sets, and the interfaces that the policy is about.

extension TableProgrammer {
  // MARK: committing

  /// Something waits for `commit`.
  public var hasUncommitted: Bool { memory.policy.isPending }

  /// Compiling takes at most a third of the control thread's time, so that who changes one rule after the other does not
  /// wait for each.
  var policyIsDue: Bool { memory.policy.isPending && weft_monotonic_ns() >= policy.nextCommit }

  func commitPolicy() {
    guard memory.policy.isPending else { return }
    let start = weft_monotonic_ns()
    memory.policy.commit()
    let end = weft_monotonic_ns()
    policy.nextCommit = end + 2 * (end - start)
  }

  // MARK: address sets

  func set(_ new: AddressSetConfiguration) throws(Refusal) {
    if var old = policy.sets[new.id]?.value {
      old.configuration = new
      policy.sets.set(new.id, old, generation: generation)
      return
    }
    guard policy.sets.count < PolicyStore.maximumSets else {
      throw Refusal(.tableFull, "all \(PolicyStore.maximumSets) address sets are in use")
    }
    policy.sets.set(
      new.id, PolicyStore.AddressSet(configuration: new, number: memory.policy.makeSet()), generation: generation)
  }

  func remove(addressSet id: UInt32) throws(Refusal) {
    guard let entry = policy.sets[id] else { throw Refusal(.notFound, "address set \(id) is not there") }
    guard entry.uses == 0 else { throw inUse("address set \(id) (\(entry.value.configuration.name))", entry.uses) }
    for prefix in entry.value.members { policy.members.remove(PolicyStore.MemberKey(set: id, prefix: prefix)) }
    memory.policy.removeSet(entry.value.number)
    policy.sets.remove(id)
  }

  func set(_ new: AddressSetMember) throws(Refusal) {
    let set = try requireSet(new.set)
    let key = PolicyStore.MemberKey(set: new.set, prefix: new.prefix)
    let old = policy.members[key]?.value
    if old == new.isExcluded {
      policy.members.renew(key, generation: generation)
      return
    }
    guard old != nil || policy.members.count < PolicyStore.maximumMembers else {
      throw Refusal(.tableFull, "all \(PolicyStore.maximumMembers) members of address sets are in use")
    }
    do throws(PolicyLimit) {
      try memory.policy.insert(new.prefix, into: set, isExcluded: new.isExcluded)
    } catch {
      throw refusal(error, "address set \(new.set), \(new.prefix)")
    }
    policy.members.set(key, new.isExcluded, generation: generation)
    policy.sets.update(new.set) { $0.members.insert(new.prefix) }
  }

  func remove(_ key: PolicyStore.MemberKey) throws(Refusal) {
    let set = try requireSet(key.set)
    guard policy.members.contains(key) else {
      throw Refusal(.notFound, "\(key.prefix) is no member of address set \(key.set)")
    }
    memory.policy.remove(key.prefix, from: set)
    policy.members.remove(key)
    policy.sets.update(key.set) { $0.members.remove(key.prefix) }
  }

  /// The set's number in `PolicyTable`.
  private func requireSet(_ id: UInt32) throws(Refusal) -> UInt32 {
    guard let entry = policy.sets[id] else {
      throw Refusal(.notFound, "address set \(id) is not there; set it first")
    }
    return entry.value.number
  }

  private func refusal(_ limit: PolicyLimit, _ what: String) -> Refusal {
    switch limit {
    case .rules(let count): Refusal(.tableFull, "\(what): all \(count) rules are in use")
    case .ports(let count):
      Refusal(
        .tableFull,
        "\(what): the rules' port ranges begin and end at more than \(count) different places; use fewer ranges")
    case .combinations(let count):
      Refusal(
        .tableFull,
        "\(what): addresses would be in more than \(count) different combinations of sets; use fewer sets")
    }
  }

  // MARK: rules

  func set(_ new: RuleConfiguration) throws(Refusal) {
    let old = policy.rules[new.id]?.value
    if old == new {
      policy.rules.renew(new.id, generation: generation)
      return
    }
    let compiled = try compile(new)
    do throws(PolicyLimit) { try memory.policy.set(compiled) } catch { throw refusal(error, "rule \(new.id)") }
    count(new, 1)
    if let old { count(old, -1) }
    policy.rules.set(new.id, new, generation: generation)
  }

  func remove(rule id: UInt32) throws(Refusal) {
    guard let old = policy.rules[id]?.value else { throw Refusal(.notFound, "rule \(id) is not there") }
    memory.policy.remove(rule: id)
    count(old, -1)
    policy.rules.remove(id)
  }

  /// What the rule refers to has one use more or less.
  private func count(_ rule: RuleConfiguration, _ change: Int) {
    if let vrf = rule.vrf { vrfs.use(vrf, change) }
    if rule.mirror != 0 { mirrors.mirrors.use(UInt32(rule.mirror), change) }
    for set in Set(rule.remoteSets) { policy.sets.use(set, change) }
    if let policer = rule.policer { policers.use(policer, change) }
  }

  /// The rule as the packet path's tables take it, if it makes sense.
  private func compile(_ rule: RuleConfiguration) throws(Refusal) -> PolicyRule {
    func require(_ condition: Bool, _ reason: String) throws(Refusal) {
      guard condition else { throw Refusal(.outOfRange, "rule \(rule.id): \(reason)") }
    }
    try require(rule.id != PolicyRule.noRule, "the number \(PolicyRule.noRule) means that no rule matched")
    if let vrf = rule.vrf { try requireVRF(vrf) }
    if rule.mirror != 0 { try requireMirror(UInt32(rule.mirror), "rule \(rule.id)") }
    try require(
      rule.remoteSets.count <= RuleConfiguration.maximumSets,
      "\(rule.remoteSets.count) address sets, but one rule takes \(RuleConfiguration.maximumSets); make two rules")
    try require(
      rule.sourcePorts.count <= RuleConfiguration.maximumSourcePorts
        && rule.destinationPorts.count <= RuleConfiguration.maximumDestinationPorts,
      "at most \(RuleConfiguration.maximumSourcePorts) ranges of source ports and "
        + "\(RuleConfiguration.maximumDestinationPorts) of destination ports; make two rules")
    if let remote = rule.remotePrefix, let local = rule.localPrefix {
      try require(remote.isV4 == local.isV4, "\(remote) and \(local) are not of one family: it would match nothing")
    }
    let hasPorts = rule.proto.map(PolicyRule.hasPorts) ?? false
    try require(
      hasPorts || rule.sourcePorts.isEmpty && rule.destinationPorts.isEmpty,
      "ports go with a protocol that has them: TCP (6), UDP (17), SCTP (132), DCCP (33) or UDP-Lite (136)")
    let isICMP = rule.proto.map(PolicyRule.isICMP) ?? false
    try require(
      isICMP || rule.icmpType == nil && rule.icmpCode == nil, "an ICMP type goes with ICMP (1) or ICMPv6 (58)")
    try require(rule.icmpType != nil || rule.icmpCode == nil, "an ICMP code means something only with a type")
    try require(
      rule.proto == IPProtocol.tcp || rule.tcpFlagsMask == 0 && rule.tcpFlagsValue == 0, "TCP flags go with TCP (6)")
    try require(
      rule.tcpFlagsValue & ~rule.tcpFlagsMask == 0, "TCP flags outside the mask are asked for: it would match nothing")
    if let dscp = rule.dscp { try require(dscp <= 63, "DSCP \(dscp) has more than 6 bits") }
    if let policer = rule.policer { try requirePolicer(policer) }
    var compiled = PolicyRule(
      id: rule.id, priority: rule.priority, isIngress: rule.direction == .ingress, action: action(rule.action),
      tag: rule.tag)
    compiled.vrf = rule.vrf
    for set in rule.remoteSets { compiled.remoteSets.append(try requireSet(set)) }
    compiled.remotePrefix = rule.remotePrefix
    compiled.localPrefix = rule.localPrefix
    compiled.proto = rule.proto
    compiled.sourcePorts = rule.sourcePorts
    compiled.destinationPorts = rule.destinationPorts
    compiled.icmpType = rule.icmpType
    compiled.icmpCode = rule.icmpCode
    compiled.tcpFlagsMask = rule.tcpFlagsMask
    compiled.tcpFlagsValue = rule.tcpFlagsValue
    compiled.isLogged = rule.isLogged
    compiled.mirror = rule.mirror
    compiled.dscp = rule.dscp ?? PolicyRule.keepDSCP
    compiled.policer = rule.policer.map { $0 + 1 } ?? 0
    return compiled
  }

  private func action(_ action: RuleAction) -> PolicyAction {
    switch action {
    case .allow: .allow
    case .deny: .deny
    case .reject: .reject
    }
  }

  // MARK: subjects

  func checkTags(_ interface: InterfaceConfiguration) throws(Refusal) {
    guard interface.tags.count <= InterfaceConfiguration.maximumTags else {
      throw Refusal(
        .outOfRange,
        "interface \(interface.id) has \(interface.tags.count) tags; it may have \(InterfaceConfiguration.maximumTags)")
    }
    guard !interface.tags.contains(0) else {
      throw Refusal(.outOfRange, "interface \(interface.id): tag 0 means \"any\" in rules and is nobody's")
    }
    guard interface.role.isLocal || interface.tags.isEmpty && !interface.flags.contains(.policy) else {
      throw Refusal(
        .outOfRange, "interface \(interface.id) is \(interface.role.name); the policy is about virtual ones")
    }
  }

  /// What the policy knows the interface as, with one use more; nil where it is not under the policy.
  func subject(of interface: InterfaceConfiguration) -> UInt32? {
    guard interface.flags.contains(.policy) else { return nil }
    return memory.policy.acquireSubject(vrf: interface.vrf, tags: interface.tags)
  }

  /// The interface is published with its new subject: the old one is let go, and flows are judged anew if that makes a
  /// difference to them.
  func replaceSubject(_ old: UInt32?, by new: UInt32?, isNew: Bool) {
    if let old { memory.policy.releaseSubject(old) }
    if old != new, !isNew { memory.policy.touch() }
  }
}
