import CLinux
import WeftWire

/// What a sender on this machine left to its device, which an AF_XDP socket does not say: on the other end of a veth the
/// kernel hands packets over with unfinished checksums (CHECKSUM_PARTIAL, where the field holds the sum of the
/// pseudo-header) and, where the XDP program is not in the driver, TCP super-frames. Other ports have a virtio-net header
/// for that; this makes one.
///
/// A finished checksum may by chance be the pseudo-header's sum. To finish it again gives the same: the sum of
/// everything else is what it was. So nothing that is whole becomes damaged.
public enum PeerOffloads {
  /// Looks at a frame. `mtu`: TCP packets above are super-frames, of segments of that size. `isFabric`: within tunnels.
  @inline(__always)
  public static func find(_ frame: Bytes, _ length: Int, mtu: Int, isFabric: Bool, _ virtio: inout VirtioNetHeader) {
    guard let packet = Packet(ethernet: frame, at: 0, end: length) else { return }
    if isFabric {
      findInside(frame, length, packet, mtu: mtu, &virtio)
    } else if packet.isUnfinished(frame) {
      packet.describe(frame, mtu: mtu, &virtio)
    }
  }

  private static func findInside(
    _ frame: Bytes, _ length: Int, _ outer: Packet, mtu: Int, _ virtio: inout VirtioNetHeader
  ) {
    var inner: Packet?
    let at = outer.transport
    switch outer.proto {
    case IPProtocol.udp:
      // The tunnel's own checksum is not looked at where the kernel would have finished it.
      if outer.isUnfinished(frame) { virtio.flags = VirtioNetHeader.dataValid }
      switch frame.u16(at &+ 2) {
      case VXLAN.port: inner = Packet(ethernet: frame, at: at &+ UDP.bytes &+ VXLAN.bytes, end: length)
      case MPLS.port: inner = Packet(ip: frame, at: at &+ UDP.bytes &+ MPLS.bytes, end: length)
      default: return
      }
    case IPProtocol.gre:
      var header = GRE.bytes
      let flags = frame.u16(at)
      for flag in [GRE.hasChecksum, GRE.hasKey, GRE.hasSequence] where flags & flag != 0 { header &+= 4 }
      inner = Packet(ip: frame, at: at &+ header &+ MPLS.bytes, end: length)
    default: return
    }
    guard let inner, inner.isUnfinished(frame) else { return }
    // Segments of a super-frame fit, with its tunnel, into the fabric.
    inner.describe(frame, mtu: mtu &- (inner.ip &- outer.ip), &virtio)
  }

  /// An IP packet with a transport header that has a checksum, all of it within the frame. Offsets are the frame's.
  private struct Packet {
    var ip: Int
    var isV4 = true
    var proto: UInt8 = 0
    var transport = 0
    /// Bytes of transport header and payload.
    var bytes = 0
    var checksum = 0

    init?(ethernet frame: Bytes, at start: Int, end: Int) {
      guard start &+ Ethernet.bytes <= end else { return nil }
      var type = frame.u16(start &+ Ethernet.type)
      var offset = start &+ Ethernet.bytes
      while Ethernet.isTag(type), offset &+ 4 <= end, offset &- start < Ethernet.bytes &+ 8 {
        type = frame.u16(offset &+ 2)
        offset &+= 4
      }
      guard type == Ethernet.ipv4 || type == Ethernet.ipv6 else { return nil }
      self.init(ip: frame, at: offset, end: end)
    }

    init?(ip frame: Bytes, at start: Int, end: Int) {
      ip = start
      guard start &+ IPv4.minimumBytes <= end else { return nil }
      let length: Int
      switch frame.u8(start) >> 4 {
      case 4:
        let header = IPv4.headerBytes(frame.advanced(start))
        guard header >= IPv4.minimumBytes,
          frame.u16(start &+ 6) & (IPv4.moreFragments | IPv4.offsetMask) == 0
        else { return nil }
        length = Int(frame.u16(start &+ 2))
        proto = frame.u8(start &+ 9)
        transport = start &+ header
      case 6:
        guard start &+ IPv6.bytes <= end else { return nil }
        isV4 = false
        length = IPv6.bytes &+ Int(frame.u16(start &+ 4))
        proto = frame.u8(start &+ 6)
        transport = start &+ IPv6.bytes
        guard skipExtensions(frame, start &+ length) else { return nil }
      default: return nil
      }
      guard start &+ length <= end else { return nil }
      bytes = start &+ length &- transport
      let least: Int
      switch proto {
      case IPProtocol.tcp: (least, checksum) = (TCP.minimumBytes, transport &+ TCP.checksum)
      case IPProtocol.udp: (least, checksum) = (UDP.bytes, transport &+ UDP.checksum)
      case IPProtocol.sctp: (least, checksum) = (SCTP.minimumBytes, transport &+ SCTP.checksum)
      case IPProtocol.gre: (least, checksum) = (GRE.bytes, 0)
      default: return nil
      }
      guard bytes >= least else { return nil }
    }

    /// Behind the options that hosts send before a transport header.
    private mutating func skipExtensions(_ frame: Bytes, _ end: Int) -> Bool {
      for _ in 0..<IPv6.maximumExtensions {
        guard proto == IPv6.hopByHop || proto == IPv6.routing || proto == IPv6.destinationOptions else { return true }
        guard transport &+ 8 <= end else { return false }
        proto = frame.u8(transport)
        transport &+= (Int(frame.u8(transport &+ 1)) &+ 1) &* 8
      }
      return false
    }

    /// The field holds what the kernel leaves there for a device.
    @inline(__always) func isUnfinished(_ frame: Bytes) -> Bool {
      if proto == IPProtocol.sctp { return frame.u32(checksum) == 0 }
      guard checksum != 0 else { return false }
      let sum = Checksum.pseudoHeader(frame.advanced(ip), isV4: isV4, proto: proto, length: bytes)
      return frame.u16(checksum) == UInt16(bigEndian: Checksum.fold(sum))
    }

    func describe(_ frame: Bytes, mtu: Int, _ virtio: inout VirtioNetHeader) {
      virtio.flags = VirtioNetHeader.needsChecksum
      virtio.checksumStart = UInt16(truncatingIfNeeded: transport)
      virtio.checksumOffset = UInt16(truncatingIfNeeded: checksum &- transport)
      guard proto == IPProtocol.tcp, transport &- ip &+ bytes > mtu else { return }
      let headers = transport &- ip &+ TCP.headerBytes(frame.advanced(transport))
      guard headers < mtu else { return }
      virtio.gso = isV4 ? VirtioNetHeader.gsoTCPv4 : VirtioNetHeader.gsoTCPv6
      virtio.gsoBytes = UInt16(truncatingIfNeeded: mtu &- headers)
      virtio.headerBytes = UInt16(truncatingIfNeeded: ip &+ headers)
    }
  }
}
