import CLinux
import WeftSystem
import WeftWire

/// Frames that one worker leaves to the agent, on their way to the control thread: one writer, one reader, neither waits for
/// the other. While nobody is there to take them, it is closed.
///
///     0     frames written     64    frames taken     128   1 while it is open
///     192   slots: interface 4, VRF 4, bytes of frame 4, frame
public final class TrapRing: @unchecked Sendable {
  /// Bytes of the longest frame.
  public static let maximumFrame = 2000
  static let slots: UInt64 = 64
  static let slotBytes = 2048
  static let first = 192
  static let headerBytes = 12

  private let memory: Mapping
  private var taken: UInt64 = 0

  public init() throws(SystemError) {
    memory = try Mapping(anonymous: Self.first + Int(Self.slots) * Self.slotBytes, what: "trapped frames")
  }

  /// The worker's end. Good for as long as this lives.
  public var writer: TrapWriter { unsafe TrapWriter(base: memory.base) }

  /// Whether there is somebody who takes frames.
  public func setOpen(_ isOpen: Bool) { unsafe weft_store_release_u64(memory.base + 128, isOpen ? 1 : 0) }

  public var isEmpty: Bool { unsafe weft_load_acquire_u64(memory.base) == taken }

  /// The next frame; nil when none waits.
  public func next() -> (interface: UInt32, vrf: UInt32, frame: [UInt8])? {
    guard !isEmpty else { return nil }
    let slot = unsafe memory.base + Self.first + Int(taken & (Self.slots - 1)) * Self.slotBytes
    let interface = unsafe slot.load(as: UInt32.self)
    let vrf = unsafe slot.load(fromByteOffset: 4, as: UInt32.self)
    let count = min(Int(unsafe slot.load(fromByteOffset: 8, as: UInt32.self)), Self.maximumFrame)
    let frame = unsafe [UInt8](UnsafeRawBufferPointer(start: slot + Self.headerBytes, count: count))
    taken &+= 1
    unsafe weft_store_release_u64(memory.base + 64, taken)
    return (interface, vrf, frame)
  }
}

/// A worker's end of a `TrapRing`.
@safe public struct TrapWriter: @unchecked Sendable {
  private let base: UnsafeMutableRawPointer

  init(base: UnsafeMutableRawPointer) { unsafe self.base = unsafe base }

  /// Somebody takes frames.
  public var isOpen: Bool { unsafe weft_load_relaxed_u64(base + 128) != 0 }

  /// Copies a frame of at most `TrapRing.maximumFrame` bytes; false when there is no room.
  public func write(_ frame: Bytes, count: Int, interface: UInt32, vrf: UInt32) -> Bool {
    let written = unsafe weft_load_relaxed_u64(base)
    guard count <= TrapRing.maximumFrame, written &- (unsafe weft_load_acquire_u64(base + 64)) < TrapRing.slots else {
      return false
    }
    let slot = unsafe base + TrapRing.first + Int(written & (TrapRing.slots - 1)) &* TrapRing.slotBytes
    unsafe slot.storeBytes(of: interface, as: UInt32.self)
    unsafe slot.storeBytes(of: vrf, toByteOffset: 4, as: UInt32.self)
    unsafe slot.storeBytes(of: UInt32(truncatingIfNeeded: count), toByteOffset: 8, as: UInt32.self)
    unsafe (slot + TrapRing.headerBytes).copyMemory(from: frame.pointer, byteCount: count)
    unsafe weft_store_release_u64(base, written &+ 1)
    return true
  }
}
