import WeftSystem

/// A queue of a guest's, in its place.
@safe struct VhostQueue: @unchecked Sendable {
  let number: Int
  /// The eventfd that the guest notifies by.
  let kick: Int32
  let ring: UnsafeMutablePointer<VhostRing>

  var position: UInt16 { unsafe ring.pointee.position }

  func free() {
    unsafe ring.deinitialize(count: 1)
    unsafe ring.deallocate()
  }
}

/// The queues of a virtual machine's network card that are ready, with the memory that they lie in: what workers have of
/// it until something about it changes. Whoever gave it to them keeps it until they have let go.
@safe public final class VhostAttachment: @unchecked Sendable {
  private let memory: VhostMemory
  private let interface: UInt32
  /// Queues that the guest sends by, and receives by, with their numbers.
  private var inputs: [VhostQueue] = []
  private var outputs: [VhostQueue] = []
  /// A list for each worker, one after the other.
  private var lists: UnsafeMutablePointer<UnsafeMutablePointer<VhostRing>>?
  private var senders: [VhostSender] = []

  init(_ memory: VhostMemory, interface: UInt32) {
    self.memory = memory
    self.interface = interface
  }

  deinit {
    for queue in inputs + outputs { queue.free() }
    unsafe lists?.deallocate()
  }

  func add(_ ring: consuming VhostRing, number: Int, kick: Int32) {
    let place = UnsafeMutablePointer<VhostRing>.allocate(capacity: 1)
    unsafe place.initialize(to: ring)
    // Of each pair the guest receives by the first.
    let queue = unsafe VhostQueue(number: number, kick: kick, ring: place)
    if number % 2 == 0 { outputs.append(queue) } else { inputs.append(queue) }
  }

  /// Deals the queues by which the guest receives out to the workers. With fewer than workers some share one.
  func share(_ workers: Int) {
    let count = outputs.count
    guard count > 0 else {
      senders = Array(repeating: VhostSender(), count: workers)
      return
    }
    let list = UnsafeMutablePointer<UnsafeMutablePointer<VhostRing>>.allocate(capacity: max(count, workers))
    unsafe lists = unsafe list
    var used = 0
    for worker in 0..<workers {
      let own = count < workers ? [worker % count] : Array(stride(from: worker, to: count, by: workers))
      for (position, number) in own.enumerated() { unsafe list[used + position] = unsafe outputs[number].ring }
      senders.append(
        unsafe VhostSender(
          list + used, count: own.count,
          isShared: count < workers && own[0] + count < workers
            || worker >= count))
      used += own.count
    }
  }

  public var receiverCount: Int { inputs.count }
  /// Guest and forwarder can send to one another.
  public var isComplete: Bool { !inputs.isEmpty && !outputs.isEmpty }
  public var pairs: Int { min(inputs.count, outputs.count) }

  /// A queue that the guest sends by; good for as long as this lives.
  public func receiver(_ index: Int) -> VhostReceiver {
    unsafe VhostReceiver(interface: interface, ring: inputs[index].ring, kick: inputs[index].kick)
  }

  public func sender(worker: Int) -> VhostSender { senders[worker] }

  /// Where each queue goes on, by its number.
  func positions() -> [(number: Int, position: UInt16)] {
    (inputs + outputs).map { ($0.number, $0.position) }
  }
}
