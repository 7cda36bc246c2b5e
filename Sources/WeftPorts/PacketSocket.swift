import CLinux
import Glibc
import WeftSystem
import WeftWire

/// What AF_PACKET sockets have in common (packet(7), the kernel's packet_mmap.rst).
enum PacketSocket {
  /// Of TPACKET_V2: the header's bytes, before which nothing stands in a frame of a ring.
  static let headerBytes = 32
  static let inUser: UInt32 = 1
  static let copied: UInt32 = 2
  static let losing: UInt32 = 4
  static let vlanValid: UInt32 = 0x10
  static let vlanTPIDValid: UInt32 = 0x40
  static let kernels: UInt32 = 0
  static let sendRequest: UInt32 = 1

  /// A raw socket that receives nothing yet, with virtio-net headers before each frame.
  static func open(_ what: String) throws(SystemError) -> Descriptor {
    let flags = Int32(SOCK_RAW.rawValue) | Int32(SOCK_CLOEXEC.rawValue) | Int32(SOCK_NONBLOCK.rawValue)
    let descriptor = try Descriptor(socket(AF_PACKET, flags, 0), "open a packet socket for", what)
    try set(descriptor.raw, PACKET_VNET_HDR, 1, what)
    return descriptor
  }

  static func set(_ descriptor: Int32, _ option: Int32, _ value: Int32, _ what: String) throws(SystemError) {
    var value = value
    guard unsafe setsockopt(descriptor, SOL_PACKET, option, &value, 4) == 0 else {
      throw SystemError("set option \(option) of the packet socket for", what)
    }
  }

  /// Makes a TPACKET_V2 ring of `slots` frames of `slotBytes` (a power of two) each and maps it.
  static func ring(
    _ descriptor: Int32, _ option: Int32, slots: Int, slotBytes: Int, _ what: String
  ) throws(SystemError) -> Mapping {
    // One frame after the other without gaps: blocks are a whole number of frames and of pages.
    let blockBytes = max(slotBytes, 1 << 16)
    var request = tpacket_req(
      tp_block_size: UInt32(blockBytes), tp_block_nr: UInt32(slots * slotBytes / blockBytes),
      tp_frame_size: UInt32(slotBytes), tp_frame_nr: UInt32(slots))
    guard unsafe setsockopt(descriptor, SOL_PACKET, option, &request, socklen_t(MemoryLayout<tpacket_req>.size)) == 0
    else { throw SystemError("make a ring of \(slots) frames of \(slotBytes) bytes for", what) }
    return try Mapping(descriptor: descriptor, bytes: slots * slotBytes, writable: true, what: "packet ring of \(what)")
  }

  static func address(_ index: UInt32, proto: Int32) -> sockaddr_ll {
    var address = sockaddr_ll()
    address.sll_family = UInt16(AF_PACKET)
    address.sll_protocol = UInt16(truncatingIfNeeded: proto).bigEndian
    address.sll_ifindex = Int32(bitPattern: index)
    return address
  }

  /// The ring's frame size for packets of an interface with `mtu`.
  static func slotBytes(mtu: Int) -> Int {
    // Ring header, socket address, virtio-net header, room before the frame, Ethernet with a tag.
    var bytes = 2048
    while bytes < mtu + 256 { bytes *= 2 }
    return bytes
  }
}

/// A kernel interface by name.
public enum KernelInterface {
  /// Its index; 0 if there is none of that name.
  public static func index(_ name: String) -> UInt32 { unsafe if_nametoindex(name) }
}

/// Frames to whatever MAC address come in by an interface for as long as this lives.
public struct Promiscuity: ~Copyable, Sendable {
  private let socket: Descriptor

  public init(kernelIndex: UInt32) throws(SystemError) {
    let flags = Int32(SOCK_RAW.rawValue) | Int32(SOCK_CLOEXEC.rawValue)
    let socket = try Descriptor(
      Glibc.socket(AF_PACKET, flags, 0), "open a packet socket for", "interface \(kernelIndex)")
    var request = packet_mreq()
    request.mr_ifindex = Int32(bitPattern: kernelIndex)
    request.mr_type = UInt16(PACKET_MR_PROMISC)
    let size = socklen_t(MemoryLayout<packet_mreq>.size)
    guard unsafe setsockopt(socket.raw, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &request, size) == 0 else {
      throw SystemError("receive frames to all MAC addresses from", "interface \(kernelIndex)")
    }
    self.socket = socket
  }
}

/// Memory for frames that are larger than a slot of a ring: as many as a batch has. A worker's own.
@safe public struct LargeFrames: ~Copyable {
  /// The longest frame: an IP packet of 64 KiB with its Ethernet header, and room for a tunnel's headers before it.
  static let stride = 66 << 10
  static let headroom = 128
  /// As many places for frames of ordinary size, one close to the other: they stay in the cache.
  static let smallStride = 2048
  static let smallBytes = smallStride - headroom
  private let memory: Mapping

  public init() throws(SystemError) {
    memory = try Mapping(anonymous: (Self.stride + Self.smallStride) * RxFrames.capacity, what: "large frames")
  }

  func smallPlace(_ index: Int) -> UnsafeMutableRawPointer {
    unsafe memory.base + Self.stride * RxFrames.capacity + index * Self.smallStride + Self.headroom
  }

  func place(_ index: Int) -> UnsafeMutableRawPointer { unsafe memory.base + index * Self.stride + Self.headroom }
  var bytes: Int { Self.stride - Self.headroom }
}

/// A source of frames: one interface, or one of its queues. One worker owns it.
public protocol Receiver: ~Copyable {
  /// The interface that its frames come in by, a number of the forwarder's.
  var interface: UInt32 { get }
  /// Readable when frames wait.
  var descriptor: Int32 { get }
  /// Adds frames that wait until there are no more or the batch is full. They stay valid until `release`.
  /// Returns how many packets the kernel had to drop before, for want of room.
  mutating func receive(_ frames: inout RxFrames, _ large: borrowing LargeFrames) -> Int
  /// Gives the memory of all frames of the batch back.
  mutating func release()
  /// Takes an error off the descriptor, so that it does not wake its poller for ever.
  func clearError()
}

extension Receiver where Self: ~Copyable {
  public func clearError() {
    var value: Int32 = 0
    var size = socklen_t(4)
    _ = unsafe getsockopt(descriptor, SOL_SOCKET, SO_ERROR, &value, &size)
  }
}

/// What became of frames that were to be sent.
public struct SendResult: Sendable {
  /// Packets on a wire, and bytes of frame.
  public var packets = 0
  public var bytes = 0
  /// Packets for which the kernel had no room.
  public var full = 0
  /// Packets that the kernel refused; the last reason.
  public var failed = 0
  public var code: Int32 = 0
  /// A UDP super-frame was refused as something the kernel does not know (EINVAL).
  public var refusedUDPSegmentation = false
}
