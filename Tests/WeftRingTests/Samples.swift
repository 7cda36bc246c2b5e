import WeftRing
import WeftWire

/// Messages of every kind, with the fields at both ends of their ranges.
enum Samples {
  static let addresses = [
    IPAddress("0.0.0.0")!, IPAddress("192.0.2.1")!, IPAddress("255.255.255.255")!, IPAddress("::")!,
    IPAddress("2001:db8::1")!,
    IPAddress("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")!,
  ]
  static let prefixes = ["0.0.0.0/0", "10.0.0.0/8", "10.1.2.3/32", "::/0", "fd00::/64", "fd00::1/128"].map {
    IPPrefix($0)!
  }
  static let macs = [MACAddress.zero, .virtualRouter, .broadcast]
  static let numbers: [UInt32] = [0, 1, 0xF_FFFF, 0xFF_FFFF, .max]

  static let interfaces: [InterfaceConfiguration] =
    InterfaceRole.allCases.flatMap { role in
      PortKind.allCases.map { port in
        InterfaceConfiguration(id: 7, role: role, port: port, device: "eth0", mac: .virtualRouter, vrf: 3, mtu: 1500)
      }
    } + [
      InterfaceConfiguration(id: .max, role: .fabric, port: .packet, device: "", mac: .zero, vrf: .max, mtu: .max),
      InterfaceConfiguration(
        id: 0, role: .fabric, port: .packet, device: "fifteen-letters", mac: .broadcast, mtu: 0,
        addresses: Array(addresses.prefix(4))),
      InterfaceConfiguration(
        id: 1, role: .virtual, port: .tap, device: "täp-µ0", mac: .virtualRouter, addresses: Array(addresses.suffix(2)),
        flags: .all, tags: [1, 2, 3, 4, 5, 6, 7, .max]),
      InterfaceConfiguration(id: 2, role: .virtual, port: .packet, device: "e", mac: .virtualRouter, flags: []),
    ]
  static let vrfs = [
    VRFConfiguration(id: 0, name: ""), VRFConfiguration(id: .max, name: String(repeating: "n", count: 63)),
    VRFConfiguration(id: 1, name: "blau ✓"),
  ]
  static let nexthops: [NexthopConfiguration] =
    [
      NexthopConfiguration(id: 0, action: .discard), NexthopConfiguration(id: .max, action: .receive),
      NexthopConfiguration(id: 1, action: .vrfTranslate(vrf: .max)),
      NexthopConfiguration(id: 4, action: .ecmp([])),
      NexthopConfiguration(id: 5, action: .ecmp([NexthopMember(nexthop: 1)])),
      NexthopConfiguration(
        id: 6,
        action: .ecmp(
          Array(repeating: NexthopMember(nexthop: .max, label: 0xFF_FFFF, weight: .max), count: 64))),
      NexthopConfiguration(
        id: 7,
        action: .tunnel(
          TunnelConfiguration(
            encapsulation: .mplsOverGRE, interface: 0, source: addresses[1], destination: addresses[1],
            destinationMAC: .zero, fragments: true))),
    ] + macs.map { NexthopConfiguration(id: 2, action: .encap(interface: 9, destinationMAC: $0)) }
    + Encapsulation.allCases.flatMap { encapsulation in
      addresses.map {
        NexthopConfiguration(
          id: 3,
          action: .tunnel(
            TunnelConfiguration(
              encapsulation: encapsulation, interface: .max, source: $0, destination: addresses[1],
              destinationMAC: .broadcast, innerDestinationMAC: .zero)))
      }
    }
  static let labels = numbers.map { LabelConfiguration(label: $0, nexthop: ~$0) }
  static let vnis = numbers.map { VNIConfiguration(vni: $0, nexthop: ~$0) }
  static let routes = prefixes.flatMap { prefix in
    numbers.map { RouteConfiguration(vrf: $0, prefix: prefix, nexthop: ~$0, label: $0 ^ 0x5555) }
  }
  static let bridge = macs.flatMap { mac in
    numbers.map { BridgeConfiguration(vrf: $0, mac: mac, nexthop: ~$0, label: $0 ^ 0x5555) }
  }
  static let addressSets = [
    AddressSetConfiguration(id: 0, name: ""),
    AddressSetConfiguration(id: .max, name: String(repeating: "s", count: 63)),
  ]
  static let addressSetMembers = prefixes.flatMap { prefix in
    [true, false].map { AddressSetMember(set: .max, prefix: prefix, isExcluded: $0) }
  }
  static let rules =
    RuleDirection.allCases.flatMap { direction in
      RuleAction.allCases.map { RuleConfiguration(id: 1, priority: 0, direction: direction, action: $0) }
    } + [
      RuleConfiguration(
        id: .max, name: String(repeating: "r", count: 63), priority: .max, direction: .egress, action: .reject,
        tag: .max, vrf: .max, remoteSets: Array(1...8), remotePrefix: prefixes[5], localPrefix: prefixes[3], proto: 6,
        sourcePorts: Array(repeating: 0...65535, count: 4), destinationPorts: Array(repeating: 65535...65535, count: 8),
        icmpType: 255, icmpCode: 0, tcpFlagsMask: 255, tcpFlagsValue: 2, isLogged: true, mirror: .max, dscp: 63)
    ]
  static let flows = addresses.flatMap { address in
    [true, false].map { isForward in
      FlowRecord(
        worker: .max, vrf: 1, source: address, destination: addresses[4], proto: 255, sourcePort: .max,
        destinationPort: 1,
        isForward: isForward, nexthop: 0, packets: .max, bytes: .max - 1, ageMilliseconds: 1 << 40, idleMilliseconds: 0)
    }
  }

  static let commands: [Command] =
    [.barrier] + [0, 1, UInt64.max].flatMap { [Command.begin(generation: $0), .sweep(generation: $0)] }
    + interfaces.map(Command.setInterface) + vrfs.map(Command.setVRF) + nexthops.map(Command.setNexthop)
    + labels.map(Command.setLabel) + vnis.map(Command.setVNI) + routes.map(Command.setRoute)
    + bridge.map(Command.setBridge)
    + numbers.flatMap { number in
      [
        Command.removeInterface(id: number), .removeVRF(id: number), .removeNexthop(id: number),
        .removeLabel(label: number), .removeVNI(vni: number),
      ]
    } + addressSets.map(Command.setAddressSet) + addressSetMembers.map(Command.setAddressSetMember)
    + rules.map(Command.setRule) + numbers.flatMap { [.removeAddressSet(id: $0), .removeRule(id: $0)] }
    + prefixes.map { Command.removeAddressSetMember(set: 7, prefix: $0) }
    + prefixes.map { Command.removeRoute(vrf: .max, prefix: $0) } + macs.map { Command.removeBridge(vrf: 1, mac: $0) }
    + natCommands + mirrorCommands + traceCommands + captureCommands
    + TableName.allCases.map { Command.dump(table: $0, cursor: .max, limit: .max) }

  static let entries: [TableEntry] =
    interfaces.flatMap { interface in
      [
        TableEntry.interface(interface, InterfaceState(isUp: true, kernelIndex: .max)),
        .interface(interface, InterfaceState(isUp: false, kernelIndex: 0)),
      ]
    } + vrfs.map(TableEntry.vrf) + nexthops.map(TableEntry.nexthop) + labels.map(TableEntry.label)
    + vnis.map(TableEntry.vni) + routes.map(TableEntry.route) + bridge.map(TableEntry.bridge)
    + flows.map(TableEntry.flow)
    + natEntries + mirrorEntries
    + addressSets.map(TableEntry.addressSet) + addressSetMembers.map(TableEntry.addressSetMember)
    + rules.flatMap { [TableEntry.rule($0, hits: 0), .rule($0, hits: .max)] }
}
