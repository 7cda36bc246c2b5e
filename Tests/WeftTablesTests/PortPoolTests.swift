import Glibc
import Synchronization
import Testing
import WeftTables
import WeftWire

@Suite struct PortPoolTests {
  private func pool(
    addresses: UInt32 = 1, ports: ClosedRange<UInt16> = 1024...65535, block: UInt32 = 256, workers: Int = 1
  ) throws -> PortPool {
    try PortPool(
      id: 1, vrf: 1, first: IPAddress("203.0.113.0")!, count: addresses, firstPort: ports.lowerBound,
      lastPort: ports.upperBound, blockPorts: block, workers: workers)
  }

  /// A worker's blocks, for use within expectations.
  private final class Ports {
    private var blocks: PortBlocks

    init() throws { blocks = try PortBlocks(worker: 0, seed: 1) }

    var leased: Int { blocks.leased }
    func lease(_ pool: PortPool, _ portClass: PortClass, spread: UInt64 = 0, wanted: UInt16 = 0) -> PortLease? {
      blocks.lease(pool.reference, portClass, spread: spread, wanted: wanted)
    }
    func release(_ reference: UInt32) { blocks.release(reference) }
  }

  private struct End: Hashable {
    let address: IPAddress
    let port: UInt16
  }

  /// Every port of the range once, then none; each comes back.
  @Test(arguments: [(UInt16(1024), UInt16(65535), UInt32(512)), (1, 65535, 64), (40_000, 40_099, 64), (5, 5, 256)])
  func givesEveryPortOnce(first: UInt16, last: UInt16, block: UInt32) throws {
    let pool = try pool(ports: first...last, block: block)
    let ports = try Ports()
    var leases: [PortLease] = []
    var seen: Set<End> = []
    while let lease = ports.lease(
      pool, .tcp, spread: UInt64(leases.count) &* 0x9E37_79B9_7F4A_7C15, wanted: 0)
    {
      #expect((first...last).contains(lease.port) && lease.reference != 0)
      #expect(seen.insert(End(address: lease.address, port: lease.port)).inserted)
      leases.append(lease)
      guard leases.count <= 65535 else { break }
    }
    #expect(leases.count == Int(last) - Int(first) + 1)
    #expect(ports.leased == leases.count && pool.use(.tcp).taken == pool.use(.tcp).all)
    #expect(pool.use(.udp).taken == 0)
    var random = SeededRandom(seed: 3)
    for lease in leases.shuffled(using: &random) { ports.release(lease.reference) }
    #expect(ports.leased == 0 && pool.isIdle)
  }

  @Test func keepsClassesApart() throws {
    let pool = try pool(ports: 5...5)
    let ports = try Ports()
    for portClass in PortClass.allCases {
      #expect(ports.lease(pool, portClass)?.port == 5)
      #expect(ports.lease(pool, portClass) == nil)
    }
  }

  @Test func givesTheWantedPortWhereItCan() throws {
    let pool = try pool(ports: 1024...1535, block: 512)
    let ports = try Ports()
    let first = try #require(ports.lease(pool, .udp, wanted: 1100))
    let second = try #require(ports.lease(pool, .udp, wanted: first.port == 1200 ? 1201 : 1200))
    #expect(second.port == (first.port == 1200 ? 1201 : 1200))
    let third = try #require(ports.lease(pool, .udp, wanted: second.port))
    #expect(third.port != second.port && third.port != first.port)
    // Out of the range: another one.
    #expect(ports.lease(pool, .udp, wanted: 80) != nil)
  }

  /// One host keeps one address until that has no port left.
  @Test func keepsOneAddressForOneHost() throws {
    let pool = try pool(addresses: 8, ports: 1024...1151, block: 64)
    let ports = try Ports()
    let spread: UInt64 = 0x7000_0000_0000_0000
    let home = try #require(ports.lease(pool, .tcp, spread: spread, wanted: 0)).address
    #expect(home == IPAddress("203.0.113.3"))
    for _ in 1..<128 { #expect(ports.lease(pool, .tcp, spread: spread, wanted: 0)?.address == home) }
    for _ in 0..<128 * 7 {
      let lease = try #require(ports.lease(pool, .tcp, spread: spread, wanted: 0))
      #expect(lease.address != home)
    }
    #expect(ports.lease(pool, .tcp, spread: spread, wanted: 0) == nil)
  }

  @Test func ignoresReferencesThatAreNone() throws {
    let pool = try pool(ports: 1024...1087, block: 64)
    let ports = try Ports()
    let lease = try #require(ports.lease(pool, .tcp))
    for reference: UInt32 in [0, 1, 511, lease.reference ^ 1, 512 + 511, .max] where reference != lease.reference {
      ports.release(reference)
    }
    #expect(ports.leased == 1)
    ports.release(lease.reference)
    ports.release(lease.reference)
    #expect(ports.leased == 0 && pool.isIdle)
  }

  /// Four workers take and give back at once: no port is ever two flows', and in the end everything is there again.
  @Test(.timeLimit(.minutes(2))) func workersNeverShareAPort() throws {
    let workers = 4
    let pool = try pool(addresses: 3, ports: 2000...3999, block: 64, workers: workers)
    // Who has a port, by address and port: set with an exchange, so that a second owner shows.
    let owners = UnsafeMutablePointer<Atomic<Int>>.allocate(capacity: 3 * 2000)
    for index in 0..<3 * 2000 { (owners + index).initialize(to: Atomic(0)) }
    struct Shared: @unchecked Sendable { let owners: UnsafeMutablePointer<Atomic<Int>> }
    let shared = Shared(owners: owners)
    let watch = Watch()
    let refused = Atomic<Int>(0)
    let full = Atomic<Int>(0)
    let base = IPAddress("203.0.113.0")!.v4
    let threads = (0..<workers).map { index in
      PosixThread {
        guard var ports = try? PortBlocks(worker: index, seed: UInt64(index)) else {
          full.add(1, ordering: .relaxed)
          return watch.sawWrong()
        }
        var random = SeededRandom(seed: UInt64(60 + index))
        var leases: [PortLease] = []
        func place(_ lease: PortLease) -> Int { Int(lease.address.v4 - base) * 2000 + Int(lease.port) - 2000 }
        func giveBack(_ lease: PortLease) {
          if shared.owners[place(lease)].exchange(0, ordering: .acquiringAndReleasing) != index + 1 { watch.sawWrong() }
          ports.release(lease.reference)
        }
        for round in 0..<400_000 {
          if round == 19_999 {
            // All have what they want by now, or have been refused: at once, whoever runs when.
            full.add(1, ordering: .relaxed)
            while full.load(ordering: .relaxed) < workers { sched_yield() }
          }
          // Waves of want, up to more than there is for four.
          let wanted = (round / 20_000) % 2 == 0 ? 1900 : 40
          if leases.count < wanted, random.below(4) > 0 {
            let port = UInt16(2000 + random.below(2000))
            if let lease = ports.lease(pool.reference, .tcp, spread: random.next(), wanted: port) {
              if shared.owners[place(lease)].exchange(index + 1, ordering: .acquiringAndReleasing) != 0 {
                watch.sawWrong()
              }
              leases.append(lease)
            } else {
              refused.add(1, ordering: .relaxed)
            }
          } else if !leases.isEmpty {
            giveBack(leases.swapRemove(random.below(leases.count)))
          }
        }
        for lease in leases { giveBack(lease) }
        watch.readAll()
      }
    }
    for thread in threads { thread.join() }
    #expect(watch.wrong == 0 && watch.reads == workers)
    #expect(refused.load(ordering: .relaxed) > 0, "the pool was never exhausted")
    #expect(pool.isIdle)
    owners.deallocate()
  }
}

extension Array {
  fileprivate mutating func swapRemove(_ index: Int) -> Element {
    swapAt(index, count - 1)
    return removeLast()
  }
}
