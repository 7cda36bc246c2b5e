import CLinux
import WeftSystem
import WeftWire

/// The tables that forwarding looks up, as workers see them: a few pointers, copied freely.
@safe @frozen public struct Tables: @unchecked Sendable {
  public let interfaces: PointerTableReader
  /// By interface: its MTU where it is plain (`InterfaceEntry.isPlain`), else 0.
  public let plainMTUs: DirectTableReader
  public let nexthops: PointerTableReader
  /// Two for each VRF: the roots of its IPv4 and IPv6 routes; 0 where there is no VRF.
  public let roots: DirectTableReader
  public let routes: PrefixTreesReader
  public let routes6: CompressedTreesReader
  public let paths: PathTableReader
  @usableFromInline let routeGeneration: DirectTableReader
  public let labels: DirectTableReader
  public let vnis: DirectTableReader
  public let bridge: BridgeTableReader
  public let subinterfaces: SubinterfaceReader
  /// How VRFs bridge: `VRFBits`.
  public let vrfBits: DirectTableReader
  public let neighbors: NeighborTableReader
  public let nat: NATReader
  public let policy: PolicyReader
  /// The router's own addresses.
  public let gateways: GatewayReader
  /// Which VRFs have interfaces whose sessions share flows.
  public let fatFlows: FatFlowReader
  public let policers: PolicerReader
  let classifiers: PointerTableReader
  let remarks: PointerTableReader
  public let mirrors: MirrorReader
  public let flowExport: FlowExportReader
  public let flowSettings: FlowSettingsReader

  @inlinable @inline(__always) public func interface(_ id: UInt32) -> EntryReference<InterfaceEntry>? {
    guard let raw = unsafe interfaces[id] else { return nil }
    return unsafe EntryReference(raw)
  }

  @inlinable @inline(__always) public func nexthop(_ id: UInt32) -> EntryReference<NexthopEntry>? {
    guard let raw = unsafe nexthops[id] else { return nil }
    return unsafe EntryReference(raw)
  }

  /// The nexthop of a path in `paths`.
  @inlinable @inline(__always) public func nexthop(of path: Path) -> EntryReference<NexthopEntry>? {
    guard let raw = unsafe nexthops[published: path.nexthop &+ 1] else { return nil }
    return unsafe EntryReference(raw)
  }

  /// The VRF that tunnels end in at what `vnis` or `labels` says; nil where it is none, or is more than that.
  @inlinable @inline(__always) public func vrf(behind number: UInt32) -> UInt32? {
    guard let raw = unsafe nexthops[published: number] else { return nil }
    let nexthop = unsafe EntryReference<NexthopEntry>(raw)
    return nexthop.entry.kind == .vrfTranslate ? nexthop.entry.vrf : nil
  }

  /// By number; 0 is none.
  public func classifier(_ number: UInt32) -> EntryReference<ClassifierEntry>? {
    guard number != 0, let raw = unsafe classifiers[number &- 1] else { return nil }
    return unsafe EntryReference(raw)
  }

  /// By number; 0 is none.
  @inline(__always) public func remark(_ number: UInt32) -> EntryReference<RemarkEntry>? {
    guard number != 0, let raw = unsafe remarks[number &- 1] else { return nil }
    return unsafe EntryReference(raw)
  }

  /// Changes with each change of routes, nexthops or policy: what was found out before may not hold. Read before it is
  /// found out.
  @inlinable @inline(__always) public var generation: UInt32 { policy.generation &+ routeGeneration[0] }

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
    return root == 0 ? 0 : routes6.lookup(root: root, v6: address)
  }
}

/// How a VRF bridges.
@frozen public struct VRFBits: OptionSet, Sendable {
  public let rawValue: UInt32
  @inlinable public init(rawValue: UInt32) { self.rawValue = rawValue }

  @inlinable public static var floodsUnknown: VRFBits { VRFBits(rawValue: 1) }
  @inlinable public static var learns: VRFBits { VRFBits(rawValue: 2) }
  @inlinable public static var suppresses: VRFBits { VRFBits(rawValue: 4) }
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
  let plainMTUs: DirectTable
  public let nexthops: PointerTable
  public let roots: DirectTable
  public let routes: PrefixTrees
  public let routes6: CompressedTrees
  public let paths: PathTable
  public let labels: DirectTable
  public let vnis: DirectTable
  public let bridge: BridgeTable
  public let subinterfaces: SubinterfaceTable
  public let vrfBits: DirectTable
  public let neighbors: NeighborTable
  public let nat: NATMemory
  public let policy: PolicyTable
  public let gateways: GatewayTable
  public let fatFlows: FatFlowVRFs
  public let policers: PolicerTable
  private let classifiers: PointerTable
  private let remarks: PointerTable
  public let mirrors: MirrorTable
  public let flowExport = FlowExportCell()
  public let flowSettings = FlowSettingsCell()
  public let workers: Int

  public init(sizes: TableSizes, workers: Int) throws(SystemError) {
    precondition(sizes.vrfs <= FlowKey.maximumVRFs)
    self.sizes = sizes
    self.workers = workers
    epochs = try Epochs(workers: workers)
    interfaces = try PointerTable(capacity: sizes.interfaces, what: "interfaces")
    plainMTUs = try DirectTable(capacity: sizes.interfaces, what: "interfaces")
    nexthops = try PointerTable(capacity: sizes.nexthops, what: "nexthops")
    roots = try DirectTable(capacity: sizes.vrfs * 2, what: "VRFs")
    routes = try PrefixTrees(nodes: sizes.routeNodes, epochs: epochs)
    routes6 = try CompressedTrees(nodes: sizes.routeNodes, roots: sizes.vrfs * 2, epochs: epochs)
    paths = try PathTable(capacity: sizes.routes + sizes.bridge, epochs: epochs)
    labels = try DirectTable(capacity: 1 << 20, what: "labels")
    vnis = try DirectTable(capacity: 1 << 24, what: "VNIs")
    bridge = try BridgeTable(capacity: sizes.bridge, epochs: epochs)
    subinterfaces = try SubinterfaceTable(interfaces: sizes.interfaces, epochs: epochs)
    vrfBits = try DirectTable(capacity: sizes.vrfs, what: "VRFs")
    neighbors = try NeighborTable(capacity: sizes.bridge, epochs: epochs)
    nat = try NATMemory(vrfs: sizes.vrfs, epochs: epochs, workers: workers)
    policy = try PolicyTable(rules: PolicyTable.maximumRules, epochs: epochs)
    gateways = try GatewayTable(vrfs: sizes.vrfs, epochs: epochs)
    fatFlows = try FatFlowVRFs(vrfs: sizes.vrfs)
    policers = try PolicerTable(workers: workers, epochs: epochs)
    classifiers = try PointerTable(capacity: QoSTables.capacity, what: "classifiers")
    remarks = try PointerTable(capacity: QoSTables.capacity, what: "marks")
    mirrors = try MirrorTable(workers: workers, epochs: epochs)
  }

  public var reader: Tables {
    Tables(
      interfaces: interfaces.reader, plainMTUs: plainMTUs.reader, nexthops: nexthops.reader, roots: roots.reader,
      routes: routes.reader, routes6: routes6.reader, paths: paths.reader, routeGeneration: paths.generation.reader,
      labels: labels.reader,
      vnis: vnis.reader,
      bridge: bridge.reader, subinterfaces: subinterfaces.reader, vrfBits: vrfBits.reader,
      neighbors: neighbors.reader, nat: nat.reader, policy: policy.reader, gateways: gateways.reader,
      fatFlows: fatFlows.reader, policers: policers.reader, classifiers: classifiers.reader, remarks: remarks.reader,
      mirrors: mirrors.reader, flowExport: flowExport.reader, flowSettings: flowSettings.reader)
  }

  /// Publishes an interface, or takes it out (nil).
  public func publish(interface id: UInt32, _ entry: InterfaceEntry?) {
    let lists = reader.interface(id)?.entry.fatFlows
    plainMTUs.set(Int(id), entry.map { $0.isPlain ? UInt32($0.mtu) : 0 } ?? 0)
    publish(interfaces, id, entry)
    if let lists { epochs.retire { lists.deallocate() } }
  }

  /// Publishes a nexthop, or takes it out (nil).
  public func publish(nexthop id: UInt32, _ entry: NexthopEntry?) {
    let old = reader.nexthop(id)
    let members = old?.entry.members
    let replicas = old?.entry.replicas
    publish(nexthops, id, entry)
    if let members { epochs.retire { members.deallocate() } }
    if let replicas { epochs.retire { replicas.deallocate() } }
    paths.advance()
  }

  /// Publishes a classifier, or takes it out (nil).
  public func publish(classifier id: UInt32, _ entry: ClassifierEntry?) { publish(classifiers, id, entry) }

  /// Publishes marks, or takes them out (nil).
  public func publish(remark id: UInt32, _ entry: RemarkEntry?) { publish(remarks, id, entry) }

  private func publish<Entry>(_ table: PointerTable, _ id: UInt32, _ entry: Entry?) {
    var raw: UnsafeMutableRawPointer?
    if let entry {
      // What is read first is in as few cache lines as can be.
      let memory = UnsafeMutableRawPointer.allocate(byteCount: MemoryLayout<Entry>.size, alignment: 64)
      unsafe memory.initializeMemory(as: Entry.self, to: entry)
      unsafe raw = memory
    }
    guard let old = unsafe table.replace(Int(id), raw) else { return }
    epochs.retire {
      unsafe old.assumingMemoryBound(to: Entry.self).deinitialize(count: 1)
      unsafe old.deallocate()
    }
  }
}
