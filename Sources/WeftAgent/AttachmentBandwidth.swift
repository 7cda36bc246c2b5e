import GRDB
import WeftAPI
import WeftRing

// How fast a pod may receive and send: what is remembered of it, and the policers that it becomes.

extension Store {
  static func registerBandwidth(_ migrator: inout DatabaseMigrator) {
    migrator.registerMigration("bandwidth") { db in
      try db.execute(
        sql: """
          -- Bit/s and bits; 0: no limit, and the usual burst.
          CREATE TABLE bandwidth (
            attachment TEXT PRIMARY KEY REFERENCES attachment (id) ON DELETE CASCADE ON UPDATE CASCADE,
            ingress_rate INTEGER NOT NULL, ingress_burst INTEGER NOT NULL,
            egress_rate INTEGER NOT NULL, egress_burst INTEGER NOT NULL
          );
          """)
    }
  }

  /// Within a transaction.
  func setBandwidth(_ id: String, _ bandwidth: Bandwidth?, _ db: GRDB.Database) throws {
    guard let bandwidth, !bandwidth.isUnlimited else {
      return try db.execute(sql: "DELETE FROM bandwidth WHERE attachment = ?", arguments: [id])
    }
    func number(_ value: UInt64?) -> Int64 { Int64(clamping: value ?? 0) }
    try db.execute(
      sql: "INSERT OR REPLACE INTO bandwidth VALUES (?, ?, ?, ?, ?)",
      arguments: [
        id, number(bandwidth.ingressRate), number(bandwidth.ingressBurst), number(bandwidth.egressRate),
        number(bandwidth.egressBurst),
      ])
  }

  /// On the calling thread.
  func bandwidth(of id: String) throws(APIError) -> Bandwidth? {
    try read("read the bandwidth of attachment \(id)") { db in
      guard let row = try Row.fetchOne(db, sql: "SELECT * FROM bandwidth WHERE attachment = ?", arguments: [id]) else {
        return nil
      }
      func number(_ column: String) -> UInt64 { UInt64(clamping: row[column] as Int64) }
      return Bandwidth(
        ingressRate: number("ingress_rate"), ingressBurst: number("ingress_burst"), egressRate: number("egress_rate"),
        egressBurst: number("egress_burst"))
    }
  }
}

extension Planner {
  /// Bits: a super-frame must fit, or none would ever pass.
  private static let leastBurst: UInt64 = 128 << 13
  /// The forwarder's limit of a policer's rate, bit/s.
  private static let greatestRate: UInt64 = 1_000_000_000_000
  /// And of its burst, bytes.
  private static let greatestBurst: UInt64 = 1 << 32

  /// The policers of an attachment's interface. What the pod receives goes out by it.
  static func limit(_ state: inout ForwarderState, _ vif: inout InterfaceConfiguration, _ bandwidth: Bandwidth) {
    vif.qos.egressPolicer = policer(
      &state, 2 * vif.id, "\(vif.device) to", bandwidth.ingressRate, bandwidth.ingressBurst)
    vif.qos.ingressPolicer = policer(
      &state, 2 * vif.id + 1, "\(vif.device) from", bandwidth.egressRate, bandwidth.egressBurst)
  }

  /// Nil: no limit. Of a burst no more than a second's counts: container runtimes send 4 Gbit where nobody asked for one.
  private static func policer(
    _ state: inout ForwarderState, _ id: UInt32, _ name: String, _ rate: UInt64?, _ burst: UInt64?
  ) -> UInt32? {
    guard let rate, rate > 0 else { return nil }
    let rateUsed = min(rate, greatestRate)
    let wanted = burst.flatMap { $0 == 0 ? nil : $0 } ?? rateUsed / 4
    let bits = max(leastBurst, min(wanted, rateUsed))
    state.set(PolicerConfiguration(id: id, name: name, rate: rateUsed, burst: min(bits / 8, greatestBurst)))
    return id
  }
}
