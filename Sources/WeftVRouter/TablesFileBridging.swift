import WeftRing
import WeftWire

// Bridging in TABLES.json: how a VRF bridges, groups, and whose MAC addresses IP addresses have.

extension TablesFileBuilder {
  static var bridgingKeys: [String] { ["flags", "ageing", "moves", "move-seconds", "mac-limit"] }

  func readBridging(_ object: TablesFileObject, _ vrf: inout VRFConfiguration) throws(TablesFileError) {
    for node in try object.optional("flags")?.array() ?? [] {
      let name = try node.text()
      guard let flag = VRFFlags.names.first(where: { $0.name == name })?.flag else {
        throw node.fail("\"\(name)\" is none of \(VRFFlags.names.map(\.name).joined(separator: ", "))")
      }
      guard !vrf.flags.contains(flag) else { throw node.fail("the flag stands here twice; remove one") }
      vrf.flags.insert(flag)
    }
    if let ageing = object.optional("ageing") { vrf.learning.ageing = try ageing.integer(10...1_000_000) }
    if let moves = object.optional("moves") { vrf.learning.moves = UInt16(try moves.integer(1...65535)) }
    if let seconds = object.optional("move-seconds") {
      vrf.learning.moveSeconds = UInt16(try seconds.integer(1...65535))
    }
    if let limit = object.optional("mac-limit") { vrf.learning.limit = try limit.integer(0...UInt32.max) }
  }

  /// A group's MAC address leads to copies, and no other does.
  func checkGroup(_ node: TablesFileNode, _ mac: MACAddress, _ nexthop: UInt32) throws(TablesFileError) {
    switch nexthops[nexthop] {
    case .discard: return
    case .multicast:
      guard mac.isGroup else { throw node.fail("\(mac) is one station's, nexthop \(nexthop) is multicast") }
    default:
      guard !mac.isGroup else {
        throw node.fail(
          "\(mac) is a group address, not the address of one station; a group leads to a multicast nexthop")
      }
    }
  }

  struct NeighborKey: Hashable {
    let vrf: UInt32
    let address: IPAddress
  }

  mutating func readNeighbor(
    _ node: TablesFileNode, _ taken: inout [NeighborKey: String]
  ) throws(TablesFileError) {
    let object = try node.object(keys: ["vrf", "address", "mac"])
    let vrf = try vrf(object.required("vrf"))
    let addressNode = try object.required("address")
    let address = try addressNode.hostAddress()
    try claim(
      NeighborKey(vrf: vrf, address: address), in: &taken, node.path, at: addressNode, "\(address) of VRF \(vrf)")
    let mac = try object.required("mac").stationMAC()
    add(.setNeighbor(NeighborConfiguration(vrf: vrf, address: address, mac: mac)), node)
  }
}
