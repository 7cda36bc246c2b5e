import CLinux
import Glibc
import WeftSystem

/// The kernel runs an XDP program before or after it has made its own of a packet.
public enum XDPMode: Hashable, Sendable {
  /// In the driver.
  case native
  /// In the kernel's stack (generic XDP), for drivers that cannot.
  case skb

  public var name: String { self == .native ? "native" : "skb" }
}

/// What an af_xdp port has in the kernel beside its sockets: a program at the interface, which a BPF link holds there
/// (kernel 5.9), and the map of sockets. Both go with this, also when the process is killed.
public struct XDPProgram: ~Copyable, Sendable {
  public let mode: XDPMode
  private let map: Descriptor
  private let link: Descriptor
  private let device: String
  private let takesFragments: Bool

  /// Puts a program onto an interface.
  public init(
    device: String, kernelIndex: UInt32, queues: Int, selection: XDPSelection, takesFragments: Bool, mode: XDPMode
  ) throws(SystemError) {
    let map = try Descriptor(weft_make_xskmap(UInt32(queues)), "make a map of AF_XDP sockets for", device)
    let program = try Self.load(selection, map: map.raw, takesFragments: takesFragments, device)
    // XDP_FLAGS_DRV_MODE, XDP_FLAGS_SKB_MODE
    let link = weft_attach_xdp(program.raw, kernelIndex, mode == .native ? 4 : 2)
    guard link >= 0 else {
      let code = errno
      let isTaken = code == EBUSY || code == EEXIST
      let hint = isTaken ? ", which has another one; take that off (ip link set dev \(device) xdp off)" : ""
      throw SystemError("attach an XDP program in \(mode.name) mode to", device + hint, code: code)
    }
    self.mode = mode
    self.map = map
    self.link = Descriptor(owning: link)
    self.device = device
    self.takesFragments = takesFragments
  }

  static func load(
    _ selection: XDPSelection, map: Int32, takesFragments: Bool, _ device: String
  ) throws(SystemError) -> Descriptor {
    let code = XDPFilter.program(selection, map: map)
    let program = unsafe weft_load_xdp(code, Int32(code.count), takesFragments, nil, 0)
    if program >= 0 { return Descriptor(owning: program) }
    // Once more, for the verifier's words.
    let reason = errno
    var log = [CChar](repeating: 0, count: 1 << 16)
    let again = unsafe weft_load_xdp(code, Int32(code.count), takesFragments, &log, UInt32(log.count))
    if again >= 0 { return Descriptor(owning: again) }
    let words = String(decoding: log.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    let last = words.split(separator: "\n").suffix(4).joined(separator: "; ")
    throw SystemError(
      "load an XDP program for", last.isEmpty ? device : "\(device) (the verifier: \(last))", code: reason)
  }

  /// What the program redirects from a queue goes to this socket from now on.
  public func connect(queue: UInt32, socket: Int32) throws(SystemError) {
    guard weft_map_set(map.raw, queue, socket) == 0 else {
      throw SystemError("redirect packets to the AF_XDP socket of", "queue \(queue) of \(device)")
    }
  }

  /// Takes something else from now on; no packet is lost between.
  public func select(_ selection: XDPSelection) throws(SystemError) {
    let program = try Self.load(selection, map: map.raw, takesFragments: takesFragments, device)
    guard weft_replace_program(link.raw, program.raw) == 0 else {
      throw SystemError("replace the XDP program of", device)
    }
  }
}
