import GRDB
import WeftAPI

extension Store {
  /// Nothing has been remembered in it yet.
  func isNew() throws(APIError) -> Bool {
    try read("look into the database") { db in
      try String.fetchOne(db, sql: "SELECT value FROM setting WHERE name = 'begun'") == nil
    }
  }

  /// Takes over what was found on the node, all or nothing; what contradicts something before it is left out. Returns what
  /// was, and why.
  func adopt(_ finds: Recovery.Finds) throws(APIError) -> [String] {
    try write("remember what is on the node") { db in
      var left: [String] = []
      var taken: Set<String> = []
      for record in finds.attachments {
        do {
          try db.inSavepoint {
            try record.insert(db)
            return .commit
          }
          try setBandwidth(record.id, finds.bandwidths[record.id], db)
          taken.insert(record.id)
        } catch  where Self.isConflict(error) {
          left.append(
            "\(record.containerID) \(record.interface) is left out, since another has its address, MAC address or "
              + "interface (\(error))")
          continue
        }
        memory.withLock { memory in
          for address in record.addresses { memory.change(record.network, address) { $0.take(address) } }
        }
      }
      for port in finds.ports where taken.contains(port.id) { try insert(port, time: port.time ?? "", db) }
      // Those of what is left out are retired with all that nothing stands for.
      for (identifier, number) in finds.numbers {
        let isLeft = identifier.name.hasPrefix("left/")
        try db.execute(
          sql: "INSERT OR REPLACE INTO identifier (kind, name, number, retired) VALUES (?, ?, ?, ?)",
          arguments: [identifier.kind.rawValue, identifier.name, number, isLeft])
        memory.withLock { memory in
          memory.numbers[identifier] = number
          memory.spaces[identifier.kind]?.take(number)
          if isLeft { memory.retired.insert(identifier) }
        }
      }
      try db.execute(sql: "INSERT OR REPLACE INTO setting (name, value) VALUES ('begun', '1')")
      return left
    }
  }

  private static func isConflict(_ error: any Error) -> Bool {
    (error as? DatabaseError)?.resultCode == .SQLITE_CONSTRAINT || (error as? APIError)?.code == .conflict
  }
}
