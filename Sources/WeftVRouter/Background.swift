import CLinux
import Glibc
import Synchronization
import WeftPorts
import WeftSystem

/// Does what the kernel takes milliseconds for (it waits for all cores) on threads of its own, many at once, so that the
/// control thread does not: closing packet sockets, making their rings, attaching programs. Those who wait for the cores
/// at the same time wait once, so that many threads are many times as fast as one, on however few cores.
final class Background: Sendable {
  private let jobs = Mutex<[@Sendable () -> Void]>([])
  /// A signal for each job, and at the end for each thread; a signal wakes one thread.
  private let event: Descriptor
  private let threads: Int
  private let ended: Acknowledgement

  init(threads: Int) throws(SystemError) {
    event = try .semaphore()
    ended = Acknowledgement(workers: threads)
    self.threads = threads
    var attributes = pthread_attr_t()
    pthread_attr_init(&attributes)
    defer { pthread_attr_destroy(&attributes) }
    pthread_attr_setstacksize(&attributes, 256 << 10)
    for _ in 0..<threads {
      var thread = pthread_t()
      let argument = Unmanaged.passRetained(self)
      let status = pthread_create(
        &thread, &attributes,
        { @Sendable argument in
          guard let argument else { return nil }
          Unmanaged<Background>.fromOpaque(argument).takeRetainedValue().work()
          return nil
        }, argument.toOpaque())
      guard status == 0 else {
        argument.release()
        throw SystemError("start", "a background thread", code: status)
      }
      pthread_detach(thread)
    }
  }

  func run(_ job: @escaping @Sendable () -> Void) {
    jobs.withLock { $0.append(job) }
    event.signal()
  }

  /// Waits until everything has been done. Nothing is asked for any more.
  func finish() {
    for _ in 0..<threads { event.signal() }
    _ = ended.wait(milliseconds: 30_000)
  }

  private func work() {
    weft_name_thread("background")
    while true {
      event.drain()
      guard let job = jobs.withLock({ $0.isEmpty ? nil : $0.removeFirst() }) else { break }
      job()
    }
    ended.give()
  }
}

/// Packet receivers of the usual size with their rings made, ready to be bound to an interface: a pod does not wait for
/// one. Taken by the control thread, made anew in the background on the NUMA node they are for.
final class SpareReceivers: Sendable {
  static let slots = 512
  /// The MTU for which they are made.
  static let mtu = 1500
  /// While many are asked for one after the other (a replay), so many are made at once.
  private static let surge = 64

  private let node: Int
  private let memory: NodeMemory
  private let count: Int
  private let background: Background
  private struct State {
    var ready: [Queue<PacketReceiver>] = []
    /// Those, and those in the making.
    var expected = 0
    /// None was ready when one was asked for, of late.
    var isSurging = false
  }
  private let state = Mutex(State())

  init(node: Int, memory: NodeMemory, count: Int, background: Background) {
    self.node = node
    self.memory = memory
    self.count = count
    self.background = background
    refill()
  }

  /// Nil when none is ready.
  func take() -> Queue<PacketReceiver>? {
    let queue = state.withLock {
      if $0.ready.isEmpty { $0.isSurging = true } else { $0.expected -= 1 }
      return $0.ready.popLast()
    }
    refill()
    return queue
  }

  private func refill() {
    let missing = state.withLock {
      let wanted = $0.isSurging ? Self.surge : count
      let missing = max(0, wanted - $0.expected)
      $0.expected += missing
      return missing
    }
    for _ in 0..<missing {
      background.run { [self] in
        let made = memory.on(node) { try? Queue(PacketReceiver(mtu: Self.mtu, slots: Self.slots)) }
        state.withLock { if let made { $0.ready.append(made) } else { $0.expected -= 1 } }
      }
    }
  }

  /// Once a second: what a surge has left over is not kept. (Each takes as much memory as its ring.)
  func settle() {
    let excess = state.withLock { state -> [Queue<PacketReceiver>] in
      guard state.isSurging else { return [] }
      let excess = min(state.ready.count, max(0, state.expected - count))
      state.expected -= excess
      if state.expected <= count { state.isSurging = false }
      let first = Array(state.ready.suffix(excess))
      state.ready.removeLast(excess)
      return first
    }
    close(excess)
  }

  /// Closes all that are ready; none is asked for any more.
  func closeAll() {
    close(
      state.withLock { state in
        defer { state.ready = [] }
        return state.ready
      })
  }

  private func close(_ queues: [Queue<PacketReceiver>]) {
    for queue in queues {
      let last = Last(queue)
      background.run { last.letGo() }
    }
  }

  /// The last one to hold a queue.
  private final class Last: Sendable {
    private let queue: Mutex<Queue<PacketReceiver>?>
    init(_ queue: Queue<PacketReceiver>) { self.queue = Mutex(queue) }
    func letGo() { queue.withLock { $0 = nil } }
  }
}
