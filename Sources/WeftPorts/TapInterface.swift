import CLinux
import Glibc
import WeftSystem
import WeftWire

/// A TAP interface of the kernel's (tuntap.rst): opening queues of it, and what can be asked of it later, from whatever
/// network namespace. A queue keeps the namespace that it was opened in alive.
public final class TapInterface: Sendable {
  /// In the namespace that it was opened in.
  public let index: UInt32
  /// The kernel takes UDP super-frames (6.2 and later).
  public let takesUDPSegmentation: Bool
  /// A socket in its namespace, by which it can be asked for.
  private let socket: Descriptor

  private init(index: UInt32, takesUDPSegmentation: Bool, socket: consuming Descriptor) {
    self.index = index
    self.takesUDPSegmentation = takesUDPSegmentation
    self.socket = socket
  }

  /// What is known of an interface before it is opened.
  public struct Presence: Hashable, Sendable {
    public var index: UInt32
    public var isMultiQueue: Bool

    public init(index: UInt32, isMultiQueue: Bool) {
      self.index = index
      self.isMultiQueue = isMultiQueue
    }
  }

  private static let device = "/dev/net/tun"

  /// Opens queues of an interface in the calling thread's network namespace; they are the caller's to close. `there`:
  /// what is there; nil: nothing is, and it is made, to go with the last of its queues.
  public static func open(
    _ name: String, queues count: Int, there: Presence?
  ) throws(SystemError) -> (interface: TapInterface, queues: [Int32]) {
    let isMultiQueue = there?.isMultiQueue ?? (count > 1)
    guard isMultiQueue || count <= 1 else {
      throw SystemError(
        "open \(count) queues of", name, code: EINVAL,
        advice: "it was made with a single one: set queues to 1, or make it anew with IFF_MULTI_QUEUE "
          + "(ip tuntap add … multi_queue)")
    }
    var queues: [Int32] = []
    do throws(SystemError) {
      for _ in 0..<max(1, count) { queues.append(try openQueue(name, isMultiQueue: isMultiQueue)) }
      let socket = try Descriptor(
        Glibc.socket(AF_INET, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0), "open",
        "a socket for \(name)")
      let index = KernelInterface.index(name)
      // Who removed it meanwhile has had another one of the name made, which goes with these queues.
      guard index != 0, there == nil || there?.index == index else {
        throw SystemError("open", name, code: ENODEV, advice: "it was removed at that moment")
      }
      let takesUDPSegmentation = try setOffloads(queues[0], name)
      return (TapInterface(index: index, takesUDPSegmentation: takesUDPSegmentation, socket: socket), queues)
    } catch {
      for queue in queues { _ = close(queue) }
      throw error
    }
  }

  private static func openQueue(_ name: String, isMultiQueue: Bool) throws(SystemError) -> Int32 {
    let raw = unsafe Glibc.open(device, O_RDWR | O_CLOEXEC | O_NONBLOCK)
    guard raw >= 0 else {
      let code = errno
      let isMissing = [ENOENT, ENODEV, ENXIO].contains(code)
      throw SystemError(
        "open", "\(device) for \(name)", code: code,
        advice: isMissing
          ? "the kernel's tun module makes it (modprobe tun); a container needs the device given to it"
          : code == EACCES || code == EPERM ? "it takes root, and in a container the device allowed to it" : nil)
    }
    var request = unsafe ifreq()
    let flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | (isMultiQueue ? IFF_MULTI_QUEUE : 0)
    unsafe withUnsafeMutableBytes(of: &request) { bytes in
      unsafe bytes.copyBytes(from: name.utf8.prefix(15))
      unsafe bytes.storeBytes(of: UInt16(truncatingIfNeeded: flags), toByteOffset: 16, as: UInt16.self)
    }
    var headerBytes = Int32(VirtioNetHeader.bytes)
    guard unsafe weft_ioctl_ptr(raw, weft_TUNSETIFF, &request) == 0,
      unsafe weft_ioctl_ptr(raw, weft_TUNSETVNETHDRSZ, &headerBytes) == 0
    else {
      let code = errno
      _ = close(raw)
      throw SystemError("attach to the TAP interface", name, code: code, advice: advice(code))
    }
    return raw
  }

  private static func advice(_ code: Int32) -> String? {
    switch code {
    case EBUSY: "another process has it open, and it has a single queue: end that process, or use another name"
    case EINVAL:
      "an interface of that name is there and is no TAP, or a TAP of another kind: remove it, or use another name"
    case E2BIG: "all of the queues that the kernel allows are taken"
    case EPERM: "it takes root or CAP_NET_ADMIN in the interface's network namespace"
    default: nil
    }
  }

  /// True where the kernel takes UDP super-frames.
  private static func setOffloads(_ queue: Int32, _ name: String) throws(SystemError) -> Bool {
    let offloads = UInt(TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN)
    if offload(queue, offloads | UInt(weft_TUN_F_USO4 | weft_TUN_F_USO6)) { return true }
    guard offload(queue, offloads) else { throw SystemError("set the offloads of", name) }
    return false
  }

  private static func offload(_ queue: Int32, _ value: UInt) -> Bool {
    unsafe weft_ioctl_ptr(queue, weft_TUNSETOFFLOAD, UnsafeMutableRawPointer(bitPattern: value)) == 0
  }

  /// Has the kernel choose among the queues of an interface by a program (`TapSteering`), or with nil as it does by
  /// itself: that by which a flow's packets were last sent. From any thread, by any of the queues.
  public static func steer(queue: Int32, by code: [bpf_insn]?) throws(SystemError) {
    var program: Int32 = -1
    if let code {
      program = unsafe weft_load_socket_program(code, Int32(code.count), nil, 0)
      guard program >= 0 else { throw SystemError("load", "a program that chooses queues") }
    }
    let status = unsafe weft_ioctl_ptr(queue, weft_TUNSETSTEERINGEBPF, &program)
    let errorCode = errno
    if program >= 0 { _ = close(program) }
    guard status == 0 else { throw SystemError("attach", "a program that chooses queues", code: errorCode) }
  }

  static func isGone(queue: Int32) -> Bool {
    var request = unsafe ifreq()
    return unsafe weft_ioctl_ptr(queue, weft_TUNGETIFF, &request) != 0
  }

  /// Whether it is up and has a carrier; nil: it is there no more. Whatever its name is by now.
  public var isUp: Bool? {
    var request = unsafe ifreq()
    unsafe request.ifr_ifru.ifru_ivalue = Int32(bitPattern: index)
    guard unsafe weft_ioctl_ptr(socket.raw, UInt(SIOCGIFNAME), &request) == 0,
      unsafe weft_ioctl_ptr(socket.raw, UInt(SIOCGIFFLAGS), &request) == 0
    else { return nil }
    let wanted = Int16(truncatingIfNeeded: IFF_UP | IFF_RUNNING)
    return unsafe request.ifr_ifru.ifru_flags & wanted == wanted
  }
}
