import Testing
import WeftTables
import WeftWire

/// The flow table against a dictionary of flows that does the same the slow way.
@Suite struct FlowModelTests {
  private static let seed: UInt64 = 0xFEED_5EED_0BAD_CAFE
  private static let second: UInt64 = 1_000_000_000
  /// What a flow may outlive its time by: a tick of the wheel.
  private static let tick: UInt64 = 1 << 26

  private struct Flow {
    var forward: FlowKey
    var reverse: FlowKey
    var tcp: TCPState
    var isDenied: Bool
    var hasReply = false
    var lastSeen: UInt64
    var packets: (UInt64, UInt64) = (0, 0)
    var reference: UInt32

    var isEstablished: Bool { !isDenied && (tcp == .none ? hasReply : tcp.isEstablished) }
    var timeout: FlowTimeout {
      if isDenied { return .denied }
      if tcp != .none { return tcp.timeout }
      return hasReply && forward.proto == IPProtocol.udp ? .udpStream : .first(proto: forward.proto)
    }
  }

  private static func randomKey(_ random: inout SeededRandom, hosts: Int) -> FlowKey {
    let proto = [IPProtocol.tcp, IPProtocol.tcp, IPProtocol.udp, IPProtocol.icmp, 47][random.below(5)]
    let isV6 = random.below(3) == 0
    func address() -> IPAddress {
      let host = random.below(hosts) + 1
      return isV6 ? IPAddress(high: 0xFD00 << 48, low: UInt64(host)) : IPAddress(v4: 0x0A00_0000 | UInt32(host))
    }
    let source = address()
    return FlowKey(
      vrf: UInt32(random.below(2)), source: source, destination: address(), proto: proto,
      sourcePort: UInt16(random.below(4)), destinationPort: UInt16(random.below(4)))
  }

  private static let tcpFlags: [UInt8] = [
    TCP.syn, TCP.syn | TCP.ack, TCP.ack, TCP.ack, TCP.ack | TCP.psh, TCP.fin | TCP.ack, TCP.rst, TCP.rst | TCP.ack, 0,
    0xFF,
  ]

  /// An hour of random packets: every lookup, state, counter and time. Nothing goes early; what is over is gone with the
  /// next tick; references come back once each.
  @Test(arguments: [1, 2, 3]) func simulatedHour(seed: Int) throws {
    var random = SeededRandom(seed: UInt64(seed))
    let table = try Flows(capacity: 1 << 14, seed: Self.seed, ends: 1 << 14)
    table.timeouts[.tcpEstablished] = 300 * Self.second
    table.timeouts[.tcpOpening] = 7 * Self.second
    let timeouts = table.timeouts
    var flows: [FlowKey: Flow] = [:]
    // Either direction's key to the forward one.
    var owners: [FlowKey: FlowKey] = [:]
    // Keys that were there once, to draw from.
    var recent: [FlowKey] = []
    var references: [UInt32: Int] = [:]
    var nextReference: UInt32 = 1
    let start = 1_000_000 * Self.second
    var now = start
    var over = 0
    var gone = 0

    func forget(_ key: FlowKey) {
      guard let flow = flows.removeValue(forKey: key) else { return }
      owners[flow.forward] = nil
      owners[flow.reverse] = nil
    }
    func drain() {
      while let end = table.nextEnd() {
        if end.reference != FlowTable.noReference { references[end.reference, default: 0] += 1 }
      }
    }
    func begin(_ key: FlowKey, _ flags: UInt8) {
      let isTCP = key.proto == IPProtocol.tcp
      let isDenied = random.below(10) == 0
      guard let tcp = isTCP ? TCPState.first(flags: flags, isStrict: false) : TCPState.none else { return }
      var reverse = key.reversed
      if random.below(3) == 0 {
        reverse.vrf = 5
        reverse.destination = IPAddress("203.0.113.1")!
      }
      let hasReference = random.below(3) == 0
      let made = table.insert(
        key, reverse: reverse, flags: isDenied ? .denied : [],
        tcp: isDenied ? .none : tcp, reference: hasReference ? nextReference : FlowTable.noReference, now: now)
      if owners[reverse] != nil || owners[key] != nil {
        #expect(made == .conflict)
        return
      }
      guard case .made(let index) = made else {
        Issue.record("\(made) for \(key)")
        return
      }
      #expect(table[index].flags.contains(.nat) == (reverse != key.reversed))
      flows[key] = Flow(
        forward: key, reverse: reverse, tcp: isDenied ? .none : tcp, isDenied: isDenied, lastSeen: now,
        reference: hasReference ? nextReference : FlowTable.noReference)
      if hasReference { nextReference += 1 }
      owners[key] = key
      owners[reverse] = key
      for key in [key, reverse] {
        if recent.count < 400 { recent.append(key) } else { recent[random.below(400)] = key }
      }
    }

    while now < start + 3600 * Self.second {
      now += UInt64(random.below(Int(Self.second / 10)))
      var key = Self.randomKey(&random, hosts: 12)
      if random.below(3) != 0, let known = recent.randomElement(using: &random), owners[known] != nil { key = known }
      let flags = key.proto == IPProtocol.tcp ? Self.tcpFlags[random.below(Self.tcpFlags.count)] : 0
      let index = table.find(key)
      if (index != FlowTable.none) != (owners[key] != nil) {
        Issue.record("\(key) should \(owners[key] != nil ? "" : "not ")be there")
        return
      }
      if let owner = owners[key], var flow = flows[owner] {
        let isForward = key == owner
        #expect(table[index].key == key && table[index].isForward == isForward)
        let next = flow.isDenied ? flow.tcp : TCPState.next(flow.tcp, flags, isForward: isForward)
        let stays = table.track(index, flags, now: now)
        #expect(stays == (next != .over))
        if next == .over {
          over += 1
          forget(owner)
          begin(key, flags)
        } else {
          if !isForward, !flow.isDenied { flow.hasReply = true }
          if flow.tcp.isDying, !next.isDying {
            flow.hasReply = false
            flow.packets = (0, 0)
          }
          flow.tcp = next
          flow.lastSeen = now
          if isForward { flow.packets.0 += 1 } else { flow.packets.1 += 1 }
          table.count(index, now: now)
          flows[owner] = flow
          let forward = table.find(owner)
          let entry = table[forward]
          let back = table[entry.reverse == FlowTable.none ? forward : entry.reverse]
          #expect(entry.packets == flow.packets.0 && entry.tcpState == flow.tcp && back.tcpState == flow.tcp)
          if entry.reverse != FlowTable.none { #expect(back.packets == flow.packets.1 && back.key == flow.reverse) }
          #expect(entry.flags.contains(.established) == flow.isEstablished)
          #expect(entry.flags.contains(.dying) == flow.tcp.isDying)
        }
      } else {
        begin(key, flags)
      }
      if random.below(20) == 0 {
        table.age(now: now, limit: .max)
        for (key, flow) in flows {
          let deadline = flow.lastSeen + timeouts[flow.timeout]
          let isThere = table.find(key) != FlowTable.none
          if !isThere, deadline > now { Issue.record("\(key) went \(deadline - now) ns early") }
          if isThere, deadline + Self.tick <= now { Issue.record("\(key) is \(now - deadline) ns late") }
          if !isThere {
            gone += 1
            forget(key)
          }
        }
        drain()
      }
      if table.count != owners.count {
        Issue.record("\(table.count) entries, not \(owners.count)")
        return
      }
    }
    #expect(over > 10 && gone > 1000, "\(over) began anew, \(gone) went")
    // All goes at last, and every reference has come back once.
    now += 10_000 * Self.second
    while !table.age(now: now) { drain() }
    drain()
    #expect(table.count == 0 && table.refused == 0 && table.evicted == 0)
    #expect(references.count == Int(nextReference) - 1 && references.values.allSatisfy { $0 == 1 })
  }

  /// A table that is far too small: the oldest flow without a reply makes way, never an established one.
  @Test(arguments: [(8, 4), (64, 5), (500, 6)]) func evictionAgainstAList(capacity: Int, seed: Int) throws {
    var random = SeededRandom(seed: UInt64(seed))
    let table = try Flows(capacity: capacity, seed: Self.seed)
    // In order of creation.
    var waiting: [FlowKey] = []
    var established: Set<FlowKey> = []
    var now = 5 * Self.second
    var refused: UInt64 = 0
    var evicted: UInt64 = 0
    for number in 0..<20_000 {
      now += UInt64(random.below(100_000))
      if random.below(12) == 0, established.count < capacity / 3, let key = waiting.randomElement(using: &random) {
        table.markReplied(table.find(key.reversed), now: now)
        waiting.removeAll { $0 == key }
        established.insert(key)
        continue
      }
      if number % 4000 == 3999, let key = established.randomElement(using: &random) {
        table.remove(table.find(key), now: now)
        established.remove(key)
      }
      let key = FlowKey(
        vrf: 1, source: IPAddress(v4: 0x0A00_0001), destination: IPAddress(v4: UInt32(number) + 0x0B00_0000),
        proto: IPProtocol.udp, sourcePort: 1, destinationPort: 2)
      let isFull = (waiting.count + established.count) * 2 + 2 > capacity
      let made = table.insert(key, now: now)
      if isFull, waiting.isEmpty {
        #expect(made == .refused)
        refused += 1
        continue
      }
      if case .made = made {} else { Issue.record("\(made)") }
      waiting.append(key)
      if isFull {
        let victim = waiting.removeFirst()
        evicted += 1
        if table.find(victim) != FlowTable.none || table.find(victim.reversed) != FlowTable.none {
          Issue.record("\(victim) should have been evicted")
        }
        var end: FlowEnd?
        while let next = table.nextEnd() { end = next }
        #expect(end?.forward == victim && end?.reason == .evicted && end?.ended == now)
      }
      #expect(table.count == (waiting.count + established.count) * 2)
      #expect(table.refused == refused && table.evicted == evicted)
      if number % 100 == 0 {
        for key in waiting + established where table.find(key) == FlowTable.none {
          Issue.record("\(key) is lost")
        }
      }
    }
    #expect(evicted > 10_000)
  }
}
