import CLinux
import Glibc
import WeftWire

/// A route of the kernel's. Of a route over several paths this is the first.
public struct KernelRoute: Hashable, Sendable {
  public var destination: IPPrefix
  /// Nil: the destination is on the link.
  public var gateway: IPAddress?
  public var interface: UInt32?
  /// The preferred source address.
  public var source: IPAddress?
  /// Nil: 0 for IPv4, 1024 for IPv6.
  public var metric: UInt32?
  /// 254 is the main table, 255 the local one.
  public var table: UInt32
  /// The gateway is on the link though no prefix of the link holds it (RTNH_F_ONLINK).
  public var isOnLink: Bool
  /// RTN_UNICAST, RTN_LOCAL, RTN_BLACKHOLE and so on.
  public var kind: UInt8
  /// Who made it: RTPROT_KERNEL 2, RTPROT_BOOT 3, RTPROT_STATIC 4 and so on.
  public var protocolNumber: UInt8
  /// RT_SCOPE_*; nil: link where there is no gateway, universe otherwise.
  public var scope: UInt8?
  /// Bytes; nil: the link's.
  public var mtu: UInt32?

  public init(
    destination: IPPrefix, gateway: IPAddress? = nil, interface: UInt32? = nil, source: IPAddress? = nil,
    metric: UInt32? = nil, table: UInt32 = 254, isOnLink: Bool = false, kind: UInt8 = UInt8(RTN_UNICAST),
    protocolNumber: UInt8 = UInt8(RTPROT_BOOT), scope: UInt8? = nil, mtu: UInt32? = nil
  ) {
    self.destination = destination
    self.gateway = gateway
    self.interface = interface
    self.source = source
    self.metric = metric
    self.table = table
    self.isOnLink = isOnLink
    self.kind = kind
    self.protocolNumber = protocolNumber
    self.scope = scope
    self.mtu = mtu
  }
}

extension Netlink {
  /// IPv4 and IPv6 routes, of one link or of all, of one table (the main one) or, with nil, of all.
  public func routes(interface: UInt32? = nil, table: UInt32? = 254) throws(NetlinkError) -> [KernelRoute] {
    var routes: [KernelRoute] = []
    for family in [UInt8(AF_INET), UInt8(AF_INET6)] {
      var request = Request(RTM_GETROUTE, flags: NLM_F_DUMP)
      request.appendRouteHeader(family: family)
      do {
        routes += try exchange(request, "list", "routes").compactMap(KernelRoute.init)
      } catch {
        // A kernel without IPv6 has no routes of it.
        if family == UInt8(AF_INET6), error.code == EOPNOTSUPP || error.code == EAFNOSUPPORT { continue }
        throw error
      }
    }
    return routes.filter {
      (interface == nil || $0.interface == interface) && (table == nil || $0.table == table)
    }
  }

  /// EEXIST when there is one to the same destination with the same metric.
  public func addRoute(_ route: KernelRoute) throws(NetlinkError) {
    try exchange(Request(RTM_NEWROUTE, flags: NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, route), "add", "\(route)")
  }

  /// Adds it, in place of one to the same destination with the same metric if there is such.
  public func replaceRoute(_ route: KernelRoute) throws(NetlinkError) {
    try exchange(Request(RTM_NEWROUTE, flags: NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE, route), "set", "\(route)")
  }

  /// ESRCH when there is none such.
  public func deleteRoute(_ route: KernelRoute) throws(NetlinkError) {
    try exchange(Request(RTM_DELROUTE, flags: NLM_F_ACK, route), "delete", "\(route)")
  }

  /// What the kernel would do with a packet to `destination`: link, gateway, source address.
  /// ENETUNREACH or EHOSTUNREACH when it has nowhere to send it.
  public func route(
    to destination: IPAddress, from source: IPAddress? = nil
  ) throws(NetlinkError) -> KernelRoute {
    var request = Request(RTM_GETROUTE, flags: NLM_F_ACK)
    request.appendRouteHeader(
      family: destination.family, destinationLength: destination.width, sourceLength: source?.width ?? 0)
    request.attribute(RouteAttribute.destination, destination.octets)
    if let source { request.attribute(RouteAttribute.source, source.octets) }
    let object = "the route to \(destination)"
    guard let route = try exchange(request, "look up", object).compactMap(KernelRoute.init).first else {
      throw NetlinkError("look up", object, code: EPROTO, kernelText: "the answer holds no route")
    }
    return route
  }
}

extension KernelRoute: CustomStringConvertible {
  /// As `ip route` says it, the link by its index.
  public var description: String {
    var words = ["route to \(destination)"]
    if let gateway { words.append("via \(gateway)") }
    if let interface { words.append("over the link with index \(interface)") }
    if let source { words.append("from \(source)") }
    if let metric { words.append("metric \(metric)") }
    if table != 254 { words.append("table \(table)") }
    if isOnLink { words.append("onlink") }
    return words.joined(separator: " ")
  }

  /// rtmsg: family 1, dst_len 1, src_len 1, tos 1, table 1, protocol 1, scope 1, type 1, flags 4.
  init?(_ message: Message) {
    guard Int(message.type) == RTM_NEWROUTE || Int(message.type) == RTM_DELROUTE, message.payload.count >= 12,
      let flags = message.payload.host(UInt32.self, at: 8)
    else { return nil }
    let attributes = message.attributes(after: 12)
    let none: IPAddress
    switch Int32(message.payload[0]) {
    case AF_INET: none = IPAddress(v4: 0)
    case AF_INET6: none = IPAddress(high: 0, low: 0)
    default: return nil
    }
    let address = attributes.bytes(RouteAttribute.destination).flatMap(IPAddress.init(octets:)) ?? none
    guard let destination = IPPrefix(address, length: Int(message.payload[1])) else { return nil }
    self.destination = destination
    let path = attributes.bytes(RouteAttribute.multipath).flatMap(Path.init)
    gateway = path?.gateway ?? Path.gateway(attributes)
    interface = path?.interface ?? attributes.u32(RouteAttribute.outputInterface)
    source = attributes.bytes(RouteAttribute.preferredSource).flatMap(IPAddress.init(octets:))
    metric = attributes.u32(RouteAttribute.priority)
    table = attributes.u32(RouteAttribute.table) ?? UInt32(message.payload[4])
    isOnLink = (path?.flags ?? UInt8(truncatingIfNeeded: flags)) & UInt8(RTNH_F_ONLINK) != 0
    kind = message.payload[7]
    protocolNumber = message.payload[5]
    scope = message.payload[6]
    mtu = attributes.nested(RouteAttribute.metrics)?.u32(Int(RTAX_MTU))
  }

  /// The first of several paths; rtnexthop: len 2, flags 1, hops 1, ifindex 4, attributes.
  private struct Path {
    let flags: UInt8
    let interface: UInt32
    let gateway: IPAddress?

    init?(_ bytes: [UInt8]) {
      guard let length = bytes.host(UInt16.self, at: 0).map(Int.init), length >= 8, length <= bytes.count,
        let index = bytes.host(UInt32.self, at: 4)
      else { return nil }
      flags = bytes[2]
      interface = index
      gateway = Self.gateway(Attributes(bytes[8..<length]))
    }

    /// RTA_VIA is a gateway of the other family: its family in two bytes, then the address.
    static func gateway(_ attributes: Attributes) -> IPAddress? {
      (attributes.bytes(RouteAttribute.gateway) ?? attributes.bytes(RouteAttribute.via).map { Array($0.dropFirst(2)) })
        .flatMap(IPAddress.init(octets:))
    }
  }
}

/// rtattr_type_t as numbers.
private enum RouteAttribute {
  static let destination = Int(RTA_DST.rawValue)
  static let source = Int(RTA_SRC.rawValue)
  static let outputInterface = Int(RTA_OIF.rawValue)
  static let gateway = Int(RTA_GATEWAY.rawValue)
  static let priority = Int(RTA_PRIORITY.rawValue)
  static let preferredSource = Int(RTA_PREFSRC.rawValue)
  static let metrics = Int(RTA_METRICS.rawValue)
  static let multipath = Int(RTA_MULTIPATH.rawValue)
  static let table = Int(RTA_TABLE.rawValue)
  static let via = Int(RTA_VIA.rawValue)
}

extension Request {
  fileprivate mutating func appendRouteHeader(
    family: UInt8, destinationLength: Int = 0, sourceLength: Int = 0, table: UInt8 = 0, protocolNumber: UInt8 = 0,
    scope: UInt8 = 0, kind: UInt8 = 0, flags: UInt32 = 0
  ) {
    append(family)
    append(UInt8(destinationLength))
    append(UInt8(sourceLength))
    append(UInt8(0))
    append(table)
    append(protocolNumber)
    append(scope)
    append(kind)
    append(flags)
  }

  fileprivate init(_ type: Int, flags: Int32, _ route: KernelRoute) {
    self.init(type, flags: flags)
    let address = route.destination.address
    // A deletion without a scope matches any (RT_SCOPE_NOWHERE).
    let usual = type == RTM_DELROUTE ? 255 : route.gateway == nil && address.isV4 ? UInt8(RT_SCOPE_LINK.rawValue) : 0
    appendRouteHeader(
      family: address.family, destinationLength: route.destination.length,
      table: route.table < 256 ? UInt8(route.table) : 0, protocolNumber: route.protocolNumber,
      scope: route.scope ?? usual, kind: route.kind, flags: route.isOnLink ? UInt32(RTNH_F_ONLINK) : 0)
    attribute(RouteAttribute.table, route.table)
    if route.destination.length > 0 { attribute(RouteAttribute.destination, address.octets) }
    if let gateway = route.gateway {
      if gateway.isV4 == address.isV4 {
        attribute(RouteAttribute.gateway, gateway.octets)
      } else {
        attribute(RouteAttribute.via, [gateway.family, 0] + gateway.octets)
      }
    }
    if let interface = route.interface { attribute(RouteAttribute.outputInterface, interface) }
    if let source = route.source { attribute(RouteAttribute.preferredSource, source.octets) }
    if let metric = route.metric { attribute(RouteAttribute.priority, metric) }
    if let mtu = route.mtu { nested(RouteAttribute.metrics) { $0.attribute(Int(RTAX_MTU), mtu) } }
  }
}
