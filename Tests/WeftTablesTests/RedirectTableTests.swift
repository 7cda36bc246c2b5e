import Testing
import WeftTables
import WeftWire

@Suite struct RedirectTableTests {
  private static func key(_ number: Int) -> FlowKey {
    FlowKey(
      vrf: UInt32(number % 3), source: IPAddress(v4: UInt32(number)), destination: IPAddress("2001:db8::1")!, proto: 17,
      sourcePort: UInt16(number & 0xFF), destinationPort: 53)
  }

  /// Against a dictionary, in a table so small that most keys lie where others want to be.
  @Test(arguments: [1, 2, 3] as [UInt64]) func likeADictionary(seed: UInt64) throws {
    var table = try RedirectTable(capacity: 60, seed: seed)
    var model: [Int: (worker: Int, serial: UInt32)] = [:]
    var random = SeededRandom(seed: seed)
    for step in 1...40_000 {
      let number = random.below(90)
      let worker = random.below(3)
      if random.below(2) == 0 {
        let outcome = table.add(Self.key(number), worker: worker, serial: UInt32(step))
        switch (outcome, model[number]) {
        case (.taken(let other), let known?): #expect(other == known.worker && other != worker)
        case (.added, let known):
          #expect(known == nil ? model.count < 60 : known?.worker == worker)
          model[number] = (worker, UInt32(step))
        case (.full, nil): #expect(model.count == 60)
        default: Issue.record("\(outcome) for \(String(describing: model[number]))")
        }
      } else {
        let known = model[number]
        let serial = random.below(3) == 0 ? nil : random.below(2) == 0 ? known?.serial ?? 1 : UInt32(step)
        table.remove(Self.key(number), worker: worker, serial: serial)
        if let known, known.worker == worker, serial == nil || serial == known.serial { model[number] = nil }
      }
      #expect(table.count == model.count)
      if step % 100 == 0 {
        for number in 0..<90 { #expect(table.worker(Self.key(number)) == model[number]?.worker) }
      }
    }
  }
}

@Suite struct FlowOwnerTests {
  @Test(arguments: [true, false]) func bothDirectionsHaveOne(isV4: Bool) {
    var random = SeededRandom(seed: 9)
    for workers in [1, 2, 3, 4, 7, 64] {
      let owner = FlowOwner(index: 0, workers: workers, seed: 77)
      var counts = [Int](repeating: 0, count: workers)
      for _ in 0..<8000 {
        func address() -> IPAddress {
          isV4
            ? IPAddress(v4: UInt32(random.below(1 << 16)) | 0x0A00_0000)
            : IPAddress(high: 0xFD00 << 48, low: random.next())
        }
        let key = FlowKey(
          vrf: 1, source: address(), destination: address(), proto: random.below(2) == 0 ? 6 : 17,
          sourcePort: UInt16(random.below(65536)), destinationPort: UInt16(random.below(1024)))
        let worker = owner.worker(key)
        #expect(worker == owner.worker(key.reversed))
        var elsewhere = key
        elsewhere.vrf = 9
        #expect(worker == owner.worker(elsewhere), "the VRF does not matter")
        counts[worker] += 1
      }
      for count in counts { #expect(abs(count - 8000 / workers) < 8000 / workers / 2 + 40) }
    }
  }

  /// One client's flows to one server, which differ in a port alone.
  @Test func portsSpread() {
    let owner = FlowOwner(index: 0, workers: 4, seed: 5)
    var counts = [0, 0, 0, 0]
    for port in 0..<4000 as Range<UInt16> {
      counts[
        owner.worker(
          FlowKey(
            vrf: 0, source: IPAddress(v4: 1), destination: IPAddress(v4: 2), proto: 6, sourcePort: port,
            destinationPort: 80))] += 1
    }
    for count in counts { #expect((800...1200).contains(count)) }
  }

  /// Who does not know the seed does not know the worker.
  @Test func seedsDiffer() {
    let owners = (0..<64 as Range<UInt64>).map { FlowOwner(index: 0, workers: 2, seed: $0) }
    let key = FlowKey(
      vrf: 0, source: IPAddress(v4: 1), destination: IPAddress(v4: 2), proto: 6, sourcePort: 1, destinationPort: 80)
    #expect((16...48).contains(owners.filter { $0.worker(key) == 0 }.count))
  }
}
