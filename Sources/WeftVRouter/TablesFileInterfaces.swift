import WeftRing
import WeftWire

// Interfaces in TABLES.json.

extension TablesFileBuilder {
  static func isVLAN(_ node: TablesFileNode) -> Bool { node.text(at: "port") == PortKind.vlan.name }

  mutating func readInterface(
    _ node: TablesFileNode, _ paths: inout [UInt32: String], _ devices: inout [String: String]
  ) throws(TablesFileError) {
    let object = try node.object(
      keys: [
        "id", "role", "port", "device", "mac", "vrf", "mtu", "addresses", "flags", "tags", "mac-limit", "parent",
        "vlan",
        "fat-flows", "ingress-policer", "egress-policer", "qos-classifier", "qos-marks",
        "inner-vlan", "tpid",
      ] + Self.xdpKeys + Self.tapKeys + Self.vhostKeys)
    let idNode = try object.required("id")
    let id = try index(idNode, limit: limits.interfaces, "interfaces")
    try claim(id, in: &paths, node.path, at: idNode, "interface \(id)")
    let role: InterfaceRole = try object.required("role").choice { $0.name }
    let port: PortKind = try object.required("port").choice { $0.name }
    let deviceNode = try object.required("device")
    let device = try deviceNode.text()
    guard Self.isDeviceName(device) else {
      throw deviceNode.fail(
        "\"\(device)\" is not a device's name: 1 to 15 letters, digits, \"-\", \"_\", \".\" or \"@\", and neither \".\" "
          + "nor \"..\"")
    }
    try claim(device, in: &devices, node.path, at: deviceNode, "device \"\(device)\"")
    var interface = InterfaceConfiguration(
      id: id, role: role, port: port, device: device, mac: try object.required("mac").stationMAC())
    if let mtu = object.optional("mtu") { interface.mtu = UInt16(try mtu.integer(68...65535)) }
    try readFlags(object, &interface)
    try readFatFlows(object, &interface)
    try readQoS(object, &interface)
    try readVLAN(object, &interface)
    try readXDP(object, &interface)
    try readTap(object, &interface)
    try readVhost(object, &interface)
    if let limit = object.optional("mac-limit") {
      guard interface.flags.contains(.learning) else {
        throw limit.fail("it does not learn; add the flag \"learning\"")
      }
      interface.macLimit = try limit.integer(0...UInt32.max)
    }
    switch role {
    case .virtual, .host, .monitoring:
      try object.refuse(["addresses"], "only fabric interfaces have addresses; remove the key or set role to fabric")
      if role == .monitoring {
        try object.refuse(["vrf"], "monitoring interfaces belong to no VRF; remove the key")
      } else {
        interface.vrf = try vrf(object.required("vrf"))
      }
    case .fabric:
      try object.refuse(["vrf"], "fabric interfaces belong to no VRF; remove the key or set role to virtual")
      let list = try object.required("addresses")
      for address in try list.array() { interface.addresses.append(try address.hostAddress()) }
      guard (1...InterfaceConfiguration.maximumAddresses).contains(interface.addresses.count) else {
        throw list.fail("a fabric interface has 1 to \(InterfaceConfiguration.maximumAddresses) addresses")
      }
    }
    interfaces[id] = interface
    add(.setInterface(interface), node)
  }

  /// A kernel's name of an interface that is also a file's name and the left side of "PORT=FILE".
  static func isDeviceName(_ name: String) -> Bool {
    (1...15).contains(name.utf8.count) && name != "." && name != ".."
      && name.utf8.allSatisfy {
        (0x61...0x7A).contains($0 | 0x20) || (0x30...0x39).contains($0)
          || [UInt8(ascii: "-"), UInt8(ascii: "_"), UInt8(ascii: "."), UInt8(ascii: "@")].contains($0)
      }
  }

  private enum TagProtocol: UInt16, CaseIterable {
    case customer = 0x8100
    case service = 0x88A8
    case old = 0x9100

    var name: String { "0x" + String(rawValue, radix: 16) }
  }

  /// Which tagged frames of another interface's port are its own.
  private mutating func readVLAN(
    _ object: TablesFileObject, _ interface: inout InterfaceConfiguration
  ) throws(TablesFileError) {
    guard interface.port == .vlan else {
      return try object.refuse(
        ["parent", "vlan", "inner-vlan", "tpid"], "only a port of kind vlan has it; remove the key or set port to vlan")
    }
    let parentNode = try object.required("parent")
    let parent = try parentNode.integer(0...UInt32.max)
    guard let other = interfaces[parent] else {
      throw parentNode.fail("there is no interface \(parent) with a port of its own in $.interfaces")
    }
    guard other.port != .vlan, other.role != .monitoring else {
      throw parentNode.fail("interface \(parent) takes no VLANs: it is \(other.port == .vlan ? "one" : "monitoring")")
    }
    guard interface.role != .fabric || other.role == .fabric else {
      throw parentNode.fail("interface \(parent) is \(other.role.name); a fabric interface's VLANs are on a fabric one")
    }
    guard interface.mtu <= other.mtu else {
      throw object.node.fail("the MTU \(interface.mtu) is above \(other.mtu) of its parent \(parent)")
    }
    let range = UInt32(VLANConfiguration.identifiers.lowerBound)...UInt32(VLANConfiguration.identifiers.upperBound)
    let outerNode = try object.required("vlan")
    var vlan = VLANConfiguration(parent: parent, outer: UInt16(try outerNode.integer(range)))
    if let inner = object.optional("inner-vlan") {
      vlan.inner = UInt16(try inner.integer(range))
      vlan.proto = TagProtocol.service.rawValue
    }
    if let proto = object.optional("tpid") {
      let choice: TagProtocol = try proto.choice { $0.name }
      vlan.proto = choice.rawValue
    }
    if let other = vlans.updateValue(interface.id, forKey: vlan) {
      throw outerNode.fail("interface \(other) has that VLAN of interface \(parent) already")
    }
    interface.vlan = vlan
  }
}
