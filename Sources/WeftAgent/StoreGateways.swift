import Foundation
import GRDB
import WeftAPI
import WeftWire

// Gateways that were posted (`POST /gateway`); those of the configuration are not kept.

extension Store {
  private struct Row: Codable {
    var interface: String
    var subnets: [String]
    var routes: [String]
  }

  private static let prefix = "gateway/"

  /// By network.
  func gateways() throws(APIError) -> [String: HostGateway] {
    try read("read gateways") { db in
      var gateways: [String: HostGateway] = [:]
      for row in try GRDB.Row.fetchAll(
        db, sql: "SELECT name, value FROM setting WHERE substr(name, 1, \(Self.prefix.utf8.count)) = ?",
        arguments: [Self.prefix])
      {
        let value: String = row["value"]
        let name: String = row["name"]
        guard let one = try? JSONDecoder().decode(Row.self, from: Data(value.utf8)) else { continue }
        gateways[String(name.dropFirst(Self.prefix.count))] = HostGateway(
          interface: one.interface, addresses: nil, subnets: one.subnets.compactMap { IPPrefix($0) },
          routes: one.routes.compactMap { IPPrefix($0) }, masquerade: false)
      }
      return gateways
    }
  }

  func setGateway(_ network: String, _ gateway: HostGateway?) throws(APIError) {
    let name = Self.prefix + network
    try write("note the gateway of \(network)") { db in
      let old = try String.fetchOne(db, sql: "SELECT value FROM setting WHERE name = ?", arguments: [name])
        .flatMap { try? JSONDecoder().decode(Row.self, from: Data($0.utf8)) }
      if let old, old.interface != gateway?.interface {
        // What the forwarder has of it goes at once; a number means one thing until a sweep.
        try release(HostGateways.identifiers(network, interface: old.interface), retire: true, db)
      }
      guard let gateway else {
        try db.execute(sql: "DELETE FROM setting WHERE name = ?", arguments: [name])
        return
      }
      let row = Row(
        interface: gateway.interface, subnets: (gateway.subnets ?? []).map(\.description),
        routes: (gateway.routes ?? []).map(\.description))
      let value = String(decoding: try JSONEncoder().encode(row), as: UTF8.self)
      try db.execute(sql: "INSERT OR REPLACE INTO setting (name, value) VALUES (?, ?)", arguments: [name, value])
    }
  }
}
