import Testing
import WeftWire

/// Formats against octets that scapy made, or that the RFC draws.
@Suite struct HeaderTests {
  @Test func bytesReadAndWriteInNetworkOrder() {
    let memory = Octets(hex: "000102030405060708090a0b0c0d0e0f10")
    #expect(memory.bytes.u8(1) == 1)
    #expect(memory.bytes.u16(1) == 0x0102)
    #expect(memory.bytes.u32(1) == 0x0102_0304)
    #expect(memory.bytes.u64(1) == 0x0102_0304_0506_0708)
    #expect(memory.bytes.mac(3) == 0x0304_0506_0708)
    #expect(memory.bytes.address6(1) == IPAddress(high: 0x0102_0304_0506_0708, low: 0x090A_0B0C_0D0E_0F10))
    let out = Octets(room: 40)
    out.bytes.set8(0, 0xA1)
    out.bytes.set16(1, 0xB1B2)
    out.bytes.set32(3, 0xC1C2_C3C4)
    out.bytes.set64(7, 0xD1D2_D3D4_D5D6_D7D8)
    out.bytes.setMAC(15, 0xE1E2_E3E4_E5E6)
    out.bytes.setAddress6(21, IPAddress("2001:db8::1")!)
    #expect(out.hex == "a1b1b2c1c2c3c4d1d2d3d4d5d6d7d8e1e2e3e4e5e620010db8000000000000000000000001000000")
    #expect(out.bytes.equal(memory.bytes, from: 0, count: 0))
    #expect(!out.bytes.equal(memory.bytes, from: 0, count: 1))
    out.bytes.copy(from: memory.bytes, count: 17)
    #expect(out.bytes.equal(memory.bytes, from: 3, count: 14))
  }

  @Test func ethernet() {
    let frame = Octets(room: 14)
    Ethernet.write(frame.bytes, destination: 0x0200_0000_0002, source: 0x0200_0000_0001, type: Ethernet.ipv6)
    #expect(frame.hex == "02000000000202000000000186dd")
  }

  @Test func vxlan() {
    let header = Octets([0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF])
    VXLAN.write(header.bytes, vni: 0xABCDEF)
    #expect(header.hex == "08000000abcdef00")
  }

  @Test func mpls() {
    let entry = Octets(room: 4)
    MPLS.write(entry.bytes, label: 0xFEDCB, ttl: 64)
    #expect(entry.hex == "fedcb140")
    MPLS.write(entry.bytes, label: MPLS.maximumLabel, ttl: 255)
    #expect(entry.hex == "fffff1ff")
  }

  @Test func arp() {
    let packet = Octets(hex: "00010800060400010200000000010a0101020000000000000a010001")
    #expect(ARP.isIPv4OverEthernet(packet.bytes))
    ARP.turnIntoReply(packet.bytes, mac: MACAddress.virtualRouter.bits)
    #expect(packet.hex == "000108000604000200005e0001000a0100010200000000010a010102")
    for at in 0..<6 {
      let other = Octets(packet.array)
      other.bytes.set8(at, other.bytes.u8(at) ^ 1)
      #expect(!ARP.isIPv4OverEthernet(other.bytes), "octet \(at)")
    }
    // The operation is not part of it.
    packet.bytes.set16(6, 9)
    #expect(ARP.isIPv4OverEthernet(packet.bytes))
  }

  @Test func lowersTTL() {
    let packet = Octets(hex: "45b90021123400003f1151d90a0101020a010203")
    IPv4.decrementTTL(packet.bytes)
    #expect(packet.hex == "45b90021123400003e1152d90a0101020a010203")
    for _ in 0..<61 { IPv4.decrementTTL(packet.bytes) }
    #expect(packet.bytes.u8(8) == 1)
    #expect(Checksum.holds(packet.bytes.sum(0, count: 20)))
  }

  @Test func ipv6TrafficClass() {
    let packet = Octets(hex: "6b9abcde000f113f")
    #expect(IPv6.trafficClass(packet.bytes) == 0xB9)
    for value in UInt8.min...UInt8.max {
      IPv6.setTrafficClass(packet.bytes, value)
      #expect(IPv6.trafficClass(packet.bytes) == value)
      #expect(packet.bytes.u8(0) >> 4 == 6)
      #expect(packet.bytes.u32(0) & 0xF_FFFF == 0xABCDE)
    }
  }

  /// RFC 6040 figure 4, as it is printed: rows are the inner field, columns the outer; nil is "drop".
  @Test(arguments: [
    (ECN.notECT, [ECN.notECT, ECN.notECT, ECN.notECT, nil]),
    (ECN.ect0, [ECN.ect0, ECN.ect0, ECN.ect1, ECN.ce]),
    (ECN.ect1, [ECN.ect1, ECN.ect1, ECN.ect1, ECN.ce]),
    (ECN.ce, [ECN.ce, ECN.ce, ECN.ce, ECN.ce]),
  ])
  func ecn(inner: UInt8, results: [UInt8?]) {
    for (outer, expected) in zip([ECN.notECT, ECN.ect0, ECN.ect1, ECN.ce], results) {
      #expect(ECN.decapsulated(inner: inner, outer: outer) == expected, "inner \(inner), outer \(outer)")
    }
    #expect([ECN.notECT, ECN.ect1, ECN.ect0, ECN.ce] == [0b00, 0b01, 0b10, 0b11])
  }

  @Test func neighborDiscoveryOptions() {
    // A solicitation by scapy, from its ICMPv6 header on.
    let good = Octets(hex: "87007c1800000000fd0000010000000000000000000000010101020000000001")
    #expect(NeighborDiscovery.optionsHold(good.bytes, length: 32))
    #expect(NeighborDiscovery.optionsHold(good.bytes, length: 24))
    for length in 25..<32 { #expect(!NeighborDiscovery.optionsHold(good.bytes, length: length), "\(length)") }
    good.bytes.set8(25, 0)
    #expect(!NeighborDiscovery.optionsHold(good.bytes, length: 32))
    good.bytes.set8(25, 255)
    #expect(!NeighborDiscovery.optionsHold(good.bytes, length: 32))
    let two = Octets(good.array.prefix(24) + Octets.octets("01010200000000010e01000000000000"))
    #expect(NeighborDiscovery.optionsHold(two.bytes, length: 40))
    #expect(NeighborDiscovery.routerLinkLocal == IPAddress("fe80::200:5eff:fe00:100"))
  }

  /// virtio 1.2 section 5.1.6: little-endian, ten octets.
  @Test func virtio() {
    var header = VirtioNetHeader()
    header.flags = VirtioNetHeader.needsChecksum
    header.gso = VirtioNetHeader.gsoTCPv6
    header.headerBytes = 0x0102
    header.gsoBytes = 0x0304
    header.checksumStart = 0x0506
    header.checksumOffset = 0x0708
    let memory = Octets(room: 12)
    header.write(memory.bytes)
    #expect(memory.hex == "01040201040306050807" + "0000")
    #expect(VirtioNetHeader(reading: memory.bytes) == header)
    #expect(VirtioNetHeader(reading: Octets(room: 10).bytes) == VirtioNetHeader())
  }
}
