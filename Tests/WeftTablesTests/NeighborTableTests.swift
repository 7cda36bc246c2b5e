import Testing
import WeftTables
import WeftWire

@Suite struct NeighborTableTests {
  private struct Key: Hashable {
    var vrf: UInt32
    var address: IPAddress
  }

  @Test func isFull() throws {
    let table = try NeighborTable(capacity: 4, epochs: Epochs(workers: 0))
    func address(_ number: UInt32) -> IPAddress { IPAddress(v4: number) }
    for number in 0..<4 as Range<UInt32> {
      #expect(table.set(vrf: 1, address: address(number), mac: MACAddress(bits: 7)))
    }
    #expect(!table.set(vrf: 1, address: address(9), mac: MACAddress(bits: 7)))
    #expect(table.set(vrf: 1, address: address(2), mac: MACAddress(bits: 8)))
    #expect(table.reader.lookup(vrf: 1, address: address(2)) == 8)
    #expect(table.reader.lookup(vrf: 1, address: address(9)) == 0)
    #expect(table.reader.lookup(vrf: 2, address: address(2)) == 0)
    table.remove(vrf: 1, address: address(3))
    table.remove(vrf: 1, address: address(3))
    #expect(table.set(vrf: 1, address: address(9), mac: MACAddress(bits: 9)))
    #expect(table.count == 4)
  }

  /// Against a dictionary, at full load, with reclamation now and then.
  @Test(arguments: [4, 100, 1000]) func churns(capacity: Int) throws {
    let epochs = try Epochs(workers: 1)
    let worker = epochs.worker(0)
    worker.comeOnline()
    let table = try NeighborTable(capacity: capacity, epochs: epochs)
    var model: [Key: UInt64] = [:]
    var random = SeededRandom(seed: UInt64(capacity))
    for step in 0..<100_000 {
      let number = UInt64(random.below(capacity * 2))
      let key = Key(
        vrf: UInt32(number & 1),
        address: number & 2 == 0 ? IPAddress(v4: UInt32(number)) : IPAddress(high: 0xFD00 << 48, low: number))
      if random.below(3) == 0 {
        table.remove(vrf: key.vrf, address: key.address)
        model[key] = nil
      } else {
        let bits = UInt64(step + 1)
        let isSet = table.set(vrf: key.vrf, address: key.address, mac: MACAddress(bits: bits))
        if isSet != (model[key] != nil || model.count < capacity) { Issue.record("step \(step)") }
        if isSet { model[key] = bits }
      }
      if table.reader.lookup(vrf: key.vrf, address: key.address) != model[key] ?? 0 { Issue.record("step \(step)") }
      if step % 500 == 0 {
        worker.quiescent()
        epochs.reclaim()
      }
    }
    #expect(table.count == model.count)
    for (key, bits) in model { #expect(table.reader.lookup(vrf: key.vrf, address: key.address) == bits) }
  }

  /// Readers see a MAC address of the right key or none, whatever the writer does.
  @Test func readersSeeWholeEntries() throws {
    let epochs = try Epochs(workers: 2)
    let table = try NeighborTable(capacity: 64, epochs: epochs)
    let watch = Watch()
    let reader = table.reader
    let threads = (0..<2).map { index in
      let worker = epochs.worker(index)
      worker.comeOnline()
      return PosixThread {
        while !watch.isStopped {
          for number in 0..<64 as Range<UInt32> {
            let found = reader.lookup(vrf: number & 3, address: IPAddress(v4: number))
            if found != 0, found & 0xFF != UInt64(number) { watch.sawWrong() }
          }
          worker.quiescent()
          watch.readAll()
        }
        worker.goOffline()
      }
    }
    var random = SeededRandom(seed: 1)
    var step: UInt64 = 0
    while watch.reads < 200 || step < 100_000 {
      let number = UInt32(random.below(64))
      step += 1
      if step & 3 == 0 {
        table.remove(vrf: number & 3, address: IPAddress(v4: number))
      } else {
        _ = table.set(
          vrf: number & 3, address: IPAddress(v4: number),
          mac: MACAddress(bits: (step & 0xFF_FFFF) << 8 | UInt64(number) | 1 << 40))
      }
      epochs.reclaim()
    }
    watch.stop()
    for thread in threads { thread.join() }
    #expect(watch.wrong == 0)
  }
}

@Suite struct ReportRingTests {
  private static func report(_ number: UInt64) -> Report {
    Report(
      kind: number % 3 == 0 ? .resolve : number % 3 == 1 ? .station : .remoteStation, vrf: UInt32(number % 97),
      interface: UInt32(number % 89), label: UInt32(number % 83), mac: number,
      address: IPAddress(high: number, low: ~number),
      time: number)
  }

  @Test func holdsSoManyAndNoMore() throws {
    let ring = try ReportRing()
    let writer = ring.writer
    #expect(ring.next() == nil)
    for round in 0..<3 as Range<UInt64> {
      var written: UInt64 = 0
      while writer.write(Self.report(round << 32 | written)) { written += 1 }
      #expect(written == 4096)
      for number in 0..<written { #expect(ring.next() == Self.report(round << 32 | number)) }
      #expect(ring.next() == nil)
    }
  }

  @Test func passesReportsBetweenThreads() throws {
    let ring = try ReportRing()
    let writer = ring.writer
    let total: UInt64 = 300_000
    let thread = PosixThread {
      var number: UInt64 = 0
      while number < total { if writer.write(Self.report(number)) { number += 1 } }
    }
    var expected: UInt64 = 0
    var wrong = 0
    while expected < total {
      guard let report = ring.next() else { continue }
      if report != Self.report(expected) { wrong += 1 }
      expected += 1
    }
    thread.join()
    #expect(wrong == 0 && ring.next() == nil)
  }
}
