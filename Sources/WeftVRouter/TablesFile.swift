import WeftRing
import WeftWire

/// TABLES.json: every table of a forwarder as one file. docs/tables.schema.json is its schema and docs/replay.md
/// explains it.
public struct TablesFile: Sendable {
  public var limits: TableLimits
  /// What makes the tables, in an order that applies: nothing refers to what comes later.
  public var commands: [Command]
  /// The JSON path of each command, such as "$.routes[3]": same index.
  public var sources: [String]

  /// Reads the file's bytes and checks them, but for what a forwarder's tables refuse themselves: too many entries, and
  /// labels, VNIs and bridge entries that lead to a nexthop of an action that is not for them.
  public init(json: [UInt8]) throws(TablesFileError) {
    let root: JSONValue
    do throws(JSONSyntaxError) { root = try JSONReader.read(json) } catch {
      throw TablesFileError(path: nil, line: error.line, column: error.column, reason: error.reason)
    }
    var builder = TablesFileBuilder()
    try builder.read(TablesFileNode(value: root, path: "$"))
    limits = builder.limits
    commands = builder.commands
    sources = builder.sources
  }
}

extension TableProgrammer {
  /// All of a file's entries, in force when this returns. A refusal says where in the file; entries before it stay.
  func load(_ file: TablesFile) throws(Refusal) {
    for (command, source) in zip(file.commands, file.sources) {
      do throws(Refusal) { try apply(command) } catch {
        throw Refusal(error.code, "TABLES.json: at \(source): \(error.reason)")
      }
    }
    commit()
  }
}

/// Why a TABLES.json was refused.
public struct TablesFileError: Error, Hashable, Sendable, CustomStringConvertible {
  /// What the message calls the file.
  public var file = "TABLES.json"
  /// The JSON path of what is wrong, such as "$.interfaces[2].mac"; nil where the file is not JSON.
  public var path: String?
  /// Where that begins, counted from 1; columns are bytes.
  public var line: Int
  public var column: Int
  /// What is wrong and what would be right.
  public var reason: String

  public init(path: String?, line: Int, column: Int, reason: String) {
    self.path = path
    self.line = line
    self.column = column
    self.reason = reason
  }

  public var description: String {
    let place = "line \(line), column \(column)"
    return path.map { "\(file): at \($0) (\(place)): \(reason)" } ?? "\(file): not JSON at \(place): \(reason)"
  }
}

/// Reads the tables one after the other, in the order in which they refer to each other.
struct TablesFileBuilder {
  var limits = TableLimits()
  var commands: [Command] = []
  var sources: [String] = []
  var vrfs: [UInt32: String] = [:]
  var interfaces: [UInt32: InterfaceConfiguration] = [:]
  /// Policers, classifiers, marks and mirrors by number: where each stands.
  var policers: [UInt32: String] = [:]
  var classifiers: [UInt32: String] = [:]
  var marks: [UInt32: String] = [:]
  var mirrors: [UInt32: String] = [:]
  var nexthops: [UInt32: NexthopConfiguration.Action] = [:]
  var vlans: [VLANConfiguration: UInt32] = [:]

  mutating func add(_ command: Command, _ node: TablesFileNode) {
    commands.append(command)
    sources.append(node.path)
  }

  mutating func read(_ root: TablesFileNode) throws(TablesFileError) {
    let file = try root.object(keys: [
      "$schema", "limits", "vrfs", "interfaces", "nexthops", "labels", "vnis", "routes", "bridge",
      "nat-pools", "source-nat", "static-nat", "destination-nat", "services",
      "address-sets", "rules", "neighbors", "policers", "qos-classifiers", "qos-marks", "mirrors", "interface-mirrors",
      "flow-export", "flow-settings",
    ])
    if let schema = file.optional("$schema") { _ = try schema.text() }
    if let node = file.optional("limits") { try readLimits(node) }
    var names: [String: String] = [:]
    for node in try file.optional("vrfs")?.array() ?? [] { try readVRF(node, &names) }
    try readQoS(file)
    var devices: [String: String] = [:]
    var interfacePaths: [UInt32: String] = [:]
    // Those of VLANs after those whose ports they share, wherever they stand.
    let interfaceNodes = try file.required("interfaces").array()
    for node in interfaceNodes where !Self.isVLAN(node) { try readInterface(node, &interfacePaths, &devices) }
    for node in interfaceNodes where Self.isVLAN(node) { try readInterface(node, &interfacePaths, &devices) }
    var nexthopPaths: [UInt32: String] = [:]
    for node in Self.inOrder(try file.optional("nexthops")?.array() ?? []) { try readNexthop(node, &nexthopPaths) }
    var labels: [UInt32: String] = [:]
    for node in try file.optional("labels")?.array() ?? [] { try readLabel(node, &labels) }
    var vnis: [UInt32: String] = [:]
    for node in try file.optional("vnis")?.array() ?? [] { try readVNI(node, &vnis) }
    var routes: [RouteKey: String] = [:]
    for node in try file.optional("routes")?.array() ?? [] { try readRoute(node, &routes) }
    var bridge: [BridgeKey: String] = [:]
    for node in try file.optional("bridge")?.array() ?? [] { try readBridge(node, &bridge) }
    var neighbors: [NeighborKey: String] = [:]
    for node in try file.optional("neighbors")?.array() ?? [] { try readNeighbor(node, &neighbors) }
    try readMirrors(file)
    if let node = file.optional("flow-export") { try readFlowExport(node) }
    if let node = file.optional("flow-settings") { try readFlowSettings(node) }
    try readNAT(file)
    try readPolicy(sets: file.optional("address-sets"), rules: file.optional("rules"))
  }

  // MARK: limits

  private static let limitFields:
    [(key: String, field: WritableKeyPath<TableLimits, UInt32> & Sendable, maximum: UInt32)] = [
      ("interfaces", \.interfaces, 1 << 16),
      ("vrfs", \.vrfs, 1 << 20),
      ("nexthops", \.nexthops, 1 << 24),
      ("routes", \.routes, 1 << 24),
      ("route-nodes", \.routeNodes, 1 << 22),
      ("bridge", \.bridge, 1 << 24),
      ("flows", \.flows, 1 << 26),
    ]

  private mutating func readLimits(_ node: TablesFileNode) throws(TablesFileError) {
    let object = try node.object(keys: Self.limitFields.map(\.key))
    for (key, field, maximum) in Self.limitFields {
      if let value = object.optional(key) { limits[keyPath: field] = try value.integer(1...maximum) }
    }
  }

  /// An index of a table of `limit` entries.
  func index(_ node: TablesFileNode, limit: UInt32, _ key: String) throws(TablesFileError) -> UInt32 {
    let id = try node.integer(0...UInt32.max)
    guard id < limit else {
      throw node.fail("\(id) is beyond the table, which ends at \(limit - 1); raise limits.\(key) or number from 0")
    }
    return id
  }

  /// Remembers `key` as taken by `path`, or says who has it.
  func claim<Key: Hashable>(
    _ key: Key, in taken: inout [Key: String], _ path: String, at node: TablesFileNode, _ what: String
  ) throws(TablesFileError) {
    if let other = taken.updateValue(path, forKey: key) {
      throw node.fail("\(what) stands at \(other) already; each stands once")
    }
  }

  // MARK: what entries refer to

  func vrf(_ node: TablesFileNode) throws(TablesFileError) -> UInt32 {
    let id = try node.integer(0...UInt32.max)
    guard vrfs[id] != nil else { throw node.fail("there is no VRF \(id) in $.vrfs") }
    return id
  }

  func interface(
    _ node: TablesFileNode, _ what: String, _ isRight: (InterfaceRole) -> Bool
  ) throws(TablesFileError) -> UInt32 {
    let id = try node.integer(0...UInt32.max)
    guard let found = interfaces[id]?.role else { throw node.fail("there is no interface \(id) in $.interfaces") }
    guard isRight(found) else {
      throw node.fail("interface \(id) is \(found.name); this action leaves by a \(what) interface")
    }
    return id
  }

  func nexthop(_ node: TablesFileNode) throws(TablesFileError) -> UInt32 {
    let id = try node.integer(0...UInt32.max)
    guard nexthops[id] != nil else { throw node.fail("there is no nexthop \(id) in $.nexthops") }
    return id
  }

  /// The label of a route or bridge entry: there for tunnels, and only for them.
  func label(_ object: TablesFileObject, _ nexthop: UInt32) throws(TablesFileError) -> UInt32 {
    guard case .tunnel(let tunnel)? = nexthops[nexthop] else {
      try object.refuse(["label"], "nexthop \(nexthop) is not a tunnel; only a tunnel takes a label")
      return 0
    }
    guard let node = object.optional("label") else {
      let what = tunnel.encapsulation == .vxlan ? "the VNI" : "the MPLS label"
      throw object.node.fail(
        "the key \"label\" is missing: nexthop \(nexthop) is a \(tunnel.encapsulation.name) tunnel, say \(what)")
    }
    return switch tunnel.encapsulation {
    case .vxlan: try node.integer(Self.vniRange)
    case .mplsOverUDP, .mplsOverGRE: try node.integer(Self.labelRange)
    }
  }

  static let vniRange: ClosedRange<UInt32> = 0...0xFF_FFFF
  private static let labelRange: ClosedRange<UInt32> = MPLS.firstLabel...MPLS.maximumLabel

  // MARK: entries

  private mutating func readVRF(_ node: TablesFileNode, _ names: inout [String: String]) throws(TablesFileError) {
    let object = try node.object(keys: ["id", "name"] + Self.bridgingKeys)
    let idNode = try object.required("id")
    let id = try index(idNode, limit: limits.vrfs, "vrfs")
    try claim(id, in: &vrfs, node.path, at: idNode, "VRF \(id)")
    let nameNode = try object.required("name")
    let name = try nameNode.text()
    guard (1...63).contains(name.utf8.count), name.unicodeScalars.allSatisfy({ $0.value >= 0x20 && $0.value != 0x7F })
    else { throw nameNode.fail("a VRF's name has 1 to 63 bytes and no control characters") }
    try claim(name, in: &names, node.path, at: nameNode, "VRF \"\(name)\"")
    var vrf = VRFConfiguration(id: id, name: name)
    try readBridging(object, &vrf)
    add(.setVRF(vrf), node)
  }

  private mutating func readLabel(_ node: TablesFileNode, _ taken: inout [UInt32: String]) throws(TablesFileError) {
    let object = try node.object(keys: ["label", "nexthop"])
    let labelNode = try object.required("label")
    let label = try labelNode.integer(Self.labelRange)
    try claim(label, in: &taken, node.path, at: labelNode, "label \(label)")
    add(.setLabel(LabelConfiguration(label: label, nexthop: try nexthop(object.required("nexthop")))), node)
  }

  private mutating func readVNI(_ node: TablesFileNode, _ taken: inout [UInt32: String]) throws(TablesFileError) {
    let object = try node.object(keys: ["vni", "nexthop"])
    let vniNode = try object.required("vni")
    let vni = try vniNode.integer(Self.vniRange)
    try claim(vni, in: &taken, node.path, at: vniNode, "VNI \(vni)")
    add(.setVNI(VNIConfiguration(vni: vni, nexthop: try nexthop(object.required("nexthop")))), node)
  }

  private struct RouteKey: Hashable {
    let vrf: UInt32
    let prefix: IPPrefix
  }

  private mutating func readRoute(_ node: TablesFileNode, _ taken: inout [RouteKey: String]) throws(TablesFileError) {
    let object = try node.object(keys: ["vrf", "prefix", "nexthop", "label"])
    let vrf = try vrf(object.required("vrf"))
    let prefixNode = try object.required("prefix")
    let prefix = try prefixNode.prefix()
    try claim(RouteKey(vrf: vrf, prefix: prefix), in: &taken, node.path, at: prefixNode, "\(prefix) of VRF \(vrf)")
    let nexthop = try nexthop(object.required("nexthop"))
    let label = try label(object, nexthop)
    add(.setRoute(RouteConfiguration(vrf: vrf, prefix: prefix, nexthop: nexthop, label: label)), node)
  }

  private struct BridgeKey: Hashable {
    let vrf: UInt32
    let mac: MACAddress
  }

  private mutating func readBridge(_ node: TablesFileNode, _ taken: inout [BridgeKey: String]) throws(TablesFileError) {
    let object = try node.object(keys: ["vrf", "mac", "nexthop", "label"])
    let vrf = try vrf(object.required("vrf"))
    let macNode = try object.required("mac")
    let mac = try macNode.mac()
    guard !mac.isZero else { throw macNode.fail("\(mac) is zero, nobody's address") }
    try claim(BridgeKey(vrf: vrf, mac: mac), in: &taken, node.path, at: macNode, "\(mac) of VRF \(vrf)")
    let nexthop = try nexthop(object.required("nexthop"))
    try checkGroup(macNode, mac, nexthop)
    let label = try label(object, nexthop)
    add(.setBridge(BridgeConfiguration(vrf: vrf, mac: mac, nexthop: nexthop, label: label)), node)
  }
}
