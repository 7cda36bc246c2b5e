import CLinux
import Glibc
import WeftWire

extension Netlink {
  /// Sets an entry that stays: the kernel never asks for that neighbor. One that is there is replaced.
  public func setPermanentNeighbor(
    _ address: IPAddress, mac: MACAddress, interface: UInt32
  ) throws(NetlinkError) {
    // ndmsg: family 1, pad 3, ifindex 4, state 2, flags 1, type 1.
    var request = Request(RTM_NEWNEIGH, flags: NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE)
    request.append(address.family)
    request.append(UInt8(0))
    request.append(UInt16(0))
    request.append(interface)
    request.append(NeighborState.permanent.rawValue)
    request.append(UInt8(0))
    request.append(UInt8(0))
    request.attribute(NDA_DST, address.octets)
    request.attribute(NDA_LLADDR, mac.octets)
    try exchange(request, "set", "neighbor \(address) on the link with index \(interface)")
  }
}
