/// How fast a container may receive and send, as CNI's capability "bandwidth" has it (CNI CONVENTIONS.md). What is beyond
/// is dropped by the forwarder.
public struct Bandwidth: Hashable, Sendable, Codable {
  /// To the container, bit/s of Ethernet frames; nil and 0: no limit.
  public var ingressRate: UInt64?
  /// Bits that may come at once; nil and 0: a quarter of a second's.
  public var ingressBurst: UInt64?
  /// From the container.
  public var egressRate: UInt64?
  public var egressBurst: UInt64?

  public init(
    ingressRate: UInt64? = nil, ingressBurst: UInt64? = nil, egressRate: UInt64? = nil, egressBurst: UInt64? = nil
  ) {
    self.ingressRate = ingressRate
    self.ingressBurst = ingressBurst
    self.egressRate = egressRate
    self.egressBurst = egressBurst
  }

  public var isUnlimited: Bool { (ingressRate ?? 0) == 0 && (egressRate ?? 0) == 0 }

  public enum CodingKeys: String, CodingKey, CaseIterable {
    case ingressRate = "ingress-rate"
    case ingressBurst = "ingress-burst"
    case egressRate = "egress-rate"
    case egressBurst = "egress-burst"
  }
}
