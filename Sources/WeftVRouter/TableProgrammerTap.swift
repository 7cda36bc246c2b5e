import WeftRing

// What goes with ports of kind tap.

extension TableProgrammer {
  func checkTap(of new: InterfaceConfiguration) throws(Refusal) {
    guard new.port == .tap else {
      guard new.tap == TapConfiguration() else {
        throw Refusal(
          .outOfRange, "interface \(new.id) is of port kind \(new.port.name); queues and a namespace are for tap")
      }
      return
    }
    if let fault = new.tap.fault { throw Refusal(.outOfRange, "interface \(new.id): \(fault)") }
    guard new.tap.name.isEmpty || isDeviceName(new.tap.name) else {
      throw Refusal(
        .outOfRange,
        "\"\(new.tap.name)\", interface \(new.id) in its namespace, is no name of a device: 1 to 15 bytes, no '/', ':' "
          + "or space")
    }
  }
}
