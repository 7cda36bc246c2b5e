import CLinux
import Glibc

/// Mapped memory that is unmapped when it goes out of scope.
@safe public struct Mapping: ~Copyable, @unchecked Sendable {
  public let base: UnsafeMutableRawPointer
  public let count: Int

  /// Maps a descriptor's memory from `offset` on.
  public init(
    descriptor: Int32, bytes: Int, offset: Int = 0, writable: Bool, what: String
  ) throws(SystemError) {
    let protection = writable ? PROT_READ | PROT_WRITE : PROT_READ
    let address = unsafe mmap(nil, bytes, protection, MAP_SHARED, descriptor, offset)
    guard let address = unsafe address, unsafe address != MAP_FAILED else { throw SystemError("map", what) }
    unsafe base = unsafe address
    count = bytes
  }

  /// Zeroed memory of our own, of which pages come into being when they are touched.
  public init(anonymous bytes: Int, what: String) throws(SystemError) {
    let address = unsafe mmap(nil, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    guard let address = unsafe address, unsafe address != MAP_FAILED else {
      throw SystemError("reserve \(bytes) bytes for", what)
    }
    unsafe base = unsafe address
    count = bytes
  }

  deinit { _ = unsafe munmap(base, count) }

  /// Anonymous memory: every byte is zero again, and takes no room until it is touched.
  public func clear() {
    // Locked memory cannot be given back.
    if unsafe madvise(base, count, MADV_DONTNEED) != 0 { _ = unsafe memset(base, 0, count) }
  }

  /// Asks for huge pages (2 MiB); the kernel may have none, which changes nothing but speed.
  public func preferHugePages() {
    _ = unsafe madvise(base, count, MADV_HUGEPAGE)
  }
}
