import GRDB
import WeftAPI
import WeftRing

// Attachments of virtual machines by vhost-user.

extension AttachmentRecord {
  /// By attachment.
  static func vhosts(
    _ db: GRDB.Database, where condition: String, _ arguments: StatementArguments
  ) throws -> [String: VhostConfiguration] {
    let rows = try Row.fetchCursor(
      db,
      sql: """
        SELECT attachment, socket, front_end_listens FROM vhost
        WHERE attachment IN (SELECT id FROM attachment WHERE \(condition))
        """, arguments: arguments)
    var found: [String: VhostConfiguration] = [:]
    while let row = try rows.next() {
      found[row["attachment"]] = VhostConfiguration(
        socket: row["socket"], frontEndListens: row["front_end_listens"])
    }
    return found
  }

  func insertVhost(_ db: GRDB.Database) throws {
    guard let vhost else { return }
    if let owner = try String.fetchOne(
      db, sql: "SELECT attachment FROM vhost WHERE socket = ?", arguments: [vhost.socket])
    {
      throw APIError(.conflict, "socket \(vhost.socket) is attachment \(owner)'s; delete that first")
    }
    try db.execute(
      sql: "INSERT INTO vhost (attachment, socket, front_end_listens) VALUES (?, ?, ?)",
      arguments: [id, vhost.socket, vhost.frontEndListens])
  }
}

extension Port {
  /// Where its front end is; nil: it is an interface of the kernel's.
  public func vhost(_ machines: MachineSettings) throws(APIError) -> VhostConfiguration? {
    let mode = vhostuserMode ?? 0
    guard (0...1).contains(mode) else {
      throw APIError(.badRequest, "vhostuser-mode \(mode) is neither 0 (QEMU connects) nor 1 (QEMU listens)")
    }
    guard vhostuserSocket != nil || machines.isVhost && (type ?? 0) == 0 else { return nil }
    let vhost = VhostConfiguration(
      socket: vhostuserSocket ?? "\(machines.sockets)/uvh_vif_\(systemName)", frontEndListens: mode == 1)
    if let fault = vhost.fault { throw APIError(.badRequest, "vhostuser-socket \"\(vhost.socket.short)\": \(fault)") }
    return vhost
  }
}

/// How virtual machines' ports are opened that say nothing of it themselves.
public struct MachineSettings: Hashable, Sendable {
  /// As sockets of vhost-user; else as interfaces of the kernel's.
  public var isVhost = false
  /// The folder of the sockets, which are called uvh_vif_ and the port's system-name, as Tungsten Fabric does.
  public var sockets = "/run/vrouter"

  public init() {}

  init(_ node: ConfigurationNode) throws(ConfigurationError) {
    let mapping = try node.mapping(["port", "sockets"])
    if let port = mapping["port"] {
      let text = try port.text("a kind of port: packet or vhost-user")
      guard ["packet", "vhost-user"].contains(text) else {
        throw port.error("\"\(text)\" is not a kind of port of virtual machines: packet or vhost-user")
      }
      isVhost = text == "vhost-user"
    }
    if let folder = mapping["sockets"] {
      guard isVhost else { throw folder.error("is for ports of kind vhost-user; set port to vhost-user or remove it") }
      sockets = try folder.text("a folder")
      guard sockets.hasPrefix("/"), sockets.count > 1, !sockets.hasSuffix("/"), sockets.utf8.count <= 80 else {
        throw folder.error("\"\(sockets)\" is no absolute path of at most 80 bytes, without a \"/\" at its end")
      }
    }
  }
}
