import WeftRing
import WeftTables

// Flags of interfaces: which may stand together, and what the packet path makes of them.

extension TableProgrammer {
  /// A flag without effect would be worse than none: who asks for protection that is not there has to hear it.
  func checkFlags(of interface: InterfaceConfiguration) throws(Refusal) {
    let flags = interface.flags
    switch interface.role {
    case .fabric:
      let foreign = flags.subtracting([.bridging, .routing, .clampMSS])
      guard foreign.isEmpty, flags.isSuperset(of: .usual) else {
        throw Refusal(
          .outOfRange,
          "interface \(interface.id) is fabric: it has the flags bridging and routing, perhaps clamp-mss, and no others"
        )
      }
    case .monitoring:
      guard flags.isSubset(of: .usual) else {
        throw Refusal(
          .outOfRange, "interface \(interface.id) is monitoring: only copies go out, flags mean nothing there")
      }
    case .virtual, .host:
      guard !flags.intersection(.usual).isEmpty else {
        throw Refusal(.outOfRange, "interface \(interface.id) neither bridges nor routes; give it one of the two flags")
      }
      guard !flags.contains(.dhcp) || interface.role == .virtual else {
        throw Refusal(
          .outOfRange, "interface \(interface.id) is \(interface.role.name): dhcp is for virtual interfaces")
      }
      guard !flags.contains(.learning) || flags.contains(.bridging) && !flags.contains(.antiSpoofing) else {
        throw Refusal(
          .conflict,
          "interface \(interface.id): learning goes with bridging, and not with anti-spoofing, which lets one MAC in")
      }
    }
  }

  func apply(_ interface: InterfaceConfiguration, to entry: inout InterfaceEntry) {
    let flags = interface.flags
    if flags.contains(.antiSpoofing) { entry.conditions.insert(.guarded) }
    if !flags.contains(.bridging) { entry.conditions.insert(.notBridged) }
    if !flags.contains(.routing) { entry.conditions.insert(.notRouted) }
    // Of a fabric interface: there is a VRF that learns what comes out of tunnels.
    if interface.role == .fabric ? learning.vrfs > 0 : flags.contains(.learning) { entry.conditions.insert(.learned) }
    if flags.contains(.dhcp) { entry.conditions.insert(.served) }
    if interface.role == .monitoring { entry.conditions = .refused }
    entry.dropsNewFlows = flags.contains(.dropNewFlows)
    entry.takesTags =
      interfaces[interface.id]?.value.subinterfaces.isEmpty == false || interface.qos.classifier != nil
    entry.isPlain =
      entry.isPlain && entry.conditions.isSubset(of: [.notBridged, .served]) && interface.role != .host
    if let vlan = interface.vlan { apply(vlan, to: &entry) }
  }
}
