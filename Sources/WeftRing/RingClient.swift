import CLinux
import Glibc
import Synchronization
import WeftSystem

/// Why a forwarder cannot be talked to.
public enum RingError: Error, Sendable, CustomStringConvertible {
  /// Nobody answers at the socket.
  case unreachable(path: String, reason: String)
  /// The forwarder answered and said no.
  case rejected(path: String, reason: String)
  /// The forwarder went away.
  case disconnected
  /// The forwarder wrote something that is no message: versions differ, or memory is damaged.
  case corrupt(String)

  public var description: String {
    switch self {
    case .unreachable(let path, let reason):
      "cannot reach a forwarder at \(path): \(reason); is weft-vrouter running, and with this --socket?"
    case .rejected(let path, let reason): "the forwarder at \(path) refused: \(reason)"
    case .disconnected: "the forwarder went away"
    case .corrupt(let what): "the forwarder's ring holds no sense: \(what); are both of one version?"
    }
  }
}

/// A client's end of a channel: the agent's, or a reader's. All calls block the calling thread and may be made from
/// any thread; commands of several threads go one after the other.
public final class RingClient: @unchecked Sendable {
  public enum Role: Sendable {
    /// May change tables. One at a time.
    case agent
    /// May only read.
    case observer
  }

  public let path: String
  public let forwarderPID: Int32
  public let statistics: StatisticsReader
  private let socket: Descriptor
  private let mapping: Mapping
  private let commandEvent: Descriptor
  private let completionEvent: Descriptor
  private let eventEvent: Descriptor

  private struct Rings {
    var commands: SPSCRing
    var completions: SPSCRing
    var sequence: UInt64 = 0
  }
  /// Guarded by `exchanging`.
  private var rings: Rings
  private let exchanging = Mutex(())
  /// Guarded by `taking`.
  private var events: SPSCRing
  private let taking = Mutex(())
  private let gone = Atomic<Bool>(false)

  private init(
    path: String, pid: Int32, socket: consuming Descriptor, memory: consuming Descriptor,
    statistics: consuming Descriptor, commandEvent: consuming Descriptor, completionEvent: consuming Descriptor,
    eventEvent: consuming Descriptor
  ) throws(SystemError) {
    self.path = path
    forwarderPID = pid
    self.socket = socket
    var status = stat()
    guard unsafe fstat(memory.raw, &status) == 0, Int(status.st_size) == RingLayout.totalBytes else {
      throw SystemError("use", "ring memory of another size", code: EPROTO)
    }
    mapping = try Mapping(descriptor: memory.raw, bytes: RingLayout.totalBytes, writable: true, what: "ring memory")
    guard unsafe RingLayout.headerMatches(mapping.base) else {
      throw SystemError("use", "ring memory of another version", code: EPROTO)
    }
    self.statistics = try StatisticsReader(descriptor: statistics)
    self.commandEvent = commandEvent
    self.completionEvent = completionEvent
    self.eventEvent = eventEvent
    unsafe rings = Rings(
      commands: RingLayout.commandRing(mapping.base), completions: RingLayout.completionRing(mapping.base))
    unsafe events = RingLayout.eventRing(mapping.base)
  }

  /// Asks the forwarder at `path` for a channel. Throws `.unreachable` or `.rejected`.
  public static func connect(path: String, role: Role) throws(RingError) -> RingClient {
    let socket: Descriptor
    do throws(SystemError) { socket = try UnixSocket.connect(path: path) } catch {
      throw .unreachable(path: path, reason: SystemError.text(error.code))
    }
    var wait = timeval(tv_sec: 5, tv_usec: 0)
    _ = unsafe setsockopt(socket.raw, SOL_SOCKET, SO_RCVTIMEO, &wait, socklen_t(MemoryLayout<timeval>.size))
    var hello: [UInt8] = []
    for value in [
      Handshake.magic, RingLayout.version, role == .agent ? Handshake.agent : Handshake.observer,
      UInt32(bitPattern: getpid()),
    ] {
      for shift in 0..<4 { hello.append(UInt8(truncatingIfNeeded: value >> UInt32(8 * shift))) }
    }
    guard unsafe send(socket.raw, hello, hello.count, Int32(MSG_NOSIGNAL)) == hello.count else {
      throw .unreachable(path: path, reason: SystemError.text(errno))
    }
    var answer = [UInt8](repeating: 0, count: Handshake.answerBytes)
    var descriptors = [Int32](repeating: -1, count: 8)
    var count: Int32 = 0
    let received = unsafe weft_receive_fds(socket.raw, &answer, answer.count, &descriptors, &count)
    func word(_ at: Int) -> UInt32 { (0..<4).reduce(0) { $0 | UInt32(answer[at + $1]) << UInt32(8 * $1) } }
    guard received == Handshake.answerBytes, word(0) == Handshake.magic else {
      for descriptor in descriptors.prefix(Int(count)) { _ = Glibc.close(descriptor) }
      throw .rejected(path: path, reason: "it gave no answer that a weft-vrouter would give")
    }
    guard word(8) == Handshake.accepted, count == Handshake.descriptors else {
      for descriptor in descriptors.prefix(Int(count)) { _ = Glibc.close(descriptor) }
      let reason =
        switch word(8) {
        case Handshake.busy: "another agent is connected; stop it first"
        case Handshake.incompatible:
          "it speaks ring version \(word(4)), this program \(RingLayout.version); use programs of one version"
        default: "it could not set up a ring; see its log"
        }
      throw .rejected(path: path, reason: reason)
    }
    do throws(SystemError) {
      return try RingClient(
        path: path, pid: Int32(bitPattern: word(12)), socket: socket, memory: Descriptor(owning: descriptors[0]),
        statistics: Descriptor(owning: descriptors[1]), commandEvent: Descriptor(owning: descriptors[2]),
        completionEvent: Descriptor(owning: descriptors[3]), eventEvent: Descriptor(owning: descriptors[4]))
    } catch { throw .rejected(path: path, reason: error.description) }
  }

  /// False once the forwarder has gone, or `close` was called.
  public var isConnected: Bool {
    if gone.load(ordering: .acquiring) { return false }
    var entry = pollfd(fd: socket.raw, events: Int16(POLLIN), revents: 0)
    if unsafe poll(&entry, 1, 0) > 0, hasEnded { gone.store(true, ordering: .releasing) }
    return !gone.load(ordering: .acquiring)
  }

  /// Of a socket that can be read: the forwarder has closed it. Else it has handed over something.
  private var hasEnded: Bool {
    var byte: UInt8 = 0
    return unsafe recv(socket.raw, &byte, 1, Int32(MSG_PEEK) | Int32(MSG_DONTWAIT)) <= 0
  }

  /// The descriptor of a capture's memory, which the forwarder has sent before it answered.
  func receiveMemory(_ id: UInt32) throws(RingError) -> Descriptor {
    var message = [UInt8](repeating: 0, count: 4)
    var descriptors = [Int32](repeating: -1, count: 8)
    var count: Int32 = 0
    let received = unsafe weft_receive_fds(socket.raw, &message, message.count, &descriptors, &count)
    let sent = (0..<4).reduce(UInt32(0)) { $0 | UInt32(message[$1]) << UInt32(8 * $1) }
    guard received == 4, count == 1, sent == id else {
      for descriptor in descriptors.prefix(Int(count)) { _ = Glibc.close(descriptor) }
      throw .corrupt("no memory came for capture \(id)")
    }
    return Descriptor(owning: descriptors[0])
  }

  /// Ends the channel: calls that wait, and later ones, throw `.disconnected`.
  public func close() {
    gone.store(true, ordering: .releasing)
    shutdown(socket.raw, Int32(SHUT_RDWR))
  }

  /// How many messages wait in the channel's rings, and how many have room. It waits for nobody.
  public var depths: [(ring: String, messages: Int, slots: Int)] {
    [
      ("commands", 192, RingLayout.commandSlots), ("completions", 320, RingLayout.completionSlots),
      ("events", 448, RingLayout.eventSlots),
    ].compactMap { ring, head, slots in
      unsafe RingLayout.depth(mapping.base, head: head, slots: slots).map { (ring, $0, slots) }
    }
  }

  /// Sends all commands, many in flight at once, and returns one result for each, in order.
  /// Throws `.disconnected` when the forwarder goes away: what came of the unanswered commands is then unknown.
  public func apply(_ commands: [Command]) throws(RingError) -> [Result<Void, Refusal>] {
    var results: [Result<Void, Refusal>] = []
    results.reserveCapacity(commands.count)
    try exchange(commands) { _, completion in
      switch completion {
      case .entry, .traceStep, .traceFrame: break
      case .done: results.append(.success(()))
      case .refused(_, let refusal): results.append(.failure(refusal))
      }
    }
    return results
  }

  /// A whole table. What changes meanwhile may or may not be in it; nothing is in it twice.
  public func dump(_ table: TableName) throws(RingError) -> [TableEntry] {
    var entries: [TableEntry] = []
    var cursor: UInt64 = 0
    repeat {
      let part = try dump(table, from: cursor)
      entries += part.entries
      cursor = part.next
    } while cursor != 0
    return entries
  }

  /// The most entries of a table that are read at once.
  public static let share = 512

  /// Up to `limit` entries of a table from a cursor on, 0 being its beginning; where to go on, 0 when that was all. An
  /// entry stays where it is as long as it is there.
  public func dump(
    _ table: TableName, from cursor: UInt64, limit: Int = share
  ) throws(RingError) -> (entries: [TableEntry], next: UInt64) {
    var entries: [TableEntry] = []
    var following: UInt64 = 0
    var refusal: Refusal?
    try exchange([.dump(table: table, cursor: cursor, limit: UInt32(clamping: limit))]) { _, completion in
      switch completion {
      case .entry(_, let entry): entries.append(entry)
      case .done(_, let next): following = next
      case .refused(_, let reason): refusal = reason
      case .traceStep, .traceFrame: break
      }
    }
    if let refusal { throw .rejected(path: path, reason: refusal.description) }
    return (entries, following)
  }

  /// Waits for events, at most `timeoutMilliseconds`; [] when none came.
  public func nextEvents(timeoutMilliseconds: Int) throws(RingError) -> [Event] {
    // Forgotten before looking, so that what is found now does not end the next call's wait.
    eventEvent.drain()
    let batch = try takeEvents()
    if !batch.isEmpty { return batch }
    var entries = [
      pollfd(fd: eventEvent.raw, events: Int16(POLLIN), revents: 0),
      pollfd(fd: socket.raw, events: Int16(POLLIN), revents: 0),
    ]
    _ = unsafe poll(&entries, 2, Int32(clamping: timeoutMilliseconds))
    eventEvent.drain()
    if entries[1].revents != 0 && hasEnded || gone.load(ordering: .acquiring) {
      gone.store(true, ordering: .releasing)
      throw .disconnected
    }
    return try takeEvents()
  }

  private func takeEvents() throws(RingError) -> [Event] {
    let outcome: Result<[Event], RingError> = taking.withLock { _ in
      var batch: [Event] = []
      do {
        while batch.count < RingLayout.eventSlots, let message = try events.read() {
          batch.append(try Event.read(message))
        }
        return .success(batch)
      } catch { return .failure(.corrupt("an event cannot be read")) }
    }
    return try outcome.get()
  }

  func exchange(
    _ commands: [Command], _ body: (UInt64, Completion) -> Void
  ) throws(RingError) {
    guard !commands.isEmpty else { return }
    if gone.load(ordering: .acquiring) { throw .disconnected }
    let fault: RingError? = exchanging.withLock { _ in
      do throws(RingError) {
        try run(commands, body)
        return nil
      } catch { return error }
    }
    if let fault {
      if case .corrupt = fault { close() }
      throw fault
    }
  }

  /// The loop of one exchange: write while there is room, read while there is something, else wait.
  private func run(
    _ commands: [Command], _ body: (UInt64, Completion) -> Void
  ) throws(RingError) {
    let first = rings.sequence
    let end = first + UInt64(commands.count)
    var next = first
    var answered = first
    do {
      while answered < end {
        var moved = false
        while next < end {
          let command = commands[Int(next - first)]
          guard try rings.commands.write(kind: command.kindValue, sequence: next, { command.write(to: &$0) }) else {
            break
          }
          next += 1
          moved = true
        }
        rings.sequence = next
        if moved { commandEvent.signal() }
        while let message = try rings.completions.read() {
          let completion = try Completion.read(message)
          guard completion.sequence == answered else {
            throw RingError.corrupt("completion \(completion.sequence) where \(answered) was due")
          }
          body(answered, completion)
          if completion.isLast { answered += 1 }
          moved = true
        }
        if !moved { try wait() } else if answered < end { commandEvent.signal() }
      }
    } catch let error as RingError { throw error } catch {
      throw .corrupt("a completion cannot be read")
    }
  }

  private func wait() throws(RingError) {
    unsafe weft_store_release_u64(mapping.base + RingLayout.clientHeartbeat, weft_monotonic_ns())
    var entries = [
      pollfd(fd: completionEvent.raw, events: Int16(POLLIN), revents: 0),
      pollfd(fd: socket.raw, events: Int16(POLLIN), revents: 0),
    ]
    _ = unsafe poll(&entries, 2, 1000)
    completionEvent.drain()
    if entries[1].revents != 0 && hasEnded || gone.load(ordering: .acquiring) {
      gone.store(true, ordering: .releasing)
      throw .disconnected
    }
  }
}
