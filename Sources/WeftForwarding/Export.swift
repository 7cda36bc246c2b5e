import WeftTables
import WeftWire

// Flows that begin, go on and end are told of, as far as the settings ask for it and a rate allows: what is told of is
// collected for IPFIX or a log elsewhere.

/// A worker's side of it.
struct FlowExporter {
  /// nil where nobody listens.
  var writer: WorkerRingWriter<FlowEvent>?
  fileprivate var limit = RateLimit(perSecond: 0, burst: 0)
  fileprivate var missed: UInt32 = 0
  /// Ends that the flow table has not kept, when this was looked at.
  fileprivate var endsLost: UInt64 = 0
  /// The entry at which the search for flows that go on is, and the time up to which it has got, ns.
  fileprivate var position: UInt32 = 0
  fileprivate var time: UInt64 = 0

  /// Entries that are looked at in one go.
  fileprivate static let share: UInt64 = 256
}

extension PacketPath {
  /// Where this worker tells of flows; nil where nobody listens.
  public var flowEvents: WorkerRingWriter<FlowEvent>? {
    get { exporter.writer }
    set { exporter.writer = newValue }
  }

  /// A flow has begun.
  @inline(__always) mutating func exportStart(_ flow: UInt32, hash: UInt64) {
    let settings = tables.flowExport.settings
    if settings.isOn, settings.takes(flows[flow].flags, hash: hash) { export(.started, flow, settings) }
  }

  /// The same for one that no rule logs.
  @inline(__always) mutating func exportPlainStart(_ flow: UInt32, hash: UInt64) {
    let settings = tables.flowExport.settings
    if settings.takesUnlogged, settings.takes([], hash: hash) { export(.started, flow, settings) }
  }

  /// Policy says something else of a flow, and logs it.
  mutating func exportChange(_ flow: UInt32) {
    let settings = tables.flowExport.settings
    if settings.isOn { export(.updated, flow, settings) }
  }

  mutating func exportEnd(_ end: FlowEnd) {
    let settings = tables.flowExport.settings
    guard settings.isOn, settings.takes(end.flags, hash: end.forward.hash(seed: seed)) else { return }
    export(.ended, end, settings, end.ended)
  }

  @inline(never)
  private mutating func export(_ kind: FlowEvent.Kind, _ flow: UInt32, _ settings: FlowExportSettings) {
    export(kind, flows.progress(flow, now: clock), settings, clock)
  }

  private mutating func export(
    _ kind: FlowEvent.Kind, _ flow: FlowEnd, _ settings: FlowExportSettings, _ now: UInt64
  ) {
    guard let writer = exporter.writer else { return }
    adopt(settings)
    guard exporter.limit.take(now),
      writer.write(FlowEvent(kind: kind, missed: exporter.missed, flow: flow))
    else {
      if exporter.missed < .max { exporter.missed &+= 1 }
      return
    }
    exporter.missed = 0
    hasReported = true
  }

  private mutating func adopt(_ settings: FlowExportSettings) {
    guard exporter.limit.perSecond != settings.perSecond else { return }
    exporter.limit = RateLimit(perSecond: settings.perSecond, burst: max(1, settings.perSecond / 10))
  }

  // MARK: flows that go on

  /// Looks at a part of the table, so that all of it has been looked at once an interval, and tells of the flows that had
  /// packets since. Waits where the rate does not allow more: such events come late, and are not lost.
  mutating func exportUpdates(_ now: UInt64) {
    let settings = tables.flowExport.settings
    guard settings.isOn, exporter.writer != nil else { return }
    noteLostEnds()
    let interval = settings.updateSeconds &* 1_000_000_000
    let extent = UInt64(flows.extent)
    guard interval > 0, extent > 0 else {
      exporter.time = now
      return
    }
    if exporter.time == 0 || exporter.time > now { exporter.time = now }
    // The time that an entry has.
    let pace = max(1, interval / extent)
    let due = min((now &- exporter.time) / pace, FlowExporter.share)
    guard due > 0 else { return }
    adopt(settings)
    var limit = Int(due)
    let before = limit
    while limit > 0, exporter.limit.has(now) {
      let flow = flows.next(from: &exporter.position, limit: &limit)
      if flow == FlowTable.none {
        guard exporter.position >= flows.extent else { break }
        exporter.position = 0
        continue
      }
      update(flow, settings, now, interval)
    }
    exporter.time &+= UInt64(before &- limit) &* pace
    // What a rate holds up for longer than an interval is not made up for.
    if now &- exporter.time > interval { exporter.time = now &- interval }
  }

  private mutating func update(_ flow: UInt32, _ settings: FlowExportSettings, _ now: UInt64, _ interval: UInt64) {
    let flags = flows[flow].flags
    guard flags.contains(.logged) || settings.takes(flags, hash: flows[flow].key.hash(seed: seed)) else { return }
    let progress = flows.progress(flow, now: now)
    guard progress.lastSeen &+ interval > now, progress.created &+ interval <= now else { return }
    export(.updated, progress, settings, now)
  }

  /// Ends for which the table had no room.
  private mutating func noteLostEnds() {
    let lost = flows.endsLost
    guard lost != exporter.endsLost else { return }
    exporter.missed = UInt32(clamping: UInt64(exporter.missed) &+ (lost &- exporter.endsLost))
    exporter.endsLost = lost
  }
}
