import Glibc
import WeftTables
import WeftWire

// What an interface with the flag `dhcp` sends to find out about itself goes to the agent, and to nobody else: DHCP requests
// (RFC 2131, RFC 8415) and router solicitations (RFC 4861 section 4.1). What would answer such questions of others does not
// come in by it (RFC 7610 section 4, RFC 6105).

/// How many frames of each interface a worker leaves to the agent: token buckets.
@safe public struct TrapLimits {
  private struct Bucket {
    /// Thousand-millionths.
    var tokens: UInt64
    /// CLOCK_MONOTONIC, ns; 0: nothing has been taken yet.
    var last: UInt64
  }

  /// In a second, and at once.
  public var perSecond: UInt64 = 50
  public var burst: UInt64 = 100
  private let buckets: UnsafeMutablePointer<Bucket>
  private let count: Int

  /// Zeroed: pages of interfaces that never ask take no memory.
  init(interfaces: Int) {
    count = interfaces
    unsafe buckets = calloc(max(1, interfaces), MemoryLayout<Bucket>.stride).assumingMemoryBound(to: Bucket.self)
  }
  func deallocate() { unsafe free(buckets) }

  /// Takes one for an interface, if there is one.
  func take(_ interface: UInt32, _ now: UInt64) -> Bool {
    guard Int(interface) < count else { return false }
    let bucket = unsafe buckets + Int(interface)
    let most = burst &* 1_000_000_000
    var (tokens, last) = unsafe (bucket.pointee.tokens, bucket.pointee.last)
    if last == 0 {
      tokens = most
    } else if now > last {
      tokens = min(most, tokens &+ min(now &- last, 1_000_000_000) &* perSecond)
    }
    last = max(now, 1)
    let hasOne = tokens >= 1_000_000_000
    if hasOne { tokens &-= 1_000_000_000 }
    unsafe bucket.pointee = Bucket(tokens: tokens, last: last)
    return hasOne
  }
}

extension PacketPath {
  /// Of a flow's key: its packets are DHCP's, from a client or from a server. With the flag they are nobody's flow.
  @inline(__always) static func isDHCP(_ key: FlowKey) -> Bool {
    key.proto == IPProtocol.udp && DHCPPorts.isV4(key.sourcePort, key.destinationPort)
  }

  /// An IPv4 packet of an interface with the flag, whose header has been read. True: it has been dealt with.
  @inline(never) mutating func serveIPv4(_ packet: inout Packet) -> Bool {
    guard packet.proto == IPProtocol.udp, packet.ip.u16(6) & IPv4.offsetMask == 0,
      packet.ipLength &- packet.transport >= UDP.bytes
    else { return false }
    let udp = packet.transportHeader
    guard DHCPPorts.isV4(udp.u16(0), udp.u16(2)) else { return false }
    guard udp.u16(2) == DHCPPorts.server else { return refuse(&packet, .rogueDHCP) }
    return trap(&packet)
  }

  /// The same of IPv6.
  @inline(never) mutating func serveIPv6(_ packet: inout Packet) -> Bool {
    let length = packet.ipLength &- packet.transport
    // Of a fragment the first alone has ports.
    if packet.isFragment, packet.ip.u16(packet.transport &- 6) & 0xFFF8 != 0 { return false }
    switch packet.proto {
    case IPProtocol.udp:
      guard length >= UDP.bytes else { return false }
      let udp = packet.transportHeader
      if udp.u16(2) == DHCPPorts.server6 { return trap(&packet) }
      guard udp.u16(0) == DHCPPorts.server6, udp.u16(2) == DHCPPorts.client6 else { return false }
      return refuse(&packet, .rogueDHCP)
    case IPProtocol.icmpv6:
      guard length >= ICMP.minimumBytes else { return false }
      switch packet.transportHeader.u8(0) {
      case ICMP.routerSolicitation: return trap(&packet)
      case ICMP.routerAdvertisement: return refuse(&packet, .rogueRouter)
      default: return false
      }
    default: return false
    }
  }

  private mutating func refuse(_ packet: inout Packet, _ reason: DropReason) -> Bool {
    drop(&packet, reason)
    return true
  }

  /// Leaves a packet to the agent, in its frame.
  private mutating func trap(_ packet: inout Packet) -> Bool {
    guard !packet.isFragment, packet.hasEthernet, packet.gso == VirtioNetHeader.gsoNone else {
      return refuse(&packet, .trapUnfit)
    }
    let length = Ethernet.bytes &+ packet.ipLength
    guard length <= TrapRing.maximumFrame else { return refuse(&packet, .trapUnfit) }
    if packet.needsChecksum {
      guard packet.checksumStart >= packet.transport, packet.checksumOffset >= 0,
        packet.checksumStart &+ packet.checksumOffset &+ 2 <= packet.ipLength
      else { return refuse(&packet, .gsoMalformed) }
      finishChecksum(&packet)
    }
    if traces.isOn {
      noteTrap(packet)
      packet.verdict = .trapped
      return true
    }
    guard let trapWriter, trapWriter.isOpen else { return refuse(&packet, .trapNobody) }
    guard trapLimits.take(packet.interface, clock) else { return refuse(&packet, .trapRate) }
    guard trapWriter.write(packet.ethernet, count: length, interface: packet.interface, vrf: packet.vrf) else {
      return refuse(&packet, .trapFull)
    }
    counters.trapped(packet.interface)
    hasReported = true
    packet.verdict = .trapped
    return true
  }
}
