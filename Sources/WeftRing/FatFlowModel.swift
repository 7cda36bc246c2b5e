import WeftWire

/// Sessions of an interface that share one flow: what of their tuples is left out of the flow's key. "Local" is the
/// interface's end, "remote" the other one. The first of an interface's that fits a tuple decides.
public struct FatFlow: Hashable, Sendable {
  /// The most of one interface.
  public static let maximum = 16

  /// What counts of an end's address.
  public enum End: Hashable, Sendable {
    /// All of it.
    case kept
    /// Nothing.
    case ignored
    /// Addresses in the prefix count by their first `length` bits; tuples with others are not meant.
    case aggregated(IPPrefix, length: UInt8)
  }

  /// IP protocol number.
  public var proto: UInt8
  /// The server's port (TCP, UDP, SCTP): sessions with it at one end share a flow, whatever the port at the other end.
  /// 0: sessions with any ports do.
  public var port: UInt16
  public var local: End
  public var remote: End

  public init(proto: UInt8, port: UInt16 = 0, local: End = .kept, remote: End = .kept) {
    self.proto = proto
    self.port = port
    self.local = local
    self.remote = remote
  }
}

extension SlotWriter {
  mutating func put(_ fatFlows: [FatFlow]) {
    let kept = fatFlows.prefix(FatFlow.maximum)
    put(UInt8(kept.count))
    for flow in kept {
      put(flow.proto)
      put(flow.port)
      put(flow.local)
      put(flow.remote)
    }
  }

  private mutating func put(_ end: FatFlow.End) {
    switch end {
    case .kept: put(UInt8(0))
    case .ignored: put(UInt8(1))
    case .aggregated(let prefix, let length):
      put(UInt8(2))
      put(prefix)
      put(length)
    }
  }
}

extension SlotReader {
  mutating func fatFlows() throws(SlotFault) -> [FatFlow] {
    let count = Int(try get("fat flow count", as: UInt8.self))
    guard count <= FatFlow.maximum else { throw SlotFault(what: "fat flow count") }
    var flows: [FatFlow] = []
    for _ in 0..<count {
      flows.append(
        FatFlow(
          proto: try get("fat flow protocol"), port: try get("fat flow port"), local: try fatFlowEnd(),
          remote: try fatFlowEnd()))
    }
    return flows
  }

  private mutating func fatFlowEnd() throws(SlotFault) -> FatFlow.End {
    switch try get("fat flow end", as: UInt8.self) {
    case 0: .kept
    case 1: .ignored
    case 2: .aggregated(try prefix("fat flow prefix"), length: try get("fat flow length"))
    default: throw SlotFault(what: "fat flow end")
    }
  }
}
