/// What front end and forwarder have agreed on (virtio 1.2 sections 5.1.3 and 6; vhost-user's own bit 30).
public struct VhostFeatures: OptionSet, Sendable {
  public let rawValue: UInt64
  public init(rawValue: UInt64) { self.rawValue = rawValue }
  private init(bit: Int) { rawValue = 1 << UInt64(bit) }

  public static let checksum = VhostFeatures(bit: 0)
  public static let guestChecksum = VhostFeatures(bit: 1)
  public static let mtu = VhostFeatures(bit: 3)
  static let gso = VhostFeatures(bit: 6)
  static let guestTSO4 = VhostFeatures(bit: 7)
  static let guestTSO6 = VhostFeatures(bit: 8)
  static let guestECN = VhostFeatures(bit: 9)
  static let hostTSO4 = VhostFeatures(bit: 11)
  static let hostTSO6 = VhostFeatures(bit: 12)
  static let hostECN = VhostFeatures(bit: 13)
  public static let mergeable = VhostFeatures(bit: 15)
  static let guestAnnounce = VhostFeatures(bit: 21)
  public static let multiQueue = VhostFeatures(bit: 22)
  static let anyLayout = VhostFeatures(bit: 27)
  public static let indirect = VhostFeatures(bit: 28)
  public static let eventIndex = VhostFeatures(bit: 29)
  public static let protocolFeatures = VhostFeatures(bit: 30)
  public static let version1 = VhostFeatures(bit: 32)
  static let guestUSO4 = VhostFeatures(bit: 54)
  static let guestUSO6 = VhostFeatures(bit: 55)
  static let hostUSO = VhostFeatures(bit: 56)

  /// What the forwarder can. Not among it: packed queues, UDP fragmentation offload, logging of dirty memory.
  public static let offered: VhostFeatures = [
    .checksum, .guestChecksum, .mtu, .gso, .guestTSO4, .guestTSO6, .guestECN, .hostTSO4, .hostTSO6, .hostECN,
    .mergeable, .guestAnnounce, .multiQueue, .anyLayout, .indirect, .eventIndex, .protocolFeatures, .version1,
    .guestUSO4, .guestUSO6, .hostUSO,
  ]

  /// The virtio-net header has the number of buffers at its end.
  var headerBytes: Int { isDisjoint(with: [.mergeable, .version1]) ? 10 : 12 }

  /// The guest takes unfinished checksums and TCP super-frames of both families.
  public var takesSuperFrames: Bool { isSuperset(of: [.guestChecksum, .guestTSO4, .guestTSO6, .guestECN]) }
  public var takesUDPSegmentation: Bool { takesSuperFrames && isSuperset(of: [.guestUSO4, .guestUSO6]) }
}
