import FoundationEssentials
import GRDB
import WeftAPI

extension Store {
  /// Remembers a port as it was posted.
  func setPort(_ port: Port, time: String) async throws {
    do {
      try await database.write { try self.insert(port, time: time, $0) }
    } catch { throw Self.fault("remember port \(port.id)", error) }
  }

  /// Within a transaction.
  func insert(_ port: Port, time: String, _ db: GRDB.Database) throws {
    let body = String(decoding: try JSONEncoder().encode(port), as: UTF8.self)
    try db.execute(
      sql: "INSERT OR REPLACE INTO port (id, body, time) VALUES (?, ?, ?)", arguments: [port.id, body, time])
  }

  func port(_ id: String) async throws -> Port? {
    do {
      let row = try await database.read {
        try Row.fetchOne($0, sql: "SELECT body, time FROM port WHERE id = ?", arguments: [id]).map {
          (body: $0["body"] as String, time: $0["time"] as String)
        }
      }
      guard let row else { return nil }
      var port = try JSONDecoder().decode(Port.self, from: Data(row.body.utf8))
      port.author = "weft-agent"
      port.time = row.time
      return port
    } catch { throw Self.fault("read port \(id)", error) }
  }

  func portCount() async throws -> Int {
    do { return try await database.read { try Int.fetchOne($0, sql: "SELECT COUNT(*) FROM port") ?? 0 } } catch {
      throw Self.fault("count ports", error)
    }
  }
}
