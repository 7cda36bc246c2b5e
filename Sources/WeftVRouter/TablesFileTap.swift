import WeftRing

// What ports of kind tap have in TABLES.json.

extension TablesFileBuilder {
  static let tapKeys = ["queues", "netns", "netns-device"]

  func readTap(_ object: TablesFileObject, _ interface: inout InterfaceConfiguration) throws(TablesFileError) {
    guard interface.port == .tap else {
      return try object.refuse(Self.tapKeys, "only a port of kind tap has it; remove the key or set port to tap")
    }
    if let queues = object.optional("queues") {
      interface.tap.queues = UInt16(try queues.integer(0...UInt32(TapConfiguration.maximumQueues)))
    }
    if let path = object.optional("netns") {
      interface.tap.namespace = try path.text()
      guard !interface.tap.namespace.isEmpty, interface.tap.fault == nil else {
        throw path.fail(
          "a network namespace is an absolute path of at most \(TapConfiguration.maximumNamespaceBytes) bytes")
      }
    }
    if let name = object.optional("netns-device") {
      interface.tap.name = try name.text()
      guard Self.isDeviceName(interface.tap.name) else {
        throw name.fail("\"\(interface.tap.name)\" is not a device's name")
      }
    }
    if let fault = interface.tap.fault { throw object.node.fail(fault) }
  }
}
