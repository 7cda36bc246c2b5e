import CLinux
import Glibc
import WeftWire

/// An address of a link.
public struct LinkAddress: Hashable, Sendable {
  public var interface: UInt32
  public var address: IPAddress
  /// 0...32 for IPv4, 0...128 for IPv6.
  public var prefixLength: Int
  /// RT_SCOPE_*: 0 universe, 253 link, 254 host.
  public var scope: UInt8
  /// IFA_F_*.
  public var flags: UInt32

  /// Not usable yet: the kernel still looks for duplicates.
  public var isTentative: Bool { flags & UInt32(IFA_F_TENTATIVE) != 0 }
}

extension Netlink {
  /// IPv4 and IPv6 addresses, of one link or of all.
  public func addresses(interface: UInt32? = nil) throws(NetlinkError) -> [LinkAddress] {
    var request = Request(RTM_GETADDR, flags: NLM_F_DUMP)
    request.appendAddressHeader(family: 0, prefixLength: 0, flags: 0, interface: interface ?? 0)
    return try exchange(request, "list", "addresses").compactMap(LinkAddress.init)
      .filter { interface == nil || $0.interface == interface }
  }

  /// Adds an address. IPv6 addresses work at once: no duplicate address detection (whoever assigns them knows them to be
  /// unique, and a pod would wait a second and more). EEXIST when it is there.
  public func addAddress(_ address: IPAddress, prefixLength: Int, interface: UInt32) throws(NetlinkError) {
    var request = Request(RTM_NEWADDR, flags: NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL)
    let flags = address.isV4 ? 0 : UInt8(IFA_F_NODAD)
    request.appendAddressHeader(
      family: address.family, prefixLength: prefixLength, flags: flags, interface: interface)
    request.attribute(IFA_LOCAL, address.octets)
    request.attribute(IFA_ADDRESS, address.octets)
    if address.isV4 && prefixLength < 31 {
      let hosts = UInt32.max >> UInt32(prefixLength)
      request.attribute(IFA_BROADCAST, IPAddress(v4: address.v4 | hosts).octets)
    }
    try exchange(request, "add", "address \(address)/\(prefixLength) to the link with index \(interface)")
  }

  /// EADDRNOTAVAIL when it is not there.
  public func deleteAddress(_ address: IPAddress, prefixLength: Int, interface: UInt32) throws(NetlinkError) {
    var request = Request(RTM_DELADDR, flags: NLM_F_ACK)
    request.appendAddressHeader(family: address.family, prefixLength: prefixLength, flags: 0, interface: interface)
    request.attribute(IFA_LOCAL, address.octets)
    request.attribute(IFA_ADDRESS, address.octets)
    try exchange(request, "delete", "address \(address)/\(prefixLength) of the link with index \(interface)")
  }
}

extension LinkAddress {
  /// ifaddrmsg: family 1, prefixlen 1, flags 1, scope 1, index 4.
  init?(_ message: Message) {
    let attributes = message.attributes(after: 8)
    // IFA_LOCAL is the link's own address; IPv6 has it only where a peer's differs.
    guard Int(message.type) == RTM_NEWADDR || Int(message.type) == RTM_DELADDR,
      let index = message.payload.host(UInt32.self, at: 4),
      let address = (attributes.bytes(IFA_LOCAL) ?? attributes.bytes(IFA_ADDRESS)).flatMap(IPAddress.init(octets:))
    else { return nil }
    interface = index
    self.address = address
    prefixLength = Int(message.payload[1])
    scope = message.payload[3]
    flags = attributes.u32(IFA_FLAGS) ?? UInt32(message.payload[2])
  }
}

extension IPAddress {
  /// AF_INET or AF_INET6.
  var family: UInt8 { UInt8(isV4 ? AF_INET : AF_INET6) }
}

extension Request {
  fileprivate mutating func appendAddressHeader(family: UInt8, prefixLength: Int, flags: UInt8, interface: UInt32) {
    append(family)
    append(UInt8(prefixLength))
    append(flags)
    append(UInt8(0))
    append(interface)
  }
}
