import WeftWire

/// What a worker tells the control thread about: it has seen something that the tables should know.
public struct Report: Hashable, Sendable {
  public enum Kind: UInt32, Sendable {
    /// A MAC address behind an interface.
    case station = 1
    /// A MAC address behind the tunnel that ends at `address`, which sends with the VNI `label`.
    case remoteStation
    /// Somebody of the VRF sends to `address`, on the subnet of `interface`, whose MAC address is not known.
    case resolve
  }

  public var kind: Kind
  public var vrf: UInt32
  public var interface: UInt32
  public var label: UInt32
  public var mac: UInt64
  public var address: IPAddress
  /// CLOCK_MONOTONIC, ns.
  public var time: UInt64

  public init(
    kind: Kind, vrf: UInt32, interface: UInt32 = 0, label: UInt32 = 0, mac: UInt64 = 0,
    address: IPAddress = IPAddress(high: 0, low: 0), time: UInt64
  ) {
    self.kind = kind
    self.vrf = vrf
    self.interface = interface
    self.label = label
    self.mac = mac
    self.address = address
    self.time = time
  }
}

public typealias ReportRing = WorkerRing<Report>
public typealias ReportWriter = WorkerRingWriter<Report>
