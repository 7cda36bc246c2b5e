import Synchronization
import Testing
import WeftTables

@Suite struct EpochTests {
  /// Counts what was freed.
  private final class Freed: Sendable {
    let count = Atomic<Int>(0)
    var now: Int { count.load(ordering: .acquiring) }
    func one() { count.add(1, ordering: .acquiringAndReleasing) }
  }

  @Test func offlineWorkersHoldNothingUp() throws {
    let epochs = try Epochs(workers: 3)
    let freed = Freed()
    for _ in 0..<5 { epochs.retire { freed.one() } }
    #expect(freed.now == 0 && epochs.pending == 5)
    epochs.reclaim()
    #expect(freed.now == 5 && epochs.pending == 0)
    epochs.reclaim()
    #expect(freed.now == 5)
  }

  @Test func freesOnlyWhenEveryWorkerHasPassed() throws {
    let epochs = try Epochs(workers: 2)
    let freed = Freed()
    let workers = [epochs.worker(0), epochs.worker(1)]
    for worker in workers { worker.comeOnline() }
    epochs.retire { freed.one() }
    epochs.reclaim()
    #expect(freed.now == 0, "both may hold it")
    workers[0].quiescent()
    epochs.reclaim()
    #expect(freed.now == 0, "worker 1 may hold it")
    workers[1].quiescent()
    epochs.reclaim()
    #expect(freed.now == 1)
    // A worker that passed before the next one was retired says nothing about that one.
    epochs.retire { freed.one() }
    epochs.retire { freed.one() }
    workers[0].quiescent()
    epochs.reclaim()
    #expect(freed.now == 1)
    workers[1].goOffline()
    epochs.reclaim()
    #expect(freed.now == 3)
    // One that comes online after the retirement cannot have found it.
    epochs.retire { freed.one() }
    workers[1].comeOnline()
    workers[0].quiescent()
    epochs.reclaim()
    #expect(freed.now == 4)
    #expect(epochs.pending == 0)
  }

  @Test func freesInOrderAndOnce() throws {
    let epochs = try Epochs(workers: 1)
    let worker = epochs.worker(0)
    worker.comeOnline()
    let order = Mutex<[Int]>([])
    var random = SeededRandom(seed: 5)
    for number in 0..<20_000 {
      epochs.retire { order.withLock { $0.append(number) } }
      if random.below(50) == 0 { worker.quiescent() }
      if random.below(3000) == 0 { epochs.reclaim() }
      #expect(epochs.pending + order.withLock(\.count) == number + 1)
    }
    worker.goOffline()
    epochs.reclaim()
    #expect(order.withLock { $0 } == Array(0..<20_000))
  }

  @Test func marks() throws {
    let epochs = try Epochs(workers: 2)
    let workers = [epochs.worker(0), epochs.worker(1)]
    #expect(epochs.hasPassed(epochs.mark()), "nobody is online")
    for worker in workers { worker.comeOnline() }
    let mark = epochs.mark()
    #expect(!epochs.hasPassed(mark))
    workers[0].quiescent()
    #expect(!epochs.hasPassed(mark))
    workers[1].goOffline()
    #expect(epochs.hasPassed(mark))
    workers[1].comeOnline()
    #expect(epochs.hasPassed(mark))
  }

  /// Retired memory is poisoned when it is freed; workers that come and go must never see poison behind the pointer.
  @Test func readersNeverSeeWhatWasFreed() throws {
    let readers = 3
    let epochs = try Epochs(workers: readers)
    let table = try PointerTable(capacity: 4, what: "test")
    let watch = Watch()
    let poison: UInt64 = 0xDEAD_DEAD_DEAD_DEAD
    let words = 8
    func make(_ value: UInt64) -> UnsafeMutableRawPointer {
      let memory = UnsafeMutablePointer<UInt64>.allocate(capacity: words)
      memory.initialize(repeating: value, count: words)
      return UnsafeMutableRawPointer(memory)
    }
    let threads = (0..<readers).map { index in
      let worker = epochs.worker(index)
      let reader = table.reader
      return PosixThread {
        var round = 0
        worker.comeOnline()
        while !watch.isStopped {
          for slot in 0..<UInt32(4) {
            guard let raw = reader[slot] else { continue }
            let memory = raw.assumingMemoryBound(to: UInt64.self)
            let first = memory[0]
            // Old or new, but whole.
            for word in 0..<words where memory[word] != first || first == poison { watch.sawWrong() }
          }
          watch.readAll()
          round += 1
          if round % 64 == 0 {
            worker.goOffline()
            worker.comeOnline()
          } else {
            worker.quiescent()
          }
        }
        worker.goOffline()
      }
    }
    for number in 0..<60_000 {
      let old = table.replace(number % 4, number % 7 == 0 ? nil : make(UInt64(number)))
      if let old {
        epochs.retire {
          let memory = old.assumingMemoryBound(to: UInt64.self)
          for word in 0..<words { memory[word] = poison }
          memory.deallocate()
        }
      }
      if number % 16 == 0 { epochs.reclaim() }
    }
    watch.stop()
    for thread in threads { thread.join() }
    epochs.reclaim()
    #expect(epochs.pending == 0)
    #expect(watch.wrong == 0)
    #expect(watch.reads > 1000)
  }
}
