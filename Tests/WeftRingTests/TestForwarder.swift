import CLinux
import Glibc
import Synchronization
import WeftRing

/// A folder for a socket, removed at the end.
final class TemporaryFolder: Sendable {
  let path: String

  init() {
    var template = Array("/tmp/weft-ring-XXXXXX".utf8CString)
    precondition(mkdtemp(&template) != nil, "no temporary folder")
    path = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }

  var socket: String { "\(path)/forwarder.sock" }

  deinit {
    unlink(socket)
    rmdir(path)
  }
}

/// What a forwarder's control thread does with its rings, with a closure in place of its tables. Real sockets, real shared
/// memory, a thread of its own.
final class TestForwarder: @unchecked Sendable {
  typealias Handler = @Sendable (_ sequence: UInt64, _ command: Result<Command, Refusal>) -> [Completion]

  let folder = TemporaryFolder()
  let statistics: StatisticsRegion
  private let handler: Handler
  private let wakeup = eventfd(0, Int32(EFD_CLOEXEC))
  private let work = Mutex<[@Sendable ([ServerChannel]) throws -> Void]>([])
  private let isStopping = Atomic<Bool>(false)
  private let corrupted = Atomic<Int>(0)
  private let channelTotal = Atomic<Int>(0)
  private var thread: Background<Void>?
  private var isJoined = false

  var path: String { folder.socket }
  /// Channels that were closed because their memory held no sense.
  var corruptChannels: Int { corrupted.load(ordering: .acquiring) }
  var channelCount: Int { channelTotal.load(ordering: .acquiring) }

  init(handler: @escaping Handler) throws {
    self.handler = handler
    statistics = try StatisticsRegion(
      layout: StatisticsLayout(workers: 1, interfaces: 8, reasons: 1), reasons: [("test", "a reason for tests")])
    nonisolated(unsafe) let server = try RingServer(path: folder.socket, statistics: statistics)
    thread = Background { [self] in serve(server) }
  }

  /// Ends the thread; the channels go with it.
  func stop() {
    guard !isJoined else { return }
    isJoined = true
    isStopping.store(true, ordering: .releasing)
    wake()
    thread?.value()
  }

  /// Runs `body` on the forwarder's thread.
  func perform(_ body: @escaping @Sendable ([ServerChannel]) throws -> Void) {
    work.withLock { $0.append(body) }
    wake()
  }

  private func wake() {
    var one: UInt64 = 1
    _ = write(wakeup, &one, 8)
  }

  private func serve(_ server: RingServer) {
    var channels: [(channel: ServerChannel, unsent: [Completion])] = []
    while !isStopping.load(ordering: .acquiring) {
      var entries = [pollfd(fd: wakeup, events: Int16(POLLIN), revents: 0)]
      entries.append(pollfd(fd: server.descriptor, events: Int16(POLLIN), revents: 0))
      for (channel, _) in channels {
        entries.append(pollfd(fd: channel.socketDescriptor, events: Int16(POLLIN), revents: 0))
        entries.append(pollfd(fd: channel.commandDescriptor, events: Int16(POLLIN), revents: 0))
      }
      _ = poll(&entries, nfds_t(entries.count), 1000)
      if entries[0].revents != 0 {
        var value: UInt64 = 0
        _ = read(wakeup, &value, 8)
        let jobs = work.withLock { jobs in
          defer { jobs = [] }
          return jobs
        }
        for job in jobs { try? job(channels.map(\.channel)) }
      }
      var kept: [(channel: ServerChannel, unsent: [Completion])] = []
      for (index, entry) in channels.enumerated() {
        var unsent = entry.unsent
        if entries[2 + index * 2].revents != 0 { continue }
        do {
          try run(entry.channel, &unsent)
          kept.append((entry.channel, unsent))
        } catch { corrupted.add(1, ordering: .acquiringAndReleasing) }
      }
      channels = kept
      if entries[1].revents != 0, let client = server.accept() {
        var hello = pollfd(fd: client.raw, events: Int16(POLLIN), revents: 0)
        _ = poll(&hello, 1, 1000)
        let hasAgent = channels.contains { $0.channel.role == .agent }
        if let channel = server.admit(client, agentPresent: hasAgent) { channels.append((channel, [])) }
      }
      channelTotal.store(channels.count, ordering: .releasing)
    }
  }

  private func run(_ channel: ServerChannel, _ unsent: inout [Completion]) throws {
    channel.acknowledgeWakeup()
    var hasWritten = false
    while true {
      while let completion = unsent.first, try channel.canComplete(1) {
        try channel.complete(completion)
        unsent.removeFirst()
        hasWritten = true
      }
      guard unsent.isEmpty, let (sequence, command) = try channel.next() else { break }
      unsent = handler(sequence, command)
    }
    if hasWritten { channel.wakeClient() }
  }

  deinit {
    precondition(isJoined, "stop it first")
    close(wakeup)
  }
}

extension TestForwarder {
  /// Says yes to everything.
  static func agreeing() throws -> TestForwarder {
    try TestForwarder { sequence, command in
      switch command {
      case .success: [.done(sequence: sequence, cursor: 0)]
      case .failure(let refusal): [.refused(sequence: sequence, refusal)]
      }
    }
  }
}
