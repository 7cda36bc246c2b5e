import CLinux
import WeftWire

/// What an af_xdp port takes of its interface.
public enum XDPSelection: Hashable, Sendable {
  /// All: a pod's, or whatever else is the forwarder's alone.
  case everything
  /// Tunnel packets (VXLAN, MPLS-over-UDP, MPLS-over-GRE) to these addresses, and frames with tags of these VLANs: the
  /// rest is the host's.
  case tunnels(addresses: [IPAddress], vlans: [UInt16])

  /// So many VLANs fit into a program.
  public static let maximumVLANs = 500
}

/// The XDP programs of af_xdp ports, instruction by instruction, so that no compiler is needed where they run.
///
/// Of a packet in fragments the first, which has the ports, is the forwarder's, which drops it by name; the others are
/// the host's, where they find no first one and time out without an answer. That is what AF_PACKET ports do too
/// (`TunnelFilter`). A tag with VLAN 0 is none (IEEE 802.1Q section 6.9). IPv6 extension headers are not looked behind:
/// no sender of tunnels has them.
public enum XDPFilter {
  /// XDP_DROP, for what is the forwarder's and has no socket: the host must not answer it.
  public static let drop: Int32 = 1
  /// XDP_PASS: on to the host.
  public static let pass: Int32 = 2
  /// bpf_redirect_map
  private static let redirectMap: Int32 = 51
  /// Of `struct xdp_md`.
  private static let data: Int16 = 0
  private static let dataEnd: Int16 = 4
  private static let queue: Int16 = 16

  // Registers: 6 the context, 7 where the frame begins (behind a tag that is none: 4 bytes on), 8 where it ends.

  /// `map`: the descriptor of the map of sockets.
  public static func program(_ selection: XDPSelection, map: Int32) -> [bpf_insn] {
    var code = EBPFAssembler()
    code.move(to: 6, from: 1)
    if case .tunnels(let addresses, let vlans) = selection {
      // Nothing is: the verifier would refuse what cannot be reached.
      guard !addresses.isEmpty || !vlans.isEmpty else {
        code.end(pass)
        return code.assembled()
      }
      select(&code, addresses, vlans)
      code.label("pass")
      code.end(pass)
      code.label("ours")
    }
    // return bpf_redirect_map(&queues, context->rx_queue_index, XDP_DROP)
    code.loadMap(1, descriptor: map)
    code.load32(2, from: 6, queue)
    code.set(3, drop)
    code.call(redirectMap)
    code.end()
    return code.assembled()
  }

  /// Goes on at "pass" or at "ours".
  private static func select(_ code: inout EBPFAssembler, _ addresses: [IPAddress], _ vlans: [UInt16]) {
    code.load32(7, from: 6, data)
    code.load32(8, from: 6, dataEnd)
    need(&code, 7, Ethernet.bytes + IPv4.minimumBytes)
    loadBig16(&code, 7, Ethernet.type)
    code.jumpIfEqual(UInt32(Ethernet.vlan), to: "tagged")
    code.jumpIfEqual(UInt32(Ethernet.serviceVLAN), to: "tagged")
    code.jumpIfEqual(UInt32(Ethernet.oldServiceVLAN), to: "tagged")
    code.jump(to: "untagged")
    code.label("tagged")
    loadBig16(&code, 7, Ethernet.bytes)
    code.and(0, 0x0FFF)
    for vlan in vlans.prefix(XDPSelection.maximumVLANs) { code.jumpIfEqual(UInt32(vlan), to: "ours") }
    code.jumpUnlessEqual(0, to: "pass")
    code.add(7, 4)
    need(&code, 7, Ethernet.bytes + IPv4.minimumBytes)
    loadBig16(&code, 7, Ethernet.type)
    code.label("untagged")
    code.jumpIfEqual(UInt32(Ethernet.ipv4), to: "v4")
    code.jumpUnlessEqual(UInt32(Ethernet.ipv6), to: "pass")
    selectV6(&code, addresses.filter { !$0.isV4 })
    code.label("v4")
    selectV4(&code, addresses.filter(\.isV4))
  }

  private static func selectV4(_ code: inout EBPFAssembler, _ addresses: [IPAddress]) {
    guard !addresses.isEmpty else { return code.jump(to: "pass") }
    let ip = Ethernet.bytes
    loadBig16(&code, 7, ip + 6)
    code.jumpIfSet(UInt32(IPv4.offsetMask), to: "pass")
    code.load32(0, from: 7, Int16(ip + 16))
    code.fromNetwork(0, bits: 32)
    for address in addresses { code.jumpIfWord(address.v4, to: "v4 to us") }
    code.jump(to: "pass")
    code.label("v4 to us")
    // Register 9: where the transport header begins, less the Ethernet header's bytes.
    code.load8(9, from: 7, Int16(ip))
    code.and(9, 0x0F)
    code.shiftLeft(9, 2)
    code.add(9, register: 7)
    need(&code, 9, ip + 4)
    code.load8(0, from: 7, Int16(ip + 9))
    code.jumpIfEqual(UInt32(IPProtocol.udp), to: "v4 udp")
    code.jumpUnlessEqual(UInt32(IPProtocol.gre), to: "pass")
    loadBig16(&code, 9, ip + 2)
    selectGRE(&code)
    code.label("v4 udp")
    loadBig16(&code, 9, ip + 2)
    selectPort(&code)
  }

  private static func selectV6(_ code: inout EBPFAssembler, _ addresses: [IPAddress]) {
    guard !addresses.isEmpty else { return code.jump(to: "pass") }
    let ip = Ethernet.bytes
    need(&code, 7, ip + IPv6.bytes + 4)
    for (number, address) in addresses.enumerated() {
      let words = [address.high >> 32, address.high, address.low >> 32, address.low]
      for (index, word) in words.enumerated() {
        code.load32(0, from: 7, Int16(ip + 24 + 4 * index))
        code.fromNetwork(0, bits: 32)
        code.jumpUnlessWord(UInt32(truncatingIfNeeded: word), to: "v6 not \(number)")
      }
      code.jump(to: "v6 to us")
      code.label("v6 not \(number)")
    }
    code.jump(to: "pass")
    code.label("v6 to us")
    code.load8(0, from: 7, Int16(ip + 6))
    code.jumpIfEqual(UInt32(IPProtocol.udp), to: "v6 udp")
    code.jumpUnlessEqual(UInt32(IPProtocol.gre), to: "pass")
    loadBig16(&code, 7, ip + IPv6.bytes + 2)
    selectGRE(&code)
    code.label("v6 udp")
    loadBig16(&code, 7, ip + IPv6.bytes + 2)
    selectPort(&code)
  }

  /// Register 0 holds a destination port.
  private static func selectPort(_ code: inout EBPFAssembler) {
    code.jumpIfEqual(UInt32(VXLAN.port), to: "ours")
    code.jumpIfEqual(UInt32(MPLS.port), to: "ours")
    code.jump(to: "pass")
  }

  /// Register 0 holds the protocol inside GRE.
  private static func selectGRE(_ code: inout EBPFAssembler) {
    code.jumpIfEqual(UInt32(GRE.mpls), to: "ours")
    code.jump(to: "pass")
  }

  /// On to "pass" where there are no `bytes` from where `register` points; the verifier wants to see it.
  private static func need(_ code: inout EBPFAssembler, _ register: UInt8, _ bytes: Int) {
    code.move(to: 1, from: register)
    code.add(1, Int32(bytes))
    code.jumpIfAbove(1, 8, to: "pass")
  }

  private static func loadBig16(_ code: inout EBPFAssembler, _ base: UInt8, _ offset: Int) {
    code.load16(0, from: base, Int16(offset))
    code.fromNetwork(0, bits: 16)
  }
}
