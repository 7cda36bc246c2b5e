import Glibc
import Synchronization

/// A thread of its own for a body that spins, as a worker does: the pool that tasks share would starve.
final class PosixThread: @unchecked Sendable {
  private let body: @Sendable () -> Void
  private var thread = pthread_t()

  init(_ body: @escaping @Sendable () -> Void) {
    self.body = body
    let argument = Unmanaged.passRetained(self)
    let status = pthread_create(
      &thread, nil,
      { @Sendable argument in
        Unmanaged<PosixThread>.fromOpaque(argument!).takeRetainedValue().body()
        return nil
      }, argument.toOpaque())
    precondition(status == 0, "no thread: error \(status)")
  }

  func join() { pthread_join(thread, nil) }
}

/// What threads that read while another writes have to say.
final class Watch: Sendable {
  private let stopped = Atomic<Bool>(false)
  private let wrongs = Atomic<Int>(0)
  private let rounds = Atomic<Int>(0)

  var isStopped: Bool { stopped.load(ordering: .acquiring) }
  /// What was read and is neither old nor new.
  var wrong: Int { wrongs.load(ordering: .relaxed) }
  /// Times that everything was read.
  var reads: Int { rounds.load(ordering: .relaxed) }

  func stop() { stopped.store(true, ordering: .releasing) }
  func sawWrong() { wrongs.add(1, ordering: .relaxed) }
  func readAll() { rounds.add(1, ordering: .relaxed) }
}
