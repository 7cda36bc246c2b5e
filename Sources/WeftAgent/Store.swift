import Foundation
import GRDB
import Glibc
import Synchronization
import WeftAPI
import WeftWire

/// What the agent remembers: attachments with their addresses, ports, and the numbers of entries in the forwarder.
/// An SQLite file; everything of one request is in it or nothing is. May be used from any thread.
public final class Store: Sendable {
  public let configuration: AgentConfiguration
  package let database: DatabasePool
  /// Held for as long as the store lives: one agent a database.
  private let lock: FileLock
  let memory: Mutex<Memory>
  /// What was found instead of a database that can be read, for people; nil: all was well.
  let damage: String?

  /// What is kept in memory beside the file, to find free addresses and numbers fast.
  struct Memory {
    /// By network, one for each subnet.
    var pools: [String: [AddressPool]] = [:]
    var numbers: [Identifier: UInt32] = [:]
    var spaces: [IdentifierKind: NumberSpace] = [:]
    /// Numbers whose entries may still be in the forwarder.
    var retired: Set<Identifier> = []
  }

  /// Opens the configuration's database, made if it is not there, and brings it up to date.
  public init(_ configuration: AgentConfiguration) throws(APIError) {
    self.configuration = configuration
    let path = configuration.database
    let folder = (path as NSString).deletingLastPathComponent
    do {
      try FileManager.default.createDirectory(
        atPath: folder, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o755])
    } catch { throw APIError(.database, "cannot make the folder \(folder) of the database: \(error)") }
    lock = try FileLock(path + ".lock", for: path)
    var damage: String?
    do {
      do { database = try Self.open(path) } catch let error as DatabaseError where Self.isDamage(error) {
        // What it held is found again on the node as far as may be (`Recovery`); the file is kept for whoever wants to look.
        let aside = "\(path).damaged-\(WallClock.nanoseconds() / 1_000_000_000)"
        for ending in ["", "-wal", "-shm"] { rename(path + ending, aside + ending) }
        damage = "the database \(path) cannot be read (\(error)); it has been moved to \(aside)"
        database = try Self.open(path)
      }
      let unknown = try database.read { try Schema.migrator.hasBeenSuperseded($0) }
      guard !unknown else {
        throw APIError(.database, "the database \(path) was made by a newer weft-agent; use that, or another database")
      }
      try database.write { try Self.settle($0) }
      memory = Mutex(try database.read { try Self.load($0, configuration) })
    } catch let error as APIError { throw error } catch {
      throw APIError(.database, "cannot use the database \(path): \(error)")
    }
    self.damage = damage
  }

  private static func open(_ path: String) throws -> DatabasePool {
    var settings = Configuration()
    settings.label = "agent"
    settings.busyMode = .timeout(5)
    settings.maximumReaderCount = 2
    // After a power cut the last moments may be missing; the containers are gone then as well.
    settings.prepareDatabase { try $0.execute(sql: "PRAGMA synchronous = NORMAL") }
    let created = !FileManager.default.fileExists(atPath: path)
    let database = try DatabasePool(path: path, configuration: settings)
    if created { _ = chmod(path, 0o600) }
    let complaint = try database.read { try String.fetchOne($0, sql: "PRAGMA quick_check(1)") }
    guard complaint == "ok" else { throw DatabaseError(resultCode: .SQLITE_CORRUPT, message: complaint) }
    try Schema.migrator.migrate(database)
    return database
  }

  private static func isDamage(_ error: DatabaseError) -> Bool {
    error.resultCode == .SQLITE_CORRUPT || error.resultCode == .SQLITE_NOTADB
  }

  private static func load(_ db: GRDB.Database, _ configuration: AgentConfiguration) throws -> Memory {
    var memory = Memory()
    for network in configuration.networks {
      memory.pools[network.name] = try network.subnets.map { subnet in
        let last = try String.fetchOne(
          db, sql: "SELECT last FROM pool WHERE network = ? AND prefix = ?",
          arguments: [network.name, subnet.prefix.description])
        return AddressPool(
          subnet: subnet, elsewhere: configuration.addressesElsewhere(network, subnet),
          last: last.flatMap { IPAddress($0) })
      }
    }
    let addresses = try Row.fetchCursor(db, sql: "SELECT network, address FROM address")
    while let row = try addresses.next() {
      guard let address = IPAddress(row["address"] as String) else { continue }
      memory.change(row["network"], address) { $0.take(address) }
    }
    for kind in IdentifierKind.allCases { memory.spaces[kind] = NumberSpace(first: kind.first) }
    let numbers = try Row.fetchCursor(db, sql: "SELECT kind, name, number, retired FROM identifier")
    while let row = try numbers.next() {
      guard let kind = IdentifierKind(rawValue: row["kind"]) else { continue }
      let identifier = Identifier(kind, row["name"])
      memory.numbers[identifier] = row["number"]
      memory.spaces[kind]?.take(row["number"])
      if row["retired"] { memory.retired.insert(identifier) }
    }
    return memory
  }

  /// Runs a change as one transaction, on the calling thread.
  func write<T>(_ what: String, _ body: (GRDB.Database) throws -> T) throws(APIError) -> T {
    do { return try database.write(body) } catch { throw Self.fault(what, error) }
  }

  func read<T>(_ what: String, _ body: (GRDB.Database) throws -> T) throws(APIError) -> T {
    do { return try database.read(body) } catch { throw Self.fault(what, error) }
  }

  static func fault(_ what: String, _ error: any Error) -> APIError {
    error as? APIError ?? APIError(.database, "cannot \(what): \(error)")
  }

  /// How full the pools are.
  public func pools() -> [AgentStatus.Pool] {
    memory.withLock { memory in
      configuration.networks.flatMap { network in
        (memory.pools[network.name] ?? []).map { pool in
          AgentStatus.Pool(
            network: network.name, prefix: pool.subnet.prefix.description, range: pool.subnet.range.description,
            used: pool.usedCount, capacity: pool.capacity)
        }
      }
    }
  }
}

extension Store.Memory {
  mutating func change(_ network: String, _ address: IPAddress, _ body: (inout AddressPool) -> Void) {
    guard let index = pools[network]?.firstIndex(where: { $0.subnet.prefix.contains(address) }) else { return }
    body(&pools[network]![index])
  }
}

/// A file that one process at a time holds locked.
private final class FileLock: Sendable {
  private let descriptor: Int32

  init(_ path: String, for database: String) throws(APIError) {
    let descriptor = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
    guard descriptor >= 0 else {
      throw APIError(.database, "cannot open \(path): \(String(cString: strerror(errno)))")
    }
    guard flock(descriptor, LOCK_EX | LOCK_NB) == 0 else {
      close(descriptor)
      throw APIError(
        .database, "the database \(database) is in use by another weft-agent; stop that one, or give this one its own")
    }
    self.descriptor = descriptor
  }

  deinit { close(descriptor) }
}
