import GRDB
import WeftAPI

extension Store {
  /// The numbers of entries; those that have none get the lowest free ones. On the calling thread.
  public func numbers(_ wanted: [Identifier]) throws(APIError) -> [Identifier: UInt32] {
    let known = memory.withLock { memory in
      wanted.allSatisfy { memory.numbers[$0] != nil && !memory.retired.contains($0) }
        ? Dictionary(wanted.map { ($0, memory.numbers[$0]!) }, uniquingKeysWith: { first, _ in first }) : nil
    }
    if let known { return known }
    return try write("choose numbers for the forwarder's entries") { db in
      try memory.withLock { memory in
        let before = memory
        do {
          var result: [Identifier: UInt32] = [:]
          for identifier in wanted {
            if let number = memory.numbers[identifier] {
              result[identifier] = number
              guard memory.retired.remove(identifier) != nil else { continue }
              try db.execute(
                sql: "UPDATE identifier SET retired = 0 WHERE kind = ? AND name = ?",
                arguments: [identifier.kind.rawValue, identifier.name])
              continue
            }
            guard let number = memory.spaces[identifier.kind]?.free() else { continue }
            try db.execute(
              sql: "INSERT OR REPLACE INTO identifier (kind, name, number) VALUES (?, ?, ?)",
              arguments: [identifier.kind.rawValue, identifier.name, number])
            memory.spaces[identifier.kind]?.take(number)
            memory.numbers[identifier] = number
            result[identifier] = number
          }
          return result
        } catch {
          memory = before
          throw error
        }
      }
    }
  }

  /// Within a transaction.
  func release(_ identifiers: [Identifier], retire: Bool, _ db: GRDB.Database) throws {
    try memory.withLock { memory in
      for identifier in identifiers {
        guard let number = memory.numbers[identifier] else { continue }
        if retire {
          try db.execute(
            sql: "UPDATE identifier SET retired = 1 WHERE kind = ? AND name = ?",
            arguments: [identifier.kind.rawValue, identifier.name])
          memory.retired.insert(identifier)
        } else {
          try db.execute(
            sql: "DELETE FROM identifier WHERE kind = ? AND name = ?",
            arguments: [identifier.kind.rawValue, identifier.name])
          memory.numbers[identifier] = nil
          memory.retired.remove(identifier)
          memory.spaces[identifier.kind]?.release(number)
        }
      }
    }
  }

  /// Retires the numbers of everything that is neither among these nor an attachment's.
  func retireNumbers(except current: Set<Identifier>) throws(APIError) {
    let ids = Set(try attachmentsNow().flatMap { Self.identifiers(of: $0.id) })
    let stale = memory.withLock { memory in
      memory.numbers.keys.filter { !current.contains($0) && !ids.contains($0) && !memory.retired.contains($0) }
    }
    guard !stale.isEmpty else { return }
    try write("retire numbers") { try release(stale, retire: true, $0) }
  }

  /// Numbers that were retired before a sweep: after it they are free.
  func retiredNumbers() -> Set<Identifier> { memory.withLock { $0.retired } }

  func freeNumbers(_ identifiers: Set<Identifier>) throws(APIError) {
    guard !identifiers.isEmpty else { return }
    try write("free numbers") { db in
      // Whoever came back meanwhile keeps its number.
      let still = memory.withLock { $0.retired.intersection(identifiers) }
      try release(Array(still), retire: false, db)
    }
  }

  /// A generation for a replay: the time in nanoseconds since 1970, and always higher than the one before, whatever the
  /// clock does.
  func nextGeneration(now: UInt64) throws(APIError) -> UInt64 {
    try write("note the generation") { db in
      let last = try String.fetchOne(db, sql: "SELECT value FROM setting WHERE name = 'generation'").flatMap {
        UInt64($0)
      }
      let next = max(now, (last ?? 0) + 1)
      try db.execute(
        sql: "INSERT OR REPLACE INTO setting (name, value) VALUES ('generation', ?)", arguments: [String(next)])
      return next
    }
  }
}
