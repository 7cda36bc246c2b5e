import WeftRing
import WeftTables
import WeftWire

// Tests/WeftVRouterTests has a link to this file: there the tables' writer is a module's.
#if canImport(WeftVRouter)
  import WeftVRouter
#endif

/// Devices that are always there.
final class RaceDevices: PortProvider {
  func open(_ interface: InterfaceConfiguration) throws(Refusal) -> PortCapabilities {
    PortCapabilities(takesVirtio: true, takesUDPSegmentation: true)
  }
  func start(_ id: UInt32) {}
  func close(_ id: UInt32) {}
  func state(_ id: UInt32) -> InterfaceState { InterfaceState(isUp: true, kernelIndex: id) }
  func isStale(_ interface: InterfaceConfiguration) -> Bool { false }
}

/// A node with three pods in one network, the world in another, and a tunnel, both families.
enum Topology {
  static let inside: UInt32 = 1
  static let outside: UInt32 = 2
  static let pods: [UInt32] = [1, 2, 3]
  static let world: UInt32 = 4
  static let fabricMAC: UInt64 = 0x0200_0000_00F0

  static func mac(_ interface: UInt32) -> MACAddress { MACAddress(bits: 0x0200_0000_0000 | UInt64(interface)) }
  static func address(_ interface: UInt32, _ isV4: Bool) -> IPAddress {
    interface == world
      ? isV4 ? IPAddress("198.51.100.9")! : IPAddress("2001:db8:100::9")!
      : isV4 ? IPAddress(v4: 0x0A01_0000 | interface) : IPAddress("fd01::\(interface)")!
  }
  static func service(_ isV4: Bool, _ port: UInt16) -> ServiceKey {
    ServiceKey(vrf: inside, address: serviceAddress(isV4), proto: IPProtocol.udp, port: port)
  }
  static func serviceAddress(_ isV4: Bool) -> IPAddress { isV4 ? IPAddress("10.96.0.1")! : IPAddress("fd96::1")! }

  static func tunnel(_ destination: UInt32) -> Command {
    .setNexthop(
      NexthopConfiguration(
        id: 10,
        action: .tunnel(
          TunnelConfiguration(
            encapsulation: .vxlan, interface: 0, source: IPAddress("192.0.2.1")!,
            destination: IPAddress(v4: 0xC000_0200 | destination), destinationMAC: MACAddress(bits: 0x0200_0000_00F2))))
    )
  }
  static func pool(_ id: UInt32, blocks: UInt16) -> Command {
    let first = id == 0 ? IPAddress("203.0.113.1")! : IPAddress("2001:db8:113::1")!
    return .setNATPool(
      NATPoolConfiguration(
        id: id, vrf: outside, first: first, last: first, firstPort: 1024, lastPort: 1023 + blocks * 64, blockPorts: 64))
  }
  static func pod(_ id: UInt32, mtu: UInt16 = 1500) -> Command {
    .setInterface(
      InterfaceConfiguration(
        id: id, role: .virtual, port: .packet, device: "pod\(id)", mac: mac(id),
        vrf: id == world ? outside : inside,
        mtu: mtu, flags: id == world ? .usual : [.usual, .policy], tags: [id]))
  }
  static func route(_ id: UInt32, _ isV4: Bool) -> Command {
    .setRoute(
      RouteConfiguration(
        vrf: id == world ? outside : inside, prefix: IPPrefix(host: address(id, isV4)), nexthop: id))
  }

  static func commands() -> [Command] {
    var commands: [Command] = [
      .setVRF(VRFConfiguration(id: inside, name: "inside")), .setVRF(VRFConfiguration(id: outside, name: "outside")),
      .setInterface(
        InterfaceConfiguration(
          id: 0, role: .fabric, port: .packet, device: "fab0", mac: MACAddress(bits: fabricMAC), mtu: 1600,
          addresses: [IPAddress("192.0.2.1")!])),
      tunnel(2),
      .setNexthop(NexthopConfiguration(id: 11, action: .vrfTranslate(vrf: inside))),
      .setNexthop(NexthopConfiguration(id: 12, action: .vrfTranslate(vrf: outside))),
      .setNexthop(NexthopConfiguration(id: 13, action: .receive)),
      .setVNI(VNIConfiguration(vni: 100, nexthop: 11)),
      .setRule(RuleConfiguration(id: 1, priority: 900, direction: .egress, action: .allow)),
      .setRule(RuleConfiguration(id: 2, priority: 900, direction: .ingress, action: .allow)),
    ]
    for id in pods + [world] {
      commands.append(pod(id))
      commands.append(.setNexthop(NexthopConfiguration(id: id, action: .encap(interface: id, destinationMAC: mac(id)))))
      for isV4 in [true, false] { commands.append(route(id, isV4)) }
    }
    for (number, isV4) in [true, false].enumerated() {
      let id = UInt32(number)
      commands += [
        pool(id, blocks: 200),
        .setSourceNAT(
          SourceNATConfiguration(
            id: id, priority: 1, vrf: inside, source: IPPrefix(isV4 ? "10.0.0.0/8" : "fd00::/8")!, egress: outside,
            pool: id)),
        .setRoute(
          RouteConfiguration(
            vrf: inside, prefix: IPPrefix(isV4 ? "198.51.100.0/24" : "2001:db8:100::/64")!, nexthop: 12)),
        .setRoute(
          RouteConfiguration(
            vrf: inside, prefix: IPPrefix(isV4 ? "10.2.0.0/16" : "fd02::/64")!, nexthop: 10, label: 100)),
        .setRoute(
          RouteConfiguration(
            vrf: inside, prefix: IPPrefix(isV4 ? "10.1.0.254/32" : "fd01::fe/128")!, nexthop: 13)),
      ]
      for (port, affinity) in [(80, 0), (81, 3600)] as [(UInt16, UInt32)] {
        commands.append(.setService(ServiceConfiguration(key: service(isV4, port), affinitySeconds: affinity)))
        for backend in [2, 3] as [UInt32] {
          commands.append(
            .setBackend(
              BackendConfiguration(
                service: service(isV4, port), address: address(backend, isV4), port: 8080, vrf: inside)))
        }
      }
    }
    return commands
  }
}
