import CLinux
import Glibc
import Testing
import WeftPorts
import WeftSystem
import WeftTables
import WeftWire

/// The program by which the kernel chooses a TAP interface's queue, run by the kernel (BPF_PROG_TEST_RUN), against what
/// the workers reckon.
@Suite("TAP steering", .enabled(if: geteuid() == 0, "needs root to load programs"))
struct TapSteeringTests {
  private func load(_ workers: Int, _ seed: UInt64) throws -> Descriptor {
    let code = TapSteering.program(workers: workers, seed: seed)
    return try Descriptor(weft_load_socket_program(code, Int32(code.count), nil, 0), "load", "program")
  }

  /// What it answers for a frame. The kernel takes 14 bytes off the front of what it runs such a program on.
  private func run(_ program: borrowing Descriptor, _ frame: [UInt8]) -> Int {
    let bytes = [UInt8](repeating: 0x88, count: 14) + frame
    return Int(weft_run_program(program.raw, bytes, UInt32(bytes.count)))
  }

  private static func big(_ value: UInt64, _ bytes: Int) -> [UInt8] {
    (0..<bytes).map { UInt8(truncatingIfNeeded: value >> UInt64(8 * (bytes - 1 - $0))) }
  }

  private static func frame(
    _ source: IPAddress, _ destination: IPAddress, _ proto: UInt8, _ ports: (UInt16, UInt16), first: UInt8 = 0x45,
    fragment: UInt16 = 0
  ) -> [UInt8] {
    let transport = big(UInt64(ports.0), 2) + big(UInt64(ports.1), 2) + [UInt8](repeating: 0, count: 16)
    let ethernet: [UInt8] = [0, 0, 0x5E, 0, 1, 0, 2, 0, 0, 0, 0, 1]
    if source.isV4 {
      let header: [UInt8] = [first, 0, 0, 40, 0, 1] + big(UInt64(fragment), 2) + [64, proto, 0, 0]
      return ethernet + [8, 0] + header + big(UInt64(source.v4), 4) + big(UInt64(destination.v4), 4) + transport
    }
    return ethernet + [0x86, 0xDD] + [0x60, 0, 0, 0, 0, 20, proto, 64]
      + [source, destination].flatMap { big($0.high, 8) + big($0.low, 8) } + transport
  }

  @Test(arguments: [2, 3, 7, 64, 256])
  func choosesTheOwnersQueue(workers: Int) throws {
    var random = SystemRandomNumberGenerator()
    let seed = random.next() as UInt64
    let program = try load(workers, seed)
    let owner = FlowOwner(index: 0, workers: workers, seed: seed)
    var seen: Set<Int> = []
    for number in 0..<2000 {
      func address() -> IPAddress {
        number % 2 == 0
          ? IPAddress(v4: UInt32.random(in: .min ... .max)) : IPAddress(high: random.next(), low: random.next())
      }
      let (source, destination) = (address(), address())
      let ports = (UInt16.random(in: .min ... .max), UInt16.random(in: .min ... .max))
      let proto: UInt8 = number % 4 < 2 ? 6 : 17
      let key = FlowKey(
        vrf: 7, source: source, destination: destination, proto: proto, sourcePort: ports.0, destinationPort: ports.1)
      let bytes = Self.frame(source, destination, proto, ports)
      let queue = run(program, bytes)
      #expect(queue == owner.worker(key), "\(source) \(ports.0) \(destination) \(ports.1) \(proto), seed \(seed)")
      seen.insert(queue)
    }
    #expect(seen.count > workers / 2)
  }

  @Test func whatHasNoPortsComesByTheFirst() throws {
    let program = try load(8, 1)
    let (one, two) = (IPAddress("10.0.0.1")!, IPAddress("10.0.0.2")!)
    let v6 = IPAddress("fd00::1")!
    for port in 1...64 as ClosedRange<UInt16> {
      let ports = (port, 80 as UInt16)
      for frame in [
        Self.frame(one, two, 1, ports), Self.frame(one, two, 6, ports, first: 0x46),
        Self.frame(one, two, 17, ports, fragment: 0x2000), Self.frame(one, two, 17, ports, fragment: 1),
        Self.frame(v6, v6, 44, ports), Self.frame(v6, v6, 58, ports),
        Array(Self.frame(one, two, 6, ports).prefix(34)), Array(Self.frame(v6, v6, 6, ports).prefix(54)),
        [UInt8](repeating: 0xFF, count: 60), [UInt8](repeating: 0x81, count: 14),
      ] {
        #expect(run(program, frame) == 0)
      }
    }
    // "Do not fragment" is no fragment.
    let frames = (1...64 as ClosedRange<UInt16>).map { Self.frame(one, two, 6, ($0, 80), fragment: 0x4000) }
    #expect(Set(frames.map { run(program, $0) }).count > 4)
  }
}
