import CLinux

/// `TxFrames` while one frame after the other is added to it: what that needs, in registers. Room was asked for before
/// (`TxFrames.hasRoom(frames:bytes:)`), and what it adds counts when it has been taken (`TxFrames.take`).
@safe @frozen public struct TxWriter {
  @usableFromInline let slots: UnsafeMutableRawPointer
  @usableFromInline let tails: UnsafeMutablePointer<UInt32>
  /// The next frame's number.
  @usableFromInline var number: Int

  @inlinable @inline(__always) public init(_ tx: borrowing TxFrames) {
    unsafe slots = tx.slots
    unsafe tails = tx.tails
    number = tx.frameCount &* TxFrames.slotBytes
  }

  /// A frame of one piece: virtio-net header, headers and packet, `bytes` in all. True: the first one of its interface,
  /// about which `TxFrames.touched` is to be told.
  @inlinable @inline(__always)
  public mutating func send(_ start: Bytes, _ bytes: Int, interface: UInt32) -> Bool {
    let slot = unsafe slots + number
    unsafe slot.storeBytes(of: iovec(iov_base: start.pointer, iov_len: bytes), as: iovec.self)
    return unsafe link(slot, pieces: 1, bytes &- VirtioNetHeader.bytes, interface)
  }

  /// The same of two pieces: headers, virtio-net first, and a packet as it was received.
  @inlinable @inline(__always)
  public mutating func send(
    _ head: Bytes, _ headBytes: Int, _ packet: Bytes, _ bytes: Int, interface: UInt32
  ) -> Bool {
    let slot = unsafe slots + number
    unsafe slot.storeBytes(of: iovec(iov_base: head.pointer, iov_len: headBytes), as: iovec.self)
    unsafe slot.storeBytes(of: iovec(iov_base: packet.pointer, iov_len: bytes), toByteOffset: 16, as: iovec.self)
    return unsafe link(slot, pieces: 2, headBytes &- VirtioNetHeader.bytes &+ bytes, interface)
  }

  @inlinable @inline(__always)
  mutating func link(_ slot: UnsafeMutableRawPointer, pieces: UInt16, _ length: Int, _ interface: UInt32) -> Bool {
    // The frame's first piece is that of its slot already.
    let frame = unsafe (slot + TxFrames.frameOffset).assumingMemoryBound(to: TxFrame.self)
    unsafe frame.pointee.pieces = pieces
    unsafe frame.pointee.packets = 1
    unsafe frame.pointee.length = UInt32(truncatingIfNeeded: length)
    unsafe frame.pointee.next = TxFrames.none
    let last = unsafe tails[Int(interface)]
    let before = unsafe (slots + (Int(last) &+ TxFrames.frameOffset)).assumingMemoryBound(to: TxFrame.self)
    unsafe before.pointee.next = UInt32(truncatingIfNeeded: number)
    unsafe tails[Int(interface)] = UInt32(truncatingIfNeeded: number)
    number &+= TxFrames.slotBytes
    return last >= TxFrames.number(TxFrames.frameCapacity)
  }
}

extension TxFrames {
  /// Takes what a writer has added.
  @inlinable @inline(__always) public mutating func take(_ writer: TxWriter) {
    frameCount = writer.number / Self.slotBytes
  }

  /// A writer has added the first frame of an interface.
  @inlinable @inline(__always) public mutating func began(_ interface: UInt32) { touch(interface) }
}
