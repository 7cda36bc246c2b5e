import CLinux
import Glibc
import WeftSystem
import WeftWire

/// The sending half of an AF_XDP socket: frames are copied into places of the port's memory, which the kernel gives back
/// when it has sent them.
@safe struct XDPTransmitRing: ~Copyable {
  private let socket: Int32
  private let base: UnsafeMutableRawPointer
  private let bytes: Int
  private let frameBytes: Int
  private let usesFragments: Bool
  private let isZeroCopy: Bool
  private var toSend: XDPRing
  private var completed: XDPRing
  /// Free places to send from.
  private let free: UnsafeMutablePointer<UInt64>
  private var freeCount: Int
  /// How many places there are.
  let frames: Int

  /// `firstFrame`: where in the memory the places begin.
  init(
    socket: Int32, memory: XDPMemory, firstFrame: Int, frames: Int, isZeroCopy: Bool, toSend: XDPRing,
    completed: XDPRing
  ) {
    self.socket = socket
    unsafe base = memory.mapping.base
    bytes = memory.mapping.count
    frameBytes = memory.layout.frameBytes
    usesFragments = memory.layout.usesFragments
    self.isZeroCopy = isZeroCopy
    self.toSend = toSend
    self.completed = completed
    self.frames = frames
    freeCount = frames
    unsafe free = .allocate(capacity: max(1, frames))
    for number in 0..<frames { unsafe free[number] = UInt64(firstFrame + number * memory.layout.frameBytes) }
  }

  deinit { unsafe free.deallocate() }

  /// Takes places back from which the kernel has sent.
  mutating func reclaim() {
    let count = completed.available(UInt32(frames))
    guard count > 0 else { return }
    for number in 0..<count {
      let address = completed.address(completed.position &+ number)
      // Never more than there are, whatever the ring says.
      guard freeCount < frames else { break }
      unsafe free[freeCount] = address & ~UInt64(frameBytes &- 1)
      freeCount &+= 1
    }
    completed.take(count)
  }

  /// Sends the frames of `tx` that are for `interface`, this socket's or that of a VLAN on it.
  mutating func send(_ tx: TxFrames, interface: UInt32) -> SendResult {
    var result = SendResult()
    reclaim()
    var index = tx.head(interface)
    while index != TxFrames.none {
      let frame = tx.frame(index)
      index = frame.next
      // There is no header that would ask the kernel to finish something.
      guard frame.packets == 1, tx.virtio(frame).flags & VirtioNetHeader.needsChecksum == 0 else {
        result.failed &+= Int(frame.packets)
        continue
      }
      put(tx, frame, &result)
    }
    kick(&result)
    return result
  }

  /// It is one packet, and there is nothing to do to it but what `put` does: finish a checksum of TCP or UDP.
  @inline(__always) func takes(_ tx: TxFrames, _ frame: TxFrame) -> Bool {
    guard frame.packets == 1, Int(frame.length) <= frameBytes else { return false }
    let virtio = tx.virtio(frame)
    guard virtio.gso == VirtioNetHeader.gsoNone else { return false }
    return virtio.flags & VirtioNetHeader.needsChecksum == 0
      || virtio.checksumOffset == UInt16(UDP.checksum) || virtio.checksumOffset == UInt16(TCP.checksum)
  }

  /// Puts a frame of one packet into the ring; `kick` has it sent.
  @inline(__always) mutating func put(_ tx: TxFrames, _ frame: TxFrame, _ result: inout SendResult) {
    let length = Int(frame.length)
    let places = usesFragments ? max(1, (length &+ frameBytes &- 1) / frameBytes) : 1
    guard length <= places &* frameBytes, places <= Self.maximumPlaces else {
      result.failed &+= 1
      return
    }
    if freeCount < places || toSend.room(UInt32(places)) < UInt32(places) {
      kick(&result)
      reclaim()
      guard freeCount >= places, toSend.room(UInt32(places)) >= UInt32(places) else {
        result.full &+= 1
        return
      }
    }
    if places == 1 {
      freeCount &-= 1
      let address = unsafe free[freeCount]
      // Our own, but taken from a ring that the kernel writes.
      guard address &+ UInt64(frameBytes) <= UInt64(bytes) else { return }
      let place = unsafe base + Int(address)
      unsafe Self.copy(tx, frame, to: place)
      let virtio = tx.virtio(frame)
      if virtio.flags & VirtioNetHeader.needsChecksum != 0 { Self.finish(unsafe Bytes(place), length, virtio) }
      toSend.put(address: address, length: frame.length, options: 0)
    } else {
      putPieces(tx, frame, places)
    }
    result.packets &+= 1
    result.bytes &+= length
  }

  /// The field holds the pseudo-header's sum.
  private static func finish(_ at: Bytes, _ length: Int, _ virtio: VirtioNetHeader) {
    let start = Int(virtio.checksumStart)
    let place = start &+ Int(virtio.checksumOffset)
    guard place &+ 2 <= length else { return }
    let value = Checksum.finish(at.advanced(start).sum(0, count: length &- start))
    at.set16(place, value == 0 && virtio.checksumOffset == UInt16(UDP.checksum) ? 0xFFFF : value)
  }

  /// Calls in which the kernel takes nothing, before the rest waits for the next frames.
  private static let patience = 4

  /// MAX_SKB_FRAGS
  private static let maximumPlaces = 17

  @inline(__always)
  private static func copy(_ tx: TxFrames, _ frame: TxFrame, to destination: UnsafeMutableRawPointer) {
    let pieces = unsafe tx.vector(frame)
    var at = 0
    var skip = VirtioNetHeader.bytes
    for number in 0..<Int(frame.pieces) {
      let piece = unsafe pieces[number]
      guard let from = unsafe piece.iov_base else { continue }
      let count = unsafe piece.iov_len &- skip
      unsafe (destination + at).copyMemory(from: from + skip, byteCount: count)
      at &+= count
      skip = 0
    }
  }

  private mutating func putPieces(_ tx: TxFrames, _ frame: TxFrame, _ places: Int) {
    let gathered = tx.gathered(frame)
    for number in 0..<places {
      freeCount &-= 1
      let address = unsafe free[freeCount]
      let offset = number &* frameBytes
      let count = min(frameBytes, Int(frame.length) &- offset)
      if address &+ UInt64(frameBytes) <= UInt64(bytes) {
        gathered.copy(offset, count: count, to: unsafe Bytes(base + Int(address)))
      }
      toSend.put(
        address: address, length: UInt32(truncatingIfNeeded: count),
        options: number &+ 1 < places ? UInt32(XDP_PKT_CONTD) : 0)
    }
  }

  /// Has the kernel send what stands in the ring. In copy mode one call sends some 32 frames.
  mutating func kick(_ result: inout SendResult) {
    toSend.publish()
    var tries = 0
    var idle = 0
    while toSend.wantsWakeup, tries < 256 {
      let before = toSend.pending()
      guard before > 0 else { return }
      tries &+= 1
      let status = sendto(socket, nil, 0, Int32(MSG_DONTWAIT), nil, 0)
      let code = status < 0 ? errno : 0
      let sent = before &- toSend.pending()
      switch code {
      case 0:
        // Without copying, it is the driver's from here on.
        if isZeroCopy { return }
      case EBUSY:
        // The interface had no room for one, which is gone.
        result.full &+= 1
        result.packets = max(0, result.packets &- 1)
      case EAGAIN: break
      case ENOBUFS: if sent == 0 { return }
      default:
        result.failed &+= 1
        result.packets = max(0, result.packets &- 1)
        result.code = code
        return
      }
      // No memory for packets until some have left, perhaps.
      idle = sent == 0 ? idle &+ 1 : 0
      if sent == 0, code != EAGAIN || idle >= Self.patience { return }
    }
  }
}
