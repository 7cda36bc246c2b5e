import WeftSystem
import WeftWire

/// What of a tuple counts for a flow's key where an interface says that sessions share flows.
@frozen public struct FatFlowMask: Equatable, Sendable {
  /// Leading bits of the addresses that stay, of 128: an IPv4 address has 96 before its own.
  public var sourceBits: UInt8
  public var destinationBits: UInt8
  public var keepsSourcePort: Bool
  public var keepsDestinationPort: Bool

  @inlinable public init() {
    sourceBits = 128
    destinationBits = 128
    keepsSourcePort = true
    keepsDestinationPort = true
  }

  /// The flow is of one session, as flows are.
  @inlinable public var isWhole: Bool {
    sourceBits == 128 && destinationBits == 128 && keepsSourcePort && keepsDestinationPort
  }

  /// Sessions that go to different addresses or ports, or come from different addresses, have one key: what address
  /// translation would say of one of them is not what it says of all.
  @inlinable public var hidesTranslation: Bool { sourceBits < 128 || destinationBits < 128 || !keepsDestinationPort }

  /// The key that all sessions of the flow have.
  public func apply(to key: FlowKey) -> FlowKey {
    FlowKey(
      vrf: UInt32(truncatingIfNeeded: key.vrf), source: Self.cut(key.source, sourceBits),
      destination: Self.cut(key.destination, destinationBits), proto: key.proto,
      sourcePort: keepsSourcePort ? key.sourcePort : 0, destinationPort: keepsDestinationPort ? key.destinationPort : 0)
  }

  /// An IPv4 address stays one: the families never share a flow.
  private static func cut(_ address: IPAddress, _ bits: UInt8) -> IPAddress {
    let kept = address.isV4 ? max(96, Int(bits)) : Int(bits)
    return IPAddress(
      high: address.high & ~(UInt64.max >> UInt64(min(kept, 64))),
      low: kept <= 64 ? 0 : address.low & ~(UInt64.max >> UInt64(kept &- 64)))
  }
}

/// Which sessions of an interface share a flow, and what their keys leave out. "Local" is the interface's end.
@frozen public struct FatFlowRule: Hashable, Sendable {
  /// What counts of an address.
  @frozen public struct End: Hashable, Sendable {
    /// The rule is about addresses in it; nil for all.
    public var prefix: IPPrefix?
    /// Leading bits that stay, as in `FatFlowMask`.
    public var bits: UInt8

    public init(prefix: IPPrefix? = nil, bits: UInt8 = 128) {
      self.prefix = prefix
      self.bits = bits
    }
  }

  public var proto: UInt8
  /// The server's port, at either end: the other port is left out. 0: both are.
  public var port: UInt16
  public var local: End
  public var remote: End

  public init(proto: UInt8, port: UInt16 = 0, local: End = End(), remote: End = End()) {
    self.proto = proto
    self.port = port
    self.local = local
    self.remote = remote
  }
}

/// An interface's rules in their order: the first one that fits a tuple decides. Never changed once made.
@safe @frozen public struct FatFlowList: @unchecked Sendable {
  public static let maximum = 16
  private let rules: UnsafeMutablePointer<FatFlowRule>
  public let count: Int

  public init(_ list: [FatFlowRule]) {
    precondition((1...Self.maximum).contains(list.count))
    count = list.count
    unsafe rules = .allocate(capacity: list.count)
    for (index, rule) in list.enumerated() { unsafe (rules + index).initialize(to: rule) }
  }

  /// Frees the memory; nothing may be used afterwards.
  public func deallocate() { unsafe rules.deallocate() }

  /// Takes from `mask` what the interface leaves out of a tuple's key. `isSource`: the tuple comes from the interface,
  /// else it goes to it. The reverse tuple, which goes the other way, loses the same.
  public func narrow(_ mask: inout FatFlowMask, _ key: FlowKey, isSource: Bool) {
    let local = isSource ? key.source : key.destination
    let remote = isSource ? key.destination : key.source
    let localPort = isSource ? key.sourcePort : key.destinationPort
    let remotePort = isSource ? key.destinationPort : key.sourcePort
    for index in 0..<count {
      let rule = unsafe rules[index]
      guard rule.proto == key.proto, rule.port == 0 || rule.port == localPort || rule.port == remotePort,
        rule.local.prefix?.contains(local) ?? true, rule.remote.prefix?.contains(remote) ?? true
      else { continue }
      let keepsLocal = rule.port != 0 && rule.port == localPort
      let keepsRemote = rule.port != 0 && rule.port == remotePort
      if isSource {
        mask.narrow(rule.local.bits, rule.remote.bits, keepsSource: keepsLocal, keepsDestination: keepsRemote)
      } else {
        mask.narrow(rule.remote.bits, rule.local.bits, keepsSource: keepsRemote, keepsDestination: keepsLocal)
      }
      return
    }
  }
}

extension FatFlowMask {
  fileprivate mutating func narrow(
    _ source: UInt8, _ destination: UInt8, keepsSource: Bool, keepsDestination: Bool
  ) {
    sourceBits = min(sourceBits, source)
    destinationBits = min(destinationBits, destination)
    keepsSourcePort = keepsSourcePort && keepsSource
    keepsDestinationPort = keepsDestinationPort && keepsDestination
  }
}

/// Which VRFs have interfaces whose sessions share flows, and of which protocols: for all others nothing is looked at.
@safe @frozen public struct FatFlowReader: Sendable {
  let table: DirectTableReader

  /// No interface has a list.
  public var isEmpty: Bool { table[0] == 0 }

  /// False: no interface of the VRF has anything to say about the protocol.
  @inline(__always) public func mayApply(vrf: UInt32, proto: UInt8) -> Bool {
    table[vrf &+ 1] & FatFlowVRFs.bit(proto) != 0
  }
}

/// The writer's side of `FatFlowReader`.
public final class FatFlowVRFs: @unchecked Sendable {
  private let table: DirectTable
  /// Rules by VRF and protocol's bit.
  private var counts: [UInt32: [Int]] = [:]

  init(vrfs: Int) throws(SystemError) { table = try DirectTable(capacity: vrfs + 1, what: "fat flows") }

  public var reader: FatFlowReader { FatFlowReader(table: table.reader) }

  @inline(__always) static func bit(_ proto: UInt8) -> UInt32 { 1 << UInt32(proto & 31) }

  /// An interface of `vrf` has these rules more (`change` 1) or less (-1).
  public func change(vrf: UInt32, protocols: [UInt8], by change: Int) {
    guard !protocols.isEmpty else { return }
    var counts = self.counts[vrf] ?? [Int](repeating: 0, count: 32)
    for proto in protocols { counts[Int(proto & 31)] += change }
    let bits = counts.indices.reduce(UInt32(0)) { $0 | (counts[$1] > 0 ? 1 << UInt32($1) : 0) }
    self.counts[vrf] = bits == 0 ? nil : counts
    table.set(Int(vrf) + 1, bits)
    table.set(0, UInt32(self.counts.count))
  }
}
