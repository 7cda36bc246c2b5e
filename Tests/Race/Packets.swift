import WeftWire

// Tests/WeftVRouterTests has a link to this file.

/// A frame and what its virtio-net header says.
struct WireFrame: Sendable {
  var bytes: [UInt8]
  var virtio = VirtioNetHeader()
}

extension [UInt8] {
  mutating func put16(_ at: Int, _ value: Int) {
    self[at] = UInt8(truncatingIfNeeded: value >> 8)
    self[at + 1] = UInt8(truncatingIfNeeded: value)
  }
  func get16(_ at: Int) -> Int { Int(self[at]) << 8 | Int(self[at + 1]) }
  mutating func set(_ at: Int, _ address: IPAddress) {
    for index in 0..<(address.isV4 ? 4 : 16) {
      let shift = address.isV4 ? 24 - index * 8 : (index < 8 ? 56 - index * 8 : 120 - index * 8)
      let word = address.isV4 ? UInt64(address.v4) : index < 8 ? address.high : address.low
      self[at + index] = UInt8(truncatingIfNeeded: word >> UInt64(shift))
    }
  }
  mutating func finishIPv4(_ at: Int) {
    put16(at + 10, 0)
    var sum = 0
    for offset in stride(from: at, to: at + 20, by: 2) { sum += get16(offset) }
    while sum >> 16 != 0 { sum = sum & 0xFFFF + sum >> 16 }
    put16(at + 10, 0xFFFF - sum)
  }
}

/// What a UDP packet is made of.
struct Datagram {
  var source: IPAddress
  var destination: IPAddress
  var sourcePort: Int
  var destinationPort: Int
  var payload: Int

  /// The IP packet; without a UDP checksum, which is not what is tested.
  var packet: [UInt8] {
    let header = source.isV4 ? 20 : 40
    var ip = [UInt8](repeating: 0, count: header + 8 + payload)
    if source.isV4 {
      ip[0] = 0x45
      ip.put16(2, ip.count)
      ip[8] = 64
      ip[9] = IPProtocol.udp
      ip.set(12, source)
      ip.set(16, destination)
      ip.finishIPv4(0)
    } else {
      ip[0] = 0x60
      ip.put16(4, 8 + payload)
      ip[6] = IPProtocol.udp
      ip[7] = 64
      ip.set(8, source)
      ip.set(24, destination)
    }
    ip.put16(header, sourcePort)
    ip.put16(header + 2, destinationPort)
    ip.put16(header + 4, 8 + payload)
    return ip
  }

  /// The first and the last part of it, as fragments (IPv4).
  func fragments(_ identification: Int) -> [[UInt8]] {
    let whole = packet
    let cut = 20 + 8 + (payload / 2) & ~7
    guard source.isV4, cut > 28, cut < whole.count else { return [whole] }
    var first = Array(whole[..<cut])
    var last = Array(whole[..<20]) + whole[cut...]
    for (part, flags) in [(0, 0x2000), (1, (cut - 20) / 8)] {
      var piece = part == 0 ? first : last
      piece.put16(2, piece.count)
      piece.put16(4, identification)
      piece.put16(6, flags)
      piece.finishIPv4(0)
      if part == 0 { first = piece } else { last = piece }
    }
    return [first, last]
  }

  static func frame(_ packet: [UInt8], from mac: MACAddress) -> WireFrame {
    var bytes: [UInt8] = [0, 0, 0x5E, 0, 1, 0] + [UInt8](repeating: 0, count: 8)
    for index in 0..<6 { bytes[6 + index] = UInt8(truncatingIfNeeded: mac.bits >> UInt64(40 - index * 8)) }
    bytes.put16(12, packet[0] >> 4 == 4 ? 0x0800 : 0x86DD)
    return WireFrame(bytes: bytes + packet)
  }

  /// Packets of one size in a tunnel, as one UDP super-frame where there are several.
  static func tunneled(_ packets: [[UInt8]]) -> WireFrame {
    var bytes: [UInt8] = [2, 0, 0, 0, 0, 0xF0, 2, 0, 0, 0, 0, 0xF2, 8, 0] + [UInt8](repeating: 0, count: 28)
    for packet in packets {
      bytes += [8, 0, 0, 0, 0, 0, 100, 0, 0, 0, 0x5E, 0, 1, 0, 2, 0, 0, 0, 0, 9]
      bytes += (packet[0] >> 4 == 4 ? [0x08, 0x00] : [0x86, 0xDD]) + packet
    }
    bytes[14] = 0x45
    bytes.put16(16, bytes.count - 14)
    bytes[22] = 64
    bytes[23] = IPProtocol.udp
    bytes.set(26, IPAddress("192.0.2.2")!)
    bytes.set(30, IPAddress("192.0.2.1")!)
    bytes.finishIPv4(14)
    bytes.put16(34, 50000)
    bytes.put16(36, 4789)
    bytes.put16(38, bytes.count - 34)
    var frame = WireFrame(bytes: bytes)
    if packets.count > 1 {
      frame.virtio.flags = VirtioNetHeader.needsChecksum
      frame.virtio.checksumStart = 34
      frame.virtio.checksumOffset = 6
      frame.virtio.gso = VirtioNetHeader.gsoUDP
      frame.virtio.gsoBytes = UInt16(packets[0].count + 22)
    }
    return frame
  }
}

/// Numbers from a seed (SplitMix64).
struct RaceRandom {
  var state: UInt64
  mutating func next(_ limit: Int) -> Int {
    state &+= 0x9E37_79B9_7F4A_7C15
    var z = state
    z = (z ^ z >> 30) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ z >> 27) &* 0x94D0_49BB_1331_11EB
    return Int((z ^ z >> 31) % UInt64(limit))
  }
  mutating func chance(_ percent: Int) -> Bool { next(100) < percent }
}
