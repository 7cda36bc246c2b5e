import Testing
import WeftForwarding
import WeftRing
import WeftTables
import WeftWire

@Suite("Several workers")
struct WorkerTests {
  static let families = [true, false]
  private static func datagram(
    _ source: UInt32, _ destination: UInt32, _ isV4: Bool, port: Int = 1000, to other: Int = 7, payload: Int = 8
  ) -> Datagram {
    Datagram(
      source: Topology.address(source, isV4), destination: Topology.address(destination, isV4), sourcePort: port,
      destinationPort: other, payload: payload)
  }
  /// As its receiver answers it.
  private static func answer(_ frame: TeamFrame, from interface: UInt32) -> WireFrame {
    var packet = frame.inner
    let (source, bytes, header) = frame.isV4 ? (12, 4, 20) : (8, 16, 40)
    for index in 0..<bytes { packet.swapAt(source + index, source + bytes + index) }
    packet.swapAt(header, header + 2)
    packet.swapAt(header + 1, header + 3)
    packet[frame.isV4 ? 8 : 7] = 64
    if frame.isV4 { packet.finishIPv4(0) }
    return Datagram.frame(packet, from: Topology.mac(interface))
  }

  @Test("A flow has one worker, whichever its packets come to", arguments: families, [true, false])
  func oneWorkerForAFlow(_ isV4: Bool, _ usesFastPath: Bool) throws {
    let team = try WorkerTeam(4, usesFastPath: usesFastPath)
    var random = RaceRandom(state: 1)
    for round in 0..<4 {
      for port in 1000..<1100 {
        team.now += 1_000_000
        let there = team.send(random.next(4), from: 1, [Self.datagram(1, 2, isV4, port: port)])
        let back = team.send(random.next(4), from: 2, [Self.datagram(2, 1, isV4, port: 7, to: port)])
        try #require(there.map(\.interface) == [2] && back.map(\.interface) == [1], "round \(round), port \(port)")
        #expect(there[0].worker == back[0].worker)
      }
    }
    #expect(team.flows == 200 && team.redirects == 0)
    for member in team.members { #expect(member.path.flows.count > 20) }
    #expect(try team.received(1) == 400 && team.received(2) == 400)
    #expect(try team.statistics.reader().drops().allSatisfy { $0.count == 0 })
  }

  @Test("Answers to a translated flow find it", arguments: families, [true, false])
  func sourceNAT(_ isV4: Bool, _ usesFastPath: Bool) throws {
    let team = try WorkerTeam(4, usesFastPath: usesFastPath)
    var random = RaceRandom(state: 2)
    for port in 1000..<1100 {
      let there = team.send(random.next(4), from: 1, [Self.datagram(1, 4, isV4, port: port)])
      try #require(there.map(\.interface) == [4])
      for worker in 0..<4 {
        let back = team.send(worker, 4, [Self.answer(there[0], from: 4)])
        try #require(back.map(\.interface) == [1])
        #expect(back[0].destinationPort == port && back[0].worker == there[0].worker)
      }
    }
    // Of a hundred flows about three in four have their answers' key elsewhere.
    #expect((50...95).contains(team.redirects))
    #expect(team.flows == 200)
    team.wait(seconds: 400)
    #expect(team.flows == 0 && team.redirects == 0)
    let use = team.memory.nat.use(pool: isV4 ? 0 : 1, .udp)
    #expect(use.taken == 0, "all ports have come back")
    #expect(team.members.allSatisfy { $0.path.flows.count == 0 })
  }

  @Test("Where a ring is full, packets are dropped by name and no flow is made that could not be announced")
  func fullRing() throws {
    let team = try WorkerTeam(2, flows: 1 << 16)
    // Worker 0 hands over to worker 1, which does not take it.
    var port = 1000
    while try team.drops(.handoverFull) == 0 {
      team.receive(
        0, 1, [Datagram.frame(Self.datagram(1, 2, true, port: port, payload: 1400).packet, from: Topology.mac(1))])
      port += 1
      try #require(port < 60000)
    }
    let before = try team.drops(.handoverFull)
    // Small ones might still fit.
    for _ in 0..<200 {
      team.receive(0, 1, [Datagram.frame(Self.datagram(1, 2, true, port: port).packet, from: Topology.mac(1))])
      port += 1
    }
    #expect(try team.drops(.handoverFull) > before)
    let flows = team.members[0].path.flows.count
    let full = try team.drops(.handoverFull)
    // Translated flows of worker 0 whose answers belong to worker 1 cannot be.
    var sent = 0
    for port in 1000..<1200 {
      sent +=
        team.receive(0, 1, [Datagram.frame(Self.datagram(1, 4, true, port: port).packet, from: Topology.mac(1))]).count
    }
    let refused = try team.drops(.handoverFull) - full
    #expect(sent > 20 && refused > 100 && sent + Int(refused) == 200)
    #expect(team.members[0].path.flows.count == flows + 2 * sent)
    #expect(team.members[0].path.nat.ports.leased == sent, "no port is kept by a flow that was not made")
    // Once it is taken, they can.
    team.settle()
    sent = 0
    for port in 1000..<1200 { sent += team.send(0, from: 1, [Self.datagram(1, 4, true, port: port)]).count }
    #expect(sent == 200)
    #expect(try team.drops(.handoverFull) == full + refused)
  }

  @Test("A redirect that cannot be taken back yet is taken back later")
  func fullRingAtTheEnd() throws {
    let team = try WorkerTeam(2)
    for port in 1000..<1100 { _ = team.send(0, from: 1, [Self.datagram(1, 4, true, port: port)]) }
    let redirects = team.redirects
    #expect(redirects > 10)
    team.now += 100_000_000_000
    // Nobody takes anything while all those flows end.
    var port = 20000
    for _ in 0..<2 {
      let full = try team.drops(.handoverFull)
      while try team.drops(.handoverFull) < full + 100 {
        for worker in 0..<2 {
          team.receive(
            worker, 1, [Datagram.frame(Self.datagram(1, 2, true, port: port, payload: 1).packet, from: Topology.mac(1))]
          )
        }
        port = port == 60000 ? 20000 : port + 1
      }
    }
    for _ in 0..<100 { for member in team.members { member.path.age(now: team.now) } }
    #expect(team.redirects == redirects)
    #expect(team.members.contains { $0.path.nat.ports.leased > 0 }, "nor are their ports given back before")
    team.settle()
    team.wait(seconds: 1)
    #expect(team.redirects == 0)
    #expect(team.members.allSatisfy { $0.path.nat.ports.leased == 0 })
  }

  @Test("A redirect to a flow that has gone leads back and is forgotten", arguments: families)
  func staleRedirect(_ isV4: Bool) throws {
    let team = try WorkerTeam(2)
    // A service's flow, whose answers have another owner.
    var found = 0
    for port in 1000..<1040 {
      var packet = Self.datagram(1, 2, isV4, port: port, to: 80)
      packet.destination = Topology.serviceAddress(isV4)
      let before = team.redirects
      let there = team.send(0, from: 1, [packet])
      try #require(there.count == 1)
      guard team.redirects > before else { continue }
      found += 1
      let maker = team.members[there[0].worker]
      let key = FlowKey(
        vrf: Topology.inside, source: packet.source, destination: packet.destination, proto: IPProtocol.udp,
        sourcePort: UInt16(port), destinationPort: 80)
      let flow = maker.path.flows.find(key, hash: key.hash(seed: 1))
      try #require(flow != FlowTable.none)
      // Gone, and the other worker has not heard of it.
      maker.path.flows.remove(flow, now: team.now)
      let backend = there[0].interface
      let back = team.send(1, backend, [Self.answer(there[0], from: backend)])
      // Without a flow it is a packet like any other: to the client, from the backend's own address.
      try #require(back.map(\.interface) == [1])
      #expect(back[0].sourcePort == 8080 && back[0].worker != there[0].worker)
      #expect(team.redirects == before)
    }
    #expect(found > 5)
    #expect(try team.drops(.handoverLoop) == 0)
  }

  @Test("Two flows with one key for their answers: the second goes")
  func conflict() throws {
    let team = try WorkerTeam(2)
    var refused = 0
    for port in 1000..<1060 {
      // The backend speaks to the client from the service's port first.
      var packet = Self.datagram(1, 2, true, port: port, to: 80)
      packet.destination = Topology.serviceAddress(true)
      for backend in [2, 3] as [UInt32] {
        _ = team.send(0, from: backend, [Self.datagram(backend, 1, true, port: 8080, to: port)])
      }
      let before = team.refused
      _ = team.send(0, from: 1, [packet])
      let key = FlowKey(
        vrf: Topology.inside, source: packet.source, destination: packet.destination, proto: IPProtocol.udp,
        sourcePort: UInt16(port), destinationPort: 80)
      let isThere = team.members.contains { $0.path.flows.find(key, hash: key.hash(seed: 1)) != FlowTable.none }
      #expect(!isThere, "port \(port)")
      refused += Int(team.refused - before)
    }
    #expect(refused > 5 && team.redirects == 0)
    // Those that one worker could see are dropped at once, as a worker that is alone does.
    #expect(try Int(team.drops(.natExhausted)) + refused == 60)
  }

  @Test("Without room for a redirect a flow is not kept")
  func redirectsAreBounded() throws {
    let team = try WorkerTeam(2, redirects: 8)
    for port in 1000..<1100 { _ = team.send(0, from: 1, [Self.datagram(1, 4, true, port: port)]) }
    #expect(team.members.allSatisfy { $0.path.sharing.redirects <= 8 })
    #expect(team.refused > 10)
    team.wait(seconds: 1)
    // What is left are flows with both keys at home, and those with a redirect.
    #expect(team.flows == 2 * (100 - Int(team.refused)))
    team.wait(seconds: 100)
    #expect(team.flows == 0 && team.redirects == 0)
    #expect(team.memory.nat.use(pool: 0, .udp).taken == 0)
  }

  @Test("A refusal that cannot be told yet is told later")
  func refusalsWait() throws {
    let team = try WorkerTeam(2, flows: 1 << 16, redirects: 8)
    // Worker 1 fills the ring to worker 0.
    var port = 1000
    while try team.drops(.handoverFull) < 100 {
      let packet = Self.datagram(1, 2, true, port: port, payload: port < 20000 ? 1400 : 1).packet
      team.receive(1, 1, [Datagram.frame(packet, from: Topology.mac(1))])
      port += 1
      try #require(port < 60000)
    }
    func isThere(_ port: Int) -> Bool {
      let key = FlowKey(
        vrf: Topology.inside, source: Topology.address(1, true), destination: Topology.address(4, true),
        proto: IPProtocol.udp, sourcePort: UInt16(port), destinationPort: 7)
      return team.members[0].path.flows.find(key, hash: key.hash(seed: 1)) != FlowTable.none
    }
    var sent = 0
    for port in 1000..<1200 {
      let packet = Self.datagram(1, 4, true, port: port).packet
      sent += team.receive(0, 1, [Datagram.frame(packet, from: Topology.mac(1))]).count
    }
    team.take(1)
    let left = sent - Int(team.refused)
    #expect(sent > 50 && team.refused > 20)
    #expect((1000..<1200).filter(isThere).count == sent, "it has not heard of it")
    // Worker 0 makes room; some were in the ring, others have waited.
    team.take(0)
    #expect((1000..<1200).filter(isThere).count > left)
    for member in team.members { member.path.age(now: team.now) }
    team.take(0)
    #expect((1000..<1200).filter(isThere).count == left)
  }

  @Test("A client keeps its backend, whichever workers its flows belong to", arguments: families)
  func affinity(_ isV4: Bool) throws {
    let team = try WorkerTeam(4)
    func backend(_ port: Int, _ worker: Int) throws -> UInt32 {
      var packet = Self.datagram(1, 2, isV4, port: port, to: 81)
      packet.destination = Topology.serviceAddress(isV4)
      let there = team.send(worker, from: 1, [packet])
      try #require(there.count == 1)
      // And its answers come back.
      let back = team.send((worker + 1) % 4, there[0].interface, [Self.answer(there[0], from: there[0].interface)])
      try #require(back.map(\.interface) == [1])
      #expect(back[0].sourcePort == 81 && back[0].destinationPort == port)
      return there[0].interface
    }
    let first = try backend(1000, 0)
    // The choice would now be another for most clients.
    let service = Topology.service(isV4, 81)
    for number in 0..<40 as Range<UInt32> {
      let address = isV4 ? IPAddress(v4: 0x0A02_0000 | number) : IPAddress("fd02::\(number + 1)")!
      try team.programmer.apply(
        .setBackend(BackendConfiguration(service: service, address: address, port: 8080, vrf: Topology.inside)))
    }
    for port in 1001..<1060 { #expect(try backend(port, port % 4) == first) }
    #expect(team.flows == 120)
  }

  @Test("Fragments meet, and go on to their flow's worker", arguments: [1, 2, 4])
  func fragments(_ workers: Int) throws {
    let team = try WorkerTeam(workers)
    var random = RaceRandom(state: 3)
    for port in 1000..<1100 {
      // Part by part to any worker; a small packet of the flow before and after.
      let whole = Self.datagram(1, 4, true, port: port, payload: 600)
      let parts = whole.fragments(port)
      let small = Self.datagram(1, 4, true, port: port).packet
      var sent: [TeamFrame] = []
      for packet in [small] + parts + [small] {
        sent += team.send(random.next(workers), 1, [Datagram.frame(packet, from: Topology.mac(1))])
      }
      try #require(sent.map(\.interface) == [4, 4, 4, 4])
      // One outside port, and one worker.
      #expect(Set(sent.map(\.worker)).count == 1)
      #expect(sent[0].sourcePort == sent[1].sourcePort && sent[1].sourcePort == sent[3].sourcePort)
      #expect(Set(sent.map(\.source)).count == 1)
    }
  }

  @Test("A super-frame from the fabric is divided among its flows' workers", arguments: families, [1, 2, 4])
  func superFrames(_ isV4: Bool, _ workers: Int) throws {
    let team = try WorkerTeam(workers)
    var random = RaceRandom(state: 4)
    var expected: [Int: [[UInt8]]] = [:]
    var got: [Int: [[UInt8]]] = [:]
    var segments = 0
    for round in 0..<60 {
      // Up to three flows in one, or all of one.
      let flows = round % 3 + 1
      let packets = (0..<1 + random.next(20)).map { number -> [UInt8] in
        let port = 1000 + round * 3 + random.next(flows)
        var packet = Self.datagram(2, 1, isV4, port: port, payload: 64)
        packet.source = isV4 ? IPAddress("10.2.0.9")! : IPAddress("fd02::9")!
        var bytes = packet.packet
        bytes[bytes.count - 1] = UInt8(number)
        bytes[bytes.count - 2] = UInt8(round)
        expected[port, default: []].append(bytes)
        return bytes
      }
      segments += packets.count
      let whole = Datagram.tunneled(packets)
      for frame in team.send(random.next(workers), 0, [whole]) {
        #expect(frame.interface == 1)
        got[frame.sourcePort, default: []].append(frame.inner)
      }
    }
    for (port, packets) in expected {
      // A hop further; the rest as it came, in order.
      let tails = packets.map { $0.suffix(70) }
      #expect(got[port]?.map { $0.suffix(70) } == tails)
    }
    #expect(try team.received(0) == UInt64(segments))
    #expect(try team.statistics.reader().drops().allSatisfy { $0.count == 0 })
    #expect(workers == 1 || team.given > 0)
  }

  @Test("What is wrong with a segment of a super-frame is counted once")
  func badSegments() throws {
    let team = try WorkerTeam(2)
    for round in 0..<40 {
      var packets = (0..<6).map { number -> [UInt8] in
        var packet = Self.datagram(2, 1, true, port: 1000 + round, payload: 64)
        packet.source = IPAddress("10.2.0.9")!
        packet.sourcePort += number % 2
        return packet.packet
      }
      packets[3][10] ^= 1
      let sent = team.send(0, 0, [Datagram.tunneled(packets)])
      #expect(sent.count == 5)
    }
    #expect(try team.drops(.ipv4Checksum) == 40)
    #expect(try team.received(0) == 240)
  }

  @Test("A worker that sleeps is woken once for what it is given")
  func sleep() throws {
    let team = try WorkerTeam(2)
    let sharing = { (worker: Int) in team.members[worker] }
    #expect(sharing(1).path.sharing.fallAsleep())
    // Some of these are worker 1's.
    var wakes = 0
    for port in 1000..<1050 {
      team.receive(0, 1, [Datagram.frame(Self.datagram(1, 2, true, port: port).packet, from: Topology.mac(1))])
      while let other = sharing(0).path.sharing.nextSleeper() {
        #expect(other == 1)
        wakes += 1
      }
    }
    #expect(wakes == 1 && sharing(1).path.sharing.hasIncoming)
    #expect(!sharing(1).path.sharing.fallAsleep(), "there is something to do first")
    #expect(team.take(1).count > 10)
    #expect(sharing(1).path.sharing.fallAsleep())
    sharing(1).path.sharing.wakeUp()
    team.receive(0, 1, [Datagram.frame(Self.datagram(1, 2, true, port: 1000).packet, from: Topology.mac(1))])
    #expect(sharing(0).path.sharing.nextSleeper() == nil, "it is awake")
  }
}
