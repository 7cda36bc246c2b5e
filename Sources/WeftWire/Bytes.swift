import CLinux

/// A place in a packet, read and written at offsets in network byte order.
///
/// It knows no length: whoever makes one, or reads at an offset, has compared that offset with the packet's length
/// before. The header types' `minimumBytes` say what to compare with.
@safe @frozen public struct Bytes: @unchecked Sendable {
  public let pointer: UnsafeMutableRawPointer

  @inlinable @inline(__always) public init(_ pointer: UnsafeMutableRawPointer) { unsafe self.pointer = unsafe pointer }

  @inlinable @inline(__always) public func advanced(_ count: Int) -> Bytes { unsafe Bytes(pointer + count) }

  /// Bytes from here to another place.
  @inlinable @inline(__always) public func distance(to other: Bytes) -> Int { unsafe other.pointer - pointer }

  @inlinable @inline(__always) public func u8(_ at: Int) -> UInt8 {
    unsafe pointer.load(fromByteOffset: at, as: UInt8.self)
  }
  @inlinable @inline(__always) public func u16(_ at: Int) -> UInt16 {
    unsafe UInt16(bigEndian: pointer.loadUnaligned(fromByteOffset: at, as: UInt16.self))
  }
  @inlinable @inline(__always) public func u32(_ at: Int) -> UInt32 {
    unsafe UInt32(bigEndian: pointer.loadUnaligned(fromByteOffset: at, as: UInt32.self))
  }
  @inlinable @inline(__always) public func u64(_ at: Int) -> UInt64 {
    unsafe UInt64(bigEndian: pointer.loadUnaligned(fromByteOffset: at, as: UInt64.self))
  }
  /// 64 and 32 bits as they stand there, in the machine's order: to be compared or summed.
  @inlinable @inline(__always) public func raw64(_ at: Int) -> UInt64 {
    unsafe pointer.loadUnaligned(fromByteOffset: at, as: UInt64.self)
  }
  @inlinable @inline(__always) public func raw32(_ at: Int) -> UInt32 {
    unsafe pointer.loadUnaligned(fromByteOffset: at, as: UInt32.self)
  }
  /// 48 bits.
  @inlinable @inline(__always) public func mac(_ at: Int) -> UInt64 { UInt64(u16(at)) << 32 | UInt64(u32(at + 2)) }
  @inlinable @inline(__always) public func address6(_ at: Int) -> IPAddress {
    IPAddress(high: u64(at), low: u64(at + 8))
  }

  @inlinable @inline(__always) public func set8(_ at: Int, _ value: UInt8) {
    unsafe pointer.storeBytes(of: value, toByteOffset: at, as: UInt8.self)
  }
  @inlinable @inline(__always) public func set16(_ at: Int, _ value: UInt16) {
    unsafe pointer.storeBytes(of: value.bigEndian, toByteOffset: at, as: UInt16.self)
  }
  @inlinable @inline(__always) public func set32(_ at: Int, _ value: UInt32) {
    unsafe pointer.storeBytes(of: value.bigEndian, toByteOffset: at, as: UInt32.self)
  }
  @inlinable @inline(__always) public func set64(_ at: Int, _ value: UInt64) {
    unsafe pointer.storeBytes(of: value.bigEndian, toByteOffset: at, as: UInt64.self)
  }
  @inlinable @inline(__always) public func setMAC(_ at: Int, _ bits: UInt64) {
    set16(at, UInt16(truncatingIfNeeded: bits >> 32))
    set32(at + 2, UInt32(truncatingIfNeeded: bits))
  }
  @inlinable @inline(__always) public func setAddress6(_ at: Int, _ address: IPAddress) {
    set64(at, address.high)
    set64(at + 8, address.low)
  }

  /// Writes 16 bytes of zero.
  @inlinable @inline(__always) public func clear16() {
    unsafe pointer.storeBytes(of: SIMD2<UInt64>.zero, as: SIMD2<UInt64>.self)
  }

  /// Copies `count` bytes from `source`; the two do not overlap.
  @inlinable @inline(__always) public func copy(from source: Bytes, count: Int) {
    unsafe pointer.copyMemory(from: source.pointer, byteCount: count)
  }

  /// One's complement sum of `count` bytes from `at`, in the machine's order, not folded (see `Checksum`).
  @inlinable @inline(__always) public func sum(_ at: Int, count: Int, _ start: UInt64 = 0) -> UInt64 {
    unsafe weft_sum(pointer + at, count, start)
  }

  /// CRC-32C of `count` bytes from `at` (RFC 9260 appendix A), in the machine's order as SCTP stores it.
  @inlinable public func crc32c(_ at: Int, count: Int) -> UInt32 { unsafe weft_crc32c(pointer + at, count) }

  @inlinable @inline(__always) public func equal(_ other: Bytes, from: Int, count: Int) -> Bool {
    unsafe memcmp(pointer + from, other.pointer + from, count) == 0
  }
}
