import WeftRing
import WeftTables
import WeftWire

// Address translation in TABLES.json.

extension TablesFileBuilder {
  mutating func readNAT(_ file: TablesFileObject) throws(TablesFileError) {
    var pools: [UInt32: String] = [:]
    var families: [UInt32: Bool] = [:]
    for node in try file.optional("nat-pools")?.array() ?? [] { try readPool(node, &pools, &families) }
    var rules: [UInt32: String] = [:]
    for node in try file.optional("source-nat")?.array() ?? [] { try readRule(node, &rules, families) }
    var insides: [Place: String] = [:]
    var outsides: [Place: String] = [:]
    for node in try file.optional("static-nat")?.array() ?? [] { try readStatic(node, &insides, &outsides) }
    var keys: [ServiceKey: String] = [:]
    for node in try file.optional("destination-nat")?.array() ?? [] { try readDestination(node, &keys) }
    for node in try file.optional("services")?.array() ?? [] { try readService(node, &keys, families) }
  }

  private struct Place: Hashable {
    let vrf: UInt32
    let address: IPAddress
  }

  private func name(_ node: TablesFileNode?) throws(TablesFileError) -> String {
    guard let node else { return "" }
    let text = try node.text()
    guard text.utf8.count <= 63, text.unicodeScalars.allSatisfy({ $0.value >= 0x20 && $0.value != 0x7F }) else {
      throw node.fail("a name has at most 63 bytes and no control characters")
    }
    return text
  }

  private func port(_ node: TablesFileNode) throws(TablesFileError) -> UInt16 { UInt16(try node.integer(1...65535)) }

  /// An address of the same family as `other`.
  private func address(_ node: TablesFileNode, like other: IPAddress) throws(TablesFileError) -> IPAddress {
    let address = try node.hostAddress()
    guard address.isV4 == other.isV4 else { throw node.fail("\(address) and \(other) are not of one family") }
    return address
  }

  private func pool(
    _ node: TablesFileNode, _ families: [UInt32: Bool], isV4: Bool
  ) throws(TablesFileError) -> UInt32 {
    let id = try node.integer(0...UInt32.max)
    guard let family = families[id] else { throw node.fail("there is no pool \(id) in $.nat-pools") }
    guard family == isV4 else { throw node.fail("pool \(id) has \(family ? "IPv4" : "IPv6") addresses") }
    return id
  }

  // MARK: entries

  private mutating func readPool(
    _ node: TablesFileNode, _ taken: inout [UInt32: String], _ families: inout [UInt32: Bool]
  ) throws(TablesFileError) {
    let object = try node.object(keys: [
      "id", "name", "vrf", "first", "last", "first-port", "last-port", "block-ports",
    ])
    let idNode = try object.required("id")
    let id = try idNode.integer(0...UInt32(NATMemory.maximumPools - 1))
    try claim(id, in: &taken, node.path, at: idNode, "pool \(id)")
    let first = try object.required("first").hostAddress()
    var pool = NATPoolConfiguration(
      id: id, name: try name(object.optional("name")), vrf: try vrf(object.required("vrf")), first: first, last: first)
    if let last = object.optional("last") {
      pool.last = try address(last, like: first)
      guard first <= pool.last else { throw last.fail("\(pool.last) is below the first address, \(first)") }
    }
    if let port = object.optional("first-port") { pool.firstPort = try self.port(port) }
    if let port = object.optional("last-port") { pool.lastPort = try self.port(port) }
    guard pool.firstPort <= pool.lastPort else {
      throw node.fail("the last port, \(pool.lastPort), is below the first, \(pool.firstPort)")
    }
    if let block = object.optional("block-ports") {
      pool.blockPorts = UInt16(try block.integer(64...512))
      guard pool.blockPorts.nonzeroBitCount == 1 else { throw block.fail("a block has 64, 128, 256 or 512 ports") }
    }
    families[id] = first.isV4
    add(.setNATPool(pool), node)
  }

  private mutating func readRule(
    _ node: TablesFileNode, _ taken: inout [UInt32: String], _ families: [UInt32: Bool]
  ) throws(TablesFileError) {
    let object = try node.object(keys: ["id", "priority", "vrf", "source", "destination", "egress", "pool"])
    let idNode = try object.required("id")
    let id = try idNode.integer(0...UInt32.max)
    try claim(id, in: &taken, node.path, at: idNode, "rule \(id)")
    let source = try object.required("source").prefix()
    var rule = SourceNATConfiguration(
      id: id, priority: try object.required("priority").integer(0...UInt32.max),
      vrf: try vrf(object.required("vrf")), source: source, pool: nil)
    if let destination = object.optional("destination") {
      let prefix = try destination.prefix()
      guard prefix.isV4 == source.isV4 else {
        throw destination.fail("\(prefix) and the source \(source) are not of one family")
      }
      rule.destination = prefix
    }
    if let egress = object.optional("egress") { rule.egress = try vrf(egress) }
    if let pool = object.optional("pool") { rule.pool = try self.pool(pool, families, isV4: source.isV4) }
    add(.setSourceNAT(rule), node)
  }

  private mutating func readStatic(
    _ node: TablesFileNode, _ insides: inout [Place: String], _ outsides: inout [Place: String]
  ) throws(TablesFileError) {
    let object = try node.object(keys: ["inside-vrf", "inside", "outside-vrf", "outside"])
    let insideNode = try object.required("inside")
    let outsideNode = try object.required("outside")
    let inside = try insideNode.hostAddress()
    let entry = StaticNATConfiguration(
      insideVRF: try vrf(object.required("inside-vrf")), inside: inside,
      outsideVRF: try vrf(object.required("outside-vrf")), outside: try address(outsideNode, like: inside))
    try claim(
      Place(vrf: entry.insideVRF, address: entry.inside), in: &insides, node.path, at: insideNode,
      "\(entry.inside) of VRF \(entry.insideVRF)")
    try claim(
      Place(vrf: entry.outsideVRF, address: entry.outside), in: &outsides, node.path, at: outsideNode,
      "\(entry.outside) of VRF \(entry.outsideVRF)")
    add(.setStaticNAT(entry), node)
  }

  private static let keyFields = ["vrf", "address", "protocol", "port"]

  private func serviceKey(
    _ object: TablesFileObject, _ taken: inout [ServiceKey: String]
  ) throws(TablesFileError) -> ServiceKey {
    let proto: ServiceProtocol = try object.required("protocol").choice { $0.name }
    let key = ServiceKey(
      vrf: try vrf(object.required("vrf")), address: try object.required("address").hostAddress(),
      proto: proto.rawValue, port: try port(object.required("port")))
    try claim(key, in: &taken, object.node.path, at: object.node, "\(key)")
    return key
  }

  private mutating func readDestination(
    _ node: TablesFileNode, _ taken: inout [ServiceKey: String]
  ) throws(TablesFileError) {
    let object = try node.object(keys: Self.keyFields + ["target-vrf", "target", "target-port"])
    let key = try serviceKey(object, &taken)
    var entry = DestinationNATConfiguration(
      key: key, target: try address(object.required("target"), like: key.address), targetVRF: key.vrf)
    if let node = object.optional("target-vrf") { entry.targetVRF = try vrf(node) }
    if let node = object.optional("target-port") { entry.targetPort = try port(node) }
    add(.setDestinationNAT(entry), node)
  }

  private mutating func readService(
    _ node: TablesFileNode, _ taken: inout [ServiceKey: String], _ families: [UInt32: Bool]
  ) throws(TablesFileError) {
    let object = try node.object(
      keys: Self.keyFields + ["name", "local-only", "pool", "affinity", "hairpin", "backends"])
    let key = try serviceKey(object, &taken)
    var service = ServiceConfiguration(key: key, name: try name(object.optional("name")))
    if let local = object.optional("local-only"), try local.flag() { service.flags.insert(.localOnly) }
    if let pool = object.optional("pool") {
      service.pool = try self.pool(pool, families, isV4: key.address.isV4)
      service.flags.insert(.sourceNAT)
    }
    if let affinity = object.optional("affinity") { service.affinitySeconds = try affinity.integer(0...UInt32.max) }
    if let hairpin = object.optional("hairpin") { service.hairpin = try address(hairpin, like: key.address) }
    add(.setService(service), node)
    var servers: [BackendConfiguration: String] = [:]
    for node in try object.optional("backends")?.array() ?? [] { try readBackend(node, key, &servers) }
  }

  private mutating func readBackend(
    _ node: TablesFileNode, _ service: ServiceKey, _ taken: inout [BackendConfiguration: String]
  ) throws(TablesFileError) {
    let object = try node.object(keys: ["address", "port", "vrf", "weight", "draining", "local"])
    let addressNode = try object.required("address")
    var backend = BackendConfiguration(
      service: service, address: try address(addressNode, like: service.address), port: 0, vrf: service.vrf)
    if let port = object.optional("port") { backend.port = try self.port(port) }
    if let vrf = object.optional("vrf") { backend.vrf = try self.vrf(vrf) }
    try claim(
      backend, in: &taken, node.path, at: addressNode, "backend \(backend.address) port \(backend.port)")
    if let weight = object.optional("weight") { backend.weight = UInt16(try weight.integer(0...65535)) }
    if let draining = object.optional("draining"), try draining.flag() { backend.flags.insert(.draining) }
    if let local = object.optional("local"), try local.flag() { backend.flags.insert(.local) }
    add(.setBackend(backend), node)
  }
}
