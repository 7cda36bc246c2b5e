import Testing
import WeftForwarding
import WeftPorts
import WeftWire

/// The forwarder's interpreter against libpcap's, with what libpcap compiles and with what nobody would.
@Suite struct PacketFilterTests {
  private static let expressions = [
    "", "ip", "ip6", "arp", "tcp", "udp", "icmp", "icmp6", "sctp", "port 53", "udp port 53", "tcp dst port 80",
    "src port 40000", "portrange 50-60", "host 10.1.0.1", "src host 10.1.0.1", "dst net 10.1.0.0/16",
    "ip6 host fd01::1", "net fd01::/64", "ether host 02:00:00:00:00:01", "ether dst 00:00:5e:00:01:00",
    "ether broadcast", "ether multicast", "vlan", "vlan 5", "vlan 5 and udp port 53", "less 80", "greater 100",
    "len > 60 and len <= 200", "tcp[tcpflags] & (tcp-syn|tcp-fin) != 0", "tcp[13] == 2", "ip[8] < 5", "ip6[7] > 60",
    "ip[0] & 0xf != 5", "ip[6:2] & 0x1fff != 0", "udp[4:2] > 20", "icmp[icmptype] == icmp-echo",
    "ether[0] & 1 = 0 and ip[16] >= 224", "not port 22 and not arp", "(tcp or udp) and host 10.1.0.2 or ip6",
    "ip proto 47", "ip6 proto 58", "ether proto 0x0806", "mpls", "udp port 4789 and udp[12:4] & 0xffffff00 = 0x6400",
    "ip[2:2] - ((ip[0]&0xf)<<2) - ((tcp[12]&0xf0)>>2) != 0", "len / 7 = 10", "len % 3 = 1", "ip[8] * 3 > 100",
    "ip[1] ^ 5 = 5", "ip[8] | 1 = 65", "-ip[8] > 5", "ip[8] << 2 = 256", "ip[8] >> ip[1] = 64", "tcp[0x7fffffff] = 0",
  ]

  private static func ours(_ program: [FilterCompiler.Instruction]) throws(FilterFault) -> PacketFilter {
    try PacketFilter(
      program.map {
        FilterInstruction(code: $0.code, jumpTrue: $0.jumpTrue, jumpFalse: $0.jumpFalse, k: $0.k)
      })
  }

  private static func run(_ filter: PacketFilter, _ frame: [UInt8], length: Int) -> Bool {
    // In memory of its own size, so that a look beyond its end shows with a sanitizer.
    let memory = UnsafeMutableRawPointer.allocate(byteCount: max(1, frame.count), alignment: 1)
    defer { memory.deallocate() }
    frame.withUnsafeBytes { if let base = $0.baseAddress { memory.copyMemory(from: base, byteCount: $0.count) } }
    return filter.run(Bytes(memory), count: frame.count, length: length) != 0
  }

  private static func frames(_ random: inout SeededGenerator) -> [[UInt8]] {
    var frames: [[UInt8]] = []
    for isV4 in [true, false] {
      for size in [0, 3, 40, 200] {
        for flags in [TCP.syn, TCP.ack | TCP.psh, TCP.fin | TCP.ack] {
          frames.append(
            Frames.tcp(
              from: UInt32(frames.count % 4 + 1), to: 2, isV4: isV4, payload: Array(repeating: 7, count: size),
              flags: flags, isFinished: true))
        }
      }
    }
    // Other protocols, ports, tags, options; and cut anywhere.
    var others = frames
    for frame in frames {
      var udp = frame
      if frame[12] == 8 { udp[23] = [17, 1, 47, 132].randomElement(using: &random)! } else { udp[20] = 17 }
      for place in 34..<min(udp.count, 46) where Bool.random(using: &random) {
        udp[place] = [0, 53, 0x12, 0xB5, 0x40].randomElement(using: &random)!
      }
      others.append(udp)
      others.append(Array(frame[..<12]) + [0x81, 0, 0, 5] + Array(frame[12...]))
      var odd = frame
      for _ in 0..<4 { odd[Int.random(in: odd.indices, using: &random)] = UInt8.random(in: 0...255, using: &random) }
      others.append(odd)
      others.append(Array(frame.prefix(Int.random(in: 0...frame.count, using: &random))))
    }
    return others
  }

  @Test func agreesWithLibpcap() throws {
    var random = SeededGenerator(seed: 7)
    let frames = Self.frames(&random)
    var matched = 0
    for expression in Self.expressions {
      let program = try FilterCompiler.compile(expression)
      let filter = try Self.ours(program)
      defer { filter.deallocate() }
      for frame in frames {
        for length in [frame.count, frame.count + 100] {
          let expected = FilterCompiler.matches(program, frame, length: length)
          let got = Self.run(filter, frame, length: length)
          if expected != got { Issue.record("\"\(expression)\" of \(frame) (\(length) bytes): \(got)") }
          if got { matched += 1 }
        }
      }
    }
    // The comparison is not one of nothing with nothing.
    #expect(matched > frames.count * 10)
  }

  @Test func programsOfAnyKindAgreeWithLibpcap() throws {
    var random = SeededGenerator(seed: 11)
    let frames = Self.frames(&random)
    let codes: [UInt16] = [
      0x20, 0x28, 0x30, 0x40, 0x48, 0x50, 0x00, 0x80, 0x60, 0x01, 0x81, 0xB1, 0x61, 0x02, 0x03, 0x04, 0x0C, 0x14, 0x1C,
      0x24, 0x2C, 0x34, 0x3C, 0x44, 0x4C, 0x54, 0x5C, 0x64, 0x6C, 0x74, 0x7C, 0x84, 0x94, 0x9C, 0xA4, 0xAC, 0x05, 0x15,
      0x1D, 0x25, 0x2D, 0x35, 0x3D, 0x45, 0x4D, 0x06, 0x16, 0x07, 0x87,
    ]
    var compared = 0
    for _ in 0..<3000 {
      let count = Int.random(in: 1...24, using: &random)
      var program: [FilterCompiler.Instruction] = []
      // libpcap's interpreter reads words that nobody has written: let each be written.
      for word in 0..<16 as Range<UInt32> {
        program.append(FilterCompiler.Instruction(code: 0x02, jumpTrue: 0, jumpFalse: 0, k: word))
      }
      for index in 0..<count {
        let code = codes.randomElement(using: &random)!
        let left = count - index
        let isMemory = [0x60, 0x61, 0x02, 0x03].contains(code)
        var k =
          [UInt32.random(in: 0...80, using: &random), UInt32.random(in: 0...UInt32.max, using: &random)].randomElement(
            using: &random)!
        if isMemory { k %= 16 }
        if code == 0x05 { k = UInt32.random(in: 0..<UInt32(left), using: &random) }
        if [0x64, 0x74].contains(code) { k %= 32 }
        if [0x34, 0x94].contains(code), k == 0 { k = 3 }
        program.append(
          FilterCompiler.Instruction(
            code: code, jumpTrue: UInt8.random(in: 0..<UInt8(left), using: &random),
            jumpFalse: UInt8.random(in: 0..<UInt8(left), using: &random), k: k))
      }
      program.append(FilterCompiler.Instruction(code: 0x16, jumpTrue: 0, jumpFalse: 0, k: 0))
      let filter = try Self.ours(program)
      defer { filter.deallocate() }
      let frame = frames.randomElement(using: &random)!
      compared += 1
      #expect(
        Self.run(filter, frame, length: frame.count) == FilterCompiler.matches(program, frame, length: frame.count),
        "\(program) of \(frame)")
    }
    #expect(compared == 3000)
  }

  @Test func whatCouldDoHarmIsRefused() {
    func refused(_ words: String, _ program: [(UInt16, UInt8, UInt8, UInt32)], line: Int = #line) {
      do throws(FilterFault) {
        try PacketFilter(
          program.map { FilterInstruction(code: $0.0, jumpTrue: $0.1, jumpFalse: $0.2, k: $0.3) }
        ).deallocate()
        Issue.record("line \(line) was not refused")
      } catch { #expect(error.reason.contains(words), "line \(line): \(error)") }
    }
    let end: (UInt16, UInt8, UInt8, UInt32) = (0x06, 0, 0, 1)
    refused("no return", [(0x00, 0, 0, 1)])
    refused("no return", [(0x05, 0, 0, 0), (0x00, 0, 0, 0)])
    refused("beyond the end", [(0x05, 0, 0, 1), end])
    refused("beyond the end", [(0x05, 0, 0, .max), end])
    refused("beyond the end", [(0x15, 1, 0, 0), end])
    refused("beyond the end", [(0x15, 0, 1, 0), end])
    refused("beyond the end", [(0x15, 255, 255, 0), end])
    refused("word 16", [(0x02, 0, 0, 16), end])
    refused("word 16", [(0x60, 0, 0, 16), end])
    refused("word 4294967295", [(0x61, 0, 0, .max), end])
    refused("word 16", [(0x03, 0, 0, 16), end])
    refused("division by zero", [(0x34, 0, 0, 0), end])
    refused("division by zero", [(0x94, 0, 0, 0), end])
    refused("32 bits", [(0x64, 0, 0, 32), end])
    refused("no load", [(0xA0, 0, 0, 0), end])
    refused("no load", [(0x21, 0, 0, 0), end])
    refused("no arithmetic", [(0xB4, 0, 0, 0), end])
    refused("no arithmetic", [(0x104, 0, 0, 0), end])
    refused("no operand", [(0x8C, 0, 0, 0), end])
    refused("no jump", [(0x55, 0, 0, 0), end])
    refused("no jump", [(0x0D, 0, 0, 0), end])
    refused("no store", [(0x0A, 0, 0, 0), end])
    refused("unknown", [(0x0F, 0, 0, 0), end])
    refused("no return", [(0x0E, 0, 0, 0), end])
    refused("4097 instructions", Array(repeating: end, count: 4097))
    let most = Array(repeating: FilterInstruction(code: 0x00, jumpTrue: 0, jumpFalse: 0, k: 0), count: 4095)
    let filter = try? PacketFilter(most + [FilterInstruction(code: 0x06, jumpTrue: 0, jumpFalse: 0, k: 5)])
    #expect(filter.map { Self.run($0, [], length: 0) } == true)
    filter?.deallocate()
    #expect(Self.run(PacketFilter(), [], length: 0))
  }

  /// Whatever bytes a hostile client stages: refused, or run to an end.
  @Test func randomProgramsEnd() {
    var random = SeededGenerator(seed: 3)
    var accepted = 0
    for _ in 0..<20000 {
      let program = (0..<Int.random(in: 1...6, using: &random)).map { _ in
        FilterInstruction(
          code: UInt16.random(in: 0...0x1FF, using: &random), jumpTrue: UInt8.random(in: 0...4, using: &random),
          jumpFalse: UInt8.random(in: 0...4, using: &random),
          k: Bool.random(using: &random) ? UInt32.random(in: 0...20, using: &random) : .max)
      }
      guard let filter = try? PacketFilter(program) else { continue }
      accepted += 1
      _ = Self.run(filter, [1, 2, 3, 4, 5], length: 5)
      filter.deallocate()
    }
    #expect(accepted > 10)
  }
}

/// The same numbers each time.
struct SeededGenerator: RandomNumberGenerator {
  private var state: UInt64
  init(seed: UInt64) { state = seed }
  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var value = state
    value = (value ^ value >> 30) &* 0xBF58_476D_1CE4_E5B9
    value = (value ^ value >> 27) &* 0x94D0_49BB_1331_11EB
    return value ^ value >> 31
  }
}
