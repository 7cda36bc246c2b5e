import WeftRing
import WeftTables
import WeftWire

// Interfaces of VLANs: tagged frames of another interface's port.

extension TableProgrammer {
  func checkVLAN(of new: InterfaceConfiguration) throws(Refusal) {
    guard let vlan = new.vlan else {
      guard new.port != .vlan else {
        throw Refusal(.outOfRange, "interface \(new.id) is of port kind vlan; say its parent and VLAN")
      }
      return
    }
    guard new.port == .vlan else {
      throw Refusal(.outOfRange, "interface \(new.id) has a VLAN, but is not of port kind vlan")
    }
    guard new.role != .monitoring else {
      throw Refusal(.outOfRange, "interface \(new.id): a monitoring interface has a port of its own")
    }
    guard VLANConfiguration.protocols.contains(vlan.proto) else {
      throw Refusal(.outOfRange, "interface \(new.id): the tag's protocol is none of 0x8100, 0x88a8, 0x9100")
    }
    for number in [vlan.outer, vlan.inner ?? 1] where !VLANConfiguration.identifiers.contains(number) {
      throw Refusal(.outOfRange, "interface \(new.id): VLAN \(number) is not within 1 to 4094")
    }
    guard vlan.parent != new.id, let parent = interfaces[vlan.parent]?.value.configuration else {
      throw Refusal(.notFound, "interface \(new.id): its parent \(vlan.parent) is not there; set it first")
    }
    guard parent.port != .vlan, parent.role != .monitoring else {
      throw Refusal(
        .conflict,
        "interface \(new.id): its parent \(vlan.parent) (\(parent.device)) takes no VLANs; two tags are one "
          + "interface with an outer and an inner VLAN")
    }
    guard new.role != .fabric || parent.role == .fabric else {
      throw Refusal(.conflict, "interface \(new.id) is fabric, its parent \(vlan.parent) (\(parent.device)) is not")
    }
    guard new.mtu <= parent.mtu else {
      throw Refusal(
        .outOfRange, "interface \(new.id): MTU \(new.mtu) is above \(parent.mtu) of its parent \(vlan.parent)")
    }
    let most = Self.largestMTU(of: vlan, on: parent)
    guard new.mtu <= most else {
      throw Refusal(
        .outOfRange,
        "interface \(new.id): MTU \(new.mtu) and \(vlan.inner == nil ? "its tag" : "its two tags") do not fit the MTU "
          + "\(parent.mtu) of its parent \(vlan.parent) (\(parent.device)): the kernel lets 4 bytes of tags go beyond it if "
          + "the first is of type 0x8100, else none. Set it to \(most) at most, or raise the parent's")
    }
    if let owner = tagged[vlan], owner != new.id {
      throw Refusal(.conflict, "interface \(owner) has that VLAN of interface \(vlan.parent) already")
    }
  }

  /// The bytes of IP packet that leave in a VLAN. To a device of the kernel a packet socket sends frames as long as its MTU
  /// and an Ethernet header, and a tag's 4 bytes longer where the frame's type is 0x8100
  /// (`packet_extra_vlan_len_allowed` in net/packet/af_packet.c); other kinds of ports do not look.
  private static func largestMTU(of vlan: VLANConfiguration, on parent: InterfaceConfiguration) -> UInt16 {
    guard parent.port == .packet else { return parent.mtu }
    let tags: UInt16 = vlan.inner == nil ? 4 : 8
    let beyond: UInt16 = vlan.proto == Ethernet.vlan ? 4 : 0
    return parent.mtu - min(parent.mtu, tags - beyond)
  }

  /// An interface's MTU as it is in force. A VLAN's is cut to what its parent lets through, whose MTU may have been lowered
  /// since, as the kernel's own VLAN devices do.
  func mtu(of id: UInt32) -> UInt16 {
    guard let interface = interfaces[id]?.value.configuration else { return 0 }
    guard let vlan = interface.vlan, let parent = interfaces[vlan.parent]?.value.configuration else {
      return interface.mtu
    }
    return min(interface.mtu, Self.largestMTU(of: vlan, on: parent))
  }

  /// The parent's MTU has changed: what leaves in its VLANs may be longer or shorter.
  func applyMTU(toSubinterfacesOf parent: UInt32) {
    for id in interfaces[parent]?.value.subinterfaces ?? [] {
      republish(id)
      republishNexthops(leavingBy: id)
    }
  }

  /// The frames with its tags are an interface's from now on.
  func place(_ new: InterfaceConfiguration, _ old: InterfaceConfiguration?) {
    guard let vlan = new.vlan, vlan != old?.vlan else { return }
    if let old { displace(old) }
    tagged[vlan] = new.id
    // As many places as there are interfaces.
    _ = memory.subinterfaces.set(
      parent: vlan.parent, proto: vlan.proto, outer: vlan.outer, inner: vlan.inner ?? 0, interface: new.id)
    interfaces.use(vlan.parent, 1)
    interfaces.update(vlan.parent) { $0.subinterfaces.insert(new.id) }
    republish(vlan.parent)
  }

  func displace(_ old: InterfaceConfiguration) {
    guard let vlan = old.vlan else { return }
    tagged[vlan] = nil
    memory.subinterfaces.remove(
      parent: vlan.parent, proto: vlan.proto, outer: vlan.outer, inner: vlan.inner ?? 0)
    interfaces.use(vlan.parent, -1)
    interfaces.update(vlan.parent) { $0.subinterfaces.remove(old.id) }
    republish(vlan.parent)
  }

  /// What the port can do has changed.
  func refreshSubinterfaces(of parent: UInt32, _ capabilities: PortCapabilities) {
    for id in interfaces[parent]?.value.subinterfaces ?? [] { refresh(interface: id, capabilities) }
  }

  func republish(_ id: UInt32) {
    guard let entry = interfaces[id]?.value else { return }
    publish(entry.configuration, entry.capabilities)
  }

  func apply(_ vlan: VLANConfiguration, to entry: inout InterfaceEntry) {
    let inner = vlan.inner.map { 0x8100_0000 | UInt64($0) }
    entry.parent = vlan.parent
    entry.tagBytes = inner == nil ? 4 : 8
    entry.tags = (UInt64(vlan.proto) << 16 | UInt64(vlan.outer)) << 32 | (inner ?? 0)
    entry.isPlain = false
  }
}
