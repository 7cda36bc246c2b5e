import CLinux
import Glibc
import WeftSystem

/// How the memory of an af_xdp port is divided: frames of one size, for each queue those that the kernel receives into,
/// then those that are sent from.
public struct XDPLayout: Hashable, Sendable {
  /// XDP_PACKET_HEADROOM: the kernel leaves so many bytes before what it receives.
  static let headroom = 256
  /// struct skb_shared_info: what drivers, and a veth, leave behind it in a page of their own.
  static let tailroom = 320

  public struct Share: Hashable, Sendable {
    /// Powers of two; `send` may be 0.
    public var receive: Int
    public var send: Int

    public init(receive: Int, send: Int) {
      self.receive = receive
      self.send = send
    }
  }

  /// Bytes of a frame's place: 2,048 or 4,096.
  public let frameBytes: Int
  /// Frames of the port's MTU, or of what else comes, are in several places each.
  public let usesFragments: Bool
  public let shares: [Share]

  /// For frames of `mtu` with Ethernet header and two tags. `largest`: bytes of the longest frame there may be beyond.
  public init(mtu: Int, largest: Int, shares: [Share]) {
    let longest = max(mtu + 14 + 8, largest)
    frameBytes = longest + Self.headroom <= 2048 ? 2048 : 4096
    usesFragments = longest + Self.headroom + Self.tailroom > 4096
    self.shares = shares
  }

  /// Bytes before the frames of a queue.
  public func offset(_ queue: Int) -> Int {
    shares.prefix(queue).reduce(0) { $0 + $1.receive + $1.send } * frameBytes
  }

  public var bytes: Int { offset(shares.count) }
}

/// The memory of a port's frames (UMEM), which its sockets share. Alive as long as one of them.
public final class XDPMemory: Sendable {
  public let layout: XDPLayout
  let mapping: Mapping

  public init(_ layout: XDPLayout, device: String) throws(SystemError) {
    self.layout = layout
    mapping = try Mapping(anonymous: layout.bytes, what: "frames of \(device)")
    mapping.preferHugePages()
  }

  /// The memory of a queue's frames, to say where it should be; nobody uses it yet.
  @unsafe public func region(_ queue: Int) -> UnsafeMutableRawBufferPointer {
    let start = layout.offset(queue)
    return unsafe UnsafeMutableRawBufferPointer(
      start: mapping.base + start, count: layout.offset(queue + 1) - start)
  }

  /// Tells a socket's kernel of the memory: the first of a port's.
  func register(_ socket: Int32, device: String) throws(SystemError) {
    var registration = xdp_umem_reg()
    registration.addr = unsafe UInt64(UInt(bitPattern: mapping.base))
    registration.len = UInt64(mapping.count)
    registration.chunk_size = UInt32(layout.frameBytes)
    let size = socklen_t(MemoryLayout<xdp_umem_reg>.size)
    guard unsafe setsockopt(socket, SOL_XDP, XDP_UMEM_REG, &registration, size) == 0 else {
      throw SystemError("register \(mapping.count >> 10) KiB for frames of", device)
    }
  }
}
