import Glibc

/// Work that blocks, on a thread of its own: the pool that tests share has as many threads as there are cores, and tests
/// that wait in it for one another would wait for ever.
final class Background<Value: Sendable>: @unchecked Sendable {
  private let body: @Sendable () -> Value
  private var outcome: Value?
  private var thread = pthread_t()

  init(_ body: @escaping @Sendable () -> Value) {
    self.body = body
    let runner = Runner { [self] in outcome = body() }
    let status = pthread_create(
      &thread, nil,
      { @Sendable argument in
        Unmanaged<Runner>.fromOpaque(argument!).takeRetainedValue().body()
        return nil
      }, Unmanaged.passRetained(runner).toOpaque())
    precondition(status == 0, "no thread: error \(status)")
  }

  /// Waits for the end, once.
  func value() -> Value {
    pthread_join(thread, nil)
    return outcome!
  }
}

/// A thread's work without the type of what comes of it, which C would not carry.
final class Runner: @unchecked Sendable {
  let body: () -> Void
  init(_ body: @escaping () -> Void) { self.body = body }
}
