import CLinux
import WeftSystem
import WeftWire

/// What source ports are kept apart by: a port number can be given out once in each.
@frozen public enum PortClass: UInt8, CaseIterable, Sendable {
  case tcp
  case udp
  case sctp
  /// Identifiers of echo requests.
  case icmp

  /// nil for a protocol without ports.
  public init?(proto: UInt8) {
    switch proto {
    case IPProtocol.tcp: self = .tcp
    case IPProtocol.udp: self = .udp
    case IPProtocol.sctp: self = .sctp
    case IPProtocol.icmp, IPProtocol.icmpv6: self = .icmp
    default: return nil
    }
  }
}

/// The outside addresses and ports of a source NAT, as workers see them.
///
/// Ports are handed out to workers in blocks; what a worker does with its blocks concerns nobody else. A block is
/// taken by writing who has it into its record, with one compare-and-swap, and given back when none of its ports is in
/// use.
///
///     records    8 bytes for each class, address and block: worker + 1 in the upper half, its number there in the lower
///     free       8 bytes for each class and address: blocks that nobody has; before them, for each class in all
///     heads      4 bytes for each worker, class and address: the worker's blocks with free ports; written by it alone
@safe @frozen public struct PortPoolEntry: @unchecked Sendable {
  public let id: UInt32
  /// The VRF in which the addresses are.
  public let vrf: UInt32
  public let first: IPAddress
  /// Addresses, one after the other from `first` on.
  public let count: UInt32
  public let firstPort: UInt16
  public let lastPort: UInt16
  /// Ports of a block; the last of an address may have fewer.
  public let blockPorts: UInt32
  public let blocksPerAddress: UInt32
  let memory: UnsafeMutableRawPointer
  let freeOffset: Int
  let headsOffset: Int

  static let classes = PortClass.allCases.count

  @inline(__always) func address(_ index: UInt32) -> IPAddress {
    first.isV4 ? IPAddress(v4: first.v4 &+ index) : first.advanced(by: UInt64(index)) ?? first
  }

  /// It has too few blocks for each worker to get some.
  func isSmall(workers: Int) -> Bool { UInt64(count) &* UInt64(blocksPerAddress) < 2 &* UInt64(workers) }

  @inline(__always) private func place(_ portClass: PortClass, _ address: UInt32) -> Int {
    Int(portClass.rawValue) &* Int(count) &+ Int(address)
  }
  @inline(__always) func record(_ portClass: PortClass, _ address: UInt32, _ block: UInt32) -> UnsafeMutableRawPointer {
    unsafe memory + (place(portClass, address) &* Int(blocksPerAddress) &+ Int(block)) &* 8
  }
  @inline(__always) func freeInAll(_ portClass: PortClass) -> UnsafeMutableRawPointer {
    unsafe memory + freeOffset + Int(portClass.rawValue) &* 64
  }
  @inline(__always) func free(_ portClass: PortClass, _ address: UInt32) -> UnsafeMutableRawPointer {
    unsafe memory + freeOffset + Self.classes &* 64 + place(portClass, address) &* 8
  }
  /// Heads of the lists of one worker; the one past the addresses is of all of them together.
  @inline(__always)
  func head(_ worker: UInt32, _ portClass: PortClass, _ address: UInt32) -> UnsafeMutablePointer<UInt32> {
    let row = Int(worker) &* Self.classes &+ Int(portClass.rawValue)
    let at = row &* (Int(count) &+ 1) &+ Int(address)
    return unsafe (memory + headsOffset + at &* 4).assumingMemoryBound(to: UInt32.self)
  }

  func ports(ofBlock block: UInt32) -> UInt32 {
    min(blockPorts, UInt32(lastPort) &- UInt32(firstPort) &+ 1 &- block &* blockPorts)
  }
}

/// A pool as its one writer, the control thread, sees it. It must live until `isIdle` after no worker can find it any
/// more: flows hold on to its ports.
@safe public final class PortPool: @unchecked Sendable {
  /// Blocks of one class that a pool may have.
  public static let maximumBlocks = 1 << 20

  /// What workers are shown, and blocks refer to.
  let published: UnsafeMutablePointer<PortPoolEntry>
  private let memory: Mapping
  private let blocks: UInt64

  /// `blockPorts` is a power of two from 64 to 512. Blocks in all are at most `maximumBlocks`.
  public init(
    id: UInt32, vrf: UInt32, first: IPAddress, count: UInt32, firstPort: UInt16, lastPort: UInt16, blockPorts: UInt32,
    workers: Int
  ) throws(SystemError) {
    precondition(count > 0 && firstPort <= lastPort && blockPorts >= 64 && blockPorts <= 512)
    let ports = UInt32(lastPort) - UInt32(firstPort) + 1
    let blocksPerAddress = (ports + blockPorts - 1) / blockPorts
    blocks = UInt64(count) * UInt64(blocksPerAddress)
    precondition(blocks <= Self.maximumBlocks)
    let classes = PortPoolEntry.classes
    let freeOffset = (Int(blocks) * classes * 8 + 63) & ~63
    let headsOffset = freeOffset + classes * 64 + classes * Int(count) * 8
    memory = try Mapping(
      anonymous: headsOffset + workers * classes * (Int(count) + 1) * 4, what: "ports of NAT pool \(id)")
    let entry = unsafe PortPoolEntry(
      id: id, vrf: vrf, first: first, count: count, firstPort: firstPort, lastPort: lastPort, blockPorts: blockPorts,
      blocksPerAddress: blocksPerAddress, memory: memory.base, freeOffset: freeOffset, headsOffset: headsOffset)
    for portClass in PortClass.allCases {
      unsafe weft_store_relaxed_u64(entry.freeInAll(portClass), blocks)
      for address in 0..<count {
        unsafe weft_store_relaxed_u64(entry.free(portClass, address), UInt64(blocksPerAddress))
      }
    }
    unsafe published = .allocate(capacity: 1)
    unsafe published.initialize(to: entry)
  }

  deinit { unsafe published.deallocate() }

  public var entry: PortPoolEntry { unsafe published.pointee }
  /// The pool as a worker has it in hand.
  public var reference: EntryReference<PortPoolEntry> { unsafe EntryReference(UnsafeMutableRawPointer(published)) }

  /// Blocks of a class that workers have, and that there are.
  public func use(_ portClass: PortClass) -> (taken: UInt64, all: UInt64) {
    (blocks - min(blocks, unsafe weft_load_acquire_u64(entry.freeInAll(portClass))), blocks)
  }

  /// No worker has a block.
  public var isIdle: Bool { PortClass.allCases.allSatisfy { use($0).taken == 0 } }
}

/// A port that a flow was given.
@frozen public struct PortLease: Sendable {
  public let address: IPAddress
  public let port: UInt16
  /// What `PortBlocks.release` takes; 0 in a trial alone.
  public let reference: UInt32
}

/// A worker's blocks of ports: nobody else reads or writes it.
@safe public struct PortBlocks {
  @safe private struct Block {
    var pool: UnsafePointer<PortPoolEntry>?
    /// Neighbours in the list of the address, and in that of the pool; number + 1, 0 for none.
    var next: UInt32
    var before: UInt32
    var nextOfAll: UInt32
    var beforeOfAll: UInt32
    var address: UInt32
    var block: UInt32
    var firstPort: UInt16
    var ports: UInt16
    var free: UInt16
    var portClass: PortClass
    /// A bit for each port, set while it is free.
    var bits: InlineArray<8, UInt64>
  }

  private static let stride = 128
  private static let placeBits: UInt32 = 9
  /// Blocks that a worker can have.
  public static let capacity = 1 << 18

  private let memory: PortBlockMemory
  private let worker: UInt32
  private var freeHead: UInt32 = 0
  private var highWater: UInt32 = 0
  private var random: UInt64
  /// Ports are said, and not taken.
  private let isTrial: Bool
  /// Ports that flows have.
  public private(set) var leased = 0

  /// A trial takes no block: `lease` says a port that a flow might get, without a reference.
  public init(worker: Int, seed: UInt64, isTrial: Bool = false) throws(SystemError) {
    precondition(MemoryLayout<Block>.size <= Self.stride)
    self.isTrial = isTrial
    memory = try PortBlockMemory(bytes: Self.capacity * Self.stride)
    self.worker = UInt32(worker)
    // Each worker its own, so that nobody learns from one what the others give out.
    random = Maglev.mix(seed ^ UInt64(worker) &* 0x9E37_79B9_7F4A_7C15) | 1
  }

  private func at(_ number: UInt32) -> UnsafeMutablePointer<Block> {
    unsafe (memory.mapping.base + Int(number &- 1) &* Self.stride).assumingMemoryBound(to: Block.self)
  }

  /// A port of `pool`, of the address that `spread` chooses as long as that has any: one inside host keeps one outside
  /// address (RFC 4787 section 4.1). `wanted` where it is free in a block that this worker has, else any. nil when this
  /// worker can get none.
  public mutating func lease(
    _ pool: EntryReference<PortPoolEntry>, _ portClass: PortClass, spread: UInt64, wanted: UInt16
  ) -> PortLease? {
    let entry = unsafe UnsafePointer(pool.pointer)
    let count = unsafe entry.pointee.count
    let address = UInt32(truncatingIfNeeded: spread.multipliedFullWidth(by: UInt64(count)).high)
    if isTrial {
      let first = unsafe entry.pointee.firstPort
      let last = unsafe entry.pointee.lastPort
      return unsafe PortLease(
        address: entry.pointee.address(address), port: (first...last).contains(wanted) ? wanted : first, reference: 0)
    }
    if let lease = unsafe lease(wanted, entry, portClass, address) { return lease }
    var number = unsafe entry.pointee.head(worker, portClass, address).pointee
    if number == 0 { number = unsafe acquire(entry, portClass, address) }
    if number == 0 { number = unsafe entry.pointee.head(worker, portClass, count).pointee }
    if number == 0 {
      var other = address
      for _ in 1..<max(count, 1) where number == 0 {
        guard unsafe weft_load_acquire_u64(entry.pointee.freeInAll(portClass)) > 0 else { break }
        other = other &+ 1 == count ? 0 : other &+ 1
        number = unsafe acquire(entry, portClass, other)
      }
    }
    guard number != 0 else { return nil }
    // Ports are not given out in order, so that outsiders cannot tell the next one (RFC 6056 section 3).
    random ^= random << 13
    random ^= random >> 7
    random ^= random << 17
    let block = unsafe at(number)
    var word = Int(truncatingIfNeeded: random >> 32) & 7
    let rotation = Int(truncatingIfNeeded: random & 63)
    for _ in 0..<8 {
      let bits = unsafe block.pointee.bits[word]
      if bits != 0 {
        let turned = bits >> UInt64(rotation) | bits << (UInt64(64 &- rotation) & 63)
        return take(number, word &* 64 &+ (turned.trailingZeroBitCount &+ rotation) & 63)
      }
      word = (word &+ 1) & 7
    }
    return nil
  }

  /// The wanted port, if this worker has its block and it is free.
  private mutating func lease(
    _ port: UInt16, _ pool: UnsafePointer<PortPoolEntry>, _ portClass: PortClass, _ address: UInt32
  ) -> PortLease? {
    guard unsafe port >= pool.pointee.firstPort, unsafe port <= pool.pointee.lastPort else { return nil }
    let offset = unsafe UInt32(port &- pool.pointee.firstPort)
    let block = unsafe offset / pool.pointee.blockPorts
    let record = unsafe weft_load_acquire_u64(pool.pointee.record(portClass, address, block))
    guard record >> 32 == UInt64(worker) &+ 1 else { return nil }
    let number = UInt32(truncatingIfNeeded: record)
    let place = unsafe Int(offset &- block &* pool.pointee.blockPorts)
    guard unsafe at(number).pointee.bits[place >> 6] >> UInt64(place & 63) & 1 == 1 else { return nil }
    return take(number, place)
  }

  private mutating func take(_ number: UInt32, _ place: Int) -> PortLease? {
    let block = unsafe at(number)
    guard let pool = unsafe block.pointee.pool else { return nil }
    unsafe block.pointee.bits[place >> 6] &= ~(1 << UInt64(place & 63))
    unsafe block.pointee.free &-= 1
    if unsafe block.pointee.free == 0 { unlink(number) }
    leased &+= 1
    return unsafe PortLease(
      address: pool.pointee.address(block.pointee.address),
      port: block.pointee.firstPort &+ UInt16(truncatingIfNeeded: place),
      reference: number << Self.placeBits | UInt32(truncatingIfNeeded: place))
  }

  /// Gives a port back. A reference that names none is left alone.
  public mutating func release(_ reference: UInt32) {
    let number = reference >> Self.placeBits
    let place = Int(reference & (1 << Self.placeBits &- 1))
    guard number > 0, number <= highWater else { return }
    let block = unsafe at(number)
    guard let pool = unsafe block.pointee.pool, unsafe place < Int(block.pointee.ports) else { return }
    guard unsafe block.pointee.bits[place >> 6] >> UInt64(place & 63) & 1 == 0 else { return }
    unsafe block.pointee.bits[place >> 6] |= 1 << UInt64(place & 63)
    unsafe block.pointee.free &+= 1
    leased &-= 1
    if unsafe block.pointee.free == 1 { link(number) }
    guard unsafe block.pointee.free == block.pointee.ports else { return }
    unlink(number)
    let portClass = unsafe block.pointee.portClass
    let address = unsafe block.pointee.address
    let record = unsafe pool.pointee.record(portClass, address, block.pointee.block)
    unsafe block.pointee.pool = nil
    unsafe block.pointee.next = freeHead
    freeHead = number
    let inAll = unsafe pool.pointee.freeInAll(portClass)
    unsafe weft_store_release_u64(record, 0)
    _ = unsafe weft_fetch_add_u64(pool.pointee.free(portClass, address), 1)
    // The last touch: from here on the control thread may free a pool that nobody finds any more.
    _ = unsafe weft_fetch_add_u64(inAll, 1)
  }

  /// A block of an address that nobody had; 0 when there is none.
  private mutating func acquire(
    _ pool: UnsafePointer<PortPoolEntry>, _ portClass: PortClass, _ address: UInt32
  ) -> UInt32 {
    guard unsafe weft_load_acquire_u64(pool.pointee.free(portClass, address)) > 0,
      freeHead != 0 || highWater < Self.capacity
    else { return 0 }
    let count = unsafe pool.pointee.blocksPerAddress
    // Workers start at different places, so that they seldom want the same block.
    var candidate = (worker &* 0x9E37_79B1) % count
    for _ in 0..<count {
      let record = unsafe pool.pointee.record(portClass, address, candidate)
      let number = freeHead != 0 ? freeHead : highWater &+ 1
      if unsafe weft_load_acquire_u64(record) == 0,
        unsafe weft_replace_u64(record, 0, UInt64(worker &+ 1) << 32 | UInt64(number))
      {
        _ = unsafe weft_fetch_add_u64(pool.pointee.free(portClass, address), .max)
        _ = unsafe weft_fetch_add_u64(pool.pointee.freeInAll(portClass), .max)
        unsafe set(number, pool, portClass, address, candidate)
        return number
      }
      candidate = candidate &+ 1 == count ? 0 : candidate &+ 1
    }
    return 0
  }

  private mutating func set(
    _ number: UInt32, _ pool: UnsafePointer<PortPoolEntry>, _ portClass: PortClass, _ address: UInt32, _ block: UInt32
  ) {
    if number == freeHead { freeHead = unsafe at(number).pointee.next } else { highWater = number }
    let ports = unsafe pool.pointee.ports(ofBlock: block)
    var bits = InlineArray<8, UInt64>(repeating: 0)
    for word in 0..<8 {
      let left = Int(ports) - word * 64
      bits[word] = left >= 64 ? .max : left > 0 ? (1 << UInt64(left)) - 1 : 0
    }
    unsafe at(number).initialize(
      to: Block(
        pool: pool, next: 0, before: 0, nextOfAll: 0, beforeOfAll: 0, address: address, block: block,
        firstPort: pool.pointee.firstPort &+ UInt16(truncatingIfNeeded: block &* pool.pointee.blockPorts),
        ports: UInt16(ports), free: UInt16(ports), portClass: portClass, bits: bits))
    link(number)
  }

  /// Puts a block at the front of the lists of blocks with free ports.
  private func link(_ number: UInt32) {
    let block = unsafe at(number)
    guard let pool = unsafe block.pointee.pool else { return }
    let head = unsafe pool.pointee.head(worker, block.pointee.portClass, block.pointee.address)
    let all = unsafe pool.pointee.head(worker, block.pointee.portClass, pool.pointee.count)
    unsafe block.pointee.before = 0
    unsafe block.pointee.next = head.pointee
    if unsafe head.pointee != 0 { unsafe at(head.pointee).pointee.before = number }
    unsafe head.pointee = number
    unsafe block.pointee.beforeOfAll = 0
    unsafe block.pointee.nextOfAll = all.pointee
    if unsafe all.pointee != 0 { unsafe at(all.pointee).pointee.beforeOfAll = number }
    unsafe all.pointee = number
  }

  private func unlink(_ number: UInt32) {
    let block = unsafe at(number)
    guard let pool = unsafe block.pointee.pool else { return }
    let next = unsafe block.pointee.next
    let before = unsafe block.pointee.before
    if next != 0 { unsafe at(next).pointee.before = before }
    if before != 0 {
      unsafe at(before).pointee.next = next
    } else {
      unsafe pool.pointee.head(worker, block.pointee.portClass, block.pointee.address).pointee = next
    }
    let nextOfAll = unsafe block.pointee.nextOfAll
    let beforeOfAll = unsafe block.pointee.beforeOfAll
    if nextOfAll != 0 { unsafe at(nextOfAll).pointee.beforeOfAll = beforeOfAll }
    if beforeOfAll != 0 {
      unsafe at(beforeOfAll).pointee.nextOfAll = nextOfAll
    } else {
      unsafe pool.pointee.head(worker, block.pointee.portClass, pool.pointee.count).pointee = nextOfAll
    }
  }
}

/// The memory of a worker's blocks.
final class PortBlockMemory: Sendable {
  let mapping: Mapping

  init(bytes: Int) throws(SystemError) { mapping = try Mapping(anonymous: bytes, what: "port blocks") }
}
