import CMeasure

/// The packet path from received frames to frames that leave, and the C reference beside it.
enum Pipeline {
  /// Room for 1,024 flows both ways, four times over, as a table is in practice.
  static let flowEntries = 8192
  private static let passes = 16

  /// Weft's frames and the reference's are the same bytes, and nothing is dropped; else nothing is worth measuring.
  static func check(_ packetCase: PacketCase, _ weft: WeftSide, _ reference: ReferenceSide) throws {
    let set = FrameSet(packetCase)
    let frames = WeftFrames(set)
    for batch in 0..<FrameSet.batches {
      set.restore()
      let ours = weft.output(frames, batch: batch, now: 1_000_000_000)
      set.restore()
      let theirs = reference.output(set, batch: batch, now: 1_000_000_000)
      let count = ours.values.reduce(0) { $0 + $1.count }
      guard count == FrameSet.batch, Set(ours.keys).isSubset(of: packetCase.outputs) else {
        throw BenchmarkError(
          "\(packetCase.rawValue): \(count) of \(FrameSet.batch) packets of batch \(batch) left, by "
            + "\(ours.keys.sorted()); drops: \(weft.drops)")
      }
      for interface in Set(ours.keys).union(theirs.keys) {
        let (a, b) = (ours[interface] ?? [], theirs[interface] ?? [])
        guard a.count == b.count else {
          throw BenchmarkError(
            "\(packetCase.rawValue): by interface \(interface) Weft sends \(a.count) frames, C \(b.count)")
        }
        for (x, y) in zip(a, b) where x != y {
          let place = zip(x, y).enumerated().first { $0.element.0 != $0.element.1 }?.offset ?? min(x.count, y.count)
          throw BenchmarkError(
            "\(packetCase.rawValue): Weft's frame (\(x.count) bytes) and the C reference's (\(y.count)) differ from "
              + "byte \(place) on; is reference.c as the packet path is (the flow hash gives bytes 34 and 35)?")
        }
      }
    }
  }

  /// Times and allocations.
  static func measure(_ packetCase: PacketCase, rounds: Int) throws {
    let weft = try WeftSide(flowEntries: flowEntries, translates: packetCase.translates)
    let reference = try ReferenceSide(flowEntries: flowEntries, translates: packetCase.translates)
    try check(packetCase, weft, reference)
    let set = FrameSet(packetCase)
    let frames = WeftFrames(set)
    var times: [Double] = []
    var referenceTimes: [Double] = []
    var ratios: [Double] = []
    var allocations: UInt64 = 0
    for round in 0..<rounds + 2 {
      var time = 0.0
      var referenceTime = 0.0
      let now = 2_000_000_000 + UInt64(round) * 1_000_000
      for pass in 0..<passes * 2 {
        set.restore()
        // Who goes first changes with each round.
        if (pass < passes) == (round % 2 == 0) {
          let before = measure_allocations()
          time += elapsed { weft.pass(frames, copy: 0, now: now) }
          allocations += measure_allocations() - before
        } else {
          referenceTime += elapsed { reference.pass(set, copy: 0, now: now) }
        }
      }
      // The first rounds warm up; that is no time for flows to be made either.
      if round < 2 {
        allocations = 0
        continue
      }
      times.append(time / Double(passes * FrameSet.count))
      referenceTimes.append(referenceTime / Double(passes * FrameSet.count))
      ratios.append(time / referenceTime)
    }
    let name = "pipeline.\(packetCase.rawValue)"
    Report.value("\(name).ns", median(times), "ns/packet")
    Report.value("\(name).c-ns", median(referenceTimes), "ns/packet")
    Report.value("\(name).ratio", median(ratios), "x C reference")
    Report.value(
      "\(name).allocations", Double(allocations) / Double(rounds * passes * FrameSet.count), "allocations/packet")
    guard weft.drops.isEmpty, reference.drops == 0 else {
      throw BenchmarkError("\(name): packets were dropped: \(weft.drops), C reference \(reference.drops)")
    }
  }

  /// Marked passes for callgrind: what happens between "NAME.SIDE.few" and "NAME.SIDE.many" is ten passes more than
  /// what happens before "few".
  static func count(_ packetCase: PacketCase) throws {
    try count(packetCase.rawValue, packetCase, flowEntries: flowEntries) { UInt32($1) }
  }

  /// The same for packets that each begin a flow, allowed by the last of so many rules.
  static func countNewFlows() throws {
    for (name, rules) in [("new-flow", 1000), ("new-flow-10k-rules", 10_000), ("new-flow-without-policy", 0)] {
      try count(name, .vxlanEncap, flowEntries: 1 << 17, rules: rules) { UInt32($0 * FrameSet.count + $1) }
    }
  }

  private static func count(
    _ name: String, _ packetCase: PacketCase, flowEntries: Int, rules: Int = 0, flow: (Int, Int) -> UInt32
  ) throws {
    let few = 1
    let many = 11
    let weft = try WeftSide(flowEntries: flowEntries, translates: packetCase.translates, rules: rules)
    let reference = try ReferenceSide(flowEntries: flowEntries, translates: packetCase.translates)
    // C asks no policy.
    for isWeft in rules > 0 ? [true] : [true, false] {
      let set = FrameSet(packetCase, copies: 1 + few + many, flow: flow)
      let frames = WeftFrames(set)
      func run(_ copies: Range<Int>, _ mark: String) {
        for copy in copies {
          if isWeft {
            weft.pass(frames, copy: copy, now: 1_000_000_000)
          } else {
            reference.pass(set, copy: copy, now: 1_000_000_000)
          }
        }
        measure_mark("\(name).\(isWeft ? "weft" : "c").\(mark)")
      }
      run(0..<1, "warm")
      run(1..<1 + few, "few")
      run(1 + few..<1 + few + many, "many")
    }
    guard weft.drops.isEmpty, reference.drops == 0 else {
      throw BenchmarkError("\(name): packets were dropped: \(weft.drops), C reference \(reference.drops)")
    }
  }
}
