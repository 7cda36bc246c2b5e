import Glibc
import WeftSystem

/// Kernel settings below /proc/sys. Those below net/ belong to the calling thread's network namespace: use them inside
/// `NetworkNamespace.run` for another's.
public enum Sysctl {
  /// `key` is a path such as "net/ipv4/conf/eth0/arp_ignore". The answer comes without the newline.
  public static func read(_ key: String) throws(NetlinkError) -> String {
    let file = try open(key, O_RDONLY, "read")
    var buffer = [UInt8](repeating: 0, count: 4096)
    let count = unsafe Glibc.read(file.raw, &buffer, buffer.count)
    guard count >= 0 else { throw NetlinkError("read", "sysctl \(key)") }
    let text = buffer.prefix(count)
    return String(decoding: text.last == UInt8(ascii: "\n") ? text.dropLast() : text, as: UTF8.self)
  }

  public static func write(_ key: String, _ value: String) throws(NetlinkError) {
    let file = try open(key, O_WRONLY, "set")
    let bytes = Array(value.utf8)
    guard unsafe Glibc.write(file.raw, bytes, bytes.count) == bytes.count else {
      throw NetlinkError("set", "sysctl \(key) to \(value)")
    }
  }

  private static func open(_ key: String, _ flags: Int32, _ operation: String) throws(NetlinkError) -> Descriptor {
    guard !key.split(separator: "/").contains("..") else {
      throw NetlinkError(operation, "sysctl \(key)", code: EINVAL, kernelText: "a key holds no \"..\"")
    }
    let raw = unsafe Glibc.open("/proc/sys/\(key)", flags | O_CLOEXEC)
    guard raw >= 0 else { throw NetlinkError(operation, "sysctl \(key)") }
    return Descriptor(owning: raw)
  }
}
