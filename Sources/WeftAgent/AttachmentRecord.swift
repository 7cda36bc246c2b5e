import GRDB
import WeftAPI
import WeftRing
import WeftWire

/// An attachment as it is remembered.
public struct AttachmentRecord: Hashable, Sendable {
  /// Who asked for it.
  public enum Origin: String, Hashable, Sendable {
    /// `POST /v1/attachments`.
    case cni
    /// `GET /vm-cfg/{pod}` of a pod that nobody had heard of.
    case pod
    /// `POST /port`.
    case port
    /// Nobody known: a forwarder had it when the database was lost (`Recovery`).
    case recovered
  }

  /// The VMI's UUID, lower case.
  public var id: String
  public var containerID: String
  public var interface: String
  public var netns: String
  public var network: String
  public var hostInterface: String
  public var mac: MACAddress
  /// In the order of the network's subnets.
  public var addresses: [IPAddress]
  /// The pod's or VM's UUID, lower case.
  public var vmUUID: String
  public var podName: String?
  public var podNamespace: String?
  public var podUID: String?
  public var origin: Origin
  /// It was activated and is to forward.
  public var isWanted: Bool
  /// How far it has come; changed by the store alone, which refuses what may not follow.
  public var state: AttachmentState
  /// When it came into that state: seconds since 1970.
  public var since: Int64
  /// Why it does not forward though it is wanted.
  public var reason: String?
  /// Seconds since 1970.
  public var created: Int64
  /// The interface is a TAP interface of so many queues (0: one for each worker); nil: an end of a veth. It stays what
  /// it was made as, whatever the configuration says later.
  public var tapQueues: Int?
  /// The host interface of the port that its frames are on, with tags of the VLAN `vlan`; nil: it has one of its own.
  public var parent: String?
  /// 1 to 4094.
  public var vlan: Int?
  /// The interface is a virtual machine's, behind this socket; nil: the kernel's.
  public var vhost: VhostConfiguration?

  public init(
    id: String, containerID: String, interface: String, netns: String, network: String, hostInterface: String,
    mac: MACAddress, addresses: [IPAddress], vmUUID: String, podName: String? = nil, podNamespace: String? = nil,
    podUID: String? = nil, origin: Origin, isWanted: Bool, reason: String? = nil, created: Int64,
    tapQueues: Int? = nil, state: AttachmentState = .reserved, since: Int64? = nil, parent: String? = nil,
    vlan: Int? = nil, vhost: VhostConfiguration? = nil
  ) {
    self.parent = parent
    self.vlan = vlan
    self.vhost = vhost
    self.tapQueues = tapQueues
    self.state = state
    self.since = since ?? created
    self.id = id
    self.containerID = containerID
    self.interface = interface
    self.netns = netns
    self.network = network
    self.hostInterface = hostInterface
    self.mac = mac
    self.addresses = addresses
    self.vmUUID = vmUUID
    self.podName = podName
    self.podNamespace = podNamespace
    self.podUID = podUID
    self.origin = origin
    self.isWanted = isWanted
    self.reason = reason
    self.created = created
  }
}

extension AttachmentRecord {
  static let columns = """
    id, container_id, interface, netns, network, host_interface, mac, vm_uuid, pod_name, pod_namespace, pod_uid, \
    origin, wanted, reason, created, tap_queues, state, since, parent, vlan
    """

  /// Without its addresses.
  init(_ row: Row) throws {
    id = row["id"]
    containerID = row["container_id"]
    interface = row["interface"]
    netns = row["netns"]
    network = row["network"]
    hostInterface = row["host_interface"]
    guard let mac = MACAddress(row["mac"] as String), let origin = Origin(rawValue: row["origin"]),
      let state = AttachmentState(rawValue: row["state"])
    else {
      throw APIError(.database, "attachment \(id) in the database holds no sense; was the file changed by hand?")
    }
    self.mac = mac
    addresses = []
    vmUUID = row["vm_uuid"]
    podName = row["pod_name"]
    podNamespace = row["pod_namespace"]
    podUID = row["pod_uid"]
    self.origin = origin
    isWanted = row["wanted"]
    self.state = state
    since = row["since"]
    reason = row["reason"]
    created = row["created"]
    tapQueues = row["tap_queues"]
    parent = row["parent"]
    vlan = row["vlan"]
  }

  /// Those that a condition selects, oldest first, with their addresses.
  static func fetch(
    _ db: GRDB.Database, where condition: String = "1", _ arguments: StatementArguments = []
  ) throws -> [AttachmentRecord] {
    var records = try Row.fetchAll(
      db, sql: "SELECT \(columns) FROM attachment WHERE \(condition) ORDER BY created, rowid", arguments: arguments
    ).map { try AttachmentRecord($0) }
    guard !records.isEmpty else { return [] }
    let rows = try Row.fetchCursor(
      db,
      sql: """
        SELECT attachment, address FROM address
        WHERE attachment IN (SELECT id FROM attachment WHERE \(condition)) ORDER BY attachment, position
        """, arguments: arguments)
    var addresses: [String: [IPAddress]] = [:]
    while let row = try rows.next() {
      guard let address = IPAddress(row["address"] as String) else { continue }
      addresses[row["attachment"], default: []].append(address)
    }
    let sockets = try vhosts(db, where: condition, arguments)
    for index in records.indices { records[index].vhost = sockets[records[index].id] }
    for index in records.indices { records[index].addresses = addresses[records[index].id] ?? [] }
    return records
  }

  package func insert(_ db: GRDB.Database) throws {
    try db.execute(
      sql: "INSERT INTO attachment (\(Self.columns)) VALUES (\(databaseQuestionMarks(count: 20)))",
      arguments: [
        id, containerID, interface, netns, network, hostInterface, mac.description, vmUUID, podName, podNamespace,
        podUID, origin.rawValue, isWanted, reason, created, tapQueues, state.rawValue, since, parent, vlan,
      ])
    try insertVhost(db)
    for (position, address) in addresses.enumerated() {
      try db.execute(
        sql: "INSERT INTO address (network, address, attachment, position) VALUES (?, ?, ?, ?)",
        arguments: [network, address.description, id, position])
    }
  }
}
