import CLinux
import Glibc
import WeftSystem
import WeftWire

/// Frames of a kernel interface through an AF_PACKET ring (TPACKET_V2, which shows each frame at once; V3's blocks wait
/// for a timer). Slots are of the MTU's size: a super-frame does not fit, is marked as copied (PACKET_COPY_THRESH) and
/// read from the socket, into memory that stays in the cache, instead of a ring of 64 KiB slots that does not.
@safe public struct PacketReceiver: ~Copyable, Receiver {
  /// Which frames of the interface to take.
  public enum Selection: Sendable {
    /// All: a pod's.
    case everything
    /// VXLAN and MPLS-over-UDP: the rest is the host's.
    case tunnels
  }

  public private(set) var interface: UInt32 = 0
  private let socket: Descriptor
  private let ring: Mapping
  private let slots: Int
  private let slotBytes: Int
  /// The next slot to look at, and how many before it are lent out.
  private var position = 0
  private var lent = 0

  public var descriptor: Int32 { socket.raw }

  /// A socket with its ring, for interfaces with at most `mtu`, that receives nothing yet. The kernel takes
  /// milliseconds for the ring.
  public init(mtu: Int, slots: Int) throws(SystemError) {
    let what = "receiving"
    let slotBytes = PacketSocket.slotBytes(mtu: mtu)
    let socket = try PacketSocket.open(what)
    try PacketSocket.set(socket.raw, PACKET_VERSION, Int32(TPACKET_V2.rawValue), what)
    // Room before each frame, for a tunnel's headers (RxFrame.headroom), or to put an 802.1Q tag back that the kernel took
    // out. Before that stand the ring's header and a socket address, which nobody reads.
    try PacketSocket.set(socket.raw, PACKET_RESERVE, 48, what)
    try PacketSocket.set(socket.raw, PACKET_COPY_THRESH, 1, what)
    try PacketSocket.set(socket.raw, weft_PACKET_IGNORE_OUTGOING, 1, what)
    var bytes: Int32 = 8 << 20
    if unsafe setsockopt(socket.raw, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, 4) != 0 {
      _ = unsafe setsockopt(socket.raw, SOL_SOCKET, SO_RCVBUF, &bytes, 4)
    }
    let ring = try PacketSocket.ring(socket.raw, PACKET_RX_RING, slots: slots, slotBytes: slotBytes, what)
    self.slots = slots
    self.slotBytes = slotBytes
    self.socket = socket
    self.ring = ring
  }

  /// Receives from a kernel interface from now on. `interface` is the forwarder's number; `device` is for messages.
  public mutating func bind(
    interface: UInt32, device: String, kernelIndex: UInt32, selection: Selection
  ) throws(SystemError) {
    self.interface = interface
    if selection == .tunnels {
      let filter = TunnelFilter.classic
      guard unsafe weft_attach_filter(socket.raw, filter, Int32(filter.count)) == 0 else {
        throw SystemError("attach the tunnel filter to", device)
      }
    }
    var address = PacketSocket.address(kernelIndex, proto: ETH_P_ALL)
    let bound = unsafe withUnsafePointer(to: &address) { pointer in
      unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        unsafe Glibc.bind(socket.raw, $0, socklen_t(MemoryLayout<sockaddr_ll>.size))
      }
    }
    guard bound == 0 else { throw SystemError("bind a packet socket to", device) }
  }

  /// Takes frames with tags of these VLANs beside tunnel packets from now on (`TunnelFilter.classic`). `isOpen`: frames
  /// to whatever MAC address come in from now on, or no longer: servers in VLANs send to the router's. nil: as it was.
  /// For a receiver of tunnels; from any thread.
  public static func select(
    _ descriptor: Int32, vlans: [UInt16], takesOld: Bool, isOpen: Bool?, kernelIndex: UInt32
  ) throws(SystemError) {
    let filter = TunnelFilter.classic(vlans: vlans, takesOld: takesOld)
    guard unsafe weft_attach_filter(descriptor, filter, Int32(filter.count)) == 0 else {
      throw SystemError("attach a filter to", "the packet socket of interface \(kernelIndex)")
    }
    guard let isOpen else { return }
    var request = packet_mreq()
    request.mr_ifindex = Int32(bitPattern: kernelIndex)
    request.mr_type = UInt16(PACKET_MR_PROMISC)
    let option = isOpen ? PACKET_ADD_MEMBERSHIP : PACKET_DROP_MEMBERSHIP
    let size = socklen_t(MemoryLayout<packet_mreq>.size)
    let status = unsafe setsockopt(descriptor, SOL_PACKET, option, &request, size)
    // Dropping what was never added is no fault.
    guard status == 0 || !isOpen else {
      throw SystemError("receive frames to all MAC addresses from", "interface \(kernelIndex)")
    }
  }

  /// True when a receiver that was opened for one MTU does for another too.
  public static func fits(mtu: Int, openFor old: Int) -> Bool {
    PacketSocket.slotBytes(mtu: mtu) == PacketSocket.slotBytes(mtu: old)
  }

  /// Shares the interface's frames with the receivers of other workers (packet(7), PACKET_FANOUT): by what a program says
  /// that `steer` gives the group, or by the kernel's hash of a frame's outer addresses and ports, the same in both
  /// directions. `group` is nil for the first one; returns the group for the others. The first to join is receiver 0.
  public func share(group: Int32?, byProgram: Bool, device: String) throws(SystemError) -> Int32 {
    // PACKET_FANOUT_FLAG_UNIQUEID. PACKET_FANOUT_FLAG_IGNORE_OUTGOING (kernel 6.2, before which it changes nothing): the
    // group has a hook of its own, for which the sockets' option does not count.
    let flags: Int32 = 0x4000 | (group == nil ? 0x2000 : 0)
    let mode: Int32 = byProgram ? PACKET_FANOUT_EBPF : PACKET_FANOUT_HASH
    try PacketSocket.set(socket.raw, PACKET_FANOUT, (group ?? 0) | (mode | flags) << 16, device)
    var value: Int32 = 0
    var size = socklen_t(4)
    guard unsafe getsockopt(socket.raw, SOL_PACKET, PACKET_FANOUT, &value, &size) == 0 else {
      throw SystemError("read the fanout group of", device)
    }
    return value & 0xFFFF
  }

  /// What `program` returns says from now on which receiver of the group gets a frame. `descriptor` is that of any receiver
  /// of a group that shares by program; from any thread.
  public static func steer(_ descriptor: Int32, by program: borrowing Descriptor, device: String) throws(SystemError) {
    try PacketSocket.set(descriptor, PACKET_FANOUT_DATA, program.raw, device)
  }

  public mutating func receive(_ frames: inout RxFrames, _ large: borrowing LargeFrames) -> Int {
    var lost = 0
    while !frames.isFull, lent < slots {
      let slot = unsafe ring.base + position &* slotBytes
      let status = unsafe weft_load_acquire_u32(slot)
      guard status & PacketSocket.inUser != 0 else { break }
      position = position &+ 1 == slots ? 0 : position &+ 1
      lent &+= 1
      if status & PacketSocket.losing != 0 { lost &+= kernelDrops() }
      if let frame = unsafe read(slot, status, large.place(frames.count), large.bytes) {
        frames.append(frame)
      } else {
        lost &+= 1
      }
    }
    return lost
  }

  /// The frame of a slot; nil when the kernel had no room for all of it.
  @inline(__always) private func read(
    _ slot: UnsafeMutableRawPointer, _ status: UInt32, _ place: UnsafeMutableRawPointer, _ room: Int
  ) -> RxFrame? {
    let length = unsafe Int(slot.load(fromByteOffset: 4, as: UInt32.self))
    let kept = unsafe Int(slot.load(fromByteOffset: 8, as: UInt32.self))
    var frame: RxFrame
    if status & PacketSocket.copied != 0 {
      guard let copy = unsafe readCopy(place, room) else { return nil }
      frame = copy
    } else {
      guard kept == length else { return nil }
      let start = unsafe Int(slot.load(fromByteOffset: 12, as: UInt16.self))
      let at = unsafe Bytes(slot + start)
      frame = RxFrame(
        bytes: at, length: length, virtio: VirtioNetHeader(reading: at.advanced(-VirtioNetHeader.bytes)),
        headroom: max(0, start &- PacketSocket.headerBytes))
    }
    if status & PacketSocket.vlanValid != 0 {
      let tag = unsafe slot.load(fromByteOffset: 24, as: UInt16.self)
      let hasType = status & PacketSocket.vlanTPIDValid != 0
      let type = hasType ? unsafe slot.load(fromByteOffset: 26, as: UInt16.self) : Ethernet.vlan
      putTagBack(&frame, type, tag)
    }
    return frame
  }

  private func readCopy(_ place: UnsafeMutableRawPointer, _ room: Int) -> RxFrame? {
    var header: (UInt64, UInt64) = (0, 0)
    return unsafe withUnsafeMutableBytes(of: &header) { header in
      guard let head = header.baseAddress else { return nil }
      var pieces = unsafe (
        iovec(iov_base: head, iov_len: VirtioNetHeader.bytes), iovec(iov_base: place, iov_len: room)
      )
      let count = unsafe withUnsafeMutablePointer(to: &pieces) { pieces in
        unsafe pieces.withMemoryRebound(to: iovec.self, capacity: 2) { vector in
          unsafe readv(socket.raw, vector, 2)
        }
      }
      guard count > VirtioNetHeader.bytes, count < VirtioNetHeader.bytes + room else { return nil }
      return unsafe RxFrame(
        bytes: Bytes(place), length: count - VirtioNetHeader.bytes, virtio: VirtioNetHeader(reading: Bytes(head)),
        headroom: LargeFrames.headroom)
    }
  }

  /// The kernel hands an 802.1Q tag over beside the frame; the packet path wants to see it where it was.
  private func putTagBack(_ frame: inout RxFrame, _ type: UInt16, _ tag: UInt16) {
    let start = frame.bytes.advanced(-4)
    unsafe memmove(start.pointer, frame.bytes.pointer, 12)
    start.set16(12, type)
    start.set16(14, tag)
    frame.bytes = start
    frame.length += 4
    frame.headroom -= min(4, frame.headroom)
    // Without the tag, too, the kernel counted.
    if frame.virtio.flags & VirtioNetHeader.needsChecksum != 0 { frame.virtio.checksumStart &+= 4 }
  }

  /// Packets that found no free slot since the last time this was asked.
  private func kernelDrops() -> Int {
    var statistics = tpacket_stats()
    var size = socklen_t(MemoryLayout<tpacket_stats>.size)
    guard unsafe getsockopt(socket.raw, SOL_PACKET, PACKET_STATISTICS, &statistics, &size) == 0 else { return 0 }
    return Int(statistics.tp_drops)
  }

  public mutating func release() {
    var slot = position &- lent
    if slot < 0 { slot &+= slots }
    while lent > 0 {
      unsafe weft_store_release_u32(ring.base + slot &* slotBytes, PacketSocket.kernels)
      slot = slot &+ 1 == slots ? 0 : slot &+ 1
      lent &-= 1
    }
  }
}
