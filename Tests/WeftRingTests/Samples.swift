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
      InterfaceConfiguration(
        id: 3, role: .virtual, port: .vlan, device: "e.1", mac: .virtualRouter,
        vlan: VLANConfiguration(parent: .max, outer: 4094), macLimit: 0),
      InterfaceConfiguration(
        id: 4, role: .fabric, port: .vlan, device: "e.1.2", mac: .virtualRouter,
        vlan: VLANConfiguration(parent: 0, proto: 0x88A8, outer: 1, inner: 4094), macLimit: .max),
    ]
    + fatFlows.map { list in
      var interface = InterfaceConfiguration(
        id: 3, role: .virtual, port: .packet, device: "fifteen-letters", mac: .virtualRouter,
        addresses: Array(addresses.prefix(4)), flags: .all, tags: [1, 2, 3, 4, 5, 6, 7, .max])
      interface.fatFlows = list
      interface.qos = InterfaceQoS(ingressPolicer: 0, egressPolicer: .max, classifier: 1, remark: .max)
      return interface
    }
    + xdp.map { settings in
      var interface = InterfaceConfiguration(id: 9, role: .fabric, port: .xdp, device: "eth0", mac: .virtualRouter)
      interface.xdp = settings
      return interface
    }
    + taps.map { settings in
      var interface = InterfaceConfiguration(
        id: 3, role: .virtual, port: .tap, device: "fifteen-letters", mac: .virtualRouter,
        addresses: Array(addresses.prefix(4)), flags: .all, tags: [1, 2, 3, 4, 5, 6, 7, .max],
        vlan: VLANConfiguration(parent: 0, proto: 0x88A8, outer: 1, inner: 4094))
      interface.fatFlows = fatFlows[2]
      interface.qos = InterfaceQoS(ingressPolicer: 0, egressPolicer: .max, classifier: 1, remark: .max)
      interface.tap = settings
      return interface
    }
    + vhosts.map { settings in
      var interface = InterfaceConfiguration(
        id: 4, role: .virtual, port: .vhostUser, device: "fifteen-letters", mac: .virtualRouter, flags: .all,
        tags: [1, 2, 3, 4, 5, 6, 7, .max])
      interface.fatFlows = fatFlows[2]
      interface.vhost = settings
      return interface
    }
  static let vhosts = [
    VhostConfiguration(socket: "/s", frontEndListens: true),
    VhostConfiguration(
      socket: "/" + String(repeating: "s", count: VhostConfiguration.maximumSocketBytes - 1), frontEndListens: false),
  ]
  static let taps = [
    TapConfiguration(queues: 0), TapConfiguration(queues: .max, namespace: "/n", name: "eth0"),
    // As long as they get.
    TapConfiguration(
      queues: 256, namespace: "/" + String(repeating: "n", count: TapConfiguration.maximumNamespaceBytes - 1),
      name: "fifteen-letters"),
  ]
  static let xdp =
    XDPConfiguration.Mode.allCases.flatMap { mode in
      XDPConfiguration.Copying.allCases.map { XDPConfiguration(mode: mode, copying: $0) }
    } + [XDPConfiguration(busyPoll: .max, busyPollBudget: 0), XDPConfiguration(busyPoll: 1, busyPollBudget: .max)]
  static let fatFlows = [
    [FatFlow(proto: 0)], [FatFlow(proto: .max, port: .max, local: .ignored, remote: .ignored)],
    (0..<16).map {
      FatFlow(
        proto: 17, port: $0, local: .aggregated(prefixes[5], length: 127),
        remote: .aggregated(prefixes[1], length: .max))
    },
  ]
  static let vrfs = [
    VRFConfiguration(id: 0, name: ""), VRFConfiguration(id: .max, name: String(repeating: "n", count: 63)),
    VRFConfiguration(id: 1, name: "blau ✓"),
    VRFConfiguration(
      id: 2, name: "b", flags: .all,
      learning: LearningConfiguration(ageing: .max, moves: .max, moveSeconds: .max, limit: .max)),
    VRFConfiguration(
      id: 3, name: "c", flags: .learning, learning: LearningConfiguration(ageing: 0, moves: 0, moveSeconds: 0, limit: 0)
    ),
  ]
  static let nexthops: [NexthopConfiguration] =
    [
      NexthopConfiguration(id: 0, action: .discard), NexthopConfiguration(id: .max, action: .receive),
      NexthopConfiguration(id: 1, action: .vrfTranslate(vrf: .max)),
      NexthopConfiguration(id: 4, action: .ecmp([])),
      NexthopConfiguration(id: 8, action: .receiveAt(interface: .max)),
      NexthopConfiguration(id: 9, action: .resolve(interface: 0)),
      NexthopConfiguration(id: 10, action: .l2Receive(vrf: .max)),
      NexthopConfiguration(id: 11, action: .l3Receive(vrf: 0)),
      NexthopConfiguration(id: 12, action: .multicast([])),
      NexthopConfiguration(
        id: 13,
        action: .multicast(Array(repeating: MulticastMember(nexthop: .max, label: 0xFF_FFFF, group: .max), count: 64))),
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
      pipe,
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
  static var pipe: NexthopConfiguration {
    var tunnel = TunnelConfiguration(
      encapsulation: .vxlan, interface: 0, source: addresses[1], destination: addresses[1], destinationMAC: .zero)
    tunnel.outerDSCP = 63
    return NexthopConfiguration(id: 8, action: .tunnel(tunnel))
  }
  static let labels = numbers.map { LabelConfiguration(label: $0, nexthop: ~$0) }
  static let vnis = numbers.map { VNIConfiguration(vni: $0, nexthop: ~$0) }
  static let routes = prefixes.flatMap { prefix in
    numbers.map { RouteConfiguration(vrf: $0, prefix: prefix, nexthop: ~$0, label: $0 ^ 0x5555) }
  }
  static let bridge = macs.flatMap { mac in
    numbers.map { BridgeConfiguration(vrf: $0, mac: mac, nexthop: ~$0, label: $0 ^ 0x5555) }
  }
  static let neighbors = addresses.flatMap { address in
    macs.map { NeighborConfiguration(vrf: .max, address: address, mac: $0) }
  }
  static let bridgeStates = [
    BridgeState(), BridgeState(isLearned: true, isDamped: true, idleSeconds: .max, moves: .max),
    BridgeState(isLearned: true, idleSeconds: 1, moves: 2),
  ]
  static let events: [Event] =
    StationChange.allCases.flatMap { change in bridge.map { Event.station(change, $0) } }
    + addresses.map { Event.resolve(interface: .max, vrf: 1, address: $0) } + flowReports.map(Event.flow)
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
        icmpType: 255, icmpCode: 0, tcpFlagsMask: 255, tcpFlagsValue: 2, isLogged: true, mirror: .max, dscp: 63,
        policer: .max)
    ]
  static let policers = [
    PolicerConfiguration(id: 0, rate: 0, burst: .max),
    PolicerConfiguration(
      id: .max, name: String(repeating: "p", count: 63), kind: .singleRateThreeColor, unit: .packets, rate: .max,
      burst: 1, peakRate: .max, excessBurst: .max, isColorAware: true, yellowDSCP: 63),
    PolicerConfiguration(id: 7, kind: .twoRateThreeColor, rate: 1, burst: 2, peakRate: 3, excessBurst: 4),
  ]
  static let classifiers = [
    ClassifierConfiguration(id: 0), ClassifierConfiguration(id: .max, name: "c", fallback: .max, dscp: [:], exp: [:]),
    ClassifierConfiguration(
      id: 1, name: String(repeating: "c", count: 63), fallback: 15,
      dscp: Dictionary(uniqueKeysWithValues: (0..<64).map { ($0, 255 - $0) }),
      pcp: Dictionary(uniqueKeysWithValues: (0..<8).map { ($0, $0) }), exp: [255: 255]),
  ]
  static let remarks = [
    RemarkConfiguration(id: 0), RemarkConfiguration(id: .max, name: "m", classes: [255: ClassMarks()]),
    RemarkConfiguration(
      id: 1, name: String(repeating: "m", count: 63),
      classes: Dictionary(
        uniqueKeysWithValues: (0..<16).map { ($0, ClassMarks(dscp: $0, outerDSCP: 255, exp: 7, pcp: 0)) })),
  ]
  static let policerStates = [UInt64.zero, .max].map { value in
    var state = PolicerState()
    state.conformingPackets = value
    state.conformingBytes = 1
    state.exceedingPackets = 2
    state.exceedingBytes = value
    state.violatingPackets = 4
    state.violatingBytes = 5
    return state
  }
  static let qosCommands: [Command] =
    policers.map(Command.setPolicer) + classifiers.map(Command.setClassifier) + remarks.map(Command.setRemark)
    + numbers.flatMap { [.removePolicer(id: $0), .removeClassifier(id: $0), .removeRemark(id: $0)] }
  static let qosEntries: [TableEntry] =
    policers.flatMap { policer in policerStates.map { TableEntry.policer(policer, $0) } }
    + classifiers.map(TableEntry.classifier) + remarks.map(TableEntry.remark)
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
    + natCommands + qosCommands + neighbors.map(Command.setNeighbor)
    + addresses.map { Command.removeNeighbor(vrf: .max, address: $0) }
    + mirrorCommands + traceCommands + captureCommands + flowExportCommands
    + TableName.allCases.map { Command.dump(table: $0, cursor: .max, limit: .max) }

  static let entries: [TableEntry] =
    interfaces.flatMap { interface in
      [
        TableEntry.interface(interface, InterfaceState(isUp: true, kernelIndex: .max)),
        .interface(interface, InterfaceState(isUp: false, kernelIndex: 0)),
      ]
    } + vrfs.map(TableEntry.vrf) + nexthops.map(TableEntry.nexthop) + labels.map(TableEntry.label)
    + vnis.map(TableEntry.vni) + routes.map(TableEntry.route)
    + bridgeStates.flatMap { state in bridge.map { TableEntry.bridge($0, state) } } + neighbors.map(TableEntry.neighbor)
    + flows.map(TableEntry.flow)
    + natEntries + qosEntries + mirrorEntries + flowExports.map(TableEntry.flowExport)
    + flowSettings.map(TableEntry.flowSettings)
    + addressSets.map(TableEntry.addressSet) + addressSetMembers.map(TableEntry.addressSetMember)
    + rules.flatMap { [TableEntry.rule($0, hits: 0), .rule($0, hits: .max)] }
}
