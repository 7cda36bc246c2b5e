import WeftWire

/// Where a TCP connection stands, judged by flags alone: sequence numbers and windows are not looked at.
///
/// "Forward" is the direction of the packet that made the flow.
@frozen public enum TCPState: UInt8, CaseIterable, Sendable {
  /// Not TCP, or not tracked.
  case none
  /// Forward has sent SYN.
  case synSent
  /// Reverse has answered SYN+ACK.
  case synReceived
  /// Both have sent SYN (simultaneous open, RFC 9293 section 3.5).
  case synBoth
  /// The handshake is done, or both directions of a connection that was met on its way have been seen.
  case established
  /// A connection met on its way: one direction seen.
  case pickedUp
  /// Forward has sent FIN.
  case finForward
  /// Reverse has sent FIN.
  case finReverse
  /// Both have sent FIN.
  case closing
  /// One has sent RST.
  case reset
  /// Not a state that a flow stays in: the reverse side opens a connection of its own with the ports of one that has
  /// ended. The flow is over; the packet begins another, of which it is the forward one.
  case over

  /// Ended: held for a short while for what is still on its way.
  public var isDying: Bool { self == .closing || self == .reset }

  /// The handshake is done and the connection has not ended.
  public var isEstablished: Bool { self == .established || self == .finForward || self == .finReverse }

  /// How long a flow in this state may be idle.
  public var timeout: FlowTimeout {
    switch self {
    case .none, .over: .other
    case .synSent, .synReceived, .synBoth, .pickedUp: .tcpOpening
    case .established, .finForward, .finReverse: .tcpEstablished
    case .closing, .reset: .tcpClosing
    }
  }

  /// The state after a flow's first packet; nil when a flow may not begin so. `isStrict`: only a SYN begins one;
  /// otherwise any segment does, so that connections outlive a restart of the forwarder. A segment that no TCP sends
  /// (SYN with FIN or RST) begins none.
  public static func first(flags: UInt8, isStrict: Bool) -> TCPState? {
    if flags & TCP.syn != 0 {
      if flags & (TCP.fin | TCP.rst) != 0 { return nil }
      if flags & TCP.ack == 0 { return .synSent }
    }
    if isStrict { return nil }
    return flags & TCP.rst != 0 ? .reset : .pickedUp
  }

  /// A segment that no end of a connection in this state sends, or that means nothing to the other any more. What an end
  /// may send to find out (a SYN in an open connection, an ACK that challenges a SYN: RFC 5961) is none, nor is a RST.
  public static func isStray(_ state: TCPState, _ flags: UInt8, isForward: Bool) -> Bool {
    guard flags & TCP.rst == 0 else { return false }
    if flags & TCP.syn != 0 {
      return flags & TCP.ack != 0 && isForward && (state == .synSent || state == .synReceived)
    }
    switch state {
    // Nothing follows a SYN before it is answered; who refuses it sends RST.
    case .synSent: return isForward || flags & TCP.fin != 0
    case .reset: return true
    default: return false
    }
  }

  /// The state after a packet with these TCP flags. Pure: `FlowTable` asks a table made of this.
  public static func next(_ state: TCPState, _ flags: UInt8, isForward: Bool) -> TCPState {
    let row = rows[Int(state.rawValue)]
    let side = isForward ? row.forward : row.reverse
    if flags & TCP.rst != 0 { return side.rst }
    if flags & TCP.syn != 0 { return flags & TCP.ack == 0 ? side.syn : side.synAck }
    return flags & TCP.fin != 0 ? side.fin : side.other
  }

  /// The next state by kind of segment; `other` is ACK, data and anything else without SYN, FIN and RST.
  private struct Side: Sendable {
    let syn, synAck, other, fin, rst: TCPState
    init(_ syn: TCPState, _ synAck: TCPState, _ other: TCPState, _ fin: TCPState, _ rst: TCPState) {
      (self.syn, self.synAck, self.other, self.fin, self.rst) = (syn, synAck, other, fin, rst)
    }
  }
  private struct Row: Sendable {
    let forward, reverse: Side
    init(_ forward: Side, _ reverse: Side) { (self.forward, self.reverse) = (forward, reverse) }
  }

  // A stray SYN or RST-less answer to it changes nothing in an open connection (RFC 5961 section 4). A SYN from forward
  // after the end begins the connection anew in the same flow; one from reverse needs a flow of its own, since policy
  // may judge that direction differently. Nothing that one side sends by itself makes a connection established.
  private static let rows: [Row] = [
    // in the order of the cases; SYN, SYN+ACK, other, FIN, RST
    Row(Side(.none, .none, .none, .none, .none), Side(.none, .none, .none, .none, .none)),
    Row(  // synSent
      Side(.synSent, .synSent, .synSent, .synSent, .reset),
      Side(.synBoth, .synReceived, .synSent, .synSent, .reset)),
    Row(  // synReceived
      Side(.synReceived, .synReceived, .established, .finForward, .reset),
      Side(.synReceived, .synReceived, .synReceived, .synReceived, .reset)),
    Row(  // synBoth
      Side(.synBoth, .synBoth, .established, .finForward, .reset),
      Side(.synBoth, .synBoth, .established, .finReverse, .reset)),
    Row(  // established
      Side(.established, .established, .established, .finForward, .reset),
      Side(.established, .established, .established, .finReverse, .reset)),
    Row(  // pickedUp
      Side(.synSent, .pickedUp, .pickedUp, .pickedUp, .reset),
      Side(.pickedUp, .established, .established, .finReverse, .reset)),
    Row(  // finForward
      Side(.finForward, .finForward, .finForward, .finForward, .reset),
      Side(.finForward, .finForward, .finForward, .closing, .reset)),
    Row(  // finReverse
      Side(.finReverse, .finReverse, .finReverse, .closing, .reset),
      Side(.finReverse, .finReverse, .finReverse, .finReverse, .reset)),
    Row(  // closing
      Side(.synSent, .closing, .closing, .closing, .reset),
      Side(.over, .closing, .closing, .closing, .reset)),
    Row(  // reset
      Side(.synSent, .reset, .reset, .reset, .reset),
      Side(.over, .reset, .reset, .reset, .reset)),
    Row(Side(.over, .over, .over, .over, .over), Side(.over, .over, .over, .over, .over)),
  ]
}

/// `TCPState.next` as bytes: 16 states, two directions, the flags ACK, RST, SYN, FIN where they stand in the header.
@safe @frozen @usableFromInline struct TCPTransitions {
  static let bytes = 1024
  /// ACK, RST, SYN, FIN.
  @inlinable static var flagMask: UInt8 { 0x17 }
  @usableFromInline let table: UnsafeMutablePointer<UInt8>

  /// Fills `memory`, of `bytes`.
  init(_ memory: UnsafeMutableRawPointer) {
    unsafe table = memory.assumingMemoryBound(to: UInt8.self)
    for state in TCPState.allCases {
      for isForward in [false, true] {
        for flags in UInt8(0)..<32 {
          unsafe table[Self.place(state.rawValue, flags, isForward ? FlowFlags.forward.rawValue : 0)] =
            TCPState.next(state, flags, isForward: isForward).rawValue
        }
      }
    }
  }

  @inlinable @inline(__always) static func place(_ state: UInt8, _ tcpFlags: UInt8, _ flowFlags: UInt16) -> Int {
    Int(state) << 6 | Int(flowFlags & FlowFlags.forward.rawValue) << 4 | Int(tcpFlags & flagMask)
  }

  @inlinable @inline(__always) func next(_ state: UInt8, _ tcpFlags: UInt8, _ flowFlags: UInt16) -> UInt8 {
    unsafe table[Self.place(state, tcpFlags, flowFlags)]
  }
}
