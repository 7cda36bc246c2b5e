import WeftWire

// How the policy's entries lie in a slot. Writer and reader of each stand together.

private let nameBytes = 63

extension SlotWriter {
  mutating func put(_ entry: AddressSetConfiguration) {
    put(entry.id)
    put(entry.name, maximum: nameBytes)
  }

  mutating func put(_ entry: AddressSetMember) {
    put(entry.set)
    put(entry.prefix)
    put(UInt8(entry.isExcluded ? 1 : 0))
  }

  mutating func put(_ rule: RuleConfiguration) {
    put(rule.id)
    put(rule.name, maximum: nameBytes)
    put(rule.priority)
    put(rule.direction.rawValue)
    put(rule.action.rawValue)
    put(rule.tag)
    putOptional(rule.vrf)
    let sets = rule.remoteSets.prefix(RuleConfiguration.maximumSets)
    put(UInt8(sets.count))
    for set in sets { put(set) }
    putOptional(rule.remotePrefix)
    putOptional(rule.localPrefix)
    putOptional(rule.proto)
    put(rule.sourcePorts.prefix(RuleConfiguration.maximumSourcePorts))
    put(rule.destinationPorts.prefix(RuleConfiguration.maximumDestinationPorts))
    putOptional(rule.icmpType)
    putOptional(rule.icmpCode)
    put(rule.tcpFlagsMask)
    put(rule.tcpFlagsValue)
    put(UInt8(rule.isLogged ? 1 : 0))
    put(rule.mirror)
    putOptional(rule.dscp)
    putOptional(rule.policer)
  }

  mutating func putOptional<T: FixedWidthInteger>(_ value: T?) {
    put(UInt8(value == nil ? 0 : 1))
    if let value { put(value) }
  }

  mutating func putOptional(_ prefix: IPPrefix?) {
    put(UInt8(prefix == nil ? 0 : 1))
    if let prefix { put(prefix) }
  }

  private mutating func put(_ ranges: ArraySlice<ClosedRange<UInt16>>) {
    put(UInt8(ranges.count))
    for range in ranges {
      put(range.lowerBound)
      put(range.upperBound)
    }
  }
}

extension SlotReader {
  mutating func addressSet() throws(SlotFault) -> AddressSetConfiguration {
    AddressSetConfiguration(id: try get("set id"), name: try text("set name", maximum: nameBytes))
  }

  mutating func addressSetMember() throws(SlotFault) -> AddressSetMember {
    AddressSetMember(set: try get("set"), prefix: try prefix("prefix"), isExcluded: try flag("excluded"))
  }

  mutating func rule() throws(SlotFault) -> RuleConfiguration {
    let id: UInt32 = try get("rule id")
    let name = try text("rule name", maximum: nameBytes)
    var rule = RuleConfiguration(
      id: id, name: name, priority: try get("priority"), direction: try option("direction"),
      action: try option("action"), tag: try get("tag"), vrf: try optional("vrf"))
    let sets = Int(try get("set count", as: UInt8.self))
    guard sets <= RuleConfiguration.maximumSets else { throw SlotFault(what: "set count") }
    for _ in 0..<sets { rule.remoteSets.append(try get("set")) }
    rule.remotePrefix = try optionalPrefix("remote prefix")
    rule.localPrefix = try optionalPrefix("local prefix")
    rule.proto = try optional("protocol")
    rule.sourcePorts = try ports("source ports", maximum: RuleConfiguration.maximumSourcePorts)
    rule.destinationPorts = try ports("destination ports", maximum: RuleConfiguration.maximumDestinationPorts)
    rule.icmpType = try optional("icmp type")
    rule.icmpCode = try optional("icmp code")
    rule.tcpFlagsMask = try get("tcp flags mask")
    rule.tcpFlagsValue = try get("tcp flags value")
    rule.isLogged = try flag("log")
    rule.mirror = try get("mirror")
    rule.dscp = try optional("dscp")
    rule.policer = try optional("policer")
    return rule
  }

  mutating func optional<T: FixedWidthInteger>(_ what: StaticString) throws(SlotFault) -> T? {
    try flag(what) ? try get(what) : nil
  }

  private mutating func optionalPrefix(_ what: StaticString) throws(SlotFault) -> IPPrefix? {
    try flag(what) ? try prefix(what) : nil
  }

  private mutating func ports(_ what: StaticString, maximum: Int) throws(SlotFault) -> [ClosedRange<UInt16>] {
    let count = Int(try get(what, as: UInt8.self))
    guard count <= maximum else { throw SlotFault(what: what) }
    var ranges: [ClosedRange<UInt16>] = []
    for _ in 0..<count {
      let first: UInt16 = try get(what)
      let last: UInt16 = try get(what)
      guard first <= last else { throw SlotFault(what: what) }
      ranges.append(first...last)
    }
    return ranges
  }
}
