import Foundation
import Glibc
import Synchronization
import WeftRing
import WeftWire

/// What a running forwarder holds, for an agent that has lost its database: a forwarder goes on with what it was told.
struct ForwarderRemains {
  struct Interface {
    var configuration: InterfaceConfiguration
    /// The name of its VRF, which is that of a network.
    var network: String?
    /// The nexthop that leads out of it.
    var nexthop: UInt32?
    /// Those that lead to that nexthop.
    var addresses: [IPAddress] = []
  }

  var vrfs: [UInt32: String] = [:]
  var nexthops: [NexthopConfiguration] = []
  /// By number.
  var interfaces: [UInt32: Interface] = [:]

  /// Nil: no forwarder answers there.
  static func read(socket: String) throws(RingError) -> ForwarderRemains? {
    let channel: RingClient
    do throws(RingError) { channel = try RingClient.connect(path: socket, role: .observer) } catch {
      if case .unreachable = error { return nil }
      throw error
    }
    // One that answers nothing ends the channel, not the agent's start.
    let watch = Watch(channel)
    defer { watch.end() }
    var remains = ForwarderRemains()
    for case .vrf(let vrf) in try channel.dump(.vrfs) { remains.vrfs[vrf.id] = vrf.name }
    for case .interface(let interface, _) in try channel.dump(.interfaces) {
      remains.interfaces[interface.id] = Interface(configuration: interface, network: remains.vrfs[interface.vrf])
    }
    var ways: [UInt32: UInt32] = [:]
    for case .nexthop(let nexthop) in try channel.dump(.nexthops) {
      remains.nexthops.append(nexthop)
      guard case .encap(let interface, _) = nexthop.action else { continue }
      ways[nexthop.id] = interface
      remains.interfaces[interface]?.nexthop = nexthop.id
    }
    for case .route(let route) in try channel.dump(.routes) {
      guard let interface = ways[route.nexthop], route.prefix.length == route.prefix.address.width else { continue }
      remains.interfaces[interface]?.addresses.append(route.prefix.address)
    }
    return remains
  }

  /// The first number of a nexthop that does this.
  func nexthop(_ action: NexthopConfiguration.Action) -> UInt32? { nexthops.first { $0.action == action }?.id }

  /// The tunnel to a peer, whichever way its packets take now.
  func tunnel(to peer: Peer, _ encapsulation: Encapsulation, innerMAC: MACAddress) -> UInt32? {
    nexthops.first {
      guard case .tunnel(let tunnel) = $0.action else { return false }
      return tunnel.destination == peer.address && tunnel.encapsulation == encapsulation
        && tunnel.innerDestinationMAC == innerMAC
    }?.id
  }
}

/// Closes a channel when it is not ended within 5 s.
private final class Watch: Sendable {
  private let channel: RingClient
  private let isOver = Atomic(false)

  init(_ channel: RingClient) {
    self.channel = channel
    Thread.detachNewThread { [self] in
      for _ in 0..<100 where !isOver.load(ordering: .acquiring) { usleep(50_000) }
      self.channel.close()
    }
  }

  func end() {
    isOver.store(true, ordering: .releasing)
    channel.close()
  }
}
