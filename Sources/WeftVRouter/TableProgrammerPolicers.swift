import WeftRing
import WeftTables
import WeftWire

// Policers, which interfaces and rules refer to.

extension TableProgrammer {
  func set(_ new: PolicerConfiguration) throws(Refusal) {
    if let reason = Self.fault(of: new) { throw Refusal(.outOfRange, "policer \(new.id): \(reason)") }
    if let old = policers[new.id]?.value {
      // Only what it meters by makes its buckets full again.
      var renamed = old
      renamed.name = new.name
      policers.set(new.id, new, generation: generation)
      if renamed == new { return }
    } else {
      policers.set(new.id, new, generation: generation)
    }
    memory.policers.publish(new.id, Self.settings(new))
  }

  func remove(policer id: UInt32) throws(Refusal) {
    guard let entry = policers[id] else { throw Refusal(.notFound, "policer \(id) is not there") }
    guard entry.uses == 0 else { throw inUse("policer \(id) (\(entry.value.name))", entry.uses) }
    memory.policers.publish(id, nil)
    policers.remove(id)
  }

  func requirePolicer(_ id: UInt32) throws(Refusal) {
    guard policers.contains(id) else { throw Refusal(.notFound, "policer \(id) is not there; set it first") }
  }

  /// What is wrong with a policer, or nil.
  static func fault(of policer: PolicerConfiguration) -> String? {
    guard policer.id < PolicerTable.capacity else { return "the number is not below \(PolicerTable.capacity)" }
    let isBits = policer.unit == .bits
    let unit = isBits ? "bit/s" : "packets/s"
    let rates = 1...(isBits ? PolicerSettings.maximumBitRate : PolicerSettings.maximumPacketRate)
    let bursts = (isBits ? 64 : 1)...PolicerSettings.maximumBurst
    let burstUnit = isBits ? "bytes, at least one packet's" : "packets"
    guard rates.contains(policer.rate) else {
      return "rate \(policer.rate) is not within 1 to \(rates.upperBound) \(unit)"
    }
    guard bursts.contains(policer.burst) else {
      return "burst \(policer.burst) is not within \(bursts.lowerBound) to \(bursts.upperBound) \(burstUnit)"
    }
    switch policer.kind {
    case .singleRate:
      guard policer.peakRate == 0, policer.excessBurst == 0, !policer.isColorAware, policer.yellowDSCP == nil else {
        return "a peak rate, a second burst, color-aware and a DSCP for yellow go with three colours"
      }
    case .singleRateThreeColor:
      guard policer.peakRate == 0 else { return "a peak rate goes with two rates" }
      guard (1...PolicerSettings.maximumBurst).contains(policer.excessBurst) else {
        return "excess burst \(policer.excessBurst) is not within 1 to \(PolicerSettings.maximumBurst)"
      }
    case .twoRateThreeColor:
      guard (policer.rate...rates.upperBound).contains(policer.peakRate) else {
        return "peak rate \(policer.peakRate) is not within the rate of \(policer.rate) and \(rates.upperBound) \(unit)"
      }
      guard bursts.contains(policer.excessBurst) else {
        return "peak burst \(policer.excessBurst) is not within \(bursts.lowerBound) to \(bursts.upperBound) "
          + burstUnit
      }
    }
    if let dscp = policer.yellowDSCP, dscp > 63 { return "DSCP \(dscp) has more than 6 bits" }
    return nil
  }

  private static func settings(_ policer: PolicerConfiguration) -> PolicerSettings {
    let kind: PolicerKind =
      switch policer.kind {
      case .singleRate: .singleRate
      case .singleRateThreeColor: .singleRateThreeColor
      case .twoRateThreeColor: .twoRateThreeColor
      }
    return PolicerSettings(
      kind: kind, countsPackets: policer.unit == .packets, rate: policer.rate, burst: policer.burst,
      peakRate: policer.peakRate, excessBurst: policer.excessBurst, isColorAware: policer.isColorAware,
      yellowDSCP: policer.yellowDSCP ?? PolicyRule.keepDSCP)
  }

  func policerState(_ id: UInt32) -> PolicerState {
    let counters = memory.policers.counters(of: id)
    var state = PolicerState()
    state.conformingPackets = counters.packets[0]
    state.conformingBytes = counters.bytes[0]
    state.exceedingPackets = counters.packets[1]
    state.exceedingBytes = counters.bytes[1]
    state.violatingPackets = counters.packets[2]
    state.violatingBytes = counters.bytes[2]
    return state
  }

  /// Once in an hour is enough (`PolicerTable.settle`).
  public func settlePolicers(now: UInt64) {
    guard now >= nextSettlement else { return }
    nextSettlement = now + 3600 * 1_000_000_000
    memory.policers.settle(now)
  }
}
