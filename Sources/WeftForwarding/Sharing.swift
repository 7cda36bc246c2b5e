import CLinux
import WeftSystem
import WeftTables
import WeftWire

/// A worker's end of what it shares with the others: which flows are its own, the rings to and from the others, which of
/// its keys' flows live with others. A worker that is alone has none of it.
@safe public struct Sharing {
  let owner: FlowOwner
  /// Keeps the memory.
  private let mesh: HandOverMesh?
  /// Of each worker: that it sleeps, and who has put something into the rings to it.
  private let parts: UnsafeMutablePointer<UnsafeMutableRawPointer>
  private let senders: UnsafeMutablePointer<HandOverSender>
  private let receivers: UnsafeMutablePointer<HandOverReceiver>
  private let table: UnsafeMutablePointer<RedirectTable>
  /// Workers to whose rings something was put since `publish`; that are to be woken; whose rings are to be read.
  private var touched: WorkerList
  private var sleepers: WorkerList
  private var pending: WorkerList
  private var lastSerial: UInt32 = 0
  /// What could not be told yet, for want of room: flows of others that have to go.
  private let refusals: UnsafeMutablePointer<Refusal>
  private var refusalCount = 0
  private static let refusalCapacity = 1024

  // The batch in hand.

  /// It comes from another worker.
  var isHandedOver = false
  var interface: UInt32 = 0
  var frames: RxFrames
  private var incoming: RxFrames
  /// Some frames are of other interfaces than `interface`: whose each is.
  private var hasOthers = false
  private let interfaces: UnsafeMutablePointer<UInt32>
  private let marks: UnsafeMutablePointer<HandOverMark>
  private let ports: UnsafeMutablePointer<UInt32>

  /// Frames that were given to others, and that came from them.
  public internal(set) var given: UInt64 = 0
  public internal(set) var taken: UInt64 = 0
  /// Flows of others that had to go because this worker could not note whose they are.
  public internal(set) var refused: UInt64 = 0

  /// There are other workers.
  let isShared: Bool

  /// For the only worker.
  public init() {
    owner = FlowOwner()
    mesh = nil
    isShared = false
    unsafe parts = .allocate(capacity: 1)
    unsafe senders = .allocate(capacity: 1)
    unsafe receivers = .allocate(capacity: 1)
    unsafe table = .allocate(capacity: 1)
    touched = WorkerList(1)
    sleepers = WorkerList(1)
    pending = WorkerList(1)
    unsafe refusals = .allocate(capacity: 1)
    incoming = RxFrames()
    frames = incoming
    unsafe interfaces = .allocate(capacity: RxFrames.capacity)
    unsafe interfaces.initialize(repeating: 0, count: RxFrames.capacity)
    unsafe marks = .allocate(capacity: RxFrames.capacity)
    unsafe ports = .allocate(capacity: RxFrames.capacity)
  }

  /// What owners of flows are found with, where `seed` is the forwarder's.
  public static func ownerSeed(_ seed: UInt64) -> UInt64 { seed ^ 0x9E37_79B9_7F4A_7C15 }

  /// For worker `index` of those that `mesh` connects. All have one `seed`. `redirects`: the most keys of this worker
  /// whose flows live with others.
  public init(_ mesh: HandOverMesh, worker index: Int, redirects: Int, seed: UInt64) throws(SystemError) {
    let workers = mesh.workers
    let redirects = try RedirectTable(capacity: redirects, seed: seed)
    owner = FlowOwner(index: index, workers: workers, seed: Self.ownerSeed(seed))
    self.mesh = mesh
    isShared = workers > 1
    unsafe parts = .allocate(capacity: workers)
    unsafe senders = .allocate(capacity: workers)
    unsafe receivers = .allocate(capacity: workers)
    unsafe table = .allocate(capacity: 1)
    unsafe table.initialize(to: redirects)
    for other in 0..<workers {
      unsafe parts[other] = mesh.part(other)
      unsafe (senders + other).initialize(to: HandOverSender(mesh.ring(from: index, to: other)))
      unsafe (receivers + other).initialize(to: HandOverReceiver(mesh.ring(from: other, to: index)))
    }
    touched = WorkerList(workers)
    sleepers = WorkerList(workers)
    pending = WorkerList(workers)
    unsafe refusals = .allocate(capacity: Self.refusalCapacity)
    incoming = RxFrames()
    frames = incoming
    unsafe interfaces = .allocate(capacity: RxFrames.capacity)
    unsafe interfaces.initialize(repeating: 0, count: RxFrames.capacity)
    unsafe marks = .allocate(capacity: RxFrames.capacity)
    unsafe ports = .allocate(capacity: RxFrames.capacity)
  }

  func deallocate() {
    if mesh != nil { unsafe table.deinitialize(count: 1) }
    unsafe parts.deallocate()
    unsafe senders.deallocate()
    unsafe receivers.deallocate()
    unsafe table.deallocate()
    touched.deallocate()
    sleepers.deallocate()
    pending.deallocate()
    unsafe refusals.deallocate()
    incoming.deallocate()
    unsafe interfaces.deallocate()
    unsafe marks.deallocate()
    unsafe ports.deallocate()
  }

  // MARK: the batch in hand

  mutating func begin(_ frames: RxFrames, interface: UInt32) {
    self.frames = frames
    self.interface = interface
    hasOthers = false
  }

  /// A frame of the batch in hand is another one, and another interface's.
  mutating func replace(_ index: Int, _ frame: RxFrame, interface other: UInt32) {
    frames.replace(index, frame)
    if !hasOthers { unsafe interfaces.update(repeating: interface, count: RxFrames.capacity) }
    hasOthers = true
    unsafe interfaces[index] = other
  }

  /// The interface of a frame of the batch in hand.
  func interface(_ frame: Int) -> UInt32 { hasOthers ? unsafe interfaces[frame] : interface }

  /// What is known of a frame of the batch in hand.
  func mark(_ frame: Int) -> HandOverMark { isHandedOver ? unsafe marks[frame] : HandOverMark(rawValue: 0) }
  func ports(_ frame: Int) -> UInt32 { unsafe ports[frame] }

  // MARK: redirects

  /// Keys of this worker whose flows live with others.
  public var redirects: Int { isShared ? unsafe table.pointee.count : 0 }

  /// The worker that has the flow of a key that this one owns; nil: none has said so.
  func redirect(_ key: FlowKey) -> Int? { unsafe table.pointee.worker(key) }
  func addRedirect(_ key: FlowKey, worker: Int, serial: UInt32) -> RedirectOutcome {
    unsafe table.pointee.add(key, worker: worker, serial: serial)
  }
  func removeRedirect(_ key: FlowKey, worker: Int, serial: UInt32?) {
    unsafe table.pointee.remove(key, worker: worker, serial: serial)
  }

  /// The number of the next redirect.
  mutating func nextSerial() -> UInt32 {
    lastSerial = lastSerial >= FlowTable.none &- 1 ? 1 : lastSerial &+ 1
    return lastSerial
  }

  // MARK: sending

  mutating func hasRoom(_ worker: Int, _ bytes: Int) -> Bool { unsafe senders[worker].hasRoom(bytes) }

  /// Tells a worker something about a key; false when its ring is full.
  mutating func tell(_ worker: Int, _ kind: HandOverKind, _ key: FlowKey, number: UInt32 = 0) -> Bool {
    guard unsafe senders[worker].put(kind, key, number: number) else { return false }
    touched.add(worker)
    return true
  }

  /// Keeps a refusal until `nextRefusal` takes it.
  mutating func put(_ refusal: Refusal) {
    guard refusalCount < Self.refusalCapacity else { return }
    unsafe (refusals + refusalCount).initialize(to: refusal)
    refusalCount &+= 1
  }

  var hasRefusals: Bool { refusalCount > 0 }

  /// The refusal that was put last.
  mutating func nextRefusal() -> Refusal? {
    guard refusalCount > 0 else { return nil }
    refusalCount &-= 1
    return unsafe refusals[refusalCount]
  }

  /// Puts a record for a frame of `bytes` into a worker's ring, its header written; where the frame goes, or nil when
  /// the ring is full.
  mutating func give(
    _ worker: Int, _ marks: HandOverMark, interface: UInt32, ports: UInt32, virtio: VirtioNetHeader,
    priority: UInt8, bytes: Int
  ) -> Bytes? {
    guard let record = unsafe senders[worker].put(.frame, marks, interface, bytes: bytes) else { return nil }
    record.set8(6, priority)
    unsafe record.pointer.storeBytes(of: ports, toByteOffset: 12, as: UInt32.self)
    unsafe record.pointer.storeBytes(of: UInt32(truncatingIfNeeded: bytes), toByteOffset: 16, as: UInt32.self)
    virtio.write(record.advanced(20))
    touched.add(worker)
    given &+= 1
    return record.advanced(HandOverRing.headerBytes)
  }

  /// A worker sees at once what it has been told: before something else shows that it was done.
  mutating func show(_ worker: Int) { unsafe senders[worker].publish() }

  /// The others see what was put into their rings. Before anything is sent that they could see the effects of.
  mutating func publish() {
    guard !touched.isEmpty else { return }
    for index in 0..<touched.count { unsafe senders[touched[index]].publish() }
    // Either the other one finds the bell, or it is found asleep.
    weft_fence()
    let word = owner.index >> 6 &* 8
    let bit: UInt64 = 1 << UInt64(owner.index & 63)
    for index in 0..<touched.count {
      let other = touched[index]
      let bell = unsafe parts[other] + HandOverMesh.bells + word
      if unsafe weft_load_relaxed_u64(bell) & bit == 0 { unsafe weft_set_bits_u64(bell, bit) }
      let sleep = unsafe parts[other]
      if unsafe weft_load_acquire_u32(sleep) != 0, unsafe weft_exchange_u32(sleep, 0) != 0 { sleepers.add(other) }
    }
    touched.removeAll()
  }

  /// A worker that sleeps and has something to read now; nil when there is no more.
  public mutating func nextSleeper() -> Int? { sleepers.take() }

  // MARK: receiving

  /// Others have put something into the rings to this worker. Cheap.
  public var hasIncoming: Bool {
    guard isShared else { return false }
    let bells = unsafe parts[owner.index] + HandOverMesh.bells
    for word in 0..<(owner.workers &+ 63) >> 6 where unsafe weft_load_acquire_u64(bells + word &* 8) != 0 {
      return true
    }
    return false
  }

  /// Before this worker sleeps: from now on it is woken (`nextSleeper`). False when there is something to read first.
  public func fallAsleep() -> Bool {
    guard isShared else { return true }
    _ = unsafe weft_exchange_u32(parts[owner.index], 1)
    guard hasIncoming else { return true }
    wakeUp()
    return false
  }

  public func wakeUp() {
    guard isShared else { return }
    unsafe weft_store_relaxed_u32(parts[owner.index], 0)
  }

  /// Looks which rings have something; what comes later is for the next time.
  mutating func look() {
    let bells = unsafe parts[owner.index] + HandOverMesh.bells
    for word in 0..<(owner.workers &+ 63) >> 6 {
      guard unsafe weft_load_relaxed_u64(bells + word &* 8) != 0 else { continue }
      var bits = unsafe weft_take_u64(bells + word &* 8)
      while bits != 0 {
        let other = word &* 64 &+ bits.trailingZeroBitCount
        bits &= bits &- 1
        unsafe receivers[other].look()
        pending.add(other)
      }
    }
  }

  /// Gathers frames of one interface from the next ring that has any (`hasGathered`), and stops for what another worker
  /// tells: that is to be heard first, and `gather` called again. nil: no more of that.
  mutating func gather() -> (sender: Int, record: HandOverReceiver.Record)? {
    while let other = pending.first {
      while let record = unsafe receivers[other].next {
        if record.kind == .frame {
          if incoming.count == 0 { interface = record.number }
          guard record.number == interface, !incoming.isFull else { break }
          unsafe marks[incoming.count] = record.marks
          unsafe ports[incoming.count] = record.ports
          incoming.append(record.frame)
        }
        unsafe receivers[other].pass(record)
        if record.kind != .frame, record.kind != .skip { return (other, record) }
      }
      if incoming.count > 0 {
        frames = incoming
        taken &+= UInt64(truncatingIfNeeded: incoming.count)
        return nil
      }
      unsafe receivers[other].release()
      _ = pending.take()
    }
    return nil
  }

  /// There are frames.
  var hasGathered: Bool { incoming.count > 0 }

  /// The frames that `gather` gave are needed no longer.
  mutating func release() {
    incoming.removeAll()
    if let other = pending.first { unsafe receivers[other].release() }
  }

  /// Among what a worker has not told yet there is that it has the flow of a key no longer.
  func willEnd(_ worker: Int, _ key: FlowKey) -> Bool { unsafe receivers[worker].endsRedirect(key) }
}

/// A flow that has to go, because its redirect cannot be: of another worker, or of this one.
struct Refusal {
  let worker: Int
  let key: FlowKey
  let number: UInt32
}

/// A few workers, each once.
@safe private struct WorkerList {
  private let numbers: UnsafeMutablePointer<Int>
  private let isIn: UnsafeMutablePointer<Bool>
  private(set) var count = 0

  init(_ workers: Int) {
    unsafe numbers = .allocate(capacity: workers)
    unsafe isIn = .allocate(capacity: workers)
    unsafe isIn.initialize(repeating: false, count: workers)
  }

  func deallocate() {
    unsafe numbers.deallocate()
    unsafe isIn.deallocate()
  }

  var isEmpty: Bool { count == 0 }
  var first: Int? { count > 0 ? unsafe numbers[count &- 1] : nil }
  subscript(index: Int) -> Int { unsafe numbers[index] }

  @inline(__always) mutating func add(_ worker: Int) {
    guard unsafe !isIn[worker] else { return }
    unsafe isIn[worker] = true
    unsafe numbers[count] = worker
    count &+= 1
  }

  mutating func take() -> Int? {
    guard let worker = first else { return nil }
    unsafe isIn[worker] = false
    count &-= 1
    return worker
  }

  mutating func removeAll() { while take() != nil {} }
}
