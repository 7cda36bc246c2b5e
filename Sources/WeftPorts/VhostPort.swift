import CLinux
import Glibc
import WeftSystem
import WeftWire

/// A queue that a guest sends by. A worker's own.
@safe public struct VhostReceiver: ~Copyable, Receiver {
  public let interface: UInt32
  private let ring: UnsafeMutablePointer<VhostRing>
  /// The eventfd that the guest notifies by; the device's.
  public let descriptor: Int32

  init(interface: UInt32, ring: UnsafeMutablePointer<VhostRing>, kick: Int32) {
    self.interface = interface
    unsafe self.ring = unsafe ring
    descriptor = kick
  }

  public mutating func receive(_ frames: inout RxFrames, _ large: borrowing LargeFrames) -> Int {
    unsafe ring.pointee.receive(&frames, large)
    return 0
  }

  public mutating func release() {}

  public func clearError() {}

  /// Forgets notifications so far.
  public func drain() { weft_drain_foreign_event(descriptor) }

  /// Asks for notifications; false: frames have come meanwhile.
  public mutating func arm() -> Bool { unsafe ring.pointee.arm() }
}

extension VhostRing {
  /// Copies frames that the guest sends out of its memory, and gives their buffers back.
  mutating func receive(_ frames: inout RxFrames, _ large: borrowing LargeFrames) {
    var left = waiting()
    guard left > 0 else { return }
    disarm()
    while left > 0, !frames.isFull {
      let head = head(0)
      forgetPieces()
      let total = collect(head, writable: false)
      guard total >= headerBytes else {
        if total >= 0 { stop(.header) }
        break
      }
      let length = total &- headerBytes
      guard length <= large.bytes else {
        stop(.length)
        break
      }
      let place =
        unsafe length <= LargeFrames.smallBytes
        ? large.smallPlace(frames.count) : large.place(frames.count)
      // The virtio-net header goes into the room before the frame.
      let at = unsafe place - headerBytes
      var offset = 0
      for index in 0..<pieceCount {
        let piece = unsafe pieces[index]
        if let base = unsafe piece.iov_base { unsafe memcpy(at + offset, base, piece.iov_len) }
        unsafe offset &+= piece.iov_len
      }
      var virtio = unsafe VirtioNetHeader(reading: Bytes(at))
      virtio.flags &= VirtioNetHeader.needsChecksum
      frames.append(
        unsafe RxFrame(bytes: Bytes(place), length: length, virtio: virtio, headroom: LargeFrames.headroom))
      giveBack(head, written: 0)
      left &-= 1
    }
    tell()
  }
}

/// What a worker sends to a guest by: queues of its own, or one that it shares with other workers. Nothing that would have
/// to be retained; the device keeps it until workers have let go of it.
@safe public struct VhostSender: @unchecked Sendable {
  private let rings: UnsafeMutablePointer<UnsafeMutablePointer<VhostRing>>?
  private let count: Int
  private let isShared: Bool

  /// Sends nothing: nobody is there.
  public init() {
    unsafe rings = nil
    count = 0
    isShared = false
  }

  init(_ rings: UnsafeMutablePointer<UnsafeMutablePointer<VhostRing>>, count: Int, isShared: Bool) {
    unsafe self.rings = unsafe rings
    self.count = count
    self.isShared = isShared
  }

  /// Copies the frames of `tx` that are for `interface` into the guest's buffers.
  public func send(_ tx: TxFrames, interface: UInt32) -> SendResult {
    var result = SendResult()
    var index = tx.head(interface)
    guard let rings = unsafe rings, count > 0 else {
      while index != TxFrames.none {
        let frame = tx.frame(index)
        index = frame.next
        result.failed &+= Int(frame.packets)
        result.code = ENOTCONN
      }
      return result
    }
    if isShared { unsafe rings[0].pointee.cell.lock() }
    while index != TxFrames.none {
      let frame = tx.frame(index)
      index = frame.next
      let ring = unsafe count == 1 ? rings[0] : rings[queue(tx, frame)]
      switch unsafe ring.pointee.put(tx, frame) {
      case .sent:
        result.packets &+= Int(frame.packets)
        result.bytes &+= Int(frame.length)
      case .full: result.full &+= Int(frame.packets)
      case .refused:
        result.failed &+= Int(frame.packets)
        result.code = EMSGSIZE
      }
    }
    for number in 0..<count { unsafe rings[number].pointee.tell() }
    if isShared { unsafe rings[0].pointee.cell.unlock() }
    return result
  }

  /// Packets of a flow by one queue: a hash of its addresses and ports.
  private func queue(_ tx: TxFrames, _ frame: TxFrame) -> Int {
    var start: (UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64) = (0, 0, 0, 0, 0, 0, 0, 0)
    let hash = unsafe withUnsafeMutableBytes(of: &start) { bytes -> UInt32 in
      guard let base = bytes.baseAddress else { return 0 }
      let at = unsafe Bytes(base)
      tx.gathered(frame).copy(0, count: 58, to: at)
      if at.u16(Ethernet.type) == Ethernet.ipv6 {
        let ports = [IPProtocol.tcp, IPProtocol.udp].contains(at.u8(20)) ? at.u32(54) : 0
        var hash = weft_hash_u64(ports, at.raw64(22))
        hash = weft_hash_u64(hash, at.raw64(30))
        hash = weft_hash_u64(hash, at.raw64(38))
        return weft_hash_u64(hash, at.raw64(46))
      }
      guard at.u16(Ethernet.type) == Ethernet.ipv4 else { return 0 }
      let isWhole = at.u8(14) == 0x45 && at.u16(20) & 0x3FFF == 0
      let hasPorts = isWhole && (at.u8(23) == IPProtocol.tcp || at.u8(23) == IPProtocol.udp)
      return weft_hash_u64(hasPorts ? at.u32(34) : 0, at.raw64(26))
    }
    return Int(hash % UInt32(truncatingIfNeeded: count))
  }
}

extension VhostRing {
  enum Outcome { case sent, full, refused }

  /// Copies a frame into the next buffers. Of a frame that does not fit nothing is taken.
  mutating func put(_ tx: TxFrames, _ frame: TxFrame) -> Outcome {
    let vector = unsafe tx.vector(frame)
    guard frame.pieces > 0, let first = unsafe vector[0].iov_base else { return .refused }
    let virtio = unsafe VirtioNetHeader(reading: Bytes(first))
    // What the packet path made before the guest said that it takes no such frames.
    guard virtio.gso == VirtioNetHeader.gsoNone || features.takesSuperFrames,
      virtio.flags & VirtioNetHeader.needsChecksum == 0 || features.contains(.guestChecksum),
      virtio.gso != VirtioNetHeader.gsoUDP || features.takesUDPSegmentation
    else { return .refused }
    let total = headerBytes &+ Int(frame.length)
    let isMergeable = features.contains(.mergeable)
    let limit = min(waiting(), isMergeable ? Self.pieceLimit : 1)
    var room = 0
    var count = 0
    forgetPieces()
    while room < total {
      guard count < limit else { return isMergeable || limit == 0 ? .full : .refused }
      let head = head(count)
      let bytes = collect(head, writable: true)
      guard bytes >= 0 else { return .full }
      unsafe chains[count] = (head, bytes)
      room &+= bytes
      count &+= 1
    }
    unsafe fill(virtio, buffers: count, vector, Int(frame.pieces))
    var left = total
    for index in 0..<count {
      let chain = unsafe chains[index]
      giveBack(chain.head, written: min(chain.bytes, left))
      left &-= chain.bytes
    }
    return .sent
  }

  /// Writes a frame over the pieces that have been collected, which have room for it.
  private func fill(_ virtio: VirtioNetHeader, buffers: Int, _ vector: UnsafeMutablePointer<iovec>, _ count: Int) {
    var to = 0
    var offset = 0
    var header: (UInt64, UInt64) = (0, 0)
    unsafe withUnsafeMutableBytes(of: &header) { bytes in
      guard let base = bytes.baseAddress else { return }
      virtio.write(unsafe Bytes(base))
      unsafe bytes.storeBytes(of: UInt16(truncatingIfNeeded: buffers), toByteOffset: 10, as: UInt16.self)
      unsafe copy(base, headerBytes, &to, &offset)
    }
    for index in 0..<count {
      // The first begins with the header in the kernel's form.
      let skip = index == 0 ? VirtioNetHeader.bytes : 0
      let piece = unsafe vector[index]
      if let base = unsafe piece.iov_base { unsafe copy(base + skip, piece.iov_len - skip, &to, &offset) }
    }
  }

  @inline(__always) private func copy(_ from: UnsafeRawPointer, _ bytes: Int, _ to: inout Int, _ offset: inout Int) {
    var taken = 0
    while taken < bytes, to < pieceCount {
      let piece = unsafe pieces[to]
      let run = unsafe min(bytes &- taken, piece.iov_len &- offset)
      if let base = unsafe piece.iov_base { unsafe memcpy(base + offset, from + taken, run) }
      taken &+= run
      offset &+= run
      if unsafe offset == piece.iov_len {
        to &+= 1
        offset = 0
      }
    }
  }
}
