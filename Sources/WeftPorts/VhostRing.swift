import CLinux
import Glibc
import WeftWire

/// Why a queue was stopped: what its guest wrote makes no sense. (Virtio 1.2 section 2.7 says what would.)
public enum VhostRingFault: UInt32, Sendable, CaseIterable {
  case index = 1
  case descriptor
  case loop
  case address
  case direction
  case indirect
  case pieces
  case header
  case length
  case empty

  public var explanation: String {
    switch self {
    case .index: "its available index is further ahead than the queue is long"
    case .descriptor: "a descriptor's number is beyond the table"
    case .loop: "a chain of descriptors does not end"
    case .address: "a descriptor's buffer is not in the guest's memory"
    case .direction: "a descriptor is for writing where it should be for reading, or the reverse"
    case .indirect: "an indirect table is nested, goes on, has no whole number of entries, or is not in the memory"
    case .pieces: "a chain has more pieces than a packet can"
    case .header: "a packet is shorter than its virtio-net header"
    case .length: "a packet is longer than 64 KiB"
    case .empty: "a descriptor has no bytes"
    }
  }
}

/// A split virtqueue (virtio 1.2 section 2.7) in a guest's memory. What the guest writes is loaded once and checked as if
/// an enemy wrote it. One worker uses it; control thread and others see only what is in `cell`.
///
///     descriptor table   16 bytes each: address 8, length 4, flags 2, next 2
///     available ring     flags 2, index 2, heads 2 each, used_event 2
///     used ring          flags 2, index 2, (id 4, length 4) each, avail_event 2
@safe public struct VhostRing: ~Copyable {
  /// What a queue has at most (virtio 1.2 section 2.6).
  public static let maximumSize = 32768
  /// Pieces of memory that a packet may lie in.
  static let pieceLimit = 1024

  private static let next: UInt16 = 1
  private static let writable: UInt16 = 2
  private static let indirect: UInt16 = 4

  private let descriptors: UnsafeMutableRawPointer
  let available: UnsafeMutableRawPointer
  private let used: UnsafeMutableRawPointer
  let size: Int
  private let mask: Int
  private let regions: UnsafeMutablePointer<VhostRegion>
  private let regionCount: Int
  let features: VhostFeatures
  let headerBytes: Int
  let cell: VhostCell
  /// The next entry of the available ring, and of the used one, and how far that has been told.
  private(set) var position: UInt16
  private var done: UInt16
  private var told: UInt16
  /// The guest notifies of what comes next.
  private var isArmed = false
  private(set) var isStopped = false
  /// The pieces of what has been collected, and how many there are.
  let pieces: UnsafeMutablePointer<iovec>
  private(set) var pieceCount = 0
  /// The chains that they are of, with their bytes: what a frame takes that is sent.
  let chains: UnsafeMutablePointer<(head: UInt16, bytes: Int)>

  /// Nil where a part is not in the memory, or not aligned.
  init?(
    _ memory: VhostMemory, _ places: VhostRingAddresses, size: Int, base: UInt16, features: VhostFeatures,
    cell: VhostCell
  ) {
    guard
      let descriptors = unsafe memory.place(user: places.descriptors, bytes: size * 16, alignment: 16),
      let available = unsafe memory.place(user: places.available, bytes: 6 + size * 2, alignment: 2),
      let used = unsafe memory.place(user: places.used, bytes: 6 + size * 8, alignment: 4)
    else { return nil }
    unsafe self.descriptors = descriptors
    unsafe self.available = available
    unsafe self.used = used
    self.size = size
    mask = size - 1
    unsafe regions = memory.regions
    regionCount = memory.count
    self.features = features
    headerBytes = features.headerBytes
    self.cell = cell
    position = base
    done = unsafe weft_load_relaxed_u16(used + 2)
    told = done
    unsafe pieces = .allocate(capacity: Self.pieceLimit)
    unsafe chains = .allocate(capacity: Self.pieceLimit)
    // Nothing is to be told for now: who receives asks for it (`arm`), who sends never.
    unsafe weft_store_relaxed_u16(used, features.contains(.eventIndex) ? 0 : 1)
  }

  deinit {
    unsafe pieces.deallocate()
    unsafe chains.deallocate()
  }

  mutating func stop(_ fault: VhostRingFault) {
    isStopped = true
    cell.stop(fault)
  }

  /// Chains that wait; none of a queue that is stopped.
  @inline(__always) mutating func waiting() -> Int {
    guard !isStopped else { return 0 }
    let index = unsafe weft_load_acquire_u16(available + 2)
    let count = Int(index &- position)
    guard count <= size else {
      stop(.index)
      return 0
    }
    return count
  }

  /// The first descriptor of a chain that waits.
  @inline(__always) func head(_ offset: Int) -> UInt16 {
    let index = (Int(position) &+ offset) & mask
    return unsafe weft_load_relaxed_u16(available + (4 &+ index &* 2))
  }

  @inline(__always) mutating func forgetPieces() { pieceCount = 0 }

  /// Adds the pieces of a chain; how many bytes they are, or -1: the queue is stopped.
  mutating func collect(_ head: UInt16, writable: Bool) -> Int {
    var table = unsafe descriptors
    var entries = size
    var index = Int(head)
    var left = size
    var isIndirect = false
    var total = 0
    while true {
      guard index < entries else { return fail(.descriptor) }
      let address = unsafe weft_load_relaxed_u64(table + (index &* 16))
      let rest = unsafe weft_load_relaxed_u64(table + (index &* 16 &+ 8))
      let length = UInt64(rest & 0xFFFF_FFFF)
      let flags = UInt16(truncatingIfNeeded: rest >> 32)
      if flags & Self.indirect != 0 {
        guard features.contains(.indirect), !isIndirect, flags & Self.next == 0, length > 0, length % 16 == 0,
          length / 16 <= UInt64(Self.maximumSize), let place = unsafe translate(address, length),
          unsafe place.count == length,
          unsafe UInt(bitPattern: place.base) % 8 == 0
        else { return fail(.indirect) }
        unsafe table = place.base
        entries = Int(length / 16)
        left = entries
        index = 0
        isIndirect = true
        continue
      }
      guard (flags & Self.writable != 0) == writable else { return fail(.direction) }
      // They would have no end that pieces bound.
      guard length > 0 else { return fail(.empty) }
      guard add(address, length) else { return -1 }
      total &+= Int(length)
      guard flags & Self.next != 0 else { return total }
      left &-= 1
      guard left > 0 else { return fail(.loop) }
      index = Int(rest >> 48)
    }
  }

  @inline(__always) private mutating func add(_ address: UInt64, _ length: UInt64) -> Bool {
    var address = address
    var length = length
    // A buffer may go on in the next region.
    while length > 0 {
      guard pieceCount < Self.pieceLimit else { return fail(.pieces) >= 0 }
      guard let place = unsafe translate(address, length) else { return fail(.address) >= 0 }
      unsafe pieces[pieceCount] = iovec(iov_base: place.base, iov_len: Int(place.count))
      pieceCount &+= 1
      unsafe address &+= place.count
      unsafe length &-= place.count
    }
    return true
  }

  @inline(never) private mutating func fail(_ fault: VhostRingFault) -> Int {
    stop(fault)
    return -1
  }

  /// Where the memory at a guest's address is, and how much of it lies there in one piece.
  @inline(__always)
  private func translate(_ address: UInt64, _ length: UInt64) -> (base: UnsafeMutableRawPointer, count: UInt64)? {
    var index = 0
    while index < regionCount {
      let offset = unsafe address &- regions[index].guest
      let bytes = unsafe regions[index].bytes
      if offset < bytes { return unsafe (regions[index].base + Int(offset), min(length, bytes &- offset)) }
      index &+= 1
    }
    return nil
  }

  /// Gives a chain back, the next one of the available ring, with so many bytes written into it.
  @inline(__always) mutating func giveBack(_ head: UInt16, written: Int) {
    let at = unsafe used + (4 &+ (Int(done) & mask) &* 8)
    unsafe weft_store_relaxed_u32(at, UInt32(head))
    unsafe weft_store_relaxed_u32(at + 4, UInt32(truncatingIfNeeded: written))
    done &+= 1
    position &+= 1
  }

  /// The guest sees what has been given back, and is called where it wants to be.
  mutating func tell() {
    guard done != told else { return }
    let old = told
    told = done
    unsafe weft_store_release_u16(used + 2, done)
    weft_fence()
    if features.contains(.eventIndex) {
      let event = unsafe weft_load_relaxed_u16(available + (4 &+ size &* 2))
      guard done &- event &- 1 < done &- old else { return }
    } else {
      guard unsafe weft_load_relaxed_u16(available) & 1 == 0 else { return }
    }
    cell.call()
  }

  // MARK: notifications by the guest

  /// Asks the guest to notify; false where something has come meanwhile.
  mutating func arm() -> Bool {
    guard !isStopped else { return true }
    if !isArmed {
      isArmed = true
      if features.contains(.eventIndex) {
        unsafe weft_store_relaxed_u16(used + (4 &+ size &* 8), position)
      } else {
        unsafe weft_store_relaxed_u16(used, 0)
      }
      weft_fence()
    }
    return waiting() == 0
  }

  /// Nobody has to notify of what is looked at anyway.
  @inline(__always) mutating func disarm() {
    guard isArmed else { return }
    isArmed = false
    // With event indexes the guest stops by itself: it has passed the one that it was given.
    if !features.contains(.eventIndex) { unsafe weft_store_relaxed_u16(used, 1) }
  }
}

/// Where a ring's parts are, in addresses of the front end's.
public struct VhostRingAddresses: Sendable {
  public var descriptors: UInt64 = 0
  public var available: UInt64 = 0
  public var used: UInt64 = 0
}

/// What worker and control thread share of a queue. 64 bytes of their own.
///
///     0   4   the eventfd that calls the guest; -1: none
///     4   4   why it was stopped; 0: it was not
///     8   4   taken by who sends, where several workers do
@safe struct VhostCell: @unchecked Sendable {
  private let at: UnsafeMutableRawPointer

  init() {
    unsafe at = .allocate(byteCount: 64, alignment: 64)
    unsafe at.initializeMemory(as: UInt8.self, repeating: 0, count: 64)
    setCall(-1)
  }

  func deallocate() { unsafe at.deallocate() }

  func setCall(_ descriptor: Int32) { unsafe weft_store_release_u32(at, UInt32(bitPattern: descriptor)) }

  func call() {
    let descriptor = Int32(bitPattern: unsafe weft_load_acquire_u32(at))
    guard descriptor >= 0 else { return }
    var one: UInt64 = 1
    _ = unsafe write(descriptor, &one, 8)
  }

  func stop(_ fault: VhostRingFault) { unsafe weft_store_release_u32(at + 4, fault.rawValue) }
  /// Why the queue was stopped, told once.
  func takeFault() -> VhostRingFault? { VhostRingFault(rawValue: unsafe weft_exchange_u32(at + 4, 0)) }

  /// Held for as long as a batch takes to copy.
  func lock() {
    var tries = 0
    while unsafe weft_exchange_u32(at + 8, 1) != 0 {
      weft_pause()
      tries &+= 1
      // Who holds it may have lost its core.
      if tries & 1023 == 0 { _ = sched_yield() }
    }
  }
  func unlock() { unsafe weft_store_release_u32(at + 8, 0) }
}
