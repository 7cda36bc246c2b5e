import FoundationEssentials
import GRDB
import WeftAPI
import WeftRing
import WeftWire

/// What is asked for; the store chooses the rest.
struct NewAttachment: Sendable {
  var id: String?
  var containerID: String
  var interface: String
  var netns: String
  var network: String
  var hostInterface: String?
  var mac: MACAddress?
  var addresses: [IPAddress] = []
  /// No others than these.
  var addressesOnly = false
  var bandwidth: Bandwidth?
  var vmUUID: String?
  var podName: String?
  var podNamespace: String?
  var podUID: String?
  var origin: AttachmentRecord.Origin
  var isWanted = false
  /// It is a VLAN of the port with this host interface.
  var parent: String?
  var vlan: Int?
  var vhost: VhostConfiguration?
}

extension Store {
  /// Takes addresses and remembers the attachment, all or nothing. What is there already under the same container id
  /// and interface is returned, provided it does not contradict.
  func reserve(_ new: NewAttachment) async throws -> (record: AttachmentRecord, isNew: Bool) {
    do {
      let taken = Taken()
      do {
        return try await database.write { try self.reserve(new, $0, taken) }
      } catch {
        giveBack(new.network, taken)
        throw error
      }
    } catch { throw Self.fault("remember the attachment of \(new.containerID) \(new.interface)", error) }
  }

  /// Used by one transaction at a time.
  final class Taken: @unchecked Sendable {
    var addresses: [IPAddress] = []
  }

  private func giveBack(_ network: String, _ taken: Taken) {
    memory.withLock { memory in
      for address in taken.addresses { memory.change(network, address) { $0.giveBack(address) } }
    }
  }

  func reserve(
    _ new: NewAttachment, _ db: GRDB.Database, _ taken: Taken
  ) throws -> (record: AttachmentRecord, isNew: Bool) {
    if let there = try AttachmentRecord.fetch(
      db, where: "container_id = ? AND interface = ?", [new.containerID, new.interface]
    ).first {
      guard there.state != .deleting else {
        throw APIError(
          .unavailable, "container \(new.containerID)'s \(new.interface) is still being deleted; try again")
      }
      try check(there, against: new)
      try setBandwidth(there.id, new.bandwidth, db)
      return (try move(there, to: new.netns, db), false)
    }
    guard let network = configuration.network(new.network) else {
      throw APIError(
        .unknownNetwork,
        "no network is named \"\(new.network)\"; there are \(AgentConfiguration.names(configuration.networks))")
    }
    if let mac = new.mac {
      guard !mac.isGroup, !mac.isZero, mac != .virtualRouter else {
        throw APIError(.badRequest, "\(mac) cannot be an interface's MAC address")
      }
      if let owner = try String.fetchOne(
        db, sql: "SELECT container_id FROM attachment WHERE network = ? AND mac = ?",
        arguments: [network.name, mac.description])
      {
        throw APIError(.conflict, "MAC address \(mac) is container \(owner)'s in network \(network.name)")
      }
    }
    if let parent = new.parent, let vlan = new.vlan,
      let owner = try String.fetchOne(
        db, sql: "SELECT id FROM attachment WHERE parent = ? AND vlan = ?", arguments: [parent, vlan])
    {
      throw APIError(.conflict, "VLAN \(vlan) of \(parent) is attachment \(owner)'s; delete that first")
    }
    if let device = new.hostInterface {
      if let owner = try String.fetchOne(
        db, sql: "SELECT id FROM attachment WHERE host_interface = ?", arguments: [device])
      {
        throw APIError(.conflict, "host interface \(device) is attachment \(owner)'s; delete that first")
      }
    }
    var id = new.id ?? UUID().uuidString.lowercased()
    if new.id == nil {
      // The MAC and the host interface are parts of the id: one that clashes is replaced.
      while try Bool.fetchOne(
        db, sql: "SELECT EXISTS (SELECT 1 FROM attachment WHERE host_interface = ? OR network = ? AND mac = ?)",
        arguments: [Derived.hostInterface(id), network.name, Derived.mac(id).description]) == true
      {
        id = UUID().uuidString.lowercased()
      }
    }
    let tapQueues = new.origin == .cni && configuration.pods.kind == .tap ? Int(configuration.pods.queues) : nil
    if tapQueues != nil { try checkNamespace(new.netns) }
    let addresses = try allocate(network, new.addresses, only: new.addressesOnly, db, taken)
    let record = AttachmentRecord(
      id: id, containerID: new.containerID, interface: new.interface, netns: new.netns, network: network.name,
      hostInterface: new.hostInterface ?? Derived.hostInterface(id), mac: new.mac ?? Derived.mac(id),
      addresses: addresses,
      vmUUID: new.vmUUID ?? Derived.podUUID(uid: new.podUID, containerID: new.containerID), podName: new.podName,
      podNamespace: new.podNamespace, podUID: new.podUID, origin: new.origin, isWanted: new.isWanted,
      created: Int64(Date().timeIntervalSince1970), tapQueues: tapQueues, parent: new.parent, vlan: new.vlan,
      vhost: new.vhost)
    try record.insert(db)
    try setBandwidth(id, new.bandwidth, db)
    return (record, true)
  }

  /// The forwarder finds a TAP interface by its namespace, which may be another one than when it was first asked for.
  private func move(_ there: AttachmentRecord, to netns: String, _ db: GRDB.Database) throws -> AttachmentRecord {
    guard there.tapQueues != nil, there.netns != netns else { return there }
    try checkNamespace(netns)
    try db.execute(sql: "UPDATE attachment SET netns = ? WHERE id = ?", arguments: [netns, there.id])
    var record = there
    record.netns = netns
    return record
  }

  private func checkNamespace(_ netns: String) throws(APIError) {
    let limit = TapConfiguration.maximumNamespaceBytes
    guard netns.hasPrefix("/"), netns.utf8.count <= limit else {
      throw APIError(
        .badRequest,
        "pods' interfaces are TAP interfaces here (pods.port of the agent's file): netns \"\(netns.short)\" must be an "
          + "absolute path of at most \(limit) bytes")
    }
  }

  private func check(_ there: AttachmentRecord, against new: NewAttachment) throws(APIError) {
    let what = "container \(there.containerID) has interface \(there.interface)"
    guard there.network == new.network else {
      throw APIError(.conflict, "\(what) in network \(there.network), not \(new.network); delete it first")
    }
    guard Set(new.addresses).isSubset(of: there.addresses),
      !new.addressesOnly || new.addresses.count == there.addresses.count
    else {
      throw APIError(
        .conflict,
        "\(what) with \(there.addresses.map(\.description).joined(separator: ", ")), which is not what is asked for; "
          + "delete it first")
    }
    guard new.mac == nil || new.mac == there.mac else {
      throw APIError(.conflict, "\(what) with MAC address \(there.mac); delete it first")
    }
  }

  /// One address of each subnet: the asked-for one, or the next free one unless `only` those asked for are wanted.
  private func allocate(
    _ network: VirtualNetwork, _ asked: [IPAddress], only: Bool, _ db: GRDB.Database, _ taken: Taken
  ) throws -> [IPAddress] {
    var addresses: [IPAddress] = []
    for address in asked { try check(address, network, asked) }
    try memory.withLock { memory in
      for index in network.subnets.indices {
        let subnet = network.subnets[index]
        guard var pool = memory.pools[network.name]?[index] else { continue }
        if let wanted = asked.first(where: { subnet.prefix.contains($0) }) {
          guard !pool.isUsed(wanted) else {
            let owner =
              try String.fetchOne(
                db,
                sql: """
                  SELECT container_id FROM attachment WHERE id =
                  (SELECT attachment FROM address WHERE network = ? AND address = ?)
                  """, arguments: [network.name, wanted.description]) ?? "another"
            throw APIError(.addressInUse, "\(wanted) of network \(network.name) is container \(owner)'s")
          }
          pool.take(wanted)
          addresses.append(wanted)
          taken.addresses.append(wanted)
        } else if !only {
          guard let free = pool.next() else {
            throw APIError(
              .poolExhausted,
              "network \(network.name) has no free address in \(subnet.range): all \(pool.capacity) are in use")
          }
          addresses.append(free)
          taken.addresses.append(free)
          try db.execute(
            sql: "INSERT OR REPLACE INTO pool (network, prefix, last) VALUES (?, ?, ?)",
            arguments: [network.name, subnet.prefix.description, free.description])
        }
        memory.pools[network.name]?[index] = pool
      }
    }
    return addresses
  }

  /// An address that may be asked for: in a subnet, not special, not behind a peer, and the only one of its subnet.
  private func check(_ address: IPAddress, _ network: VirtualNetwork, _ asked: [IPAddress]) throws(APIError) {
    guard let subnet = network.subnet(of: address) else {
      let subnets = network.subnets.map(\.prefix.description).joined(separator: ", ")
      throw APIError(.addressNotInNetwork, "\(address) is in no subnet of network \(network.name) (\(subnets))")
    }
    guard address != subnet.gateway else {
      throw APIError(.addressNotInNetwork, "\(address) is the gateway of \(subnet.prefix) in network \(network.name)")
    }
    guard !Subnet.isReserved(address, in: subnet.prefix) else {
      throw APIError(.addressNotInNetwork, "\(address) is the network or broadcast address of \(subnet.prefix)")
    }
    let hosts = (network.host?.addresses ?? []) + (network.services?.addresses ?? [])
    guard !hosts.contains(address) else {
      throw APIError(
        .addressNotInNetwork, "\(address) is the host's own in network \(network.name), or that of one of its services")
    }
    guard asked.filter({ subnet.prefix.contains($0) }).count == 1 else {
      throw APIError(
        .badRequest, "more than one address of \(subnet.prefix) is asked for; an interface has one of each subnet")
    }
    for peer in configuration.peers(of: network.name) {
      for prefix in peer.networks.filter({ $0.name == network.name }).flatMap(\.prefixes)
      where prefix.contains(address) && subnet.prefix.contains(prefix) && prefix != subnet.prefix {
        throw APIError(.addressNotInNetwork, "\(address) belongs to \(prefix), which is behind peer \(peer.name)")
      }
    }
  }

  func attachments(
    where condition: String = "1", _ arguments: StatementArguments = []
  ) async throws
    -> [AttachmentRecord]
  {
    do {
      return try await database.read { try AttachmentRecord.fetch($0, where: condition, arguments) }
    } catch { throw Self.fault("read attachments", error) }
  }

  /// On the calling thread.
  package func attachmentsNow(
    where condition: String = "1", _ arguments: StatementArguments = []
  ) throws(APIError)
    -> [AttachmentRecord]
  {
    try read("read attachments") { try AttachmentRecord.fetch($0, where: condition, arguments) }
  }

  /// Forgets an attachment and gives its addresses back. Its numbers are free again, at once or (`retire`) when a sweep
  /// has made sure that the forwarder knows nothing of it.
  func remove(_ record: AttachmentRecord, retire: Bool) throws(APIError) {
    try write("forget attachment \(record.id)") { db in
      try db.execute(sql: "DELETE FROM attachment WHERE id = ?", arguments: [record.id])
      try release(Self.identifiers(of: record.id), retire: retire, db)
    }
    memory.withLock { memory in
      for address in record.addresses { memory.change(record.network, address) { $0.giveBack(address) } }
    }
  }

  /// Brings attachments into a state, all or none. `isWanted`: they are to forward; nil: as before. What may not follow
  /// the state that one is in is refused (`conflict`).
  package func setState(
    _ ids: [String], _ state: AttachmentState, isWanted: Bool? = nil, reason: String? = nil
  ) throws(APIError) {
    guard !ids.isEmpty else { return }
    try write("note the state of \(ids.count == 1 ? "attachment \(ids[0])" : "\(ids.count) attachments")") { db in
      for id in ids {
        guard let text = try String.fetchOne(db, sql: "SELECT state FROM attachment WHERE id = ?", arguments: [id]),
          let before = AttachmentState(rawValue: text)
        else { continue }
        guard before.allows(state) else {
          throw APIError(.conflict, "attachment \(id) is \(text) and cannot become \(state.rawValue)")
        }
        try db.execute(
          sql: """
            UPDATE attachment SET state = ?, wanted = COALESCE(?, wanted), reason = ?,
            since = CASE WHEN state = ? THEN since ELSE ? END WHERE id = ?
            """,
          arguments: [
            state.rawValue, isWanted, reason, state.rawValue, Int64(Date().timeIntervalSince1970), id,
          ])
      }
    }
  }

  /// Puts right what an agent that died left: what was on its way into the forwarder is as before.
  static func settle(_ db: GRDB.Database) throws {
    try db.execute(
      sql:
        "UPDATE attachment SET state = CASE WHEN wanted THEN 'waiting' ELSE 'reserved' END WHERE state = 'programming'"
    )
  }

  /// What the plugin reports of an interface that it has made.
  func setPlace(
    _ id: String, containerID: String, interface: String, netns: String, hostInterface: String
  ) throws(APIError) {
    try write("note the interface of attachment \(id)") { db in
      if let other = try String.fetchOne(
        db,
        sql: "SELECT id FROM attachment WHERE id <> ? AND (host_interface = ? OR container_id = ? AND interface = ?)",
        arguments: [id, hostInterface, containerID, interface])
      {
        throw APIError(
          .conflict,
          "host interface \(hostInterface) or interface \(interface) of container \(containerID) is attachment "
            + "\(other)'s; delete that first")
      }
      try db.execute(
        sql: "UPDATE attachment SET container_id = ?, interface = ?, netns = ?, host_interface = ? WHERE id = ?",
        arguments: [containerID, interface, netns, hostInterface, id])
    }
  }

  static func identifiers(of id: String) -> [Identifier] {
    [Identifier(.interface, "vmi/\(id)"), Identifier(.nexthop, "vmi/\(id)")]
  }
}

/// What follows from an id.
enum Derived {
  /// "weft" and the id's first 11 hexadecimal digits.
  static func hostInterface(_ id: String) -> String { "weft" + id.filter { $0 != "-" }.prefix(11) }

  /// Locally administered: 02 and the id's first five octets, as Tungsten Fabric makes it.
  static func mac(_ id: String) -> MACAddress {
    let digits = String(id.filter { $0 != "-" }.prefix(10))
    return MACAddress(bits: 0x02 << 40 | (UInt64(digits, radix: 16) ?? 0))
  }

  /// Kubernetes' UID of the pod where it is a UUID, else one made of the container's id.
  static func podUUID(uid: String?, containerID: String) -> String {
    uid.flatMap(uuid) ?? named("pod/\(containerID)")
  }

  /// Lower case; nil when it is no UUID.
  static func uuid(_ text: String) -> String? { UUID(uuidString: text)?.uuidString.lowercased() }

  static func networkUUID(_ name: String) -> String { named("network/\(name)") }

  /// The same UUID for the same name, always (RFC 9562 section 5.8, version 8; two FNV-1a hashes).
  static func named(_ name: String) -> String {
    func hash(_ seed: UInt64) -> UInt64 {
      name.utf8.reduce(seed) { ($0 ^ UInt64($1)) &* 0x100_0000_01B3 }
    }
    let high = hash(0xCBF2_9CE4_8422_2325) & ~0xF000 | 0x8000
    let low = hash(0x6C62_272E_07BB_0142) & ~(3 << 62) | 2 << 62
    func hex(_ value: UInt64) -> [Character] {
      let digits = String(value, radix: 16)
      return Array(String(repeating: "0", count: 16 - digits.count) + digits)
    }
    let digits = hex(high) + hex(low)
    return [0..<8, 8..<12, 12..<16, 16..<20, 20..<32].map { String(digits[$0]) }.joined(separator: "-")
  }
}
