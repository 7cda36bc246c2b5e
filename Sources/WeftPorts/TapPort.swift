import CLinux
import Glibc
import WeftSystem
import WeftWire

/// A TAP interface that the forwarder holds open: who uses it (a VM's network, a namespace that it was moved into) sees
/// a kernel interface. Frames carry virtio-net headers both ways, so that super-frames pass whole
/// (the kernel's tuntap.rst).
@safe public struct TapPort: ~Copyable, Receiver {
  public let interface: UInt32
  private let file: Descriptor
  /// The kernel takes UDP super-frames (6.2 and later).
  public let takesUDPSegmentation: Bool

  public var descriptor: Int32 { file.raw }

  /// Opens an interface, and makes it if there is none of that name; it goes with the last who has it open.
  public init(interface: UInt32, device: String) throws(SystemError) {
    let file = try Descriptor(
      unsafe open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK), "open", "/dev/net/tun for \(device)")
    var request = unsafe ifreq()
    let flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR
    unsafe withUnsafeMutableBytes(of: &request) { bytes in
      unsafe bytes.copyBytes(from: device.utf8.prefix(15))
      unsafe bytes.storeBytes(of: UInt16(truncatingIfNeeded: flags), toByteOffset: 16, as: UInt16.self)
    }
    guard unsafe weft_ioctl_ptr(file.raw, weft_TUNSETIFF, &request) == 0 else {
      throw SystemError("attach to the TAP interface", device)
    }
    var headerBytes = Int32(VirtioNetHeader.bytes)
    guard unsafe weft_ioctl_ptr(file.raw, weft_TUNSETVNETHDRSZ, &headerBytes) == 0 else {
      throw SystemError("set the virtio-net header of", device)
    }
    let offloads = UInt(TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN)
    let withUDP = offloads | UInt(weft_TUN_F_USO4 | weft_TUN_F_USO6)
    let takesUDPSegmentation = Self.offload(file.raw, withUDP)
    if !takesUDPSegmentation, !Self.offload(file.raw, offloads) {
      throw SystemError("set the offloads of", device)
    }
    self.interface = interface
    self.file = file
    self.takesUDPSegmentation = takesUDPSegmentation
  }

  private static func offload(_ descriptor: Int32, _ value: UInt) -> Bool {
    unsafe weft_ioctl_ptr(descriptor, weft_TUNSETOFFLOAD, UnsafeMutableRawPointer(bitPattern: value)) == 0
  }

  public mutating func receive(_ frames: inout RxFrames, _ large: borrowing LargeFrames) -> Int {
    while !frames.isFull {
      // The virtio-net header goes into the room before the frame.
      let at = unsafe large.place(frames.count) - VirtioNetHeader.bytes
      let room = large.bytes + VirtioNetHeader.bytes
      let count = unsafe read(file.raw, at, room)
      guard count > VirtioNetHeader.bytes, count < room else { break }
      frames.append(
        unsafe RxFrame(
          bytes: Bytes(at + VirtioNetHeader.bytes), length: count - VirtioNetHeader.bytes,
          virtio: VirtioNetHeader(reading: Bytes(at)), headroom: LargeFrames.headroom))
    }
    return 0
  }

  public mutating func release() {}
  public func clearError() {}

  /// Sends the frames of `tx` that are for `interface` through a TAP's descriptor, from any worker.
  public static func send(_ tx: TxFrames, interface: UInt32, descriptor: Int32) -> SendResult {
    var result = SendResult()
    var index = tx.head(interface)
    while index != TxFrames.none {
      let frame = tx.frame(index)
      index = frame.next
      if unsafe writev(descriptor, tx.vector(frame), Int32(frame.pieces)) >= 0 {
        result.packets &+= Int(frame.packets)
        result.bytes &+= Int(frame.length)
      } else if errno == EAGAIN || errno == ENOBUFS {
        result.full &+= Int(frame.packets)
      } else {
        result.failed &+= Int(frame.packets)
        result.code = errno
      }
    }
    return result
  }
}
