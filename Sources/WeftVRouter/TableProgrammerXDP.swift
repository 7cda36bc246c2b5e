import WeftRing

// What goes with ports of kind af_xdp.

extension TableProgrammer {
  func checkXDP(of new: InterfaceConfiguration) throws(Refusal) {
    guard new.port == .xdp else {
      guard new.xdp == XDPConfiguration() else {
        throw Refusal(
          .outOfRange, "interface \(new.id) is of port kind \(new.port.name); settings of XDP are for af_xdp")
      }
      return
    }
    if let fault = new.xdp.fault { throw Refusal(.outOfRange, "interface \(new.id): \(fault)") }
  }
}
