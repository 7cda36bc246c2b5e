import WeftRing

// What ports of kind vhost-user have in TABLES.json.

extension TablesFileBuilder {
  static let vhostKeys = ["socket", "vhostuser-mode"]

  func readVhost(_ object: TablesFileObject, _ interface: inout InterfaceConfiguration) throws(TablesFileError) {
    guard interface.port == .vhostUser else {
      return try object.refuse(
        Self.vhostKeys, "only a port of kind vhost-user has it; remove the key or set port to vhost-user")
    }
    guard let socket = object.optional("socket") else {
      throw object.node.fail("a port of kind vhost-user needs \"socket\", the path of its Unix socket")
    }
    interface.vhost.socket = try socket.text()
    if let fault = interface.vhost.fault { throw socket.fail(fault) }
    if let mode = object.optional("vhostuser-mode") {
      switch try mode.text() {
      case "client": interface.vhost.frontEndListens = false
      case "server": interface.vhost.frontEndListens = true
      default: throw mode.fail("the front end is the socket's \"client\" or its \"server\"")
      }
    }
  }
}
