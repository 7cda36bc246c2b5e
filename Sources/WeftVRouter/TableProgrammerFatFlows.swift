import WeftRing
import WeftTables
import WeftWire

// Which sessions of an interface share flows.

extension TableProgrammer {
  func checkFatFlows(_ interface: InterfaceConfiguration) throws(Refusal) {
    let list = interface.fatFlows
    guard !list.isEmpty else { return }
    func require(_ condition: Bool, _ reason: String) throws(Refusal) {
      guard condition else { throw Refusal(.outOfRange, "interface \(interface.id): fat flows: \(reason)") }
    }
    try require(interface.role == .virtual, "only virtual interfaces have them; the fabric's packets are tunnels")
    try require(list.count <= FatFlow.maximum, "\(list.count) entries; it may have \(FatFlow.maximum)")
    try require(Set(list).count == list.count, "an entry stands there twice")
    for flow in list {
      if let reason = Self.fault(of: flow) { try require(false, reason) }
    }
  }

  /// What is wrong with an entry, or nil.
  static func fault(of flow: FatFlow) -> String? {
    let hasPorts = [IPProtocol.tcp, IPProtocol.udp, IPProtocol.sctp].contains(flow.proto)
    guard flow.port == 0 || hasPorts else {
      return "port \(flow.port) goes with a protocol whose ports flows know: TCP (6), UDP (17) or SCTP (132)"
    }
    var families: Set<Bool> = []
    for end in [flow.local, flow.remote] {
      guard case .aggregated(let prefix, let length) = end else { continue }
      families.insert(prefix.isV4)
      guard length >= prefix.length, Int(length) < prefix.address.width else {
        return "\(prefix) by its first \(length) bits: it takes \(prefix.length) to \(prefix.address.width - 1)"
      }
    }
    return families.count < 2 ? nil : "the two prefixes are not of one family: it would fit nothing"
  }

  /// The list as the packet path reads it.
  func fatFlowList(_ interface: InterfaceConfiguration) -> FatFlowList? {
    guard !interface.fatFlows.isEmpty else { return nil }
    return FatFlowList(
      interface.fatFlows.map {
        FatFlowRule(proto: $0.proto, port: $0.port, local: Self.end($0.local), remote: Self.end($0.remote))
      })
  }

  private static func end(_ end: FatFlow.End) -> FatFlowRule.End {
    switch end {
    case .kept: FatFlowRule.End()
    case .ignored: FatFlowRule.End(bits: 0)
    case .aggregated(let prefix, let length):
      FatFlowRule.End(prefix: prefix, bits: UInt8(128 - prefix.address.width + Int(length)))
    }
  }

  /// An interface's list counts for its VRF, or no longer.
  func countFatFlows(_ interface: InterfaceConfiguration, _ change: Int) {
    guard interface.role == .virtual else { return }
    memory.fatFlows.change(vrf: interface.vrf, protocols: interface.fatFlows.map(\.proto), by: change)
  }
}
