import WeftRing
import WeftWire

/// Entries of a forwarder's tables: all of them, or those of one attachment.
public struct ForwarderState: Hashable, Sendable {
  public struct RouteKey: Hashable, Sendable, Comparable {
    public var vrf: UInt32
    public var prefix: IPPrefix

    public init(vrf: UInt32, prefix: IPPrefix) {
      self.vrf = vrf
      self.prefix = prefix
    }

    public static func < (a: Self, b: Self) -> Bool {
      (a.vrf, a.prefix.address, a.prefix.length) < (b.vrf, b.prefix.address, b.prefix.length)
    }
  }

  public struct BridgeKey: Hashable, Sendable, Comparable {
    public var vrf: UInt32
    public var mac: MACAddress

    public init(vrf: UInt32, mac: MACAddress) {
      self.vrf = vrf
      self.mac = mac
    }

    public static func < (a: Self, b: Self) -> Bool { (a.vrf, a.mac.bits) < (b.vrf, b.mac.bits) }
  }

  public var vrfs: [UInt32: VRFConfiguration] = [:]
  public var interfaces: [UInt32: InterfaceConfiguration] = [:]
  public var nexthops: [UInt32: NexthopConfiguration] = [:]
  public var labels: [UInt32: LabelConfiguration] = [:]
  public var vnis: [UInt32: VNIConfiguration] = [:]
  public var routes: [RouteKey: RouteConfiguration] = [:]
  public var bridge: [BridgeKey: BridgeConfiguration] = [:]
  public var policers: [UInt32: PolicerConfiguration] = [:]

  public init() {}

  public mutating func set(_ entry: VRFConfiguration) { vrfs[entry.id] = entry }
  public mutating func set(_ entry: InterfaceConfiguration) { interfaces[entry.id] = entry }
  public mutating func set(_ entry: NexthopConfiguration) { nexthops[entry.id] = entry }
  public mutating func set(_ entry: LabelConfiguration) { labels[entry.label] = entry }
  public mutating func set(_ entry: VNIConfiguration) { vnis[entry.vni] = entry }
  public mutating func set(_ entry: PolicerConfiguration) { policers[entry.id] = entry }
  public mutating func set(_ entry: RouteConfiguration) {
    routes[RouteKey(vrf: entry.vrf, prefix: entry.prefix)] = entry
  }
  public mutating func set(_ entry: BridgeConfiguration) {
    bridge[BridgeKey(vrf: entry.vrf, mac: entry.mac)] = entry
  }

  /// What turns `old` into this. Never leaves anything dangling: what refers to something goes before it and comes after
  /// it. The same states give the same commands in the same order.
  public func commands(replacing old: ForwarderState = ForwarderState()) -> [Command] {
    var commands: [Command] = []
    for key in Self.gone(old.bridge, bridge) { commands.append(.removeBridge(vrf: key.vrf, mac: key.mac)) }
    for key in Self.gone(old.routes, routes) { commands.append(.removeRoute(vrf: key.vrf, prefix: key.prefix)) }
    for label in Self.gone(old.labels, labels) { commands.append(.removeLabel(label: label)) }
    for vni in Self.gone(old.vnis, vnis) { commands.append(.removeVNI(vni: vni)) }
    for entry in Self.changed(old.vrfs, vrfs) { commands.append(.setVRF(entry)) }
    for entry in Self.changed(old.policers, policers) { commands.append(.setPolicer(entry)) }
    for entry in Self.changed(old.interfaces, interfaces) { commands.append(.setInterface(entry)) }
    for entry in Self.changed(old.nexthops, nexthops) { commands.append(.setNexthop(entry)) }
    for entry in Self.changed(old.labels, labels) { commands.append(.setLabel(entry)) }
    for entry in Self.changed(old.vnis, vnis) { commands.append(.setVNI(entry)) }
    for entry in Self.changed(old.routes, routes) { commands.append(.setRoute(entry)) }
    for entry in Self.changed(old.bridge, bridge) { commands.append(.setBridge(entry)) }
    for id in Self.gone(old.nexthops, nexthops) { commands.append(.removeNexthop(id: id)) }
    for id in Self.gone(old.interfaces, interfaces) { commands.append(.removeInterface(id: id)) }
    for id in Self.gone(old.policers, policers) { commands.append(.removePolicer(id: id)) }
    for id in Self.gone(old.vrfs, vrfs) { commands.append(.removeVRF(id: id)) }
    return commands
  }

  private static func gone<Key: Hashable & Comparable, Entry>(_ old: [Key: Entry], _ new: [Key: Entry]) -> [Key] {
    old.keys.filter { new[$0] == nil }.sorted()
  }

  private static func changed<Key: Hashable & Comparable, Entry: Equatable>(
    _ old: [Key: Entry], _ new: [Key: Entry]
  ) -> [Entry] {
    new.filter { old[$0.key] != $0.value }.sorted { $0.key < $1.key }.map(\.value)
  }
}
