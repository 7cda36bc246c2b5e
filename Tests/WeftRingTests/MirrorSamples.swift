import WeftRing

extension Samples {
  static let mirrors = numbers.flatMap { number in
    [
      MirrorConfiguration(id: number, destination: .interface(~number)),
      MirrorConfiguration(id: 1, destination: .tunnel(nexthop: number, vni: ~number), truncation: number),
    ]
  }
  static let interfaceMirrors = numbers.map {
    InterfaceMirrorConfiguration(interface: $0, ingress: ~$0, egress: $0 ^ 0x5555)
  }

  static let mirrorCommands: [Command] =
    mirrors.map(Command.setMirror) + interfaceMirrors.map(Command.setInterfaceMirror)
    + numbers.flatMap { [.removeMirror(id: $0), .removeInterfaceMirror(interface: $0)] }

  static let mirrorEntries: [TableEntry] =
    mirrors.flatMap {
      [.mirror($0, MirrorState()), .mirror($0, MirrorState(packets: .max, bytes: 1, shortened: .max - 1, lost: 7))]
    } + interfaceMirrors.map(TableEntry.interfaceMirror)
}
