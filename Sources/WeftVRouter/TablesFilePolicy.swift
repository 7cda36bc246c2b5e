import WeftRing
import WeftTables
import WeftWire

// The policy in TABLES.json: flags and tags of interfaces, address sets, rules.

extension TablesFileBuilder {
  /// An interface's flags and tags.
  func readFlags(_ object: TablesFileObject, _ interface: inout InterfaceConfiguration) throws(TablesFileError) {
    if let list = object.optional("flags") {
      interface.flags = []
      for node in try list.array() {
        let name = try node.text()
        guard let flag = InterfaceFlags.names.first(where: { $0.name == name })?.flag else {
          throw node.fail("\"\(name)\" is none of \(InterfaceFlags.names.map(\.name).joined(separator: ", "))")
        }
        guard !interface.flags.contains(flag) else { throw node.fail("the flag stands here twice; remove one") }
        interface.flags.insert(flag)
      }
      if interface.role == .fabric {
        if interface.flags.contains(.policy) {
          throw list.fail("the policy is about virtual interfaces; remove the flag \"policy\"")
        }
        let foreign = interface.flags.subtracting([.bridging, .routing, .clampMSS])
        guard foreign.isEmpty, interface.flags.isSuperset(of: .usual) else {
          throw list.fail("a fabric interface has the flags bridging and routing, perhaps clamp-mss, and no others")
        }
      } else if interface.role == .monitoring {
        throw list.fail("only copies go out of a monitoring interface; remove the key")
      } else if interface.flags.isDisjoint(with: .usual) {
        throw list.fail("it neither bridges nor routes; add \"bridging\" or \"routing\"")
      } else if interface.flags.contains(.learning),
        !interface.flags.contains(.bridging) || interface.flags.contains(.antiSpoofing)
      {
        throw list.fail("learning goes with bridging, and not with anti-spoofing, which lets one MAC address in")
      }
    }
    if let list = object.optional("tags") {
      guard interface.role.isLocal else { throw list.fail("only virtual interfaces have tags; remove the key") }
      for node in try list.array() { interface.tags.append(try node.integer(1...UInt32.max)) }
      guard interface.tags.count <= InterfaceConfiguration.maximumTags else {
        throw list.fail("an interface has at most \(InterfaceConfiguration.maximumTags) tags")
      }
    }
  }

  mutating func readPolicy(sets: TablesFileNode?, rules: TablesFileNode?) throws(TablesFileError) {
    var known: [UInt32: String] = [:]
    for node in try sets?.array() ?? [] { try readAddressSet(node, &known) }
    var taken: [UInt32: String] = [:]
    for node in try rules?.array() ?? [] { try readRule(node, &taken, sets: known) }
  }

  private mutating func readAddressSet(
    _ node: TablesFileNode, _ taken: inout [UInt32: String]
  ) throws(TablesFileError) {
    let object = try node.object(keys: ["id", "name", "members", "except"])
    let idNode = try object.required("id")
    let id = try idNode.integer(0...UInt32.max)
    try claim(id, in: &taken, node.path, at: idNode, "address set \(id)")
    var set = AddressSetConfiguration(id: id, name: "")
    if let node = object.optional("name") { set.name = try name(node) }
    add(.setAddressSet(set), node)
    var prefixes: [IPPrefix: String] = [:]
    for (key, isExcluded) in [("members", false), ("except", true)] {
      for member in try object.optional(key)?.array() ?? [] {
        let prefix = try member.prefix()
        try claim(prefix, in: &prefixes, member.path, at: member, "\(prefix) of address set \(id)")
        add(.setAddressSetMember(AddressSetMember(set: id, prefix: prefix, isExcluded: isExcluded)), member)
      }
    }
  }

  private mutating func readRule(
    _ node: TablesFileNode, _ taken: inout [UInt32: String], sets: [UInt32: String]
  ) throws(TablesFileError) {
    let object = try node.object(keys: [
      "id", "name", "priority", "direction", "action", "tag", "vrf", "remote-sets", "remote-prefix", "local-prefix",
      "protocol", "source-ports", "destination-ports", "icmp-type", "icmp-code", "tcp-flags", "log", "mirror", "dscp",
      "policer",
    ])
    let idNode = try object.required("id")
    let id = try idNode.integer(0...UInt32.max - 1)
    try claim(id, in: &taken, node.path, at: idNode, "rule \(id)")
    var rule = RuleConfiguration(
      id: id, priority: try object.required("priority").integer(0...UInt32.max),
      direction: try object.required("direction").choice { $0.name },
      action: try object.required("action").choice { $0.name })
    if let node = object.optional("name") { rule.name = try name(node) }
    if let node = object.optional("tag") { rule.tag = try node.integer(0...UInt32.max) }
    if let node = object.optional("vrf") { rule.vrf = try vrf(node) }
    for node in try list(object, "remote-sets", maximum: RuleConfiguration.maximumSets) {
      let set = try node.integer(0...UInt32.max)
      guard sets[set] != nil else { throw node.fail("there is no address set \(set) in $.address-sets") }
      rule.remoteSets.append(set)
    }
    rule.remotePrefix = try object.optional("remote-prefix")?.prefix()
    if let node = object.optional("local-prefix") {
      let prefix = try node.prefix()
      if let remote = rule.remotePrefix, remote.isV4 != prefix.isV4 {
        throw node.fail("\(prefix) and the remote prefix \(remote) are not of one family: it would match nothing")
      }
      rule.localPrefix = prefix
    }
    if let node = object.optional("protocol") { rule.proto = UInt8(try node.integer(0...255)) }
    try readTransport(object, &rule)
    if let node = object.optional("log") { rule.isLogged = try node.flag() }
    if let node = object.optional("mirror") { rule.mirror = UInt16(try mirror(node)) }
    if let node = object.optional("dscp") { rule.dscp = UInt8(try node.integer(0...63)) }
    rule.policer = try policer(object.optional("policer"))
    add(.setRule(rule), node)
  }

  /// Ports, ICMP type and code, TCP flags: each for protocols that have them.
  private func readTransport(
    _ object: TablesFileObject, _ rule: inout RuleConfiguration
  ) throws(TablesFileError) {
    if !(rule.proto.map(PolicyRule.hasPorts) ?? false) {
      try object.refuse(
        ["source-ports", "destination-ports"],
        "ports go with a protocol that has them: 6 (TCP), 17 (UDP), 132 (SCTP), 33 (DCCP) or 136 (UDP-Lite)")
    }
    if !(rule.proto.map(PolicyRule.isICMP) ?? false) {
      try object.refuse(["icmp-type", "icmp-code"], "it goes with the protocol 1 (ICMP) or 58 (ICMPv6)")
    }
    if rule.proto != IPProtocol.tcp { try object.refuse(["tcp-flags"], "it goes with the protocol 6 (TCP)") }
    for node in try list(object, "source-ports", maximum: RuleConfiguration.maximumSourcePorts) {
      rule.sourcePorts.append(try node.ports())
    }
    for node in try list(object, "destination-ports", maximum: RuleConfiguration.maximumDestinationPorts) {
      rule.destinationPorts.append(try node.ports())
    }
    if let node = object.optional("icmp-type") { rule.icmpType = UInt8(try node.integer(0...255)) }
    if let node = object.optional("icmp-code") {
      guard rule.icmpType != nil else { throw node.fail("a code means something only with an icmp-type") }
      rule.icmpCode = UInt8(try node.integer(0...255))
    }
    if let node = object.optional("tcp-flags") {
      let flags = try node.object(keys: ["mask", "value"])
      rule.tcpFlagsMask = UInt8(try flags.required("mask").integer(1...255))
      let value = try flags.required("value")
      rule.tcpFlagsValue = UInt8(try value.integer(0...255))
      guard rule.tcpFlagsValue & ~rule.tcpFlagsMask == 0 else {
        throw value.fail("it has flags that the mask \(rule.tcpFlagsMask) leaves out: it would match nothing")
      }
    }
  }

  private func list(
    _ object: TablesFileObject, _ key: String, maximum: Int
  ) throws(TablesFileError) -> [TablesFileNode] {
    guard let node = object.optional(key) else { return [] }
    let entries = try node.array()
    guard (1...maximum).contains(entries.count) else {
      throw node.fail("1 to \(maximum) entries; leave the key out for any, make two rules for more")
    }
    return entries
  }

  func name(_ node: TablesFileNode) throws(TablesFileError) -> String {
    let name = try node.text()
    guard name.utf8.count <= 63, name.unicodeScalars.allSatisfy({ $0.value >= 0x20 && $0.value != 0x7F }) else {
      throw node.fail("a name has at most 63 bytes and no control characters")
    }
    return name
  }
}

extension TablesFileNode {
  /// A port, or "FIRST-LAST".
  fileprivate func ports() throws(TablesFileError) -> ClosedRange<UInt16> {
    guard case .text(let text) = value.content else {
      let port = UInt16(try integer(0...65535))
      return port...port
    }
    let parts = text.split(separator: "-", omittingEmptySubsequences: false)
    guard parts.count == 2, parts.allSatisfy({ $0.utf8.allSatisfy { (0x30...0x39).contains($0) } }),
      let first = UInt16(parts[0]), let last = UInt16(parts[1]), first <= last
    else { throw fail("\"\(text)\" is no range of ports such as \"8000-8999\"; one port is a number") }
    return first...last
  }
}
