import CLinux
import Glibc
import WeftSystem

extension NetworkNamespace {
  /// Makes a namespace that nobody else has, and opens it: it ends when this and whatever is in it are closed. Returns
  /// the descriptor, by which "/proc/PID/fd/N" is a path to it for as long as it is open.
  public static func makeDescriptor() throws -> Int32 {
    try current().run {
      guard unshare(CLONE_NEWNET) == 0 else { throw NetlinkError("make", "a network namespace") }
      let raw = unsafe open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC)
      guard raw >= 0 else { throw NetlinkError("open", "a network namespace that was just made") }
      return raw
    }
  }
}
