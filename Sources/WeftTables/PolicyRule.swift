import WeftWire

@frozen public enum PolicyAction: UInt8, Sendable, CaseIterable {
  case allow = 1
  case deny
  /// Deny, and tell the sender: a TCP reset, or ICMP "administratively prohibited".
  case reject
}

/// A rule as the policy's compiler takes it: what it matches, all of which must hold, and what it says.
///
/// The subject is the local interface that the rule is about. An ingress rule is about what goes to it, an egress rule
/// about what comes from it; "local" is the subject's end of the packet and "remote" the other one.
public struct PolicyRule: Hashable, Sendable {
  public static let noRule = UInt32.max
  public static let keepDSCP: UInt8 = 0xFF

  public var id: UInt32
  /// The lowest number is asked first; between rules of one priority the lowest id.
  public var priority: UInt32
  public var isIngress: Bool
  public var action: PolicyAction
  /// One of the subject's tags; 0 for any subject.
  public var tag: UInt32
  /// The subject's VRF; nil for any.
  public var vrf: UInt32?
  /// Numbers of `PolicyTable`'s sets. With `remotePrefix` one of them all must hold the remote address; without both
  /// any address will do.
  public var remoteSets: [UInt32] = []
  public var remotePrefix: IPPrefix?
  public var localPrefix: IPPrefix?
  /// IP protocol number; nil for any.
  public var proto: UInt8?
  /// One of the ranges must hold the port; none for any. Only with a protocol that has ports.
  public var sourcePorts: [ClosedRange<UInt16>] = []
  public var destinationPorts: [ClosedRange<UInt16>] = []
  /// Only with ICMP and ICMPv6; the code only with a type.
  public var icmpType: UInt8?
  public var icmpCode: UInt8?
  /// Only with TCP: flags & mask == value.
  public var tcpFlagsMask: UInt8 = 0
  public var tcpFlagsValue: UInt8 = 0
  public var isLogged = false
  /// The mirror session that gets a copy; 0 for none.
  public var mirror: UInt16 = 0
  /// What the flow's packets are marked with, 0...63; `keepDSCP` leaves them as they are.
  public var dscp: UInt8 = PolicyRule.keepDSCP

  /// The number of the policer that meters the packets of all its flows; 0 for none.
  public var policer: UInt32 = 0

  public init(id: UInt32, priority: UInt32, isIngress: Bool, action: PolicyAction, tag: UInt32 = 0) {
    self.id = id
    self.priority = priority
    self.isIngress = isIngress
    self.action = action
    self.tag = tag
  }

  /// What is done to the packets of its flows.
  var actions: PolicyActions {
    action == .allow ? PolicyActions(policer: policer, dscp: dscp) : PolicyActions(policer: 0, dscp: Self.keepDSCP)
  }

  /// Protocols with 16-bit ports in their first four bytes: TCP, UDP, SCTP, DCCP, UDP-Lite.
  public static func hasPorts(_ proto: UInt8) -> Bool { [6, 17, 132, 33, 136].contains(proto) }
  public static func isICMP(_ proto: UInt8) -> Bool { proto == IPProtocol.icmp || proto == IPProtocol.icmpv6 }

  /// What the rule asks of the destination port, or of ICMP type and code (type above code): sorted ranges that do not
  /// touch; empty for nothing.
  var services: [ClosedRange<UInt16>] {
    guard let icmpType else { return Self.merged(destinationPorts) }
    let first = UInt16(icmpType) << 8
    return icmpCode.map { [first + UInt16($0)...first + UInt16($0)] } ?? [first...first + 0xFF]
  }

  var sources: [ClosedRange<UInt16>] { Self.merged(sourcePorts) }

  private static func merged(_ ranges: [ClosedRange<UInt16>]) -> [ClosedRange<UInt16>] {
    var result: [ClosedRange<UInt16>] = []
    for range in ranges.sorted(by: { $0.lowerBound < $1.lowerBound }) {
      if let last = result.last, Int(range.lowerBound) <= Int(last.upperBound) + 1 {
        result[result.count - 1] = last.lowerBound...max(last.upperBound, range.upperBound)
      } else {
        result.append(range)
      }
    }
    return result == [0...UInt16.max] ? [] : result
  }
}
