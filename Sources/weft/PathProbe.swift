import CLinux
import Glibc
import WeftSystem
import WeftWire

/// Finds out whether peers take packets as long as an MTU: two echo requests to each (RFC 792, RFC 4443 section 4.1), a
/// short one and one of that length that is not to be fragmented, neither here nor on the way.
enum PathProbe {
  struct Peer {
    var address: IPAddress
    var source: IPAddress
    /// Bytes of IP packet.
    var mtu: Int
  }

  enum Outcome {
    /// Both were answered.
    case whole
    /// The short one alone.
    case short
    case silent
  }

  /// How long to wait for answers, ns.
  private static let patience: UInt64 = 1_000_000_000

  static func run(_ peers: [Peer]) throws(SystemError) -> [Outcome] {
    var answered = [[Bool]](repeating: [false, false], count: peers.count)
    let four = peers.contains { $0.address.isV4 } ? try open(AF_INET) : nil
    let six = peers.contains { !$0.address.isV4 } ? try open(AF_INET6) : nil
    let identifier = UInt16(truncatingIfNeeded: getpid())
    for attempt in 0..<2 {
      // A first packet may be lost to the search for the neighbour.
      for (index, peer) in peers.enumerated() {
        for kind in 0..<2 where !answered[index][kind] {
          guard let descriptor = peer.address.isV4 ? four?.raw : six?.raw else { continue }
          send(descriptor, peer, identifier, UInt16(index * 2 + kind), isLong: kind == 1)
        }
      }
      let end = weft_monotonic_ns() + patience / (attempt == 0 ? 2 : 1)
      while answered.contains(where: { $0.contains(false) }), weft_monotonic_ns() < end {
        var entries: [pollfd] = []
        if let four { entries.append(pollfd(fd: four.raw, events: Int16(POLLIN), revents: 0)) }
        if let six { entries.append(pollfd(fd: six.raw, events: Int16(POLLIN), revents: 0)) }
        let left = Int32((end - min(end, weft_monotonic_ns())) / 1_000_000)
        guard unsafe poll(&entries, nfds_t(entries.count), left) > 0 else { break }
        for entry in entries where entry.revents != 0 {
          while let sequence = receive(entry.fd, identifier, isV4: entry.fd == four?.raw) {
            guard Int(sequence) < peers.count * 2 else { continue }
            answered[Int(sequence) / 2][Int(sequence) % 2] = true
          }
        }
      }
    }
    return answered.map { $0[1] ? .whole : $0[0] ? .short : .silent }
  }

  private static func open(_ family: Int32) throws(SystemError) -> Shared {
    let proto = family == AF_INET ? Int32(IPPROTO_ICMP) : Int32(IPPROTO_ICMPV6)
    let flags = Int32(SOCK_RAW.rawValue) | Int32(SOCK_CLOEXEC.rawValue) | Int32(SOCK_NONBLOCK.rawValue)
    let descriptor = try Descriptor(socket(family, flags, proto), "open", "a socket for pings")
    // IP_PMTUDISC_PROBE, IPV6_PMTUDISC_PROBE: not fragmented, and what the kernel thinks of the way does not count.
    var probe: Int32 = 3
    if family == AF_INET {
      _ = unsafe setsockopt(descriptor.raw, Int32(IPPROTO_IP), IP_MTU_DISCOVER, &probe, 4)
    } else {
      _ = unsafe setsockopt(descriptor.raw, Int32(IPPROTO_IPV6), IPV6_MTU_DISCOVER, &probe, 4)
    }
    return Shared(descriptor)
  }

  private final class Shared {
    let raw: Int32
    private let descriptor: Descriptor
    init(_ descriptor: consuming Descriptor) {
      raw = descriptor.raw
      self.descriptor = descriptor
    }
  }

  private static func send(_ descriptor: Int32, _ peer: Peer, _ identifier: UInt16, _ sequence: UInt16, isLong: Bool) {
    let header = peer.address.isV4 ? 20 : 40
    let length = isLong ? max(16, min(peer.mtu, 65535) - header) : 64
    var message = [UInt8](repeating: 0, count: length)
    message[0] = peer.address.isV4 ? 8 : 128
    message[4] = UInt8(identifier >> 8)
    message[5] = UInt8(identifier & 0xFF)
    message[6] = UInt8(sequence >> 8)
    message[7] = UInt8(sequence & 0xFF)
    if peer.address.isV4 {
      // ICMPv6's is the kernel's to reckon (RFC 3542 section 3.1).
      var sum: UInt32 = 0
      for at in stride(from: 0, to: length - 1, by: 2) { sum += UInt32(message[at]) << 8 | UInt32(message[at + 1]) }
      if length % 2 == 1 { sum += UInt32(message[length - 1]) << 8 }
      while sum >> 16 != 0 { sum = sum & 0xFFFF + sum >> 16 }
      message[2] = UInt8(truncatingIfNeeded: ~sum >> 8)
      message[3] = UInt8(truncatingIfNeeded: ~sum)
    }
    func send<Address>(_ address: Address) {
      _ = unsafe withUnsafePointer(to: address) {
        unsafe $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
          unsafe sendto(descriptor, message, message.count, 0, $0, socklen_t(MemoryLayout<Address>.size))
        }
      }
    }
    if peer.address.isV4 {
      var address = sockaddr_in()
      address.sin_family = sa_family_t(AF_INET)
      address.sin_addr.s_addr = peer.address.v4.bigEndian
      send(address)
    } else {
      var address = sockaddr_in6()
      address.sin6_family = sa_family_t(AF_INET6)
      unsafe withUnsafeMutableBytes(of: &address.sin6_addr) { unsafe $0.copyBytes(from: peer.address.octets) }
      send(address)
    }
  }

  /// The sequence number of an answer to us; nil when nothing waits.
  private static func receive(_ descriptor: Int32, _ identifier: UInt16, isV4: Bool) -> UInt16? {
    var bytes = [UInt8](repeating: 0, count: 128)
    while true {
      let count = unsafe recv(descriptor, &bytes, bytes.count, Int32(MSG_DONTWAIT) | Int32(MSG_TRUNC))
      guard count >= 0 else { return nil }
      // With IPv4 the header is there as well (raw(7)).
      let at = isV4 ? Int(bytes[0] & 0x0F) * 4 : 0
      guard min(count, bytes.count) >= at + 8, bytes[at] == (isV4 ? 0 : 129),
        UInt16(bytes[at + 4]) << 8 | UInt16(bytes[at + 5]) == identifier
      else { continue }
      return UInt16(bytes[at + 6]) << 8 | UInt16(bytes[at + 7])
    }
  }
}
