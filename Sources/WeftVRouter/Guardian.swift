import Synchronization
import WeftPorts

/// A guard in a collection, perhaps not made yet.
final class Guardian: Sendable {
  private let kernelGuard: Mutex<KernelGuard?>
  private let isOver = Atomic<Bool>(false)

  init(_ kernelGuard: consuming KernelGuard?) { self.kernelGuard = Mutex(kernelGuard) }

  func set(_ new: consuming KernelGuard) {
    var new: KernelGuard? = consume new
    // The interface may have gone meanwhile.
    kernelGuard.withLock { if !isOver.load(ordering: .relaxed) { $0 = new.take() } }
  }

  func letGo() {
    kernelGuard.withLock {
      isOver.store(true, ordering: .relaxed)
      $0 = nil
    }
  }
}
