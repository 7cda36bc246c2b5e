import CGuestMemory
import CLinux
import Glibc
import WeftSystem

/// A piece of a virtual machine's memory as it is mapped here.
@safe struct VhostRegion: @unchecked Sendable {
  /// Where it is for the guest (guest physical address), and for the front end (its own virtual address).
  var guest: UInt64
  var user: UInt64
  var bytes: UInt64
  var base: UnsafeMutableRawPointer
}

/// The memory of a virtual machine, shared by its front end (vhost-user's memory table). Made and freed by the control
/// thread; workers read it through a ring in between.
@safe public final class VhostMemory: @unchecked Sendable {
  /// What the protocol has room for without further features.
  public static let maximumRegions = 8

  /// What the front end says of a region.
  public struct Claim: Sendable {
    public var guest: UInt64
    public var bytes: UInt64
    public var user: UInt64
    /// Where it begins in the descriptor's file.
    public var offset: UInt64

    public init(guest: UInt64, bytes: UInt64, user: UInt64, offset: UInt64) {
      self.guest = guest
      self.bytes = bytes
      self.user = user
      self.offset = offset
    }
  }

  let regions: UnsafeMutablePointer<VhostRegion>
  private(set) var count = 0
  private var mappings: [Piece] = []

  @safe private struct Piece {
    let base: UnsafeMutableRawPointer
    let bytes: Int
    let guardian: Int32
  }

  /// Maps each region; the descriptors may be closed then. Throws where something about one does not hold.
  public init(_ claims: [(claim: Claim, descriptor: Int32)]) throws(VhostFault) {
    unsafe regions = .allocate(capacity: max(1, claims.count))
    for (number, (claim, descriptor)) in claims.enumerated() {
      try map(claim, descriptor, number)
    }
  }

  deinit {
    for mapping in mappings {
      if mapping.guardian >= 0 { weft_guard_remove(mapping.guardian) }
      _ = unsafe munmap(mapping.base, mapping.bytes)
    }
    unsafe regions.deallocate()
  }

  private func map(_ claim: Claim, _ descriptor: Int32, _ number: Int) throws(VhostFault) {
    func refuse(_ what: String) -> VhostFault { VhostFault("memory region \(number) \(what)") }
    guard claim.bytes > 0, !claim.guest.addingReportingOverflow(claim.bytes).overflow,
      !claim.user.addingReportingOverflow(claim.bytes).overflow
    else { throw refuse("has no sensible size (\(claim.bytes) bytes)") }
    for index in 0..<count {
      let other = unsafe regions[index]
      if claim.guest < other.guest + other.bytes, other.guest < claim.guest + claim.bytes {
        throw refuse("overlaps region \(index)")
      }
    }
    var status = stat()
    var system = statfs()
    guard unsafe fstat(descriptor, &status) == 0, unsafe fstatfs(descriptor, &system) == 0 else {
      throw refuse("has a descriptor that cannot be asked (\(SystemError.text(errno)))")
    }
    // Another file system could keep a worker waiting for a page as long as it likes.
    let isMemory = [0x0102_1994, 0x9584_58F6].contains(UInt64(truncatingIfNeeded: system.f_type))
    guard status.st_mode & S_IFMT == S_IFREG, isMemory else {
      throw refuse("is no memfd and no file in tmpfs or hugetlbfs; use QEMU's memory-backend-memfd with share=on")
    }
    let (end, overflow) = claim.offset.addingReportingOverflow(claim.bytes)
    guard !overflow, status.st_size >= 0, end <= UInt64(status.st_size) else {
      throw refuse("ends beyond its file of \(status.st_size) bytes")
    }
    // From the file's start: the offset need not be a whole number of huge pages.
    let page = UInt64(max(4096, Int(status.st_blksize)))
    let length = Int(truncatingIfNeeded: (end + page - 1) / page * page)
    guard length > 0, length < 1 << 46 else { throw refuse("is too large") }
    let flags = MAP_SHARED | MAP_NORESERVE
    guard let base = unsafe mmap(nil, length, PROT_READ | PROT_WRITE, flags, descriptor, 0),
      unsafe base != MAP_FAILED
    else { throw refuse("cannot be mapped (\(SystemError.text(errno)))") }
    // A guest's secrets are not for core dumps.
    _ = unsafe madvise(base, length, MADV_DONTDUMP)
    _ = weft_cannot_shrink(descriptor)
    // Also of sealed memory: a page that cannot be had, such as a huge one, is no other signal.
    let guardian = unsafe weft_guard_add(base, length)
    guard guardian >= 0 else {
      _ = unsafe munmap(base, length)
      throw refuse("cannot be watched: there are too many regions")
    }
    unsafe mappings.append(Piece(base: base, bytes: length, guardian: guardian))
    unsafe regions[count] = VhostRegion(
      guest: claim.guest, user: claim.user, bytes: claim.bytes, base: base + Int(claim.offset))
    count += 1
  }

  /// The front end has truncated its memory, and it was touched: what is there now is nobody's.
  public var isTruncated: Bool { mappings.contains { $0.guardian >= 0 && weft_guard_hit($0.guardian) } }

  /// Where `bytes` bytes at an address of the front end's are, in one piece; nil: nowhere, or not aligned so.
  func place(user address: UInt64, bytes: Int, alignment: UInt64) -> UnsafeMutableRawPointer? {
    for index in 0..<count {
      let region = unsafe regions[index]
      let offset = address &- region.user
      guard offset < region.bytes, UInt64(bytes) <= region.bytes - offset else { continue }
      let place = unsafe region.base + Int(offset)
      return unsafe UInt(bitPattern: place) % UInt(alignment) == 0 ? place : nil
    }
    return nil
  }
}

/// What a front end has done that cannot be: its connection ends with this.
public struct VhostFault: Error, Sendable, CustomStringConvertible {
  public let description: String
  public init(_ description: String) { self.description = description }
}
