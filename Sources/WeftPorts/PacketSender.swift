import CLinux
import Glibc
import WeftSystem
import WeftWire

/// Sends frames out of kernel interfaces, any of them, past their queueing disciplines (PACKET_QDISC_BYPASS). A worker's
/// own. Frames of ordinary size go through an mmap ring, many with one system call; super-frames are gathered from
/// their pieces by sendmsg, so that their payload is copied once and not by way of a ring.
@safe public struct PacketSender: ~Copyable {
  static let slots = 512
  /// As many frames are handed over at once.
  static let burst = 128

  private let ringSocket: Descriptor
  private let ring: Mapping
  private let slotBytes: Int
  private let plainSocket: Descriptor
  /// Through the kernel's own way out, which cuts super-frames where the interface does not.
  private let cuttingSocket: Descriptor
  /// So many super-frames more go that way at once.
  private var cutting = 0
  private var position = 0
  /// Frames in the ring that have not been handed over, the first of them, and their sizes.
  private var pending = 0
  private var pendingPackets = 0
  private var pendingBytes = 0

  /// For frames of interfaces with at most `mtu`; larger ones are sent too, one by one.
  public init(mtu: Int) throws(SystemError) {
    let slotBytes = PacketSocket.slotBytes(mtu: mtu)
    let ringSocket = try Self.open()
    try PacketSocket.set(ringSocket.raw, PACKET_VERSION, Int32(TPACKET_V2.rawValue), "sending")
    // A frame that the kernel finds malformed is skipped; the others behind it go.
    try PacketSocket.set(ringSocket.raw, PACKET_LOSS, 1, "sending")
    let ring = try PacketSocket.ring(
      ringSocket.raw, PACKET_TX_RING, slots: Self.slots, slotBytes: slotBytes, "sending")
    let plainSocket = try Self.open()
    let cuttingSocket = try Self.open(bypasses: false)
    self.plainSocket = plainSocket
    self.cuttingSocket = cuttingSocket
    self.slotBytes = slotBytes
    self.ringSocket = ringSocket
    self.ring = ring
  }

  private static func open(bypasses: Bool = true) throws(SystemError) -> Descriptor {
    let descriptor = try PacketSocket.open("sending")
    if bypasses { try PacketSocket.set(descriptor.raw, PACKET_QDISC_BYPASS, 1, "sending") }
    var bytes: Int32 = 32 << 20
    if unsafe setsockopt(descriptor.raw, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, 4) != 0 {
      _ = unsafe setsockopt(descriptor.raw, SOL_SOCKET, SO_SNDBUF, &bytes, 4)
    }
    return descriptor
  }

  /// Sends the frames of `tx` that are for `interface` out of the kernel's interface of that index: those of ordinary size
  /// by `fast`, if there is one.
  public mutating func send(
    _ tx: TxFrames, interface: UInt32, kernelIndex: UInt32, fast: UnsafeMutablePointer<XDPTransmitter>?
  ) -> SendResult {
    var result = SendResult()
    var address = PacketSocket.address(kernelIndex, proto: 0)
    var index = tx.head(interface)
    unsafe fast?.pointee.ring.reclaim()
    var isWaiting = false
    while index != TxFrames.none {
      let frame = tx.frame(index)
      index = frame.next
      if let fast = unsafe fast {
        if unsafe fast.pointee.ring.takes(tx, frame) {
          unsafe fast.pointee.ring.put(tx, frame, &result)
          isWaiting = true
          continue
        }
        // In the order in which they are.
        if isWaiting { unsafe fast.pointee.ring.kick(&result) }
        isWaiting = false
        // From our ring, the kernel would copy it once more, into pages of its own.
        sendPlain(tx, frame, &address, &result)
        continue
      }
      if frame.packets == 1, Int(frame.length) + VirtioNetHeader.bytes + PacketSocket.headerBytes <= slotBytes {
        put(tx, frame, &address, &result)
      } else {
        flush(&address, &result)
        sendPlain(tx, frame, &address, &result)
      }
    }
    flush(&address, &result)
    if isWaiting, let fast = unsafe fast { unsafe fast.pointee.ring.kick(&result) }
    return result
  }

  @inline(__always)
  private mutating func put(_ tx: TxFrames, _ frame: TxFrame, _ address: inout sockaddr_ll, _ result: inout SendResult)
  {
    if pending >= Self.burst { flush(&address, &result) }
    let slot = unsafe ring.base + position &* slotBytes
    guard unsafe weft_load_acquire_u32(slot) == PacketSocket.kernels else {
      flush(&address, &result)
      // Still on its way out of the interface.
      result.full &+= Int(frame.packets)
      return
    }
    var at = PacketSocket.headerBytes
    let pieces = unsafe tx.vector(frame)
    for number in 0..<Int(frame.pieces) {
      let piece = unsafe pieces[number]
      guard let base = unsafe piece.iov_base else { continue }
      unsafe (slot + at).copyMemory(from: base, byteCount: piece.iov_len)
      at &+= unsafe piece.iov_len
    }
    unsafe slot.storeBytes(
      of: UInt32(truncatingIfNeeded: at &- PacketSocket.headerBytes), toByteOffset: 4, as: UInt32.self)
    unsafe weft_store_release_u32(slot, PacketSocket.sendRequest)
    position = position &+ 1 == Self.slots ? 0 : position &+ 1
    pending &+= 1
    pendingPackets &+= Int(frame.packets)
    pendingBytes &+= Int(frame.length)
  }

  /// Has the kernel send what stands in the ring.
  private mutating func flush(_ address: inout sockaddr_ll, _ result: inout SendResult) {
    guard pending > 0 else { return }
    let sent = unsafe Self.withSocketAddress(&address) { name, size in
      unsafe sendto(ringSocket.raw, nil, 0, Int32(MSG_DONTWAIT), name, size)
    }
    let code = sent < 0 ? errno : 0
    let last = position == 0 ? Self.slots &- 1 : position &- 1
    if unsafe weft_load_acquire_u32(ring.base + last &* slotBytes) != PacketSocket.sendRequest {
      result.packets &+= pendingPackets
      result.bytes &+= pendingBytes
    } else {
      takeBack(code, &result)
    }
    pending = 0
    pendingPackets = 0
    pendingBytes = 0
  }

  /// The kernel stopped before the end: what it left is taken out, so that its place in the ring and ours agree.
  private mutating func takeBack(_ code: Int32, _ result: inout SendResult) {
    var left = 0
    var slot = position
    for _ in 0..<pending {
      let before = slot == 0 ? Self.slots &- 1 : slot &- 1
      guard unsafe weft_load_acquire_u32(ring.base + before &* slotBytes) == PacketSocket.sendRequest else { break }
      unsafe weft_store_release_u32(ring.base + before &* slotBytes, PacketSocket.kernels)
      slot = before
      left &+= 1
    }
    position = slot
    let packetsLeft = min(pendingPackets, left)
    result.packets &+= pendingPackets &- packetsLeft
    result.bytes &+= pending > 0 ? pendingBytes &* (pending &- left) / pending : 0
    count(code, packets: packetsLeft, &result)
  }

  private mutating func sendPlain(
    _ tx: TxFrames, _ frame: TxFrame, _ address: inout sockaddr_ll, _ result: inout SendResult
  ) {
    var sent = -1
    if frame.packets == 1 || cutting == 0 { sent = Self.send(plainSocket.raw, tx, frame, &address) }
    if sent < 0, frame.packets > 1, cutting > 0 || errno == ENOBUFS {
      // Past the queueing discipline a super-frame that the interface does not cut is dropped.
      cutting = sent < 0 && cutting == 0 ? Self.memory : cutting &- 1
      sent = Self.send(cuttingSocket.raw, tx, frame, &address)
    }
    if sent >= 0 {
      result.packets &+= Int(frame.packets)
      result.bytes &+= Int(frame.length)
      return
    }
    let code = errno
    if code == EINVAL, tx.virtio(frame).gso & ~VirtioNetHeader.gsoECN == VirtioNetHeader.gsoUDP {
      result.refusedUDPSegmentation = true
    }
    count(code, packets: Int(frame.packets), &result)
  }

  /// Super-frames after one that was dropped which take the way on which they are cut.
  private static let memory = 1024

  private static func send(
    _ socket: Int32, _ tx: TxFrames, _ frame: TxFrame, _ address: inout sockaddr_ll
  ) -> Int {
    unsafe withSocketAddress(&address) { name, size in
      var message = unsafe msghdr()
      unsafe message.msg_name = UnsafeMutableRawPointer(mutating: name)
      unsafe message.msg_namelen = size
      unsafe message.msg_iov = tx.vector(frame)
      unsafe message.msg_iovlen = Int(frame.pieces)
      return unsafe sendmsg(socket, &message, Int32(MSG_DONTWAIT))
    }
  }

  private func count(_ code: Int32, packets: Int, _ result: inout SendResult) {
    if code == 0 || code == EAGAIN || code == ENOBUFS {
      result.full &+= packets
    } else {
      result.failed &+= packets
      result.code = code
    }
  }

  private static func withSocketAddress(
    _ address: inout sockaddr_ll, _ body: (UnsafePointer<sockaddr>, socklen_t) -> Int
  ) -> Int {
    unsafe withUnsafePointer(to: &address) { pointer in
      unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        unsafe body($0, socklen_t(MemoryLayout<sockaddr_ll>.size))
      }
    }
  }
}
