import CLinux
import Glibc
import WeftSystem
import WeftWire

/// An AF_XDP socket that only sends, by one queue of a kernel interface whose frames come in by AF_PACKET: the kernel takes
/// less than half the time for a frame that it takes for one of AF_PACKET's. No program is loaded, and nothing of the
/// interface is taken from anybody. One worker's own; always in copy mode, so that it goes with any driver.
@safe public struct XDPTransmitter: ~Copyable {
  private struct Rings: ~Copyable {
    let toSend: Mapping
    let completed: Mapping
  }

  private let socket: Descriptor
  private let mappings: Rings
  private let memory: XDPMemory
  var ring: XDPTransmitRing

  /// Whether frames of an interface with `mtu`, with Ethernet header and two tags, find room in a place.
  public static func fits(mtu: Int) -> Bool { mtu + Ethernet.bytes + 8 <= placeBytes }

  private static let placeBytes = 2048
  /// Of the ring that packets would be received into, which has to be there.
  private static let fillEntries: UInt32 = 64

  /// `frames`: a power of two; so many are on their way at most. Fails where another socket has the queue, and has not let
  /// it go after `patience` milliseconds.
  public init(
    device: String, kernelIndex: UInt32, queue: Int, frames: Int, patience: Int
  ) throws(SystemError) {
    let what = "queue \(queue) of \(device)"
    let flags = Int32(SOCK_RAW.rawValue) | Int32(SOCK_CLOEXEC.rawValue)
    let socket = try Descriptor(Glibc.socket(AF_XDP, flags, 0), "open an AF_XDP socket for", what)
    var room: Int32 = 32 << 20
    if unsafe setsockopt(socket.raw, SOL_SOCKET, SO_SNDBUFFORCE, &room, 4) != 0 {
      _ = unsafe setsockopt(socket.raw, SOL_SOCKET, SO_SNDBUF, &room, 4)
    }
    let layout = XDPLayout(mtu: 1500, largest: 0, shares: [XDPLayout.Share(receive: 0, send: frames)])
    let memory = try XDPMemory(layout, device: device)
    try memory.register(socket.raw, device: device)
    let size = UInt32(frames)
    try XDPSocket.set(socket.raw, SOL_XDP, XDP_UMEM_FILL_RING, Self.fillEntries, what)
    try XDPSocket.set(socket.raw, SOL_XDP, XDP_UMEM_COMPLETION_RING, size, what)
    try XDPSocket.set(socket.raw, SOL_XDP, XDP_TX_RING, size, what)
    var offsets = xdp_mmap_offsets()
    var bytes = socklen_t(MemoryLayout<xdp_mmap_offsets>.size)
    guard unsafe getsockopt(socket.raw, SOL_XDP, XDP_MMAP_OFFSETS, &offsets, &bytes) == 0,
      bytes == MemoryLayout<xdp_mmap_offsets>.size
    else { throw SystemError("learn the layout of the rings of", what) }
    let toSend = try XDPSocket.map(socket.raw, 0x8000_0000, offsets.tx, size, 16, what)
    let completed = try XDPSocket.map(socket.raw, 0x1_8000_0000, offsets.cr, size, 8, what)
    _ = try XDPSocket.bind(
      socket.raw, kernelIndex, UInt32(queue), nil, .always, usesFragments: false, patience: patience, what)
    ring = unsafe XDPTransmitRing(
      socket: socket.raw, memory: memory, firstFrame: 0, frames: frames, isZeroCopy: false,
      toSend: XDPRing(toSend.base, offsets: offsets.tx, size: size),
      completed: XDPRing(completed.base, offsets: offsets.cr, size: size))
    self.socket = socket
    self.memory = memory
    mappings = Rings(toSend: toSend, completed: completed)
  }
}
