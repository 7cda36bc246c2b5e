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
  private var vrfs: [UInt32: String] = [:]
  var roles: [UInt32: InterfaceRole] = [:]
  /// Numbers of mirrors and where they stand.
  var mirrors: [UInt32: String] = [:]
  private(set) var nexthops: [UInt32: NexthopConfiguration.Action] = [:]

  mutating func add(_ command: Command, _ node: TablesFileNode) {
    commands.append(command)
    sources.append(node.path)
  }

  mutating func read(_ root: TablesFileNode) throws(TablesFileError) {
    let file = try root.object(keys: [
      "$schema", "limits", "vrfs", "interfaces", "nexthops", "labels", "vnis", "routes", "bridge",
      "nat-pools", "source-nat", "static-nat", "destination-nat", "services",
      "address-sets", "rules", "mirrors", "interface-mirrors",
    ])
    if let schema = file.optional("$schema") { _ = try schema.text() }
    if let node = file.optional("limits") { try readLimits(node) }
    var names: [String: String] = [:]
    for node in try file.optional("vrfs")?.array() ?? [] { try readVRF(node, &names) }
    var devices: [String: String] = [:]
    var interfacePaths: [UInt32: String] = [:]
    for node in try file.required("interfaces").array() { try readInterface(node, &interfacePaths, &devices) }
    var nexthopPaths: [UInt32: String] = [:]
    // ECMP nexthops after those that can be their members, wherever they stand.
    let nexthopNodes = try file.optional("nexthops")?.array() ?? []
    for node in nexthopNodes where !Self.isECMP(node) { try readNexthop(node, &nexthopPaths) }
    for node in nexthopNodes where Self.isECMP(node) { try readNexthop(node, &nexthopPaths) }
    var labels: [UInt32: String] = [:]
    for node in try file.optional("labels")?.array() ?? [] { try readLabel(node, &labels) }
    var vnis: [UInt32: String] = [:]
    for node in try file.optional("vnis")?.array() ?? [] { try readVNI(node, &vnis) }
    var routes: [RouteKey: String] = [:]
    for node in try file.optional("routes")?.array() ?? [] { try readRoute(node, &routes) }
    var bridge: [BridgeKey: String] = [:]
    for node in try file.optional("bridge")?.array() ?? [] { try readBridge(node, &bridge) }
    try readMirrors(file)
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

  private func interface(_ node: TablesFileNode, _ role: InterfaceRole) throws(TablesFileError) -> UInt32 {
    let id = try node.integer(0...UInt32.max)
    guard let found = roles[id] else { throw node.fail("there is no interface \(id) in $.interfaces") }
    guard found == role else {
      throw node.fail("interface \(id) is \(found.name); this action leaves by a \(role.name) interface")
    }
    return id
  }

  func nexthop(_ node: TablesFileNode) throws(TablesFileError) -> UInt32 {
    let id = try node.integer(0...UInt32.max)
    guard nexthops[id] != nil else { throw node.fail("there is no nexthop \(id) in $.nexthops") }
    return id
  }

  /// The label of a route or bridge entry: there for tunnels, and only for them.
  private func label(_ object: TablesFileObject, _ nexthop: UInt32) throws(TablesFileError) -> UInt32 {
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
    let object = try node.object(keys: ["id", "name"])
    let idNode = try object.required("id")
    let id = try index(idNode, limit: limits.vrfs, "vrfs")
    try claim(id, in: &vrfs, node.path, at: idNode, "VRF \(id)")
    let nameNode = try object.required("name")
    let name = try nameNode.text()
    guard (1...63).contains(name.utf8.count), name.unicodeScalars.allSatisfy({ $0.value >= 0x20 && $0.value != 0x7F })
    else { throw nameNode.fail("a VRF's name has 1 to 63 bytes and no control characters") }
    try claim(name, in: &names, node.path, at: nameNode, "VRF \"\(name)\"")
    add(.setVRF(VRFConfiguration(id: id, name: name)), node)
  }

  private mutating func readInterface(
    _ node: TablesFileNode, _ paths: inout [UInt32: String], _ devices: inout [String: String]
  ) throws(TablesFileError) {
    let object = try node.object(keys: [
      "id", "role", "port", "device", "mac", "vrf", "mtu", "addresses", "flags", "tags",
    ])
    let idNode = try object.required("id")
    let id = try index(idNode, limit: limits.interfaces, "interfaces")
    try claim(id, in: &paths, node.path, at: idNode, "interface \(id)")
    let role: InterfaceRole = try object.required("role").choice { $0.name }
    let port: PortKind = try object.required("port").choice { $0.name }
    let deviceNode = try object.required("device")
    let device = try deviceNode.text()
    guard Self.isDeviceName(device) else {
      throw deviceNode.fail(
        "\"\(device)\" is not a device's name: 1 to 15 letters, digits, \"-\", \"_\", \".\" or \"@\", and neither \".\" "
          + "nor \"..\"")
    }
    try claim(device, in: &devices, node.path, at: deviceNode, "device \"\(device)\"")
    var interface = InterfaceConfiguration(
      id: id, role: role, port: port, device: device, mac: try object.required("mac").stationMAC())
    if let mtu = object.optional("mtu") { interface.mtu = UInt16(try mtu.integer(68...65535)) }
    try readFlags(object, &interface)
    switch role {
    case .virtual:
      try object.refuse(["addresses"], "only fabric interfaces have addresses; remove the key or set role to fabric")
      interface.vrf = try vrf(object.required("vrf"))
    case .fabric:
      try object.refuse(["vrf"], "fabric interfaces belong to no VRF; remove the key or set role to virtual")
      let list = try object.required("addresses")
      for address in try list.array() { interface.addresses.append(try address.hostAddress()) }
      guard (1...InterfaceConfiguration.maximumAddresses).contains(interface.addresses.count) else {
        throw list.fail("a fabric interface has 1 to \(InterfaceConfiguration.maximumAddresses) addresses")
      }
    }
    roles[id] = role
    add(.setInterface(interface), node)
  }

  /// A kernel's name of an interface that is also a file's name and the left side of "PORT=FILE".
  private static func isDeviceName(_ name: String) -> Bool {
    (1...15).contains(name.utf8.count) && name != "." && name != ".."
      && name.utf8.allSatisfy {
        (0x61...0x7A).contains($0 | 0x20) || (0x30...0x39).contains($0)
          || [UInt8(ascii: "-"), UInt8(ascii: "_"), UInt8(ascii: "."), UInt8(ascii: "@")].contains($0)
      }
  }

  private enum ActionName: String, CaseIterable {
    case discard
    case receive
    case encap
    case tunnel
    case vrfTranslate = "vrf-translate"
    case ecmp

    /// The keys that a nexthop of this action has beside `id` and `action`.
    var keys: [String] {
      switch self {
      case .discard, .receive: []
      case .encap: ["interface", "destination-mac"]
      case .tunnel:
        ["encapsulation", "interface", "source", "destination", "destination-mac", "inner-destination-mac", "fragment"]
      case .vrfTranslate: ["vrf"]
      case .ecmp: ["members"]
      }
    }
  }

  private mutating func readNexthop(_ node: TablesFileNode, _ paths: inout [UInt32: String]) throws(TablesFileError) {
    let common = ["id", "action"]
    let all = common + ActionName.tunnel.keys + ActionName.vrfTranslate.keys + ActionName.ecmp.keys
    let object = try node.object(keys: all)
    let idNode = try object.required("id")
    let id = try index(idNode, limit: limits.nexthops, "nexthops")
    try claim(id, in: &paths, node.path, at: idNode, "nexthop \(id)")
    let name: ActionName = try object.required("action").choice { $0.rawValue }
    let keys = (common + name.keys).joined(separator: ", ")
    try object.refuse(
      all.filter { !common.contains($0) && !name.keys.contains($0) },
      "the action \(name.rawValue) has no such key; its keys are \(keys)")
    let action: NexthopConfiguration.Action =
      switch name {
      case .discard: .discard
      case .receive: .receive
      case .encap:
        .encap(
          interface: try interface(object.required("interface"), .virtual),
          destinationMAC: try object.required("destination-mac").stationMAC())
      case .tunnel: .tunnel(try tunnel(object))
      case .vrfTranslate: .vrfTranslate(vrf: try vrf(object.required("vrf")))
      case .ecmp: .ecmp(try members(object))
      }
    nexthops[id] = action
    add(.setNexthop(NexthopConfiguration(id: id, action: action)), node)
  }

  private static func isECMP(_ node: TablesFileNode) -> Bool {
    guard case .object(let members) = node.value.content,
      case .text(let action)? = members.first(where: { $0.key == "action" })?.value.content
    else { return false }
    return action == ActionName.ecmp.rawValue
  }

  /// Members of an ECMP nexthop, which are read before it.
  private func members(_ object: TablesFileObject) throws(TablesFileError) -> [NexthopMember] {
    let list = try object.required("members")
    var members: [NexthopMember] = []
    var taken: [[UInt32]: String] = [:]
    for node in try list.array() {
      let entry = try node.object(keys: ["nexthop", "label", "weight"])
      let idNode = try entry.required("nexthop")
      let id = try nexthop(idNode)
      switch nexthops[id] {
      case .encap, .tunnel: break
      default: throw idNode.fail("nexthop \(id) is neither a tunnel nor an encap; a member is one of these")
      }
      var member = NexthopMember(nexthop: id, label: try label(entry, id))
      if let weight = entry.optional("weight") { member.weight = UInt16(try weight.integer(1...65535)) }
      try claim([id, member.label], in: &taken, node.path, at: idNode, "nexthop \(id) with label \(member.label)")
      members.append(member)
    }
    guard (1...NexthopConfiguration.maximumMembers).contains(members.count) else {
      throw list.fail("an ECMP nexthop has 1 to \(NexthopConfiguration.maximumMembers) members")
    }
    return members
  }

  private func tunnel(_ object: TablesFileObject) throws(TablesFileError) -> TunnelConfiguration {
    let encapsulation: Encapsulation = try object.required("encapsulation").choice { $0.name }
    let interface = try interface(object.required("interface"), .fabric)
    let source = try object.required("source").hostAddress()
    let destinationNode = try object.required("destination")
    let destination = try destinationNode.hostAddress()
    guard source.isV4 == destination.isV4 else {
      throw destinationNode.fail("\(destination) and the source \(source) are not of one family")
    }
    var tunnel = TunnelConfiguration(
      encapsulation: encapsulation, interface: interface, source: source, destination: destination,
      destinationMAC: try object.optional("destination-mac")?.stationMAC() ?? .zero)
    if let inner = object.optional("inner-destination-mac") {
      guard encapsulation == .vxlan else {
        throw inner.fail("\(encapsulation.name) carries no Ethernet header; remove the key")
      }
      tunnel.innerDestinationMAC = try inner.stationMAC()
    }
    if let fragment = object.optional("fragment") { tunnel.fragments = try fragment.flag() }
    return tunnel
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
    let mac = try macNode.stationMAC()
    try claim(BridgeKey(vrf: vrf, mac: mac), in: &taken, node.path, at: macNode, "\(mac) of VRF \(vrf)")
    let nexthop = try nexthop(object.required("nexthop"))
    let label = try label(object, nexthop)
    add(.setBridge(BridgeConfiguration(vrf: vrf, mac: mac, nexthop: nexthop, label: label)), node)
  }
}
