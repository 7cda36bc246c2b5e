// Mirroring: copies of packets for an analyser.

/// Where copies of packets go.
public struct MirrorConfiguration: Hashable, Sendable {
  public enum Destination: Hashable, Sendable {
    /// Out of a local interface, as they are.
    case interface(UInt32)
    /// Through a VXLAN tunnel nexthop, whole Ethernet frames in this VNI.
    case tunnel(nexthop: UInt32, vni: UInt32)
  }

  /// Numbers go from 1 to this; 0 stands for none.
  public static let maximum: UInt32 = 1023
  /// The least truncation: the headers of most packets.
  public static let minimumTruncation: UInt32 = 64

  public var id: UInt32
  public var destination: Destination
  /// Bytes of Ethernet frame that are kept; 0 for all.
  public var truncation: UInt32

  public init(id: UInt32, destination: Destination, truncation: UInt32 = 0) {
    self.id = id
    self.destination = destination
    self.truncation = truncation
  }
}

/// Which mirrors get copies of an interface's frames; 0 for none.
public struct InterfaceMirrorConfiguration: Hashable, Sendable {
  public var interface: UInt32
  /// Of frames that come in, as they come in: with their outer headers on a fabric interface.
  public var ingress: UInt32
  /// Of frames that go out, as they go out.
  public var egress: UInt32

  public init(interface: UInt32, ingress: UInt32, egress: UInt32) {
    self.interface = interface
    self.ingress = ingress
    self.egress = egress
  }
}

/// What a mirror has done since it was set.
public struct MirrorState: Hashable, Sendable {
  /// Copies as packets on a wire.
  public var packets: UInt64
  /// Bytes of Ethernet frame, without what a tunnel adds.
  public var bytes: UInt64
  /// Copies that were shortened though no truncation asked for it: the tunnel's underlay takes no more.
  public var shortened: UInt64
  /// Copies that were not made: no room, or the way to the analyser is not there.
  public var lost: UInt64

  public init(packets: UInt64 = 0, bytes: UInt64 = 0, shortened: UInt64 = 0, lost: UInt64 = 0) {
    self.packets = packets
    self.bytes = bytes
    self.shortened = shortened
    self.lost = lost
  }
}
