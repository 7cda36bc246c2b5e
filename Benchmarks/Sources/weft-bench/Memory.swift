import CMeasure
import WeftRing
import WeftTables
import WeftWire

/// What tables take: real ones are filled, and the process's resident memory before and after is compared. What the
/// control thread keeps of its entries beside them is not in it, but for `memory.programmed-route`.
enum Memory {
  static func measure(quick: Bool) throws {
    let scale = quick ? 4 : 1
    try measure("flows", count: 1 << 20 / scale, "flows of two entries") { count in
      var table = try FlowTable(capacity: count * 2, seed: 1)
      for number in 0..<UInt32(count) {
        let key = FlowKey(
          vrf: 1, source: IPAddress(v4: 0x0A00_0000 | number >> 8), destination: IPAddress(v4: 0x0B00_0000 | number),
          proto: IPProtocol.udp, sourcePort: UInt16(1024 + number & 0x3FFF), destinationPort: 53)
        guard table.insert(key, hash: key.hash(seed: 1), now: 1) != FlowTable.none else {
          throw BenchmarkError("memory.flows: no place for flow \(number) of \(count)")
        }
      }
      return table
    }
    try measure("flows-v6", count: 1 << 19 / scale, "IPv6 flows of two entries") { count in
      var table = try FlowTable(capacity: count * 2, seed: 1)
      for number in 0..<UInt64(count) {
        let key = FlowKey(
          vrf: 1, source: IPAddress(high: 0xFD00 << 48, low: number >> 8),
          destination: IPAddress(high: 0xFD01 << 48, low: number), proto: IPProtocol.udp,
          sourcePort: UInt16(1024 + number & 0x3FFF), destinationPort: 53)
        guard table.insert(key, hash: key.hash(seed: 1), now: 1) != FlowTable.none else {
          throw BenchmarkError("memory.flows-v6: no place for flow \(number) of \(count)")
        }
      }
      return table
    }
    let epochs = try Epochs(workers: 1)
    try measure("lpm-v4-hosts", count: 1 << 20 / scale, "host routes side by side") { count in
      let trees = try PrefixTrees(nodes: count, epochs: epochs)
      guard let root = trees.makeRoot() else { throw BenchmarkError("memory.lpm-v4-hosts: no root") }
      for number in 0..<UInt32(count) {
        trees.set(root: root, IPPrefix(host: IPAddress(v4: 0x0A00_0000 | number)), path: number + 1, isNew: true)
      }
      return trees
    }
    try measure("lpm-v6-hosts", count: 1 << 20 / scale, "host routes, 64 to a /64") { count in
      let trees = try CompressedTrees(nodes: count, epochs: epochs)
      guard let root = trees.makeRoot() else { throw BenchmarkError("memory.lpm-v6-hosts: no root") }
      for number in 0..<UInt64(count) {
        let address = IPAddress(high: 0xFD00 << 48 | number >> 6, low: number & 63)
        trees.set(root: root, IPPrefix(host: address), path: UInt32(number + 1))
        if number & 255 == 0 { epochs.reclaim() }
      }
      return trees
    }
    let vrfs = 4096
    try measure("vrf", count: vrfs, "VRFs with three routes of each family") { count in
      let trees = try PrefixTrees(nodes: count * 8, epochs: epochs)
      let trees6 = try CompressedTrees(nodes: count * 8, epochs: epochs)
      for number in 0..<UInt32(count) {
        guard let root = trees.makeRoot(), let root6 = trees6.makeRoot() else {
          throw BenchmarkError("memory.vrf: no root for VRF \(number)")
        }
        let high = 0xFD00 << 48 | UInt64(number) << 16
        for (address, length) in [(UInt32(0), 0), (0x0A00_0000, 24), (0x0A00_0001, 32)] {
          guard let prefix = IPPrefix(IPAddress(v4: address), length: length) else { continue }
          trees.set(root: root, prefix, path: 1, isNew: true)
        }
        for (low, length) in [(UInt64(0), 0), (0, 64), (1, 128)] {
          guard let prefix = IPPrefix(IPAddress(high: high, low: low), length: length) else { continue }
          trees6.set(root: root6, prefix, path: 1)
        }
        if number & 63 == 0 { epochs.reclaim() }
      }
      return (trees, trees6)
    }
    try measure("bridge", count: 1 << 18 / scale, "MAC addresses") { count in
      let table = try BridgeTable(capacity: count, epochs: epochs)
      for number in 0..<UInt64(count) {
        guard table.set(vrf: 1, mac: MACAddress(bits: 0x0200_0000_0000 | number), path: 1) else {
          throw BenchmarkError("memory.bridge: no place for entry \(number) of \(count)")
        }
      }
      return table
    }
    try measure("neighbours", count: 1 << 18 / scale, "addresses with their MAC") { count in
      let table = try NeighborTable(capacity: count, epochs: epochs)
      for number in 0..<UInt32(count) {
        let mac = MACAddress(bits: 0x0200_0000_0000 | UInt64(number))
        guard table.set(vrf: 1, address: IPAddress(v4: 0x0A00_0000 | number), mac: mac) else {
          throw BenchmarkError("memory.neighbours: no place for entry \(number) of \(count)")
        }
      }
      return table
    }
    try measure("nat", count: 1 << 17 / scale, "destination NAT entries") { count in
      let memory = try NATMemory(vrfs: 16, epochs: epochs, workers: 1)
      for number in 0..<UInt32(count) {
        let key = TranslationKey(
          .destination, vrf: 1, address: IPAddress(v4: 0x0A00_0000 | number), proto: IPProtocol.udp, port: 53)
        memory.set(.destination, TranslationEntry(key: key, target: IPAddress(v4: number + 1), vrf: 1, port: 53))
        if number & 255 == 0 { epochs.reclaim() }
      }
      return memory
    }
    try measure("fragments", count: 1 << 18 / scale, "places for packets in fragments") { count in
      var table = try FragmentTable(capacity: count, seed: 1)
      for number in 0..<UInt32(count) {
        table.set(
          FragmentKey(
            vrf: 1, source: IPAddress(v4: number), destination: IPAddress(v4: 1), identification: number,
            proto: IPProtocol.udp), FragmentPorts(source: 1, destination: 2), now: 1)
      }
      return table
    }
    try measure("redirects", count: 1 << 18 / scale, "redirects to other workers") { count in
      var table = try RedirectTable(capacity: count, seed: 1)
      for number in 0..<UInt32(count) {
        _ = table.add(
          FlowKey(
            vrf: 1, source: IPAddress(v4: number), destination: IPAddress(v4: 1), proto: IPProtocol.udp, sourcePort: 1,
            destinationPort: 2), worker: 1, serial: 1)
      }
      return table
    }
    // Through the commands, the control thread and the compiler. What an empty forwarder takes is taken off; all live on
    // until the last is measured, so that none gets another's memory. The first makes room for what is kept for a moment.
    for rules in quick ? [1000] : [1000, 10_000] {
      let first = try WeftSide(flowEntries: 1024, rules: rules)
      let (empty, without) = try resident { try WeftSide(flowEntries: 1024) }
      let (full, with) = try resident { try WeftSide(flowEntries: 1024, rules: rules) }
      withExtendedLifetime((first, empty, full)) {}
      report("policy-\(rules / 1000)k", with - min(with, without), count: rules, "rules with their sets")
    }
    let routes = 1 << 17
    let (empty, without) = try resident { try WeftSide(flowEntries: 1024, routes: routes + 4096, routeNodes: routes) }
    let (full, with) = try resident {
      let weft = try WeftSide(flowEntries: 1024, routes: routes + 4096, routeNodes: routes)
      for number in 0..<UInt32(routes) {
        let prefix = IPPrefix(host: IPAddress(v4: 0x0B00_0000 | number))
        let route = RouteConfiguration(vrf: 1, prefix: prefix, nexthop: Topology.peerNexthop(1, number % 16), label: 77)
        do throws(Refusal) { try weft.programmer.apply(.setRoute(route)) } catch {
          throw BenchmarkError("memory.programmed-route: route \(number) is refused: \(error)")
        }
      }
      return weft
    }
    withExtendedLifetime((empty, full)) {}
    report("programmed-route", with - min(with, without), count: routes, "routes, with all that is kept of them")
  }

  /// What `make` gives, and the memory that came with it.
  private static func resident(_ make: () throws -> WeftSide) rethrows -> (WeftSide, UInt64) {
    let before = measure_resident()
    let made = try make()
    let after = measure_resident()
    return (made, after > before ? after - before : 0)
  }

  private static func measure<Table: ~Copyable>(
    _ name: String, count: Int, _ what: String, _ make: (Int) throws -> Table
  ) throws {
    let before = measure_resident()
    let table = try make(count)
    let after = measure_resident()
    withExtendedLifetime(table) {}
    report(name, after > before ? after - before : 0, count: count, what)
  }

  private static func report(_ name: String, _ bytes: UInt64, count: Int, _ what: String) {
    Report.value("memory.\(name).bytes", Double(bytes) / Double(count), "bytes each of \(count) \(what)")
    Report.value("memory.\(name).total", Double(bytes) / 1_048_576, "MiB")
  }
}
