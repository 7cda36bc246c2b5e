import CLinux
import Glibc
import WeftWire

/// A network interface as the kernel knows it.
public struct Link: Hashable, Sendable {
  public var index: UInt32
  public var name: String
  /// Nil for links without an Ethernet address.
  public var mac: MACAddress?
  /// Bytes of IP packet.
  public var mtu: UInt32
  /// Administratively up (IFF_UP).
  public var isUp: Bool
  /// Up, and the other end too (IFF_LOWER_UP).
  public var isRunning: Bool
  public var isLoopback: Bool
  /// "veth", "vxlan", "bridge" and so on; nil for hardware.
  public var kind: String?
  /// The index of a veth's other end (in its own namespace) or of the device below; nil when there is none.
  public var peerIndex: UInt32?
  /// The namespace of the other end, as this namespace numbers it; nil: it is here.
  public var peerNamespaceID: Int32?
  /// A text for people (IFLA_IFALIAS); nil when there is none.
  public var alias: String?
  /// Of a link of kind "tun".
  public var tun: TunProperties?
}

/// What a TUN or TAP interface is like (linux/if_link.h IFLA_TUN_*).
public struct TunProperties: Hashable, Sendable {
  /// Frames, not packets.
  public var isTAP: Bool
  /// It outlives who has it open.
  public var isPersistent: Bool
  public var isMultiQueue: Bool
  /// Queues that somebody has open; known of those with several.
  public var queues: UInt32

  public init(isTAP: Bool, isPersistent: Bool, isMultiQueue: Bool, queues: UInt32) {
    self.isTAP = isTAP
    self.isPersistent = isPersistent
    self.isMultiQueue = isMultiQueue
    self.queues = queues
  }
}

/// A pair of veths to be made.
public struct VethPair: Hashable, Sendable {
  /// At most 15 bytes each.
  public var name: String
  public var peerName: String
  /// Nil: the kernel picks one at random.
  public var mac: MACAddress?
  public var peerMAC: MACAddress?
  /// Both ends' MTU; nil: the kernel's 1500.
  public var mtu: UInt32?

  public init(
    name: String, peerName: String, mac: MACAddress? = nil, peerMAC: MACAddress? = nil, mtu: UInt32? = nil
  ) {
    self.name = name
    self.peerName = peerName
    self.mac = mac
    self.peerMAC = peerMAC
    self.mtu = mtu
  }
}

/// What is to change of a link; nil leaves it as it is.
public struct LinkChange: Hashable, Sendable {
  public var isUp: Bool?
  public var mtu: UInt32?
  public var mac: MACAddress?
  public var name: String?
  /// Whether the kernel gives the link an IPv6 link-local address when it comes up (IFLA_INET6_ADDR_GEN_MODE).
  public var generatesIPv6LinkLocal: Bool?
  /// At most 255 bytes.
  public var alias: String?

  public init(
    isUp: Bool? = nil, mtu: UInt32? = nil, mac: MACAddress? = nil, name: String? = nil,
    generatesIPv6LinkLocal: Bool? = nil, alias: String? = nil
  ) {
    self.alias = alias
    self.isUp = isUp
    self.mtu = mtu
    self.mac = mac
    self.name = name
    self.generatesIPv6LinkLocal = generatesIPv6LinkLocal
  }
}

extension Netlink {
  public func links() throws(NetlinkError) -> [Link] {
    var request = Request(RTM_GETLINK, flags: NLM_F_DUMP)
    request.appendLinkHeader()
    request.attribute(IFLA_EXT_MASK, UInt32(RTEXT_FILTER_SKIP_STATS))
    return try exchange(request, "list", "links").compactMap(Link.init)
  }

  /// Nil: there is no link of that name.
  public func link(named name: String) throws(NetlinkError) -> Link? {
    guard LinkName.isValid(name) else { return nil }
    var request = Request(RTM_GETLINK, flags: NLM_F_ACK)
    request.appendLinkHeader()
    request.attribute(IFLA_IFNAME, name)
    return try link(request, "link \(name)")
  }

  /// Nil: there is no link with that index.
  public func link(index: UInt32) throws(NetlinkError) -> Link? {
    var request = Request(RTM_GETLINK, flags: NLM_F_ACK)
    request.appendLinkHeader(index: index)
    return try link(request, "link with index \(index)")
  }

  private func link(_ request: Request, _ object: String) throws(NetlinkError) -> Link? {
    do {
      return try exchange(request, "look up", object).compactMap(Link.init).first
    } catch {
      if error.code == ENODEV { return nil }
      throw error
    }
  }

  /// Makes both ends in this namespace. EEXIST when one of the names is taken.
  public func createVeth(_ pair: VethPair) throws(NetlinkError) { try createVeth(pair, peerDescriptor: nil) }

  /// Makes one end here and the other, under its final name, in another namespace: nothing has to be moved or renamed,
  /// so nobody there sees it half made. EEXIST when one of the names is taken.
  public func createVeth(_ pair: VethPair, peerIn namespace: borrowing NetworkNamespace) throws(NetlinkError) {
    try createVeth(pair, peerDescriptor: namespace.descriptor)
  }

  private func createVeth(_ pair: VethPair, peerDescriptor: Int32?) throws(NetlinkError) {
    let object = "veth \(pair.name) with peer \(pair.peerName)"
    guard LinkName.isValid(pair.name), LinkName.isValid(pair.peerName) else {
      throw NetlinkError("make", object, code: EINVAL, kernelText: "a name has 1 to 15 bytes, no space, '/' or ':'")
    }
    var request = Request(RTM_NEWLINK, flags: NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL)
    request.appendLinkHeader()
    request.appendEnd(pair.name, pair.mac, pair.mtu)
    request.nested(IFLA_LINKINFO) {
      $0.attribute(IFLA_INFO_KIND, "veth")
      $0.nested(IFLA_INFO_DATA) {
        $0.nested(VETH_INFO_PEER) {
          $0.appendLinkHeader()
          $0.appendEnd(pair.peerName, pair.peerMAC, pair.mtu)
          if let peerDescriptor { $0.attribute(IFLA_NET_NS_FD, UInt32(bitPattern: peerDescriptor)) }
        }
      }
    }
    try exchange(request, "make", object)
  }

  /// Applies all of a change in one request. The kernel changes a name only of a link that is down, or from 6.2 on.
  public func changeLink(index: UInt32, _ change: LinkChange) throws(NetlinkError) {
    var request = Request(RTM_NEWLINK, flags: NLM_F_ACK)
    let up = UInt32(IFF_UP)
    request.appendLinkHeader(index: index, flags: change.isUp == true ? up : 0, mask: change.isUp == nil ? 0 : up)
    if let name = change.name { request.attribute(IFLA_IFNAME, name) }
    if let mac = change.mac { request.attribute(IFLA_ADDRESS, mac.octets) }
    if let mtu = change.mtu { request.attribute(IFLA_MTU, mtu) }
    if let alias = change.alias { request.attribute(IFLA_IFALIAS, alias) }
    if let generates = change.generatesIPv6LinkLocal {
      let mode = generates ? IN6_ADDR_GEN_MODE_EUI64 : IN6_ADDR_GEN_MODE_NONE
      request.nested(IFLA_AF_SPEC) {
        $0.nested(Int(AF_INET6)) { $0.attribute(IFLA_INET6_ADDR_GEN_MODE, UInt8(mode.rawValue)) }
      }
    }
    try exchange(request, "change", "link with index \(index)")
  }

  /// Removes a link; of a veth, both ends. ENODEV when there is none.
  public func deleteLink(index: UInt32) throws(NetlinkError) {
    var request = Request(RTM_DELLINK, flags: NLM_F_ACK)
    request.appendLinkHeader(index: index)
    try exchange(request, "delete", "link with index \(index)")
  }
}

/// What the kernel takes as an interface's name (net/core/dev.c dev_valid_name).
public enum LinkName {
  public static func isValid(_ name: String) -> Bool {
    let bytes = name.utf8
    return (1...15).contains(bytes.count) && name != "." && name != ".."
      && !bytes.contains { $0 == UInt8(ascii: "/") || $0 == UInt8(ascii: ":") || $0 == 0 || isSpace($0) }
  }

  /// The kernel's isspace, which knows Latin-1's no-break space too.
  private static func isSpace(_ byte: UInt8) -> Bool { byte == 0x20 || (0x09...0x0D).contains(byte) || byte == 0xA0 }
}

extension Link {
  /// ifinfomsg: family 1, pad 1, type 2, index 4, flags 4, change 4.
  init?(_ message: Message) {
    guard Int(message.type) == RTM_NEWLINK || Int(message.type) == RTM_DELLINK,
      let index = message.payload.host(UInt32.self, at: 4), let flags = message.payload.host(UInt32.self, at: 8)
    else { return nil }
    let attributes = message.attributes(after: 16)
    self.index = index
    name = attributes.text(IFLA_IFNAME) ?? ""
    mac = attributes.bytes(IFLA_ADDRESS).flatMap(MACAddress.init(octets:))
    mtu = attributes.u32(IFLA_MTU) ?? 0
    isUp = flags & UInt32(IFF_UP) != 0
    isRunning = flags & 0x10000 != 0  // IFF_LOWER_UP, which net/if.h lacks
    isLoopback = flags & UInt32(IFF_LOOPBACK) != 0
    let info = attributes.nested(IFLA_LINKINFO)
    kind = info?.text(IFLA_INFO_KIND)
    alias = attributes.text(IFLA_IFALIAS)
    if kind == "tun", let data = info?.nested(IFLA_INFO_DATA), let type = data.u8(IFLA_TUN_TYPE) {
      tun = TunProperties(
        isTAP: Int32(type) == IFF_TAP, isPersistent: data.u8(IFLA_TUN_PERSIST) == 1,
        isMultiQueue: data.u8(IFLA_TUN_MULTI_QUEUE) == 1,
        queues: (data.u32(IFLA_TUN_NUM_QUEUES) ?? 0) + (data.u32(IFLA_TUN_NUM_DISABLED_QUEUES) ?? 0))
    }
    peerIndex = attributes.u32(IFLA_LINK).flatMap { $0 == 0 ? nil : $0 }
    peerNamespaceID = attributes.u32(IFLA_LINK_NETNSID).map { Int32(bitPattern: $0) }
  }
}

extension MACAddress {
  /// From six octets in the order of the wire; nil for any other count.
  init?(octets: [UInt8]) {
    guard octets.count == 6 else { return nil }
    self.init(bits: octets.reduce(0) { $0 << 8 | UInt64($1) })
  }
}

extension Request {
  fileprivate mutating func appendLinkHeader(index: UInt32 = 0, flags: UInt32 = 0, mask: UInt32 = 0) {
    append(UInt32(0))
    append(index)
    append(flags)
    append(mask)
  }

  fileprivate mutating func appendEnd(_ name: String, _ mac: MACAddress?, _ mtu: UInt32?) {
    attribute(IFLA_IFNAME, name)
    if let mac { attribute(IFLA_ADDRESS, mac.octets) }
    if let mtu { attribute(IFLA_MTU, mtu) }
  }
}
