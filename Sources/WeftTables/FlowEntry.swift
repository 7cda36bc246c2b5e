import WeftWire

/// What a flow is and what becomes of its packets. Both directions' entries have the same but for `forward` and `listed`.
@frozen public struct FlowFlags: OptionSet, Sendable {
  public let rawValue: UInt16
  @inlinable public init(rawValue: UInt16) { self.rawValue = rawValue }

  @inlinable public static var inUse: FlowFlags { FlowFlags(rawValue: 1) }
  /// The direction of the packet that made the flow.
  @inlinable public static var forward: FlowFlags { FlowFlags(rawValue: 2) }
  /// A packet of the reverse direction has been seen.
  @inlinable public static var replied: FlowFlags { FlowFlags(rawValue: 4) }
  /// Never evicted for a new flow: TCP after its handshake, anything else once it was replied to.
  @inlinable public static var established: FlowFlags { FlowFlags(rawValue: 8) }
  /// TCP has ended.
  @inlinable public static var dying: FlowFlags { FlowFlags(rawValue: 16) }
  /// Packets are rewritten: the tuple that one leaves with is the other direction's key, reversed.
  @inlinable public static var nat: FlowFlags { FlowFlags(rawValue: 32) }
  /// Policy does not let its packets pass.
  @inlinable public static var denied: FlowFlags { FlowFlags(rawValue: 64) }
  /// Of a denied flow: its sender is told.
  @inlinable public static var rejected: FlowFlags { FlowFlags(rawValue: 128) }
  @inlinable public static var mirrored: FlowFlags { FlowFlags(rawValue: 256) }
  @inlinable public static var logged: FlowFlags { FlowFlags(rawValue: 512) }
  /// In the list of flows that may be evicted. On the forward entry only.
  static var listed: FlowFlags { FlowFlags(rawValue: 1024) }
  /// Its packets need more than forwarding and translation: they take all stages.
  @inlinable public static var staged: FlowFlags { FlowFlags(rawValue: 2048) }
  /// Of one direction: its next packet, if it is a TCP segment with nothing but ACK and PSH or not TCP, changes nothing
  /// but counters.
  @inlinable public static var steady: FlowFlags { FlowFlags(rawValue: 4096) }
  /// Many sessions' (`FatFlowMask`): its keys are cut, and TCP's state is not followed.
  @inlinable public static var fat: FlowFlags { FlowFlags(rawValue: 8192) }

  /// What `FlowTable.setPolicy` sets.
  static var ofPolicy: FlowFlags { [.denied, .rejected, .mirrored, .logged, .staged] }
}

/// Kinds of flows by how long they may be idle.
@frozen public enum FlowTimeout: UInt8, CaseIterable, Sendable {
  /// TCP before its handshake is done.
  case tcpOpening
  case tcpEstablished
  /// TCP after RST or both FINs.
  case tcpClosing
  /// UDP of which one direction was seen.
  case udp
  /// UDP of which both directions were seen.
  case udpStream
  case icmp
  case other
  /// A flow that policy denies is remembered for this long.
  case denied

  /// Of a flow of many sessions: of TCP's, whose ends nobody sees, as long as of one that is established.
  public static func fat(proto: UInt8) -> FlowTimeout {
    proto == IPProtocol.tcp ? .tcpEstablished : first(proto: proto)
  }

  /// Before anything but the first packet has been seen.
  public static func first(proto: UInt8) -> FlowTimeout {
    switch proto {
    case IPProtocol.tcp: .tcpOpening
    case IPProtocol.udp: .udp
    case IPProtocol.icmp, IPProtocol.icmpv6: .icmp
    default: .other
    }
  }
}

/// How long a flow may be idle in both directions, ns.
public struct FlowTimeouts: Equatable, Sendable {
  private var limits: InlineArray<8, UInt64>

  public static func == (a: FlowTimeouts, b: FlowTimeouts) -> Bool {
    FlowTimeout.allCases.allSatisfy { a[$0] == b[$0] }
  }

  public init() {
    let second: UInt64 = 1_000_000_000
    limits = [
      30 * second, 7200 * second, 20 * second, 30 * second, 180 * second, 15 * second, 120 * second, 10 * second,
    ]
  }

  public subscript(_ kind: FlowTimeout) -> UInt64 {
    get { limits[Int(kind.rawValue)] }
    set { limits[Int(kind.rawValue)] = newValue }
  }
}

/// The timeouts in force, where a flow table finds them fast.
@safe struct FlowLimits {
  static let bytes = MemoryLayout<FlowTimeouts>.size
  private let table: UnsafeMutablePointer<FlowTimeouts>

  /// `memory` has `bytes`, aligned to 8.
  init(_ memory: UnsafeMutableRawPointer) {
    unsafe table = memory.assumingMemoryBound(to: FlowTimeouts.self)
    all = FlowTimeouts()
  }

  var all: FlowTimeouts {
    get { unsafe table.pointee }
    nonmutating set { unsafe table.pointee = newValue }
  }

  @inline(__always) subscript(_ kind: FlowTimeout) -> UInt64 {
    unsafe UnsafeRawPointer(table).load(fromByteOffset: Int(kind.rawValue) &* 8, as: UInt64.self)
  }
}

/// One direction of a flow. 128 bytes, two cache lines: the first has all that a packet of IPv4 reads and writes, the
/// second the addresses of IPv6 and what is asked for less often.
@frozen public struct FlowEntry: Sendable {
  /// `FlowKey.addresses` and `FlowKey.transport`.
  @usableFromInline var addresses: UInt64
  @usableFromInline var transport: UInt64
  /// The policy's generation in which the flow was judged last.
  public var policyGeneration: UInt32
  /// The number of the path that this direction's routed packets take, as long as `policyGeneration` is current; 0 where
  /// it is to be looked up. Of a staged flow: which rules do something to its packets (`PolicyReader.actionSlot`), that
  /// of the one end in the lower half, that of the other in the upper.
  public var mark: UInt32
  public var flags: FlowFlags
  @usableFromInline var tcp: UInt8
  /// That of the forward entry counts.
  var timeout: FlowTimeout
  /// The member of an ECMP nexthop that was chosen for this direction.
  public var ecmpMember: UInt16
  var wheelSlot: UInt16
  /// The other direction's entry; `FlowTable.none` when source and destination are one.
  public var reverse: UInt32
  /// Where its last packet went.
  public var nexthop: UInt32
  public var packets: UInt64
  /// Bytes of IP packet.
  public var bytes: UInt64
  /// CLOCK_MONOTONIC, ns.
  public var lastSeen: UInt64

  /// IPv6: source and destination. IPv4 with translation: `FlowRewrite`.
  @usableFromInline var long: InlineArray<4, UInt64>
  /// CLOCK_MONOTONIC, ns.
  public var created: UInt64
  /// The rule that judged the flow.
  public var policyRule: UInt32
  /// What translation holds for the flow (a port of a pool, a service's backend); `FlowTable.noReference` for nothing.
  public var reference: UInt32
  // The rest links forward entries.
  var wheelNext: UInt32
  var wheelPrevious: UInt32
  var listNext: UInt32
  var listPrevious: UInt32

  /// An entry of a flow that has just begun.
  @inline(__always) init(
    key: FlowKey, flags: FlowFlags, tcp: TCPState, timeout: FlowTimeout, policyRule: UInt32, policyGeneration: UInt32,
    reference: UInt32, ecmpMember: UInt16, now: UInt64
  ) {
    addresses = key.addresses
    transport = key.transport
    long = [key.source.high, key.source.low, key.destination.high, key.destination.low]
    self.flags = flags
    self.tcp = tcp.rawValue
    self.timeout = timeout
    self.policyRule = policyRule
    self.policyGeneration = policyGeneration
    self.reference = reference
    reverse = FlowTable.none
    nexthop = FlowTable.none
    packets = 0
    bytes = 0
    lastSeen = now
    created = now
    self.ecmpMember = ecmpMember
    wheelSlot = 0
    wheelNext = FlowTable.none
    wheelPrevious = FlowTable.none
    listNext = FlowTable.none
    listPrevious = FlowTable.none
    mark = 0
  }

  @inlinable public var key: FlowKey {
    var key = FlowKey(addresses: addresses, transport: transport)
    if key.isV6 { (key.source, key.destination) = (source, destination) }
    return key
  }
  @inlinable @inline(__always) var source: IPAddress { IPAddress(high: long[0], low: long[1]) }
  @inlinable @inline(__always) var destination: IPAddress { IPAddress(high: long[2], low: long[3]) }

  /// Of an IPv4 flow with translation: what this direction's packets get.
  @inlinable @inline(__always) public var rewrite: FlowRewrite {
    FlowRewrite(addresses: long[0], ports: UInt32(truncatingIfNeeded: long[1]), sums: long[2])
  }
  mutating func setRewrite(_ rewrite: FlowRewrite) {
    long[0] = rewrite.addresses
    long[1] = UInt64(rewrite.ports)
    long[2] = rewrite.sums
  }
  @inlinable public var isForward: Bool { flags.contains(.forward) }
  public var tcpState: TCPState { TCPState(rawValue: tcp) ?? .none }

  @inlinable @inline(__always) func has(_ key: FlowKey, _ addresses: UInt64) -> Bool {
    self.addresses == addresses && transport == key.transport
      && (!key.isV6 || source == key.source && destination == key.destination)
  }
}

/// The translation of an IPv4 packet of TCP or UDP.
@frozen public struct FlowRewrite: Sendable {
  /// Source and destination from the top, host order; ports the same.
  public let addresses: UInt64
  public let ports: UInt32
  /// What is added to the complement of the checksum (`Rewrite`): for the addresses the lower 16 bits, for addresses and
  /// ports the next.
  @usableFromInline let sums: UInt64

  @inlinable @inline(__always) init(addresses: UInt64, ports: UInt32, sums: UInt64) {
    self.addresses = addresses
    self.ports = ports
    self.sums = sums
  }

  init(from key: FlowKey, to target: FlowKey) {
    let rewrite = Rewrite(from: key.ends, to: target.ends)
    addresses = target.addresses
    ports = UInt32(truncatingIfNeeded: target.transport >> 32)
    sums = UInt64(rewrite.addressChange) | UInt64(rewrite.change) << 16
  }

  @inlinable @inline(__always) public var addressChange: UInt32 { UInt32(truncatingIfNeeded: sums & 0xFFFF) }
  @inlinable @inline(__always) public var change: UInt32 { UInt32(truncatingIfNeeded: sums >> 16) }
}

/// Why a flow's entries went.
@frozen public enum FlowEndReason: UInt8, CaseIterable, Sendable {
  /// Idle for too long.
  case aged
  /// TCP: both sides have sent FIN.
  case closed
  /// TCP: one side has sent RST.
  case reset
  /// Its place was needed by a new flow.
  case evicted
  /// TCP: another connection with the same addresses and ports has begun.
  case renewed
  /// Removed by who owns the table: policy or translation does not allow it any more.
  case revoked
}

/// A flow that has ended: what export and port allocation want to know of it.
@frozen public struct FlowEnd: Sendable {
  /// Both directions' keys, as packets come in. With translation `reverse` is not `forward` reversed.
  public var forward: FlowKey
  public var reverse: FlowKey
  public var forwardPackets: UInt64
  public var forwardBytes: UInt64
  public var reversePackets: UInt64
  public var reverseBytes: UInt64
  /// CLOCK_MONOTONIC, ns: the first packet, the last one, the end of the entries.
  public var created: UInt64
  public var lastSeen: UInt64
  public var ended: UInt64
  public var policyRule: UInt32
  /// What translation gets back; `FlowTable.noReference` for nothing.
  public var reference: UInt32
  /// The number under which other workers know that this one has the flow (`FlowTable.setRedirect`); 0 where none does.
  public var redirect: UInt32
  public var flags: FlowFlags
  public var tcpState: TCPState
  public var reason: FlowEndReason
}
