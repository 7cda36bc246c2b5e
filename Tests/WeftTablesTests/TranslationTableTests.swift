import Testing
import WeftTables
import WeftWire

@Suite struct TranslationTableTests {
  private func key(_ number: Int) -> TranslationKey {
    TranslationKey(
      .destination, vrf: UInt32(number % 7), address: IPAddress(v4: 0x0A00_0000 + UInt32(number / 7)), proto: 6,
      port: UInt16(80 + number % 5))
  }

  private func entry(_ key: TranslationKey, _ value: UInt32) -> TranslationEntry {
    TranslationEntry(key: key, target: IPAddress(v4: value), vrf: value)
  }

  /// Random sets and removals against a dictionary.
  @Test func isADictionary() throws {
    let epochs = try Epochs(workers: 0)
    let table = try TranslationTable(epochs: epochs)
    let reader = table.reader
    var model: [TranslationKey: UInt32] = [:]
    var random = SeededRandom(seed: 51)
    for round in 0..<200_000 {
      let key = key(random.below(round < 100_000 ? 20_000 : 500))
      if random.below(3) > 0 {
        model[key] = UInt32(round)
        table.set(entry(key, UInt32(round)))
      } else {
        model[key] = nil
        table.remove(key)
      }
      if round % 64 == 0 { epochs.reclaim() }
    }
    #expect(table.count == model.count)
    for number in 0..<20_000 { #expect(reader.find(key(number))?.entry.targetVRF == model[key(number)]) }
    for key in model.keys { table.remove(key) }
    #expect(table.count == 0 && table.entryBytes == 0)
    for number in 0..<20_000 { #expect(reader.find(key(number)) == nil) }
  }

  @Test func keepsKindsApart() throws {
    let table = try TranslationTable(epochs: try Epochs(workers: 0))
    let address = IPAddress("192.0.2.1")!
    let inside = TranslationKey(.inside, vrf: 1, address: address)
    let outside = TranslationKey(.outside, vrf: 1, address: address)
    table.set(entry(inside, 1))
    table.set(entry(outside, 2))
    #expect(table.reader.find(inside)?.entry.targetVRF == 1)
    #expect(table.reader.find(outside)?.entry.targetVRF == 2)
    #expect(table.reader.find(TranslationKey(.outside, vrf: 2, address: address)) == nil)
  }

  /// 10,000 services with ten backends each: a change of one costs that one.
  @Test func holdsManyServices() throws {
    let epochs = try Epochs(workers: 0)
    let table = try TranslationTable(epochs: epochs)
    func service(_ number: Int, _ backends: Int) {
      let key = TranslationKey(
        .destination, vrf: 1, address: IPAddress(v4: 0x0A60_0000 + UInt32(number)), proto: 6, port: 80)
      var entry = TranslationEntry(key: key, target: key.address, vrf: 1)
      entry.isService = true
      table.set(
        entry,
        backends: (0..<backends).map {
          ServiceBackend(
            address: IPAddress(v4: 0x0A80_0000 + UInt32(number * 16 + $0)), vrf: 1, port: 8080, number: UInt32($0))
        })
    }
    for number in 0..<10_000 { service(number, 10) }
    #expect(table.count == 10_000)
    let bytes = table.entryBytes
    let clock = ContinuousClock()
    let time = clock.measure { for number in 0..<100 { service(number * 97, 9) } }
    epochs.reclaim()
    #expect(time < .milliseconds(500))
    #expect(table.entryBytes < bytes && table.count == 10_000)
    for number in stride(from: 1, to: 10_000, by: 991) {
      let found = try #require(
        table.reader.find(
          TranslationKey(
            .destination, vrf: 1, address: IPAddress(v4: 0x0A60_0000 + UInt32(number)), proto: 6, port: 80)))
      let backend = try #require(found.backend(hash: 0x1234_5678_9ABC_DEF0))
      #expect((backend.address.v4 - 0x0A80_0000) / 16 == UInt32(number))
    }
  }

  /// Readers see an entry whole, or none, while everything changes.
  @Test func readersSeeWholeEntries() throws {
    let readers = 2
    let epochs = try Epochs(workers: readers)
    let table = try TranslationTable(epochs: epochs)
    let watch = Watch()
    let keys = (0..<300).map { key($0) }
    let threads = (0..<readers).map { index in
      let worker = epochs.worker(index)
      let reader = table.reader
      return PosixThread {
        worker.comeOnline()
        while !watch.isStopped {
          for key in keys {
            guard let found = reader.find(key) else { continue }
            if found.entry.key != key || found.entry.target.v4 != found.entry.targetVRF { watch.sawWrong() }
            // All backends say the same.
            for hash: UInt64 in [0, .max / 3, .max] {
              guard let backend = found.backend(hash: hash) else { continue }
              if backend.vrf != found.entry.targetVRF || backend.address != found.entry.target { watch.sawWrong() }
            }
          }
          watch.readAll()
          worker.quiescent()
        }
        worker.goOffline()
      }
    }
    var random = SeededRandom(seed: 52)
    for round in 0..<60_000 {
      let key = keys[random.below(keys.count)]
      if random.below(4) == 0 {
        table.remove(key)
      } else {
        var made = entry(key, UInt32(round))
        made.isService = true
        let backend = ServiceBackend(address: IPAddress(v4: UInt32(round)), vrf: UInt32(round), port: 1, number: 1)
        table.set(made, backends: [backend])
      }
      if round % 16 == 0 { epochs.reclaim() }
    }
    watch.stop()
    for thread in threads { thread.join() }
    #expect(watch.wrong == 0)
    #expect(watch.reads > 10)
  }

  @Test func remembersClients() throws {
    var table = try AffinityTable(capacity: 64)
    let second: UInt64 = 1_000_000_000
    func client(_ number: Int) -> IPAddress { IPAddress(v4: 0x0A00_0000 + UInt32(number)) }
    table.remember(service: 1, client: client(1), backend: 7, now: 10 * second)
    table.remember(service: 2, client: client(1), backend: 8, now: 10 * second)
    #expect(table.backend(service: 1, client: client(1), now: 20 * second, limit: 10 * second) == 7)
    #expect(table.backend(service: 2, client: client(1), now: 20 * second, limit: 10 * second) == 8)
    #expect(table.backend(service: 1, client: client(1), now: 20 * second + 1, limit: 10 * second) == nil)
    #expect(table.backend(service: 1, client: client(2), now: 11 * second, limit: 10 * second) == nil)
    // Bounded: of many clients some are forgotten, and none is confused with another.
    for number in 0..<1000 {
      table.remember(service: 1, client: client(number), backend: UInt32(number), now: UInt64(100 + number) * second)
    }
    var known = 0
    for number in 0..<1000 {
      guard let backend = table.backend(service: 1, client: client(number), now: 2000 * second, limit: .max) else {
        continue
      }
      #expect(backend == UInt32(number))
      known += 1
    }
    #expect(known > 32 && known <= 64)
  }
}
