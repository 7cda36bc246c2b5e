import WeftWire

// How address translation's entries lie in a slot. Writer and reader of each stand together.

private let nameBytes = 63

extension SlotWriter {
  /// A number that may be missing.
  private mutating func put(_ value: UInt32?) {
    put(UInt8(value == nil ? 0 : 1))
    put(value ?? 0)
  }

  private mutating func put(_ address: IPAddress?) {
    put(UInt8(address == nil ? 0 : 1))
    put(address ?? IPAddress(high: 0, low: 0))
  }

  mutating func put(_ entry: NATPoolConfiguration) {
    put(entry.id)
    put(entry.vrf)
    put(entry.first)
    put(entry.last)
    put(entry.firstPort)
    put(entry.lastPort)
    put(entry.blockPorts)
    put(entry.name, maximum: nameBytes)
  }

  mutating func put(_ entry: SourceNATConfiguration) {
    put(entry.id)
    put(entry.priority)
    put(entry.vrf)
    put(entry.source)
    put(UInt8(entry.destination == nil ? 0 : 1))
    put(entry.destination ?? entry.source)
    put(entry.egress)
    put(entry.pool)
  }

  mutating func put(_ entry: StaticNATConfiguration) {
    put(entry.insideVRF)
    put(entry.inside)
    put(entry.outsideVRF)
    put(entry.outside)
  }

  mutating func put(_ key: ServiceKey) {
    put(key.vrf)
    put(key.address)
    put(key.proto)
    put(key.port)
  }

  mutating func put(_ entry: DestinationNATConfiguration) {
    put(entry.key)
    put(entry.target)
    put(entry.targetVRF)
    put(entry.targetPort)
  }

  mutating func put(_ entry: ServiceConfiguration) {
    put(entry.key)
    put(entry.flags.rawValue)
    put(entry.pool)
    put(entry.affinitySeconds)
    put(entry.hairpin)
    put(entry.name, maximum: nameBytes)
  }

  mutating func put(_ entry: BackendConfiguration) {
    put(entry.service)
    put(entry.address)
    put(entry.port)
    put(entry.vrf)
    put(entry.weight)
    put(entry.flags.rawValue)
  }

  mutating func put(_ state: NATPoolState) {
    put(UInt8(min(state.taken.count, 255)))
    for count in state.taken.prefix(255) { put(count) }
    put(state.blocks)
  }
}

extension SlotReader {
  private mutating func optionalNumber(_ what: StaticString) throws(SlotFault) -> UInt32? {
    let isThere = try flag(what)
    let value: UInt32 = try get(what)
    return isThere ? value : nil
  }

  private mutating func optionalAddress(_ what: StaticString) throws(SlotFault) -> IPAddress? {
    let isThere = try flag(what)
    let value = try address(what)
    return isThere ? value : nil
  }

  mutating func natPool() throws(SlotFault) -> NATPoolConfiguration {
    let id: UInt32 = try get("pool id")
    let vrf: UInt32 = try get("vrf")
    let first = try address("first address")
    let last = try address("last address")
    let firstPort: UInt16 = try get("first port")
    let lastPort: UInt16 = try get("last port")
    let blockPorts: UInt16 = try get("ports of a block")
    return NATPoolConfiguration(
      id: id, name: try text("pool name", maximum: nameBytes), vrf: vrf, first: first, last: last,
      firstPort: firstPort, lastPort: lastPort, blockPorts: blockPorts)
  }

  mutating func sourceNAT() throws(SlotFault) -> SourceNATConfiguration {
    let id: UInt32 = try get("rule id")
    let priority: UInt32 = try get("priority")
    let vrf: UInt32 = try get("vrf")
    let source = try prefix("source")
    let hasDestination = try flag("destination")
    let destination = try prefix("destination")
    return SourceNATConfiguration(
      id: id, priority: priority, vrf: vrf, source: source, destination: hasDestination ? destination : nil,
      egress: try optionalNumber("egress"), pool: try optionalNumber("pool"))
  }

  mutating func staticNAT() throws(SlotFault) -> StaticNATConfiguration {
    StaticNATConfiguration(
      insideVRF: try get("inside vrf"), inside: try address("inside address"), outsideVRF: try get("outside vrf"),
      outside: try address("outside address"))
  }

  mutating func serviceKey() throws(SlotFault) -> ServiceKey {
    ServiceKey(
      vrf: try get("service vrf"), address: try address("service address"), proto: try get("service protocol"),
      port: try get("service port"))
  }

  mutating func destinationNAT() throws(SlotFault) -> DestinationNATConfiguration {
    DestinationNATConfiguration(
      key: try serviceKey(), target: try address("target address"), targetVRF: try get("target vrf"),
      targetPort: try get("target port"))
  }

  mutating func service() throws(SlotFault) -> ServiceConfiguration {
    let key = try serviceKey()
    let flags = ServiceConfiguration.Flags(rawValue: try get("service flags"))
    guard flags.isSubset(of: .known) else { throw SlotFault(what: "service flags") }
    let pool = try optionalNumber("pool")
    let affinity: UInt32 = try get("affinity")
    let hairpin = try optionalAddress("hairpin address")
    return ServiceConfiguration(
      key: key, name: try text("service name", maximum: nameBytes), flags: flags, pool: pool,
      affinitySeconds: affinity, hairpin: hairpin)
  }

  mutating func backend() throws(SlotFault) -> BackendConfiguration {
    let service = try serviceKey()
    let address = try address("backend address")
    let port: UInt16 = try get("backend port")
    let vrf: UInt32 = try get("backend vrf")
    let weight: UInt16 = try get("weight")
    let flags = BackendConfiguration.Flags(rawValue: try get("backend flags"))
    guard flags.isSubset(of: .known) else { throw SlotFault(what: "backend flags") }
    return BackendConfiguration(
      service: service, address: address, port: port, vrf: vrf, weight: weight, flags: flags)
  }

  mutating func natPoolState() throws(SlotFault) -> NATPoolState {
    let count = Int(try get("block classes", as: UInt8.self))
    var taken: [UInt32] = []
    for _ in 0..<count { taken.append(try get("blocks taken")) }
    return NATPoolState(taken: taken, blocks: try get("blocks"))
  }
}
