import CLinux
import Glibc
import WeftSystem

extension NetworkNamespace {
  /// Makes a TAP interface here, with virtio-net headers, that stays until it is deleted, whoever has it open
  /// (tuntap.rst). It is down, and without a carrier before somebody opens it. EEXIST when the name is taken.
  public func createTap(_ name: String, isMultiQueue: Bool) throws(NetlinkError) {
    do { try run { try Self.makeTap(name, isMultiQueue: isMultiQueue) } } catch {
      throw error as? NetlinkError ?? NetlinkError("make", "TAP interface \(name)", code: EIO)
    }
  }

  /// In the calling thread's namespace.
  private static func makeTap(_ name: String, isMultiQueue: Bool) throws(NetlinkError) {
    let object = "TAP interface \(name)"
    guard LinkName.isValid(name) else {
      throw NetlinkError("make", object, code: EINVAL, kernelText: "a name has 1 to 15 bytes, no space, '/' or ':'")
    }
    // Opening one that is there would take it for ours.
    guard unsafe if_nametoindex(name) == 0 else { throw NetlinkError("make", object, code: EEXIST) }
    let raw = unsafe open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK)
    guard raw >= 0 else {
      let code = errno
      let isMissing = code == ENOENT || code == ENODEV || code == ENXIO
      throw NetlinkError(
        "open", "/dev/net/tun for \(object)", code: code,
        kernelText: isMissing ? "the module tun makes it: modprobe tun" : nil)
    }
    let queue = Descriptor(owning: raw)
    var request = unsafe ifreq()
    let flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | (isMultiQueue ? IFF_MULTI_QUEUE : 0)
    unsafe withUnsafeMutableBytes(of: &request) { bytes in
      unsafe bytes.copyBytes(from: name.utf8.prefix(15))
      unsafe bytes.storeBytes(of: UInt16(truncatingIfNeeded: flags), toByteOffset: 16, as: UInt16.self)
    }
    guard unsafe weft_ioctl_ptr(queue.raw, weft_TUNSETIFF, &request) == 0 else { throw NetlinkError("make", object) }
    // Not persistent before this: who is killed earlier leaves nothing.
    guard unsafe weft_ioctl_ptr(queue.raw, weft_TUNSETPERSIST, UnsafeMutableRawPointer(bitPattern: 1)) == 0 else {
      throw NetlinkError("make permanent", object)
    }
  }
}
