import Foundation

/// Runs jobs one after the other on a thread of its own: for work that blocks (the ring, netlink), which must not hold
/// up the threads that serve HTTP.
final class ThreadExecutor: SerialExecutor, TaskExecutor, @unchecked Sendable {
  private let condition = NSCondition()
  private var jobs: [UnownedJob] = []

  /// The thread lives as long as the process.
  init(name: String) {
    let thread = Thread { [self] in
      while true { runJobs() }
    }
    thread.name = name
    thread.start()
  }

  private func runJobs() {
    condition.lock()
    while jobs.isEmpty { condition.wait() }
    let batch = jobs
    jobs.removeAll(keepingCapacity: true)
    condition.unlock()
    for job in batch {
      job.runSynchronously(isolatedTo: asUnownedSerialExecutor(), taskExecutor: asUnownedTaskExecutor())
    }
  }

  func enqueue(_ job: consuming ExecutorJob) {
    let unowned = UnownedJob(job)
    condition.lock()
    jobs.append(unowned)
    condition.signal()
    condition.unlock()
  }

  func asUnownedSerialExecutor() -> UnownedSerialExecutor { UnownedSerialExecutor(ordinary: self) }
}
