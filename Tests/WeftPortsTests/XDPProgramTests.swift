import Glibc
import Testing
import WeftPorts
import WeftSystem

/// Programs at an interface: the loopback one, from which they take nothing.
@Suite("XDP programs at an interface", .enabled(if: geteuid() == 0, "needs root to attach programs"), .serialized)
struct XDPProgramTests {
  private static let nothing = XDPSelection.tunnels(addresses: [], vlans: [])

  private static func attach(_ mode: XDPMode) throws(SystemError) -> XDPProgram {
    try XDPProgram(
      device: "lo", kernelIndex: KernelInterface.index("lo"), queues: 1, selection: nothing, takesFragments: false,
      mode: mode)
  }

  @Test("a second one is refused by name, and finds its place when the first has gone")
  func second() throws {
    do {
      let first = try Self.attach(.skb)
      #expect(first.mode == .skb)
      let error = #expect(throws: SystemError.self) { _ = try Self.attach(.skb) }
      #expect(error?.description.contains("has another one") == true && error?.description.contains("xdp off") == true)
      // Another selection takes its place; one for nobody is refused by nobody.
      try first.select(.tunnels(addresses: [XDPFilterTests.ours4], vlans: [7]))
      try first.select(Self.nothing)
    }
    _ = try Self.attach(.skb)
  }

  @Test("a driver that takes none says so, with the mode")
  func native() {
    let error = #expect(throws: SystemError.self) { _ = try Self.attach(.native) }
    #expect(error?.description.contains("in native mode to lo") == true)
  }
}
