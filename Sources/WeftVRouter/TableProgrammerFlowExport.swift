import WeftRing
import WeftTables

// Which flows workers tell of: one setting for the forwarder.

extension TableProgrammer {
  func set(_ new: FlowExportConfiguration) throws(Refusal) {
    guard (1...FlowExportConfiguration.maximumSample).contains(new.sample) else {
      throw Refusal(
        .outOfRange,
        "flow export: one flow of \(new.sample); it is 1 for every flow, to \(FlowExportConfiguration.maximumSample)")
    }
    guard new.rate <= FlowExportConfiguration.maximumRate else {
      throw Refusal(
        .outOfRange,
        "flow export: \(new.rate) events a second; the most is \(FlowExportConfiguration.maximumRate), and 0 is none")
    }
    guard new.updateSeconds <= FlowExportConfiguration.maximumUpdateSeconds else {
      throw Refusal(
        .outOfRange,
        "flow export: updates every \(new.updateSeconds) s; the most is "
          + "\(FlowExportConfiguration.maximumUpdateSeconds), and 0 is never")
    }
    flowExport = (new, generation)
    publishFlowExport()
  }

  func removeFlowExport() throws(Refusal) {
    guard flowExport != nil else { throw Refusal(.notFound, "no flow export is set") }
    flowExport = nil
    publishFlowExport()
  }

  /// What is in force.
  var flowExportInForce: FlowExportConfiguration { flowExport?.configuration ?? FlowExportConfiguration() }

  func publishFlowExport() {
    let export = flowExportInForce
    let workers = max(1, UInt32(clamping: memory.workers))
    memory.flowExport.publish(
      FlowExportSettings(
        perSecond: export.rate == 0 ? 0 : max(1, export.rate / workers),
        sample: export.selection == .all ? export.sample : 0, updateSeconds: export.updateSeconds))
  }
}

extension FlowReport {
  /// What a worker tells of, for others. `offset`: from CLOCK_MONOTONIC to the time of day, ns.
  init(_ event: FlowEvent, worker: Int, offset: UInt64) {
    let flow = event.flow
    let kind: Kind =
      switch event.kind {
      case .started: .started
      case .updated: .updated
      case .ended: .ended
      }
    let reason: EndReason =
      switch flow.reason {
      case .aged: .aged
      case .closed: .closed
      case .reset: .reset
      case .evicted: .evicted
      case .renewed: .renewed
      case .revoked: .revoked
      }
    self.init(
      kind: kind, endReason: kind == .ended ? reason : .none, worker: UInt32(clamping: worker),
      proto: flow.forward.proto, forward: FlowTuple(flow.forward), reverse: FlowTuple(flow.reverse),
      packets: flow.forwardPackets, bytes: flow.forwardBytes, reversePackets: flow.reversePackets,
      reverseBytes: flow.reverseBytes, firstSeen: flow.created &+ offset, lastSeen: flow.lastSeen &+ offset,
      action: flow.flags.contains(.rejected) ? .reject : flow.flags.contains(.denied) ? .deny : .allow,
      rule: flow.policyRule == PolicyRule.noRule ? nil : flow.policyRule, isLogged: flow.flags.contains(.logged),
      missed: event.missed)
  }
}

extension FlowTuple {
  init(_ key: FlowKey) {
    self.init(
      vrf: UInt32(truncatingIfNeeded: key.vrf), source: key.source, destination: key.destination,
      sourcePort: key.sourcePort, destinationPort: key.destinationPort)
  }
}
