import CLinux
import Synchronization
import WeftWire

/// A packet as the policy sees it: the first of its flow, or for a flow that is judged again what its first one was
/// like (ICMP echo: a request; TCP: a SYN).
@frozen public struct PolicyQuery: Sendable {
  /// The policy class of the interface that the question is about (`InterfaceEntry.policyClass`): its VRF and tags.
  public var subject: UInt32
  /// Toward the subject; else from it.
  public var isIngress: Bool
  /// IP protocol number.
  public var proto: UInt8
  public var tcpFlags: UInt8
  /// The subject's end of the packet, and the other one.
  public var local: IPAddress
  public var remote: IPAddress
  /// As in the packet, 0 where the protocol has none.
  public var sourcePort: UInt16
  public var destinationPort: UInt16
  /// ICMP and ICMPv6: the type in the upper octet, the code in the lower.
  public var icmp: UInt16

  @inlinable @inline(__always) public init(
    subject: UInt32, isIngress: Bool, local: IPAddress, remote: IPAddress, proto: UInt8, sourcePort: UInt16 = 0,
    destinationPort: UInt16 = 0, icmp: UInt16 = 0, tcpFlags: UInt8 = 0
  ) {
    self.subject = subject
    self.isIngress = isIngress
    self.local = local
    self.remote = remote
    self.proto = proto
    self.sourcePort = sourcePort
    self.destinationPort = destinationPort
    self.icmp = icmp
    self.tcpFlags = tcpFlags
  }
}

/// What the policy says of a flow. 16 bytes.
@frozen public struct PolicyVerdict: Hashable, Sendable {
  /// The rule that decided; `PolicyRule.noRule` when none matched.
  public var rule: UInt32
  /// Where its hits are counted.
  @usableFromInline var slot: UInt32
  public var mirror: UInt16
  public var action: PolicyAction
  public var isLogged: Bool
  /// 0...63, or `PolicyRule.keepDSCP`.
  public var dscp: UInt8

  @inlinable @inline(__always) init(
    rule: UInt32, slot: UInt32, mirror: UInt16, action: PolicyAction, isLogged: Bool, dscp: UInt8
  ) {
    self.rule = rule
    self.slot = slot
    self.mirror = mirror
    self.action = action
    self.isLogged = isLogged
    self.dscp = dscp
  }

  /// The flow's packets pass, and nothing else is done to them.
  @inlinable @inline(__always) public var isPlain: Bool {
    action == .allow && !isLogged && mirror == 0 && dscp == PolicyRule.keepDSCP
  }

  /// No policy asks about the packet.
  @inlinable @inline(__always) public static var allowed: PolicyVerdict {
    PolicyVerdict(rule: .max, slot: .max, mirror: 0, action: .allow, isLogged: false, dscp: 0xFF)
  }
  /// No rule matched: what is not allowed is denied.
  @inlinable @inline(__always) public static var noRule: PolicyVerdict {
    PolicyVerdict(rule: .max, slot: .max, mirror: 0, action: .deny, isLogged: false, dscp: 0xFF)
  }
}

/// What a rule does to the packets of the flows that it allows. 64 bits: policer 32, DSCP with bit 7 set 8.
@frozen public struct PolicyActions: Hashable, Sendable {
  @usableFromInline let bits: UInt64

  init(bits: UInt64) { self.bits = bits }

  init(policer: UInt32, dscp: UInt8) {
    bits = UInt64(policer) | (dscp > 63 ? 0 : UInt64(0x80 | dscp) << 32)
  }

  /// A policer's number; 0 for none.
  public var policer: UInt32 { UInt32(truncatingIfNeeded: bits) }
  /// `PolicyRule.keepDSCP` for none.
  public var dscp: UInt8 { bits >> 39 & 1 == 0 ? PolicyRule.keepDSCP : UInt8(truncatingIfNeeded: bits >> 32) & 0x3F }
}

/// 256 rules' bits.
typealias PolicyBlock = SIMD4<UInt64>

/// A bit for each rule of a side, in blocks.
@safe struct PolicyVector: Equatable {
  let blocks: UnsafeMutablePointer<PolicyBlock>

  init(_ blocks: UnsafeMutablePointer<PolicyBlock>) { unsafe self.blocks = blocks }

  @inline(__always) subscript(block: Int) -> PolicyBlock { unsafe blocks[block] }

  private var words: UnsafeMutablePointer<UInt64> {
    unsafe UnsafeMutableRawPointer(blocks).assumingMemoryBound(to: UInt64.self)
  }
  @inline(__always) func set(_ rule: Int) { unsafe words[rule >> 6] |= 1 << UInt64(rule & 63) }
  @inline(__always) func clear(_ rule: Int) { unsafe words[rule >> 6] &= ~(1 << UInt64(rule & 63)) }

  static func == (a: PolicyVector, b: PolicyVector) -> Bool { unsafe a.blocks == b.blocks }
}

/// One direction's rules, compiled: for each property of a packet a table that gives a bit vector, in which bit i says
/// that rule i, in the order in which they are asked, has nothing against it. The first bit that all have is the rule.
///
/// The policy in force is two of them in a row, egress and ingress. Readers get everything by pointer. Nothing changes once published, but that subjects and classes are added.
@safe struct PolicySide {
  var blocks = 0
  /// By subject, `subjectCapacity` of them; nil for one that is not there.
  var subjects: UnsafeMutablePointer<PolicyVector?>
  var subjectCapacity = 0
  /// Two by class of addresses: as remote, as local.
  var classes: UnsafeMutablePointer<PolicyVector?>
  var classCapacity = 0
  /// 256, by protocol: where its boundaries begin and how many it has.
  var protocols: UnsafeMutablePointer<(start: UInt32, count: UInt32)>
  /// Boundaries of destination ports (or ICMP type and code), and what holds from each on.
  var serviceKeys: UnsafeMutablePointer<UInt16>
  var services: UnsafeMutablePointer<PolicyVector>
  var sourceCount = 0
  var sourceKeys: UnsafeMutablePointer<UInt16>
  var sources: UnsafeMutablePointer<PolicyVector>
  /// 256, by TCP flags; nil when no rule asks for them.
  var tcpFlags: UnsafeMutablePointer<PolicyVector>?
  var usesLocal = false
  /// Every rule.
  var all: PolicyVector
  var verdicts: UnsafeMutablePointer<PolicyVerdict>
}

/// The workers' view of `PolicyTable`.
@safe public struct PolicyReader: @unchecked Sendable {
  let place: UnsafeMutableRawPointer
  let v4: AddressIntervalsReader<UInt32>
  let v6: AddressIntervalsReader<UInt128>
  let hits: UnsafeMutablePointer<Atomic<UInt64>>
  let actions: UnsafeMutableRawPointer
  let slots: Int

  /// No rule does anything to packets but to let them pass or not.
  public var hasNoActions: Bool { unsafe weft_load_relaxed_u32(place + 12) == 0 }

  /// What a rule does to its flows' packets: `slot` is one below `actionSlot`.
  @inline(__always) public func actions(_ slot: UInt32) -> PolicyActions {
    PolicyActions(bits: Int(slot) < slots ? unsafe weft_load_relaxed_u64(actions + Int(slot) &* 8) : 0)
  }

  /// The slot of a rule that does something to packets, plus one; 0 for any other.
  @inline(__always) public func actionSlot(_ verdict: PolicyVerdict) -> UInt32 {
    guard verdict.slot != .max, actions(verdict.slot).bits != 0 else { return 0 }
    return verdict.slot &+ 1
  }

  /// Grows with each change after which a verdict may be another one. A flow keeps the generation that was read before
  /// it was judged; where that is not the current one, it is judged again.
  public var generation: UInt32 { unsafe weft_load_acquire_u32(place + 8) }

  /// The class of an address.
  @inline(__always) private func classOf(_ address: IPAddress) -> Int {
    if address.isV4 { return Int(v4.lookup(address.v4)) }
    return Int(v6.lookup(UInt128(address.high) << 64 | UInt128(address.low)))
  }

  /// What the policy says. Counts nothing, allocates nothing.
  public func evaluate(_ query: borrowing PolicyQuery) -> PolicyVerdict {
    var snapshot = unsafe weft_load_acquire_ptr(place).unsafelyUnwrapped
    while true {
      let side = unsafe snapshot.assumingMemoryBound(to: PolicySide.self) + (query.isIngress ? 1 : 0)
      let remoteClass = classOf(query.remote)
      let localClass = unsafe side.pointee.usesLocal ? classOf(query.local) : 0
      // A class is in the snapshot of the time when it was given to an address, and in all later ones.
      let now = unsafe weft_load_acquire_ptr(place).unsafelyUnwrapped
      if unsafe now != snapshot {
        unsafe snapshot = now
        continue
      }
      return unsafe Self.search(side, query, remoteClass, localClass)
    }
  }

  @inline(__always) private static func search(
    _ side: UnsafeMutablePointer<PolicySide>, _ query: borrowing PolicyQuery, _ remoteClass: Int, _ localClass: Int
  ) -> PolicyVerdict {
    let blocks = unsafe side.pointee.blocks
    guard unsafe Int(query.subject) < side.pointee.subjectCapacity,
      let subject = unsafe side.pointee.subjects[Int(query.subject)],
      unsafe remoteClass < side.pointee.classCapacity, unsafe localClass < side.pointee.classCapacity,
      let remote = unsafe side.pointee.classes[remoteClass &* 2],
      let local = unsafe side.pointee.classes[localClass &* 2 &+ 1]
    else { return .noRule }
    let (start, count) = unsafe side.pointee.protocols[Int(query.proto)]
    let service: PolicyVector
    if count == 1 {
      unsafe service = side.pointee.services[Int(start)]
    } else {
      let key = PolicyRule.isICMP(query.proto) ? query.icmp : query.destinationPort
      let keys = unsafe UnsafeMutableRawPointer(side.pointee.serviceKeys + Int(start))
      unsafe service = side.pointee.services[Int(start) &+ lastIndex(notAbove: key, keys, Int(count))]
    }
    var source = unsafe side.pointee.all
    if unsafe side.pointee.sourceCount > 0 {
      let keys = unsafe UnsafeMutableRawPointer(side.pointee.sourceKeys)
      let index = unsafe lastIndex(notAbove: query.sourcePort, keys, side.pointee.sourceCount)
      unsafe source = side.pointee.sources[index]
    }
    var flags = unsafe side.pointee.all
    if query.proto == IPProtocol.tcp, let table = unsafe side.pointee.tcpFlags {
      unsafe flags = table[Int(query.tcpFlags)]
    }
    var block = 0
    while block < blocks {
      let left = subject[block] & remote[block] & service[block] & source[block] & local[block] & flags[block]
      if weft_any(left) != 0 {
        var word = 0
        while left[word] == 0 { word &+= 1 }
        let rule = block &* 256 &+ word &* 64 &+ left[word].trailingZeroBitCount
        return unsafe side.pointee.verdicts[rule]
      }
      block &+= 1
    }
    return .noRule
  }

  /// Counts a hit of the rule that decided. Once a new flow: the counter is all workers'.
  public func countHit(_ verdict: PolicyVerdict) {
    guard verdict.slot != .max else { return }
    unsafe hits[Int(verdict.slot)].wrappingAdd(1, ordering: .relaxed)
  }
}
