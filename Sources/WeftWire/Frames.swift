import CLinux

/// A frame as a port received it. The memory is the port's and is given back after the batch; it may be written to.
@safe @frozen public struct RxFrame {
  public var bytes: Bytes
  /// Bytes of frame.
  public var length: Int
  public var virtio: VirtioNetHeader
  /// Priority and drop eligibility of the outermost tag that has been taken off, as `Ethernet.priority` gives them;
  /// `untagged` where there was none.
  public var priority = RxFrame.untagged
  /// Bytes before the frame that belong to it too and hold nothing: headers may be written there.
  public var headroom: UInt16

  /// Where its virtio-net header stands.
  public static var virtioOffset: Int { @inlinable @inline(__always) get { 16 } }
  public static var untagged: UInt8 { @inlinable @inline(__always) get { 0xFF } }

  @inlinable @inline(__always)
  public init(bytes: Bytes, length: Int, virtio: VirtioNetHeader, headroom: Int = 0) {
    self.bytes = bytes
    self.length = length
    self.virtio = virtio
    self.headroom = UInt16(truncatingIfNeeded: headroom)
  }
}

/// The frames of one batch of one port.
@safe @frozen public struct RxFrames {
  public static let capacity = 32
  @usableFromInline let frames: UnsafeMutablePointer<RxFrame>
  @usableFromInline var counted = 0
  @inlinable @inline(__always) public var count: Int { counted }
  @usableFromInline var least = UInt16.max
  /// What each of them has before it at least (`RxFrame.headroom`).
  @inlinable @inline(__always) public var headroom: Int { Int(least) }

  public init() { unsafe frames = .allocate(capacity: Self.capacity) }
  /// Frees the memory; nothing may be used afterwards.
  public func deallocate() { unsafe frames.deallocate() }

  @inlinable @inline(__always) public subscript(index: Int) -> RxFrame { unsafe frames[index] }

  /// Bytes of the first frames together.
  @inlinable @inline(__always) public func bytes(_ count: Int) -> Int {
    var sum = 0
    var index = 0
    while index &+ 4 <= count {
      sum &+= unsafe frames[index].length &+ frames[index &+ 1].length &+ frames[index &+ 2].length
      sum &+= unsafe frames[index &+ 3].length
      index &+= 4
    }
    while index < count {
      sum &+= unsafe frames[index].length
      index &+= 1
    }
    return sum
  }

  /// A frame is whole: its virtio-net header asks neither for segmentation nor for a checksum.
  @inlinable @inline(__always) public func isWhole(_ index: Int) -> Bool {
    // Flags and segmentation at once.
    let both = unsafe UnsafeRawPointer(frames + index).load(fromByteOffset: RxFrame.virtioOffset, as: UInt16.self)
    return both.littleEndian & (0xFF00 | UInt16(VirtioNetHeader.needsChecksum)) == 0
  }

  /// Another frame in the place of one.
  public mutating func replace(_ index: Int, _ frame: RxFrame) {
    unsafe frames[index] = frame
    least = min(least, frame.headroom)
  }

  @inlinable public var isFull: Bool { counted == Self.capacity }
  @inlinable @inline(__always) public mutating func append(_ frame: RxFrame) {
    unsafe frames[counted] = frame
    counted &+= 1
    least = min(least, frame.headroom)
  }
  @inlinable public mutating func removeAll() {
    counted = 0
    least = UInt16.max
  }
}

/// A frame on its way out: a virtio-net header and a frame, gathered from pieces. 16 bytes.
@frozen public struct TxFrame {
  /// Pieces: the first holds the virtio-net header and the headers made here; and the packet, where they have been written
  /// in front of it.
  public var firstPiece: UInt32
  public var pieces: UInt16
  /// Packets on a wire: more than one for a super-frame.
  public var packets: UInt16
  /// Bytes of frame, without the virtio-net header.
  public var length: UInt32
  /// The number of the interface's next frame, or `TxFrames.none`.
  public var next: UInt32

  @inlinable @inline(__always)
  init(firstPiece: UInt32, pieces: UInt16, packets: UInt16, length: UInt32) {
    self.firstPiece = firstPiece
    self.pieces = pieces
    self.packets = packets
    self.length = length
    next = TxFrames.none
  }
}

/// What a batch sends, gathered by interface: frames made of pieces of received memory and of headers written into
/// an arena. Everything is forgotten with `reset`, after the ports have taken it.
@safe @frozen public struct TxFrames {
  public static let none = UInt32.max
  @usableFromInline static let frameCapacity = 8192
  /// A cache line for each frame: two pieces, which is all that most have, and the frame (`TxFrame`). A frame's number is
  /// where its slot begins, in bytes.
  ///
  ///     offset  bytes
  ///     0       32     two pieces
  ///     32      16     frame
  ///
  /// As long as a frame is not there, it begins with the first piece of its slot.
  @usableFromInline static let slotBytes = 64
  @usableFromInline static let frameOffset = 32
  @usableFromInline static let slotPieces = slotBytes / 16
  /// Pieces of frames that have other numbers of them.
  @usableFromInline static let otherCapacity = 32768
  @usableFromInline static let arenaBytes = 2 << 20
  /// Beyond what frames may take: what tags take that are put into them afterwards, a piece more for each than it has.
  static let tagPieces = otherCapacity + frameCapacity * 3
  static let tagArenaBytes = frameCapacity * 32

  /// Behind the slots of frames there is one more for each interface, whose frame is nobody's and has the interface's first
  /// one as its next.
  @usableFromInline let slots: UnsafeMutableRawPointer
  /// The same memory, counted in pieces; other pieces than those in slots begin at `firstOther`.
  @usableFromInline let pieces: UnsafeMutablePointer<iovec>
  @usableFromInline let firstOther: Int
  @usableFromInline let arena: UnsafeMutableRawPointer
  /// Priority and drop eligibility of the tag that each frame gets; 0 for most, and again once it has got it.
  let priorities: UnsafeMutablePointer<UInt8>
  /// What `bundle` works with: the next frame of a bundle, and bundles that may grow.
  let chains: UnsafeMutablePointer<UInt32>
  let open: UnsafeMutablePointer<OpenBundle>
  /// The number of the last frame of each interface.
  @usableFromInline let tails: UnsafeMutablePointer<UInt32>
  @usableFromInline let touchedInterfaces: UnsafeMutablePointer<UInt32>
  @usableFromInline var touchedTotal = 0
  /// How many interfaces have frames.
  @inlinable public var touchedCount: Int { touchedTotal }
  @usableFromInline var frameCount = 0
  @usableFromInline var pieceCount: Int
  @usableFromInline var arenaUsed = 0
  /// Frames before this one have their tags.
  @usableFromInline var taggedFrames = 0

  public init(interfaces: Int) {
    let slotCount = Self.frameCapacity + interfaces
    firstOther = slotCount * Self.slotPieces
    pieceCount = firstOther
    unsafe slots = .allocate(
      byteCount: slotCount * Self.slotBytes + (Self.otherCapacity + Self.tagPieces) * MemoryLayout<iovec>.stride,
      alignment: Self.slotBytes)
    unsafe pieces = slots.assumingMemoryBound(to: iovec.self)
    unsafe arena = .allocate(byteCount: Self.arenaBytes + Self.tagArenaBytes, alignment: 64)
    unsafe priorities = .allocate(capacity: Self.frameCapacity)
    unsafe priorities.initialize(repeating: 0, count: Self.frameCapacity)
    unsafe chains = .allocate(capacity: Self.frameCapacity)
    unsafe open = .allocate(capacity: OpenBundle.slots)
    unsafe tails = .allocate(capacity: interfaces)
    unsafe touchedInterfaces = .allocate(capacity: interfaces)
    for interface in 0..<interfaces { clear(UInt32(truncatingIfNeeded: interface)) }
    restore(Self.frameCapacity)
  }

  /// Frees the memory; nothing may be used afterwards.
  public func deallocate() {
    unsafe slots.deallocate()
    unsafe arena.deallocate()
    unsafe priorities.deallocate()
    unsafe chains.deallocate()
    unsafe open.deallocate()
    unsafe tails.deallocate()
    unsafe touchedInterfaces.deallocate()
  }

  @inlinable @inline(__always) static func number(_ index: Int) -> UInt32 {
    UInt32(truncatingIfNeeded: index &* slotBytes)
  }

  @inlinable @inline(__always) func slot(_ number: UInt32) -> UnsafeMutablePointer<TxFrame> {
    unsafe (slots + (Int(number) &+ Self.frameOffset)).assumingMemoryBound(to: TxFrame.self)
  }

  /// The frame of no interface's that stands before its first one.
  @inlinable @inline(__always) static func nobody(_ interface: UInt32) -> UInt32 {
    number(frameCapacity &+ Int(interface))
  }

  /// An interface has no frames.
  @inlinable @inline(__always) func clear(_ interface: UInt32) {
    let nobody = Self.nobody(interface)
    unsafe slot(nobody).initialize(to: TxFrame(firstPiece: 0, pieces: 0, packets: 0, length: 0))
    unsafe tails[Int(interface)] = nobody
  }

  /// The first slots' frames begin with the pieces of their slots.
  @usableFromInline func restore(_ count: Int) {
    for index in 0..<count {
      unsafe slot(Self.number(index)).pointee.firstPiece = UInt32(truncatingIfNeeded: index &* Self.slotPieces)
    }
  }

  // MARK: building

  /// Room for frames of `pieces` pieces, two or more each, and `bytes` of headers is there. `otherPieces`: what `own` takes
  /// for them, 3 for each frame of two pieces.
  @inlinable @inline(__always) public func hasRoom(pieces: Int, bytes: Int, otherPieces: Int = 0) -> Bool {
    frameCount &+ ((pieces &+ 1) &>> 1) <= Self.frameCapacity
      && pieceCount &+ pieces &+ otherPieces <= firstOther &+ Self.otherCapacity
      && arenaUsed &+ bytes <= Self.arenaBytes
  }

  /// Room for as many frames of two pieces (`send`) with `bytes` of headers each is there.
  @inlinable @inline(__always) public func hasRoom(frames: Int, bytes: Int) -> Bool {
    frameCount &+ frames <= Self.frameCapacity && arenaUsed &+ frames &* bytes <= Self.arenaBytes
  }

  /// Memory for headers; the caller asked `hasRoom`.
  @inlinable @inline(__always) public mutating func headers(_ bytes: Int) -> Bytes {
    let place = unsafe Bytes(arena + arenaUsed)
    arenaUsed &+= (bytes &+ 7) & ~7
    return place
  }

  @inlinable @inline(__always) public mutating func piece(_ bytes: Bytes, count: Int) {
    unsafe pieces[pieceCount] = iovec(iov_base: bytes.pointer, iov_len: count)
    pieceCount &+= 1
  }

  /// Where the next frame's pieces will start.
  @inlinable @inline(__always) public var pieceMark: Int { pieceCount }

  /// Ends a frame of `length` bytes made of all pieces since `mark`; it stands for `packets` packets on a wire.
  @inlinable @inline(__always)
  public mutating func finish(from mark: Int, length: Int, packets: Int = 1, interface: UInt32) {
    link(
      TxFrame(
        firstPiece: UInt32(truncatingIfNeeded: mark), pieces: UInt16(truncatingIfNeeded: pieceCount &- mark),
        packets: UInt16(clamping: packets), length: UInt32(truncatingIfNeeded: length)), interface)
  }

  @inlinable @inline(__always) mutating func link(_ frame: TxFrame, _ interface: UInt32) {
    let number = Self.number(frameCount)
    unsafe slot(number).initialize(to: frame)
    frameCount &+= 1
    let last = unsafe tails[Int(interface)]
    unsafe slot(last).pointee.next = number
    unsafe tails[Int(interface)] = number
    if last >= Self.number(Self.frameCapacity) { touch(interface) }
  }

  /// An interface has got its first frame.
  @inlinable @inline(__always) mutating func touch(_ interface: UInt32) {
    unsafe touchedInterfaces[touchedTotal] = interface
    touchedTotal &+= 1
  }

  /// Those of the frames since `first` that have two pieces, headers made here and a packet, get its first `count` bytes
  /// for themselves: as they are now, whatever becomes of the memory where they were. The others have all of the packet's
  /// headers among those made here. The caller asked `hasRoom` for that: three pieces and `count` bytes for each.
  public mutating func own(_ count: Int, since first: Int) {
    for index in first..<frameCount { own(count, Self.number(index)) }
  }

  private mutating func own(_ count: Int, _ number: UInt32) {
    let frame = unsafe slot(number).pointee
    let first = Int(frame.firstPiece)
    guard frame.pieces == 2, hasRoom(pieces: 0, bytes: count &+ 8, otherPieces: 3),
      let packet = unsafe pieces[first &+ 1].iov_base
    else { return }
    let length = unsafe pieces[first &+ 1].iov_len
    let copied = min(count, length)
    let copy = headers(copied)
    copy.copy(from: unsafe Bytes(packet), count: copied)
    let mark = pieceCount
    unsafe pieces[mark] = pieces[first]
    pieceCount &+= 1
    piece(copy, count: copied)
    if length > copied { piece(unsafe Bytes(packet + copied), count: length &- copied) }
    unsafe slot(number).pointee.firstPiece = UInt32(truncatingIfNeeded: mark)
    unsafe slot(number).pointee.pieces = UInt16(truncatingIfNeeded: pieceCount &- mark)
  }

  // MARK: sending

  @inlinable public func touched(_ index: Int) -> UInt32 { unsafe touchedInterfaces[index] }
  @inlinable public func head(_ interface: UInt32) -> UInt32 {
    unsafe slot(Self.nobody(interface)).pointee.next
  }
  /// A frame by its number.
  @inlinable @inline(__always) public func frame(_ number: UInt32) -> TxFrame { unsafe slot(number).pointee }
  /// The number of the frame that was finished as the first, second and so on, counted from 0.
  @inlinable @inline(__always) public func number(_ index: Int) -> UInt32 { Self.number(index) }

  /// The pieces of a frame, for the kernel's gathering calls.
  @inlinable @inline(__always) @unsafe public func vector(_ frame: TxFrame) -> UnsafeMutablePointer<iovec> {
    unsafe pieces + Int(frame.firstPiece)
  }

  /// Copies a frame (without its virtio-net header) into one piece of memory of at least `frame.length` bytes.
  public func copy(_ frame: TxFrame, to destination: UnsafeMutableRawPointer) {
    var offset = 0
    var skip = VirtioNetHeader.bytes
    for index in 0..<Int(frame.pieces) {
      let piece = unsafe pieces[Int(frame.firstPiece) + index]
      let count = unsafe piece.iov_len - skip
      if count > 0, let base = unsafe piece.iov_base {
        unsafe (destination + offset).copyMemory(from: base + skip, byteCount: count)
        offset += count
      }
      skip = 0
    }
  }

  /// The virtio-net header of a frame.
  public func virtio(_ frame: TxFrame) -> VirtioNetHeader {
    unsafe VirtioNetHeader(reading: Bytes(pieces[Int(frame.firstPiece)].iov_base!))
  }

  @inlinable public mutating func reset() {
    for index in 0..<touchedTotal { clear(unsafe touchedInterfaces[index]) }
    // Frames of other pieces than their slots'.
    if pieceCount != firstOther { restore(frameCount) }
    touchedTotal = 0
    frameCount = 0
    pieceCount = firstOther
    arenaUsed = 0
    taggedFrames = 0
  }

  // MARK: tags

  /// The frames since `first` get tags with this priority and drop eligibility (`Ethernet.priority`): the outer one, if
  /// it is two. Frames of which nobody says so get 0.
  public func prioritize(since first: Int, _ priority: UInt8) {
    for index in first..<frameCount { unsafe priorities[index] = priority }
  }

  /// Puts tags (`count` bytes of them, 4 or 8, from the top of `tags`) into the frames of an interface that are new since
  /// `sealTags`, behind the MAC addresses.
  public mutating func insertTags(_ tags: UInt64, count: Int, interface: UInt32) {
    var number = head(interface)
    while number != Self.none {
      if number >= Self.number(taggedFrames) { insertTags(tags, count: count, number) }
      unsafe number = slot(number).pointee.next
    }
  }

  private mutating func insertTags(_ tags: UInt64, count: Int, _ number: UInt32) {
    let priority = unsafe priorities + Int(number) / Self.slotBytes
    let frame = unsafe slot(number).pointee
    let macs = Ethernet.type
    var source = Int(frame.firstPiece)
    let end = source &+ Int(frame.pieces)
    let first = unsafe pieces[source]
    guard let virtio = unsafe first.iov_base else { return }
    // Answers have the virtio-net header in a piece of its own.
    var skip = VirtioNetHeader.bytes
    if unsafe first.iov_len == VirtioNetHeader.bytes {
      source &+= 1
      skip = 0
    }
    guard source < end, let ethernet = unsafe pieces[source].iov_base, unsafe pieces[source].iov_len >= skip &+ macs
    else { return }
    let mark = pieceCount
    let head = headers(VirtioNetHeader.bytes &+ macs &+ count)
    var header = unsafe VirtioNetHeader(reading: Bytes(virtio))
    if header.flags & VirtioNetHeader.needsChecksum != 0 { header.checksumStart &+= UInt16(truncatingIfNeeded: count) }
    if header.gso != VirtioNetHeader.gsoNone { header.headerBytes &+= UInt16(truncatingIfNeeded: count) }
    header.write(head)
    head.advanced(VirtioNetHeader.bytes).copy(from: unsafe Bytes(ethernet + skip), count: macs)
    let place = head.advanced(VirtioNetHeader.bytes &+ macs)
    place.set32(0, UInt32(truncatingIfNeeded: tags >> 32) | UInt32(unsafe priority.pointee) << 12)
    unsafe priority.pointee = 0
    if count > 4 { place.set32(4, UInt32(truncatingIfNeeded: tags)) }
    piece(head, count: VirtioNetHeader.bytes &+ macs &+ count)
    let used = skip &+ macs
    let rest = unsafe pieces[source].iov_len &- used
    if rest > 0 { piece(unsafe Bytes(ethernet + used), count: rest) }
    var next = source &+ 1
    while next < end {
      unsafe pieces[pieceCount] = pieces[next]
      pieceCount &+= 1
      next &+= 1
    }
    unsafe slot(number).pointee.firstPiece = UInt32(truncatingIfNeeded: mark)
    unsafe slot(number).pointee.pieces = UInt16(truncatingIfNeeded: pieceCount &- mark)
    unsafe slot(number).pointee.length &+= UInt32(truncatingIfNeeded: count)
  }

  /// All frames so far have their tags.
  public mutating func sealTags() { taggedFrames = frameCount }
}
