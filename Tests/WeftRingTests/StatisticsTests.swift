import CLinux
import Glibc
import Testing
import WeftRing

@Suite struct StatisticsTests {
  private func region(workers: Int = 2, interfaces: Int = 4) throws -> StatisticsRegion {
    try StatisticsRegion(
      layout: StatisticsLayout(workers: workers, interfaces: interfaces, reasons: 3),
      reasons: [
        ("short_frame", "the frame is short"), ("no_route", "no route"),
        (String(repeating: "n", count: 100), String(repeating: "e", count: 300)),
      ])
  }

  @Test func queuesOfWorkers() throws {
    let region = try region()
    let reader = try region.reader()
    #expect(reader.queues(worker: 0).isEmpty && reader.queues(worker: 1).isEmpty)
    for interface: UInt32 in [3, 0, 3, 3] { region.worker(1).countQueue(interface) }
    #expect(reader.queues(worker: 0).isEmpty)
    #expect(reader.queues(worker: 1).map(\.interface) == [0, 3] && reader.queues(worker: 1).map(\.queues) == [1, 3])
    region.worker(1).setQueues(3, 0)
    #expect(reader.queues(worker: 1).map(\.interface) == [0])
    // They count nothing that came in, and beyond the region there is nothing.
    #expect(reader.interfaces().isEmpty && reader.queues(worker: 2).isEmpty && reader.queues(worker: .max).isEmpty)
  }

  @Test func sumsOverWorkers() throws {
    let region = try region()
    let reader = try region.reader()
    #expect(reader.interfaces().isEmpty)
    #expect(reader.drops().map(\.count) == [0, 0, 0])
    for worker in 0..<2 {
      let statistics = region.worker(worker)
      weft_count(statistics.drops + 8, UInt64(10 + worker))
      for field in 0..<5 {
        weft_count(statistics.interfaces + 64 * 3 + field * 8, UInt64((field + 1) * (worker + 1)))
      }
    }
    #expect(reader.drops().map(\.count) == [0, 21, 0])
    #expect(reader.drops()[1].name == "no_route" && reader.drops()[1].explanation == "no route")
    // Names are cut to their place.
    #expect(reader.drops()[2].name == String(repeating: "n", count: 31))
    #expect(reader.drops()[2].explanation == String(repeating: "e", count: 127))
    let interfaces = reader.interfaces()
    #expect(interfaces.map(\.id) == [3])
    #expect(interfaces[0].rxPackets == 3 && interfaces[0].rxBytes == 6 && interfaces[0].txPackets == 9)
    #expect(interfaces[0].txBytes == 12 && interfaces[0].drops == 15)
    #expect(reader.interface(3) == interfaces[0])
    // Beyond the region there is nothing.
    for id: UInt32 in [4, 5, 1 << 20, .max] { #expect(reader.interface(id).rxPackets == 0) }
  }

  @Test func workers() throws {
    let region = try region()
    let reader = try region.reader()
    let worker = region.worker(1)
    worker.setPlace(core: -1, node: 3)
    worker.countBatch(packets: 32)
    worker.countBatch(packets: 1)
    worker.countSleep()
    worker.setFlows(12, refused: 3)
    worker.setSharing(given: 21, taken: 22, redirects: 23, refused: 24)
    let now = weft_monotonic_ns()
    worker.beat(now: now - 5_000_000_000)
    let read = reader.workers()[1]
    #expect(read.index == 1 && read.core == -1 && read.numaNode == 3)
    #expect(read.batches == 2 && read.packets == 33 && read.sleeps == 1 && read.flows == 12 && read.flowsRefused == 3)
    #expect(read.handedOver == 21 && read.takenOver == 22 && read.redirects == 23 && read.redirectsRefused == 24)
    #expect((5000...6000).contains(read.heartbeatAgeMilliseconds))
    worker.beat(now: .max)
    #expect(reader.workers()[1].heartbeatAgeMilliseconds == 0, "a clock ahead of ours is no age")
  }

  @Test func tablesAndTimes() throws {
    let region = try region()
    let reader = try region.reader()
    #expect(reader.tables().map(\.table) == TableGauge.allCases)
    #expect(reader.tables().allSatisfy { $0.entries == 0 && $0.limit == 0 })
    for table in TableGauge.allCases { region.set(table, entries: table.rawValue + 1, limit: 100 + table.rawValue) }
    region.worker(0).setFlows(40, refused: 0)
    region.worker(1).setFlows(2, refused: 0)
    for table in reader.tables() {
      // Workers count theirs.
      #expect(table.entries == (table.table == .flows ? 42 : UInt64(table.table.rawValue + 1)))
      #expect(table.limit == UInt64(100 + table.table.rawValue))
    }
    #expect(reader.drops().map(\.name.count) == [11, 8, 31], "the names are whole")
    region.worker(1).setBusy(7_000_000)
    #expect(reader.workers().map(\.busyNanoseconds) == [0, 7_000_000])
    region.beat(now: weft_monotonic_ns() - 3_000_000_000)
    #expect((3000...4000).contains(reader.controlHeartbeatAgeMilliseconds))
    #expect(reader.uptimeNanoseconds < 60_000_000_000)
  }

  /// Parts of the region do not overlap, at any size.
  @Test(arguments: [(1, 1), (1, 4096), (3, 7), (64, 129)]) func partsAreApart(workers: Int, interfaces: Int) throws {
    let region = try region(workers: workers, interfaces: interfaces)
    let reader = try region.reader()
    for worker in 0..<workers {
      let statistics = region.worker(worker)
      for reason in 0..<3 { weft_count(statistics.drops + reason * 8, 1) }
      for interface in 0..<interfaces {
        for field in 0..<5 { weft_count(statistics.interfaces + interface * 64 + field * 8, 1) }
      }
      statistics.countSleep()
    }
    let count = UInt64(workers)
    #expect(reader.drops().allSatisfy { $0.count == count && !$0.name.isEmpty })
    #expect(reader.interfaces().count == interfaces)
    #expect(reader.interfaces().allSatisfy { $0.rxPackets == count && $0.drops == count })
    #expect(reader.workers().allSatisfy { $0.sleeps == 1 && $0.batches == 0 && $0.flows == 0 })
  }
}
