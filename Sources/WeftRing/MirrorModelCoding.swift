// How the mirrors' entries lie in a slot. Writer and reader of each stand together.

extension SlotWriter {
  mutating func put(_ entry: MirrorConfiguration) {
    put(entry.id)
    put(entry.truncation)
    switch entry.destination {
    case .interface(let interface):
      put(UInt8(1))
      put(interface)
    case .tunnel(let nexthop, let vni):
      put(UInt8(2))
      put(nexthop)
      put(vni)
    }
  }

  mutating func put(_ state: MirrorState) {
    put(state.packets)
    put(state.bytes)
    put(state.shortened)
    put(state.lost)
  }

  mutating func put(_ entry: InterfaceMirrorConfiguration) {
    put(entry.interface)
    put(entry.ingress)
    put(entry.egress)
  }
}

extension SlotReader {
  mutating func mirror() throws(SlotFault) -> MirrorConfiguration {
    let id: UInt32 = try get("mirror id")
    let truncation: UInt32 = try get("truncation")
    switch try get("mirror destination", as: UInt8.self) {
    case 1:
      return MirrorConfiguration(id: id, destination: .interface(try get("interface")), truncation: truncation)
    case 2:
      let nexthop: UInt32 = try get("nexthop")
      return MirrorConfiguration(
        id: id, destination: .tunnel(nexthop: nexthop, vni: try get("vni")), truncation: truncation)
    default: throw SlotFault(what: "mirror destination")
    }
  }

  mutating func mirrorState() throws(SlotFault) -> MirrorState {
    MirrorState(
      packets: try get("packets"), bytes: try get("bytes"), shortened: try get("shortened"), lost: try get("lost"))
  }

  mutating func interfaceMirror() throws(SlotFault) -> InterfaceMirrorConfiguration {
    InterfaceMirrorConfiguration(
      interface: try get("interface"), ingress: try get("ingress"), egress: try get("egress"))
  }
}
