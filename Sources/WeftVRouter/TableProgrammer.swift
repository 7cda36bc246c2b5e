import WeftRing
import WeftTables
import WeftWire

/// Applies commands to the tables: the one writer. Each command is checked as if an enemy had sent it, and is done as a
/// whole or refused with a reason and nothing changed. One thread.
public final class TableProgrammer {
  struct Route {
    var configuration: RouteConfiguration
    /// The number of its path.
    var path: UInt32
  }
  struct RouteKey: Hashable {
    let vrf: UInt32
    let prefix: IPPrefix
  }
  struct Bridge {
    var configuration: BridgeConfiguration
    var path: UInt32
  }
  struct BridgeKey: Hashable {
    let vrf: UInt32
    let mac: MACAddress
  }
  struct Interface {
    var configuration: InterfaceConfiguration
    var capabilities: PortCapabilities
  }
  struct VRF {
    var configuration: VRFConfiguration
    var root4: UInt32
    var root6: UInt32
  }

  let memory: TableMemory
  let limits: TableLimits
  let ports: any PortProvider

  var interfaces = SlotStore<UInt32, Interface>()
  var vrfs = SlotStore<UInt32, VRF>()
  var nexthops = SlotStore<UInt32, NexthopConfiguration>()
  var labels = SlotStore<UInt32, LabelConfiguration>()
  var vnis = SlotStore<UInt32, VNIConfiguration>()
  var routes = SlotStore<RouteKey, Route>()
  var bridge = SlotStore<BridgeKey, Bridge>()
  var devices: [String: UInt32] = [:]
  var vrfNames: [String: UInt32] = [:]
  /// Tunnels by the fabric interface that they leave by: they carry its MAC address.
  var tunnels: [UInt32: Set<UInt32>] = [:]
  public private(set) var generation: UInt64 = 0

  public init(memory: TableMemory, limits: TableLimits, ports: any PortProvider) {
    self.memory = memory
    self.limits = limits
    self.ports = ports
  }

  /// Applies a command that changes tables. `dump` and `barrier` are not for here.
  public func apply(_ command: Command) throws(Refusal) {
    switch command {
    case .begin(let generation): try begin(generation)
    case .sweep(let generation): try sweep(generation)
    case .setInterface(let entry): try set(entry)
    case .removeInterface(let id): try remove(interface: id)
    case .setVRF(let entry): try set(entry)
    case .removeVRF(let id): try remove(vrf: id)
    case .setNexthop(let entry): try set(entry)
    case .removeNexthop(let id): try remove(nexthop: id)
    case .setLabel(let entry): try set(entry)
    case .removeLabel(let label): try remove(label: label)
    case .setVNI(let entry): try set(entry)
    case .removeVNI(let vni): try remove(vni: vni)
    case .setRoute(let entry): try set(entry)
    case .removeRoute(let vrf, let prefix): try remove(RouteKey(vrf: vrf, prefix: prefix))
    case .setBridge(let entry): try set(entry)
    case .removeBridge(let vrf, let mac): try remove(BridgeKey(vrf: vrf, mac: mac))
    case .dump, .barrier: throw Refusal(.unknownMessage, "dump and barrier change nothing")
    }
  }

  private func begin(_ next: UInt64) throws(Refusal) {
    guard next >= generation else {
      throw Refusal(
        .staleGeneration,
        "generation \(next) is lower than \(generation); does an older agent run, or the clock go back?")
    }
    generation = next
  }

  /// From what refers to what is referred to: each table's removals make the next one's possible.
  private func sweep(_ current: UInt64) throws(Refusal) {
    guard current == generation else {
      throw Refusal(.staleGeneration, "sweep for generation \(current), but \(generation) is current")
    }
    for key in bridge.stale(before: current) { try remove(key) }
    for key in routes.stale(before: current) { try remove(key) }
    for vni in vnis.stale(before: current) { try remove(vni: vni) }
    for label in labels.stale(before: current) { try remove(label: label) }
    for id in nexthops.stale(before: current) { try remove(nexthop: id) }
    for id in interfaces.stale(before: current) { try remove(interface: id) }
    for id in vrfs.stale(before: current) { try remove(vrf: id) }
  }

  /// Up to `limit` entries of a table but `flows`, which workers keep; where to go on, 0 when that was all.
  public func dump(_ table: TableName, cursor: UInt64, limit: Int, _ body: (TableEntry) -> Void) -> UInt64 {
    let start = Int(clamping: cursor)
    let next: Int
    switch table {
    case .interfaces:
      next = interfaces.read(from: start, limit: limit) {
        body(.interface($0.value.configuration, ports.state($0.key)))
      }
    case .vrfs: next = vrfs.read(from: start, limit: limit) { body(.vrf($0.value.configuration)) }
    case .nexthops: next = nexthops.read(from: start, limit: limit) { body(.nexthop($0.value)) }
    case .labels: next = labels.read(from: start, limit: limit) { body(.label($0.value)) }
    case .vnis: next = vnis.read(from: start, limit: limit) { body(.vni($0.value)) }
    case .routes: next = routes.read(from: start, limit: limit) { body(.route($0.value.configuration)) }
    case .bridge: next = bridge.read(from: start, limit: limit) { body(.bridge($0.value.configuration)) }
    case .flows: next = 0
    }
    return UInt64(next)
  }

  // MARK: checks that several tables share

  func requireVRF(_ id: UInt32) throws(Refusal) {
    guard vrfs.contains(id) else { throw Refusal(.notFound, "VRF \(id) is not there; set it first") }
  }

  func requireNexthop(_ id: UInt32) throws(Refusal) -> NexthopConfiguration {
    guard let entry = nexthops[id] else { throw Refusal(.notFound, "nexthop \(id) is not there; set it first") }
    return entry.value
  }

  /// A label or VNI that goes with a nexthop.
  func checkLabel(_ label: UInt32, _ nexthop: NexthopConfiguration) throws(Refusal) {
    switch nexthop.action {
    case .tunnel(let tunnel) where tunnel.encapsulation == .vxlan:
      guard label <= 0xFF_FFFF else { throw Refusal(.outOfRange, "VNI \(label) has more than 24 bits") }
    case .tunnel: try checkMPLSLabel(label)
    default:
      guard label == 0 else {
        throw Refusal(.outOfRange, "label \(label) with nexthop \(nexthop.id), which is no tunnel; it must be 0")
      }
    }
  }

  func checkMPLSLabel(_ label: UInt32) throws(Refusal) {
    guard (MPLS.firstLabel...MPLS.maximumLabel).contains(label) else {
      throw Refusal(.outOfRange, "MPLS label \(label) is not within \(MPLS.firstLabel)...\(MPLS.maximumLabel)")
    }
  }

  func checkIndex(_ id: UInt32, _ limit: UInt32, _ what: String) throws(Refusal) {
    guard id < limit else {
      throw Refusal(.outOfRange, "\(what) \(id) is not below the limit of \(limit) that the forwarder was started with")
    }
  }

  func inUse(_ what: String, _ uses: Int) -> Refusal {
    Refusal(.inUse, "\(what) is used by \(uses) other \(uses == 1 ? "entry" : "entries"); remove those first")
  }

  /// The number of a path, once more in use.
  func acquirePath(_ nexthop: UInt32, _ label: UInt32) throws(Refusal) -> UInt32 {
    let path = Path(nexthop: nexthop, label: label)
    if let number = memory.paths.acquire(path) { return number }
    memory.epochs.reclaim()
    guard let number = memory.paths.acquire(path) else {
      throw Refusal(.tableFull, "all \(memory.paths.capacity) paths are in use")
    }
    return number
  }
}
