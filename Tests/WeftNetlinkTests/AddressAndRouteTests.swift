import Glibc
import Testing
import WeftNetlink
import WeftWire

@Suite(.enabled(if: isRoot, needsRoot)) struct AddressAndRouteTests {
  private func address(_ text: String) -> IPAddress { IPAddress(text)! }
  private func prefix(_ text: String) -> IPPrefix { IPPrefix(text)! }

  @Test func addresses() throws {
    let pair = try Pair()
    let netlink = try pair.one.netlink()
    for (text, length) in [("10.1.1.2", 24), ("10.2.0.1", 32), ("10.3.0.0", 31), ("fd00:1::2", 64), ("fd00:2::2", 128)]
    {
      try netlink.addAddress(address(text), prefixLength: length, interface: pair.index1)
      let found = try netlink.addresses(interface: pair.index1).first { $0.address == address(text) }
      #expect(found?.prefixLength == length && found?.isTentative == false && found?.scope == 0, "\(text)")
      #expect { try netlink.addAddress(address(text), prefixLength: length, interface: pair.index1) } throws: {
        ($0 as? NetlinkError)?.code == EEXIST && "\($0)".contains("\(text)/\(length)")
      }
      try netlink.deleteAddress(address(text), prefixLength: length, interface: pair.index1)
      #expect(try !netlink.addresses().contains { $0.address == address(text) })
      #expect { try netlink.deleteAddress(address(text), prefixLength: length, interface: pair.index1) } throws: {
        ($0 as? NetlinkError)?.code == EADDRNOTAVAIL
      }
    }
    #expect { try netlink.addAddress(address("10.1.1.2"), prefixLength: 24, interface: 9999) } throws: {
      ($0 as? NetlinkError)?.code == ENODEV
    }
    #expect { try netlink.addAddress(address("10.1.1.2"), prefixLength: 33, interface: pair.index1) } throws: {
      ($0 as? NetlinkError)?.code == EINVAL
    }
  }

  @Test func routes() throws {
    let pair = try Pair()
    let netlink = try pair.one.netlink()
    try netlink.addAddress(address("10.1.1.2"), prefixLength: 24, interface: pair.index1)
    try netlink.addAddress(address("fd00:1::2"), prefixLength: 64, interface: pair.index1)
    let routes = [
      KernelRoute(destination: prefix("0.0.0.0/0"), gateway: address("10.1.1.1"), interface: pair.index1),
      KernelRoute(destination: prefix("::/0"), gateway: address("fd00:1::1"), interface: pair.index1, metric: 1024),
      KernelRoute(destination: prefix("10.9.0.0/16"), interface: pair.index1, source: address("10.1.1.2"), mtu: 1400),
      KernelRoute(
        destination: prefix("10.8.0.0/16"), gateway: address("169.254.1.1"), interface: pair.index1, isOnLink: true),
      KernelRoute(
        destination: prefix("10.7.0.0/16"), gateway: address("fd00:1::1"), interface: pair.index1, metric: 50),
      KernelRoute(destination: prefix("fd00:9::/48"), interface: pair.index1, metric: 7),
      KernelRoute(
        destination: prefix("10.6.0.0/16"), gateway: address("10.1.1.1"), interface: pair.index1, table: 1000),
    ]
    for route in routes {
      try netlink.addRoute(route)
      let found = try netlink.routes(interface: pair.index1, table: route.table).first {
        $0.destination == route.destination && $0.table == route.table
      }
      let known = try #require(found, "\(route)")
      #expect(
        known.gateway == route.gateway && known.interface == pair.index1 && known.isOnLink == route.isOnLink, "\(known)"
      )
      #expect(route.metric == nil || known.metric == route.metric, "\(known)")
      #expect(route.mtu == nil || known.mtu == route.mtu, "\(known)")
      #expect(route.source == nil || known.source == route.source, "\(known)")
      #expect { try netlink.addRoute(route) } throws: { ($0 as? NetlinkError)?.code == EEXIST }
      try netlink.replaceRoute(route)
    }
    #expect(try netlink.routes(table: nil).count > netlink.routes().count)
    // Looked up as the kernel would.
    let way = try netlink.route(to: address("192.0.2.55"))
    #expect(way.gateway == address("10.1.1.1") && way.interface == pair.index1 && way.source == address("10.1.1.2"))
    #expect(try netlink.route(to: address("10.1.1.77")).gateway == nil)
    #expect(try netlink.route(to: address("2001:db8::1")).gateway == address("fd00:1::1"))
    for route in routes {
      try netlink.deleteRoute(route)
      #expect { try netlink.deleteRoute(route) } throws: { ($0 as? NetlinkError)?.code == ESRCH }
    }
    #expect { try netlink.route(to: address("192.0.2.55")) } throws: {
      ($0 as? NetlinkError)?.code == ENETUNREACH && "\($0)".contains("192.0.2.55")
    }
    // What the kernel says in words is passed on.
    #expect {
      try netlink.addRoute(
        KernelRoute(destination: prefix("10.5.0.0/16"), gateway: address("192.0.2.1"), interface: pair.index1))
    } throws: { "\($0)".contains("the kernel says: Nexthop has invalid gateway") }
  }

  @Test func manyRoutes() throws {
    let pair = try Pair()
    let netlink = try pair.one.netlink()
    try netlink.addAddress(address("10.1.1.2"), prefixLength: 24, interface: pair.index1)
    for number in 0..<2000 {
      let destination = IPPrefix(IPAddress(v4: 0x0B00_0000 + UInt32(number) << 8), length: 24)!
      try netlink.addRoute(KernelRoute(destination: destination, gateway: address("10.1.1.1"), interface: pair.index1))
    }
    let routes = try netlink.routes(interface: pair.index1)
    #expect(routes.count { $0.destination.length == 24 && $0.gateway != nil } == 2000)
    #expect(Set(routes.map(\.destination)).count == routes.count)
  }

  @Test func neighbors() throws {
    let pair = try Pair()
    let netlink = try pair.one.netlink()
    for (one, two, length) in [("10.1.1.1", "10.1.1.2", 24), ("fd00:1::1", "fd00:1::2", 64)] {
      try netlink.addAddress(address(one), prefixLength: length, interface: pair.index1)
      try pair.two.netlink().addAddress(address(two), prefixLength: length, interface: pair.index2)
      let mac = try pair.two.netlink().link(named: "eth0")?.mac
      #expect(try netlink.neighbor(address(two), interface: pair.index1) == nil)
      // On a busy machine all three solicitations of a try may come to nothing: then it is one for who asked to ask again.
      var found: MACAddress?
      for _ in 0..<10 where found == nil {
        found = try netlink.resolve(neighbor: address(two), interface: pair.index1, timeoutMilliseconds: 5000)
      }
      #expect(found == mac, "\(two)")
      let known = try #require(try netlink.neighbor(address(two), interface: pair.index1))
      #expect(known.isUsable && known.mac == mac)
      #expect(try netlink.neighbors(interface: pair.index1).contains { $0.address == address(two) })
    }
    // Nobody there: no answer, in time.
    let clock = ContinuousClock()
    let start = clock.now
    #expect(
      try netlink.resolve(neighbor: address("10.1.1.99"), interface: pair.index1, timeoutMilliseconds: 200) == nil)
    #expect(clock.now - start < .seconds(2))
    #expect(try netlink.neighbor(address("10.1.1.99"), interface: pair.index1)?.isUsable != true)
  }
}

@Suite(.enabled(if: isRoot, needsRoot)) struct MonitorTests {
  private func monitor(
    _ space: TestNamespace, _ groups: Set<NetlinkMonitor.Group> = Set(NetlinkMonitor.Group.allCases)
  ) throws
    -> NetlinkMonitor
  { try space.namespace.run { try NetlinkMonitor(groups) } }

  /// Changes until one is as wanted, or nil.
  private func wait(
    _ monitor: NetlinkMonitor, _ isWanted: (NetlinkMonitor.Change) -> Bool
  ) throws -> NetlinkMonitor.Change? {
    for _ in 0..<50 {
      if let found = try monitor.nextChanges(timeoutMilliseconds: 100).first(where: isWanted) { return found }
    }
    return nil
  }

  @Test func tellsWhatChanges() throws {
    let pair = try Pair()
    let monitor = try monitor(pair.one)
    let netlink = try pair.one.netlink()
    let address = IPAddress("10.1.1.1")!
    try netlink.addAddress(address, prefixLength: 24, interface: pair.index1)
    #expect(try wait(monitor) { if case .address(let one) = $0 { one.address == address } else { false } } != nil)
    let route = KernelRoute(
      destination: IPPrefix("10.9.0.0/16")!, gateway: IPAddress("10.1.1.2"), interface: pair.index1)
    try netlink.addRoute(route)
    #expect(
      try wait(monitor) { if case .route(let one) = $0 { one.destination == route.destination } else { false } } != nil)
    try netlink.deleteRoute(route)
    #expect(
      try wait(monitor) { if case .routeRemoved(let one) = $0 { one.destination == route.destination } else { false } }
        != nil)
    try netlink.probe(neighbor: IPAddress("10.1.1.2")!, interface: pair.index1)
    #expect(try wait(monitor) { if case .neighbor = $0 { true } else { false } } != nil)
    try netlink.deleteAddress(address, prefixLength: 24, interface: pair.index1)
    #expect(
      try wait(monitor) { if case .addressRemoved(let one) = $0 { one.address == address } else { false } } != nil)
    // The far end goes down, then away.
    try pair.two.netlink().changeLink(index: pair.index2, LinkChange(isUp: false))
    #expect(
      try wait(monitor) { if case .link(let one) = $0 { one.name == "eth0" && !one.isRunning } else { false } } != nil)
    try pair.two.netlink().deleteLink(index: pair.index2)
    #expect(try wait(monitor) { if case .linkRemoved(let one) = $0 { one.name == "eth0" } else { false } } != nil)
  }

  @Test func onlyWhatWasAskedFor() throws {
    let space = try TestNamespace()
    let routes = try monitor(space, [.routes])
    let links = try monitor(space, [.links])
    try space.netlink().createVeth(VethPair(name: "one", peerName: "two"))
    #expect(try wait(links) { if case .link(let one) = $0 { one.name == "one" } else { false } } != nil)
    #expect(try routes.nextChanges(timeoutMilliseconds: 100).isEmpty)
  }

  @Test func waits() throws {
    let monitor = try monitor(TestNamespace())
    let clock = ContinuousClock()
    var start = clock.now
    #expect(try monitor.nextChanges(timeoutMilliseconds: 100).isEmpty)
    #expect(clock.now - start >= .milliseconds(90))
    let waiting = Background { try monitor.nextChanges(timeoutMilliseconds: -1).isEmpty }
    usleep(50_000)
    monitor.wake()
    #expect(try waiting.value())
    monitor.wake()
    start = clock.now
    #expect(try monitor.nextChanges(timeoutMilliseconds: 10_000).isEmpty, "a wake before the wait counts")
    #expect(clock.now - start < .seconds(5))
  }

  /// More changes than the socket holds: it says that some are lost, and goes on.
  @Test func losesNothingSilently() throws {
    let pair = try Pair()
    let monitor = try monitor(pair.one, [.addresses])
    let netlink = try pair.one.netlink()
    let total = 6000
    for number in 0..<total {
      let address = IPAddress(v4: 0x0A00_0000 + UInt32(number))
      try netlink.addAddress(address, prefixLength: 32, interface: pair.index1)
    }
    var seen = 0
    var isLost = false
    while true {
      let changes = try monitor.nextChanges(timeoutMilliseconds: 100)
      if changes.isEmpty { break }
      for change in changes {
        switch change {
        case .address(let one): seen += one.address.isV4 ? 1 : 0
        case .lost: isLost = true
        default: Issue.record("\(change)")
        }
      }
    }
    #expect(seen == total || isLost, "\(seen) of \(total) and no word of loss")
    #expect(seen > 1000)
    try netlink.deleteAddress(IPAddress(v4: 0x0A00_0000), prefixLength: 32, interface: pair.index1)
    #expect(try wait(monitor) { if case .addressRemoved = $0 { true } else { false } } != nil)
  }
}
