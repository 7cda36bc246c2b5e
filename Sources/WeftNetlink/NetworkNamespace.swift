import CLinux
import Glibc
import WeftSystem

/// A network namespace, held open (network_namespaces(7)): it lives at least as long as this does.
public struct NetworkNamespace: ~Copyable, Sendable {
  /// Two namespaces are the same when these are (ioctl_ns(2)).
  public struct Identity: Hashable, Sendable {
    public let device: UInt64
    public let inode: UInt64
  }

  private let file: Descriptor
  public let identity: Identity
  var descriptor: Int32 { file.raw }

  /// Opens "/run/netns/NAME", "/proc/PID/ns/net" and the like. ENOENT when there is nothing; EINVAL when what is there
  /// is no network namespace: a plain file, which is what a container's end leaves behind, or a namespace of another kind.
  public init(path: String) throws(NetlinkError) {
    // Non-blocking: opening a FIFO must not wait for somebody to write.
    let raw = unsafe open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
    guard raw >= 0 else { throw NetlinkError("open", "network namespace \(path)") }
    let file = Descriptor(owning: raw)
    identity = try Self.examine(raw, path)
    self.file = file
  }

  private static func examine(_ raw: Int32, _ path: String) throws(NetlinkError) -> Identity {
    var system = statfs()
    guard unsafe fstatfs(raw, &system) == 0 else { throw NetlinkError("look at", "network namespace \(path)") }
    guard Int(system.f_type) == Int(weft_NETNS_MAGIC), weft_ioctl_ptr(raw, getKind, nil) == CLONE_NEWNET else {
      throw NetlinkError("open", "network namespace \(path)", code: EINVAL, kernelText: "it is no network namespace")
    }
    var status = stat()
    guard unsafe fstat(raw, &status) == 0 else { throw NetlinkError("look at", "network namespace \(path)") }
    return Identity(device: UInt64(status.st_dev), inode: UInt64(status.st_ino))
  }

  /// The calling thread's.
  public static func current() throws(NetlinkError) -> NetworkNamespace {
    try NetworkNamespace(path: "/proc/thread-self/ns/net")
  }

  /// Whether it is the calling thread's.
  public var isCurrent: Bool {
    guard let current = try? NetworkNamespace.current() else { return false }
    return current.identity == identity
  }

  /// Runs `body` on a thread of its own inside the namespace and waits for it. No other thread ever moves, so nothing
  /// has to be put back, and nothing can be left in the wrong namespace.
  public func run<T: Sendable>(_ body: @Sendable () throws -> T) throws -> T {
    let descriptor = self.descriptor
    return try withoutActuallyEscaping(body) { body in
      let outcome = Outcome<T>()
      let job = Job {
        outcome.result =
          setns(descriptor, CLONE_NEWNET) == 0
          ? Result { try body() } : .failure(NetlinkError("enter", "a network namespace"))
      }
      try job.runOnThread()
      guard let result = outcome.result else { throw NetlinkError("run in", "a network namespace", code: EPROTO) }
      return try result.get()
    }
  }

  /// NS_GET_NSTYPE of linux/nsfs.h, a macro that Swift does not import.
  private static let getKind: UInt = 0xB703
}

/// Written by the job's thread, read after that has ended.
private final class Outcome<T>: @unchecked Sendable {
  var result: Result<T, any Error>?
}

private final class Job: @unchecked Sendable {
  private let work: () -> Void

  init(_ work: @escaping () -> Void) { self.work = work }

  func runOnThread() throws(NetlinkError) {
    var thread = pthread_t()
    let argument = unsafe Unmanaged.passRetained(self)
    let status = unsafe pthread_create(
      &thread, nil,
      { @Sendable argument in
        guard let argument = unsafe argument else { return nil }
        unsafe Unmanaged<Job>.fromOpaque(argument).takeRetainedValue().work()
        return nil
      }, argument.toOpaque())
    guard status == 0 else {
      unsafe argument.release()
      throw NetlinkError("start", "a thread", code: status)
    }
    _ = pthread_join(thread, nil)
  }
}
