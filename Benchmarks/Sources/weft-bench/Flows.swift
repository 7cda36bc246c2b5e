import CMeasure

/// Flow tables of several sizes, through the whole packet path (VXLAN encapsulation).
enum Flows {
  /// Sets up `count` flows, then measures hits on them at random. Returns ns a packet of a hit.
  private static func measure(
    _ label: String, count: Int, packets: Int, reportsSetup: Bool
  ) throws -> (weft: Double, c: Double) {
    // Entries, buckets and the frames' own.
    if reportsSetup { measure_warm(UInt64(count * 2 * (128 + 32)) + 64 << 20) }
    let before = measure_resident()
    let weft = try WeftSide(flowEntries: count * 2)
    let set = FrameSet(.vxlanEncap)
    let frames = WeftFrames(set)
    var setup = 0.0
    for pass in 0..<count / FrameSet.count {
      set.fill { UInt32(pass * FrameSet.count + $0) }
      setup += elapsed { weft.pass(frames, copy: 0, now: 1_000_000_000) }
    }
    guard weft.drops.isEmpty else { throw BenchmarkError("flows.\(label): packets were dropped: \(weft.drops)") }
    if reportsSetup { Report.value("flows.setup-rate", Double(count) / setup * 1000, "M flows/s") }
    Report.value("flows.\(label).placed", Double(weft.flowEntries) / Double(count * 2) * 100, "% of entries")
    if count >= 1 << 16 {
      Report.value(
        "flows.\(label).memory", Double(measure_resident() - before) / Double(count), "bytes/flow")
    }
    let reference = try ReferenceSide(flowEntries: count * 2)
    for pass in 0..<count / FrameSet.count {
      set.fill { UInt32(pass * FrameSet.count + $0) }
      reference.pass(set, copy: 0, now: 1_000_000_000)
    }
    var random = Random(1)
    var times: [Double] = []
    var referenceTimes: [Double] = []
    let passes = max(8, packets / FrameSet.count)
    for pass in 0..<passes {
      let now = 2_000_000_000 + UInt64(pass)
      set.fill { _ in UInt32(random.below(count)) }
      let time = elapsed { weft.pass(frames, copy: 0, now: now) }
      // Other flows at random: these have just come into the cache for the one side, not the other; all the same fair.
      set.fill { _ in UInt32(random.below(count)) }
      let referenceTime = elapsed { reference.pass(set, copy: 0, now: now) }
      guard pass >= 4 else { continue }
      times.append(time / Double(FrameSet.count))
      referenceTimes.append(referenceTime / Double(FrameSet.count))
    }
    Report.value("flows.hit-\(label).ns", median(times), "ns/packet")
    Report.value("flows.hit-\(label).c-ns", median(referenceTimes), "ns/packet")
    return (median(times), median(referenceTimes))
  }

  static func measureAll(quick: Bool) throws {
    let packets = quick ? 1 << 18 : 1 << 20
    let small = try measure("1k", count: 1 << 10, packets: packets, reportsSetup: false)
    let middle = try measure("64k", count: 1 << 16, packets: packets, reportsSetup: false)
    let large = try measure("1m", count: 1 << 20, packets: packets, reportsSetup: true)
    Report.value("flows.hit-64k-over-1k", middle.weft / small.weft, "x")
    Report.value("flows.hit-1m-over-1k", large.weft / small.weft, "x")
    Report.value("flows.hit-1m-over-1k.c", large.c / small.c, "x")
    if quick { return }
    // Two tables of 16 M entries: 128 bytes each and their buckets.
    guard availableMemory() > 7 << 30 else {
      Report.note("flows.hit-8m-over-1k", "not measured: it takes 6 GiB of free memory")
      return
    }
    let huge = try measure("8m", count: 1 << 23, packets: packets, reportsSetup: false)
    Report.value("flows.hit-8m-over-1k", huge.weft / small.weft, "x")
    Report.value("flows.hit-8m-over-1k.c", huge.c / small.c, "x")
  }
}
