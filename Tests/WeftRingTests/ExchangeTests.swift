import Synchronization
import Testing
import WeftRing
import WeftWire

@Suite struct ExchangeTests {
  @Test func everyCommandArrivesAsItWasSent() throws {
    let arrived = Mutex<[Result<Command, Refusal>]>([])
    let forwarder = try TestForwarder { sequence, command in
      arrived.withLock { $0.append(command) }
      return [.done(sequence: sequence, cursor: 0)]
    }
    defer { forwarder.stop() }
    let client = try RingClient.connect(path: forwarder.path, role: .agent)
    let results = try client.apply(Samples.commands)
    #expect(results.count == Samples.commands.count)
    #expect(results.allSatisfy { if case .success = $0 { true } else { false } })
    #expect(arrived.withLock { $0 } == Samples.commands.map { .success($0) })
  }

  @Test func everyEntryComesBackAsItWasWritten() throws {
    let forwarder = try TestForwarder { sequence, command in
      guard case .success(.dump(let table, _, _)) = command else { return [.done(sequence: sequence, cursor: 0)] }
      return Samples.entries.filter { $0.table == table }.map { .entry(sequence: sequence, $0) }
        + [.done(sequence: sequence, cursor: 0)]
    }
    defer { forwarder.stop() }
    let client = try RingClient.connect(path: forwarder.path, role: .observer)
    for table in TableName.allCases {
      let expected = Samples.entries.filter { $0.table == table }
      #expect(try client.dump(table) == expected, "\(table)")
      #expect(!expected.isEmpty)
    }
  }

  @Test func tracesComeBackAsTheyWereWritten() throws {
    let asked = Mutex<[Command]>([])
    let steps = Samples.traceSteps
    // In parts, as a forwarder sends them.
    let frames = [
      Trace.Frame(interface: 3, bytes: []), Trace.Frame(interface: .max, bytes: Array(repeating: 9, count: 2000)),
    ]
    let forwarder = try TestForwarder { sequence, command in
      if case .success(let command) = command { asked.withLock { $0.append(command) } }
      guard case .success(.trace) = command else { return [.done(sequence: sequence, cursor: 0)] }
      var parts = [TraceFrame(interface: 3, number: 0, length: 0, offset: 0, bytes: [])]
      for offset in stride(from: 0, to: 2000, by: TraceFrame.partBytes) {
        let end = min(2000, offset + TraceFrame.partBytes)
        parts.append(
          TraceFrame(
            interface: .max, number: 1, length: 2000, offset: UInt32(offset),
            bytes: Array(frames[1].bytes[offset..<end])))
      }
      return steps.map { .traceStep(sequence: sequence, $0) } + parts.map { .traceFrame(sequence: sequence, $0) }
        + [.done(sequence: sequence, cursor: 0)]
    }
    defer { forwarder.stop() }
    let client = try RingClient.connect(path: forwarder.path, role: .observer)
    let frame = (0..<3000).map { UInt8(truncatingIfNeeded: $0) }
    #expect(try client.trace(frame, interface: 7) == .success(Trace(steps: steps, frames: frames)))
    var staged: [UInt8] = []
    for command in asked.withLock({ $0 }) {
      if case .stage(let offset, let bytes) = command {
        #expect(Int(offset) == staged.count)
        staged += bytes
      } else {
        #expect(command == .trace(interface: 7, length: 3000))
      }
    }
    #expect(staged == frame)
  }

  /// What has more to say than a slot holds says as much as there is room for.
  @Test func aLongTraceStepIsCut() throws {
    let field = TraceStep.Field("field", .text(String(repeating: "x", count: 255)))
    let forwarder = try TestForwarder { sequence, command in
      guard case .success(.trace) = command else { return [.done(sequence: sequence, cursor: 0)] }
      return [
        .traceStep(sequence: sequence, TraceStep("long", Array(repeating: field, count: 30))),
        .done(sequence: sequence, cursor: 0),
      ]
    }
    defer { forwarder.stop() }
    let client = try RingClient.connect(path: forwarder.path, role: .observer)
    let trace = try client.trace([1], interface: 1).get()
    #expect(trace.steps == [TraceStep("long", Array(repeating: field, count: 3))])
  }

  /// A table larger than the rings, read a part at a time, each part larger than the completion ring.
  @Test(arguments: [1, 7, 511, 512, 3000]) func dumpsInParts(part: Int) throws {
    let total = 10_000
    let forwarder = try TestForwarder { sequence, command in
      guard case .success(.dump(_, let cursor, let limit)) = command else {
        return [.done(sequence: sequence, cursor: 0)]
      }
      #expect(limit > 0)
      let end = min(total, Int(cursor) + part)
      return (Int(cursor)..<end).map {
        .entry(sequence: sequence, .label(LabelConfiguration(label: UInt32($0), nexthop: 1)))
      } + [.done(sequence: sequence, cursor: end == total ? 0 : UInt64(end))]
    }
    defer { forwarder.stop() }
    let client = try RingClient.connect(path: forwarder.path, role: .observer)
    let labels = try client.dump(.labels).map { entry in
      if case .label(let label) = entry { return label.label }
      return UInt32.max
    }
    #expect(labels == (0..<UInt32(total)).map { $0 })
  }

  /// Many times what the rings hold, in one call: in order, each answered once.
  @Test func moreCommandsThanSlots() throws {
    let count = RingLayout.commandSlots * 20 + 17
    let arrived = Mutex<[UInt32]>([])
    let forwarder = try TestForwarder { sequence, command in
      guard case .success(.setLabel(let label)) = command else { return [.done(sequence: sequence, cursor: 0)] }
      arrived.withLock { $0.append(label.label) }
      return [
        label.label % 3 == 0
          ? .refused(sequence: sequence, Refusal(.tableFull, "label \(label.label)"))
          : .done(sequence: sequence, cursor: 0)
      ]
    }
    defer { forwarder.stop() }
    let client = try RingClient.connect(path: forwarder.path, role: .agent)
    let results = try client.apply((0..<count).map { .setLabel(LabelConfiguration(label: UInt32($0), nexthop: 0)) })
    #expect(results.count == count)
    for (index, result) in results.enumerated() {
      switch result {
      case .success: if index % 3 == 0 { Issue.record("\(index) should be refused") }
      case .failure(let refusal):
        if refusal != Refusal(.tableFull, "label \(index)") || index % 3 != 0 { Issue.record("\(index): \(refusal)") }
      }
    }
    #expect(arrived.withLock { $0 } == (0..<UInt32(count)).map { $0 })
    #expect(try client.apply([]).isEmpty)
  }

  @Test func refusalsSayWhy() throws {
    let long = String(repeating: "ä", count: 150)
    let forwarder = try TestForwarder { sequence, command in
      guard case .success(.removeLabel(let number)) = command else { return [.done(sequence: sequence, cursor: 0)] }
      return [.refused(sequence: sequence, Refusal(RefusalCode.allCases[Int(number)], number == 0 ? long : "because"))]
    }
    defer { forwarder.stop() }
    let client = try RingClient.connect(path: forwarder.path, role: .agent)
    let results = try client.apply((0..<RefusalCode.allCases.count).map { .removeLabel(label: UInt32($0)) })
    for (code, result) in zip(RefusalCode.allCases, results) {
      guard case .failure(let refusal) = result else {
        Issue.record("\(code) came as success")
        continue
      }
      #expect(refusal.code == code)
      // What is too long is cut between characters.
      #expect(refusal.reason == (code == RefusalCode.allCases[0] ? String(repeating: "ä", count: 100) : "because"))
      #expect(refusal.description == "\(code.name): \(refusal.reason)")
    }
    #expect(Set(RefusalCode.allCases.map(\.name)).count == RefusalCode.allCases.count)
  }

  @Test func aRefusedDumpThrows() throws {
    let forwarder = try TestForwarder { sequence, _ in [.refused(sequence: sequence, Refusal(.outOfRange, "no"))] }
    defer { forwarder.stop() }
    let client = try RingClient.connect(path: forwarder.path, role: .observer)
    #expect { try client.dump(.flows) } throws: { "\($0)".contains("out_of_range: no") }
    // The channel goes on.
    #expect(client.isConnected)
    #expect(try client.apply([.barrier]).count == 1)
  }

  /// Texts that are longer than a slot has room for are cut, not refused, so that no configuration can stop an agent.
  @Test func longTextsAreCut() throws {
    let arrived = Mutex<[Command]>([])
    let forwarder = try TestForwarder { sequence, command in
      if case .success(let command) = command { arrived.withLock { $0.append(command) } }
      return [.done(sequence: sequence, cursor: 0)]
    }
    defer { forwarder.stop() }
    let client = try RingClient.connect(path: forwarder.path, role: .agent)
    let name = String(repeating: "é", count: 1000)
    let addresses = (0..<20).map { IPAddress(v4: $0) }
    _ = try client.apply([
      .setVRF(VRFConfiguration(id: 1, name: name)),
      .setInterface(
        InterfaceConfiguration(
          id: 1, role: .fabric, port: .packet, device: name, mac: .zero, addresses: addresses)),
      .setVRF(VRFConfiguration(id: 2, name: "👨‍👩‍👧‍👦" + String(repeating: "\u{301}", count: 200))),
    ])
    #expect(
      arrived.withLock { $0 } == [
        .setVRF(VRFConfiguration(id: 1, name: String(repeating: "é", count: 31))),
        .setInterface(
          InterfaceConfiguration(
            id: 1, role: .fabric, port: .packet, device: "ééééééé", mac: .zero, addresses: Array(addresses.prefix(4)))),
        .setVRF(VRFConfiguration(id: 2, name: "")),
      ])
  }

  /// Calls of several threads come one after the other, and each gets its own answers.
  @Test func severalThreads() throws {
    let forwarder = try TestForwarder { sequence, command in
      guard case .success(.removeLabel(let number)) = command else {
        return [
          .entry(sequence: sequence, .vrf(VRFConfiguration(id: 5, name: "x"))), .done(sequence: sequence, cursor: 0),
        ]
      }
      return [.refused(sequence: sequence, Refusal(.notFound, "\(number)"))]
    }
    defer { forwarder.stop() }
    let client = try RingClient.connect(path: forwarder.path, role: .agent)
    let threads = (0..<8).map { thread in
      Background { () -> String? in
        do {
          for round in 0..<50 {
            let numbers = (0..<(1 + (thread * 31 + round * 17) % 200)).map { UInt32(thread << 16 | round << 8 | $0) }
            let results = try client.apply(numbers.map { .removeLabel(label: $0) })
            for (number, result) in zip(numbers, results) where result.reason != "\(number)" {
              return "\(number) was answered with \(result)"
            }
            let entries = try client.dump(.vrfs)
            if entries != [.vrf(VRFConfiguration(id: 5, name: "x"))] { return "\(entries)" }
          }
          return nil
        } catch { return "\(error)" }
      }
    }
    for thread in threads { #expect(thread.value() == nil) }
  }

  @Test func events() throws {
    let forwarder = try TestForwarder.agreeing()
    defer { forwarder.stop() }
    let client = try RingClient.connect(path: forwarder.path, role: .agent)
    #expect(try client.nextEvents(timeoutMilliseconds: 0).isEmpty)
    let frames = [0, 1, 60, 2022].map { (0..<$0).map { UInt8(truncatingIfNeeded: $0) } }
    let events: [Event] =
      [.interfaceState(id: 0, isUp: true), .interfaceState(id: .max, isUp: false)]
      + frames.map { .trap(interface: 1, vrf: .max, frame: $0) } + Samples.events
    forwarder.perform { channels in for event in events { try channels[0].emit(event) } }
    var found: [Event] = []
    while found.count < events.count { found += try client.nextEvents(timeoutMilliseconds: 5000) }
    #expect(found == events)
    // Of a longer frame the first bytes.
    forwarder.perform { channels in
      try channels[0].emit(.trap(interface: 1, vrf: 2, frame: [UInt8](repeating: 7, count: 9000)))
    }
    #expect(
      try client.nextEvents(timeoutMilliseconds: 5000)
        == [.trap(interface: 1, vrf: 2, frame: [UInt8](repeating: 7, count: 2022))])
  }

  /// A call with nothing to report waits its time out, also right after one that had something.
  @Test func waitsForEvents() throws {
    let forwarder = try TestForwarder.agreeing()
    defer { forwarder.stop() }
    let client = try RingClient.connect(path: forwarder.path, role: .agent)
    forwarder.perform { channels in try channels[0].emit(.interfaceState(id: 1, isUp: true)) }
    // The event is in the ring when this has been answered.
    _ = try client.apply([.barrier])
    #expect(try client.nextEvents(timeoutMilliseconds: 5000) == [.interfaceState(id: 1, isUp: true)])
    let clock = ContinuousClock()
    for _ in 0..<3 {
      let start = clock.now
      #expect(try client.nextEvents(timeoutMilliseconds: 100).isEmpty)
      let time = clock.now - start
      #expect(time >= .milliseconds(90))
    }
  }

  /// When nobody reads events they are lost, counted, and that is told as soon as there is room.
  @Test func lostEventsAreCounted() throws {
    let forwarder = try TestForwarder.agreeing()
    defer { forwarder.stop() }
    let client = try RingClient.connect(path: forwarder.path, role: .agent)
    let more = 100
    forwarder.perform { channels in
      for number in 0..<RingLayout.eventSlots + more {
        try channels[0].emit(.interfaceState(id: UInt32(number), isUp: true))
      }
    }
    _ = try client.apply([.barrier])
    var found: [Event] = []
    while true {
      let events = try client.nextEvents(timeoutMilliseconds: 50)
      if events.isEmpty { break }
      found += events
    }
    #expect(found == (0..<UInt32(RingLayout.eventSlots)).map { .interfaceState(id: $0, isUp: true) })
    forwarder.perform { channels in try channels[0].emit(.interfaceState(id: 9999, isUp: false)) }
    found = try client.nextEvents(timeoutMilliseconds: 5000)
    #expect(found == [.lost(count: UInt64(more)), .interfaceState(id: 9999, isUp: false)])
  }
}

extension Result<Void, Refusal> {
  fileprivate var reason: String? {
    if case .failure(let refusal) = self { refusal.reason } else { nil }
  }
}
