import Glibc
import Logging
import WeftNetlink
import WeftRing
import WeftWire

/// Finds out how peers are reached, through the kernel's routes and neighbours, and keeps that up to date. All calls
/// block for as long as the kernel takes, and come from one thread at a time.
final class UnderlayWatcher: @unchecked Sendable {
  private let configuration: AgentConfiguration
  private let netlink: Netlink
  private let monitor: NetlinkMonitor
  private let logger: Logger
  private var probes: [IPAddress: Probe] = [:]
  private var known: [IPAddress: MACAddress] = [:]
  private var dirty = true

  /// When to ask for a next hop again.
  private struct Probe {
    var due: UInt64
    var failures = 0
  }

  /// Entries that the kernel holds go stale; asking keeps a tunnel that only receives resolved.
  private static let refresh: UInt64 = 15_000_000_000
  /// RTN_UNICAST of linux/rtnetlink.h.
  private static let unicast: UInt8 = 1

  init(
    _ configuration: AgentConfiguration, netlink: Netlink, monitor: NetlinkMonitor, logger: Logger
  ) {
    self.configuration = configuration
    self.netlink = netlink
    self.monitor = monitor
    self.logger = logger
  }

  static func now() -> UInt64 {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
  }

  /// Makes a waiting `next` return. From any thread.
  func wake() { monitor.wake() }

  /// What is known after having asked for every next hop and waited a little for the answers: a replay after a restart
  /// shall not declare a peer unresolved that answers within milliseconds.
  func first(waitMilliseconds: Int) throws(NetlinkError) -> Underlay {
    let end = Self.now() + UInt64(waitMilliseconds) * 1_000_000
    while true {
      dirty = true
      let underlay = try look()
      let open = underlay.peers.values.contains { $0.source != nil && $0.mac.isZero }
      if !open || Self.now() >= end { return underlay }
      usleep(5_000)
    }
  }

  /// Waits for a change, up to a time; returns links that changed, and the underlay if that may have.
  func next(timeoutMilliseconds: Int) throws(NetlinkError) -> (links: [Link], underlay: Underlay?) {
    let due = probes.values.map(\.due).min() ?? .max
    let now = Self.now()
    let wait = due <= now ? 0 : min(UInt64(timeoutMilliseconds), (due - now) / 1_000_000 + 1)
    var links: [Link] = []
    for change in try monitor.nextChanges(timeoutMilliseconds: Int(wait)) {
      switch change {
      case .link(let link):
        links.append(link)
        if link.name == configuration.fabric.interface { dirty = true }
      case .linkRemoved(let link): if link.name == configuration.fabric.interface { dirty = true }
      case .neighbor(let neighbor), .neighborRemoved(let neighbor):
        if probes[neighbor.address] != nil { dirty = true }
      case .address, .addressRemoved, .route, .routeRemoved: dirty = true
      case .lost:
        dirty = true
        links += try netlink.links()
      }
    }
    if Self.now() >= due { dirty = true }
    return (links, dirty ? try look() : nil)
  }

  private func look() throws(NetlinkError) -> Underlay {
    dirty = false
    guard let link = try netlink.link(named: configuration.fabric.interface), let mac = link.mac else {
      probes = [:]
      return Underlay(
        peers: Dictionary(
          uniqueKeysWithValues: configuration.peers.map {
            ($0.name, Underlay.PeerPath(reason: "interface \(configuration.fabric.interface) does not exist"))
          }))
    }
    var own = try netlink.addresses(interface: link.index)
      .filter { $0.scope == 0 && !$0.isTentative && !$0.address.isLinkLocal }.map(\.address)
    if let configured = configuration.fabric.addresses { own = configured }
    let neighbors = Dictionary(
      try netlink.neighbors(interface: link.index).map { ($0.address, $0) }, uniquingKeysWith: { first, _ in first })
    var peers: [String: Underlay.PeerPath] = [:]
    var hops: Set<IPAddress> = []
    for peer in configuration.peers {
      var path = findPath(peer, link, own)
      if let hop = path.nextHop, hops.insert(hop).inserted { probe(hop, neighbors[hop], link) }
      if let hop = path.nextHop {
        path.mac = resolve(hop, neighbors[hop])
        if path.mac.isZero { path.reason = "\(hop) does not answer on \(link.name)" }
      }
      peers[peer.name] = path
    }
    for hop in probes.keys where !hops.contains(hop) {
      probes[hop] = nil
      known[hop] = nil
    }
    let sources = Set(peers.values.compactMap(\.source))
    let addresses = own.filter { sources.contains($0) } + own.filter { !sources.contains($0) }
    return Underlay(
      fabric: Underlay.FabricLink(index: link.index, mac: mac, mtu: Int(link.mtu), addresses: addresses), peers: peers)
  }

  private func findPath(_ peer: Peer, _ link: Link, _ own: [IPAddress]) -> Underlay.PeerPath {
    let route: KernelRoute
    do throws(NetlinkError) { route = try netlink.route(to: peer.address) } catch {
      return Underlay.PeerPath(reason: error.description)
    }
    guard route.interface == link.index, route.kind == Self.unicast else {
      return Underlay.PeerPath(
        reason: route.kind == Self.unicast
          ? "the kernel reaches \(peer.address) by another interface than \(link.name)"
          : "the kernel has no way to send to \(peer.address)")
    }
    let preferred = route.source.flatMap { own.contains($0) ? $0 : nil }
    guard let source = preferred ?? own.first(where: { $0.isV4 == peer.address.isV4 }) else {
      return Underlay.PeerPath(
        reason: "\(link.name) has no \(peer.address.isV4 ? "IPv4" : "IPv6") address for a tunnel to \(peer.address)")
    }
    return Underlay.PeerPath(source: source, nextHop: route.gateway ?? peer.address)
  }

  /// An entry that the kernel dropped or asks for anew still counts; one that failed does not.
  private func resolve(_ hop: IPAddress, _ neighbor: Neighbor?) -> MACAddress {
    if let neighbor {
      if neighbor.isUsable, let mac = neighbor.mac {
        known[hop] = mac
      } else if neighbor.state.contains(.failed) {
        known[hop] = nil
      }
    }
    return known[hop] ?? .zero
  }

  /// Has the kernel ask for a next hop: at first, when its entry is about to be forgotten, and with growing pauses (1 s
  /// to 30 s) while it does not answer.
  private func probe(_ hop: IPAddress, _ neighbor: Neighbor?, _ link: Link) {
    let now = Self.now()
    let failed = neighbor?.state.contains(.failed) == true
    var probe = probes[hop] ?? Probe(due: 0)
    let isFixed = neighbor?.state.isDisjoint(with: [.permanent, .noARP]) == false
    let isFresh = isFixed || neighbor?.state.contains(.reachable) == true
    if isFresh {
      probe.failures = 0
      probe.due = now + Self.refresh
    } else if probe.due <= now || neighbor == nil {
      probe.failures = failed ? min(probe.failures + 1, 6) : 0
      probe.due = now + (failed ? min(1_000_000_000 << UInt64(probe.failures - 1), 30_000_000_000) : Self.refresh)
      do throws(NetlinkError) {
        if link.isUp { try netlink.probe(neighbor: hop, interface: link.index) }
      } catch { logger.warning("\(error)") }
    } else if failed {
      probe.due = min(probe.due, now + (1_000_000_000 << UInt64(min(probe.failures, 5))))
    }
    probes[hop] = probe
  }
}
