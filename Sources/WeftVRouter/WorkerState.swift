import CLinux
import Glibc
import WeftForwarding
import WeftPorts
import WeftRing
import WeftWire

/// What a worker works with: its queues, its way out, its packet path. Lives on the worker's stack.
struct WorkerState: ~Copyable {
  /// A queue in its place; nothing that would have to be retained.
  private struct Slot {
    var packets: UnsafeMutablePointer<PacketReceiver>?
    var tap: UnsafeMutablePointer<TapPort>?
    var xdp: UnsafeMutablePointer<XDPSocket>?
    var vhost: UnsafeMutablePointer<VhostReceiver>?
    var interface: UInt32 = 0
    /// It is among those that are looked at each round.
    var isHot = false
    var quietRounds = 0
    /// Rounds with frames, one after the other.
    var busyRounds = 0
    /// Taken from epoll: who sends to it does not have to look whether somebody waits.
    var isUnwatched = false

    var isFree: Bool { packets == nil && tap == nil && xdp == nil && vhost == nil }
  }

  private var slots: [Slot] = []
  /// Slots that nobody uses, and those of each interface: a node may have a thousand.
  private var freeSlots: [Int] = []
  private var slotsOfInterface: [UInt32: [Int]] = [:]
  /// Slots that had frames of late.
  private var hot: [Int] = []
  /// Keeps the queues alive.
  private var packetQueues: [Int: Queue<PacketReceiver>] = [:]
  private var tapQueues: [Int: Queue<TapPort>] = [:]
  private var xdpQueues: [Int: Queue<XDPSocket>] = [:]
  private var vhostQueues: [Int: Queue<VhostReceiver>] = [:]
  private let outputs: UnsafeMutablePointer<Output?>
  private let interfaces: Int
  private var frames = RxFrames()
  private let large: LargeFrames
  private var sender: PacketSender
  var path: PacketPath
  private let counters: Counters
  /// Eventfds of all workers.
  private let wakers: [Int32]
  var sawRefusal = false
  /// The worker's epoll descriptor.
  private let poller: Int32
  private var hasUnwatched = false

  /// A queue without frames for so many rounds is left to epoll.
  private static let patience = 64
  /// One with frames in so many rounds on end is not watched.
  private static let streak = 32

  init(
    large: consuming LargeFrames, sender: consuming PacketSender, path: consuming PacketPath, counters: Counters,
    interfaces: Int, wakers: [Int32], poller: Int32
  ) {
    self.large = large
    self.sender = sender
    self.path = path
    self.counters = counters
    self.interfaces = interfaces
    self.wakers = wakers
    self.poller = poller
    outputs = .allocate(capacity: interfaces)
    outputs.initialize(repeating: nil, count: interfaces)
  }

  deinit {
    frames.deallocate()
    outputs.deallocate()
  }

  // MARK: queues

  mutating func add(packets queue: Queue<PacketReceiver>) -> Int {
    let slot = add(Slot(packets: queue.source, interface: queue.source.pointee.interface))
    packetQueues[slot] = queue
    return slot
  }

  mutating func add(tap queue: Queue<TapPort>) -> Int {
    let slot = add(Slot(tap: queue.source, interface: queue.source.pointee.interface))
    tapQueues[slot] = queue
    return slot
  }

  mutating func add(xdp queue: Queue<XDPSocket>) -> Int {
    let slot = add(Slot(xdp: queue.source, interface: queue.source.pointee.interface))
    xdpQueues[slot] = queue
    return slot
  }

  mutating func add(vhost queue: Queue<VhostReceiver>) -> Int {
    let slot = add(Slot(vhost: queue.source, interface: queue.source.pointee.interface))
    vhostQueues[slot] = queue
    return slot
  }

  private mutating func add(_ slot: Slot) -> Int {
    let number = freeSlots.popLast() ?? slots.count
    if number == slots.count { slots.append(slot) } else { slots[number] = slot }
    slotsOfInterface[slot.interface, default: []].append(number)
    // What came before it was watched is found at once.
    _ = wake(number, hasError: false)
    return number
  }

  /// Forgets an interface; returns the descriptors that were watched for it.
  mutating func remove(_ interface: UInt32) -> [Int32] {
    outputs[Int(interface)] = nil
    var descriptors: [Int32] = []
    for number in slotsOfInterface.removeValue(forKey: interface) ?? [] {
      if let packets = slots[number].packets { descriptors.append(packets.pointee.descriptor) }
      if let tap = slots[number].tap { descriptors.append(tap.pointee.descriptor) }
      if let xdp = slots[number].xdp { descriptors.append(xdp.pointee.descriptor) }
      if let vhost = slots[number].vhost { descriptors.append(vhost.pointee.descriptor) }
      slots[number] = Slot()
      freeSlots.append(number)
      packetQueues[number] = nil
      tapQueues[number] = nil
      xdpQueues[number] = nil
      vhostQueues[number] = nil
      hot.removeAll { $0 == number }
    }
    return descriptors
  }

  mutating func setOutput(_ interface: UInt32, _ output: Output) { outputs[Int(interface)] = output }

  /// The kernel says that a queue has frames, or an error. Returns a descriptor that is not to be watched any more: it
  /// would say the same for ever.
  mutating func wake(_ number: Int, hasError: Bool) -> Int32? {
    guard slots.indices.contains(number), !slots[number].isFree else { return nil }
    if hasError {
      if let tap = slots[number].tap, tap.pointee.isGone { return tap.pointee.descriptor }
      slots[number].packets?.pointee.clearError()
      slots[number].tap?.pointee.clearError()
      slots[number].xdp?.pointee.clearError()
    }
    slots[number].vhost?.pointee.drain()
    slots[number].quietRounds = 0
    guard !slots[number].isHot else { return nil }
    slots[number].isHot = true
    hot.append(number)
    return nil
  }

  private func descriptor(_ number: Int) -> Int32 {
    slots[number].packets?.pointee.descriptor ?? slots[number].tap?.pointee.descriptor
      ?? slots[number].xdp?.pointee.descriptor ?? slots[number].vhost?.pointee.descriptor ?? -1
  }

  /// A queue that always has frames need not be watched, and then who sends to it does not pay for waking somebody.
  private mutating func unwatch(_ number: Int) {
    guard !slots[number].isUnwatched, epoll_ctl(poller, EPOLL_CTL_DEL, descriptor(number), nil) == 0 else { return }
    slots[number].isUnwatched = true
    hasUnwatched = true
  }

  private mutating func watch(_ number: Int) {
    guard slots[number].isUnwatched else { return }
    var event = epoll_event()
    event.events = UInt32(EPOLLIN.rawValue)
    event.data.u64 = UInt64(number)
    // Where that fails, it stays among those that are looked at.
    slots[number].isUnwatched = epoll_ctl(poller, EPOLL_CTL_ADD, descriptor(number), &event) != 0
  }

  /// Before the worker sleeps: epoll watches all queues. False where it does not.
  mutating func watchAll() -> Bool {
    if !vhostQueues.isEmpty, !armAll() { return false }
    guard hasUnwatched else { return true }
    hasUnwatched = false
    for number in slots.indices {
      watch(number)
      hasUnwatched = hasUnwatched || slots[number].isUnwatched
    }
    return !hasUnwatched
  }

  /// Guests that are looked at now notify from now on; false where one has sent something meanwhile.
  private func armAll() -> Bool {
    var isQuiet = true
    for number in hot where slots[number].vhost?.pointee.arm() == false { isQuiet = false }
    return isQuiet
  }

  // MARK: forwarding

  /// A batch from each queue that had frames of late. Returns how many frames there were.
  mutating func round(_ now: UInt64, _ statistics: WorkerStatistics) -> Int {
    var total = takeHandedOver(now, statistics)
    var index = 0
    while index < hot.count {
      let number = hot[index]
      let count: Int
      if let packets = slots[number].packets {
        count = batch(packets, now, statistics)
      } else if let tap = slots[number].tap {
        count = batch(tap, now, statistics)
      } else if let xdp = slots[number].xdp {
        count = batch(xdp, now, statistics)
      } else if let vhost = slots[number].vhost {
        count = batch(vhost, now, statistics)
      } else {
        count = 0
      }
      if count > 0 {
        statistics.countBatch(packets: count)
        slots[number].quietRounds = 0
        slots[number].busyRounds &+= 1
        if slots[number].busyRounds == Self.streak { unwatch(number) }
        total &+= count
        index &+= 1
      } else {
        slots[number].quietRounds &+= 1
        slots[number].busyRounds = 0
        if slots[number].quietRounds > Self.patience { watch(number) }
        if slots[number].quietRounds > Self.patience, !slots[number].isUnwatched,
          slots[number].vhost?.pointee.arm() ?? true
        {
          slots[number].isHot = false
          hot.swapAt(index, hot.count - 1)
          hot.removeLast()
        } else {
          index &+= 1
        }
      }
    }
    return total
  }

  private mutating func batch<Source: Receiver & ~Copyable>(
    _ source: UnsafeMutablePointer<Source>, _ now: UInt64, _ statistics: WorkerStatistics
  ) -> Int {
    frames.removeAll()
    let lost = source.pointee.receive(&frames, large)
    if lost > 0 { counters.dropped(.receiveFull, source.pointee.interface, packets: lost) }
    if frames.count > 0 {
      // What others did before they sent what is answered here comes first.
      _ = takeHandedOver(now, statistics)
      path.process(frames, interface: source.pointee.interface, now: now)
      send()
    }
    source.pointee.release()
    return frames.count
  }

  /// Frames that other workers have handed over. Returns how many there were.
  private mutating func takeHandedOver(_ now: UInt64, _ statistics: WorkerStatistics) -> Int {
    guard path.lookForHandedOver() else { return 0 }
    var total = 0
    while true {
      let count = path.processHandedOver(now: now)
      guard count > 0 else { break }
      send()
      path.releaseHandedOver()
      statistics.countBatch(packets: count)
      total &+= count
    }
    wakeOthers()
    return total
  }

  /// Lets idle flows go; true when that is done for now.
  mutating func age(_ now: UInt64) -> Bool {
    let isDone = path.age(now: now)
    wakeOthers()
    return isDone
  }

  /// Wakes workers that sleep and have been given something.
  private mutating func wakeOthers() {
    while let other = path.sharing.nextSleeper() {
      var one: UInt64 = 1
      _ = write(wakers[other], &one, 8)
    }
  }

  /// What the worker has shared with others so far.
  var sharing: (given: UInt64, taken: UInt64, redirects: Int, refused: UInt64) {
    (path.sharing.given, path.sharing.taken, path.sharing.redirects, path.sharing.refused)
  }

  private mutating func send() {
    wakeOthers()
    for index in 0..<path.tx.touchedCount {
      let interface = path.tx.touched(index)
      let result: SendResult
      path.bundle(interface: interface)
      switch outputs[Int(interface)] {
      case .packet(let kernelIndex, let fast):
        result = sender.send(path.tx, interface: interface, kernelIndex: kernelIndex, fast: fast?.transmitter)
      case .xdp(let sender): result = sender.socket.pointee.send(path.tx, interface: interface)
      case .vhost(let sender): result = sender.send(path.tx, interface: interface)
      case .tap(let descriptor): result = TapPort.send(path.tx, interface: interface, descriptor: descriptor)
      case nil:
        counters.unsent(.interfaceGone, packets: packets(of: interface))
        continue
      }
      counters.sent(interface, packets: result.packets, bytes: result.bytes)
      if result.full > 0 { counters.unsent(.transmitFull, packets: result.full) }
      if result.failed > 0 { counters.unsent(.transmitFailed, packets: result.failed) }
      if result.refusedUDPSegmentation { sawRefusal = true }
    }
    path.tx.reset()
  }

  /// Sends a frame of the agent's.
  mutating func transmit(_ frame: [UInt8], interface: UInt32, _ now: UInt64) {
    // The packet path never writes to what it did not receive; it takes places that could be written to.
    var frame = frame
    frame.withUnsafeMutableBytes { bytes in
      guard let base = bytes.baseAddress else { return }
      if !path.inject(Bytes(base), count: bytes.count, interface: interface, now: now) {
        counters.unsent(.interfaceGone, packets: 1)
      }
      send()
    }
  }

  private func packets(of interface: UInt32) -> Int {
    var total = 0
    var index = path.tx.head(interface)
    while index != TxFrames.none {
      let frame = path.tx.frame(index)
      total += Int(frame.packets)
      index = frame.next
    }
    return total
  }
}
