import Testing
import WeftTables
import WeftWire

@Suite struct BridgeTableTests {
  private struct Key: Hashable {
    var vrf: UInt32
    var mac: UInt64
  }

  private static func mac(_ bits: UInt64) -> MACAddress { MACAddress(bits: bits) }

  @Test func corners() throws {
    let table = try BridgeTable(capacity: 16, epochs: Epochs(workers: 0))
    let corners = [
      Key(vrf: 0, mac: 0), Key(vrf: 0, mac: 0xFFFF_FFFF_FFFF), Key(vrf: 1, mac: 0), Key(vrf: 1, mac: 0xFFFF_FFFF_FFFF),
      Key(vrf: UInt32(BridgeTable.maximumVRFs - 1), mac: 0),
      Key(vrf: UInt32(BridgeTable.maximumVRFs - 1), mac: 0xFFFF_FFFF_FFFF),
    ]
    for key in corners { #expect(table.reader.lookup(vrf: key.vrf, mac: key.mac) == 0) }
    for (number, key) in corners.enumerated() {
      #expect(table.set(vrf: key.vrf, mac: Self.mac(key.mac), path: UInt32(number + 1)))
    }
    for (number, key) in corners.enumerated() {
      #expect(table.reader.lookup(vrf: key.vrf, mac: key.mac) == UInt32(number + 1))
    }
    #expect(table.set(vrf: 0, mac: Self.mac(0), path: .max))
    #expect(table.reader.lookup(vrf: 0, mac: 0) == .max)
    #expect(table.count == corners.count)
    for key in corners { table.remove(vrf: key.vrf, mac: Self.mac(key.mac)) }
    table.remove(vrf: 0, mac: Self.mac(0))
    #expect(table.count == 0)
    for key in corners { #expect(table.reader.lookup(vrf: key.vrf, mac: key.mac) == 0) }
  }

  @Test func full() throws {
    let table = try BridgeTable(capacity: 10, epochs: Epochs(workers: 0))
    for number in 0..<10 { #expect(table.set(vrf: 1, mac: Self.mac(UInt64(number)), path: 5)) }
    #expect(!table.set(vrf: 1, mac: Self.mac(10), path: 5))
    #expect(table.count == 10)
    // What is there can still be changed.
    #expect(table.set(vrf: 1, mac: Self.mac(3), path: 6))
    #expect(table.reader.lookup(vrf: 1, mac: 3) == 6)
    #expect(table.reader.lookup(vrf: 1, mac: 10) == 0)
    table.remove(vrf: 1, mac: Self.mac(4))
    #expect(table.set(vrf: 1, mac: Self.mac(10), path: 7))
    #expect(table.reader.lookup(vrf: 1, mac: 10) == 7)
  }

  /// Random changes at full load, many times over: a table that leaves marks behind would slow to a halt.
  @Test(arguments: [(4, 200_000), (7, 100_000), (100, 200_000), (4096, 600_000)])
  func churn(capacity: Int, steps: Int) throws {
    let epochs = try Epochs(workers: 1)
    let table = try BridgeTable(capacity: capacity, epochs: epochs)
    let worker = epochs.worker(0)
    worker.comeOnline()
    var model: [Key: UInt32] = [:]
    var keys: [Key] = []
    var random = SeededRandom(seed: UInt64(capacity))
    for step in 0..<steps {
      if keys.count == capacity || !keys.isEmpty && random.below(8) == 0 {
        let index = random.below(keys.count)
        let key = keys[index]
        keys[index] = keys[keys.count - 1]
        keys.removeLast()
        model[key] = nil
        table.remove(vrf: key.vrf, mac: Self.mac(key.mac))
        if table.reader.lookup(vrf: key.vrf, mac: key.mac) != 0 { Issue.record("step \(step): a removed key answers") }
      } else {
        let key = Key(vrf: UInt32(random.below(3)), mac: 0x0200_0000_0000 | UInt64(random.below(capacity * 4)))
        let path = UInt32(1 + random.below(1 << 30))
        if model.updateValue(path, forKey: key) == nil { keys.append(key) }
        if !table.set(vrf: key.vrf, mac: Self.mac(key.mac), path: path) { Issue.record("step \(step): full") }
      }
      // Absent keys too: theirs are the longest searches.
      let probe = Key(vrf: UInt32(random.below(3)), mac: 0x0200_0000_0000 | UInt64(random.below(capacity * 4)))
      let found = table.reader.lookup(vrf: probe.vrf, mac: probe.mac)
      if found != model[probe] ?? 0 { Issue.record("step \(step): \(probe) is \(found), not \(model[probe] ?? 0)") }
      if step % 64 == 0 {
        worker.quiescent()
        epochs.reclaim()
      }
    }
    #expect(table.count == model.count)
    for (key, path) in model { #expect(table.reader.lookup(vrf: key.vrf, mac: key.mac) == path) }
  }

  /// With a worker that never passes there is no clean memory to move to: it has to work all the same.
  @Test func churnWhileAWorkerHolds() throws {
    let epochs = try Epochs(workers: 1)
    let table = try BridgeTable(capacity: 8, epochs: epochs)
    epochs.worker(0).comeOnline()
    var random = SeededRandom(seed: 21)
    var model: [UInt64: UInt32] = [:]
    for step in 0..<20_000 {
      let mac = UInt64(random.below(32))
      if model[mac] == nil, model.count < 8 {
        model[mac] = UInt32(step + 1)
        #expect(table.set(vrf: 0, mac: Self.mac(mac), path: UInt32(step + 1)))
      } else {
        model[mac] = nil
        table.remove(vrf: 0, mac: Self.mac(mac))
      }
      let probe = UInt64(random.below(32))
      #expect(table.reader.lookup(vrf: 0, mac: probe) == model[probe] ?? 0)
    }
    #expect(table.count == model.count)
  }

  /// Keys that stay are found by readers at every moment, with the old or the new path, whatever comes and goes between
  /// them and however often the table moves.
  @Test func readersAlwaysFindWhatStays() throws {
    let epochs = try Epochs(workers: 2)
    let table = try BridgeTable(capacity: 64, epochs: epochs)
    // A path says whose it is.
    func path(_ mac: UInt64, _ change: Int) -> UInt32 { UInt32(mac) << 16 | UInt32(change & 0xFFFF) | 0x8000_0000 }
    let staying = Array(UInt64(0)..<20)
    for mac in staying { #expect(table.set(vrf: 1, mac: Self.mac(mac), path: path(mac, 0))) }
    let reader = table.reader
    let watch = Watch()
    let threads = (0..<2).map { index in
      let worker = epochs.worker(index)
      return PosixThread {
        worker.comeOnline()
        while !watch.isStopped {
          for mac in 0..<UInt64(256) {
            let found = reader.lookup(vrf: 1, mac: mac)
            if found == 0 ? mac < 20 : UInt64(found >> 16 & 0x7FFF) != mac { watch.sawWrong() }
          }
          watch.readAll()
          worker.quiescent()
        }
        worker.goOffline()
      }
    }
    var random = SeededRandom(seed: 22)
    var passing: Set<UInt64> = []
    for step in 0..<400_000 {
      let mac = UInt64(random.below(256))
      if mac < 20 || passing.contains(mac) && random.below(2) == 0 {
        _ = table.set(vrf: 1, mac: Self.mac(mac), path: path(mac, step))
      } else if passing.remove(mac) != nil {
        table.remove(vrf: 1, mac: Self.mac(mac))
      } else if passing.count < 44 {
        passing.insert(mac)
        _ = table.set(vrf: 1, mac: Self.mac(mac), path: path(mac, step))
      }
      if step % 8 == 0 { epochs.reclaim() }
    }
    watch.stop()
    for thread in threads { thread.join() }
    #expect(watch.wrong == 0)
    #expect(watch.reads > 10)
  }
}
