import CLinux
import Glibc
import WeftSystem

/// The forwarder's end of one client's channel. Used by the control thread alone.
public final class ServerChannel {
  public enum Role: Sendable {
    case agent
    case observer
  }

  public let role: Role
  public let clientPID: Int32
  private let socket: Descriptor
  private let memory: Descriptor
  private let mapping: Mapping
  private let commandEvent: Descriptor
  private let completionEvent: Descriptor
  private let eventEvent: Descriptor
  private var commands: SPSCRing
  private var completions: SPSCRing
  private var events: SPSCRing
  private var lostEvents: UInt64 = 0

  /// Readable when commands wait.
  public var commandDescriptor: Int32 { commandEvent.raw }
  /// Readable (end of file) when the client has gone.
  public var socketDescriptor: Int32 { socket.raw }

  init(role: Role, clientPID: Int32, socket: consuming Descriptor) throws(SystemError) {
    self.role = role
    self.clientPID = clientPID
    self.socket = socket
    memory = try Descriptor(
      unsafe memfd_create("weft-ring", UInt32(MFD_CLOEXEC) | UInt32(MFD_ALLOW_SEALING)), "make", "ring memory")
    guard ftruncate(memory.raw, RingLayout.totalBytes) == 0, weft_seal(memory.raw) == 0 else {
      throw SystemError("size", "ring memory")
    }
    mapping = try Mapping(descriptor: memory.raw, bytes: RingLayout.totalBytes, writable: true, what: "ring memory")
    commandEvent = try .event()
    completionEvent = try .event()
    eventEvent = try .event()
    unsafe commands = RingLayout.commandRing(mapping.base)
    unsafe completions = RingLayout.completionRing(mapping.base)
    unsafe events = RingLayout.eventRing(mapping.base)
    unsafe mapping.base.storeBytes(of: getpid(), toByteOffset: RingLayout.forwarderPID, as: Int32.self)
    unsafe mapping.base.storeBytes(of: clientPID, toByteOffset: RingLayout.clientPID, as: Int32.self)
    unsafe RingLayout.writeHeader(mapping.base)
  }

  func handOver(statistics: StatisticsRegion) throws(SystemError) {
    let readOnly = try statistics.readOnly()
    var descriptors = [memory.raw, readOnly.raw, commandEvent.raw, completionEvent.raw, eventEvent.raw]
    let answer = handshakeAnswer(Handshake.accepted)
    guard unsafe weft_send_fds(socket.raw, answer, answer.count, &descriptors, Int32(descriptors.count)) == 0 else {
      throw SystemError("hand over", "ring memory")
    }
  }

  /// Hands a capture's memory over, before the command that asked for it is answered.
  public func handOver(capture id: UInt32, memory: borrowing Descriptor) throws(SystemError) {
    var descriptors = [memory.raw]
    let message = (0..<4).map { UInt8(truncatingIfNeeded: id >> UInt32(8 * $0)) }
    guard unsafe weft_send_fds(socket.raw, message, message.count, &descriptors, 1) == 0 else {
      throw SystemError("hand over", "a capture's memory")
    }
  }

  /// Forgets the wake-ups so far; look for commands after it, not before.
  public func acknowledgeWakeup() { commandEvent.drain() }

  /// True when the completion ring has room for `count` more.
  public func canComplete(_ count: Int) throws(RingCorrupt) -> Bool { try completions.free() >= count }
  public func freeCompletions() throws(RingCorrupt) -> Int { try completions.free() }

  /// The next command, or why it is none; nil when none waits.
  public func next() throws(RingCorrupt) -> (sequence: UInt64, command: Result<Command, Refusal>)? {
    guard let message = try commands.read() else { return nil }
    return (message.sequence, Command.read(message))
  }

  public func hasCommands() throws(RingCorrupt) -> Bool { try commands.waiting() > 0 }

  /// Puts a completion into the ring; the caller has made sure of room with `canComplete`.
  public func complete(_ completion: Completion) throws(RingCorrupt) {
    let written = try completions.write(kind: completion.kindValue, sequence: completion.sequence) {
      completion.write(to: &$0)
    }
    precondition(written, "a completion without room in the ring")
  }

  public func wakeClient() { completionEvent.signal() }

  public func freeEvents() throws(RingCorrupt) -> Int { try events.free() }

  /// Puts an event into the ring; counts it as lost when there is no room, and says so when there is again.
  public func emit(_ event: Event) throws(RingCorrupt) {
    if lostEvents > 0 {
      let note = Event.lost(count: lostEvents)
      if try events.write(kind: note.kindValue, sequence: 0, { note.write(to: &$0) }) { lostEvents = 0 }
    }
    var written = false
    if lostEvents == 0 { written = try events.write(kind: event.kindValue, sequence: 0) { event.write(to: &$0) } }
    if !written { lostEvents += 1 }
    eventEvent.signal()
  }

  public func beat(now: UInt64) {
    unsafe weft_store_release_u64(mapping.base + RingLayout.forwarderHeartbeat, now)
  }
}

private func handshakeAnswer(_ status: UInt32) -> [UInt8] {
  var bytes: [UInt8] = []
  for value in [Handshake.magic, RingLayout.version, status, UInt32(bitPattern: getpid())] {
    for shift in 0..<4 { bytes.append(UInt8(truncatingIfNeeded: value >> UInt32(8 * shift))) }
  }
  return bytes
}

/// Listens on the Unix socket at which clients ask for their channel.
public final class RingServer {
  private let listener: Descriptor
  private let path: String
  private let statistics: StatisticsRegion
  /// The file at `path` is ours.
  private var isBound = false

  public var descriptor: Int32 { listener.raw }

  /// Binds `path` for the owner alone (mode 0600). A socket file whose owner is gone is replaced; one that answers is
  /// an error.
  public init(path: String, statistics: StatisticsRegion) throws(SystemError) {
    self.path = path
    self.statistics = statistics
    listener = try Descriptor(
      socket(AF_UNIX, Int32(SOCK_SEQPACKET.rawValue) | Int32(SOCK_CLOEXEC.rawValue) | Int32(SOCK_NONBLOCK.rawValue), 0),
      "make", "Unix socket")
    try Self.makeWay(path)
    let old = umask(0o177)
    defer { umask(old) }
    unsafe try UnixSocket.withAddress(path) { address, length throws(SystemError) in
      guard unsafe bind(listener.raw, address, length) == 0 else { throw SystemError("bind", path) }
    }
    isBound = true
    guard listen(listener.raw, 64) == 0 else { throw SystemError("listen at", path) }
  }

  deinit { if isBound { _ = unsafe unlink(path) } }

  /// Removes the socket's file, for a process that exits without deinitialising.
  public func end() {
    if isBound { _ = unsafe unlink(path) }
    isBound = false
  }

  /// What a forwarder that was killed had is being closed when its successor starts, the socket last of all that the
  /// latter could find in use: it is waited for. One that is full answers too.
  private static func makeWay(_ path: String) throws(SystemError) {
    guard unsafe access(path, F_OK) == 0 else { return }
    let end = weft_monotonic_ns() + patience
    while answers(path) {
      guard weft_monotonic_ns() < end else {
        throw SystemError("bind", "\(path) (another forwarder answers there)", code: EADDRINUSE)
      }
      usleep(2000)
    }
    _ = unsafe unlink(path)
  }

  private static func answers(_ path: String) -> Bool {
    let flags = Int32(SOCK_SEQPACKET.rawValue) | Int32(SOCK_CLOEXEC.rawValue) | Int32(SOCK_NONBLOCK.rawValue)
    guard let probe = try? Descriptor(socket(AF_UNIX, flags, 0), "make", "Unix socket") else { return false }
    var isThere = false
    _ = try? unsafe UnixSocket.withAddress(path) { address, length throws(SystemError) in
      isThere = unsafe connect(probe.raw, address, length) == 0 || errno == EAGAIN
    }
    return isThere
  }

  private static let patience: UInt64 = 2_000_000_000

  /// A client that connected, waiting for its hello; nil when there is none.
  public func accept() -> Descriptor? {
    let client = weft_accept(listener.raw)
    return client < 0 ? nil : Descriptor(owning: client)
  }

  /// Answers a client whose hello can be read: a channel, or nil when it was refused (and told why) or is gone.
  public func admit(_ client: consuming Descriptor, agentPresent: Bool) -> ServerChannel? {
    var hello = [UInt8](repeating: 0, count: Handshake.helloBytes)
    let count = unsafe recv(client.raw, &hello, hello.count, 0)
    func word(_ at: Int) -> UInt32 { (0..<4).reduce(0) { $0 | UInt32(hello[at + $1]) << UInt32(8 * $1) } }
    func refuse(_ status: UInt32) {
      let answer = handshakeAnswer(status)
      _ = unsafe send(client.raw, answer, answer.count, Int32(MSG_NOSIGNAL))
    }
    guard count == Handshake.helloBytes, word(0) == Handshake.magic, word(4) == RingLayout.version else {
      if count > 0 { refuse(Handshake.incompatible) }
      return nil
    }
    let role: ServerChannel.Role
    switch word(8) {
    case Handshake.agent where agentPresent:
      refuse(Handshake.busy)
      return nil
    case Handshake.agent: role = .agent
    case Handshake.observer: role = .observer
    default:
      refuse(Handshake.incompatible)
      return nil
    }
    do throws(SystemError) {
      let channel = try ServerChannel(role: role, clientPID: Int32(bitPattern: word(12)), socket: client)
      try channel.handOver(statistics: statistics)
      return channel
    } catch { return nil }
  }
}

/// Unix sockets by path.
enum UnixSocket {
  static func withAddress(
    _ path: String, _ body: (UnsafePointer<sockaddr>, socklen_t) throws(SystemError) -> Void
  ) throws(SystemError) {
    var address = sockaddr_un()
    let capacity = MemoryLayout.size(ofValue: address.sun_path)
    let bytes = Array(path.utf8)
    guard bytes.count < capacity, !bytes.isEmpty, !bytes.contains(0) else {
      throw SystemError("use the socket path", "\(path) (at most \(capacity - 1) bytes)", code: ENAMETOOLONG)
    }
    address.sun_family = sa_family_t(AF_UNIX)
    unsafe withUnsafeMutableBytes(of: &address.sun_path) { unsafe $0.copyBytes(from: bytes) }
    var result: Result<Void, SystemError> = .success(())
    unsafe withUnsafePointer(to: &address) { pointer in
      unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { rebound in
        do throws(SystemError) {
          try unsafe body(rebound, socklen_t(MemoryLayout<sockaddr_un>.size))
        } catch { result = .failure(error) }
      }
    }
    try result.get()
  }

  static func connect(path: String) throws(SystemError) -> Descriptor {
    let descriptor = try Descriptor(
      socket(AF_UNIX, Int32(SOCK_SEQPACKET.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0), "make", "Unix socket")
    let raw = descriptor.raw
    unsafe try withAddress(path) { address, length throws(SystemError) in
      guard unsafe Glibc.connect(raw, address, length) == 0 else { throw SystemError("connect to", path) }
    }
    return descriptor
  }
}
