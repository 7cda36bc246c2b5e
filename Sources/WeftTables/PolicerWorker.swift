import CLinux
import WeftWire

/// A worker's end of the policers: tokens that it has drawn from the shared buckets, for as long as a batch takes.
///
/// The first packet of a batch that a policer sees draws for itself and as much again for each packet of the batch that
/// may follow; what is left at the batch's end goes back. So a bucket's cache line changes hands once or twice in a
/// batch. What the workers let pass is never more than the rate and the burst allow; while a worker holds tokens that it
/// will not need, another may find the bucket emptier than it is, by a batch's worth at most.
@safe public struct PolicerWorker: ~Copyable {
  /// Policers that have tokens drawn, by the low bits of their number.
  private static let slots = 64

  private struct Open {
    var number: UInt32
    var entry: EntryReference<PolicerEntry>
    /// Tokens that have come by the batch's time.
    var committedTotal: UInt64
    var allTotal: UInt64
    /// Drawn: for green packets, and beyond that for yellow ones (one rate) or for either (two rates).
    var committed: Int64 = 0
    var other: Int64 = 0
    /// A packet that needs so many tokens need not ask again in this batch.
    var dry: Int64 = .max
  }

  /// Whose counters these are.
  public var worker = 0
  /// For finding out what would be done: nothing is taken from the buckets, nothing counted.
  private let isTrial: Bool
  private let open: UnsafeMutablePointer<Open>
  private var inUse: UInt64 = 0

  public init(isTrial: Bool = false) {
    self.isTrial = isTrial
    unsafe open = .allocate(capacity: Self.slots)
  }

  deinit { unsafe open.deallocate() }

  /// Meters a packet of `bytes` and counts it. `isDropEligible`: its VLAN tag says so (DEI), which a colour-aware policer
  /// takes for yellow at least. `following`: packets that may come after it in the batch. nil: there is
  /// no such policer. `now`: the batch's time, CLOCK_MONOTONIC, ns.
  public mutating func meter(
    _ policers: PolicerReader, _ number: UInt32, bytes: Int, dscp: UInt8, isDropEligible: Bool = false, following: Int,
    now: UInt64
  ) -> PolicerColor? {
    guard let slot = slot(policers, number, now) else { return nil }
    let entry = unsafe open[slot].entry
    var own: PolicerColor = entry.entry.isColorAware ? Self.color(ofDSCP: dscp) : .green
    if isDropEligible, own == .green, entry.entry.isColorAware { own = .yellow }
    let color = color(slot, entry, entry.entry.cost(bytes), own, Int64(max(1, following &+ 1)))
    if !isTrial { unsafe Self.count(entry, worker, color, packets: 1, bytes: bytes) }
    return color
  }

  /// Counts packets behind one that violated as doing so too, unmetered.
  public mutating func violate(_ policers: PolicerReader, _ number: UInt32, packets: Int, bytes: Int) {
    guard packets > 0, !isTrial, let entry = policers[number] else { return }
    unsafe Self.count(entry, worker, .red, packets: packets, bytes: bytes)
  }

  /// What yellow packets of the policer are marked with; `PolicyRule.keepDSCP` for nothing.
  public func yellowDSCP(_ policers: PolicerReader, _ number: UInt32) -> UInt8 {
    policers[number]?.entry.yellowDSCP ?? PolicyRule.keepDSCP
  }

  /// The batch is over: what was not used goes back.
  @inline(__always) public mutating func close() { if inUse != 0 { closeAll() } }

  private mutating func closeAll() {
    while inUse != 0 {
      unsafe giveBack(inUse.trailingZeroBitCount)
      inUse &= inUse &- 1
    }
  }

  private mutating func slot(_ policers: PolicerReader, _ number: UInt32, _ now: UInt64) -> Int? {
    let slot = Int(number) & (Self.slots &- 1)
    if inUse >> UInt64(slot) & 1 != 0 {
      if unsafe open[slot].number == number { return slot }
      unsafe giveBack(slot)
      inUse &= ~(1 << UInt64(slot))
    }
    guard let entry = policers[number] else { return nil }
    let isSingle = entry.entry.kind == .singleRate
    unsafe (open + slot).initialize(
      to: Open(
        number: number, entry: entry, committedTotal: entry.entry.committed.come(by: now),
        allTotal: isSingle ? 0 : entry.entry.all.come(by: now)))
    inUse |= 1 << UInt64(slot)
    return slot
  }

  @unsafe private func giveBack(_ slot: Int) {
    guard !isTrial else { return }
    let entry = unsafe open[slot].entry
    let committed = unsafe open[slot].committed
    let other = unsafe open[slot].other
    entry.entry.committed.giveBack(committed)
    switch entry.entry.kind {
    case .singleRate: break
    case .singleRateThreeColor: entry.entry.all.giveBack(committed &+ other)
    case .twoRateThreeColor: entry.entry.all.giveBack(other)
    }
  }

  @inline(__always) @unsafe private static func count(
    _ entry: EntryReference<PolicerEntry>, _ worker: Int, _ color: PolicerColor, packets: Int, bytes: Int
  ) {
    let offset = worker &* PolicerEntry.lineBytes &+ Int(color.rawValue) &* 16
    let at = unsafe entry.entry.counters + offset
    unsafe weft_count(at, UInt64(truncatingIfNeeded: packets))
    unsafe weft_count(at + 8, UInt64(truncatingIfNeeded: bytes))
  }

  // MARK: colours

  private func color(
    _ slot: Int, _ entry: EntryReference<PolicerEntry>, _ cost: Int64, _ own: PolicerColor, _ packets: Int64
  ) -> PolicerColor {
    guard own != .red else { return .red }
    if unsafe needsMore(slot, entry.entry.kind, cost), unsafe cost < open[slot].dry {
      unsafe draw(slot, entry, cost &* packets)
      if unsafe needsMore(slot, entry.entry.kind, cost) { unsafe open[slot].dry = cost }
    }
    let committed = unsafe open[slot].committed
    let other = unsafe open[slot].other
    switch entry.entry.kind {
    case .singleRate:
      guard committed >= cost else { return .red }
      unsafe open[slot].committed = committed &- cost
      return .green
    case .singleRateThreeColor:
      if own == .green, committed >= cost {
        unsafe open[slot].committed = committed &- cost
        return .green
      }
      guard other >= cost else { return .red }
      unsafe open[slot].other = other &- cost
      return .yellow
    case .twoRateThreeColor:
      guard other >= cost else { return .red }
      unsafe open[slot].other = other &- cost
      guard own == .green, committed >= cost else { return .yellow }
      unsafe open[slot].committed = committed &- cost
      return .green
    }
  }

  /// Not every colour could be given to a packet with what has been drawn.
  @inline(__always) @unsafe private func needsMore(_ slot: Int, _ kind: PolicerKind, _ cost: Int64) -> Bool {
    unsafe open[slot].committed < cost || (kind != .singleRate && open[slot].other < cost)
  }

  @unsafe private func draw(_ slot: Int, _ entry: EntryReference<PolicerEntry>, _ wanted: Int64) {
    let committedTotal = unsafe open[slot].committedTotal
    let allTotal = unsafe open[slot].allTotal
    guard !isTrial else { return unsafe see(slot, entry, committedTotal, allTotal) }
    switch entry.entry.kind {
    case .singleRate: unsafe open[slot].committed &+= entry.entry.committed.draw(wanted, committedTotal)
    case .twoRateThreeColor:
      unsafe open[slot].committed &+= entry.entry.committed.draw(wanted, committedTotal)
      unsafe open[slot].other &+= entry.entry.all.draw(wanted, allTotal)
    case .singleRateThreeColor:
      var level: Int64
      var taken: Int64
      repeat {
        let state = entry.entry.committed.level(committedTotal)
        level = state.level
        taken = max(0, min(level, wanted))
        if taken == 0 || entry.entry.committed.take(taken, state) { break }
      } while true
      while true {
        let state = entry.entry.all.level(allTotal)
        let excess = max(0, min(state.level &- max(0, level), wanted))
        guard taken &+ excess > 0 else { return }
        if entry.entry.all.take(taken &+ excess, state) {
          unsafe open[slot].committed &+= taken
          unsafe open[slot].other &+= excess
          return
        }
      }
    }
  }

  /// All that the buckets hold is to be had, and stays.
  @unsafe private func see(
    _ slot: Int, _ entry: EntryReference<PolicerEntry>, _ committedTotal: UInt64, _ allTotal: UInt64
  ) {
    guard unsafe open[slot].dry == .max else { return }
    let committed = max(0, entry.entry.committed.level(committedTotal).level)
    let all = entry.entry.kind == .singleRate ? 0 : max(0, entry.entry.all.level(allTotal).level)
    unsafe open[slot].committed = committed
    unsafe open[slot].other = entry.entry.kind == .singleRateThreeColor ? max(0, all &- committed) : all
    unsafe open[slot].dry = 0
  }

  /// The colour that an assured forwarding class's drop precedence says (RFC 2597 section 6); green for all others.
  public static func color(ofDSCP dscp: UInt8) -> PolicerColor {
    guard (1...4).contains(dscp >> 3), dscp & 1 == 0 else { return .green }
    return dscp & 6 == 4 ? .yellow : dscp & 6 == 6 ? .red : .green
  }
}
