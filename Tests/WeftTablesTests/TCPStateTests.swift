import Testing
import WeftTables
import WeftWire

@Suite struct TCPStateTests {
  private static let syn = TCP.syn
  private static let synAck = TCP.syn | TCP.ack
  private static let ack = TCP.ack
  private static let fin = TCP.fin | TCP.ack
  private static let rst = TCP.rst

  /// A row for each state and direction: what SYN, SYN+ACK, ACK, FIN and RST lead to.
  private static let rows: [(TCPState, Bool, [TCPState])] = [
    (.none, true, [.none, .none, .none, .none, .none]),
    (.none, false, [.none, .none, .none, .none, .none]),
    (.synSent, true, [.synSent, .synSent, .synSent, .synSent, .reset]),
    (.synSent, false, [.synBoth, .synReceived, .synSent, .synSent, .reset]),
    (.synReceived, true, [.synReceived, .synReceived, .established, .finForward, .reset]),
    (.synReceived, false, [.synReceived, .synReceived, .synReceived, .synReceived, .reset]),
    (.synBoth, true, [.synBoth, .synBoth, .established, .finForward, .reset]),
    (.synBoth, false, [.synBoth, .synBoth, .established, .finReverse, .reset]),
    (.established, true, [.established, .established, .established, .finForward, .reset]),
    (.established, false, [.established, .established, .established, .finReverse, .reset]),
    (.pickedUp, true, [.synSent, .pickedUp, .pickedUp, .pickedUp, .reset]),
    (.pickedUp, false, [.pickedUp, .established, .established, .finReverse, .reset]),
    (.finForward, true, [.finForward, .finForward, .finForward, .finForward, .reset]),
    (.finForward, false, [.finForward, .finForward, .finForward, .closing, .reset]),
    (.finReverse, true, [.finReverse, .finReverse, .finReverse, .closing, .reset]),
    (.finReverse, false, [.finReverse, .finReverse, .finReverse, .finReverse, .reset]),
    (.closing, true, [.synSent, .closing, .closing, .closing, .reset]),
    (.closing, false, [.over, .closing, .closing, .closing, .reset]),
    (.reset, true, [.synSent, .reset, .reset, .reset, .reset]),
    (.reset, false, [.over, .reset, .reset, .reset, .reset]),
    (.over, true, [.over, .over, .over, .over, .over]),
    (.over, false, [.over, .over, .over, .over, .over]),
  ]

  @Test(arguments: rows) func row(state: TCPState, isForward: Bool, next: [TCPState]) {
    for (flags, next) in zip([Self.syn, Self.synAck, Self.ack, Self.fin, Self.rst], next) {
      #expect(TCPState.next(state, flags, isForward: isForward) == next, "\(flags)")
      // PSH, URG, ECE and CWR say nothing.
      for more in [UInt8(0x08), 0x20, 0x40, 0x80, 0xE8] {
        #expect(TCPState.next(state, flags | more, isForward: isForward) == next, "\(flags | more)")
      }
    }
    // RST before SYN before FIN; no flag at all is like ACK.
    #expect(TCPState.next(state, 0xFF, isForward: isForward) == next[4])
    #expect(TCPState.next(state, TCP.syn | TCP.fin, isForward: isForward) == next[0])
    #expect(TCPState.next(state, 0, isForward: isForward) == next[2])
    #expect(TCPState.next(state, TCP.fin, isForward: isForward) == next[3])
  }

  @Test func allStatesHaveRows() {
    #expect(Self.rows.count == TCPState.allCases.count * 2)
    for (number, state) in TCPState.allCases.enumerated() { #expect(Int(state.rawValue) == number) }
  }

  @Test func firstPackets() {
    let rows: [(UInt8, strict: TCPState?, loose: TCPState?)] = [
      (TCP.syn, .synSent, .synSent), (TCP.syn | 0xC0, .synSent, .synSent), (TCP.syn | TCP.ack, nil, .pickedUp),
      (TCP.ack, nil, .pickedUp), (TCP.ack | TCP.psh, nil, .pickedUp), (0, nil, .pickedUp), (TCP.rst, nil, .reset),
      (TCP.rst | TCP.ack, nil, .reset), (TCP.fin | TCP.ack, nil, .pickedUp), (TCP.syn | TCP.fin, nil, nil),
      (TCP.syn | TCP.rst, nil, nil), (0xFF, nil, nil),
    ]
    for (flags, strict, loose) in rows {
      #expect(TCPState.first(flags: flags, isStrict: true) == strict, "\(flags)")
      #expect(TCPState.first(flags: flags, isStrict: false) == loose, "\(flags)")
    }
  }

  /// Whatever one side sends by itself, in whatever order: no connection is established by it.
  @Test func oneSideEstablishesNothing() {
    var reached: Set<TCPState> = [.synSent, .pickedUp]
    var isGrowing = true
    while isGrowing {
      let before = reached.count
      for state in reached {
        for flags in UInt8(0)..<32 { reached.insert(TCPState.next(state, flags, isForward: true)) }
      }
      isGrowing = reached.count > before
    }
    #expect(reached == [.synSent, .pickedUp, .reset])
  }

  @Test func timeouts() {
    for state in TCPState.allCases {
      let expected: FlowTimeout =
        switch state {
        case .synSent, .synReceived, .synBoth, .pickedUp: .tcpOpening
        case .established, .finForward, .finReverse: .tcpEstablished
        case .closing, .reset: .tcpClosing
        case .none, .over: .other
        }
      #expect(state.timeout == expected)
      #expect(state.isDying == (state == .closing || state == .reset))
      #expect(state.isEstablished == (expected == .tcpEstablished))
    }
  }

  /// The table that packets are looked up in says what the function says, for all flags.
  @Test func tableIsTheFunction() throws {
    let key = FlowKey(
      vrf: 1, source: IPAddress(v4: 1), destination: IPAddress(v4: 2), proto: IPProtocol.tcp, sourcePort: 1,
      destinationPort: 2)
    for state in TCPState.allCases where state != .over {
      for isForward in [true, false] {
        for flags in UInt8.min...UInt8.max {
          let table = try Flows(capacity: 4, seed: 1, ends: 4)
          let made = table.insert(key, tcp: state, now: 1)
          guard case .made(let forward) = made else {
            Issue.record("\(made)")
            return
          }
          let index = isForward ? forward : table[forward].reverse
          let next = TCPState.next(state, flags, isForward: isForward)
          #expect(table.track(index, flags, now: 2) == (next != .over))
          if next != .over {
            #expect(table[forward].tcpState == next && table[table[forward].reverse].tcpState == next)
          }
        }
      }
    }
  }
}
