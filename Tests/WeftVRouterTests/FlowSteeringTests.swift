import CLinux
import Glibc
import Testing
import WeftForwarding
import WeftPorts
import WeftSystem
import WeftTables
import WeftWire

/// The program that divides flows, run by the kernel on frames built here (BPF_PROG_TEST_RUN), against the owner that the
/// forwarder's own hash gives for the key that a frame was built with.
@Suite("Steering of flows", .enabled(if: geteuid() == 0, "needs root to load programs"))
struct FlowSteeringTests {
  static let workers = [2, 3, 4, 7, 16, 64, 4095]
  static let seeds: [UInt64] = [0, 1, .max, 0x0123_4567_89AB_CDEF, 0xFFFF_FFFF_0000_0000]

  private static func run(_ program: borrowing Descriptor, _ frame: [UInt8]) -> Int {
    Int(weft_run_program(program.raw, frame, UInt32(frame.count)))
  }

  @Test("It names the owner of whatever flow is inside whatever tunnel", arguments: workers)
  func owners(_ workers: Int) throws {
    var random = RaceRandom(state: UInt64(workers))
    var seen: Set<String> = []
    for seed in Self.seeds {
      let program = try FlowSteering(workers: workers, seed: seed).load()
      let owner = FlowOwner(workers: workers, seed: seed)
      var counts = Array(repeating: 0, count: workers)
      for _ in 0..<2000 {
        let inner = SteeredPacket.random(&random)
        let (frame, tunnel) = inner.tunneled(&random)
        let got = Self.run(program, frame)
        let expected = inner.owner(owner)
        try #require(got == expected, "\(inner.what) in \(tunnel), seed \(seed): \(frame)")
        counts[got] += 1
        seen.insert("\(inner.what) in \(tunnel)")
        // The other direction comes to the same worker.
        if let answer = inner.answer {
          try #require(Self.run(program, answer.tunneled(&random).frame) == expected, "an answer to \(inner.what)")
        }
      }
      if workers <= 16 { #expect(counts.allSatisfy { $0 > 1000 / workers }, "\(counts)") }
    }
    // Both families, all kinds of packets, all tunnels over both families.
    #expect(seen.count == SteeredPacket.kinds.count * 2 * SteeredPacket.tunnels.count * 2, "\(seen.count)")
  }

  @Test("Frames of VLANs with tunnels are opened, those of others are looked at as they are")
  func vlans() throws {
    let owner = FlowOwner(workers: 61, seed: 5)
    let program = try FlowSteering(workers: 61, seed: 5, tunnelVLANs: [7, 4094]).load()
    var random = RaceRandom(state: 9)
    for _ in 0..<500 {
      let inner = SteeredPacket.random(&random)
      let (frame, _) = inner.tunneled(&random)
      let outer = SteeredPacket.outer(frame)
      for (tags, isTunnel) in [
        ([], true), ([(0x8100, 7)], true), ([(0x88A8, 4094)], true), ([(0x9100, 7)], true), ([(0x8100, 0xA000)], true),
        ([(0x8100, 0x6007)], true), ([(0x88A8, 7), (0x8100, 9)], true), ([(0x8100, 0), (0x8100, 7)], true),
        ([(0x8100, 8)], false), ([(0x9100, 1)], false), ([(0x88A8, 9), (0x8100, 7)], false),
        ([(0x8100, 0x2000), (0x8100, 8)], false),
      ] as [([(Int, Int)], Bool)] {
        let got = Self.run(program, SteeredPacket.tag(frame, tags))
        #expect(got == (isTunnel ? inner.owner(owner) : outer.map { owner.worker($0) } ?? 0), "\(tags)")
        // A server's own packet.
        let own = inner.ethernet
        if !isTunnel { #expect(Self.run(program, SteeredPacket.tag(own, tags)) == inner.owner(owner), "\(tags)") }
      }
    }
  }

  @Test("What is no tunnel, no flow or cut short comes to the first worker, and nothing is read that is not there")
  func others() throws {
    let program = try FlowSteering(workers: 4096, seed: 3).load()
    var random = RaceRandom(state: 3)
    let arp: [UInt8] = [UInt8](repeating: 0xFF, count: 12) + [8, 6] + [UInt8](repeating: 1, count: 46)
    #expect(Self.run(program, arp) == 0)
    for _ in 0..<300 {
      let inner = SteeredPacket.random(&random)
      #expect(Self.run(program, inner.ethernet) == 0, "the host's own")
      let (frame, _) = inner.tunneled(&random)
      for length in 14 + (frame[12] == 8 ? 20 : 40)..<frame.count {
        #expect((0..<4096).contains(Self.run(program, Array(frame[..<length]))))
      }
      var noise = frame
      for _ in 0..<200 {
        noise[random.next(noise.count)] = UInt8(random.next(256))
        #expect((0..<4096).contains(Self.run(program, noise)))
      }
    }
  }

  @Test("A frame that comes to the worker that it names is handed over to nobody; one that comes elsewhere is")
  func forwarder() throws {
    let team = try WorkerTeam(4)
    let program = try FlowSteering(workers: 4, seed: Sharing.ownerSeed(1)).load()
    var random = RaceRandom(state: 11)
    for number in 0..<4000 {
      team.now += 1_000_000
      let isV4 = random.chance(50)
      let target = UInt32(1 + random.next(3))
      let packet = Datagram(
        source: isV4
          ? IPAddress(v4: 0x0A02_0000 | UInt32(1 + random.next(60000))) : IPAddress("fd02::\(1 + random.next(9))")!,
        destination: Topology.address(target, isV4), sourcePort: 1 + random.next(65535),
        destinationPort: 1 + random.next(65535), payload: random.next(64)
      ).packet
      let frame = Datagram.tunneled([packet])
      let worker = Self.run(program, frame.bytes)
      let given = team.given
      let there = team.send(worker, 0, [frame])
      #expect(team.given == given, "packet \(number)")
      try #require(there.map(\.interface) == [target] && there[0].worker == worker)
      let elsewhere = team.send((worker + 1 + random.next(3)) % 4, 0, [Datagram.tunneled([packet])])
      #expect(team.given == given + 1 && elsewhere.map(\.worker) == [worker])
    }
  }
}
