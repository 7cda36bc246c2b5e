import CLinux

/// One of the four rings that an AF_XDP socket shares with the kernel (the kernel's af_xdp.rst): who puts entries in
/// advances the producer, who takes them out the consumer. Both count on for ever and are taken modulo the size, a power
/// of two. Our own number is kept here and never read back; the other side's is read only when what we know of it does
/// not do, so that its cache line stays where it is.
@safe public struct XDPRing {
  /// XDP_RING_NEED_WAKEUP
  private static let needsWakeup: UInt32 = 1

  public let size: UInt32
  private let mask: UInt32
  private let producer: UnsafeMutableRawPointer
  private let consumer: UnsafeMutableRawPointer
  private let flags: UnsafeMutableRawPointer
  private let entries: UnsafeMutableRawPointer
  /// Where the next entry goes, or is taken from.
  public private(set) var position: UInt32 = 0
  /// What is known of the other side.
  private var other: UInt32 = 0

  /// `size` is a power of two; the offsets are of the mapped memory.
  @unsafe public init(_ memory: UnsafeMutableRawPointer, offsets: xdp_ring_offset, size: UInt32) {
    self.size = size
    mask = size &- 1
    unsafe producer = memory + Int(offsets.producer)
    unsafe consumer = memory + Int(offsets.consumer)
    unsafe flags = memory + Int(offsets.flags)
    unsafe entries = memory + Int(offsets.desc)
  }

  /// The kernel wants a system call before it goes on.
  @inline(__always) public var wantsWakeup: Bool {
    unsafe weft_load_relaxed_u32(flags) & Self.needsWakeup != 0
  }

  // MARK: the producer's end

  /// Free places, `wanted` or more if there are; else as many as there are.
  @inline(__always) public mutating func room(_ wanted: UInt32) -> UInt32 {
    let known = size &- (position &- other)
    if known >= wanted { return known }
    unsafe other = weft_load_acquire_u32(consumer)
    return size &- (position &- other)
  }

  /// Entries from here to `publish` are there for the other side afterwards; the caller asked for `room`.
  @inline(__always) public mutating func put(address: UInt64) {
    unsafe entries.storeBytes(of: address, toByteOffset: Int(position & mask) &* 8, as: UInt64.self)
    position &+= 1
  }

  @inline(__always) public mutating func put(address: UInt64, length: UInt32, options: UInt32) {
    let at = unsafe entries + Int(position & mask) &* 16
    unsafe at.storeBytes(of: address, as: UInt64.self)
    unsafe at.storeBytes(of: UInt64(options) << 32 | UInt64(length), toByteOffset: 8, as: UInt64.self)
    position &+= 1
  }

  @inline(__always) public func publish() { unsafe weft_store_release_u32(producer, position) }

  /// Entries that the other side has not taken.
  @inline(__always) public mutating func pending() -> UInt32 {
    unsafe other = weft_load_acquire_u32(consumer)
    return position &- other
  }

  // MARK: the consumer's end

  /// Entries that can be taken, `wanted` or more if there are.
  @inline(__always) public mutating func available(_ wanted: UInt32) -> UInt32 {
    let known = other &- position
    if known >= wanted { return known }
    unsafe other = weft_load_acquire_u32(producer)
    return other &- position
  }

  @inline(__always) public func address(_ position: UInt32) -> UInt64 {
    unsafe entries.load(fromByteOffset: Int(position & mask) &* 8, as: UInt64.self)
  }

  @inline(__always) public func descriptor(_ position: UInt32) -> (address: UInt64, length: UInt32, options: UInt32) {
    let at = unsafe entries + Int(position & mask) &* 16
    let words = unsafe at.load(fromByteOffset: 8, as: UInt64.self)
    return (unsafe at.load(as: UInt64.self), UInt32(truncatingIfNeeded: words), UInt32(truncatingIfNeeded: words >> 32))
  }

  /// Gives the places of `count` entries back.
  @inline(__always) public mutating func take(_ count: UInt32) {
    position &+= count
    unsafe weft_store_release_u32(consumer, position)
  }
}
