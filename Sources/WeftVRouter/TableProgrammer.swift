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

    /// One word for the hasher instead of four: a third of a route update's time went into hashing.
    func hash(into hasher: inout Hasher) {
      let rest = UInt64(vrf) << 8 | UInt64(prefix.length)
      let mixed =
        (prefix.address.high &* 0x9E37_79B9_7F4A_7C15) ^ (prefix.address.low &* 0xD6E8_FEB8_6659_FD93)
        ^ (rest &* 0xA076_1D64_78BD_642F)
      hasher.combine(mixed ^ mixed >> 32)
    }
  }
  struct Bridge {
    var configuration: BridgeConfiguration
    var path: UInt32
    /// nil where somebody has set it.
    var learned: LearnedStation?
  }
  struct BridgeKey: Hashable {
    let vrf: UInt32
    let mac: MACAddress
  }
  struct NeighborKey: Hashable {
    let vrf: UInt32
    let address: IPAddress
  }
  struct Interface {
    var configuration: InterfaceConfiguration
    var capabilities: PortCapabilities
    /// What the policy knows it as; nil where it is not under the policy.
    var subject: UInt32?
    /// Those whose frames are tagged ones of its port.
    var subinterfaces: Set<UInt32> = []
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
  var neighbors = SlotStore<NeighborKey, NeighborConfiguration>()
  var learning = LearningStore()
  /// Interfaces by the tags of their frames.
  var tagged: [VLANConfiguration: UInt32] = [:]
  /// Multicast nexthops by those that are members of theirs.
  var replicators: [UInt32: [UInt32: Int]] = [:]
  var nat = NATStore()
  var policy = PolicyStore()
  var policers = SlotStore<UInt32, PolicerConfiguration>()
  var classifiers = SlotStore<UInt32, ClassifierConfiguration>()
  var remarks = SlotStore<UInt32, RemarkConfiguration>()
  /// When policers are settled (CLOCK_MONOTONIC, ns).
  var nextSettlement: UInt64 = 0
  var mirrors = MirrorStore()
  /// nil: what holds as long as nothing is set.
  var flowExport: (configuration: FlowExportConfiguration, generation: UInt64)?
  var flowSettings: (configuration: FlowSettingsConfiguration, generation: UInt64)?
  /// What captures look at, by their number.
  var captured: [UInt32: CapturedInterfaces] = [:]
  var devices: [String: UInt32] = [:]
  var vrfNames: [String: UInt32] = [:]
  /// Nexthops by the interface that they leave by, whose MAC address and MTU they carry.
  var leaving: [UInt32: Set<UInt32>] = [:]
  /// The router's own addresses of VRFs: host routes to a receive nexthop.
  var gateways: [UInt32: Set<IPAddress>] = [:]
  public private(set) var generation: UInt64 = 0

  public init(memory: TableMemory, limits: TableLimits, ports: any PortProvider) {
    self.memory = memory
    self.limits = limits
    self.ports = ports
    publishFlowExport()
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
    case .setNATPool(let entry): try set(entry)
    case .removeNATPool(let id): try remove(natPool: id)
    case .setSourceNAT(let entry): try set(entry)
    case .removeSourceNAT(let id): try remove(sourceNAT: id)
    case .setStaticNAT(let entry): try set(entry)
    case .removeStaticNAT(let vrf, let inside):
      try remove(staticNAT: NATStore.Place(vrf: vrf, address: inside))
    case .setDestinationNAT(let entry): try set(entry)
    case .removeDestinationNAT(let key): try remove(destinationNAT: key)
    case .setService(let entry): try set(entry)
    case .removeService(let key): try remove(service: key)
    case .setBackend(let entry): try set(entry)
    case .removeBackend(let service, let vrf, let address, let port):
      let server = NATStore.Server(vrf: vrf, address: address, port: port)
      try remove(backend: NATStore.BackendKey(service: service, server: server))
    case .setAddressSet(let entry): try set(entry)
    case .removeAddressSet(let id): try remove(addressSet: id)
    case .setAddressSetMember(let entry): try set(entry)
    case .removeAddressSetMember(let set, let prefix): try remove(PolicyStore.MemberKey(set: set, prefix: prefix))
    case .setRule(let entry): try set(entry)
    case .removeRule(let id): try remove(rule: id)
    case .setNeighbor(let entry): try set(entry)
    case .removeNeighbor(let vrf, let address): try remove(NeighborKey(vrf: vrf, address: address))
    case .setPolicer(let entry): try set(entry)
    case .removePolicer(let id): try remove(policer: id)
    case .setClassifier(let entry): try set(entry)
    case .removeClassifier(let id): try remove(classifier: id)
    case .setRemark(let entry): try set(entry)
    case .removeRemark(let id): try remove(remark: id)
    case .setMirror(let entry): try set(entry)
    case .removeMirror(let id): try remove(mirror: id)
    case .setInterfaceMirror(let entry): try set(entry)
    case .removeInterfaceMirror(let interface): try remove(mirrorOf: interface)
    case .setFlowExport(let entry): try set(entry)
    case .setFlowSettings(let entry): try set(entry)
    case .dump, .barrier, .stage, .trace, .startCapture, .stopCapture, .watchFlows, .transmit:
      throw Refusal(.unknownMessage, "this command changes no table")
    }
  }

  /// Puts into force what is prepared as a whole: after each batch of commands, and before a barrier is answered.
  public func commit() {
    commitNAT()
    commitPolicy()
  }

  /// The same, but what takes long is left for later when it was done a moment ago.
  public func commitIfDue() {
    commitNAT()
    if policyIsDue { commitPolicy() }
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
    for id in policy.rules.stale(before: current) { try remove(rule: id) }
    commitPolicy()
    for id in mirrors.interfaces.stale(before: current) { try remove(mirrorOf: id) }
    for id in mirrors.mirrors.stale(before: current) { try remove(mirror: id) }
    for key in policy.members.stale(before: current) { try remove(key) }
    for id in policy.sets.stale(before: current) { try remove(addressSet: id) }
    for key in nat.backends.stale(before: current) { try remove(backend: key) }
    for key in nat.services.stale(before: current) { try remove(service: key) }
    for key in nat.destinations.stale(before: current) { try remove(destinationNAT: key) }
    for key in nat.statics.stale(before: current) { try remove(staticNAT: key) }
    for id in nat.rules.stale(before: current) { try remove(sourceNAT: id) }
    for id in nat.pools.stale(before: current) { try remove(natPool: id) }
    for key in neighbors.stale(before: current) { try remove(key) }
    for key in bridge.stale(before: current) where bridge[key]?.value.learned == nil { try remove(key) }
    for key in routes.stale(before: current) { try remove(key) }
    for vni in vnis.stale(before: current) { try remove(vni: vni) }
    for label in labels.stale(before: current) { try remove(label: label) }
    // Again: those that others were members of are free after these.
    for _ in 0...ReplicaList.maximumDepth {
      for id in nexthops.stale(before: current) { try remove(nexthop: id) }
    }
    // Twice: those whose ports others shared.
    for _ in 0..<2 { for id in interfaces.stale(before: current) { try remove(interface: id) } }
    for id in vrfs.stale(before: current) { try remove(vrf: id) }
    if let flowSettings, flowSettings.generation < current { try set(nil as FlowSettingsConfiguration?) }
    if let flowExport, flowExport.generation < current { try set(nil as FlowExportConfiguration?) }
    for id in policers.stale(before: current) { try remove(policer: id) }
    for id in classifiers.stale(before: current) { try remove(classifier: id) }
    for id in remarks.stale(before: current) { try remove(remark: id) }
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
    case .bridge:
      next = bridge.read(from: start, limit: limit) { body(.bridge($0.value.configuration, state(of: $0.value))) }
    case .neighbors: next = neighbors.read(from: start, limit: limit) { body(.neighbor($0.value)) }
    case .natPools:
      next = nat.pools.read(from: start, limit: limit) { body(.natPool($0.value, poolState($0.key))) }
    case .sourceNAT: next = nat.rules.read(from: start, limit: limit) { body(.sourceNAT($0.value)) }
    case .staticNAT: next = nat.statics.read(from: start, limit: limit) { body(.staticNAT($0.value)) }
    case .destinationNAT: next = nat.destinations.read(from: start, limit: limit) { body(.destinationNAT($0.value)) }
    case .services: next = nat.services.read(from: start, limit: limit) { body(.service($0.value.configuration)) }
    case .backends: next = nat.backends.read(from: start, limit: limit) { body(.backend($0.value.configuration)) }
    case .addressSets:
      next = policy.sets.read(from: start, limit: limit) { body(.addressSet($0.value.configuration)) }
    case .addressSetMembers:
      next = policy.members.read(from: start, limit: limit) {
        body(.addressSetMember(AddressSetMember(set: $0.key.set, prefix: $0.key.prefix, isExcluded: $0.value)))
      }
    case .rules:
      next = policy.rules.read(from: start, limit: limit) {
        body(.rule($0.value, hits: memory.policy.hits(ofRule: $0.key)))
      }
    case .policers:
      next = policers.read(from: start, limit: limit) { body(.policer($0.value, policerState($0.key))) }
    case .classifiers: next = classifiers.read(from: start, limit: limit) { body(.classifier($0.value)) }
    case .remarks: next = remarks.read(from: start, limit: limit) { body(.remark($0.value)) }
    case .mirrors:
      next = mirrors.mirrors.read(from: start, limit: limit) {
        body(.mirror($0.value.configuration, mirrorState($0.key)))
      }
    case .interfaceMirrors:
      next = mirrors.interfaces.read(from: start, limit: limit) { body(.interfaceMirror($0.value)) }
    case .flowExport:
      if start == 0, limit > 0, let flowExport { body(.flowExport(flowExport.configuration)) }
      next = 0
    case .flowSettings:
      if start == 0, limit > 0, let flowSettings { body(.flowSettings(flowSettings.configuration)) }
      next = 0
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
