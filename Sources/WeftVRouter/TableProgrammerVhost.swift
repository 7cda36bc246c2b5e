import WeftRing

// What goes with ports of kind vhost-user.

extension TableProgrammer {
  func checkVhost(of new: InterfaceConfiguration) throws(Refusal) {
    guard new.port == .vhostUser else {
      guard new.vhost == VhostConfiguration() else {
        throw Refusal(.outOfRange, "interface \(new.id) is of port kind \(new.port.name); a socket is for vhost-user")
      }
      return
    }
    if let fault = new.vhost.fault { throw Refusal(.outOfRange, "interface \(new.id): \(fault)") }
    guard new.role != .fabric else {
      throw Refusal(.outOfRange, "interface \(new.id) is towards the underlay, where no virtual machine is")
    }
  }
}
