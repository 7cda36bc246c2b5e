import Glibc
import WeftSystem

/// What the kernel refused, or a system call that failed on the way to it: what was being done, to what, errno, and
/// the kernel's own words where it gave any (netlink extended acknowledgement, linux/netlink.h NLMSGERR_ATTR_MSG).
public struct NetlinkError: Error, Hashable, Sendable, CustomStringConvertible {
  public let operation: String
  public let object: String
  /// errno: EEXIST, ENODEV, EPERM and so on.
  public let code: Int32
  public let kernelText: String?

  public init(_ operation: String, _ object: String, code: Int32 = errno, kernelText: String? = nil) {
    self.operation = operation
    self.object = object
    self.code = code
    self.kernelText = kernelText
  }

  public var description: String {
    let reason = kernelText.map { " (the kernel says: \($0))" } ?? ""
    let advice = code == EPERM ? "; it takes root or CAP_NET_ADMIN" : ""
    return "\(operation) \(object): \(SystemError.text(code))\(reason)\(advice)"
  }
}
