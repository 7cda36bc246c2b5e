import Foundation
import Testing
import WeftForwarding
import WeftPorts
import WeftRing
import WeftSystem
import WeftWire

/// What a packet path puts into a capture.
@Suite struct CaptureTests {
  private struct Captured: Equatable {
    let kind: CaptureRecord.Kind
    let interface: UInt32
    let reason: UInt8
    let length: Int
    let frame: [UInt8]
  }

  private final class Capture {
    let tap: CaptureTap
    var consumer: CaptureConsumer

    init(_ selection: CaptureSelection, filter: String? = nil, ring: Int = 1 << 20, id: UInt32 = 1) throws {
      let memory = try Mapping(anonymous: CaptureMemory.bytes(workers: 1, ring: ring), what: "test")
      CaptureMemory.format(memory, workers: 1, ring: ring)
      let program = try filter.map { try FilterCompiler.compile($0) } ?? []
      tap = CaptureTap(
        id: id, producer: CaptureProducer(memory, worker: 0, ring: ring), selection: selection,
        filter: try PacketFilter(
          program.map { FilterInstruction(code: $0.code, jumpTrue: $0.jumpTrue, jumpFalse: $0.jumpFalse, k: $0.k) }),
        interfaces: 8, offset: 1000)
      consumer = try CaptureConsumer(memory)
    }

    func take() throws -> [Captured] {
      var result: [Captured] = []
      _ = try consumer.take(worker: 0, limit: .max) { record, frame in
        #expect(record.time == 1001)
        result.append(
          Captured(
            kind: record.kind, interface: record.interface, reason: record.reason, length: Int(record.length),
            frame: Array(frame)))
      }
      return result
    }
  }

  private static let all = CaptureSelection(interfaces: nil, arrivals: true, departures: true, drops: true)

  /// As the control thread does it: interfaces are published as captured.
  private func watch(_ fixture: borrowing PathFixture, _ ids: [UInt32]) {
    for id in ids {
      guard var entry = fixture.memory.reader.interface(id)?.entry else { continue }
      entry.isCaptured = true
      entry.isPlain = false
      fixture.memory.publish(interface: id, entry)
    }
  }

  @Test("frames in and out, drops with their reason", arguments: [true, false])
  func kinds(_ isV4: Bool) throws {
    var fixture = try PathFixture()
    let capture = try Capture(Self.all)
    fixture.path.add(capture.tap)
    watch(fixture, [1, 2, 3, 4])
    let frame = Frames.tcp(from: 1, to: 3, isV4: isV4, payload: [9, 8, 7], flags: TCP.syn, isFinished: true)
    let sent = fixture.send(frame, from: 1)
    let lost = Frames.tcp(from: 1, to: 77, isV4: isV4, payload: [1], flags: TCP.syn, isFinished: true)
    _ = fixture.send(lost, from: 1)
    _ = fixture.send([1, 2, 3], from: 2)
    #expect(
      try capture.take() == [
        Captured(kind: .arrival, interface: 1, reason: 0, length: frame.count, frame: frame),
        Captured(kind: .departure, interface: 3, reason: 0, length: frame.count, frame: sent[0].frame),
        Captured(kind: .arrival, interface: 1, reason: 0, length: lost.count, frame: lost),
        Captured(
          kind: .drop, interface: 1, reason: DropReason.noRoute.rawValue, length: lost.count, frame: lost),
        Captured(kind: .arrival, interface: 2, reason: 0, length: 3, frame: [1, 2, 3]),
        Captured(kind: .drop, interface: 2, reason: DropReason.shortFrame.rawValue, length: 3, frame: [1, 2, 3]),
      ])
    fixture.path.removeCapture(1)
    _ = fixture.send(frame, from: 1)
    #expect(try capture.take().isEmpty)
  }

  @Test("super-frames are whole, and the known flow's packets are seen too")
  func superFrames() throws {
    var fixture = try PathFixture()
    let capture = try Capture(Self.all)
    fixture.path.add(capture.tap)
    watch(fixture, [2, 4])
    let payload = (0..<5000).map { UInt8(truncatingIfNeeded: $0) }
    let frame = Frames.tcp(from: 2, to: 4, isV4: true, payload: payload)
    for _ in 0..<3 { _ = fixture.send(frame, Frames.virtio(isV4: true, segment: 1000), from: 2) }
    let captured = try capture.take()
    #expect(captured.map(\.kind) == [.arrival, .departure, .arrival, .departure, .arrival, .departure])
    #expect(captured.allSatisfy { $0.length == frame.count && $0.frame.count == frame.count })
    #expect(captured[4].frame == frame && captured[5].frame.suffix(5000) == payload)
  }

  @Test("what is not asked for is not captured")
  func selection() throws {
    let frame = Frames.tcp(from: 1, to: 3, isV4: true, payload: [], flags: TCP.syn, isFinished: true)
    let lost = Frames.tcp(from: 1, to: 77, isV4: true, payload: [], flags: TCP.syn, isFinished: true)
    let rows: [(CaptureSelection, String?, [CaptureRecord.Kind])] = [
      (CaptureSelection(interfaces: [1], arrivals: true, departures: true, drops: false), nil, [.arrival, .arrival]),
      (CaptureSelection(interfaces: [3], arrivals: true, departures: true, drops: true), nil, [.departure]),
      (CaptureSelection(interfaces: [1, 3], arrivals: false, departures: true, drops: false), nil, [.departure]),
      (CaptureSelection(interfaces: nil, arrivals: false, departures: false, drops: true), nil, [.drop]),
      (
        CaptureSelection(
          interfaces: nil, arrivals: false, departures: false, drops: true,
          reasons: (~(1 << UInt64(DropReason.noRoute.rawValue)), .max)), nil, []
      ),
      (Self.all, "host 10.1.0.77", [.arrival, .drop]), (Self.all, "udp", []),
      (Self.all, "tcp dst port 80 and host 10.1.0.3", [.arrival, .departure]),
      (
        // The filter sees more than is kept.
        CaptureSelection(interfaces: nil, arrivals: true, departures: true, drops: true, snap: 20), "host 10.1.0.3",
        [.arrival, .departure]
      ),
    ]
    for (number, (selection, filter, kinds)) in rows.enumerated() {
      var fixture = try PathFixture()
      let capture = try Capture(selection, filter: filter)
      fixture.path.add(capture.tap)
      watch(fixture, [1, 3])
      _ = fixture.send(frame, from: 1)
      _ = fixture.send(lost, from: 1)
      let captured = try capture.take()
      #expect(captured.map(\.kind) == kinds, "row \(number)")
      #expect(captured.allSatisfy { $0.frame.count == min($0.length, selection.snap) }, "row \(number)")
    }
  }

  @Test("several at once, each with its own")
  func several() throws {
    var fixture = try PathFixture()
    let captures = try (1...8).map {
      try Capture(
        CaptureSelection(interfaces: [UInt32($0 % 4 + 1)], arrivals: true, departures: false, drops: false),
        id: UInt32($0))
    }
    for capture in captures { fixture.path.add(capture.tap) }
    watch(fixture, [1, 2, 3, 4])
    let frame = Frames.tcp(from: 1, to: 3, isV4: true, payload: [], flags: TCP.syn, isFinished: true)
    _ = fixture.send(frame, from: 1)
    #expect(try captures.map { try $0.take().count } == [0, 0, 0, 1, 0, 0, 0, 1])
    fixture.path.removeCapture(4)
    fixture.path.removeCapture(1)
    _ = fixture.send(frame, from: 1)
    #expect(try captures.map { try $0.take().count } == [0, 0, 0, 0, 0, 0, 0, 1])
  }

  @Test("a reader that does not keep up loses frames, and is told how many")
  func full() throws {
    var fixture = try PathFixture()
    let capture = try Capture(Self.all, ring: 4096)
    fixture.path.add(capture.tap)
    watch(fixture, [1])
    let frame = Frames.tcp(from: 1, to: 3, isV4: true, payload: Array(repeating: 5, count: 300), isFinished: true)
    var total = 0
    for round in 0..<200 {
      for _ in 0..<(round % 20) { _ = fixture.send(frame, from: 1) }
      total += round % 20
      let captured = try capture.take()
      #expect(captured.allSatisfy { $0.frame == frame })
      total -= captured.count
    }
    #expect(total > 0 && capture.consumer.lost == UInt64(total))
  }

  @Test("a damaged ring ends its capture and does no other harm")
  func damaged() throws {
    var random = SeededGenerator(seed: 5)
    var faults = 0
    for _ in 0..<300 {
      let ring = 4096
      let memory = try Mapping(anonymous: CaptureMemory.bytes(workers: 1, ring: ring), what: "test")
      CaptureMemory.format(memory, workers: 1, ring: ring)
      let base = memory.base
      var producer = CaptureProducer(memory, worker: 0, ring: ring)
      let record = CaptureRecord(kind: .arrival, interface: 1, time: 1, length: 100)
      for _ in 0..<10 {
        producer.put(record, count: 100) { $0.initializeMemory(as: UInt8.self, repeating: 1, count: 100) }
      }
      var consumer = try CaptureConsumer(memory)
      for _ in 0..<3 {
        let at = CaptureMemory.pageBytes + Int.random(in: 0..<(CaptureMemory.pageBytes + 2000) / 8, using: &random) * 8
        base.storeBytes(of: UInt64.random(in: 0...UInt64.max, using: &random), toByteOffset: at, as: UInt64.self)
      }
      // The writer's own position is its own: it goes on.
      for _ in 0..<5 {
        producer.put(record, count: 100) { $0.initializeMemory(as: UInt8.self, repeating: 1, count: 100) }
      }
      do { _ = try consumer.take(worker: 0, limit: .max) { _, _ in } } catch { faults += 1 }
    }
    #expect(faults > 0)
  }
}

/// The tool and a running forwarder.
@Suite("Capturing from a forwarder", .enabled(if: Sandbox.isRoot, "needs root for network namespaces"), .serialized)
struct ForwarderCaptureTests {
  private static let weft = Sandbox.program("weft")

  private func start(_ sandbox: Sandbox, _ words: String...) throws -> (process: Process, output: Pipe) {
    let process = Process()
    process.executableURL = URL(filePath: Self.weft)
    process.arguments = ["capture", "--socket", sandbox.socket] + words
    let pipe = Pipe()
    process.standardOutput = pipe
    process.standardError = pipe
    try process.run()
    return (process, pipe)
  }

  /// Captures end with the channel; an interface is plain again then.
  private func isCaptured(_ client: RingClient) throws -> Bool {
    // What a forwarder allows at once is all there: none runs.
    var starts: [CaptureStart] = []
    for _ in 0..<CaptureConfiguration.maximum {
      guard case .success(let start) = try client.startCapture(CaptureConfiguration()) else { return true }
      starts.append(start)
    }
    guard case .failure(let refusal) = try client.startCapture(CaptureConfiguration()) else { return true }
    #expect(refusal.code == .tableFull)
    for start in starts { try client.stopCapture(start.id) }
    return false
  }

  @Test("weft capture writes what passes, as tshark reads it", arguments: ["0", "0-1"])
  func writes(_ cores: String) throws {
    guard cores == "0" || ProcessInfo.processInfo.activeProcessorCount > 1 else { return }
    let sandbox = try Sandbox()
    let agent = try sandbox.start("--cores", cores)
    let (tap, _) = try ForwarderTests.pods(sandbox, agent)
    let folder = URL(filePath: sandbox.socket).deletingLastPathComponent()
    let file = folder.appending(path: "out.pcapng").path
    let (process, output) = try start(
      sandbox, "--interface", "tap0", "--filter", "icmp and icmp[icmptype] = icmp-echo", "--write", file, "--count", "8"
    )
    let observer = try RingClient.connect(path: sandbox.socket, role: .observer)
    #expect(waitUntilBegun(output).contains("capturing"))
    // Requests alone match, as they come in at the TAP; replies do not.
    let ping = try run("ip", "netns", "exec", tap, "ping", "-c", "12", "-i", "0.02", "-W", "2", "10.0.0.3")
    #expect(ping.output.contains("12 received"), "\(ping.output)")
    process.waitUntilExit()
    let said = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
    #expect(process.terminationStatus == 0 && said.contains("8 frames captured, 0 lost"), "\(said)")
    let read = try run(
      "tshark", "-n", "-r", file, "-T", "fields", "-E", "separator=|", "-e", "frame.interface_name", "-e",
      "frame.packet_flags_direction", "-e", "icmp.type", "-e", "ip.dst", "-e", "icmp.seq")
    let lines = read.output.split(separator: "\n").filter { $0.contains("|") }
    #expect(lines.count == 8, "\(read.output)")
    #expect(lines.allSatisfy { $0.hasPrefix("tap0|") && $0.contains("|8|10.0.0.3|") }, "\(read.output)")
    let about = try run("capinfos", "-A", file)
    #expect(about.status == 0 && about.output.contains("nanoseconds (9)"), "\(about.output)")
    #expect(try !isBusy(observer), "the capture has ended")
    #expect(sandbox.stop() == 0)
  }

  /// A capture of somebody else's runs: fewer fit than there may be.
  private func isBusy(_ client: RingClient) throws -> Bool {
    var starts: [CaptureStart] = []
    for _ in 0..<CaptureConfiguration.maximum {
      guard case .success(let start) = try client.startCapture(CaptureConfiguration()) else { break }
      starts.append(start)
    }
    for start in starts { try client.stopCapture(start.id) }
    return starts.count < CaptureConfiguration.maximum
  }

  /// The tool says so when it has begun.
  private func waitUntilBegun(_ output: Pipe) -> String {
    var said = Data()
    while !String(decoding: said, as: UTF8.self).contains("capturing") {
      let more = output.fileHandleForReading.availableData
      if more.isEmpty { break }
      said += more
    }
    return String(decoding: said, as: UTF8.self)
  }

  @Test("drops come with their reason; Ctrl-C leaves a whole file; a client that dies leaves no capture")
  func drops() throws {
    let sandbox = try Sandbox()
    let agent = try sandbox.start("--cores", "0")
    let (tap, _) = try ForwarderTests.pods(sandbox, agent)
    let folder = URL(filePath: sandbox.socket).deletingLastPathComponent()
    let file = folder.appending(path: "drops.pcapng").path
    let (process, output) = try start(sandbox, "--drops", "--reason", "no_route", "--write", file)
    let observer = try RingClient.connect(path: sandbox.socket, role: .observer)
    #expect(waitUntilBegun(output).contains("capturing"))
    #expect(try isBusy(observer))
    try sandbox.must("-n", tap, "route", "add", "10.9.0.0/16", "via", "10.0.0.1")
    _ = try run("ip", "netns", "exec", tap, "ping", "-c", "3", "-i", "0.02", "-W", "1", "10.9.0.1")
    usleep(100_000)
    kill(process.processIdentifier, SIGINT)
    process.waitUntilExit()
    let said = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
    #expect(process.terminationStatus == 0 && said.contains("3 frames captured"), "\(said)")
    let read = try run(
      "tshark", "-n", "-r", file, "-T", "fields", "-E", "separator=|", "-e", "frame.interface_name", "-e", "ip.dst",
      "-e", "frame.comment")
    let lines = read.output.split(separator: "\n").filter { $0.contains("|") }
    #expect(
      lines == Array(repeating: "tap0|10.9.0.1|no_route: the VRF has no route to the destination", count: 3),
      "\(read.output)")
    let about = try run("capinfos", "-A", file)
    #expect(about.status == 0, "\(about.output)")
    // Killed: nothing of it stays.
    let (second, more) = try start(sandbox, "--interface", "0")
    #expect(waitUntilBegun(more).contains("capturing"))
    #expect(try isBusy(observer))
    kill(second.processIdentifier, SIGKILL)
    second.waitUntilExit()
    for _ in 0..<200 where try isBusy(observer) { usleep(20_000) }
    #expect(try !isCaptured(observer))
    #expect(sandbox.stop() == 0)
  }

  @Test("what makes no sense is refused, and the channel goes on")
  func refusals() throws {
    let sandbox = try Sandbox()
    let agent = try sandbox.start("--cores", "0")
    _ = try ForwarderTests.pods(sandbox, agent)
    let client = try RingClient.connect(path: sandbox.socket, role: .observer)
    let rows: [(CaptureConfiguration, [UInt8], RefusalCode)] = [
      (CaptureConfiguration(arrivals: false, departures: false), [], .outOfRange),
      (CaptureConfiguration(snap: 0), [], .outOfRange),
      (CaptureConfiguration(snap: CaptureConfiguration.maximumSnap + 1), [], .outOfRange),
      (CaptureConfiguration(interfaces: [5]), [], .notFound),
      // A jump beyond the end, and a program of eight bytes and a half.
      (CaptureConfiguration(), [5, 0, 0, 0, 9, 0, 0, 0, 6, 0, 0, 0, 1, 0, 0, 0], .outOfRange),
      (CaptureConfiguration(), [6, 0, 0, 0, 1, 0, 0, 0, 6], .malformed),
    ]
    for (configuration, filter, code) in rows {
      guard case .failure(let refusal) = try client.startCapture(configuration, filter: filter) else {
        Issue.record("not refused: \(configuration)")
        continue
      }
      #expect(refusal.code == code, "\(refusal)")
    }
    #expect(try client.apply([.stopCapture(id: 1)]).first.map { if case .failure = $0 { true } else { false } } == true)
    #expect(try !isCaptured(client))
    #expect(try client.dump(.interfaces).count == 2)
    // From the command line.
    for (words, message) in [
      (["--filter", "prot 5"], "syntax error"), (["--interface", "nope"], "no interface \"nope\""),
      (["--drops", "--reason", "bad_luck"], "no drop reason \"bad_luck\""),
      (["--reason", "no_route"], "--reason goes with --drops"), (["--snap", "0"], "--snap is 1 to"),
      (["--interface", "0", "--write", "/nonexistent/x", "--seconds", "1"], "/nonexistent/x"),
    ] {
      let process = Process()
      process.executableURL = URL(filePath: Self.weft)
      process.arguments = ["capture", "--socket", sandbox.socket] + words
      let pipe = Pipe()
      process.standardError = pipe
      try process.run()
      let said = String(decoding: pipe.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
      process.waitUntilExit()
      #expect(process.terminationStatus != 0 && said.contains(message), "\(words): \(said)")
    }
    #expect(sandbox.stop() == 0)
  }
}
