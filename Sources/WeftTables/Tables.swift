import CLinux
import WeftSystem
import WeftWire

/// The tables that forwarding looks up, as workers see them: a few pointers, copied freely.
@safe @frozen public struct Tables: @unchecked Sendable {
  public let interfaces: PointerTableReader
  public let nexthops: PointerTableReader
  /// Two for each VRF: the roots of its IPv4 and IPv6 routes; 0 where there is no VRF.
  public let roots: DirectTableReader
  public let routes: PrefixTreesReader
  public let paths: PathTableReader
  let routeGeneration: DirectTableReader
  public let labels: DirectTableReader
  public let vnis: DirectTableReader
  public let bridge: BridgeTableReader
  public let nat: NATReader
  public let policy: PolicyReader
  /// The router's own addresses.
  public let gateways: GatewayReader
  public let mirrors: MirrorReader

  @inlinable @inline(__always) public func interface(_ id: UInt32) -> EntryReference<InterfaceEntry>? {
    guard let raw = unsafe interfaces[id] else { return nil }
    return unsafe EntryReference(raw)
  }

  @inlinable @inline(__always) public func nexthop(_ id: UInt32) -> EntryReference<NexthopEntry>? {
    guard let raw = unsafe nexthops[id] else { return nil }
    return unsafe EntryReference(raw)
  }

  /// Changes with each change of routes, nexthops or policy: what was found out before may not hold. Read before it is
  /// found out.
  public var generation: UInt32 { policy.generation &+ routeGeneration[0] }

  @inlinable @inline(__always) public func hasVRF(_ vrf: UInt32) -> Bool { roots[vrf &* 2] != 0 }

  /// The number of the path to an address in a VRF; 0 for none.
  @inlinable @inline(__always) public func route(vrf: UInt32, v4 address: UInt32) -> UInt32 {
    let root = roots[vrf &* 2]
    return root == 0 ? 0 : routes.lookup(root: root, v4: address)
  }

  /// The same for an address of either family.
  @inlinable @inline(__always) public func route(vrf: UInt32, to address: IPAddress) -> UInt32 {
    address.isV4 ? route(vrf: vrf, v4: address.v4) : route(vrf: vrf, v6: address)
  }

  @inlinable @inline(__always) public func route(vrf: UInt32, v6 address: IPAddress) -> UInt32 {
    let root = roots[vrf &* 2 &+ 1]
    return root == 0 ? 0 : routes.lookup(root: root, v6: address)
  }
}

/// How large the tables are.
public struct TableSizes: Sendable {
  public var interfaces: Int
  public var vrfs: Int
  public var nexthops: Int
  public var routes: Int
  public var routeNodes: Int
  public var bridge: Int

  public init(interfaces: Int, vrfs: Int, nexthops: Int, routes: Int, routeNodes: Int, bridge: Int) {
    self.interfaces = interfaces
    self.vrfs = vrfs
    self.nexthops = nexthops
    self.routes = routes
    self.routeNodes = routeNodes
    self.bridge = bridge
  }
}

/// The tables as their one writer sees them. Everything here is called by one thread.
public final class TableMemory: @unchecked Sendable {
  public let sizes: TableSizes
  public let epochs: Epochs
  public let interfaces: PointerTable
  public let nexthops: PointerTable
  public let roots: DirectTable
  public let routes: PrefixTrees
  public let paths: PathTable
  public let labels: DirectTable
  public let vnis: DirectTable
  public let bridge: BridgeTable
  public let nat: NATMemory
  public let policy: PolicyTable
  public let gateways: GatewayTable
  public let mirrors: MirrorTable

  public init(sizes: TableSizes, workers: Int) throws(SystemError) {
    self.sizes = sizes
    epochs = try Epochs(workers: workers)
    interfaces = try PointerTable(capacity: sizes.interfaces, what: "interfaces")
    nexthops = try PointerTable(capacity: sizes.nexthops, what: "nexthops")
    roots = try DirectTable(capacity: sizes.vrfs * 2, what: "VRFs")
    routes = try PrefixTrees(nodes: sizes.routeNodes, epochs: epochs)
    paths = try PathTable(capacity: sizes.routes + sizes.bridge, epochs: epochs)
    labels = try DirectTable(capacity: 1 << 20, what: "labels")
    vnis = try DirectTable(capacity: 1 << 24, what: "VNIs")
    bridge = try BridgeTable(capacity: sizes.bridge, epochs: epochs)
    nat = try NATMemory(vrfs: sizes.vrfs, epochs: epochs, workers: workers)
    policy = try PolicyTable(rules: PolicyTable.maximumRules, epochs: epochs)
    gateways = try GatewayTable(vrfs: sizes.vrfs, epochs: epochs)
    mirrors = try MirrorTable(workers: workers, epochs: epochs)
  }

  public var reader: Tables {
    Tables(
      interfaces: interfaces.reader, nexthops: nexthops.reader, roots: roots.reader, routes: routes.reader,
      paths: paths.reader, routeGeneration: paths.generation.reader, labels: labels.reader, vnis: vnis.reader,
      bridge: bridge.reader, nat: nat.reader,
      policy: policy.reader, gateways: gateways.reader, mirrors: mirrors.reader)
  }

  /// Publishes an interface, or takes it out (nil).
  public func publish(interface id: UInt32, _ entry: InterfaceEntry?) { publish(interfaces, id, entry) }

  /// Publishes a nexthop, or takes it out (nil).
  public func publish(nexthop id: UInt32, _ entry: NexthopEntry?) {
    let members = reader.nexthop(id)?.entry.members
    publish(nexthops, id, entry)
    if let members { epochs.retire { members.deallocate() } }
    paths.advance()
  }

  private func publish<Entry>(_ table: PointerTable, _ id: UInt32, _ entry: Entry?) {
    var raw: UnsafeMutableRawPointer?
    if let entry {
      let memory = UnsafeMutablePointer<Entry>.allocate(capacity: 1)
      unsafe memory.initialize(to: entry)
      unsafe raw = UnsafeMutableRawPointer(memory)
    }
    guard let old = unsafe table.replace(Int(id), raw) else { return }
    epochs.retire {
      unsafe old.assumingMemoryBound(to: Entry.self).deinitialize(count: 1)
      unsafe old.deallocate()
    }
  }
}
