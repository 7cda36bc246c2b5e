import Glibc
import Testing
import WeftNetlink
import WeftWire

@Suite(.enabled(if: isRoot, needsRoot)) struct LinkTests {
  @Test func names() {
    for name in ["a", "eth0", "fifteen-letters", "ä", "a.b", "...", "-"] { #expect(LinkName.isValid(name), "\(name)") }
    for name in ["", ".", "..", "sixteen-letters-", "a/b", "a:b", "a b", "a\tb", "a\n", "a\0", "ääääääää"] {
      #expect(!LinkName.isValid(name), "\(name.debugDescription)")
    }
  }

  @Test func loopback() throws {
    let links = try TestNamespace().netlink().links()
    #expect(links.count == 1)
    #expect(
      links[0].name == "lo" && links[0].isLoopback && !links[0].isUp && links[0].index == 1 && links[0].mtu == 65536)
  }

  @Test(arguments: [false, true]) func aTapInANamespace(isMultiQueue: Bool) throws {
    let space = try TestNamespace()
    let netlink = try space.netlink()
    try space.namespace.createTap("tap0", isMultiQueue: isMultiQueue)
    var link = try #require(try netlink.link(named: "tap0"))
    #expect(link.kind == "tun" && !link.isUp && link.alias == nil)
    #expect(link.tun == TunProperties(isTAP: true, isPersistent: true, isMultiQueue: isMultiQueue, queues: 0))
    try netlink.changeLink(index: link.index, LinkChange(isUp: true, mtu: 9000, alias: "ä b"))
    link = try #require(try netlink.link(named: "tap0"))
    #expect(link.isUp && !link.isRunning && link.mtu == 9000 && link.alias == "ä b")
    for (name, code) in [("tap0", EEXIST), ("lo", EEXIST), ("a/b", EINVAL), ("sixteen-letters-", EINVAL)] {
      #expect { try space.namespace.createTap(name, isMultiQueue: isMultiQueue) } throws: {
        ($0 as? NetlinkError)?.code == code && "\($0)".contains(name)
      }
    }
    try netlink.deleteLink(index: link.index)
    #expect(try netlink.links().count == 1)
  }

  @Test func macvlansAndVLANs() throws {
    let (space, inner) = (try TestNamespace(), try TestNamespace())
    let netlink = try space.netlink()
    let container = try inner.netlink()
    try netlink.createVeth(VethPair(name: "one", peerName: "two", mtu: 1400))
    let one = try #require(try netlink.link(named: "one"))
    let mac = MACAddress("02:00:00:00:00:07")!
    try netlink.createMacvlan("eth0", mac: mac, mtu: 1300, over: one.index, in: inner.namespace)
    let made = try #require(try container.link(named: "eth0"))
    #expect(made.kind == "macvlan" && made.mac == mac && made.mtu == 1300 && made.peerIndex == one.index && !made.isUp)
    #expect(throws: NetlinkError.self) {
      try netlink.createMacvlan("eth0", mac: mac, mtu: 1300, over: one.index, in: inner.namespace)
    }
    for name in ["a/b", ""] {
      #expect { try netlink.createMacvlan(name, mac: mac, mtu: 1300, over: one.index, in: inner.namespace) } throws: {
        ($0 as? NetlinkError)?.code == EINVAL
      }
    }
    for identifier: UInt16 in [0, 4095] {
      #expect { try netlink.createVLAN("one.1", identifier: identifier, over: one.index) } throws: {
        ($0 as? NetlinkError)?.code == EINVAL
      }
    }
    // Not every kernel has it.
    do {
      try netlink.createVLAN("one.7", identifier: 7, over: one.index)
      let vlan = try #require(try netlink.link(named: "one.7"))
      #expect(vlan.kind == "vlan" && vlan.peerIndex == one.index)
    } catch let error as NetlinkError {
      #expect(error.code == EOPNOTSUPP && "\(error)".contains("VLAN 7 as one.7"))
    }
  }

  @Test func aPairInOneNamespace() throws {
    let space = try TestNamespace()
    let netlink = try space.netlink()
    let mac = MACAddress("02:00:00:00:00:01")!
    try netlink.createVeth(
      VethPair(name: "one", peerName: "two", mac: mac, peerMAC: .init("02:00:00:00:00:02"), mtu: 9000))
    let one = try #require(try netlink.link(named: "one"))
    let two = try #require(try netlink.link(named: "two"))
    #expect(one.mac == mac && two.mac == MACAddress("02:00:00:00:00:02"))
    #expect(one.mtu == 9000 && two.mtu == 9000 && one.kind == "veth" && !one.isUp)
    #expect(one.peerIndex == two.index && two.peerIndex == one.index && one.peerNamespaceID == nil)
    #expect(try netlink.link(index: one.index) == one)
    #expect(try netlink.links().map(\.name).sorted() == ["lo", "one", "two"])
    #expect { try netlink.createVeth(VethPair(name: "one", peerName: "three")) } throws: {
      ($0 as? NetlinkError)?.code == EEXIST && "\($0)".contains("veth one with peer three")
    }
    #expect { try netlink.createVeth(VethPair(name: "three", peerName: "two")) } throws: {
      ($0 as? NetlinkError)?.code == EEXIST
    }
    #expect { try netlink.createVeth(VethPair(name: "a/b", peerName: "c")) } throws: {
      ($0 as? NetlinkError)?.code == EINVAL
    }
    #expect(try netlink.links().count == 3, "nothing half made")
    try netlink.deleteLink(index: one.index)
    #expect(try netlink.link(named: "two") == nil)
    #expect(try netlink.link(index: one.index) == nil)
    #expect { try netlink.deleteLink(index: one.index) } throws: { ($0 as? NetlinkError)?.code == ENODEV }
    #expect(try netlink.link(named: "a/b") == nil)
  }

  @Test func changes() throws {
    let space = try TestNamespace()
    let netlink = try space.netlink()
    try netlink.createVeth(VethPair(name: "one", peerName: "two"))
    let index = try space.index("one")
    let other = try space.index("two")
    try netlink.changeLink(
      index: index, LinkChange(mtu: 1400, mac: .init("02:00:00:00:00:09"), name: "new", generatesIPv6LinkLocal: false))
    try netlink.changeLink(index: index, LinkChange(isUp: true))
    var link = try #require(try netlink.link(named: "new"))
    #expect(link.index == index && link.mtu == 1400 && link.mac == MACAddress("02:00:00:00:00:09"))
    #expect(link.isUp && !link.isRunning, "the other end is down")
    try netlink.changeLink(index: other, LinkChange(isUp: true))
    link = try #require(try netlink.link(index: index))
    #expect(link.isUp && link.isRunning)
    // The kernel gives the other end its link-local address a moment after it is up.
    for _ in 0..<200 where try netlink.addresses(interface: other).isEmpty { usleep(10_000) }
    #expect(try netlink.addresses(interface: index) == [], "no IPv6 link-local address, as was asked")
    #expect(try netlink.addresses(interface: other).contains { $0.address.isLinkLocal }, "as the kernel does by itself")
    try netlink.changeLink(index: index, LinkChange(isUp: false))
    #expect(try netlink.link(index: index)?.isUp == false)
    #expect { try netlink.changeLink(index: index, LinkChange(mtu: 1)) } throws: {
      ($0 as? NetlinkError)?.code == EINVAL
    }
    #expect { try netlink.changeLink(index: 9999, LinkChange(isUp: true)) } throws: {
      ($0 as? NetlinkError)?.code == ENODEV
    }
  }

  @Test func aPairOverTwoNamespaces() throws {
    let pair = try Pair()
    let one = try #require(try pair.one.netlink().link(named: "eth0"))
    let two = try #require(try pair.two.netlink().link(named: "eth0"))
    #expect(one.peerIndex == two.index && two.peerIndex == one.index)
    #expect(one.peerNamespaceID != nil && two.peerNamespaceID != nil)
    #expect(one.isRunning && two.isRunning && one.mac != two.mac)
    // A name that is taken in the other namespace.
    #expect {
      try pair.one.netlink().createVeth(VethPair(name: "eth1", peerName: "eth0"), peerIn: pair.two.namespace)
    } throws: { ($0 as? NetlinkError)?.code == EEXIST }
    #expect(try pair.one.netlink().link(named: "eth1") == nil)
    try pair.two.netlink().deleteLink(index: two.index)
    #expect(try pair.one.netlink().link(named: "eth0") == nil)
  }

  /// More than one read brings, by threads that share a socket.
  @Test func manyLinksAndThreads() throws {
    let space = try TestNamespace()
    let netlink = try space.netlink()
    for number in 0..<150 { try netlink.createVeth(VethPair(name: "a\(number)", peerName: "b\(number)")) }
    let threads = (0..<8).map { thread in
      Background {
        for round in 0..<20 {
          let number = (thread * 20 + round) % 150
          if round % 5 == 0 {
            guard try netlink.links().count == 301 else { return "links are missing" }
          } else if try netlink.link(named: "a\(number)")?.name != "a\(number)" {
            return "a\(number) is another"
          } else if try netlink.link(named: "none\(number)") != nil {
            return "a link that is not there"
          }
        }
        return ""
      }
    }
    for thread in threads { #expect(try thread.value() == "") }
  }
}
