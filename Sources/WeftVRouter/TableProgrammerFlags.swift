import WeftRing
import WeftTables

// Flags of interfaces: which may stand together, and what the packet path makes of them.

extension TableProgrammer {
  /// A flag without effect would be worse than none: who asks for protection that is not there has to hear it.
  func checkFlags(of interface: InterfaceConfiguration) throws(Refusal) {
    let flags = interface.flags
    if interface.role == .fabric {
      let foreign = flags.subtracting([.bridging, .routing, .clampMSS])
      guard foreign.isEmpty, flags.isSuperset(of: .usual) else {
        throw Refusal(
          .outOfRange,
          "interface \(interface.id) is fabric: it has the flags bridging and routing, perhaps clamp-mss, and no others")
      }
      return
    }
    guard !flags.intersection(.usual).isEmpty else {
      throw Refusal(.outOfRange, "interface \(interface.id) neither bridges nor routes; give it one of the two flags")
    }
    guard !flags.contains(.learning) else {
      throw Refusal(.outOfRange, "interface \(interface.id): this forwarder does not do learning; leave it out")
    }
  }

  func apply(_ flags: InterfaceFlags, to entry: inout InterfaceEntry) {
    if flags.contains(.antiSpoofing) { entry.conditions.insert(.guarded) }
    if !flags.contains(.bridging) { entry.conditions.insert(.notBridged) }
    if !flags.contains(.routing) { entry.conditions.insert(.notRouted) }
    entry.dropsNewFlows = flags.contains(.dropNewFlows)
    entry.isPlain = entry.isPlain && entry.conditions.isDisjoint(with: [.guarded, .notRouted])
  }
}
