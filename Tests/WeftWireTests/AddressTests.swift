import FoundationEssentials
import Testing
import WeftWire

@Suite struct MACAddressTests {
  @Test(arguments: [
    ("02:00:00:00:00:01", 0x0200_0000_0001, "02:00:00:00:00:01"),
    ("FF:ff:Ff:fF:ff:ff", 0xFFFF_FFFF_FFFF, "ff:ff:ff:ff:ff:ff"),
    ("0:0:5e:0:1:0", 0x0000_5E00_0100, "00:00:5e:00:01:00"),
    ("00:00:00:00:00:00", 0, "00:00:00:00:00:00"),
  ])
  func reads(text: String, bits: UInt64, canonical: String) throws {
    let address = try #require(MACAddress(text))
    #expect(address.bits == bits)
    #expect(address.description == canonical)
    #expect(MACAddress(canonical) == address)
  }

  @Test(arguments: [
    "", ":", "02:00:00:00:00", "02:00:00:00:00:01:02", "02:00:00:00:00:001", "02:00:00:00:00:", ":02:00:00:00:00:01",
    "02:00:00:00:00:0g", "02-00-00-00-00-01", "020000000001", "02:00:00:00:00:+1", "02:00:00:00:00:-1",
    "02:00:00:00:00:01 ", " 02:00:00:00:00:01", "02:00:00:00:00:0x", "02:00:00:00:00:\u{0661}", "02::00:00:00:01",
  ])
  func refuses(text: String) { #expect(MACAddress(text) == nil) }

  @Test func knowsKinds() {
    #expect(MACAddress.broadcast.isBroadcast && MACAddress.broadcast.isGroup)
    #expect(MACAddress("33:33:00:00:00:01")!.isGroup)
    #expect(!MACAddress.virtualRouter.isGroup && !MACAddress.virtualRouter.isZero)
    #expect(MACAddress.zero.isZero)
    #expect(MACAddress(bits: .max) == .broadcast)
    #expect(MACAddress("01:02:03:04:05:06")!.octets == [1, 2, 3, 4, 5, 6])
  }
}

@Suite struct IPAddressTests {
  /// Canonical text by RFC 5952, which is what inet_ntop writes.
  @Test(arguments: [
    ("0.0.0.0", "00000000", "0.0.0.0"),
    ("10.1.2.3", "0a010203", "10.1.2.3"),
    ("255.255.255.255", "ffffffff", "255.255.255.255"),
    ("::", "00000000000000000000000000000000", "::"),
    ("::1", "00000000000000000000000000000001", "::1"),
    ("fd00:1::1:2", "fd000001000000000000000000010002", "fd00:1::1:2"),
    ("FE80:0:0:0:200:5EFF:FE00:100", "fe8000000000000002005efffe000100", "fe80::200:5eff:fe00:100"),
    ("2001:db8:0:0:1:0:0:1", "20010db8000000000001000000000001", "2001:db8::1:0:0:1"),
    ("1:2:3:4:5:6:7:8", "00010002000300040005000600070008", "1:2:3:4:5:6:7:8"),
    ("1:2:3:4:5:6:1.2.3.4", "00010002000300040005000601020304", "1:2:3:4:5:6:102:304"),
    (
      "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "ffffffffffffffffffffffffffffffff",
      "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
    ),
    // Kept as what it maps (RFC 4291 section 2.5.5.2).
    ("::ffff:10.1.2.3", "0a010203", "10.1.2.3"),
    ("::ffff:a01:203", "0a010203", "10.1.2.3"),
    // Not mapped, only alike.
    ("::fffe:10.1.2.3", "00000000000000000000fffe0a010203", "::fffe:a01:203"),
    ("1::ffff:10.1.2.3", "00010000000000000000ffff0a010203", "1::ffff:a01:203"),
  ])
  func reads(text: String, octets: String, canonical: String) throws {
    let address = try #require(IPAddress(text))
    #expect(Octets.hex(address.octets) == octets)
    #expect(address.description == canonical)
    #expect(IPAddress(canonical) == address)
    #expect(IPAddress(octets: address.octets) == address)
    #expect(address.isV4 == (octets.count == 8))
    #expect(address.width == octets.count * 4)
  }

  /// What inet_pton(3) refuses: no short forms, no octal, no zone, nothing around it.
  @Test(arguments: [
    "", " ", ".", ":", "1", "1.2.3", "1.2.3.4.5", "256.1.1.1", "1.2.3.-4", "01.2.3.4", "1.2.3.04", "0x1.2.3.4",
    "1.2.3.4 ",
    " 1.2.3.4", "1.2.3.4\n", "1..3.4", "1.2.3.", ":::", "1::2::3", "1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9",
    "12345::", "g::", "fe80::1%eth0", "[::1]", "::1/128", "1:2:3:4:5:6:7:1.2.3.4", "::1.2.3", "::256.1.1.1", "1:", ":1",
    "1:2:3:4:5:6:7:", "0000:0000:0000:0000:0000:0000:0000:0000:0000", "\u{0661}.2.3.4",
  ])
  func refuses(text: String) { #expect(IPAddress(text) == nil) }

  /// C strings end there; ours do not.
  @Test func refusesZeroOctets() {
    for text in ["1.2.3.4\0", "\u{0}1.2.3.4", "::1\0", "1.2.3.4\u{0}.5"] { #expect(IPAddress(text) == nil) }
    #expect(IPPrefix("10.0.0.0/8\0") == nil)
    #expect(MACAddress("02:00:00:00:00:01\0") == nil)
  }

  @Test func refusesOctetCounts() {
    for count in 0...20 where count != 4 && count != 16 {
      #expect(IPAddress(octets: [UInt8](repeating: 1, count: count)) == nil)
    }
  }

  @Test func knowsKinds() {
    func address(_ text: String) -> IPAddress { IPAddress(text)! }
    for text in ["224.0.0.1", "239.255.255.255", "ff02::1", "ff00::"] { #expect(address(text).isMulticast, "\(text)") }
    for text in ["223.255.255.255", "240.0.0.0", "fe80::1", "2001:db8::1"] {
      #expect(!address(text).isMulticast, "\(text)")
    }
    for text in ["0.0.0.0", "::"] { #expect(address(text).isUnspecified, "\(text)") }
    for text in ["0.0.0.1", "::1"] { #expect(!address(text).isUnspecified, "\(text)") }
    for text in ["169.254.0.1", "fe80::1", "febf::1"] { #expect(address(text).isLinkLocal, "\(text)") }
    for text in ["169.253.0.1", "fec0::1", "fd00::1"] { #expect(!address(text).isLinkLocal, "\(text)") }
  }

  @Test func advances() {
    #expect(IPAddress("10.0.0.255")!.advanced(by: 1) == IPAddress("10.0.1.0"))
    #expect(IPAddress("255.255.255.254")!.advanced(by: 1) == IPAddress("255.255.255.255"))
    #expect(IPAddress("255.255.255.255")!.advanced(by: 1) == nil)
    #expect(IPAddress("0.0.0.0")!.advanced(by: UInt64.max) == nil)
    #expect(IPAddress("fd00::ffff:ffff:ffff:ffff")!.advanced(by: 1) == IPAddress("fd00::1:0:0:0:0"))
    #expect(IPAddress("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")!.advanced(by: 1) == nil)
    #expect(IPAddress("ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe")!.advanced(by: 1)?.low == .max)
  }

  @Test func ordersAsNumbers() {
    let ordered = [
      "0.0.0.1", "9.255.0.0", "10.0.0.0", "128.0.0.0", "255.255.255.255", "1::", "fd00::", "fd00::1", "fe80::",
    ]
    #expect(ordered.map { IPAddress($0)! }.shuffled().sorted().map(\.description) == ordered)
  }

  @Test func survivesJSON() throws {
    struct Entry: Codable, Equatable {
      var address: IPAddress
      var prefix: IPPrefix
      var mac: MACAddress
    }
    let entry = Entry(address: IPAddress("fd00::1")!, prefix: IPPrefix("10.0.0.0/8")!, mac: .virtualRouter)
    #expect(try JSONDecoder().decode(Entry.self, from: JSONEncoder().encode(entry)) == entry)
    for bad in [
      #"{"address":"x","prefix":"10.0.0.0/8","mac":"00:00:00:00:00:01"}"#,
      #"{"address":"::1","prefix":"10.0.0.0/33","mac":"00:00:00:00:00:01"}"#,
      #"{"address":"::1","prefix":"10.0.0.0/8","mac":"1"}"#, #"{"address":1,"prefix":"10.0.0.0/8","mac":"1"}"#,
    ] {
      #expect(throws: DecodingError.self, "\(bad)") { try JSONDecoder().decode(Entry.self, from: Data(bad.utf8)) }
    }
  }
}

@Suite struct IPPrefixTests {
  @Test(arguments: [
    ("10.1.2.3/8", "10.0.0.0/8"), ("10.1.2.3/32", "10.1.2.3/32"), ("10.1.2.3", "10.1.2.3/32"),
    ("1.2.3.4/0", "0.0.0.0/0"),
    ("10.1.2.3/31", "10.1.2.2/31"), ("fd00::1/64", "fd00::/64"), ("fd00::1", "fd00::1/128"), ("fd00::1/0", "::/0"),
    ("ffff:ffff:ffff:ffff:ffff::/65", "ffff:ffff:ffff:ffff:8000::/65"), ("fd00::ff/121", "fd00::80/121"),
    ("ffff:ffff:ffff:ffff::/63", "ffff:ffff:ffff:fffe::/63"), ("::ffff:0:0/0", "0.0.0.0/0"),
  ])
  func reads(text: String, canonical: String) throws {
    let prefix = try #require(IPPrefix(text))
    #expect(prefix.description == canonical)
    #expect(IPPrefix(canonical) == prefix)
  }

  @Test(arguments: [
    "", "/", "/8", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/+8", "10.0.0.0/8/8", "10.0.0.0/a",
    "10.0.0.0/ 8",
    "fd00::/129", "10.0.0/8", "10.0.0.0/99999999999999999999", "::ffff:10.0.0.0/104",
  ])
  func refuses(text: String) { #expect(IPPrefix(text) == nil) }

  @Test func contains() {
    func prefix(_ text: String) -> IPPrefix { IPPrefix(text)! }
    func address(_ text: String) -> IPAddress { IPAddress(text)! }
    #expect(prefix("10.1.0.0/16").contains(address("10.1.255.255")))
    #expect(!prefix("10.1.0.0/16").contains(address("10.2.0.0")))
    #expect(prefix("0.0.0.0/0").contains(address("255.0.0.1")))
    // The two families do not hold each other, whatever the bits say.
    #expect(!prefix("::/0").contains(address("10.0.0.1")))
    #expect(!prefix("0.0.0.0/0").contains(address("::1")))
    #expect(prefix("10.0.0.0/8").contains(prefix("10.1.0.0/16")))
    #expect(!prefix("10.1.0.0/16").contains(prefix("10.0.0.0/8")))
    #expect(prefix("10.1.0.0/16").contains(prefix("10.1.0.0/16")))
  }

  /// Against arithmetic on single bits.
  @Test func masksEveryLength() {
    var random = SeededRandom(seed: 1)
    for length in 0...128 {
      let address = IPAddress(high: random.next() | 1 << 63, low: random.next())
      let masked = address.masked(to: length).octets
      for bit in 0..<128 {
        let value = masked[bit / 8] >> UInt8(7 - bit % 8) & 1
        #expect(
          value == (bit < length ? address.octets[bit / 8] >> UInt8(7 - bit % 8) & 1 : 0), "bit \(bit) of \(length)")
      }
    }
    for length in 0...32 {
      let address = IPAddress(v4: UInt32(truncatingIfNeeded: random.next()))
      let mask: UInt32 = length == 0 ? 0 : ~0 << UInt32(32 - length)
      #expect(address.masked(to: length) == IPAddress(v4: address.v4 & mask))
    }
  }
}
