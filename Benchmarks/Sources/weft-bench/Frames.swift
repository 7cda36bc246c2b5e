import CReference

/// Addresses, numbers and sizes that both sides are programmed with.
enum Topology {
  static let fabric: UInt32 = 1
  static let fabricMAC: UInt64 = 0x0200_0000_00F0
  static let fabricMTU: UInt16 = 1600
  static let fabricAddress: UInt32 = 0xC000_0201  // 192.0.2.1
  static let routerMAC: UInt64 = 0x0000_5E00_0100
  static let podMTU: UInt16 = 1500

  /// Each VRF has so many pods here and so many nodes elsewhere.
  static let pods: UInt32 = 16
  static let peers: UInt32 = 16
  /// Pods elsewhere, each with a host route.
  static let remotes: UInt32 = 1024

  static func podInterface(_ vrf: UInt32, _ pod: UInt32) -> UInt32 { vrf * 32 + pod }
  static func podMAC(_ vrf: UInt32, _ pod: UInt32) -> UInt64 { 0x0200_0000_1000 + UInt64(vrf * 256 + pod) }
  static func podAddress(_ pod: UInt32) -> UInt32 { 0x0A40_0001 + pod }  // 10.64.0.1...
  static func remoteAddress(_ remote: UInt32) -> UInt32 { 0x0A80_0000 + remote + 1 }  // 10.128.0.1...
  static func peerAddress(_ peer: UInt32) -> UInt32 { 0xC000_0210 + peer }
  static func peerMAC(_ peer: UInt32) -> UInt64 { 0x0200_0000_2000 + UInt64(peer) }
  static func podNexthop(_ vrf: UInt32, _ pod: UInt32) -> UInt32 { 100 * vrf + pod }
  static func peerNexthop(_ vrf: UInt32, _ peer: UInt32) -> UInt32 { 100 * vrf + 20 + peer }
  static func vrfNexthop(_ vrf: UInt32) -> UInt32 { 100 * vrf + 40 }
  /// VNI or label of a remote pod's network.
  static func label(_ vrf: UInt32, _ remote: UInt32) -> UInt32 { 1000 * vrf + remote % 8 }
  /// The VNI (VRF 1) or label (VRF 2) that leads into a VRF.
  /// What stands for a remote pod where destinations are translated, and the ports before and after.
  static func serviceAddress(_ remote: UInt32) -> UInt32 { 0x0A60_0000 + remote }  // 10.96.0.0...
  static let servicePort: UInt16 = 80
  static let targetPort: UInt16 = 8080

  static func end(_ vrf: UInt32) -> UInt32 { 5000 + vrf }

  static let interfaces = 128
  static let vrfs = 8
  static let nexthops = 1024
  static let paths = 1024
  static let nodes = 4096
  static let seed: UInt64 = 0x5745_4654_5345_4544
}

/// What a measured packet goes through.
enum PacketCase: String, CaseIterable {
  case vxlanEncap = "vxlan-encap"
  case mplsEncap = "mplsoudp-encap"
  case vxlanDecap = "vxlan-decap"
  case mplsDecap = "mplsoudp-decap"
  /// VXLAN encapsulation after address and port of the destination have been translated.
  case nat

  /// VRF 1 is reached through VXLAN, VRF 2 through MPLS over UDP.
  var vrf: UInt32 { self == .mplsEncap || self == .mplsDecap ? 2 : 1 }
  var isEncap: Bool { self != .vxlanDecap && self != .mplsDecap }
  var translates: Bool { self == .nat }
  /// Where its packets come in.
  var interface: UInt32 { isEncap ? Topology.podInterface(vrf, 0) : Topology.fabric }
  /// Where they leave.
  var outputs: [UInt32] {
    isEncap ? [Topology.fabric] : (0..<Topology.pods).map { Topology.podInterface(vrf, $0) }
  }
}

/// Frames of 64 bytes (Ethernet, IPv4, UDP, 22 bytes), around them the tunnel where the case begins with one.
/// Several copies of 1,024 frames, since the packet path changes what it forwards; each can be made anew.
final class FrameSet {
  static let count = 1024
  static let batch = 32
  static let batches = count / batch
  /// Bytes from one frame to the next, and those of them that are free before each, as ports leave them.
  static let spacing = 256
  static let headroom = 128

  let packetCase: PacketCase
  let copies: Int
  let length: Int
  private let memory: UnsafeMutableRawPointer
  /// What `restore` writes: copy 0 as it was made.
  private let saved: UnsafeMutableRawPointer
  let reference: UnsafeMutablePointer<reference_frame>

  /// `flow` numbers the flow of a frame of a copy: frames with one number belong to one flow.
  init(_ packetCase: PacketCase, copies: Int = 1, flow: (Int, Int) -> UInt32 = { UInt32($1) }) {
    self.packetCase = packetCase
    self.copies = copies
    let shim = packetCase.vrf == 1 ? 8 + 14 : 4
    length = packetCase.isEncap ? 64 : 42 + shim + 50
    let bytes = copies * Self.count * Self.spacing
    memory = .allocate(byteCount: bytes, alignment: 4096)
    memory.initializeMemory(as: UInt8.self, repeating: 0, count: bytes)
    saved = .allocate(byteCount: Self.count * Self.spacing, alignment: 4096)
    reference = .allocate(capacity: copies * Self.count)
    for copy in 0..<copies {
      for index in 0..<Self.count {
        write(flow(copy, index), to: frame(copy, index))
        reference[copy * Self.count + index] = reference_frame(
          bytes: frame(copy, index).assumingMemoryBound(to: UInt8.self), length: Int64(length), flags: 0, gso: 0,
          header_bytes: 0, gso_bytes: 0, checksum_start: 0, checksum_offset: 0)
      }
    }
    saved.copyMemory(from: memory, byteCount: Self.count * Self.spacing)
  }

  deinit {
    memory.deallocate()
    saved.deallocate()
    reference.deallocate()
  }

  func frame(_ copy: Int, _ index: Int) -> UnsafeMutableRawPointer {
    memory + (copy * Self.count + index) * Self.spacing + Self.headroom
  }

  /// Copy 0 as it was made.
  func restore() { memory.copyMemory(from: saved, byteCount: Self.count * Self.spacing) }

  /// Makes copy 0 of other flows.
  func fill(_ flow: (Int) -> UInt32) {
    for index in 0..<Self.count { write(flow(index), to: frame(0, index)) }
  }

  /// Flows are told apart by the remote pod (1,024), the source port and, beyond 2^22, the destination port.
  private func write(_ flow: UInt32, to start: UnsafeMutableRawPointer) {
    let remote = flow % Topology.remotes
    let high = flow / Topology.remotes
    let sourcePort = UInt16(1024 + high % 4096)
    let destinationPort = UInt16(80 + high / 4096)
    var at = start
    if !packetCase.isEncap { at = writeTunnel(start, remote: remote) }
    if packetCase.isEncap || packetCase.vrf == 1 {
      setMAC(at, 0, Topology.routerMAC)
      setMAC(at, 6, packetCase.isEncap ? Topology.podMAC(packetCase.vrf, 0) : Topology.routerMAC)
      set16(at, 12, 0x0800)
      at += 14
    }
    let here = Topology.podAddress(packetCase.isEncap ? 0 : flow % Topology.pods)
    let there = packetCase.translates ? Topology.serviceAddress(remote) : Topology.remoteAddress(remote)
    writeIPv4(
      at, source: packetCase.isEncap ? here : there, destination: packetCase.isEncap ? there : here, total: 50, ttl: 64,
      flags: 0)
    set16(at, 20, sourcePort)
    set16(at, 22, destinationPort)
    set16(at, 24, 30)
    set16(at, 26, 0)
    for byte in 28..<50 { at.storeBytes(of: UInt8(truncatingIfNeeded: byte), toByteOffset: byte, as: UInt8.self) }
    // Pseudo-header, header and data (RFC 768).
    let sum = words(at, 12, 38) &+ 17 &+ 30
    set16(at, 26, ~folded(sum))
  }

  private func writeTunnel(_ at: UnsafeMutableRawPointer, remote: UInt32) -> UnsafeMutableRawPointer {
    let peer = remote % Topology.peers
    setMAC(at, 0, Topology.fabricMAC)
    setMAC(at, 6, Topology.peerMAC(peer))
    set16(at, 12, 0x0800)
    let inner = length - 42
    writeIPv4(
      at + 14, source: Topology.peerAddress(peer), destination: Topology.fabricAddress, total: 28 + inner, ttl: 63,
      flags: 0x4000)
    set16(at, 34, UInt16(0xC000 + remote))
    set16(at, 36, packetCase.vrf == 1 ? 4789 : 6635)
    set16(at, 38, UInt16(8 + inner))
    set16(at, 40, 0)
    if packetCase.vrf == 1 {
      set32(at, 42, 0x0800_0000)
      set32(at, 46, Topology.end(1) << 8)
      return at + 50
    }
    set32(at, 42, Topology.end(2) << 12 | 0x100 | 64)
    return at + 46
  }

  private func writeIPv4(
    _ at: UnsafeMutableRawPointer, source: UInt32, destination: UInt32, total: Int, ttl: UInt16, flags: UInt16
  ) {
    set16(at, 0, 0x4500)
    set16(at, 2, UInt16(total))
    set16(at, 4, 0)
    set16(at, 6, flags)
    set16(at, 8, ttl << 8 | 17)
    set16(at, 10, 0)
    set32(at, 12, source)
    set32(at, 16, destination)
    set16(at, 10, ~folded(words(at, 0, 20)))
  }

  private func words(_ at: UnsafeMutableRawPointer, _ from: Int, _ count: Int) -> UInt32 {
    var sum: UInt32 = 0
    for offset in stride(from: from, to: from + count, by: 2) {
      sum &+= UInt32(UInt16(bigEndian: at.loadUnaligned(fromByteOffset: offset, as: UInt16.self)))
    }
    return sum
  }
  private func folded(_ sum: UInt32) -> UInt16 {
    var sum = sum
    while sum >> 16 != 0 { sum = (sum & 0xFFFF) + sum >> 16 }
    return UInt16(sum)
  }
  private func set16(_ at: UnsafeMutableRawPointer, _ offset: Int, _ value: UInt16) {
    at.storeBytes(of: value.bigEndian, toByteOffset: offset, as: UInt16.self)
  }
  private func set32(_ at: UnsafeMutableRawPointer, _ offset: Int, _ value: UInt32) {
    at.storeBytes(of: value.bigEndian, toByteOffset: offset, as: UInt32.self)
  }
  private func setMAC(_ at: UnsafeMutableRawPointer, _ offset: Int, _ value: UInt64) {
    set16(at, offset, UInt16(truncatingIfNeeded: value >> 32))
    set32(at, offset + 2, UInt32(truncatingIfNeeded: value))
  }
}
