import CLinux
import Glibc
import WeftWire

extension Netlink {
  /// Makes an interface for frames of another one with a tag (802.1Q, IFLA_VLAN_ID). EEXIST when the name or the tag is
  /// taken, EOPNOTSUPP where the kernel knows no VLANs.
  public func createVLAN(_ name: String, identifier: UInt16, over parent: UInt32) throws(NetlinkError) {
    let object = "VLAN \(identifier) as \(name)"
    guard LinkName.isValid(name), (1...4094).contains(identifier) else {
      throw NetlinkError("make", object, code: EINVAL, kernelText: "a name of 1 to 15 bytes and a VLAN of 1 to 4094")
    }
    var request = Self.newLink()
    request.attribute(IFLA_IFNAME, name)
    request.attribute(IFLA_LINK, parent)
    request.nested(IFLA_LINKINFO) {
      $0.attribute(IFLA_INFO_KIND, "vlan")
      $0.nested(IFLA_INFO_DATA) {
        var payload: [UInt8] = []
        payload.append(host: identifier)
        $0.attribute(IFLA_VLAN_ID, payload)
      }
    }
    try exchange(request, "make", object)
  }

  /// Makes an interface with a MAC address of its own on another one of this namespace (macvlan, mode bridge), under its
  /// final name in another namespace.
  public func createMacvlan(
    _ name: String, mac: MACAddress, mtu: UInt32, over parent: UInt32, in namespace: borrowing NetworkNamespace
  ) throws(NetlinkError) {
    let object = "macvlan \(name)"
    guard LinkName.isValid(name) else {
      throw NetlinkError("make", object, code: EINVAL, kernelText: "a name has 1 to 15 bytes, no space, '/' or ':'")
    }
    var request = Self.newLink()
    request.attribute(IFLA_IFNAME, name)
    request.attribute(IFLA_LINK, parent)
    request.attribute(IFLA_ADDRESS, mac.octets)
    request.attribute(IFLA_MTU, mtu)
    request.attribute(IFLA_NET_NS_FD, UInt32(bitPattern: namespace.descriptor))
    request.nested(IFLA_LINKINFO) {
      $0.attribute(IFLA_INFO_KIND, "macvlan")
      $0.nested(IFLA_INFO_DATA) { $0.attribute(IFLA_MACVLAN_MODE, UInt32(MACVLAN_MODE_BRIDGE.rawValue)) }
    }
    try exchange(request, "make", object)
  }

  /// With an ifinfomsg that says nothing yet.
  private static func newLink() -> Request {
    var request = Request(RTM_NEWLINK, flags: NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL)
    for _ in 0..<4 { request.append(UInt32(0)) }
    return request
  }
}
