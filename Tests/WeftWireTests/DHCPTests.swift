import Testing
import WeftWire

@Suite("DHCP and router advertisements")
struct DHCPTests {
  private static let mac = MACAddress(bits: 0x0200_0000_0D01)

  private static func reply(_ options: [DHCPv4Message.Option]) -> DHCPv4Message {
    var message = DHCPv4Message(hardware: mac)
    message.isRequest = false
    message.transaction = 0x1234_5678
    message.broadcasts = true
    message.yourAddress = IPAddress("10.1.1.9")!
    message.nextServer = IPAddress("10.1.0.69")!
    message.kind = .ack
    message.options = options
    return message
  }

  @Test("what does not fit the options' area goes into file and sname, long ones in parts")
  func overload() throws {
    let options = [
      DHCPv4Message.Option(54, [10, 1, 0, 1]), .init(121, [UInt8](repeating: 1, count: 250)),
      .init(119, [UInt8](repeating: 2, count: 100)), .init(66, [UInt8](repeating: 3, count: 40)), .init(26, [5, 120]),
    ]
    let (octets, omitted) = Self.reply(options).encoded(maximum: 548)
    #expect(octets.count <= 548 && omitted.isEmpty)
    let read = try DHCPv4Message(reading: octets)
    #expect(read.options.count == options.count && Set(read.options) == Set(options))
    #expect(read.kind == .ack && read.yourAddress == IPAddress("10.1.1.9") && read.broadcasts && !read.isRequest)
    #expect(read.nextServer == IPAddress("10.1.0.69") && read.hardware == Self.mac && read.transaction == 0x1234_5678)
    // RFC 3396.
    let long = [DHCPv4Message.Option(121, (0..<600).map { UInt8(truncatingIfNeeded: $0) })]
    #expect(try DHCPv4Message(reading: Self.reply(long).encoded(maximum: 1400).octets).options == long)
    let (small, left) = Self.reply(options + long).encoded(maximum: 548)
    #expect(small.count <= 548 && left == [121])
  }

  @Test("a boot file has the header's field, and options are then without it")
  func bootFile() throws {
    var message = Self.reply([
      .init(119, [UInt8](repeating: 2, count: 200)), .init(120, [UInt8](repeating: 3, count: 120)),
    ])
    message.bootServer = "tftp"
    message.bootFile = "pxelinux.0"
    let (octets, omitted) = message.encoded(maximum: 548)
    #expect(omitted == [120])
    #expect(Array(octets[44..<49]) == Array("tftp".utf8) + [0])
    #expect(Array(octets[108..<119]) == Array("pxelinux.0".utf8) + [0])
    #expect(Self.reply([]).encoded(maximum: 548).octets.count == 300)
  }

  @Test(
    "odd messages are refused, and say where",
    arguments: [
      (0, UInt8(3), "op"), (1, 6, "htype"), (2, 16, "hlen"), (241, 2, "option 53"), (242, 99, "option 53"),
    ])
  func odd(_ at: Int, _ value: UInt8, _ what: String) {
    var octets = Self.reply([]).encoded(maximum: 548).octets
    octets[at] = value
    #expect { try DHCPv4Message(reading: octets) } throws: { ($0 as? MessageFault)?.what.hasPrefix(what) == true }
  }

  @Test("BOOTP has no kind")
  func bootp() throws {
    var octets = Self.reply([]).encoded(maximum: 548).octets
    octets[236] = 0
    #expect(try DHCPv4Message(reading: octets).kind == nil)
    #expect(try DHCPv4Message(reading: Array(octets.prefix(236))).kind == nil)
    #expect(throws: MessageFault("file")) { try DHCPv4Message(reading: Array(octets.prefix(235))) }
  }

  @Test("associations and status")
  func associations() throws {
    var association = DHCPv6Association(7)
    association.renew = 1800
    association.rebind = 3150
    association.addresses = [
      .init(IPAddress("fd00::1")!, preferred: 1, valid: .max), .init(IPAddress("fd00::2")!, preferred: 0, valid: 0),
    ]
    #expect(try DHCPv6Association(reading: association.octets) == association)
    var message = DHCPv6Message(.reply, transaction: 0xABCDEF)
    message.options = [.init(3, association.octets), .init(13, DHCPv6Status.noBinding.option("x")), .init(14, [])]
    #expect(try DHCPv6Message(reading: message.octets) == message)
    #expect(message.octets.suffix(11) == [0, 13, 0, 3, 0, 3, UInt8(ascii: "x"), 0, 14, 0, 0])
    for cut in 0..<message.octets.count - 4 where cut != 4 {
      _ = try? DHCPv6Message(reading: Array(message.octets.prefix(cut)))
    }
    #expect(throws: MessageFault("option 3")) { try DHCPv6Message(reading: Array(message.octets.prefix(9))) }
  }

  @Test("frames are read as they were made, damaged ones are not")
  func frames() throws {
    for (source, destination) in [("10.0.0.1", "10.0.0.2"), ("fe80::1", "ff02::1:2")] {
      let frame = HostFrame(
        sourceMAC: Self.mac, destinationMAC: .broadcast, source: IPAddress(source)!,
        destination: IPAddress(destination)!, hops: 9, payload: .udp(source: 68, destination: 67, [1, 2, 3]))
      #expect(try HostFrame(reading: frame.octets) == frame)
      #expect(try HostFrame(reading: frame.octets + [0, 0, 0]) == frame)
      for index in 12..<frame.octets.count {
        var octets = frame.octets
        octets[index] ^= 0x10
        // Class, flow label and TTL or hop limit of IPv6 have no checksum.
        guard source.contains("."), true else { continue }
        #expect(throws: MessageFault.self) { try HostFrame(reading: octets) }
      }
      for count in 0..<frame.octets.count {
        #expect(throws: MessageFault.self) { try HostFrame(reading: Array(frame.octets.prefix(count))) }
      }
    }
  }

  @Test("whatever comes is read or refused")
  func mutations() throws {
    var random = SeededRandom(seed: 8)
    let v4 = Self.reply([.init(121, [UInt8](repeating: 1, count: 300)), .init(52, [3])]).encoded(maximum: 548).octets
    var association = DHCPv6Association(7)
    association.addresses = [.init(IPAddress("fd00::1")!, preferred: 1, valid: 2)]
    var six = DHCPv6Message(.request, transaction: 5)
    six.options = [.init(3, association.octets), .init(1, [0, 3, 0, 1, 2, 3])]
    let solicitation = [ICMP.routerSolicitation, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 0, 0, 0, 13, 1]
    var read = 0
    for _ in 0..<20_000 {
      for seed in [v4, six.octets, solicitation] {
        var octets = seed
        for _ in 0..<Int.random(in: 1...4, using: &random) {
          octets[Int.random(in: 0..<octets.count, using: &random)] = UInt8.random(in: 0...255, using: &random)
        }
        octets = Array(octets.prefix(Int.random(in: 0...octets.count, using: &random)))
        if (try? DHCPv4Message(reading: octets)) != nil { read += 1 }
        if let message = try? DHCPv6Message(reading: octets) {
          read += 1
          for option in message.options { _ = try? DHCPv6Association(reading: option.value) }
        }
        if (try? RouterSolicitation(reading: octets, source: IPAddress("::")!, hopLimit: 255)) != nil { read += 1 }
      }
    }
    #expect(read > 1000)
  }

  @Test("an advertisement, octet for octet")
  func advertisement() {
    var message = RouterAdvertisement(source: .virtualRouter)
    message.isManaged = true
    message.lifetime = 1800
    message.mtu = 1450
    message.prefixes = [.init(IPPrefix("fd00:1::/64")!, isOnLink: true, isAutonomous: false, valid: 2, preferred: 1)]
    message.routes = [(IPPrefix("2001:db8:7::/48")!, 9)]
    message.nameServers = [IPAddress("fd00::53")!]
    message.search = [DomainName("a.bc")!]
    message.nameLifetime = 12
    #expect(
      Octets.hex(message.octets)
        == "8600000040800708" + "0000000000000000" + "010100005e000100" + "05010000000005aa"
        + "0304408000000002000000010000000" + "0fd000001000000000000000000000000"
        + "180230000000000920010db800070000" + "190300000000000cfd000000000000000000000000000053"
        + "1f0200000000000c0161026263000000")
  }

  @Test(
    "domain names",
    arguments: [
      ("a", true), ("a.b.", true), ("_srv.x", true), ("", false), (".", false), ("a..b", false), ("-a.b", false),
      ("a b", false), ("ä.de", false), (String(repeating: "x", count: 64), false),
      (String(repeating: "abc.", count: 64), false),
    ])
  func names(_ text: String, _ isOne: Bool) { #expect((DomainName(text) != nil) == isOne) }
}
