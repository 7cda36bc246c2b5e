import CLinux
import Glibc
import WeftSystem
import WeftWire

/// The program that divides a fabric interface's packets between workers (PACKET_FANOUT_EBPF, kernel 4.3): it looks behind the
/// tunnel's headers, computes which worker owns the flow inside as `FlowOwner` does, and returns that worker's number. So a
/// packet comes to its worker at once, where the kernel's own hash of what is outside leaves that to chance, and brings all
/// of MPLS-over-GRE between two nodes to one worker.
///
/// It decides nothing that would have to be right: a packet that it brings elsewhere is handed over. So are those of flows
/// that are translated, which another worker may have; those whose fragments' ports say that they belong elsewhere; and
/// Ethernet frames over MPLS whose first four bits look like those of an IP packet (RFC 4928 section 2.1). Of a
/// super-frame the first packet decides. What is no flow, or is cut short, comes to worker 0.
///
/// The kernel's pointer is behind the Ethernet header when the program runs, and it has taken the outer tag out, but for
/// one of type 0x9100, which it does not know.
public struct FlowSteering: Equatable, Sendable {
  /// Receivers in the fanout group, 1...65536.
  public var workers: Int
  /// `FlowOwner`'s.
  public var seed: UInt64
  /// VLANs in which there are tunnels: frames with other tags are looked at as they are.
  public var tunnelVLANs: [UInt16]

  /// So many VLANs are told from others; what is in more is handed over where that is needed.
  public static let maximumVLANs = 500

  public init(workers: Int, seed: UInt64, tunnelVLANs: [UInt16] = []) {
    self.workers = workers
    self.seed = seed
    self.tunnelVLANs = tunnelVLANs
  }

  /// Hands the program to the kernel, which refuses it where this process lacks CAP_BPF (before kernel 5.8: CAP_SYS_ADMIN)
  /// and users without it may load none.
  public func load() throws(SystemError) -> Descriptor { try Self.load(program) }

  static func load(_ code: [bpf_insn]) throws(SystemError) -> Descriptor {
    let loaded = unsafe weft_load_socket_program(code, Int32(code.count), nil, 0)
    if loaded >= 0 { return Descriptor(owning: loaded) }
    // Once more, for the verifier's words.
    let reason = errno
    var log = [CChar](repeating: 0, count: 1 << 16)
    let again = unsafe weft_load_socket_program(code, Int32(code.count), &log, UInt32(log.count))
    if again >= 0 { return Descriptor(owning: again) }
    let words = String(decoding: log.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    let last = words.split(separator: "\n").suffix(4).joined(separator: "; ")
    throw SystemError(
      "load",
      last.isEmpty ? "the program that divides flows" : "the program that divides flows (the verifier: \(last))",
      code: reason)
  }

  // Registers: 6 the context, 7 where the header in hand begins, 8 the protocol in IP, 9 where the transport header begins.

  /// The program, instruction by instruction.
  public var program: [bpf_insn] {
    var code = EBPFAssembler()
    code.move(to: 6, from: 1)
    code.set(7, 0)
    skipTags(&code)
    openTunnel(&code)
    // An Ethernet frame, behind VXLAN or MPLS.
    code.label("ethernet")
    code.load16(indexedBy: 7, Int32(Ethernet.type))
    code.add(7, Int32(Ethernet.bytes))
    code.label("plain")
    code.jumpIfEqual(UInt32(Ethernet.ipv4), to: "v4")
    code.jumpIfEqual(UInt32(Ethernet.ipv6), to: "v6")
    code.label("none")
    code.end(0)
    let inner = InnerFlow(workers: workers, seed: seed)
    inner.readIPv4(&code)
    inner.readIPv6(&code)
    inner.chooseWorker(&code)
    return code.assembled()
  }

  /// Goes on at "tunnel" or "plain" with the packet's type in register 0, and register 7 behind what tags are left.
  private func skipTags(_ code: inout EBPFAssembler) {
    // Register 8: 0 as long as there was no tag with a VLAN, 1 behind one with tunnels in it, 2 behind another one.
    code.set(8, 0)
    code.loadContext(20)  // vlan_present
    code.jumpIfEqual(0, to: "type")
    code.loadContext(24)  // vlan_tci
    judge(&code, then: "type")
    code.label("type")
    code.loadContext(16)  // protocol
    code.fromNetwork(0, bits: 16)
    for round in 0..<2 {
      for type in [Ethernet.vlan, Ethernet.serviceVLAN, Ethernet.oldServiceVLAN] {
        code.jumpIfEqual(UInt32(type), to: "tag \(round)")
      }
      code.jump(to: "untagged")
      code.label("tag \(round)")
      code.move(to: 0, from: 8)
      code.jumpUnlessEqual(0, to: "judged \(round)")
      code.load16(indexedBy: 7, 0)
      judge(&code, then: "judged \(round)")
      code.label("judged \(round)")
      code.load16(indexedBy: 7, 2)
      code.add(7, Int32(Ethernet.tagBytes))
    }
    code.label("untagged")
    code.move(to: 9, from: 0)
    code.move(to: 0, from: 8)
    code.jumpIfEqual(2, to: "as it is")
    code.move(to: 0, from: 9)
    code.jump(to: "tunnel")
    code.label("as it is")
    code.move(to: 0, from: 9)
    code.jump(to: "plain")
  }

  /// Register 0 holds a tag: what it says about the frame goes into register 8.
  private func judge(_ code: inout EBPFAssembler, then next: String) {
    code.and(0, Int32(Ethernet.vlanMask))
    // A priority and nothing else (IEEE 802.1Q section 6.9).
    code.jumpIfEqual(0, to: next)
    code.set(8, 1)
    for vlan in tunnelVLANs.prefix(Self.maximumVLANs) { code.jumpIfEqual(UInt32(vlan), to: next) }
    code.set(8, 2)
  }

  /// Goes on at "ethernet", "v4" or "v6" with register 7 behind the tunnel's headers.
  private func openTunnel(_ code: inout EBPFAssembler) {
    code.label("tunnel")
    code.jumpIfEqual(UInt32(Ethernet.ipv4), to: "outer v4")
    code.jumpUnlessEqual(UInt32(Ethernet.ipv6), to: "none")
    code.load8(indexedBy: 7, 6)
    code.add(7, Int32(IPv6.bytes))
    code.jump(to: "outer")
    code.label("outer v4")
    code.load16(indexedBy: 7, 6)
    code.jumpIfSet(UInt32(IPv4.moreFragments | IPv4.offsetMask), to: "none")
    code.load8(indexedBy: 7, 9)
    code.move(to: 8, from: 0)
    code.load8(indexedBy: 7, 0)
    code.and(0, 0x0F)
    code.shiftLeft(0, 2)
    code.add(7, register: 0)
    code.move(to: 0, from: 8)
    code.label("outer")
    code.jumpIfEqual(UInt32(IPProtocol.gre), to: "gre")
    code.jumpUnlessEqual(UInt32(IPProtocol.udp), to: "none")
    code.load16(indexedBy: 7, 2)
    code.add(7, Int32(UDP.bytes))
    code.jumpIfEqual(UInt32(MPLS.port), to: "mpls")
    code.jumpUnlessEqual(UInt32(VXLAN.port), to: "none")
    code.add(7, Int32(VXLAN.bytes))
    code.jump(to: "ethernet")
    code.label("gre")
    code.load16(indexedBy: 7, 2)
    code.jumpUnlessEqual(UInt32(GRE.mpls), to: "none")
    code.load16(indexedBy: 7, 0)
    code.add(7, Int32(GRE.bytes))
    for (number, flag) in [GRE.hasChecksum, GRE.hasKey, GRE.hasSequence].enumerated() {
      code.jumpIfSet(UInt32(flag), to: "gre field \(number)")
      code.jump(to: "gre no field \(number)")
      code.label("gre field \(number)")
      code.add(7, 4)
      code.label("gre no field \(number)")
    }
    code.label("mpls")
    code.add(7, Int32(MPLS.bytes))
    // No other header says what follows a label (RFC 3032 section 3.6).
    code.load8(indexedBy: 7, 0)
    code.shiftRight(0, 4)
    code.jumpIfEqual(4, to: "v4")
    code.jumpIfEqual(6, to: "v6")
    code.jump(to: "ethernet")
  }
}
