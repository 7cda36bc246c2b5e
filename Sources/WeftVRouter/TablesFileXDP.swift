import WeftRing

// What ports of kind af_xdp have in TABLES.json.

extension TablesFileBuilder {
  static let xdpKeys = ["xdp-mode", "xdp-copy", "busy-poll", "busy-poll-budget"]

  func readXDP(_ object: TablesFileObject, _ interface: inout InterfaceConfiguration) throws(TablesFileError) {
    guard interface.port == .xdp else {
      return try object.refuse(
        Self.xdpKeys, "only a port of kind af_xdp has it; remove the key or set port to af_xdp")
    }
    if let mode = object.optional("xdp-mode") { interface.xdp.mode = try mode.choice { $0.name } }
    if let copying = object.optional("xdp-copy") { interface.xdp.copying = try copying.choice { $0.name } }
    if let time = object.optional("busy-poll") {
      interface.xdp.busyPoll = UInt16(try time.integer(0...UInt32(XDPConfiguration.maximumBusyPoll)))
    }
    if let budget = object.optional("busy-poll-budget") {
      let range = XDPConfiguration.budgets
      interface.xdp.busyPollBudget = UInt16(
        try budget.integer(UInt32(range.lowerBound)...UInt32(range.upperBound)))
    }
    if let fault = interface.xdp.fault { throw object.node.fail(fault) }
  }
}
