import Glibc
import Testing
import WeftRing

@Suite struct ConnectionTests {
  @Test func oneAgentAndManyObservers() throws {
    let forwarder = try TestForwarder.agreeing()
    defer { forwarder.stop() }
    let agent = try RingClient.connect(path: forwarder.path, role: .agent)
    #expect(agent.forwarderPID == getpid())
    #expect {
      try RingClient.connect(path: forwarder.path, role: .agent)
    } throws: { error in
      "\(error)".contains(forwarder.path) && "\(error)".contains("another agent")
    }
    let observers = try (0..<5).map { _ in try RingClient.connect(path: forwarder.path, role: .observer) }
    for client in observers + [agent] { #expect(try client.apply([.barrier, .barrier]).count == 2) }
    // The place is free again when the agent has gone, however it went.
    agent.close()
    #expect(!agent.isConnected)
    #expect(throws: RingError.self) { try agent.apply([.barrier]) }
    #expect(throws: RingError.self) { try agent.nextEvents(timeoutMilliseconds: 1000) }
    var next: RingClient?
    for _ in 0..<200 where next == nil {
      next = try? RingClient.connect(path: forwarder.path, role: .agent)
      if next == nil { usleep(10_000) }
    }
    #expect(try next?.apply([.barrier]).count == 1)
    for client in observers { #expect(try client.apply([.barrier]).count == 1) }
  }

  @Test func aClientThatIsDroppedIsForgotten() throws {
    let forwarder = try TestForwarder.agreeing()
    defer { forwarder.stop() }
    for _ in 0..<20 { _ = try RingClient.connect(path: forwarder.path, role: .observer).apply([.barrier]) }
    for _ in 0..<200 where forwarder.channelCount > 0 { usleep(10_000) }
    #expect(forwarder.channelCount == 0)
    #expect(forwarder.corruptChannels == 0)
  }

  @Test func theForwarderGoesAway() throws {
    let forwarder = try TestForwarder.agreeing()
    let client = try RingClient.connect(path: forwarder.path, role: .agent)
    #expect(client.isConnected)
    forwarder.stop()
    #expect(!client.isConnected)
    #expect { try client.apply([.barrier]) } throws: { "\($0)" == "the forwarder went away" }
    #expect { try client.nextEvents(timeoutMilliseconds: 1000) } throws: { "\($0)" == "the forwarder went away" }
    #expect { try client.dump(.routes) } throws: { "\($0)" == "the forwarder went away" }
    // Its statistics can still be read: the memory lives as long as somebody has it.
    #expect(client.statistics.drops().map(\.name) == ["test"])
  }

  /// A forwarder that dies with commands unanswered ends the wait.
  @Test func theForwarderGoesAwayInTheMiddle() throws {
    let forwarder = try TestForwarder { _, _ in [] }
    let client = try RingClient.connect(path: forwarder.path, role: .agent)
    let waiting = Background { () -> String in
      do {
        _ = try client.apply([.barrier])
        return "answered"
      } catch { return "\(error)" }
    }
    usleep(100_000)
    forwarder.stop()
    #expect(waiting.value() == "the forwarder went away")
  }

  @Test func closingEndsAWait() throws {
    let forwarder = try TestForwarder { _, _ in [] }
    defer { forwarder.stop() }
    let client = try RingClient.connect(path: forwarder.path, role: .agent)
    let waiting = Background { () -> String in
      do {
        _ = try client.nextEvents(timeoutMilliseconds: 60_000)
        return "events"
      } catch { return "\(error)" }
    }
    usleep(100_000)
    client.close()
    #expect(waiting.value() == "the forwarder went away")
  }

  @Test func nobodyThere() throws {
    let folder = TemporaryFolder()
    #expect {
      try RingClient.connect(path: folder.socket, role: .agent)
    } throws: { "\($0)".contains(folder.socket) && "\($0)".contains("No such file") && "\($0)".contains("--socket") }
    // A path that no socket can have.
    for path in ["", String(repeating: "x", count: 108), "/tmp/\0"] {
      #expect(throws: RingError.self) { try RingClient.connect(path: path, role: .agent) }
    }
  }

  /// Somebody else's socket: it answers, but not as a forwarder does.
  @Test func aStrangerAnswers() throws {
    let folder = TemporaryFolder()
    let listener = RawSocket.listen(folder.socket)
    defer { close(listener) }
    for answer in [[UInt8](repeating: 0, count: 16), Array("HTTP/1.1 400 Bad Request".utf8), [1]] {
      let stranger = Background { () -> Void in
        let client = accept(listener, nil, nil)
        var hello = [UInt8](repeating: 0, count: 64)
        _ = recv(client, &hello, 64, 0)
        _ = send(client, answer, answer.count, Int32(MSG_NOSIGNAL))
        close(client)
      }
      #expect {
        try RingClient.connect(path: folder.socket, role: .agent)
      } throws: { "\($0)".contains("no answer that a weft-vrouter would give") }
      stranger.value()
    }
  }

  // MARK: the forwarder's socket

  private func statistics() throws -> StatisticsRegion {
    try StatisticsRegion(layout: StatisticsLayout(workers: 1, interfaces: 1, reasons: 0), reasons: [])
  }

  @Test func aSecondForwarderLeavesTheFirstAlone() throws {
    let forwarder = try TestForwarder.agreeing()
    defer { forwarder.stop() }
    let statistics = try statistics()
    for _ in 0..<2 {
      #expect {
        try RingServer(path: forwarder.path, statistics: statistics)
      } throws: { "\($0)".contains("another forwarder answers there") }
    }
    // It is still there to be found.
    #expect(try RingClient.connect(path: forwarder.path, role: .agent).apply([.barrier]).count == 1)
  }

  @Test func aDeadForwardersSocketIsReplaced() throws {
    let folder = TemporaryFolder()
    close(RawSocket.listen(folder.socket))
    #expect(access(folder.socket, F_OK) == 0)
    do {
      let server = try RingServer(path: folder.socket, statistics: statistics())
      var status = stat()
      #expect(stat(folder.socket, &status) == 0)
      #expect(status.st_mode & 0o777 == 0o600, "for the owner alone")
      if let client = server.accept() { Issue.record("nobody has connected, but here is \(client.raw)") }
    }
    #expect(access(folder.socket, F_OK) != 0, "it takes its socket along")
  }

  @Test func aSocketThatCannotBe() throws {
    let statistics = try statistics()
    let folder = TemporaryFolder()
    for path in ["", "\(folder.path)/none/forwarder.sock", "/" + String(repeating: "x", count: 200)] {
      #expect { try RingServer(path: path, statistics: statistics) } throws: { !"\($0)".isEmpty }
    }
  }
}
