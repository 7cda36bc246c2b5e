import CLinux

/// A frame in the pieces that `TxFrames` keeps it in, the first of which begins with its virtio-net header. Offsets are
/// those of the frame, without that header. Good until the frames are reset.
@safe public struct GatheredFrame {
  private let vector: UnsafeMutablePointer<iovec>
  public let pieces: Int
  /// Bytes of frame.
  public let length: Int

  init(_ vector: UnsafeMutablePointer<iovec>, pieces: Int, length: Int) {
    unsafe self.vector = unsafe vector
    self.pieces = pieces
    self.length = length
  }

  /// Calls `body` with each run of memory of `count` bytes from `offset` on, as far as the frame goes.
  @inline(__always) func each(_ offset: Int, _ count: Int, _ body: (Bytes, Int) -> Void) {
    var skip = offset &+ VirtioNetHeader.bytes
    var left = min(count, length &- offset)
    var index = 0
    while left > 0, index < pieces {
      let piece = unsafe vector[index]
      index &+= 1
      let size = unsafe piece.iov_len
      guard skip < size, let base = unsafe piece.iov_base else {
        skip &-= size
        continue
      }
      let bytes = min(left, size &- skip)
      unsafe body(Bytes(base + skip), bytes)
      left &-= bytes
      skip = 0
    }
  }

  /// Copies `count` bytes from `offset` on; all of them are within the frame.
  public func copy(_ offset: Int, count: Int, to destination: Bytes) {
    var at = 0
    each(offset, count) { bytes, run in
      destination.advanced(at).copy(from: bytes, count: run)
      at &+= run
    }
  }

  /// One's complement sum of `count` bytes from `offset` on, in the machine's order (`Checksum`). `isOdd`: an odd number
  /// of bytes has been summed before these.
  public func sum(_ offset: Int, count: Int, isOdd: Bool = false) -> UInt64 {
    var total: UInt64 = 0
    var odd = isOdd
    each(offset, count) { bytes, run in
      let part = Checksum.fold(bytes.sum(0, count: run))
      // A run that begins at an odd place has each byte in the other half of its word.
      total &+= UInt64(odd ? part.byteSwapped : part)
      if run & 1 != 0 { odd.toggle() }
    }
    return total
  }

  public var virtio: VirtioNetHeader {
    guard pieces > 0, let base = unsafe vector[0].iov_base else { return VirtioNetHeader() }
    return unsafe VirtioNetHeader(reading: Bytes(base))
  }
}

extension TxFrames {
  /// Frames so far.
  @inlinable @inline(__always) public var count: Int { frameCount }

  /// A frame that has been finished.
  public func gathered(_ frame: TxFrame) -> GatheredFrame {
    unsafe GatheredFrame(pieces + Int(frame.firstPiece), pieces: Int(frame.pieces), length: Int(frame.length))
  }

  /// What has been put together since `mark` and is not finished.
  public func gathered(from mark: Int, length: Int) -> GatheredFrame {
    unsafe GatheredFrame(pieces + mark, pieces: pieceCount &- mark, length: length)
  }

  /// Room for a copy of `pieces` pieces and `bytes` of headers is there, and as much again for what is no copy.
  public func hasRoomForCopy(pieces: Int, bytes: Int) -> Bool {
    frameCount < Self.frameCapacity / 2 && pieceCount &+ pieces <= firstOther &+ Self.otherCapacity / 4
      && arenaUsed &+ bytes <= Self.arenaBytes / 2
  }

  /// Adds `count` bytes of a frame from `offset` on, in the memory where they are.
  public mutating func share(_ frame: GatheredFrame, from offset: Int, count: Int) {
    var total = pieceCount
    let pieces = unsafe pieces
    frame.each(offset, count) { bytes, run in
      unsafe pieces[total] = iovec(iov_base: bytes.pointer, iov_len: run)
      total &+= 1
    }
    pieceCount = total
  }
}
