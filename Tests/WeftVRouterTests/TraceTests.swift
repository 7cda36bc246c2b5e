import Foundation
import Testing
import WeftForwarding
import WeftRing
import WeftTables
import WeftVRouter
import WeftWire

/// Traces leave everything as it was, and take the way of flows that are there. What they say of packets is in
/// Tests/Golden/test_trace.py.
@Suite struct TraceTests {
  private static func text(_ step: TraceStep?, _ name: String) -> String? {
    guard let field = step?.fields.first(where: { $0.name == name }) else { return nil }
    switch field.value {
    case .number(let number): return String(number)
    case .text(let text): return text
    }
  }

  private static func step(_ trace: Trace, _ stage: String) -> TraceStep? { trace.steps.first { $0.stage == stage } }

  private static let pool: [Command] = [
    .setVRF(VRFConfiguration(id: 2, name: "red")),
    .setNATPool(
      NATPoolConfiguration(
        id: 0, name: "out", vrf: 1, first: IPAddress("10.1.0.3")!, last: IPAddress("10.1.0.3")!, firstPort: 1024,
        lastPort: 65535, blockPorts: 256)),
    .setSourceNAT(
      SourceNATConfiguration(id: 1, priority: 1, vrf: 1, source: IPPrefix("10.1.0.1/32")!, pool: 0)),
    .setRule(RuleConfiguration(id: 1, priority: 1, direction: .ingress, action: .allow, isLogged: true)),
    .setInterface(
      InterfaceConfiguration(
        id: 4, role: .virtual, port: .packet, device: "pod4", mac: PathFixture.mac(4), vrf: 1,
        flags: [.usual, .policy])),
    .setMirror(MirrorConfiguration(id: 1, destination: .interface(3))),
    .setInterfaceMirror(InterfaceMirrorConfiguration(interface: 1, ingress: 1, egress: 0)),
  ]

  private func entries(_ fixture: borrowing PathFixture) -> [TableEntry] {
    var result: [TableEntry] = []
    for table in TableName.allCases {
      _ = fixture.programmer.dump(table, cursor: 0, limit: .max) { result.append($0) }
    }
    return result
  }

  @Test("ports, hits and counters stay as they were")
  func changesNothing() throws {
    let fixture = try PathFixture()
    try fixture.apply(Self.pool)
    let before = entries(fixture)
    let tracer = Tracer(fixture.programmer, seed: 1)
    let frame = Frames.tcp(from: 1, to: 4, isV4: true, payload: [1, 2, 3], flags: TCP.syn, isFinished: true)
    let trace = try tracer.trace(frame, interface: 1, now: 5) { _ in nil }
    #expect(
      trace.steps.map(\.stage) == [
        "receive", "parse", "policy", "flow", "nat", "route", "nexthop", "mirror", "transmit", "transmit",
      ])
    #expect(Self.text(Self.step(trace, "policy"), "log") == "yes")
    #expect(Self.text(Self.step(trace, "nat"), "source") == "10.1.0.3:40000")
    #expect(Set(trace.frames.map(\.interface)) == [3, 4])
    #expect(entries(fixture) == before)
    let statistics = try fixture.statistics.reader()
    #expect(statistics.interfaces().isEmpty && statistics.drops().allSatisfy { $0.count == 0 })
    #expect(fixture.path.flows.count == 0)
  }

  @Test("the packet of a known flow goes as that flow does", arguments: [true, false])
  func knownFlow(_ isV4: Bool) throws {
    var fixture = try PathFixture()
    if isV4 { try fixture.apply(Self.pool) }
    let out = Frames.tcp(from: 1, to: 4, isV4: isV4, payload: [], flags: TCP.syn, isFinished: true)
    let sent = fixture.send(out, from: 1).filter { $0.interface == 4 }
    #expect(sent.count == 1)
    let tracer = Tracer(fixture.programmer, seed: 1)
    var asked: [FlowKey] = []
    let path = fixture.path.flows
    let again = try tracer.trace(out, interface: 1, now: 5) { key in
      asked.append(key)
      return path.snapshot(key, worker: 3)
    }
    #expect(asked.count == 1)
    let flow = Self.step(again, "flow")
    #expect(Self.text(flow, "state") == "known" && Self.text(flow, "worker") == "3")
    #expect(Self.text(flow, "direction") == "forward" && Self.text(flow, "packets") == "1")
    // With the very port that it has.
    #expect(again.frames.filter { $0.interface == 4 }.map(\.bytes) == sent.map(\.frame))
    // The answer goes back to the client, translated where the flow is.
    var reply = sent[0].frame
    reply.withUnsafeMutableBytes { buffer in
      let at = Bytes(buffer.baseAddress!)
      let router = MACAddress.virtualRouter.bits
      Ethernet.write(
        at, destination: router, source: PathFixture.mac(4).bits, type: isV4 ? Ethernet.ipv4 : Ethernet.ipv6)
      let ip = at.advanced(Ethernet.bytes)
      let header = isV4 ? IPv4.minimumBytes : IPv6.bytes
      if isV4 {
        let source = ip.u32(12)
        ip.set32(12, ip.u32(16))
        ip.set32(16, source)
      } else {
        let source = ip.address6(8)
        ip.setAddress6(8, ip.address6(24))
        ip.setAddress6(24, source)
      }
      let tcp = ip.advanced(header)
      let port = tcp.u16(0)
      tcp.set16(0, tcp.u16(2))
      tcp.set16(2, port)
      tcp.set8(13, TCP.syn | TCP.ack)
    }
    let back = try tracer.trace(reply, interface: 4, now: 6) { path.snapshot($0, worker: 3) }
    #expect(Self.text(Self.step(back, "flow"), "direction") == "reverse")
    #expect(back.frames.map(\.interface) == [1])
    #expect((Self.step(back, "nat") != nil) == isV4)
    // Without its flow it is another packet.
    if isV4 {
      let alone = try tracer.trace(reply, interface: 4, now: 6) { _ in nil }
      #expect(alone.frames.map(\.interface) != [1])
    }
  }

  @Test("a flow that a rule has denied since is said to be denied")
  func deniedSince() throws {
    var fixture = try PathFixture()
    try fixture.apply(Self.pool)
    let frame = Frames.tcp(from: 2, to: 4, isV4: true, payload: [], flags: TCP.syn, isFinished: true)
    #expect(!fixture.send(frame, from: 2).isEmpty)
    try fixture.apply([.setRule(RuleConfiguration(id: 1, priority: 1, direction: .ingress, action: .deny))])
    let flows = fixture.path.flows
    let trace = try Tracer(fixture.programmer, seed: 1).trace(frame, interface: 2, now: 5) {
      flows.snapshot($0, worker: 0)
    }
    #expect(trace.frames.isEmpty)
    #expect(Self.text(Self.step(trace, "drop"), "reason") == "policy_denied")
    #expect(Self.text(Self.step(trace, "policy"), "action") == "deny")
  }

  @Test("what cannot be traced is refused")
  func refusals() throws {
    let fixture = try PathFixture()
    let tracer = Tracer(fixture.programmer, seed: 1)
    for (frame, interface, code) in [
      ([1] as [UInt8], 7, .notFound), ([], 1, .outOfRange), ([1], .max, .notFound),
      (Array(repeating: 0, count: Tracer.maximumFrame + 1), 1, .outOfRange),
    ] as [([UInt8], UInt32, RefusalCode)] {
      do throws(Refusal) {
        _ = try tracer.trace(frame, interface: interface, now: 1) { _ in nil }
        Issue.record("not refused")
      } catch { #expect(error.code == code) }
    }
  }

  @Test("whatever bytes come, no trap", .timeLimit(.minutes(1)))
  func anyBytes() throws {
    var fixture = try PathFixture()
    try fixture.apply(Self.pool)
    let tracer = Tracer(fixture.programmer, seed: 1)
    var random = SystemRandomNumberGenerator()
    let good = [
      Frames.tcp(from: 1, to: 4, isV4: true, payload: Array(repeating: 1, count: 50), isFinished: true),
      Frames.tcp(from: 1, to: 4, isV4: false, payload: Array(repeating: 1, count: 50), isFinished: true),
    ]
    for round in 0..<400 {
      var frame = good[round % 2]
      for _ in 0..<Int.random(in: 0...6, using: &random) {
        frame[Int.random(in: frame.indices, using: &random)] = UInt8.random(in: 0...255, using: &random)
      }
      frame = Array(frame.prefix(Int.random(in: 1...frame.count, using: &random)))
      let trace = try tracer.trace(frame, interface: UInt32(round % 5), now: 1) { _ in nil }
      #expect(trace.steps.first?.stage == "receive")
      _ = fixture.send(frame, from: 1)
    }
  }
}

/// A running forwarder is asked while it forwards.
@Suite("Tracing a forwarder", .enabled(if: Sandbox.isRoot, "needs root for network namespaces"), .serialized)
struct ForwarderTraceTests {
  @Test("a trace knows the live flow and changes nothing", arguments: ["0", "0-1"])
  func live(_ cores: String) throws {
    guard cores == "0" || ProcessInfo.processInfo.activeProcessorCount > 1 else { return }
    let sandbox = try Sandbox()
    let agent = try sandbox.start("--cores", cores)
    let (tap, _) = try ForwarderTests.pods(sandbox, agent)
    try run("ip", "netns", "exec", tap, "ping", "-c", "3", "-i", "0.05", "-W", "2", "10.0.0.3")
    let client = try RingClient.connect(path: sandbox.socket, role: .observer)
    let flows = try client.dump(.flows)
    guard
      case .flow(let flow)? = flows.first(where: {
        if case .flow(let flow) = $0 { flow.proto == 1 && flow.isForward } else { false }
      })
    else {
      Issue.record("no flow: \(flows)")
      return
    }
    var frame = [UInt8](repeating: 0, count: 42)
    frame.withUnsafeMutableBytes { buffer in
      let at = Bytes(buffer.baseAddress!)
      Ethernet.write(
        at, destination: MACAddress.virtualRouter.bits, source: ForwarderTests.tapMAC.bits, type: Ethernet.ipv4)
      let ip = at.advanced(Ethernet.bytes)
      ip.set16(0, 0x4500)
      ip.set16(2, 28)
      ip.set8(8, 64)
      ip.set8(9, 1)
      ip.set32(12, flow.source.v4)
      ip.set32(16, flow.destination.v4)
      IPv4.writeChecksum(ip, bytes: 20)
      ip.set8(20, 8)
      ip.set16(24, flow.sourcePort)
      ip.set16(22, Checksum.finish(ip.sum(20, count: 8)))
    }
    let counters = client.statistics.interface(0)
    let trace = try client.trace(frame, interface: 0).get()
    let step = trace.steps.first { $0.stage == "flow" }
    #expect(step?.fields.contains(TraceStep.Field("state", .text("known"))) == true, "\(trace.steps)")
    #expect(step?.fields.contains(TraceStep.Field("worker", .number(UInt64(flow.worker)))) == true)
    #expect(trace.frames.map(\.interface) == [1])
    #expect(client.statistics.interface(0) == counters)
    #expect(try client.dump(.flows).count == flows.count)
    // What is not there, and frames whose parts are missing.
    guard case .failure(let refusal) = try client.trace(frame, interface: 77) else {
      Issue.record("traced by an interface that is not there")
      return
    }
    #expect(refusal.code == .notFound)
    let results = try client.apply([.stage(offset: 5, bytes: [1]), .trace(interface: 0, length: 9)])
    #expect(results.allSatisfy { if case .failure = $0 { true } else { false } })
    #expect(sandbox.stop() == 0)
  }
}
