import Synchronization
import WeftSystem
import WeftWire

/// What a trial counts in, in place of what others read: the tables for it are `Tables.trial`, its ports those of
/// `NATWorker(trial:)`.
@safe public final class TrialMemory: @unchecked Sendable {
  private let hits: UnsafeMutablePointer<Atomic<UInt64>>
  private let mirrors: Mapping

  public init() throws(SystemError) {
    mirrors = try Mapping(anonymous: MirrorTable.capacity * MirrorTable.countBytes, what: "counters of a trial")
    unsafe hits = .allocate(capacity: PolicyTable.maximumRules)
    for index in 0..<PolicyTable.maximumRules { unsafe (hits + index).initialize(to: Atomic(0)) }
  }

  deinit { unsafe hits.deallocate() }

  public func mirrorCounts(_ id: UInt32) -> MirrorCounts { unsafe MirrorTable.counts(mirrors.base, worker: 0, id) }

  /// The same tables, but that hits and copies are counted here. Good as long as this is.
  public func tables(_ tables: Tables) -> Tables {
    unsafe Tables(
      interfaces: tables.interfaces, plainMTUs: tables.plainMTUs, nexthops: tables.nexthops, roots: tables.roots,
      routes: tables.routes, routes6: tables.routes6, paths: tables.paths, routeGeneration: tables.routeGeneration,
      labels: tables.labels,
      vnis: tables.vnis,
      bridge: tables.bridge, subinterfaces: tables.subinterfaces, vrfBits: tables.vrfBits,
      neighbors: tables.neighbors, nat: tables.nat,
      policy: PolicyReader(
        place: tables.policy.place, v4: tables.policy.v4, v6: tables.policy.v6, hits: hits,
        actions: tables.policy.actions, slots: tables.policy.slots),
      gateways: tables.gateways, fatFlows: tables.fatFlows, policers: tables.policers,
      classifiers: tables.classifiers, remarks: tables.remarks,
      mirrors: MirrorReader(entries: tables.mirrors.entries, counters: mirrors.base, workers: 1),
      flowExport: tables.flowExport, flowSettings: tables.flowSettings)
  }
}

/// Both entries of a flow, copied out of a worker's table.
public struct FlowSnapshot: Sendable {
  public let worker: UInt32
  /// The entry that was asked for is the forward one.
  public let isForward: Bool
  public let forward: FlowEntry
  /// nil for a flow to itself.
  public let reverse: FlowEntry?
  public let mirror: UInt32

  public var asked: FlowEntry { isForward ? forward : reverse ?? forward }
}

extension FlowTable {
  /// The flow of a packet's key, as it is now.
  public func snapshot(_ key: FlowKey, worker: Int) -> FlowSnapshot? {
    let index = find(key, hash: key.hash(seed: seed))
    guard index != Self.none else { return nil }
    let isForward = self[index].isForward || self[index].reverse == Self.none
    let forward = isForward ? index : self[index].reverse
    let reverse = self[forward].reverse
    return FlowSnapshot(
      worker: UInt32(truncatingIfNeeded: worker), isForward: isForward, forward: self[forward],
      reverse: reverse == Self.none ? nil : self[reverse], mirror: mirror(of: index))
  }

  /// Makes a flow as it is elsewhere, but for what translation holds for it.
  public mutating func adopt(_ flow: FlowSnapshot, now: UInt64) {
    let entry = flow.forward
    guard
      case .made(let index) = insert(
        forward: entry.key, forwardHash: entry.key.hash(seed: seed), reverse: flow.reverse?.key ?? entry.key,
        flags: entry.flags, timeout: entry.timeout, tcpState: entry.tcpState, policyRule: entry.policyRule,
        policyGeneration: entry.policyGeneration, ecmpMember: entry.ecmpMember, now: now)
    else { return }
    setMirror(index, UInt16(truncatingIfNeeded: flow.mirror))
    if let reverse = flow.reverse, self[index].reverse != Self.none {
      setMember(self[index].reverse, reverse.ecmpMember)
    }
    if entry.flags.contains(.replied) { markReplied(index, now: now) }
  }
}
