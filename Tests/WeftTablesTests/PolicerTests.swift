import Glibc
import Synchronization
import Testing
import WeftTables
import WeftWire

@Suite struct PolicerTests {
  private static func table(_ settings: PolicerSettings, workers: Int = 1) throws -> PolicerTable {
    let table = try PolicerTable(workers: workers, epochs: try Epochs(workers: workers))
    table.publish(0, settings)
    return table
  }

  /// As many pass in an hour as the rate and the burst say, to the packet, whatever the steps in which time goes.
  @Test(arguments: [3, 7, 1000, 333_333] as [UInt64])
  func rateIsExact(rate: UInt64) throws {
    let table = try Self.table(PolicerSettings(kind: .singleRate, countsPackets: true, rate: rate, burst: 5))
    var worker = PolicerWorker()
    var random = SeededRandom(seed: rate)
    // A second and a half after the beginning of time, so that nothing begins with a whole token.
    let start: UInt64 = 1_500_000_000
    var now = start
    var passed: UInt64 = 0
    for round in 0..<50_000 {
      // The bucket is full at the first packet's time.
      if round > 0 { now += UInt64.random(in: 0...2_000_000_000 / rate, using: &random) }
      // More than come in that time: none are lost in a bucket that is full.
      for _ in 0..<8 where worker.meter(table.reader, 1, bytes: 100, dscp: 0, following: 7, now: now) == .green {
        passed += 1
      }
      worker.close()
    }
    func come(_ time: UInt64) -> UInt64 { time * rate / 1_000_000 }
    // Thousandths: of the last packet a part may be left.
    let thousandths = 5000 + come(now) - come(start)
    #expect(passed == thousandths / 1000)
  }

  /// Ages later, and at the highest rate, a bucket is full and no more than that.
  @Test func timeGoesOnForAges() throws {
    let table = try Self.table(
      PolicerSettings(kind: .singleRate, rate: PolicerSettings.maximumBitRate, burst: PolicerSettings.maximumBurst))
    var worker = PolicerWorker()
    var now: UInt64 = 1
    for year in 0..<100 {
      var passed = 0
      while passed < 10_000, worker.meter(table.reader, 1, bytes: 1 << 20, dscp: 0, following: 0, now: now) == .green {
        passed += 1
      }
      #expect(passed == Int(PolicerSettings.maximumBurst) >> 20, "in year \(year)")
      worker.close()
      // The word is settled as the control thread does it, but rarely.
      for _ in 0..<12 {
        now += 30 * 86_400 * 1_000_000_000
        table.settle(now)
      }
    }
  }

  /// A clock that goes back, or another worker's that is behind, brings no tokens and breaks nothing.
  @Test func timeGoesBack() throws {
    let table = try Self.table(PolicerSettings(kind: .singleRate, countsPackets: true, rate: 10, burst: 2))
    var worker = PolicerWorker()
    func passes(_ now: UInt64) -> Bool {
      defer { worker.close() }
      return worker.meter(table.reader, 1, bytes: 60, dscp: 0, following: 0, now: now) == .green
    }
    #expect(passes(2_000_000_000) && passes(2_000_000_000) && !passes(2_000_000_000))
    #expect(!passes(1_000_000_000) && !passes(0))
    #expect(passes(2_100_000_000) && !passes(2_100_000_000))
  }

  /// What a batch has drawn and not used is there for the next one, of whichever worker.
  @Test(arguments: PolicerKind.allCases)
  func whatIsLeftGoesBack(kind: PolicerKind) throws {
    let table = try Self.table(
      PolicerSettings(kind: kind, countsPackets: true, rate: 1, burst: 4, peakRate: 1, excessBurst: 6), workers: 2)
    var workers = [0, 0]
    var first = PolicerWorker()
    var second = PolicerWorker()
    second.worker = 1
    for step in 0..<12 {
      // Each asks for much more than there is.
      let isFirst = step % 2 == 0
      let color =
        isFirst
        ? first.meter(table.reader, 1, bytes: 60, dscp: 0, following: 1000, now: 5_000_000_000)
        : second.meter(table.reader, 1, bytes: 60, dscp: 0, following: 1000, now: 5_000_000_000)
      first.close()
      second.close()
      let expected: PolicerColor =
        switch kind {
        case .singleRate: step < 4 ? .green : .red
        case .singleRateThreeColor: step < 4 ? .green : step < 10 ? .yellow : .red
        case .twoRateThreeColor: step < 4 ? .green : step < 6 ? .yellow : .red
        }
      #expect(color == expected, "packet \(step)")
      workers[step % 2] += 1
    }
    let counters = table.counters(of: 0)
    #expect((0..<3).reduce(0) { $0 + counters.packets[$1] } == 12)
    #expect((0..<3).reduce(0) { $0 + counters.bytes[$1] } == 720)
  }

  /// More policers in a batch than a worker holds open at once, some in one place.
  @Test func manyInABatch() throws {
    let table = try Self.table(PolicerSettings(kind: .singleRate, countsPackets: true, rate: 1, burst: 3))
    for id in [64, 128, 7, 71] as [UInt32] {
      table.publish(id, PolicerSettings(kind: .singleRate, countsPackets: true, rate: 1, burst: 3))
    }
    var worker = PolicerWorker()
    var passed: [UInt32: Int] = [:]
    for _ in 0..<5 {
      for id in [0, 64, 128, 7, 71] as [UInt32]
      where worker.meter(table.reader, id + 1, bytes: 60, dscp: 0, following: 31, now: 1_000_000_000) == .green {
        passed[id, default: 0] += 1
      }
    }
    worker.close()
    #expect(passed == [0: 3, 64: 3, 128: 3, 7: 3, 71: 3])
    #expect(worker.meter(table.reader, 3, bytes: 60, dscp: 0, following: 0, now: 0) == nil, "there is none")
    #expect(worker.meter(table.reader, 0, bytes: 60, dscp: 0, following: 0, now: 0) == nil)
    #expect(worker.meter(table.reader, .max, bytes: 60, dscp: 0, following: 0, now: 0) == nil)
  }

  /// Another rate begins with full buckets; counters go on. What is taken out is gone.
  @Test func changes() throws {
    let table = try Self.table(PolicerSettings(kind: .singleRate, countsPackets: true, rate: 1, burst: 1))
    var worker = PolicerWorker()
    func meter() -> PolicerColor? {
      defer { worker.close() }
      return worker.meter(table.reader, 1, bytes: 60, dscp: 0, following: 0, now: 1_000_000_000)
    }
    #expect(meter() == .green && meter() == .red)
    table.publish(0, PolicerSettings(kind: .singleRate, countsPackets: true, rate: 1, burst: 2))
    #expect(meter() == .green && meter() == .green && meter() == .red)
    #expect(table.counters(of: 0).packets[0] == 3 && table.counters(of: 0).packets[2] == 2)
    table.publish(0, nil)
    #expect(meter() == nil)
    #expect(table.counters(of: 0) == PolicerCounters())
  }

  /// Four workers at once, in batches, with one time for all: never more than there are tokens, and all of them.
  @Test(arguments: PolicerKind.allCases)
  func workersShareOneRate(kind: PolicerKind) throws {
    let workers = 4
    let table = try Self.table(
      PolicerSettings(kind: kind, countsPackets: true, rate: 1000, burst: 100, peakRate: 2000, excessBurst: 150),
      workers: workers)
    let rounds = 200
    let time = Atomic<UInt64>(1_000_000_000)
    let arrived = Atomic<Int>(0)
    let threads = (0..<workers).map { index in
      PosixThread {
        var worker = PolicerWorker()
        worker.worker = index
        for round in 0..<rounds {
          // All go on together.
          if arrived.add(1, ordering: .acquiringAndReleasing).newValue == workers * (round + 1) {
            time.add(10_000_000, ordering: .releasing)
          }
          while time.load(ordering: .acquiring) < 1_000_000_000 + UInt64(round + 1) * 10_000_000 { sched_yield() }
          let now = 1_000_000_000 + UInt64(round + 1) * 10_000_000
          for _ in 0..<8 {
            for packet in 0..<8 {
              _ = worker.meter(table.reader, 1, bytes: 60, dscp: 0, following: 7 - packet, now: now)
            }
            worker.close()
          }
        }
      }
    }
    for thread in threads { thread.join() }
    let counters = table.counters(of: 0)
    let (green, yellow) = (Int(counters.packets[0]), Int(counters.packets[1]))
    #expect(green + yellow + Int(counters.packets[2]) == workers * rounds * 64)
    // 10 (peak: 20) tokens come in a round, from which 256 packets would draw.
    let come = (rounds - 1) * 10
    // While others hold a batch's tokens that they give back, a worker may find none: what is missing then is at most
    // what was left at the end.
    let left = workers * 8
    switch kind {
    case .singleRate: #expect((100 + come - left...100 + come).contains(green) && yellow == 0)
    case .singleRateThreeColor:
      // The two buckets are not changed as one: a batch of each worker may be told from the wrong one.
      #expect((250 + come - left...250 + come + left).contains(green + yellow))
      #expect((100 + come - left...100 + come).contains(green))
    case .twoRateThreeColor:
      #expect((150 + 2 * come - left...150 + 2 * come).contains(green + yellow))
      // Committed tokens that a worker has without peak tokens are not used in that round. They pile up at most to what
      // makes all draw enough.
      #expect((100 + come - 2 * left...100 + come).contains(green))
    }
  }

  @Test func colorsOfDSCP() {
    for dscp in UInt8(0)..<64 {
      let expected: PolicerColor =
        [12, 20, 28, 36].contains(dscp) ? .yellow : [14, 22, 30, 38].contains(dscp) ? .red : .green
      #expect(PolicerWorker.color(ofDSCP: dscp) == expected, "\(dscp)")
    }
  }
}
