import WeftTables

/// A flow table behind a reference: calls that change it can stand inside `#expect`.
final class Flows {
  private var table: FlowTable
  private let seed: UInt64

  init(capacity: Int, seed: UInt64, ends: Int = 1024) throws {
    table = try FlowTable(capacity: capacity, seed: seed, ends: ends)
    self.seed = seed
  }

  var count: Int { table.count }
  var refused: UInt64 { table.refused }
  var evicted: UInt64 { table.evicted }
  var endsLost: UInt64 { table.endsLost }
  var timeouts: FlowTimeouts {
    get { table.timeouts }
    set { table.timeouts = newValue }
  }
  subscript(index: UInt32) -> FlowEntry { table[index] }

  func find(_ key: FlowKey) -> UInt32 { table.find(key, hash: key.hash(seed: seed)) }

  /// A flow without translation unless `reverse` is given.
  func insert(
    _ key: FlowKey, reverse: FlowKey? = nil, flags: FlowFlags = [], timeout: FlowTimeout? = nil,
    tcp: TCPState = .none, reference: UInt32 = FlowTable.noReference, now: UInt64
  ) -> FlowInsertion {
    table.insert(
      forward: key, forwardHash: key.hash(seed: seed), reverse: reverse ?? key.reversed, flags: flags, timeout: timeout,
      tcpState: tcp, reference: reference, now: now)
  }

  func track(_ index: UInt32, _ tcpFlags: UInt8, now: UInt64) -> Bool {
    table.track(index, tcpFlags: tcpFlags, now: now)
  }
  func count(_ index: UInt32, now: UInt64) { table.count(index, bytes: 100, packets: 1, nexthop: 3, now: now) }
  func markReplied(_ index: UInt32, now: UInt64) { table.markReplied(index, now: now) }
  func setPolicy(_ index: UInt32, isDenied: Bool, rule: UInt32, generation: UInt32, flags: FlowFlags = [], now: UInt64)
  {
    table.setPolicy(index, isDenied: isDenied, rule: rule, generation: generation, flags: flags, now: now)
  }
  @discardableResult func remove(_ index: UInt32, now: UInt64) -> Bool { table.remove(index, now: now) }
  @discardableResult func age(now: UInt64, limit: Int = .max) -> Bool { table.age(now: now, limit: limit) }
  func nextEnd() -> FlowEnd? { table.nextEnd() }
  func dump(cursor: Int = 0, limit: Int = .max, _ body: (FlowEntry) -> Void) -> Int {
    table.dump(cursor: cursor, limit: limit, body)
  }
}
