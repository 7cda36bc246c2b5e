import Glibc
import Testing
import WeftNetlink

@Suite struct NamespaceTests {
  @Test func current() throws {
    let current = try NetworkNamespace.current()
    let isCurrent = current.isCurrent
    #expect(isCurrent)
    let same = try NetworkNamespace(path: "/proc/self/ns/net").identity == current.identity
    #expect(same)
  }

  @Test(arguments: [
    ("/run/netns/weft-test-none", ENOENT), ("/proc/self/ns/mnt", EINVAL), ("/etc/hostname", EINVAL), ("/tmp", EINVAL),
    ("/dev/null", EINVAL), ("", ENOENT), ("/proc/self/status", EINVAL),
  ])
  func whatIsNone(path: String, code: Int32) {
    #expect {
      _ = try NetworkNamespace(path: path)
    } throws: { error in
      guard let error = error as? NetlinkError else { return false }
      return error.code == code && error.description.contains("network namespace \(path)")
    }
  }

  /// Opening must not wait for a writer.
  @Test func aFIFO() throws {
    let path = "/tmp/weft-test-fifo-\(getpid())"
    #expect(mkfifo(path, 0o600) == 0)
    defer { unlink(path) }
    #expect { _ = try NetworkNamespace(path: path) } throws: { ($0 as? NetlinkError)?.code == EINVAL }
  }

  @Test(.enabled(if: isRoot, needsRoot)) func runs() throws {
    let other = try TestNamespace()
    #expect(!other.isCurrent)
    let inside = try other.namespace.run { try NetworkNamespace.current().identity }
    #expect(inside == other.identity)
    #expect(try other.namespace.run { try Netlink().links().map(\.name) } == ["lo"])
    // The calling thread has not moved.
    #expect(!other.isCurrent)
    #expect { try other.namespace.run { throw NetlinkError("try", "it", code: EBUSY) } } throws: {
      ($0 as? NetlinkError)?.code == EBUSY
    }
  }
}

@Suite struct SysctlTests {
  @Test func reads() throws {
    #expect(try ["0", "1"].contains(Sysctl.read("net/ipv4/conf/lo/arp_ignore")))
    #expect { try Sysctl.read("net/ipv4/conf/none/arp_ignore") } throws: { ($0 as? NetlinkError)?.code == ENOENT }
    for key in ["../../etc/passwd", "net/../../../etc/passwd", "net/.."] {
      #expect { try Sysctl.read(key) } throws: { ($0 as? NetlinkError)?.code == EINVAL }
    }
  }

  @Test(.enabled(if: isRoot, needsRoot)) func writesInANamespace() throws {
    let other = try TestNamespace()
    let key = "net/ipv4/conf/lo/arp_announce"
    let before = try Sysctl.read(key)
    try other.namespace.run { try Sysctl.write(key, "2") }
    #expect(try other.namespace.run { try Sysctl.read(key) } == "2")
    #expect(try Sysctl.read(key) == before)
    #expect {
      try other.namespace.run { try Sysctl.write(key, "much") }
    } throws: { ($0 as? NetlinkError)?.code == EINVAL && "\($0)".contains(key) }
  }
}
