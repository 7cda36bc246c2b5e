import Testing
import WeftPorts
import WeftWire

/// What a sender on the same machine leaves unfinished is found, and nothing that is whole is taken for it.
@Suite("Peer offloads")
struct PeerOffloadsTests {
  private static let source6 = IPAddress("2001:db8::77")!

  /// The one's complement sum of bytes, folded, as a value: independent of the code under test.
  private static func sum(_ bytes: [UInt8]) -> UInt32 {
    var total: UInt32 = 0
    for index in stride(from: 0, to: bytes.count, by: 2) {
      total += UInt32(bytes[index]) << 8 | (index + 1 < bytes.count ? UInt32(bytes[index + 1]) : 0)
    }
    while total > 0xFFFF { total = (total & 0xFFFF) + total >> 16 }
    return total
  }

  /// A frame with a TCP or UDP payload, its checksum unfinished (the pseudo-header's sum) or finished.
  private static func frame(isV4: Bool, proto: UInt8, payload: Int, isFinished: Bool, tags: Int = 0) -> [UInt8] {
    let place = proto == 6 ? 16 : 6
    var transport: [UInt8] =
      proto == 6
      ? [0xC0, 0, 0, 80, 1, 2, 3, 4, 0, 0, 0, 0, 0x50, 0x10, 0xFF, 0xFF, 0, 0, 0, 0]
      : [0xC0, 0, 0, 80] + XDPFilterTests.big(UInt16(8 + payload)) + [0, 0]
    transport += (0..<payload).map { UInt8(truncatingIfNeeded: $0 * 31 + 5) }
    let packet =
      isV4
      ? XDPFilterTests.v4(XDPFilterTests.ours4, proto: proto, transport)
      : XDPFilterTests.v6(XDPFilterTests.ours6, next: proto, transport)
    let addresses = isV4 ? Array(packet[12..<20]) : Array(packet[8..<40])
    let pseudo = sum(addresses + [0, proto] + XDPFilterTests.big(UInt16(truncatingIfNeeded: transport.count)))
    var value = pseudo
    if isFinished {
      var total = pseudo + sum(transport)
      while total > 0xFFFF { total = (total & 0xFFFF) + total >> 16 }
      value = ~total & 0xFFFF
    }
    var all = XDPFilterTests.ethernet(
      isV4 ? 0x0800 : 0x86DD, tags: Array(repeating: (0x8100, 5), count: tags), packet)
    let at = all.count - transport.count + place
    all[at] = UInt8(value >> 8)
    all[at + 1] = UInt8(value & 0xFF)
    return all
  }

  private static func find(_ frame: [UInt8], mtu: Int = 1500, isFabric: Bool = false) -> VirtioNetHeader {
    var frame = frame
    return frame.withUnsafeMutableBytes { bytes in
      var virtio = VirtioNetHeader()
      PeerOffloads.find(Bytes(bytes.baseAddress!), bytes.count, mtu: mtu, isFabric: isFabric, &virtio)
      return virtio
    }
  }

  @Test("an unfinished checksum is found", arguments: [true, false], [6, 17] as [UInt8])
  func unfinished(_ isV4: Bool, _ proto: UInt8) {
    for payload in [0, 1, 2, 1000, 1440] {
      for tags in 0...2 {
        let found = Self.find(Self.frame(isV4: isV4, proto: proto, payload: payload, isFinished: false, tags: tags))
        var expected = VirtioNetHeader()
        expected.flags = VirtioNetHeader.needsChecksum
        expected.checksumStart = UInt16(14 + 4 * tags + (isV4 ? 20 : 40))
        expected.checksumOffset = proto == 6 ? 16 : 6
        #expect(found == expected, "\(payload) bytes, \(tags) tags")
        let whole = Self.find(Self.frame(isV4: isV4, proto: proto, payload: payload, isFinished: true, tags: tags))
        #expect(whole == VirtioNetHeader(), "\(payload) bytes, \(tags) tags, finished")
      }
    }
  }

  @Test("a TCP packet above the MTU is a super-frame", arguments: [true, false])
  func superFrame(_ isV4: Bool) {
    let headers = isV4 ? 40 : 60
    let found = Self.find(Self.frame(isV4: isV4, proto: 6, payload: 1501 - headers, isFinished: false))
    #expect(found.gso == (isV4 ? VirtioNetHeader.gsoTCPv4 : VirtioNetHeader.gsoTCPv6))
    #expect(Int(found.gsoBytes) == 1500 - headers && Int(found.headerBytes) == 14 + headers)
    #expect(Self.find(Self.frame(isV4: isV4, proto: 6, payload: 1500 - headers, isFinished: false)).gso == 0)
  }

  @Test("within a tunnel", arguments: [true, false])
  func tunnel(_ isV4: Bool) {
    for isFinished in [true, false] {
      let inner = Self.frame(isV4: isV4, proto: 6, payload: 100, isFinished: isFinished)
      for (port, between, inside) in [
        (4789 as UInt16, [8, 0, 0, 0, 0, 19, 137, 0] as [UInt8], inner),
        (6635, [0, 6, 0x31, 0x40], Array(inner.dropFirst(14))),
      ] {
        let payload = between + inside
        let udp = XDPFilterTests.big(50_000) + XDPFilterTests.big(port) + XDPFilterTests.big(UInt16(8 + payload.count))
        for outerIsV4 in [true, false] {
          let packet =
            outerIsV4
            ? XDPFilterTests.v4(XDPFilterTests.ours4, proto: 17, udp + [0, 0] + payload)
            : XDPFilterTests.v6(XDPFilterTests.ours6, next: 17, udp + [0, 0] + payload)
          let frame = XDPFilterTests.ethernet(outerIsV4 ? 0x0800 : 0x86DD, packet)
          let found = Self.find(frame, isFabric: true)
          #expect(found.flags == (isFinished ? 0 : VirtioNetHeader.needsChecksum), "port \(port)")
          if !isFinished {
            #expect(Int(found.checksumStart) == frame.count - 120 && found.checksumOffset == 16)
          }
        }
      }
    }
  }

  @Test("anything that is cut anywhere is read no further than it goes", arguments: [true, false], [true, false])
  func cut(_ isV4: Bool, _ isFabric: Bool) {
    let inner = Self.frame(isV4: isV4, proto: 6, payload: 20, isFinished: false)
    let payload: [UInt8] = [8, 0, 0, 0, 0, 19, 137, 0] + inner
    let udp =
      XDPFilterTests.big(50_000) + XDPFilterTests.big(4789) + XDPFilterTests.big(UInt16(8 + payload.count)) + [0, 0]
    let whole = XDPFilterTests.ethernet(0x0800, XDPFilterTests.v4(XDPFilterTests.ours4, proto: 17, udp + payload))
    for frame in [inner, whole] {
      for count in 1...frame.count {
        // The memory ends where the frame does: a sanitizer sees what is read beyond.
        let found = Self.find(Array(frame.prefix(count)), isFabric: isFabric)
        if count < frame.count { #expect(found.flags & VirtioNetHeader.needsChecksum == 0, "\(count) bytes") }
      }
    }
  }
}
