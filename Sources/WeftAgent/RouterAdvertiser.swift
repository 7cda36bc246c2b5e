import WeftWire

/// What the router says of itself to an interface with DHCP (RFC 4861 section 6.2).
package struct RouterAdvertiser {
  let binding: ServiceBinding

  package init(binding: ServiceBinding) { self.binding = binding }

  /// All nodes of the link, and their MAC address.
  private static let allNodes = IPAddress(high: 0xFF02_0000_0000_0000, low: 1)
  private static let allNodesMAC = MACAddress(bits: 0x3333_0000_0001)
  static let allRouters = IPAddress(high: 0xFF02_0000_0000_0000, low: 2)

  /// Nil: an interface without IPv6.
  package var advertisement: RouterAdvertisement? {
    guard !binding.v6.isEmpty else { return nil }
    let settings = binding.settings
    var message = RouterAdvertisement(source: .virtualRouter)
    message.isManaged = settings.mode == .stateful
    message.hasOther = settings.mode != .off
    message.lifetime = isDefault ? settings.routerLifetime : 0
    if binding.mtu >= 1280 { message.mtu = UInt32(binding.mtu) }
    for entry in binding.v6 {
      guard let prefix = IPPrefix(entry.address.address, length: entry.address.prefixLength) else { continue }
      // On the link: the forwarder answers for every address of the subnet that somebody has. Only one is the host's, so
      // hosts may make that themselves and no other.
      message.prefixes.append(
        .init(
          prefix, isOnLink: true, isAutonomous: settings.slaac && isOwnMade(entry.address.address, prefix),
          valid: 2_592_000, preferred: 604_800))
    }
    for route in binding.routes where !route.destination.isV4 && route.destination.length > 0 {
      guard binding.v6.contains(where: { $0.gateway == route.gateway }) else { continue }
      message.routes.append((route.destination, UInt32(settings.routerLifetime)))
    }
    message.nameServers = Array(binding.dns.filter { !$0.isV4 }.prefix(8))
    message.search = settings.search.isEmpty ? [settings.domain].compactMap { $0 } : settings.search
    message.nameLifetime = UInt32(settings.interval) * 3
    return message
  }

  private var isDefault: Bool {
    binding.routes.contains { route in
      !route.destination.isV4 && route.destination.length == 0
        && binding.v6.contains { $0.gateway == route.gateway }
    }
  }

  /// The address that the interface makes of the prefix and its MAC address (RFC 4291 appendix A).
  private func isOwnMade(_ address: IPAddress, _ prefix: IPPrefix) -> Bool {
    prefix.length == 64
      && address == IPAddress(high: prefix.address.high, low: NeighborDiscovery.linkLocal(mac: binding.mac.bits).low)
  }

  /// To all nodes of the link, or to who has asked. Nil: as `advertisement`.
  func frame(to destination: IPAddress? = nil) -> HostFrame? {
    guard let advertisement else { return nil }
    return HostFrame(
      sourceMAC: .virtualRouter, destinationMAC: destination == nil ? Self.allNodesMAC : binding.mac,
      source: ServiceBinding.routerLinkLocal, destination: destination ?? Self.allNodes, hops: 255,
      payload: .icmpv6(advertisement.octets))
  }

  func answer(_ frame: HostFrame, _ message: [UInt8]) -> ServiceOutcome {
    guard frame.sourceMAC == binding.mac else {
      return .refused("router solicitation from \(frame.sourceMAC); the interface's MAC address is \(binding.mac)")
    }
    do throws(MessageFault) {
      _ = try RouterSolicitation(reading: message, source: frame.source, hopLimit: frame.hops)
    } catch { return .refused("router solicitation: \(error)") }
    guard let answer = self.frame(to: frame.source.isUnspecified ? nil : frame.source) else {
      return .refused("router solicitation: the interface has no IPv6 address")
    }
    return .answer(answer, what: "router-advertisement")
  }
}

/// When interfaces are told next without having asked: by second, so that many cost no more than those that are due.
package struct AdvertisementSchedule {
  private struct Entry {
    var second: UInt64
    /// Of the first few, which come sooner (RFC 4861 section 6.2.4).
    var initial: Int
    var interval: UInt64
  }

  private var entries: [UInt32: Entry] = [:]
  private var due: [UInt64: Set<UInt32>] = [:]
  private var last: UInt64

  package init(now: UInt64) { last = now }

  /// An interface that has just come, or whose announcement has changed. `now` is in seconds.
  package mutating func add(_ interface: UInt32, interval: UInt64, now: UInt64, random: (ClosedRange<UInt64>) -> UInt64)
  {
    remove(interface)
    put(interface, Entry(second: now + random(1...min(4, interval)), initial: 3, interval: interval))
  }

  package mutating func remove(_ interface: UInt32) {
    guard let entry = entries.removeValue(forKey: interface) else { return }
    due[entry.second]?.remove(interface)
    if due[entry.second]?.isEmpty == true { due[entry.second] = nil }
  }

  private mutating func put(_ interface: UInt32, _ entry: Entry) {
    var entry = entry
    entry.second = max(entry.second, last + 1)
    entries[interface] = entry
    due[entry.second, default: []].insert(interface)
  }

  /// Those whose time has come; they have their next one.
  package mutating func take(now: UInt64, random: (ClosedRange<UInt64>) -> UInt64) -> [UInt32] {
    var taken: [UInt32] = []
    while last < now {
      // After a pause of the process: no second is gone through for nothing.
      if due.isEmpty { last = now }
      guard last < now else { break }
      last += 1
      for interface in due.removeValue(forKey: last) ?? [] {
        taken.append(interface)
        guard var entry = entries[interface] else { continue }
        entry.initial = max(0, entry.initial - 1)
        let most = entry.initial > 0 ? min(16, entry.interval) : entry.interval
        // Section 6.2.1: at least a third of the interval, and three seconds.
        entry.second = now + random(min(most, max(3, most / 3))...most)
        entries[interface] = nil
        put(interface, entry)
      }
    }
    return taken.sorted()
  }
}
