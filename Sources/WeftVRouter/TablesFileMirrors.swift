import WeftRing
import WeftWire

// Mirrors in TABLES.json.

extension TablesFileBuilder {
  mutating func readMirrors(_ file: TablesFileObject) throws(TablesFileError) {
    for node in try file.optional("mirrors")?.array() ?? [] { try readMirror(node) }
    var taken: [UInt32: String] = [:]
    for node in try file.optional("interface-mirrors")?.array() ?? [] { try readInterfaceMirror(node, &taken) }
  }

  /// A mirror that an entry refers to; 0 for none.
  func mirror(_ node: TablesFileNode) throws(TablesFileError) -> UInt32 {
    let id = try node.integer(0...MirrorConfiguration.maximum)
    guard id == 0 || mirrors[id] != nil else { throw node.fail("there is no mirror \(id) in $.mirrors") }
    return id
  }

  private mutating func readMirror(_ node: TablesFileNode) throws(TablesFileError) {
    let object = try node.object(keys: ["id", "interface", "nexthop", "vni", "truncate"])
    let idNode = try object.required("id")
    let id = try idNode.integer(1...MirrorConfiguration.maximum)
    try claim(id, in: &mirrors, node.path, at: idNode, "mirror \(id)")
    let destination: MirrorConfiguration.Destination
    if let interface = object.optional("interface") {
      try object.refuse(["nexthop", "vni"], "a mirror has either an interface, or a nexthop and a VNI")
      let number = try interface.integer(0...UInt32.max)
      guard let role = interfaces[number]?.role else {
        throw interface.fail("there is no interface \(number) in $.interfaces")
      }
      guard role != .fabric else {
        throw interface.fail("interface \(number) is a fabric interface; copies go there through a VXLAN tunnel")
      }
      destination = .interface(number)
    } else {
      let nexthopNode = try object.required("nexthop")
      let number = try nexthop(nexthopNode)
      guard case .tunnel(let tunnel)? = nexthops[number], tunnel.encapsulation == .vxlan else {
        throw nexthopNode.fail("nexthop \(number) is not a VXLAN tunnel, which carries whole frames")
      }
      destination = .tunnel(nexthop: number, vni: try object.required("vni").integer(Self.vniRange))
    }
    var mirror = MirrorConfiguration(id: id, destination: destination)
    if let truncate = object.optional("truncate") {
      mirror.truncation = try truncate.integer(0...65535)
      guard mirror.truncation == 0 || mirror.truncation >= MirrorConfiguration.minimumTruncation else {
        throw truncate.fail("it is 0 for whole frames, or \(MirrorConfiguration.minimumTruncation) bytes and more")
      }
    }
    add(.setMirror(mirror), node)
  }

  private mutating func readInterfaceMirror(
    _ node: TablesFileNode, _ taken: inout [UInt32: String]
  ) throws(TablesFileError) {
    let object = try node.object(keys: ["interface", "ingress", "egress"])
    let interfaceNode = try object.required("interface")
    let interface = try interfaceNode.integer(0...UInt32.max)
    guard interfaces[interface] != nil else {
      throw interfaceNode.fail("there is no interface \(interface) in $.interfaces")
    }
    try claim(interface, in: &taken, node.path, at: interfaceNode, "interface \(interface)")
    let ingress = try object.optional("ingress").map { node throws(TablesFileError) in try mirror(node) } ?? 0
    let egress = try object.optional("egress").map { node throws(TablesFileError) in try mirror(node) } ?? 0
    guard ingress != 0 || egress != 0 else {
      throw node.fail("name a mirror with \"ingress\", \"egress\" or both")
    }
    add(
      .setInterfaceMirror(InterfaceMirrorConfiguration(interface: interface, ingress: ingress, egress: egress)), node)
  }
}
