import GRDB
import WeftAPI
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
  /// Why it does not forward though it is wanted.
  public var reason: String?
  /// Seconds since 1970.
  public var created: Int64
  /// The interface is a TAP interface of so many queues (0: one for each worker); nil: an end of a veth. It stays what
  /// it was made as, whatever the configuration says later.
  public var tapQueues: Int?

  public init(
    id: String, containerID: String, interface: String, netns: String, network: String, hostInterface: String,
    mac: MACAddress, addresses: [IPAddress], vmUUID: String, podName: String? = nil, podNamespace: String? = nil,
    podUID: String? = nil, origin: Origin, isWanted: Bool, reason: String? = nil, created: Int64,
    tapQueues: Int? = nil
  ) {
    self.tapQueues = tapQueues
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

  public var state: AttachmentState { !isWanted ? .reserved : reason == nil ? .active : .failed }
}

extension AttachmentRecord {
  static let columns = """
    id, container_id, interface, netns, network, host_interface, mac, vm_uuid, pod_name, pod_namespace, pod_uid, \
    origin, wanted, reason, created, tap_queues
    """

  /// Without its addresses.
  init(_ row: Row) throws {
    id = row["id"]
    containerID = row["container_id"]
    interface = row["interface"]
    netns = row["netns"]
    network = row["network"]
    hostInterface = row["host_interface"]
    guard let mac = MACAddress(row["mac"] as String), let origin = Origin(rawValue: row["origin"]) else {
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
    reason = row["reason"]
    created = row["created"]
    tapQueues = row["tap_queues"]
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
    for index in records.indices { records[index].addresses = addresses[records[index].id] ?? [] }
    return records
  }

  func insert(_ db: GRDB.Database) throws {
    try db.execute(
      sql: "INSERT INTO attachment (\(Self.columns)) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
      arguments: [
        id, containerID, interface, netns, network, hostInterface, mac.description, vmUUID, podName, podNamespace,
        podUID, origin.rawValue, isWanted, reason, created, tapQueues,
      ])
    for (position, address) in addresses.enumerated() {
      try db.execute(
        sql: "INSERT INTO address (network, address, attachment, position) VALUES (?, ?, ?, ?)",
        arguments: [network, address.description, id, position])
    }
  }
}
