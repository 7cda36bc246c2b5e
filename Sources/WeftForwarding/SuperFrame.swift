import WeftWire

/// A super-frame, wherever its pieces lie, as the packets that segmentation makes of it. What its virtio-net header
/// claims is checked against the frame.
@safe struct SuperFrame {
  /// Ethernet, two tags, IP with extension headers of a usual size, transport.
  static let headerRoom = 512

  let segments: Int
  /// Bytes up to the payload.
  let headerBytes: Int
  private let headers: Bytes
  private let frame: GatheredFrame
  private let ip: Int
  private let transport: Int
  private let payload: Int
  private let isV4: Bool
  private let isTCP: Bool

  /// nil where the header does not fit the frame. `headers` has `headerRoom` bytes.
  init?(_ frame: GatheredFrame, _ virtio: VirtioNetHeader, headers: Bytes) {
    let room = min(frame.length, Self.headerRoom)
    frame.copy(0, count: room, to: headers)
    guard room >= Ethernet.bytes &+ IPv4.minimumBytes &+ UDP.bytes else { return nil }
    var type = headers.u16(Ethernet.type)
    var ip = Ethernet.bytes
    while Ethernet.isTag(type), ip < Ethernet.bytes &+ 8 {
      type = headers.u16(ip &+ 2)
      ip &+= 4
    }
    let transport = Int(virtio.checksumStart)
    payload = Int(virtio.gsoBytes)
    isTCP = virtio.gso & ~VirtioNetHeader.gsoECN != VirtioNetHeader.gsoUDP
    let least = isTCP ? TCP.minimumBytes : UDP.bytes
    guard type == Ethernet.ipv4 || type == Ethernet.ipv6, payload > 0, transport &+ least <= room else { return nil }
    isV4 = type == Ethernet.ipv4
    guard ip &+ (isV4 ? IPv4.minimumBytes : IPv6.bytes) <= transport else { return nil }
    if isV4 {
      let header = IPv4.headerBytes(headers.advanced(ip))
      guard header >= IPv4.minimumBytes, ip &+ header <= transport else { return nil }
    }
    let length = isTCP ? TCP.headerBytes(headers.advanced(transport)) : UDP.bytes
    guard length >= least, transport &+ length <= room, frame.length > transport &+ length else { return nil }
    headerBytes = transport &+ length
    segments = (frame.length &- headerBytes &+ payload &- 1) / payload
    // What the kernel makes at most, and a worker sends in a batch.
    guard segments <= 1024 else { return nil }
    self.ip = ip
    self.transport = transport
    self.frame = frame
    self.headers = headers
  }

  /// Writes a segment's headers to `at`; returns where its payload lies in the frame.
  func write(_ index: Int, to at: Bytes) -> (offset: Int, count: Int) {
    let offset = headerBytes &+ index &* payload
    let count = min(payload, frame.length &- offset)
    at.copy(from: headers, count: headerBytes)
    let ipHeader = at.advanced(ip)
    let length = headerBytes &- ip &+ count
    if isV4 {
      ipHeader.set16(2, UInt16(truncatingIfNeeded: length))
      ipHeader.set16(4, ipHeader.u16(4) &+ UInt16(truncatingIfNeeded: index))
      IPv4.writeChecksum(ipHeader, bytes: IPv4.headerBytes(ipHeader))
    } else {
      ipHeader.set16(4, UInt16(truncatingIfNeeded: length &- IPv6.bytes))
    }
    let header = at.advanced(transport)
    let size = headerBytes &- transport
    let place = isTCP ? TCP.checksum : UDP.checksum
    if isTCP {
      header.set32(4, header.u32(4) &+ UInt32(truncatingIfNeeded: index &* payload))
      var flags = header.u8(13)
      if index &+ 1 < segments { flags &= ~(TCP.fin | TCP.psh) }
      if index > 0 { flags &= ~TCP.cwr }
      header.set8(13, flags)
    } else {
      header.set16(4, UInt16(truncatingIfNeeded: size &+ count))
    }
    header.set16(place, 0)
    var sum = Checksum.pseudoHeader(
      ipHeader, isV4: isV4, proto: isTCP ? IPProtocol.tcp : IPProtocol.udp, length: size &+ count)
    sum = header.sum(0, count: size, sum) &+ frame.sum(offset, count: count)
    let value = Checksum.finish(sum)
    header.set16(place, value == 0 && !isTCP ? 0xFFFF : value)
    return (offset, count)
  }
}
