import CLinux
import Glibc
import Testing
import WeftPorts
import WeftSystem
import WeftWire

/// The programs of af_xdp ports, run by the kernel on packets built here (BPF_PROG_TEST_RUN).
@Suite("XDP programs", .enabled(if: geteuid() == 0, "needs root to load programs"))
struct XDPFilterTests {
  static let ours4 = IPAddress("192.0.2.1")!
  static let other4 = IPAddress("192.0.2.9")!
  static let second4 = IPAddress("198.51.100.255")!
  static let ours6 = IPAddress("2001:db8::ffff:1")!
  static let other6 = IPAddress("2001:db8::fffe:1")!
  static let redirect: Int32 = 4

  /// A program with its map, in which a socket stands for the queue that trials come in by.
  struct Trial: ~Copyable {
    let map: Descriptor
    let socket: Descriptor
    let program: Descriptor

    init(_ selection: XDPSelection, hasSocket: Bool = true) throws {
      let map = try Descriptor(weft_make_xskmap(1), "make", "map")
      let socket = try Descriptor(Glibc.socket(AF_XDP, Int32(SOCK_RAW.rawValue), 0), "open", "socket")
      if hasSocket { try #require(weft_map_set(map.raw, 0, socket.raw) == 0) }
      let code = XDPFilter.program(selection, map: map.raw)
      var log = [CChar](repeating: 0, count: 1 << 16)
      let loaded = weft_load_xdp(code, Int32(code.count), true, &log, UInt32(log.count))
      let words = String(decoding: log.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
      try #require(loaded >= 0, "\(SystemError.text(errno)): \(words)")
      self.map = map
      self.socket = socket
      program = Descriptor(owning: loaded)
    }

    func verdict(_ frame: [UInt8]) -> Int32 { weft_run_program(program.raw, frame, UInt32(frame.count)) }
  }

  // MARK: packets

  static func ethernet(_ type: UInt16, tags: [(UInt16, UInt16)] = [], _ payload: [UInt8]) -> [UInt8] {
    var frame: [UInt8] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]
    for (proto, tag) in tags { frame += big(proto) + big(tag) }
    return frame + big(type) + payload
  }
  static func v4(
    _ destination: IPAddress, proto: UInt8, fragment: UInt16 = 0, options: Int = 0, _ payload: [UInt8]
  ) -> [UInt8] {
    let header = 20 + options * 4
    var packet: [UInt8] = [0x40 | UInt8(header / 4), 0] + big(UInt16(header + payload.count)) + [0, 1] + big(fragment)
    packet += [64, proto, 0, 0, 192, 0, 2, 77]
    packet += (0..<4).map { UInt8(truncatingIfNeeded: destination.v4 >> (24 - 8 * $0)) }
    return packet + [UInt8](repeating: 1, count: options * 4) + payload
  }
  static func v6(_ destination: IPAddress, next: UInt8, _ payload: [UInt8]) -> [UInt8] {
    var packet: [UInt8] =
      [0x60, 0, 0, 0] + big(UInt16(payload.count)) + [next, 64] + [UInt8](repeating: 0x20, count: 16)
    for word in [destination.high, destination.low] {
      packet += (0..<8).map { UInt8(truncatingIfNeeded: word >> (56 - 8 * $0)) }
    }
    return packet + payload
  }
  static func udp(_ port: UInt16) -> [UInt8] {
    big(50_000) + big(port) + big(16) + [0, 0] + [UInt8](repeating: 7, count: 8)
  }
  static func gre(_ proto: UInt16) -> [UInt8] { [0, 0] + big(proto) + [UInt8](repeating: 7, count: 24) }
  static func big(_ value: UInt16) -> [UInt8] { [UInt8(value >> 8), UInt8(value & 0xFF)] }

  static let tunnels = XDPSelection.tunnels(addresses: [ours4, second4, ours6], vlans: [100, 4094])

  /// What comes in, whether it is ours, and what it is.
  static let rows: [(what: String, frame: [UInt8], isOurs: Bool)] = [
    ("VXLAN over IPv4", ethernet(0x0800, v4(ours4, proto: 17, udp(4789))), true),
    ("VXLAN to the second address", ethernet(0x0800, v4(second4, proto: 17, udp(4789))), true),
    ("MPLS-over-UDP over IPv4", ethernet(0x0800, v4(ours4, proto: 17, udp(6635))), true),
    ("MPLS-over-GRE over IPv4", ethernet(0x0800, v4(ours4, proto: 47, gre(0x8847))), true),
    ("VXLAN over IPv6", ethernet(0x86DD, v6(ours6, next: 17, udp(4789))), true),
    ("MPLS-over-UDP over IPv6", ethernet(0x86DD, v6(ours6, next: 17, udp(6635))), true),
    ("MPLS-over-GRE over IPv6", ethernet(0x86DD, v6(ours6, next: 47, gre(0x8847))), true),
    ("with IPv4 options", ethernet(0x0800, v4(ours4, proto: 17, options: 3, udp(4789))), true),
    ("with as many options as there can be", ethernet(0x0800, v4(ours4, proto: 17, options: 10, udp(4789))), true),
    ("the first fragment", ethernet(0x0800, v4(ours4, proto: 17, fragment: 0x2000, udp(4789))), true),
    ("a later fragment", ethernet(0x0800, v4(ours4, proto: 17, fragment: 0x2064, udp(4789))), false),
    ("the last fragment", ethernet(0x0800, v4(ours4, proto: 17, fragment: 0x0064, udp(4789))), false),
    ("don't fragment", ethernet(0x0800, v4(ours4, proto: 17, fragment: 0x4000, udp(4789))), true),
    ("VXLAN to another IPv4 address", ethernet(0x0800, v4(other4, proto: 17, udp(4789))), false),
    ("VXLAN to another IPv6 address", ethernet(0x86DD, v6(other6, next: 17, udp(4789))), false),
    ("another port", ethernet(0x0800, v4(ours4, proto: 17, udp(4790))), false),
    ("another port over IPv6", ethernet(0x86DD, v6(ours6, next: 17, udp(53))), false),
    ("TCP to the tunnel's port", ethernet(0x0800, v4(ours4, proto: 6, udp(4789))), false),
    ("TCP over IPv6", ethernet(0x86DD, v6(ours6, next: 6, udp(4789))), false),
    ("the host's GRE", ethernet(0x0800, v4(ours4, proto: 47, gre(0x0800))), false),
    ("the host's GRE over IPv6", ethernet(0x86DD, v6(ours6, next: 47, gre(0x6558))), false),
    ("ICMP", ethernet(0x0800, v4(ours4, proto: 1, [8, 0] + [UInt8](repeating: 0, count: 30))), false),
    ("a fragment over IPv6", ethernet(0x86DD, v6(ours6, next: 44, [17, 0, 0, 1] + udp(4789))), false),
    ("ARP", ethernet(0x0806, [UInt8](repeating: 0, count: 46)), false),
    ("LLDP", ethernet(0x88CC, [UInt8](repeating: 0, count: 46)), false),
    ("a frame of a VLAN of ours", ethernet(0x0806, tags: [(0x8100, 100)], [UInt8](repeating: 0, count: 46)), true),
    ("with a priority", ethernet(0x0806, tags: [(0x8100, 0xE064)], [UInt8](repeating: 0, count: 46)), true),
    ("of the last VLAN", ethernet(0x0806, tags: [(0x88A8, 4094)], [UInt8](repeating: 0, count: 46)), true),
    ("with two tags", ethernet(0x0800, tags: [(0x88A8, 100), (0x8100, 7)], [UInt8](repeating: 0, count: 46)), true),
    ("of another VLAN", ethernet(0x0800, tags: [(0x8100, 101)], v4(ours4, proto: 17, udp(4789))), false),
    ("of the old type", ethernet(0x0800, tags: [(0x9100, 100)], [UInt8](repeating: 0, count: 46)), true),
    (
      "a tunnel with a priority alone", ethernet(0x0800, tags: [(0x8100, 0xA000)], v4(ours4, proto: 17, udp(4789))),
      true
    ),
    (
      "a tunnel over IPv6 with a priority alone", ethernet(0x86DD, tags: [(0x8100, 0)], v6(ours6, next: 17, udp(6635))),
      true
    ),
    ("the host's with a priority alone", ethernet(0x0800, tags: [(0x8100, 0)], v4(ours4, proto: 17, udp(53))), false),
    ("VXLAN cut behind the IPv4 header", Array(ethernet(0x0800, v4(ours4, proto: 17, udp(4789))).prefix(34)), false),
    ("VXLAN cut within the ports", Array(ethernet(0x0800, v4(ours4, proto: 17, udp(4789))).prefix(37)), false),
    ("IPv6 cut within the header", Array(ethernet(0x86DD, v6(ours6, next: 17, udp(4789))).prefix(50)), false),
    (
      "options that are not there", Array(ethernet(0x0800, v4(ours4, proto: 17, options: 10, udp(4789))).prefix(60)),
      false
    ),
    ("a header length of nothing", ethernet(0x0800, [0x40] + v4(ours4, proto: 17, udp(4789)).dropFirst()), false),
  ]

  @Test("takes what is ours and leaves the rest to the host")
  func tunnels() throws {
    let trial = try Trial(Self.tunnels)
    for row in Self.rows {
      #expect(trial.verdict(row.frame) == (row.isOurs ? Self.redirect : XDPFilter.pass), "\(row.what)")
    }
  }

  @Test("what is ours and has no socket is dropped; the host must not answer it")
  func noSocket() throws {
    let trial = try Trial(Self.tunnels, hasSocket: false)
    for row in Self.rows {
      #expect(trial.verdict(row.frame) == (row.isOurs ? XDPFilter.drop : XDPFilter.pass), "\(row.what)")
    }
  }

  @Test("of one family, without VLANs, and with nothing at all")
  func parts() throws {
    let four = Self.ethernet(0x0800, Self.v4(Self.ours4, proto: 17, Self.udp(4789)))
    let six = Self.ethernet(0x86DD, Self.v6(Self.ours6, next: 17, Self.udp(4789)))
    let tagged = Self.ethernet(0x0806, tags: [(0x8100, 100)], [UInt8](repeating: 0, count: 46))
    let cases: [(XDPSelection, [Bool])] = [
      (.tunnels(addresses: [Self.ours4], vlans: []), [true, false, false]),
      (.tunnels(addresses: [Self.ours6], vlans: []), [false, true, false]),
      (.tunnels(addresses: [], vlans: [100]), [false, false, true]),
      (.tunnels(addresses: [], vlans: []), [false, false, false]),
      (.everything, [true, true, true]),
      (.tunnels(addresses: [Self.ours4], vlans: (0..<500).map { 100 + $0 }), [true, false, true]),
    ]
    for (selection, expected) in cases {
      let trial = try Trial(selection)
      let verdicts = [four, six, tagged].map { trial.verdict($0) == Self.redirect }
      #expect(verdicts == expected, "\(selection)")
    }
  }
}
