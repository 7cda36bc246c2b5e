import CLinux

/// A UDP datagram in a frame that is to be sent, as far as its headers say: where they lie, and what of them matters to
/// others of its kind. Offsets are from the Ethernet header.
@safe struct Datagram {
  /// The Ethernet header, behind the virtio-net header.
  let ethernet: Bytes
  let ip: Bytes
  let isV4: Bool
  /// It may stand for itself or for its like: one packet, whole, no options.
  let isPlain: Bool

  var ipBytes: Int { isV4 ? IPv4.minimumBytes : IPv6.bytes }
  var udp: Bytes { ip.advanced(ipBytes) }
  /// Bytes of UDP payload.
  var payload: Int { Int(udp.u16(4)) &- UDP.bytes }

  enum Reading {
    case datagram(Datagram)
    /// It belongs to no flow of datagrams.
    case other
    /// It may be one of any flow.
    case unknown
  }

  @inline(__always) static func read(_ frame: TxFrame, _ pieces: UnsafeMutablePointer<iovec>) -> Reading {
    let first = unsafe pieces[0]
    let skip = VirtioNetHeader.bytes &+ Ethernet.bytes
    guard let base = unsafe first.iov_base, unsafe first.iov_len >= skip else { return .unknown }
    let virtio = unsafe Bytes(base)
    let ethernet = virtio.advanced(VirtioNetHeader.bytes)
    let type = ethernet.u16(Ethernet.type)
    guard type == Ethernet.ipv4 || type == Ethernet.ipv6 else { return .other }
    let isV4 = type == Ethernet.ipv4
    let headers = (isV4 ? IPv4.minimumBytes : IPv6.bytes) &+ UDP.bytes
    let ip: Bytes
    if unsafe first.iov_len >= skip &+ headers {
      ip = ethernet.advanced(Ethernet.bytes)
    } else {
      guard unsafe first.iov_len == skip, frame.pieces > 1, unsafe pieces[1].iov_len >= headers,
        let packet = unsafe pieces[1].iov_base
      else { return .unknown }
      ip = unsafe Bytes(packet)
    }
    let proto = ip.u8(isV4 ? 9 : 6)
    guard proto == IPProtocol.udp else {
      // A datagram may be behind other headers than these.
      return isV4 || proto == IPProtocol.tcp || proto == IPProtocol.icmpv6 ? .other : .unknown
    }
    // Fragments have no ports, and with options the ports are elsewhere.
    guard !isV4 || ip.u8(0) == 0x45 && ip.u16(6) & (IPv4.moreFragments | IPv4.offsetMask) == 0 else { return .unknown }
    let length = isV4 ? Int(ip.u16(2)) : Int(ip.u16(4)) &+ IPv6.bytes
    let isPlain =
      frame.packets == 1 && virtio.u8(1) == VirtioNetHeader.gsoNone && Int(frame.length) == Ethernet.bytes &+ length
      && length == headers &- UDP.bytes &+ Int(ip.u16(headers &- UDP.bytes &+ 4))
    return .datagram(Datagram(ethernet: ethernet, ip: ip, isV4: isV4, isPlain: isPlain))
  }

  /// Of addresses and ports.
  @inline(__always) var slot: Int {
    let far = isV4 ? ip.u32(16) : ip.u32(36)
    let mixed = (far ^ udp.u32(0)) &* 0x9E37_79B1
    return Int(truncatingIfNeeded: mixed >> 29)
  }

  /// Of the same flow.
  @inline(__always) func isLike(_ other: Datagram) -> Bool {
    guard isV4 == other.isV4, udp.u32(0) == other.udp.u32(0) else { return false }
    if isV4 { return ip.u64(12) == other.ip.u64(12) }
    return ip.u64(8) == other.ip.u64(8) && ip.u64(16) == other.ip.u64(16) && ip.u64(24) == other.ip.u64(24)
      && ip.u64(32) == other.ip.u64(32)
  }

  /// The `number`-th of a super-frame that begins with `head` would have these very headers. `isOwn`: made here, with whatever
  /// identification comes out.
  @inline(__always) func follows(_ head: Datagram, _ number: Int, isOwn: Bool) -> Bool {
    guard ethernet.u64(0) == head.ethernet.u64(0), ethernet.u32(8) == head.ethernet.u32(8) else {
      return false
    }
    guard isV4 else { return ip.u32(0) == head.ip.u32(0) && ip.u8(7) == head.ip.u8(7) }
    guard ip.u8(1) == head.ip.u8(1), ip.u16(6) == head.ip.u16(6), ip.u8(8) == head.ip.u8(8) else { return false }
    return isOwn || ip.u16(6) & IPv4.dontFragment != 0
      || ip.u16(4) == head.ip.u16(4) &+ UInt16(truncatingIfNeeded: number)
  }

  /// Its checksum is right, or unfinished.
  func holds(_ frame: GatheredFrame) -> Bool {
    let virtio = frame.virtio
    if virtio.flags & VirtioNetHeader.needsChecksum != 0 {
      return Int(virtio.checksumStart) == Ethernet.bytes &+ ipBytes && virtio.checksumOffset == UInt16(UDP.checksum)
    }
    // Segmentation would give one to those that have none.
    guard udp.u16(UDP.checksum) != 0 else { return false }
    let length = UDP.bytes &+ payload
    let sum = Checksum.pseudoHeader(ip, isV4: isV4, proto: IPProtocol.udp, length: length)
    return Checksum.holds(sum &+ frame.sum(Ethernet.bytes &+ ipBytes, count: length))
  }
}

/// Frames that are to leave as one.
@usableFromInline struct OpenBundle {
  static let slots = 8
  /// What a kernel cuts in one go (UDP_MAX_SEGMENTS of 4.18).
  static let segments = 64

  var head = TxFrames.none
  var last = TxFrames.none
  var count = 0
  /// Bytes of UDP payload of each but the last, and of all.
  var size = 0
  var total = 0
  /// Pieces of its frames.
  var pieces = 0
  /// The head's checksum is known to be right.
  var isChecked = false
}

extension TxFrames {
  /// Datagrams of one flow and one size become one UDP super-frame: the kernel takes that as it takes one packet, and cuts it
  /// where somebody needs it cut, into what they were (identifications apart, where they say nothing). Flows keep their
  /// order. For an interface that takes UDP super-frames. `areTunnels`: what it gets are tunnels' packets, whose headers were
  /// made here: they need no checksum verified, and get one.
  public mutating func bundle(interface: UInt32, areTunnels: Bool) {
    var index = head(interface)
    guard index != Self.none, frame(index).next != Self.none else { return }
    for slot in 0..<OpenBundle.slots { unsafe open[slot] = OpenBundle() }
    var reserved = 0
    var previous = Self.nobody(interface)
    while index != Self.none {
      let frame = frame(index)
      var isTaken = false
      switch unsafe Datagram.read(frame, pieces + Int(frame.firstPiece)) {
      case .other: break
      case .unknown: for slot in 0..<OpenBundle.slots { close(slot, &reserved) }
      case .datagram(let datagram): isTaken = add(index, frame, datagram, areTunnels, &reserved)
      }
      if isTaken { unsafe slot(previous).pointee.next = frame.next } else { previous = index }
      index = frame.next
    }
    unsafe tails[Int(interface)] = previous
    for slot in 0..<OpenBundle.slots { close(slot, &reserved) }
  }

  /// True: it goes with an earlier frame.
  @inline(__always)
  private mutating func add(
    _ index: UInt32, _ frame: TxFrame, _ datagram: Datagram, _ isOwn: Bool, _ reserved: inout Int
  ) -> Bool {
    let slot = datagram.slot
    let bundle = unsafe open[slot]
    if bundle.head != Self.none, append(index, frame, datagram, slot, isOwn, &reserved) { return true }
    close(slot, &reserved)
    guard datagram.isPlain, datagram.payload > 0 else { return false }
    var new = OpenBundle()
    new.head = index
    new.last = index
    new.count = 1
    new.size = datagram.payload
    new.total = datagram.payload
    new.pieces = Int(frame.pieces)
    unsafe open[slot] = new
    return false
  }

  private mutating func append(
    _ index: UInt32, _ frame: TxFrame, _ datagram: Datagram, _ slot: Int, _ isOwn: Bool, _ reserved: inout Int
  ) -> Bool {
    var bundle = unsafe open[slot]
    let first = self.frame(bundle.head)
    guard datagram.isPlain,
      case .datagram(let head) = unsafe Datagram.read(first, pieces + Int(first.firstPiece)),
      datagram.isLike(head), bundle.total == bundle.count &* bundle.size, datagram.payload > 0,
      datagram.payload <= bundle.size, bundle.count < OpenBundle.segments,
      Ethernet.bytes &+ IPv6.bytes &+ UDP.bytes &+ bundle.total &+ datagram.payload <= 65535,
      datagram.follows(head, bundle.count, isOwn: isOwn),
      hasRoom(
        pieces: 0, bytes: OpenBundle.slots &* Self.bundleHeaderBytes,
        otherPieces: reserved &+ bundle.pieces &+ Int(frame.pieces) &+ 2 &* OpenBundle.slots),
      isOwn || (bundle.isChecked || head.holds(gathered(first))) && datagram.holds(gathered(frame))
    else { return false }
    reserved &+= Int(frame.pieces) &+ (bundle.count == 1 ? bundle.pieces : 0)
    bundle.isChecked = true
    bundle.count &+= 1
    bundle.total &+= datagram.payload
    bundle.pieces &+= Int(frame.pieces)
    unsafe chains[Int(bundle.last) / Self.slotBytes] = index
    bundle.last = index
    unsafe open[slot] = bundle
    return true
  }

  /// virtio-net, Ethernet, IPv6, UDP.
  private static var bundleHeaderBytes: Int { 80 }

  /// Makes the super-frame, where there is more than one.
  private mutating func close(_ slot: Int, _ reserved: inout Int) {
    let bundle = unsafe open[slot]
    unsafe open[slot].head = Self.none
    guard bundle.head != Self.none, bundle.count > 1 else { return }
    reserved &-= bundle.pieces
    let first = frame(bundle.head)
    guard case .datagram(let head) = unsafe Datagram.read(first, pieces + Int(first.firstPiece)) else { return }
    let mark = pieceCount
    let transport = Ethernet.bytes &+ head.ipBytes
    let headers = self.headers(VirtioNetHeader.bytes &+ transport &+ UDP.bytes)
    var virtio = VirtioNetHeader()
    virtio.flags = VirtioNetHeader.needsChecksum
    virtio.checksumStart = UInt16(truncatingIfNeeded: transport)
    virtio.checksumOffset = UInt16(UDP.checksum)
    virtio.gso = VirtioNetHeader.gsoUDP
    virtio.gsoBytes = UInt16(truncatingIfNeeded: bundle.size)
    virtio.headerBytes = UInt16(truncatingIfNeeded: transport &+ UDP.bytes)
    virtio.write(headers)
    let ethernet = headers.advanced(VirtioNetHeader.bytes)
    ethernet.copy(from: head.ethernet, count: Ethernet.bytes)
    let ip = ethernet.advanced(Ethernet.bytes)
    ip.copy(from: head.ip, count: head.ipBytes &+ UDP.bytes)
    let length = UDP.bytes &+ bundle.total
    if head.isV4 {
      ip.set16(2, UInt16(truncatingIfNeeded: IPv4.minimumBytes &+ length))
      IPv4.writeChecksum(ip, bytes: IPv4.minimumBytes)
    } else {
      ip.set16(4, UInt16(truncatingIfNeeded: length))
    }
    let udp = ip.advanced(head.ipBytes)
    udp.set16(4, UInt16(truncatingIfNeeded: length))
    let sum = Checksum.pseudoHeader(ip, isV4: head.isV4, proto: IPProtocol.udp, length: length)
    udp.set16(UDP.checksum, UInt16(bigEndian: Checksum.fold(sum)))
    piece(headers, count: VirtioNetHeader.bytes &+ transport &+ UDP.bytes)
    var index = bundle.head
    while true {
      addPayload(frame(index), headerBytes: transport &+ UDP.bytes)
      guard index != bundle.last else { break }
      index = unsafe chains[Int(index) / Self.slotBytes]
    }
    var whole = TxFrame(
      firstPiece: UInt32(truncatingIfNeeded: mark), pieces: UInt16(truncatingIfNeeded: pieceCount &- mark),
      packets: UInt16(truncatingIfNeeded: bundle.count), length: UInt32(truncatingIfNeeded: transport &+ length))
    whole.next = first.next
    unsafe self.slot(bundle.head).pointee = whole
  }

  /// The pieces of a frame without its first bytes.
  private mutating func addPayload(_ frame: TxFrame, headerBytes: Int) {
    var skip = VirtioNetHeader.bytes &+ headerBytes
    let first = Int(frame.firstPiece)
    for number in first..<first &+ Int(frame.pieces) {
      let length = unsafe pieces[number].iov_len
      if length > skip, let base = unsafe pieces[number].iov_base {
        piece(unsafe Bytes(base + skip), count: length &- skip)
        skip = 0
      } else {
        skip &-= length
      }
    }
  }
}
