import Testing
import WeftTables
import WeftWire

private func memory() throws -> TableMemory {
  try TableMemory(
    sizes: TableSizes(interfaces: 1, vrfs: 8, nexthops: 1, routes: 1, routeNodes: 8, bridge: 1), workers: 0)
}

/// Leading bits that two addresses have in common.
private func common(_ a: IPAddress, _ b: IPAddress) -> Int {
  a.high != b.high ? (a.high ^ b.high).leadingZeroBitCount : 64 + (a.low ^ b.low).leadingZeroBitCount
}

@Test func nearestGatewaySharesTheLongestPrefix() throws {
  let memory = try memory()
  var random = SeededRandom(seed: 5)
  let reader = memory.reader.gateways
  for _ in 0..<200 {
    // Few bits vary, so that addresses are near each other.
    func address() -> IPAddress {
      let bits = UInt64.random(in: 0...0x3F, using: &random)
      return Bool.random(using: &random)
        ? IPAddress(v4: 0x0A00_0000 | UInt32(bits & 7) << 16 | UInt32(bits >> 3))
        : IPAddress(high: 0xFD00_0000_0000_0000 | bits & 7, low: bits >> 3)
    }
    let gateways = Set((0..<Int.random(in: 0...12, using: &random)).map { _ in address() })
    memory.gateways.set(vrf: 3, gateways)
    for _ in 0..<20 {
      let target = address()
      let best = gateways.filter { $0.isV4 == target.isV4 }.map { common($0, target) }.max()
      #expect(reader.nearest(vrf: 3, to: target).map { common($0, target) } == best)
      #expect(reader.nearest(vrf: 2, to: target) == nil && reader.nearest(vrf: 99, to: target) == nil)
    }
  }
}
