import CLinux
import Glibc
import Testing
import WeftRing
import WeftWire

/// The forwarder against clients that break the rules: named errors, and nothing else.
@Suite struct HostileClientTests {
  // MARK: handshake

  @Test func badHellos() throws {
    let forwarder = try TestForwarder.agreeing()
    defer { forwarder.stop() }
    // What is sent, and the status of the answer (nil: none, the connection just ends).
    let hellos: [(String, [UInt8], UInt32?)] = [
      ("wrong magic", RawSocket.hello(magic: 0x5446_4558), 2), ("no version", RawSocket.hello(version: 0), 2),
      ("later version", RawSocket.hello(version: RingLayout.version + 1), 2), ("role 0", RawSocket.hello(role: 0), 2),
      ("role 3", RawSocket.hello(role: 3), 2), ("large role", RawSocket.hello(role: .max), 2),
      ("zeros", [UInt8](repeating: 0, count: 16), 2), ("one byte", [1], 2),
      ("15 bytes", Array(RawSocket.hello().dropLast()), 2),
      ("text", Array("GET / HTTP/1.1\r\n\r\n".utf8), 2), ("64 KiB", [UInt8](repeating: 0x57, count: 65536), 2),
      ("empty", [], nil),
    ]
    for (what, hello, status) in hellos {
      let raw = RawSocket.connect(forwarder.path)
      defer { close(raw) }
      _ = send(raw, hello, hello.count, Int32(MSG_NOSIGNAL))
      var answer = [UInt8](repeating: 0, count: 64)
      var descriptors = [Int32](repeating: -1, count: 8)
      var count: Int32 = 0
      let received = weft_receive_fds(raw, &answer, 64, &descriptors, &count)
      #expect(count == 0, "\(what): no memory for a stranger")
      if let status {
        #expect(received == 16, "\(what)")
        #expect(Array(answer[0..<12]) == RawSocket.words([0x5446_4557, RingLayout.version, status]), "\(what)")
      } else {
        #expect(received == 0, "\(what)")
      }
    }
    // Gone before it was answered, and never saying anything.
    for _ in 0..<3 { close(RawSocket.connect(forwarder.path)) }
    let silent = RawSocket.connect(forwarder.path)
    defer { close(silent) }
    #expect(try RingClient.connect(path: forwarder.path, role: .agent).apply([.barrier]).count == 1)
  }

  /// Descriptors that a client sends along are nothing to us, and are not kept open.
  @Test func descriptorsInAHello() throws {
    let forwarder = try TestForwarder.agreeing()
    defer { forwarder.stop() }
    let raw = RawSocket.connect(forwarder.path)
    let sent = memfd_create("weft-test", 0)
    var descriptors = [sent]
    let hello = RawSocket.hello()
    #expect(weft_send_fds(raw, hello, hello.count, &descriptors, 1) == 0)
    var answer = [UInt8](repeating: 0, count: 64)
    #expect(recv(raw, &answer, 64, 0) == 16)
    close(sent)
    close(raw)
  }

  /// The memory cannot be cut from under the forwarder, and the statistics cannot be written.
  @Test func theMemoryIsSealed() throws {
    let client = try HostileClient()
    #expect(client.descriptors.count == 5)
    #expect(ftruncate(client.descriptors[0], 4096) == -1)
    #expect(ftruncate(client.descriptors[0], Int(RingLayout.totalBytes) * 2) == -1)
    #expect(fcntl(client.descriptors[0], 1024 + 9, 0x0008) == -1, "no more seals (F_ADD_SEALS, F_SEAL_WRITE)")
    let mapped = mmap(nil, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, client.descriptors[1], 0)
    #expect(mapped == MAP_FAILED)
    #expect(ftruncate(client.descriptors[1], 0) == -1)
  }

  // MARK: positions

  @Test(arguments: [1025, 2048, 1 << 32, UInt64.max, UInt64.max - 1023, 1 << 63])
  func commandPositionsBeyond(head: UInt64) throws {
    let client = try HostileClient()
    client.set(HostileClient.commandHead, head)
    #expect(throws: RingCorrupt.self) { try client.channel.next() }
    #expect(throws: RingCorrupt.self) { try client.channel.hasCommands() }
    // The same if it has worked before.
    let later = try HostileClient()
    for position in 0..<UInt64(10) { later.write(position, kind: 18, length: 0, sequence: position, payload: []) }
    later.set(HostileClient.commandHead, 10)
    for position in 0..<UInt64(10) {
      let next = try #require(try later.channel.next())
      #expect(next.sequence == position && next.command == .success(.barrier))
    }
    #expect(try later.channel.next() == nil)
    later.set(HostileClient.commandHead, 10 &+ head)
    #expect(throws: RingCorrupt.self) { try later.channel.next() }
  }

  @Test func commandPositionGoesBack() throws {
    let client = try HostileClient()
    client.set(HostileClient.commandHead, 10)
    for _ in 0..<5 { _ = try client.channel.next() }
    client.set(HostileClient.commandHead, 4)
    // What was seen is read; then the position makes no sense.
    for _ in 0..<5 { _ = try client.channel.next() }
    #expect(throws: RingCorrupt.self) { try client.channel.next() }
  }

  @Test(arguments: [1, 2, 1 << 40, UInt64.max - 1024, UInt64.max / 2]) func completionPositionsBeyond(
    tail: UInt64
  ) throws {
    let client = try HostileClient()
    client.set(HostileClient.completionTail, tail)
    #expect(throws: RingCorrupt.self) { try client.channel.canComplete(1) }
    #expect(throws: RingCorrupt.self) { try client.channel.freeCompletions() }
  }

  @Test(arguments: [257, 1 << 40, UInt64.max]) func eventPositionsBeyond(tail: UInt64) throws {
    let client = try HostileClient()
    client.set(HostileClient.eventTail, tail)
    // Nothing need be looked at before the ring seems full.
    #expect(throws: RingCorrupt.self) {
      for _ in 0...RingLayout.eventSlots { try client.channel.emit(.interfaceState(id: 1, isUp: true)) }
    }
  }

  /// A client that takes its word back between the question and the write: promised room is there.
  @Test func completionPositionGoesBack() throws {
    let client = try HostileClient()
    for sequence in 0..<UInt64(1000) { try client.channel.complete(.done(sequence: sequence, cursor: 0)) }
    client.set(HostileClient.completionTail, 1000)
    #expect(try client.channel.canComplete(1024))
    client.set(HostileClient.completionTail, 0)
    for sequence in 0..<UInt64(1024) { try client.channel.complete(.done(sequence: sequence, cursor: 0)) }
    #expect(throws: RingCorrupt.self) { try client.channel.canComplete(1) }
  }

  @Test func completionsStopWhenFull() throws {
    let client = try HostileClient()
    #expect(try client.channel.freeCompletions() == RingLayout.completionSlots)
    for sequence in 0..<UInt64(RingLayout.completionSlots) {
      #expect(try client.channel.canComplete(1))
      try client.channel.complete(.done(sequence: sequence, cursor: 0))
    }
    #expect(try !client.channel.canComplete(1))
    #expect(try client.channel.freeCompletions() == 0)
    client.set(HostileClient.completionTail, 3)
    #expect(
      try client.channel.freeCompletions() == 3 && client.channel.canComplete(3) && !client.channel.canComplete(4))
  }

  // MARK: messages

  /// Each known kind with no payload, one byte too few, one too many, and a length beyond the slot.
  @Test func lengths() throws {
    let client = try HostileClient()
    var position: UInt64 = 0
    func read(kind: UInt16, length: UInt32, payload: [UInt8]) throws -> Result<Command, Refusal> {
      client.write(position, kind: kind, length: length, sequence: position, payload: payload)
      position += 1
      client.set(HostileClient.commandHead, position)
      return try #require(try client.channel.next()).command
    }
    // Payload bytes of messages without text or lists.
    let sizes: [UInt16: Int] = [
      1: 8, 2: 8, 4: 4, 6: 4, 8: 4, 9: 8, 10: 4, 11: 8, 12: 4, 13: 29, 14: 21, 15: 20, 16: 12, 17: 13, 18: 0,
      20: 4, 21: 57, 22: 4, 23: 40, 24: 20, 25: 45, 26: 23, 28: 23, 29: 48, 30: 45, 32: 4, 33: 22, 34: 21, 36: 4,
    ]
    for (kind, size) in sizes {
      for length in [0, size - 1, size, size + 1, 240, 241, 65536, Int(UInt32.max)] where length >= 0 {
        var payload = [UInt8](repeating: 0, count: 240)
        // dump: a table that there is.
        if kind == 17 { payload[0] = 1 }
        let result = try read(kind: kind, length: UInt32(length), payload: payload)
        if length == size {
          guard case .success = result else {
            Issue.record("kind \(kind) of \(length) bytes: \(result)")
            continue
          }
        } else {
          guard case .failure(let refusal) = result, refusal.code == .malformed, !refusal.reason.isEmpty else {
            Issue.record("kind \(kind) of \(length) bytes: \(result)")
            continue
          }
        }
      }
    }
    for kind: UInt16 in [0, 250, 255, 256, .max] {
      guard case .failure(let refusal) = try read(kind: kind, length: 0, payload: []) else {
        Issue.record("kind \(kind) was understood")
        continue
      }
      #expect(refusal.code == .unknownMessage && refusal.reason.contains("\(kind)"))
    }
  }

  /// Fields that no honest client writes.
  @Test func fields() throws {
    let client = try HostileClient()
    var position: UInt64 = 0
    func reason(_ kind: UInt16, _ payload: [UInt8]) throws -> String {
      client.write(position, kind: kind, length: UInt32(payload.count), sequence: position, payload: payload)
      position += 1
      client.set(HostileClient.commandHead, position)
      switch try #require(try client.channel.next()).command {
      case .success(let command): return "understood: \(command)"
      case .failure(let refusal): return refusal.description
      }
    }
    func zeros(_ count: Int) -> [UInt8] { [UInt8](repeating: 0, count: count) }
    let v4: [UInt8] = zeros(8) + RawSocket.words([0x0A00_0001, 0x0000_FFFF])  // 10.0.0.1
    let mac: [UInt8] = [1, 0, 0, 0, 0, 2, 0, 0]
    // interface: id, role, port, mtu, vrf, mac, device, addresses, flags, tags, vlan, mac limit, fat flows, QoS, XDP, TAP
    let more = zeros(15)
    let head = zeros(4)
    let rest = [0xDC, 0x05] + zeros(4)
    #expect(try reason(3, head + [0, 1] + rest + mac + [0, 0]).contains("interface role"))
    #expect(try reason(3, head + [5, 1] + rest + mac + [0, 0]).contains("interface role"))
    #expect(try reason(3, head + [1, 0] + rest + mac + [0, 0]).contains("port kind"))
    #expect(try reason(3, head + [1, 1] + rest + mac + [0, 0] + zeros(10) + more).hasPrefix("understood"))
    #expect(try reason(3, head + [1, 1] + rest + [1, 0, 0, 0, 0, 2, 1, 0] + [0, 0]).contains("\"mac\""))
    #expect(try reason(3, head + [1, 1] + rest + mac + [16] + zeros(16) + [0]).contains("device"))
    #expect(try reason(3, head + [1, 1] + rest + mac + [200, 65, 0]).contains("device"))
    #expect(try reason(3, head + [1, 1] + rest + mac + [2, 0xC3, 0x28, 0]).contains("device"), "no UTF-8")
    #expect(try reason(3, head + [1, 1] + rest + mac + [0, 5] + zeros(80)).contains("address count"))
    #expect(try reason(3, head + [1, 1] + rest + mac + [0, 2] + v4).contains("address"))
    #expect(try reason(3, head + [1, 1] + rest + mac + [0, 1] + v4 + zeros(10) + more).hasPrefix("understood"))
    let unflagged = head + [1, 1] + rest + mac + [0, 0]
    #expect(try reason(3, unflagged + [127, 0, 0, 0, 1, 9, 0, 0, 0] + zeros(5) + more).hasPrefix("understood"))
    #expect(try reason(3, unflagged + zeros(5) + [2]).contains("\"vlan\""))
    #expect(try reason(3, unflagged + zeros(5) + [1] + zeros(9)).contains("inner vlan"))
    #expect(try reason(3, unflagged + zeros(5) + [1] + zeros(10)).contains("mac limit"))
    #expect(try reason(3, unflagged + zeros(5) + [1] + zeros(14) + more).hasPrefix("understood"))
    #expect(try reason(3, unflagged + [0, 1, 0, 0, 0]).contains("interface flags"))
    #expect(try reason(3, unflagged + [0, 0, 0, 128, 0]).contains("interface flags"))
    #expect(try reason(3, unflagged + [0, 0, 0, 0, 9] + zeros(36)).contains("tag count"))
    #expect(try reason(3, unflagged + [0, 0, 0, 0, 2] + zeros(4)).contains("\"tag\""))
    #expect(try reason(3, unflagged + zeros(10) + [17] + zeros(100)).contains("fat flow count"))
    #expect(try reason(3, unflagged + zeros(10) + [1, 17, 0, 0, 3, 0]).contains("fat flow end"))
    #expect(try reason(3, unflagged + zeros(10) + [1, 17, 0, 0, 0, 2] + v4 + [31, 24]).contains("fat flow prefix"))
    #expect(try reason(3, unflagged + zeros(11) + [2]).contains("ingress policer"))
    #expect(try reason(3, unflagged + zeros(14) + [1, 0, 0, 0]).contains("remark"))
    #expect(try reason(3, unflagged + zeros(15) + [3] + zeros(5)).contains("xdp mode"))
    #expect(try reason(3, unflagged + zeros(15) + [0, 3] + zeros(4)).contains("xdp copying"))
    #expect(try reason(3, unflagged + zeros(15) + [0, 0, 1, 0, 1]).contains("busy poll budget"))
    #expect(try reason(3, unflagged + zeros(21) + [0]).contains("tap queues"))
    #expect(try reason(3, unflagged + zeros(23) + [96] + zeros(97)).contains("tap namespace"))
    #expect(try reason(3, unflagged + zeros(24) + [16] + zeros(16)).contains("tap name"))
    #expect(try reason(3, unflagged + zeros(23) + [1, 0x2F, 1, 0x65]).hasPrefix("understood"))
    // vrf: id, name
    #expect(try reason(5, head + [64] + zeros(64)).contains("vrf name"))
    #expect(try reason(5, head + [0xFF]).contains("vrf name"))
    #expect(try reason(5, head + [0, 8, 0, 0, 0] + zeros(12)).contains("vrf flags"))
    #expect(try reason(5, head + [0, 7, 0, 0, 0] + zeros(11)).contains("mac limit"))
    #expect(try reason(5, head + [0, 7, 0, 0, 0] + zeros(12)).hasPrefix("understood"))
    // nexthop: id, action, …
    for action: UInt8 in [0, 12, 255] { #expect(try reason(7, head + [action]).contains("nexthop action")) }
    #expect(try reason(7, head + [1]).hasPrefix("understood"))
    #expect(try reason(7, head + [1, 0]).contains("trailing bytes"))
    #expect(try reason(7, head + [4, 4] + zeros(4) + v4 + v4 + mac + mac).contains("encapsulation"))
    #expect(try reason(7, head + [4, 1] + zeros(4) + v4 + v4 + mac + mac).contains("fragments"))
    #expect(try reason(7, head + [4, 1] + zeros(4) + v4 + v4 + mac + mac + [2]).contains("fragments"))
    #expect(try reason(7, head + [6, 65] + zeros(650)).contains("member count"))
    #expect(try reason(7, head + [6, 2] + zeros(10)).contains("member nexthop"))
    #expect(try reason(7, head + [6, 1] + zeros(9)).contains("member weight"))
    #expect(try reason(7, head + [6, 1] + zeros(11)).contains("trailing bytes"))
    #expect(try reason(7, head + [6, 64] + zeros(640)).hasPrefix("understood"))
    #expect(
      try reason(7, head + [4, 1] + zeros(4) + v4 + v4 + mac + [0, 0, 0, 0, 0, 0, 0, 1]).contains(
        "inner destination mac"))
    for action: UInt8 in [7, 9, 10, 11] {
      #expect(try reason(7, head + [action] + zeros(3)).contains(action < 10 ? "interface" : "vrf"))
      #expect(try reason(7, head + [action] + zeros(4)).hasPrefix("understood"))
    }
    #expect(try reason(7, head + [8, 65] + zeros(650)).contains("member count"))
    #expect(try reason(7, head + [8, 1] + zeros(9)).contains("member group"))
    #expect(try reason(7, head + [8, 64] + zeros(640)).hasPrefix("understood"))
    #expect(try reason(37, head + v4 + [1, 0, 0, 0, 0, 2, 1, 0]).contains("\"mac\""))
    #expect(try reason(37, head + v4 + mac).hasPrefix("understood"))
    // route: vrf, prefix (address, length), nexthop, label
    #expect(try reason(13, head + v4 + [33] + zeros(8)).contains("prefix"))
    #expect(try reason(13, head + v4 + [24] + zeros(8)).contains("prefix"), "host bits")
    #expect(try reason(13, head + v4 + [32] + zeros(8)).hasPrefix("understood"))
    #expect(try reason(13, head + zeros(16) + [129] + zeros(8)).contains("prefix"))
    #expect(try reason(13, head + zeros(16) + [128] + zeros(8)).hasPrefix("understood"))
    // dump: table, cursor, limit
    for table: UInt8 in [0, 200, 255] { #expect(try reason(17, [table] + zeros(12)).contains("\"table\"")) }
    // address set: id, name; member: set, prefix, excluded
    #expect(try reason(31, head + [64] + zeros(64)).contains("set name"))
    #expect(try reason(33, head + v4 + [32, 2]).contains("excluded"))
    #expect(try reason(33, head + v4 + [24, 0]).contains("prefix"))
    // rule: id, name, priority, direction, action, tag, VRF?, sets, prefixes?, protocol?, ports, …
    let start = head + [0] + zeros(4)
    let none = zeros(4) + [0]
    #expect(try reason(35, start + [1, 1] + none + [0] + zeros(14)).hasPrefix("understood"))
    #expect(try reason(35, start + [0, 1] + none + [0] + zeros(14)).contains("direction"))
    #expect(try reason(35, start + [3, 1] + none + [0] + zeros(14)).contains("direction"))
    #expect(try reason(35, start + [1, 4] + none + [0] + zeros(14)).contains("action"))
    #expect(try reason(35, start + [1, 1] + none + [9] + zeros(49)).contains("set count"))
    #expect(try reason(35, start + [1, 1] + zeros(4) + [2] + zeros(14)).contains("vrf"))
    #expect(try reason(35, start + [1, 1] + none + [0, 0, 0, 0, 5] + zeros(30)).contains("source ports"))
    #expect(try reason(35, start + [1, 1] + none + [0, 0, 0, 0, 1, 9, 0, 8, 0] + zeros(8)).contains("source ports"))
    #expect(try reason(35, start + [1, 1] + none + [0, 0, 0, 0, 0, 9] + zeros(50)).contains("destination ports"))
  }

  /// A million messages of random bytes, and of good messages with some bytes changed: each is understood or refused.
  @Test func randomMessages() throws {
    let client = try HostileClient()
    var random = SeededRandom(seed: 51)
    var understood = 0
    var refused = 0
    var position: UInt64 = 0
    // Good payloads to damage, as a real client writes them.
    let good = try goodPayloads()
    #expect(good.count == Samples.commands.count)
    let rounds = 1000
    for _ in 0..<rounds {
      let start = position
      for _ in 0..<RingLayout.commandSlots {
        let bits = random.next()
        if bits & 1 == 0 {
          var payload = [UInt8](repeating: 0, count: 240)
          payload.withUnsafeMutableBytes { bytes in
            for offset in stride(from: 0, to: 240, by: 8) {
              bytes.storeBytes(of: random.next(), toByteOffset: offset, as: UInt64.self)
            }
          }
          let length = bits & 0x700 == 0 ? UInt32(truncatingIfNeeded: random.next()) : UInt32((bits >> 16) % 64)
          client.write(
            position, kind: UInt16((bits >> 40) % 20), length: length, sequence: random.next(), payload: payload)
        } else {
          var (kind, payload) = good[Int(bits >> 16) % good.count]
          var length = payload.count
          for _ in 0..<Int(bits >> 8 & 3) where !payload.isEmpty {
            payload[random.below(payload.count)] = UInt8(truncatingIfNeeded: random.next())
          }
          if bits & 0x3000 == 0 { length = max(0, length + random.below(5) - 2) }
          client.write(position, kind: kind, length: UInt32(length), sequence: position, payload: payload)
        }
        position += 1
      }
      client.set(HostileClient.commandHead, position)
      while let (_, command) = try client.channel.next() {
        switch command {
        case .success(let command):
          understood += 1
          check(command)
        case .failure(let refusal):
          refused += 1
          if refusal.code != .malformed && refusal.code != .unknownMessage || refusal.reason.utf8.count > 200 {
            Issue.record("\(refusal)")
          }
        }
      }
      #expect(client.get(256) == position && position == start + UInt64(RingLayout.commandSlots))
    }
    #expect(understood + refused == rounds * RingLayout.commandSlots)
    #expect(understood > 100_000 && refused > 100_000, "\(understood) understood, \(refused) refused")
  }

  /// What got through holds what its type promises.
  private func check(_ command: Command) {
    switch command {
    case .setInterface(let interface):
      if interface.device.utf8.count > 15 || interface.addresses.count > 4 { Issue.record("\(interface)") }
    case .setVRF(let vrf): if vrf.name.utf8.count > 63 { Issue.record("\(vrf)") }
    case .setRoute(let route):
      if IPPrefix(route.prefix.address, length: route.prefix.length) != route.prefix { Issue.record("\(route)") }
    case .removeRoute(_, let prefix):
      if IPPrefix(prefix.address, length: prefix.length) != prefix { Issue.record("\(prefix)") }
    default: break
    }
  }

  /// The commands of `Samples` as `RingClient` writes them, read from its ring by one who stood between it and the
  /// forwarder when the memory was handed over.
  private func goodPayloads() throws -> [(kind: UInt16, payload: [UInt8])] {
    let forwarder = try TestForwarder.agreeing()
    defer { forwarder.stop() }
    let between = Interceptor(forwarder.path)
    let client = try RingClient.connect(path: between.path, role: .agent)
    let base = between.memory()
    defer { munmap(base, RingLayout.totalBytes) }
    _ = try client.apply(Samples.commands)
    return (0..<Samples.commands.count).map { index in
      let slot = base + HostileClient.slots + index * RingLayout.slotBytes
      let length = Int(slot.load(fromByteOffset: 4, as: UInt32.self))
      return (slot.load(as: UInt16.self), Array(UnsafeRawBufferPointer(start: slot + 16, count: length)))
    }
  }

  // MARK: the other way round

  /// A forwarder whose memory holds no sense ends the channel with an error, in the agent too.
  @Test func aHostileForwarder() throws {
    for (what, damage) in Self.damages {
      let forwarder = try TestForwarder { sequence, _ in damage(sequence) }
      defer { forwarder.stop() }
      let client = try RingClient.connect(path: forwarder.path, role: .agent)
      #expect {
        try client.apply([.barrier, .barrier])
      } throws: { error in
        if case RingError.corrupt = error { return true }
        return false
      }
      #expect(!client.isConnected, "\(what)")
    }
  }

  private static let damages: [(String, @Sendable (UInt64) -> [Completion])] = [
    ("an answer to nothing", { [.done(sequence: $0 + 1, cursor: 0)] }),
    ("an answer twice", { [.done(sequence: $0, cursor: 0), .done(sequence: $0, cursor: 0)] }),
    ("an entry of another command", { [.entry(sequence: $0 + 7, .vrf(VRFConfiguration(id: 1, name: "x")))] }),
  ]
}
