import CLinux
import Glibc
import WeftWire

/// Whether and how surely the kernel knows a neighbor's MAC address (NUD_*, linux/neighbour.h).
public struct NeighborState: OptionSet, Hashable, Sendable {
  public let rawValue: UInt16
  public init(rawValue: UInt16) { self.rawValue = rawValue }

  public static let incomplete = NeighborState(rawValue: 0x01)
  public static let reachable = NeighborState(rawValue: 0x02)
  public static let stale = NeighborState(rawValue: 0x04)
  public static let delay = NeighborState(rawValue: 0x08)
  public static let probe = NeighborState(rawValue: 0x10)
  public static let failed = NeighborState(rawValue: 0x20)
  public static let noARP = NeighborState(rawValue: 0x40)
  public static let permanent = NeighborState(rawValue: 0x80)
}

/// An entry of the kernel's ARP or neighbor discovery table.
public struct Neighbor: Hashable, Sendable {
  public var interface: UInt32
  public var address: IPAddress
  /// Nil while it is not known.
  public var mac: MACAddress?
  public var state: NeighborState

  /// Its MAC address is known and may be used, be it to find out whether it still holds.
  public var isUsable: Bool { mac != nil && state.isDisjoint(with: [.incomplete, .failed]) && !state.isEmpty }
}

extension Netlink {
  /// IPv4 and IPv6 neighbors, of one link or of all.
  public func neighbors(interface: UInt32? = nil) throws(NetlinkError) -> [Neighbor] {
    var request = Request(RTM_GETNEIGH, flags: NLM_F_DUMP)
    request.appendNeighborHeader(family: 0, interface: 0, state: [], flags: 0)
    if let interface { request.attribute(NDA_IFINDEX, interface) }
    return try exchange(request, "list", "neighbors").compactMap(Neighbor.init)
      .filter { interface == nil || $0.interface == interface }
  }

  /// Nil: the kernel has no entry for it.
  public func neighbor(_ address: IPAddress, interface: UInt32) throws(NetlinkError) -> Neighbor? {
    var request = Request(RTM_GETNEIGH, flags: NLM_F_ACK)
    request.appendNeighborHeader(family: address.family, interface: interface, state: [], flags: 0)
    request.attribute(NDA_DST, address.octets)
    do {
      return try exchange(request, "look up", "neighbor \(address)").compactMap(Neighbor.init).first
    } catch {
      if error.code == ENOENT { return nil }
      throw error
    }
  }

  /// Has the kernel find out, or make sure of, a neighbor's MAC address as if it had a packet for it (NTF_USE); does not
  /// wait for the outcome.
  public func probe(neighbor address: IPAddress, interface: UInt32) throws(NetlinkError) {
    var request = Request(RTM_NEWNEIGH, flags: NLM_F_ACK | NLM_F_CREATE)
    request.appendNeighborHeader(family: address.family, interface: interface, state: [], flags: UInt8(NTF_USE))
    request.attribute(NDA_DST, address.octets)
    try exchange(request, "probe", "neighbor \(address) on the link with index \(interface)")
  }

  /// Probes and waits, looking again every 5 ms. Nil: it did not answer in time.
  public func resolve(
    neighbor address: IPAddress, interface: UInt32, timeoutMilliseconds: Int
  ) throws(NetlinkError) -> MACAddress? {
    let end = weft_monotonic_ns() + UInt64(max(timeoutMilliseconds, 0)) * 1_000_000
    try probe(neighbor: address, interface: interface)
    while true {
      let found = try neighbor(address, interface: interface)
      if let found, found.isUsable { return found.mac }
      if found?.state.contains(.failed) == true || weft_monotonic_ns() >= end { return nil }
      usleep(5_000)
    }
  }
}

extension Neighbor {
  /// ndmsg: family 1, pad 3, ifindex 4, state 2, flags 1, type 1.
  init?(_ message: Message) {
    let attributes = message.attributes(after: 12)
    guard Int(message.type) == RTM_NEWNEIGH || Int(message.type) == RTM_DELNEIGH,
      let family = message.payload.first.map(Int32.init), family == AF_INET || family == AF_INET6,
      let index = message.payload.host(UInt32.self, at: 4), let state = message.payload.host(UInt16.self, at: 8),
      let address = attributes.bytes(NDA_DST).flatMap(IPAddress.init(octets:))
    else { return nil }
    interface = index
    self.address = address
    mac = attributes.bytes(NDA_LLADDR).flatMap(MACAddress.init(octets:))
    self.state = NeighborState(rawValue: state)
  }
}

extension Request {
  fileprivate mutating func appendNeighborHeader(
    family: UInt8, interface: UInt32, state: NeighborState, flags: UInt8
  ) {
    append(family)
    append(UInt8(0))
    append(UInt16(0))
    append(interface)
    append(state.rawValue)
    append(flags)
    append(UInt8(0))
  }
}
