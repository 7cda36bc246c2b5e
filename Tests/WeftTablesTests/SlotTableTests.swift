import Testing
import WeftTables
import WeftWire

@Suite struct SlotTableTests {
  @Test func pointers() throws {
    let table = try PointerTable(capacity: 3, what: "test")
    let reader = table.reader
    let one = UnsafeMutableRawPointer.allocate(byteCount: 8, alignment: 8)
    let two = UnsafeMutableRawPointer.allocate(byteCount: 8, alignment: 8)
    defer {
      one.deallocate()
      two.deallocate()
    }
    #expect(reader[0] == nil && reader[2] == nil)
    #expect(table.replace(2, one) == nil)
    #expect(reader[2] == one)
    #expect(table.replace(2, two) == one)
    #expect(reader[2] == two && reader[1] == nil)
    // Numbers out of packets and messages: none is out of bounds.
    #expect(reader[3] == nil && reader[4] == nil && reader[.max] == nil)
    #expect(table.replace(2, nil) == two)
    #expect(reader[2] == nil)
    let empty = try PointerTable(capacity: 0, what: "test")
    #expect(empty.reader[0] == nil)
  }

  @Test func direct() throws {
    let table = try DirectTable(capacity: 1 << 20, what: "test")
    let reader = table.reader
    #expect(reader[0] == 0 && reader[(1 << 20) - 1] == 0)
    table.set(0, 5)
    table.set((1 << 20) - 1, .max)
    #expect(reader[0] == 5 && reader[(1 << 20) - 1] == .max && reader[1] == 0)
    #expect(reader[1 << 20] == 0 && reader[.max] == 0)
    table.set(0, 0)
    #expect(reader[0] == 0)
  }

  @Test func pathsAreShared() throws {
    let epochs = try Epochs(workers: 1)
    let table = try PathTable(capacity: 2, epochs: epochs)
    let worker = epochs.worker(0)
    worker.comeOnline()
    let a = Path(nexthop: 1, label: 5001)
    let b = Path(nexthop: .max, label: 0xF_FFFF)
    let first = try #require(table.acquire(a))
    #expect(first != 0)
    #expect(table.acquire(a) == first)
    let second = try #require(table.acquire(b))
    #expect(second != first && second != 0)
    #expect(table.reader[first] == a && table.reader[second] == b)
    // To a nexthop that no table has.
    #expect(table.reader[0] == Path(nexthop: .max, label: 0))
    #expect(table.acquire(Path(nexthop: 2, label: 0)) == nil, "full")
    #expect(table.acquire(b) == second, "but not for one that is there")
    table.release(first)
    table.release(first)
    // A worker may still hold the number: neither changed nor used again.
    #expect(table.acquire(Path(nexthop: 2, label: 0)) == nil)
    #expect(table.reader[first] == a)
    worker.quiescent()
    epochs.reclaim()
    let third = try #require(table.acquire(Path(nexthop: 2, label: 0)))
    #expect(third == first)
    #expect(table.reader[third] == Path(nexthop: 2, label: 0))
    #expect(table.reader[second] == b)
  }

  @Test func pathsAgainstADictionary() throws {
    let epochs = try Epochs(workers: 0)
    let table = try PathTable(capacity: 300, epochs: epochs)
    var random = SeededRandom(seed: 31)
    var uses: [Path: (number: UInt32, count: Int)] = [:]
    for _ in 0..<50_000 {
      let path = Path(nexthop: UInt32(random.below(30)), label: UInt32(random.below(10)))
      if random.below(2) == 0, let known = uses[path] {
        table.release(known.number)
        uses[path] = known.count == 1 ? nil : (known.number, known.count - 1)
        epochs.reclaim()
      } else if (uses[path]?.count ?? 0) < 5 {
        let number = try #require(table.acquire(path))
        if let known = uses[path] { #expect(known.number == number) }
        #expect(table.reader[number] == path)
        uses[path] = (number, (uses[path]?.count ?? 0) + 1)
      }
    }
    #expect(Set(uses.values.map(\.number)).count == uses.count)
    for (path, known) in uses { #expect(table.reader[known.number] == path) }
  }

  /// The tables as the packet path sees them: nothing there, then something, then nothing again.
  @Test func tables() throws {
    let memory = try TableMemory(
      sizes: TableSizes(interfaces: 4, vrfs: 4, nexthops: 4, routes: 16, routeNodes: 32, bridge: 16), workers: 1)
    let worker = memory.epochs.worker(0)
    worker.comeOnline()
    let tables = memory.reader
    #expect(tables.interface(1) == nil && tables.interface(4) == nil && tables.interface(.max) == nil)
    #expect(tables.nexthop(0) == nil && !tables.hasVRF(0) && !tables.hasVRF(4) && !tables.hasVRF(.max))
    #expect(tables.route(vrf: 1, v4: 1) == 0 && tables.route(vrf: 1, v6: IPAddress("::1")!) == 0)
    let interface = InterfaceEntry(
      isFabric: true, mtu: 1500, vrf: 0, mac: 0x0200_0000_0001,
      addresses: [IPAddress("192.0.2.1")!, IPAddress("2001:db8::1")!], takesUDPSegmentation: true, takesVirtio: true)
    memory.publish(interface: 1, interface)
    let published = try #require(tables.interface(1))
    #expect(published.entry.isFabric && published.entry.mtu == 1500 && published.entry.mac == 0x0200_0000_0001)
    #expect(published.entry.owns(IPAddress("192.0.2.1")!) && published.entry.owns(IPAddress("2001:db8::1")!))
    #expect(!published.entry.owns(IPAddress("192.0.2.2")!))
    // The places that hold no address do not make "::" ours.
    #expect(!published.entry.owns(IPAddress("::")!) && !published.entry.owns(IPAddress("0.0.0.0")!))
    memory.publish(interface: 1, nil)
    #expect(tables.interface(1) == nil)
    #expect(published.entry.mtu == 1500, "a worker that holds it may go on reading")
    #expect(memory.epochs.pending == 1)
    worker.quiescent()
    memory.epochs.reclaim()
    #expect(memory.epochs.pending == 0)
    let root = try #require(memory.routes.makeRoot())
    memory.roots.set(2, root)
    let path = try #require(memory.paths.acquire(Path(nexthop: 3, label: 77)))
    memory.routes.set(root: root, IPPrefix("10.0.0.0/8")!, path: path, isNew: true)
    #expect(tables.hasVRF(1) && !tables.hasVRF(0))
    #expect(tables.paths[tables.route(vrf: 1, v4: IPAddress("10.1.1.1")!.v4)] == Path(nexthop: 3, label: 77))
    #expect(tables.route(vrf: 0, v4: IPAddress("10.1.1.1")!.v4) == 0)
    #expect(tables.route(vrf: 1, v6: IPAddress("fd00::1")!) == 0, "there is no IPv6 tree")
  }

  /// The outer headers of a tunnel against a packet that scapy made.
  @Test func tunnelHeadersV4() {
    let nexthop = NexthopEntry(
      kind: .vxlan, interface: 1, interfaceMAC: 0x0200_0000_0F01, mtu: 1550, source: IPAddress("192.0.2.1")!,
      destination: IPAddress("192.0.2.2")!, nextHopMAC: 0x0200_0000_0F02, innerDestinationMAC: 0x0000_5E00_0100)
    #expect(nexthop.underlayIsV4 && nexthop.isResolved && nexthop.outerBytes == 42)
    #expect(nexthop.mtu == 1550 - 20 - 8 - 8 - 14)
    let memory = UnsafeMutableRawPointer.allocate(byteCount: 64, alignment: 8)
    defer { memory.deallocate() }
    let frame = Bytes(memory)
    nexthop.writeOuter(frame)
    frame.set8(15, 0xB9)
    frame.set16(16, 128)
    frame.set16(24, Checksum.finish(nexthop.outerSum &+ Checksum.addend(128) &+ Checksum.addend(0xB9)))
    frame.set16(34, 0xC123)
    frame.set16(38, 108)
    let octets = (0..<42).map { frame.u8($0) }
    let expected = "020000000f02020000000f01080045b90080000040004011b5b0c0000201c0000202c12312b5006c0000"
    #expect(octets.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined() == expected)
    let pseudo = Checksum.pseudoHeader(frame.advanced(14), isV4: true, proto: IPProtocol.udp, length: 108)
    #expect(Checksum.fold(nexthop.pseudoHeaderSum &+ Checksum.addend(108)) == Checksum.fold(pseudo))
  }

  @Test func tunnelHeadersV6() {
    let nexthop = NexthopEntry(
      kind: .mplsOverUDP, interface: 1, interfaceMAC: 0x0200_0000_0F01, mtu: 1500, source: IPAddress("2001:db8::1")!,
      destination: IPAddress("2001:db8::2")!, nextHopMAC: 0x0200_0000_0F02, innerDestinationMAC: 0)
    #expect(!nexthop.underlayIsV4 && nexthop.outerBytes == 62)
    #expect(nexthop.mtu == 1500 - 40 - 8 - 4)
    let memory = UnsafeMutableRawPointer.allocate(byteCount: 64, alignment: 8)
    defer { memory.deallocate() }
    let frame = Bytes(memory)
    nexthop.writeOuter(frame)
    frame.set16(18, 108)
    frame.set16(54, 0xC123)
    frame.set16(58, 108)
    let octets = (0..<62).map { frame.u8($0) }
    let expected = """
      020000000f02020000000f0186dd60000000006c114020010db800000000000000000000000120010db8000000000000000000000002\
      c12319eb006c0000
      """
    #expect(octets.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined() == expected)
  }

  @Test func tunnelCorners() {
    func nexthop(mtu: UInt16, mac: UInt64) -> NexthopEntry {
      NexthopEntry(
        kind: .vxlan, interface: 1, interfaceMAC: 1, mtu: mtu, source: IPAddress("192.0.2.1")!,
        destination: IPAddress("192.0.2.2")!, nextHopMAC: mac, innerDestinationMAC: 0)
    }
    #expect(!nexthop(mtu: 1500, mac: 0).isResolved)
    for mtu: UInt16 in [0, 1, 49, 50] { #expect(nexthop(mtu: mtu, mac: 1).mtu == 0, "\(mtu)") }
    #expect(nexthop(mtu: 51, mac: 1).mtu == 1)
    #expect(nexthop(mtu: .max, mac: 1).mtu == 65535 - 50)
  }
}
