import WeftTables
import WeftWire

extension PacketPath {
  /// Writes the IP and transport headers of segment `index` of a super-frame (its `payload` bytes), with lengths,
  /// identification, sequence number, flags and checksums of its own; returns its payload bytes.
  func writeSegmentHeaders(_ at: Bytes, _ packet: Packet, _ index: Int) -> Int {
    let offset = index &* packet.gsoBytes
    let total = packet.ipLength &- packet.payload
    let count = min(packet.gsoBytes, total &- offset)
    let isLast = offset &+ count == total
    at.copy(from: packet.ip, count: packet.payload)
    if packet.isV4 {
      at.set16(4, at.u16(4) &+ UInt16(truncatingIfNeeded: index))
    }
    setIPLength(at, packet, packet.payload &+ count)
    let header = at.advanced(packet.transport)
    let headerBytes = packet.payload &- packet.transport
    let place: Int
    if packet.proto == IPProtocol.tcp {
      place = TCP.checksum
      header.set32(4, header.u32(4) &+ UInt32(truncatingIfNeeded: offset))
      var flags = header.u8(13)
      if !isLast { flags &= ~(TCP.fin | TCP.psh) }
      if index > 0 { flags &= ~TCP.cwr }
      header.set8(13, flags)
    } else {
      place = UDP.checksum
      header.set16(4, UInt16(truncatingIfNeeded: headerBytes &+ count))
    }
    header.set16(place, 0)
    var sum = Checksum.pseudoHeader(at, isV4: packet.isV4, proto: packet.proto, length: headerBytes &+ count)
    sum = header.sum(0, count: headerBytes, sum)
    // Headers are a whole number of 16-bit words, so the payload's sum just adds.
    sum = packet.ip.sum(packet.payload &+ offset, count: count, sum)
    let value = Checksum.finish(sum)
    header.set16(place, value == 0 && packet.proto == IPProtocol.udp ? 0xFFFF : value)
    return count
  }

  /// Changes an IP header's length, and IPv4's checksum with it.
  @inline(__always) func setIPLength(_ at: Bytes, _ packet: Packet, _ length: Int) {
    if packet.isV4 {
      at.set16(2, UInt16(truncatingIfNeeded: length))
      IPv4.writeChecksum(at, bytes: IPv4.headerBytes(at))
    } else {
      at.set16(4, UInt16(truncatingIfNeeded: length &- IPv6.bytes))
    }
  }
}
