import CLinux
import Glibc
import WeftSystem

/// One network card of a virtual machine, as its front end describes it by messages: the back end of vhost-user, split
/// virtqueues (QEMU's docs/interop/vhost-user.rst). The control thread's; workers have the queues of `attach` until they
/// have let go of them.
@safe public final class VhostDevice {
  /// Pairs of queues that a guest may have.
  public static let maximumPairs = 32

  private struct Ring: ~Copyable {
    var size = 0
    var base: UInt16 = 0
    var addresses: VhostRingAddresses?
    var kick: Descriptor?
    var call: Descriptor?
    /// A `call` of before that workers may still use.
    var retired: Descriptor?
    var error: Descriptor?
    var isEnabled = false
    let cell = VhostCell()
  }

  private let interface: UInt32
  /// Bytes of IP packet.
  private let mtu: UInt16
  private var socket: VhostSocket
  private var rings: [RingBox] = []
  private var memory: VhostMemory?
  private var acknowledged = VhostFeatures()
  private var protocolFeatures: UInt64 = 0
  private var hasOwner = false
  private var attachment: VhostAttachment?

  /// Of the protocol: several queues, replies that are asked for, the MTU.
  private static let protocolOffered: UInt64 = 1 << 0 | 1 << 3 | 1 << 4

  private final class RingBox {
    var ring = Ring()
    var kick: Int32? { ring.kick?.raw }
    var isReady: Bool { ring.isEnabled && kick != nil && ring.size > 0 && ring.addresses != nil }
    deinit { ring.cell.deallocate() }
  }

  public init(_ socket: consuming Descriptor, interface: UInt32, mtu: UInt16) {
    self.interface = interface
    self.mtu = mtu
    self.socket = VhostSocket(socket)
    for _ in 0..<Self.maximumPairs * 2 { rings.append(RingBox()) }
  }

  public var descriptor: Int32 { socket.raw }
  public var features: VhostFeatures { acknowledged }

  /// What workers are to have. New with each change; the old one lives for as long as somebody holds it.
  public func attach(workers: Int) -> VhostAttachment? {
    guard let memory else { return nil }
    let made = VhostAttachment(memory, interface: interface)
    for (number, box) in rings.enumerated() where box.isReady {
      guard let addresses = box.ring.addresses, let kick = box.kick,
        let ring = VhostRing(
          memory, addresses, size: box.ring.size, base: box.ring.base, features: acknowledged, cell: box.ring.cell)
      else { continue }
      made.add(ring, number: number, kick: kick)
    }
    made.share(workers)
    attachment = made
    return made
  }

  /// Workers have let go of what `attach` gave: where they stopped is noted.
  public func detached() {
    guard let there = attachment else { return }
    for (number, position) in there.positions() { rings[number].ring.base = position }
    attachment = nil
  }

  /// Queues that were stopped since this was asked last, and why. Who asked for it is told.
  public func takeFaults() -> [(queue: Int, fault: VhostRingFault)] {
    guard attachment != nil else { return [] }
    return rings.enumerated().compactMap { number, box in
      guard let fault = box.ring.cell.takeFault() else { return nil }
      box.ring.error?.signal()
      return (number, fault)
    }
  }

  public var isTruncated: Bool { memory?.isTruncated ?? false }

  // MARK: messages

  /// Takes messages that have come, at most `limit`. `pause`: has the workers let go of all queues before something of
  /// theirs changes. `settle`: waits until they have seen what they were given. False: the front end has gone.
  public func serve(
    limit: Int, pause: () throws(VhostFault) -> Void, settle: () throws(VhostFault) -> Void
  ) throws(VhostFault) -> Bool {
    for _ in 0..<limit {
      switch try socket.next() {
      case .nothing: return true
      case .ended: return false
      case .message(let message, let descriptors):
        var files = descriptors.map { Optional(Owned($0)) }
        try take(message, &files, pause, settle)
      }
    }
    return true
  }

  /// A descriptor that came with a message: closed unless somebody takes it.
  private final class Owned {
    let raw: Int32
    private var isTaken = false
    init(_ raw: Int32) { self.raw = raw }
    func take() -> Descriptor {
      isTaken = true
      return Descriptor(owning: raw)
    }
    deinit { if !isTaken { _ = close(raw) } }
  }

  private func take(
    _ message: VhostMessage, _ files: inout [Owned?], _ pause: () throws(VhostFault) -> Void,
    _ settle: () throws(VhostFault) -> Void
  ) throws(VhostFault) {
    guard let request = VhostRequest(rawValue: message.request) else {
      throw VhostFault("request \(message.request) is not known")
    }
    let wanted = Self.bodyBytes(request)
    guard wanted.contains(message.body.count) else {
      throw VhostFault("\(request) has \(message.body.count) bytes")
    }
    do throws(VhostFault) {
      guard let answer = try apply(request, message, &files, pause, settle) else {
        if message.flags & VhostMessage.wantsReply != 0, protocolFeatures & 1 << 3 != 0 {
          try socket.answer(message, 0)
        }
        return
      }
      try socket.answer(message, answer)
    } catch {
      if message.flags & VhostMessage.wantsReply != 0, protocolFeatures & 1 << 3 != 0 {
        try? socket.answer(message, 1)
      }
      throw error
    }
  }

  private static func bodyBytes(_ request: VhostRequest) -> ClosedRange<Int> {
    switch request {
    case .getFeatures, .setOwner, .resetOwner, .getProtocolFeatures, .getQueueCount: 0...0
    case .setMemoryTable: 8...VhostMessage.maximumBytes
    case .setRingAddresses: 40...40
    case .setLogBase, .setLogDescriptor: 0...VhostMessage.maximumBytes
    default: 8...8
    }
  }

  /// The answer, where the request has one.
  private func apply(
    _ request: VhostRequest, _ message: VhostMessage, _ files: inout [Owned?], _ pause: () throws(VhostFault) -> Void,
    _ settle: () throws(VhostFault) -> Void
  ) throws(VhostFault) -> [UInt8]? {
    func bytes(_ value: UInt64) -> [UInt8] { (0..<8).map { UInt8(truncatingIfNeeded: value >> ($0 * 8)) } }
    switch request {
    case .getFeatures: return bytes(VhostFeatures.offered.rawValue)
    case .getProtocolFeatures: return bytes(Self.protocolOffered)
    case .getQueueCount: return bytes(UInt64(Self.maximumPairs))
    case .setOwner:
      guard !hasOwner else { throw VhostFault("the device has an owner already") }
      hasOwner = true
    case .resetOwner:
      try pause()
      hasOwner = false
      for box in rings { box.ring.isEnabled = false }
    case .setFeatures:
      let features = VhostFeatures(rawValue: message.u64(0))
      guard features.isSubset(of: .offered) else {
        let extra = features.subtracting(.offered).rawValue
        throw VhostFault("features 0x\(String(extra, radix: 16)) were acknowledged and never offered")
      }
      guard features != acknowledged else { break }
      try pause()
      acknowledged = features
      // Without the protocol's own features nobody enables queues one by one.
      if !features.contains(.protocolFeatures) { for box in rings { box.ring.isEnabled = true } }
    case .setProtocolFeatures:
      guard message.u64(0) & ~Self.protocolOffered == 0 else {
        throw VhostFault("protocol features 0x\(String(message.u64(0), radix: 16)) were never offered")
      }
      protocolFeatures = message.u64(0)
    case .setMemoryTable: try setMemory(message, files, pause)
    case .setLogBase, .setLogDescriptor: throw VhostFault("logging of dirty memory was never offered")
    case .setMTU:
      guard message.u64(0) <= UInt64(mtu) else {
        throw VhostFault("an MTU of \(message.u64(0)) is asked for (host_mtu), and the port carries \(mtu)")
      }
    case .sendRARP: throw VhostFault("announcements by the back end were never offered")
    default: return try applyToRing(request, message, &files, pause, settle)
    }
    return nil
  }

  private func setMemory(
    _ message: VhostMessage, _ files: [Owned?], _ pause: () throws(VhostFault) -> Void
  ) throws(VhostFault) {
    let count = Int(message.u32(0))
    guard (1...VhostMemory.maximumRegions).contains(count), message.body.count >= 8 + count * 32 else {
      throw VhostFault("a memory table of \(count) regions has \(message.body.count) bytes")
    }
    guard files.count == count else {
      throw VhostFault("a memory table of \(count) regions has \(files.count) descriptors")
    }
    var claims: [(claim: VhostMemory.Claim, descriptor: Int32)] = []
    for (number, file) in files.enumerated() {
      let at = 8 + number * 32
      claims.append(
        (
          VhostMemory.Claim(
            guest: message.u64(at), bytes: message.u64(at + 8), user: message.u64(at + 16),
            offset: message.u64(at + 24)), file?.raw ?? -1
        ))
    }
    let new = try VhostMemory(claims)
    try pause()
    memory = new
  }

  private func applyToRing(
    _ request: VhostRequest, _ message: VhostMessage, _ files: inout [Owned?], _ pause: () throws(VhostFault) -> Void,
    _ settle: () throws(VhostFault) -> Void
  ) throws(VhostFault) -> [UInt8]? {
    let isFile = [.setRingKick, .setRingCall, .setRingError].contains(request)
    let number = isFile ? Int(message.u64(0) & 0xFF) : Int(message.u32(0))
    guard number < rings.count else { throw VhostFault("\(request) is for queue \(number) of \(rings.count)") }
    let box = rings[number]
    switch request {
    case .setRingSize:
      let size = Int(message.u32(4))
      guard size > 0, size <= VhostRing.maximumSize, size & (size - 1) == 0 else {
        throw VhostFault("queue \(number) is to have \(size) entries, which is no power of two up to 32768")
      }
      try pause()
      box.ring.size = size
    case .setRingAddresses:
      guard message.u32(4) == 0 else { throw VhostFault("queue \(number) is to be logged, which was never offered") }
      try pause()
      box.ring.addresses = VhostRingAddresses(
        descriptors: message.u64(8), available: message.u64(24), used: message.u64(16))
    case .setRingBase:
      guard message.u32(4) <= UInt32(UInt16.max) else {
        throw VhostFault("queue \(number) is to begin at \(message.u32(4)); split queues count to 65535")
      }
      try pause()
      box.ring.base = UInt16(message.u32(4))
    case .getRingBase:
      try pause()
      box.ring.kick = nil
      _ = box.ring.cell.takeFault()
      return (0..<4).map { UInt8(truncatingIfNeeded: number >> ($0 * 8)) } + [
        UInt8(truncatingIfNeeded: box.ring.base), UInt8(truncatingIfNeeded: box.ring.base >> 8), 0, 0,
      ]
    case .setRingEnable:
      guard message.u32(4) <= 1 else { throw VhostFault("queue \(number) is enabled by \(message.u32(4))") }
      guard box.ring.isEnabled != (message.u32(4) == 1) else { break }
      try pause()
      box.ring.isEnabled = message.u32(4) == 1
    default:
      let event = try event(message, &files, number)
      switch request {
      case .setRingKick:
        guard let event else { throw VhostFault("queue \(number) is to be polled: an eventfd to kick by is needed") }
        try pause()
        if !acknowledged.contains(.protocolFeatures) { box.ring.isEnabled = true }
        box.ring.kick = event.take()
        try check(box.ring, number)
      case .setRingCall:
        let raw = event?.raw ?? -1
        box.ring.retired = box.ring.call.take()
        box.ring.call = event?.take()
        box.ring.cell.setCall(raw)
        // The number of the old one may be another file's as soon as it is closed.
        if box.ring.retired != nil {
          try settle()
          box.ring.retired = nil
        }
      default: box.ring.error = event?.take()
      }
    }
    return nil
  }

  /// What is to be started has to lie in the memory.
  private func check(_ ring: borrowing Ring, _ number: Int) throws(VhostFault) {
    guard let memory, let addresses = ring.addresses, ring.size > 0 else { return }
    guard unsafe memory.place(user: addresses.descriptors, bytes: ring.size * 16, alignment: 16) != nil,
      unsafe memory.place(user: addresses.available, bytes: 6 + ring.size * 2, alignment: 2) != nil,
      unsafe memory.place(user: addresses.used, bytes: 6 + ring.size * 8, alignment: 4) != nil
    else { throw VhostFault("queue \(number)'s rings are not in the guest's memory, or not aligned") }
  }

  /// The eventfd of a message; nil where it says that there is none (bit 8).
  private func event(_ message: VhostMessage, _ files: inout [Owned?], _ number: Int) throws(VhostFault) -> Owned? {
    if message.u64(0) & 0x100 != 0 { return nil }
    guard files.count == 1, let file = files[0] else {
      throw VhostFault("a message for queue \(number) has \(files.count) descriptors, not one")
    }
    // Whatever else it might be, workers would wait for it or write to it.
    var link = [CChar](repeating: 0, count: 64)
    _ = unsafe readlink("/proc/self/fd/\(file.raw)", &link, link.count - 1)
    let name = String(decoding: link.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    guard name == "anon_inode:[eventfd]", weft_set_nonblocking(file.raw) == 0 else {
      throw VhostFault("the descriptor for queue \(number) is no eventfd (\(name))")
    }
    return file
  }
}
