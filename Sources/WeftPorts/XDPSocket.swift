import CLinux
import Glibc
import WeftSystem
import WeftWire

/// How an af_xdp port's sockets are opened.
public struct XDPSocketOptions: Hashable, Sendable {
  public enum Copying: Hashable, Sendable {
    /// The kernel copies frames where the driver cannot have the NIC use our memory.
    case whereNeeded
    case always
    /// Fails where it would have to.
    case never
  }

  public var copying = Copying.whereNeeded
  /// Microseconds that a system call looks at the NIC's queue; 0: the NIC interrupts.
  public var busyPoll: UInt32 = 0
  /// Packets that it takes at most.
  public var busyPollBudget: UInt32 = 64
  /// Senders are on this machine and leave checksums, and `segments` super-frames, to us.
  public var completes = false
  /// Bytes of IP packet; a TCP packet above is a super-frame.
  public var mtu = 1500
  /// Milliseconds to wait for the queue, where a socket that had it has just been closed.
  public var patience = 0
  /// Towards the underlay: what is to be completed is inside of tunnels.
  public var isFabric = false

  public init() {}
}

/// One queue of a kernel interface through AF_XDP (the kernel's af_xdp.rst), both ways: frames that an XDP program
/// redirects to it come into the port's memory, and frames to be sent are copied there. One worker's own.
@safe public struct XDPSocket: ~Copyable, Receiver {
  public let interface: UInt32
  /// The interface's queue.
  public let queue: UInt32
  /// The NIC uses our memory itself.
  public let isZeroCopy: Bool
  private let socket: Descriptor
  private let memory: XDPMemory
  private let base: UnsafeMutableRawPointer
  private let bytes: Int
  private let frameBytes: Int
  private let options: XDPSocketOptions
  private let mappings: Rings

  private var fill: XDPRing
  private var received: XDPRing
  private var transmitter: XDPTransmitRing
  /// Entries of `received` that are lent out.
  private var lent: UInt32 = 0
  /// Rounds since the kernel was last asked what it lost, and without a frame; what it had lost then.
  private var rounds = 0
  private var quiet = 0
  private var lost: UInt64 = 0

  /// Rounds with frames after which losses are asked for, and rounds without.
  private static let roundsPerLook = 256
  private static let quietPerLook = 32

  public var descriptor: Int32 { socket.raw }
  /// It has memory to send from.
  public var sends: Bool { transmitter.frames > 0 }

  private struct Rings: ~Copyable {
    let fill: Mapping
    let received: Mapping
    let toSend: Mapping
    let completed: Mapping
  }

  /// Opens the socket of a queue; it gets frames once it is in the program's map. `first`: the descriptor of the port's
  /// first socket, nil for that one itself.
  public init(
    interface: UInt32, device: String, kernelIndex: UInt32, queue: Int, memory: XDPMemory, first: Int32?,
    options: XDPSocketOptions
  ) throws(SystemError) {
    let what = "queue \(queue) of \(device)"
    let layout = memory.layout
    let share = layout.shares[queue]
    let flags = Int32(SOCK_RAW.rawValue) | Int32(SOCK_CLOEXEC.rawValue)
    let socket = try Descriptor(Glibc.socket(AF_XDP, flags, 0), "open an AF_XDP socket for", what)
    if first == nil { try memory.register(socket.raw, device: device) }
    let sizes = (
      fill: UInt32(share.receive), received: UInt32(share.receive), toSend: UInt32(max(share.send, 64)),
      completed: UInt32(max(share.send, 64))
    )
    try Self.set(socket.raw, SOL_XDP, XDP_UMEM_FILL_RING, sizes.fill, what)
    try Self.set(socket.raw, SOL_XDP, XDP_UMEM_COMPLETION_RING, sizes.completed, what)
    try Self.set(socket.raw, SOL_XDP, XDP_RX_RING, sizes.received, what)
    try Self.set(socket.raw, SOL_XDP, XDP_TX_RING, sizes.toSend, what)
    if options.busyPoll > 0 {
      try Self.set(socket.raw, SOL_SOCKET, SO_PREFER_BUSY_POLL, 1, what)
      try Self.set(socket.raw, SOL_SOCKET, SO_BUSY_POLL, options.busyPoll, what)
      try Self.set(socket.raw, SOL_SOCKET, SO_BUSY_POLL_BUDGET, options.busyPollBudget, what)
    }
    var offsets = xdp_mmap_offsets()
    var size = socklen_t(MemoryLayout<xdp_mmap_offsets>.size)
    guard unsafe getsockopt(socket.raw, SOL_XDP, XDP_MMAP_OFFSETS, &offsets, &size) == 0,
      size == MemoryLayout<xdp_mmap_offsets>.size
    else { throw SystemError("learn the layout of the rings of", what) }
    // XDP_PGOFF_RX_RING, XDP_PGOFF_TX_RING, XDP_UMEM_PGOFF_FILL_RING, XDP_UMEM_PGOFF_COMPLETION_RING
    let mappings = Rings(
      fill: try Self.map(socket.raw, 0x1_0000_0000, offsets.fr, sizes.fill, 8, what),
      received: try Self.map(socket.raw, 0, offsets.rx, sizes.received, 16, what),
      toSend: try Self.map(socket.raw, 0x8000_0000, offsets.tx, sizes.toSend, 16, what),
      completed: try Self.map(socket.raw, 0x1_8000_0000, offsets.cr, sizes.completed, 8, what))
    var fill = unsafe XDPRing(mappings.fill.base, offsets: offsets.fr, size: sizes.fill)
    let start = layout.offset(queue)
    for number in 0..<share.receive { fill.put(address: UInt64(start + number * layout.frameBytes)) }
    fill.publish()
    isZeroCopy = try Self.bind(
      socket.raw, kernelIndex, UInt32(queue), first, options.copying, usesFragments: layout.usesFragments,
      patience: options.patience, what)
    self.fill = fill
    unsafe received = XDPRing(mappings.received.base, offsets: offsets.rx, size: sizes.received)
    transmitter = unsafe XDPTransmitRing(
      socket: socket.raw, memory: memory, firstFrame: start + share.receive * layout.frameBytes, frames: share.send,
      isZeroCopy: isZeroCopy,
      toSend: XDPRing(mappings.toSend.base, offsets: offsets.tx, size: sizes.toSend),
      completed: XDPRing(mappings.completed.base, offsets: offsets.cr, size: sizes.completed))
    self.mappings = mappings
    self.interface = interface
    self.queue = UInt32(queue)
    self.memory = memory
    unsafe base = memory.mapping.base
    bytes = memory.mapping.count
    frameBytes = layout.frameBytes
    self.options = options
    self.socket = socket
  }

  /// Whether it does without copies.
  static func bind(
    _ socket: Int32, _ kernelIndex: UInt32, _ queue: UInt32, _ first: Int32?, _ copying: XDPSocketOptions.Copying,
    usesFragments: Bool, patience: Int, _ what: String
  ) throws(SystemError) -> Bool {
    var address = sockaddr_xdp()
    address.sxdp_family = UInt16(AF_XDP)
    address.sxdp_ifindex = kernelIndex
    address.sxdp_queue_id = queue
    if let first {
      // The others do as the first.
      address.sxdp_flags = UInt16(XDP_SHARED_UMEM)
      address.sxdp_shared_umem_fd = UInt32(bitPattern: first)
    } else {
      var flags = UInt16(XDP_USE_NEED_WAKEUP)
      if usesFragments { flags |= UInt16(XDP_USE_SG) }
      switch copying {
      case .whereNeeded: break
      case .always: flags |= UInt16(XDP_COPY)
      case .never: flags |= UInt16(XDP_ZEROCOPY)
      }
      address.sxdp_flags = flags
    }
    var status: Int32
    var tries = 0
    repeat {
      status = unsafe withUnsafePointer(to: &address) { pointer in
        unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
          unsafe Glibc.bind(socket, $0, socklen_t(MemoryLayout<sockaddr_xdp>.size))
        }
      }
      guard status != 0, errno == EBUSY, tries < patience / 5 else { break }
      // The kernel lets go of a closed socket's queue some time after it has been closed.
      tries += 1
      usleep(5000)
    } while true
    guard status == 0 else {
      let code = errno
      let hint =
        code == EBUSY
        ? " (another program has it open)"
        : usesFragments && code == EINVAL ? " (frames in several places take kernel 6.6)" : ""
      throw SystemError("bind an AF_XDP socket to", what + hint, code: code)
    }
    var chosen = xdp_options()
    var size = socklen_t(MemoryLayout<xdp_options>.size)
    guard unsafe getsockopt(socket, SOL_XDP, XDP_OPTIONS, &chosen, &size) == 0 else { return false }
    return chosen.flags & UInt32(XDP_OPTIONS_ZEROCOPY) != 0
  }

  static func set(
    _ socket: Int32, _ level: Int32, _ option: Int32, _ value: UInt32, _ what: String
  ) throws(SystemError) {
    var value = value
    guard unsafe setsockopt(socket, level, option, &value, 4) == 0 else {
      throw SystemError("set option \(option) of the AF_XDP socket of", what)
    }
  }

  static func map(
    _ socket: Int32, _ place: Int, _ offsets: xdp_ring_offset, _ size: UInt32, _ entryBytes: Int, _ what: String
  ) throws(SystemError) -> Mapping {
    try Mapping(
      descriptor: socket, bytes: Int(offsets.desc) + Int(size) * entryBytes, offset: place, writable: true,
      what: "rings of \(what)")
  }

  // MARK: receiving

  public mutating func receive(_ frames: inout RxFrames, _ large: borrowing LargeFrames) -> Int {
    var left = received.available(UInt32(RxFrames.capacity))
    guard left > 0 else { return waitQuietly() }
    quiet = 0
    var damaged = 0
    while !frames.isFull, left > 0 {
      let entry = received.descriptor(received.position &+ lent)
      let start = Int(truncatingIfNeeded: entry.address)
      // What the kernel says is within the memory; a damaged ring must not lead elsewhere.
      let isWithin = start >= 0 && start &+ Int(entry.length) <= bytes
      if entry.options & UInt32(XDP_PKT_CONTD) != 0 {
        guard let count = gather(left, &frames, large, &damaged) else { break }
        lent &+= count
        left &-= count
        continue
      }
      lent &+= 1
      left &-= 1
      guard isWithin else {
        damaged &+= 1
        continue
      }
      // What is before it in its place (XDP_PACKET_HEADROOM) is this side's too, until the place is given back.
      append(unsafe Bytes(base + start), Int(entry.length), start & (frameBytes &- 1), &frames)
    }
    rounds &+= 1
    return rounds >= Self.roundsPerLook ? damaged &+ losses() : damaged
  }

  @inline(__always)
  private func append(_ at: Bytes, _ length: Int, _ headroom: Int, _ frames: inout RxFrames) {
    var virtio = VirtioNetHeader()
    if options.completes {
      PeerOffloads.find(at, length, mtu: options.mtu, isFabric: options.isFabric, &virtio)
    }
    frames.append(RxFrame(bytes: at, length: length, virtio: virtio, headroom: headroom))
  }

  /// A frame in several places is put together. How many entries it had; nil where the last of them is not there yet.
  private mutating func gather(
    _ left: UInt32, _ frames: inout RxFrames, _ large: borrowing LargeFrames, _ damaged: inout Int
  ) -> UInt32? {
    let to = unsafe large.place(frames.count)
    var length = 0
    var count: UInt32 = 0
    var fits = true
    while true {
      guard count < left else { return nil }
      let entry = received.descriptor(received.position &+ lent &+ count)
      count &+= 1
      let start = Int(truncatingIfNeeded: entry.address)
      if fits, start >= 0, start &+ Int(entry.length) <= bytes, length &+ Int(entry.length) <= large.bytes {
        unsafe (to + length).copyMemory(from: base + start, byteCount: Int(entry.length))
        length &+= Int(entry.length)
      } else {
        fits = false
      }
      if entry.options & UInt32(XDP_PKT_CONTD) == 0 { break }
    }
    if fits { append(unsafe Bytes(to), length, LargeFrames.headroom, &frames) } else { damaged &+= 1 }
    return count
  }

  public mutating func release() {
    guard lent > 0 else { return }
    // There are no more frames than places.
    let room = min(lent, fill.room(lent))
    for number in 0..<room {
      let address = received.descriptor(received.position &+ number).address
      fill.put(address: address & ~UInt64(frameBytes &- 1))
    }
    fill.publish()
    received.take(lent)
    lent = 0
    if fill.wantsWakeup { wakeReceiver() }
  }

  private func wakeReceiver() { _ = recvfrom(socket.raw, nil, 0, Int32(MSG_DONTWAIT), nil, nil) }

  /// Nothing has come.
  private mutating func waitQuietly() -> Int {
    if options.busyPoll > 0 { wakeReceiver() }
    quiet &+= 1
    if quiet == Self.quietPerLook {
      transmitter.reclaim()
      if rounds > 0 { return losses() }
    }
    return 0
  }

  /// Packets that the kernel had to drop since this was asked last.
  private mutating func losses() -> Int {
    rounds = 0
    let now = statistics()
    // Without copying the driver drops where there is no free place, else the socket does, which counts it as dropped.
    let total = now.dropped &+ now.ringFull &+ (isZeroCopy ? now.fillEmpty : 0)
    let new = total &- lost
    lost = total
    return Int(truncatingIfNeeded: new)
  }

  /// The kernel's counters of this socket (XDP_STATISTICS).
  public func statistics() -> XDPStatistics {
    var values = xdp_statistics()
    var size = socklen_t(MemoryLayout<xdp_statistics>.size)
    guard unsafe getsockopt(socket.raw, SOL_XDP, XDP_STATISTICS, &values, &size) == 0 else { return XDPStatistics() }
    return XDPStatistics(
      dropped: values.rx_dropped, ringFull: values.rx_ring_full, fillEmpty: values.rx_fill_ring_empty_descs,
      invalid: values.rx_invalid_descs &+ values.tx_invalid_descs)
  }

  // MARK: sending

  /// Sends the frames of `tx` that are for `interface`, this socket's or that of a VLAN on it.
  public mutating func send(_ tx: TxFrames, interface: UInt32) -> SendResult {
    transmitter.send(tx, interface: interface)
  }
}

/// What the kernel counts for an AF_XDP socket.
public struct XDPStatistics: Hashable, Sendable {
  /// Packets dropped for other reasons than a full ring: no free place, or too long.
  public var dropped: UInt64 = 0
  public var ringFull: UInt64 = 0
  /// Times that there was no free place.
  public var fillEmpty: UInt64 = 0
  /// Entries that the kernel found to be none.
  public var invalid: UInt64 = 0

  public init(dropped: UInt64 = 0, ringFull: UInt64 = 0, fillEmpty: UInt64 = 0, invalid: UInt64 = 0) {
    self.dropped = dropped
    self.ringFull = ringFull
    self.fillEmpty = fillEmpty
    self.invalid = invalid
  }
}
