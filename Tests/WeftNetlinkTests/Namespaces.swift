import CLinux
import Glibc
import Testing
import WeftNetlink

/// Tests that make network namespaces and links.
let isRoot = geteuid() == 0
let needsRoot: Comment = "needs root, for network namespaces"

/// Work that may block, on a thread of its own.
final class Background<Value: Sendable>: @unchecked Sendable {
  private var outcome: Result<Value, any Error>?
  private var thread = pthread_t()

  init(_ body: @escaping @Sendable () throws -> Value) {
    let runner = Runner { [self] in outcome = Result { try body() } }
    let status = pthread_create(
      &thread, nil,
      { @Sendable argument in
        Unmanaged<Runner>.fromOpaque(argument!).takeRetainedValue().body()
        return nil
      }, Unmanaged.passRetained(runner).toOpaque())
    precondition(status == 0, "no thread: error \(status)")
  }

  /// Waits for the end, once.
  func value() throws -> Value {
    pthread_join(thread, nil)
    return try outcome!.get()
  }
}

/// A thread's work without the type of what comes of it, which C would not carry.
private final class Runner: @unchecked Sendable {
  let body: () -> Void
  init(_ body: @escaping () -> Void) { self.body = body }
}

/// A fresh network namespace without a name: it ends, with its links, when nobody holds it any more.
final class TestNamespace: Sendable {
  let namespace: NetworkNamespace

  init() throws {
    // A thread enters it and ends; the descriptor that it opened keeps the namespace.
    final class Box: @unchecked Sendable {
      var namespace: NetworkNamespace?
      init() {}
    }
    let box = Box()
    try Background {
      guard unshare(CLONE_NEWNET) == 0 else { throw NetlinkError("make", "a network namespace") }
      box.namespace = try NetworkNamespace.current()
    }.value()
    namespace = box.namespace.take()!
  }

  var isCurrent: Bool { namespace.isCurrent }
  var identity: NetworkNamespace.Identity { namespace.identity }

  func netlink() throws -> Netlink { try Netlink(in: namespace) }

  /// The index of a link that has to be there.
  func index(_ name: String) throws -> UInt32 { try #require(try netlink().link(named: name), "\(name)").index }
}

/// Two namespaces with a veth between them, both ends called eth0 and up.
struct Pair {
  let one = try! TestNamespace()
  let two = try! TestNamespace()
  let index1: UInt32
  let index2: UInt32

  init() throws {
    try one.netlink().createVeth(VethPair(name: "eth0", peerName: "eth0"), peerIn: two.namespace)
    index1 = try one.index("eth0")
    index2 = try two.index("eth0")
    try one.netlink().changeLink(index: index1, LinkChange(isUp: true))
    try two.netlink().changeLink(index: index2, LinkChange(isUp: true))
  }
}
