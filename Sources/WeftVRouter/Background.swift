import CLinux
import Glibc
import Synchronization
import WeftPorts
import WeftSystem

/// Does what the kernel takes milliseconds for (it waits for all cores) on threads of its own, a few at once, so that the
/// control thread does not: closing packet sockets, making their rings, attaching programs.
final class Background: Sendable {
  private let jobs = Mutex<[@Sendable () -> Void]>([])
  private let event: Descriptor
  private let stopping = Atomic<Bool>(false)
  private let ended: Acknowledgement

  init(threads: Int) throws(SystemError) {
    event = try .counter()
    ended = try Acknowledgement(workers: threads)
    for _ in 0..<threads {
      var thread = pthread_t()
      let argument = Unmanaged.passRetained(self)
      let status = pthread_create(
        &thread, nil,
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

  /// Waits until everything has been done.
  func finish() {
    stopping.store(true, ordering: .releasing)
    event.signal()
    _ = ended.wait(milliseconds: 30_000)
  }

  private func work() {
    weft_name_thread("background")
    while true {
      let isLast = stopping.load(ordering: .acquiring)
      if let job = jobs.withLock({ $0.isEmpty ? nil : $0.removeFirst() }) {
        job()
      } else if isLast {
        break
      } else {
        _ = event.wait(milliseconds: -1)
        event.drain()
      }
    }
    // The next one is to see it too.
    event.signal()
    ended.give()
  }
}

/// Packet receivers of the usual size with their rings made, ready to be bound to an interface: a pod does not wait for
/// one. Taken by the control thread, made anew in the background on the NUMA node they are for.
final class SpareReceivers: Sendable {
  static let slots = 512
  /// The MTU for which they are made.
  static let mtu = 1500

  private let node: Int
  private let memory: NodeMemory
  private let count: Int
  private let background: Background
  private let state = Mutex<(ready: [Queue<PacketReceiver>], expected: Int)>(([], 0))

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
      if !$0.ready.isEmpty { $0.expected -= 1 }
      return $0.ready.popLast()
    }
    refill()
    return queue
  }

  private func refill() {
    let missing = state.withLock {
      let missing = count - $0.expected
      $0.expected = count
      return missing
    }
    for _ in 0..<missing {
      background.run { [self] in
        let made = memory.on(node) { try? Queue(PacketReceiver(mtu: Self.mtu, slots: Self.slots)) }
        state.withLock { if let made { $0.ready.append(made) } else { $0.expected -= 1 } }
      }
    }
  }
}
