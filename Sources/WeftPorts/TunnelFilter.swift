import CLinux
import WeftWire

/// Programs that tell tunnel packets (VXLAN, MPLS-over-UDP, MPLS-over-GRE) from the host's own traffic on a fabric interface: a classic
/// one for the receiving socket, and eBPF ones for the kernel's ingress, which sees a frame after the packet sockets.
/// Both read Ethernet, IPv4 (any header length, first fragments) or IPv6 (no extension headers), UDP or
/// GRE (without optional fields or with).
enum TunnelFilter {
  /// Takes tunnel packets whole, and frames with tags of these VLANs; nothing else. The kernel has taken the (outer) tag
  /// out of the frame before the program sees it, but for those of type 0x9100, which it does not know: of these all are
  /// taken where `takesOld` says so.
  static func classic(vlans: [UInt16], takesOld: Bool) -> [sock_filter] {
    guard !vlans.isEmpty || takesOld else { return classic }
    let load: UInt16 = 0x20  // BPF_LD | BPF_W | BPF_ABS
    let load16: UInt16 = 0x28
    let and: UInt16 = 0x54  // BPF_ALU | BPF_AND
    let jumpEqual: UInt16 = 0x15
    let jump: UInt16 = 0x05
    let end: UInt16 = 0x06
    // SKF_AD_OFF + SKF_AD_VLAN_TAG_PRESENT, SKF_AD_VLAN_TAG
    let isTagged: UInt32 = 0xFFFF_F000 + 48
    let tag: UInt32 = 0xFFFF_F000 + 44
    func step(_ code: UInt16, _ k: UInt32, _ yes: UInt8 = 0, _ no: UInt8 = 0) -> sock_filter {
      sock_filter(code: code, jt: yes, jf: no, k: k)
    }
    // So many that a program of them would be too long: all of them, and the packet path tells them apart.
    let isShort = vlans.count <= maximumFilteredVLANs
    var choice: [sock_filter] = []
    if isShort {
      for vlan in vlans { choice += [step(jumpEqual, UInt32(vlan), 0, 1), step(end, 0xFFFF_FFFF)] }
      choice.append(step(end, 0))
    } else {
      choice.append(step(end, 0xFFFF_FFFF))
    }
    let untagged = UInt32(choice.count)
    var program = [
      step(load, isTagged),
      step(jumpEqual, 0, 0, 1),
      step(jump, untagged + 4),
      step(load, tag),
      step(and, 0x0FFF),
      step(jumpEqual, 0, 0, 1),
      step(jump, untagged),
    ]
    program += choice
    if takesOld {
      program += [
        step(load16, 12), step(jumpEqual, UInt32(Ethernet.oldServiceVLAN), 0, 1), step(end, 0xFFFF_FFFF),
      ]
    }
    return program + classic
  }

  static let maximumFilteredVLANs = 500

  /// Takes tunnel packets whole and nothing else.
  static var classic: [sock_filter] {
    let load16: UInt16 = 0x28  // BPF_LD | BPF_H | BPF_ABS
    let load8: UInt16 = 0x30  // BPF_LD | BPF_B | BPF_ABS
    let load16Index: UInt16 = 0x48  // BPF_LD | BPF_H | BPF_IND
    let loadHeaderLength: UInt16 = 0xB1  // BPF_LDX | BPF_B | BPF_MSH
    let jumpEqual: UInt16 = 0x15
    let jumpSet: UInt16 = 0x45
    let jump: UInt16 = 0x05
    let end: UInt16 = 0x06
    func step(_ code: UInt16, _ k: UInt32, _ yes: UInt8 = 0, _ no: UInt8 = 0) -> sock_filter {
      sock_filter(code: code, jt: yes, jf: no, k: k)
    }
    return [
      step(load16, 12),  // 0: EtherType
      step(jumpEqual, UInt32(Ethernet.ipv4), 0, 10),  // 1: else to 12
      step(load16, 20),  // 2: fragment offset
      step(jumpSet, UInt32(IPv4.offsetMask), 18, 0),  // 3: a later fragment: to 22
      step(loadHeaderLength, 14),  // 4
      step(load8, 23),  // 5: protocol
      step(jumpEqual, UInt32(IPProtocol.udp), 0, 2),  // 6: else to 9
      step(load16Index, 16),  // 7: destination port
      step(jump, 11),  // 8: to 20
      step(jumpEqual, UInt32(IPProtocol.gre), 0, 12),  // 9: else to 22
      step(load16Index, 16),  // 10: protocol inside
      step(jump, 7),  // 11: to 19
      step(jumpEqual, UInt32(Ethernet.ipv6), 0, 9),  // 12: else to 22
      step(load8, 20),  // 13: next header
      step(jumpEqual, UInt32(IPProtocol.udp), 0, 2),  // 14: else to 17
      step(load16, 56),  // 15: destination port
      step(jump, 3),  // 16: to 20
      step(jumpEqual, UInt32(IPProtocol.gre), 0, 4),  // 17: else to 22
      step(load16, 56),  // 18: protocol inside
      step(jumpEqual, UInt32(GRE.mpls), 3, 2),  // 19: to 23 or 22
      step(jumpEqual, UInt32(VXLAN.port), 2, 0),  // 20: to 23
      step(jumpEqual, UInt32(MPLS.port), 1, 0),  // 21: to 23
      step(end, 0),  // 22
      step(end, 0xFFFF_FFFF),  // 23
    ]
  }

  /// Drops tunnel packets (TC_ACT_SHOT), lets everything else on (TCX_NEXT): without it the host's kernel would answer
  /// them with ICMP port unreachable. Of tagged ones those of `vlans`; what the host does in others is its own.
  static func dropTunnels(vlans: [UInt16]) -> [bpf_insn] {
    var program = EBPFAssembler()
    program.move(to: 6, from: 1)
    program.loadContext(20)  // vlan_present
    program.jumpIfEqual(0, to: "untagged")
    program.loadContext(24)  // vlan_tci
    program.and(0, 0x0FFF)
    program.jumpIfEqual(0, to: "untagged")
    for vlan in vlans.prefix(maximumFilteredVLANs) { program.jumpIfEqual(UInt32(vlan), to: "untagged") }
    program.jump(to: "pass")
    program.label("untagged")
    program.load16(12)
    program.jumpUnlessEqual(UInt32(Ethernet.ipv4), to: "v6")
    program.load16(20)
    program.jumpIfSet(UInt32(IPv4.offsetMask), to: "pass")
    program.load8(14)
    program.and(0, 0x0F)
    program.shiftLeft(0, 2)
    program.move(to: 7, from: 0)
    program.load8(23)
    program.jumpIfEqual(UInt32(IPProtocol.gre), to: "gre")
    program.jumpUnlessEqual(UInt32(IPProtocol.udp), to: "pass")
    program.load16(indexedBy: 7, 16)
    program.jump(to: "port")
    program.label("gre")
    program.load16(indexedBy: 7, 16)
    program.jump(to: "inside")
    program.label("v6")
    program.jumpUnlessEqual(UInt32(Ethernet.ipv6), to: "pass")
    program.load8(20)
    program.jumpIfEqual(UInt32(IPProtocol.gre), to: "gre6")
    program.jumpUnlessEqual(UInt32(IPProtocol.udp), to: "pass")
    program.load16(56)
    program.jump(to: "port")
    program.label("gre6")
    program.load16(56)
    program.label("inside")
    program.jumpIfEqual(UInt32(GRE.mpls), to: "drop")
    program.jump(to: "pass")
    program.label("port")
    program.jumpIfEqual(UInt32(VXLAN.port), to: "drop")
    program.jumpIfEqual(UInt32(MPLS.port), to: "drop")
    program.label("pass")
    program.end(-1)
    program.label("drop")
    program.end(2)
    return program.assembled()
  }

  /// Drops everything: a pod's interface is the forwarder's alone.
  static var dropAll: [bpf_insn] {
    var program = EBPFAssembler()
    program.end(2)
    return program.assembled()
  }
}
