import CLinux
import Glibc
import Synchronization

/// Tells whoever waits that so many have got so far: workers in their mail, threads with their work. It takes no
/// descriptor, so that it can always be made: what waits for it is the freeing of memory that others still use.
final class Acknowledgement: @unchecked Sendable {
  private let left: Atomic<Int>
  /// 0, and from the last one's word on 1.
  private let isDone: UnsafeMutablePointer<sem_t>

  /// `workers`: whose word is waited for; at least 1.
  init(workers: Int) {
    left = Atomic(workers)
    isDone = .allocate(capacity: 1)
    sem_init(isDone, 0, 0)
  }

  deinit {
    sem_destroy(isDone)
    isDone.deallocate()
  }

  func give() {
    if left.wrappingSubtract(1, ordering: .acquiringAndReleasing).newValue == 0 { sem_post(isDone) }
  }

  /// Waits for all, milliseconds at most, for ever if nothing is said. False: some have not yet.
  @discardableResult
  func wait(milliseconds: UInt64? = nil) -> Bool {
    let end = milliseconds.map { weft_monotonic_ns() + $0 * 1_000_000 }
    while (end.map { weft_sem_wait_until(isDone, $0) } ?? sem_wait(isDone)) != 0 {
      guard errno == EINTR else { return false }
    }
    // For the next who asks.
    sem_post(isDone)
    return true
  }
}
