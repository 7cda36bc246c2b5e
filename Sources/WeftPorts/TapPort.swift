import CLinux
import Glibc
import WeftSystem
import WeftWire

/// A queue of a TAP interface. Frames carry virtio-net headers both ways, so that super-frames pass whole (the kernel's
/// tuntap.rst). A worker's own for receiving; anyone may send by it.
@safe public struct TapPort: ~Copyable, Receiver {
  public let interface: UInt32
  private let file: Descriptor

  public var descriptor: Int32 { file.raw }

  /// Takes a queue of `TapInterface.open`'s over.
  public init(interface: UInt32, queue: Int32) {
    self.interface = interface
    file = Descriptor(owning: queue)
  }

  /// The kernel's interface has been deleted: the descriptor is of no use any more and only ever says so.
  public var isGone: Bool { TapInterface.isGone(queue: file.raw) }

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

  /// Sends the frames of `tx` that are for `interface` through a queue's descriptor, from any worker.
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
