import Glibc
import WeftTables
import WeftWire

/// Which reports a worker has made of late: the same one is not made with every packet. A report that is forgotten here,
/// since another has its place, is made again, and that is all.
@safe struct RecentReports {
  private struct Slot {
    var key: UInt64
    var place: UInt64
    var time: UInt64
  }

  private static let slots = 4096
  private let memory: UnsafeMutablePointer<Slot>

  /// Zeroed: pages that no report touches take no memory.
  init() {
    unsafe memory = calloc(Self.slots, MemoryLayout<Slot>.stride).assumingMemoryBound(to: Slot.self)
  }
  func deallocate() { unsafe free(memory) }

  /// Whether a report of `key` at `place` is due: none was made within `interval` ns. `key` is not 0.
  @inline(__always) func isDue(_ key: UInt64, _ place: UInt64, now: UInt64, interval: UInt64) -> Bool {
    let slot = unsafe memory + Self.index(key)
    return unsafe slot.pointee.key != key || slot.pointee.place != place || now &- slot.pointee.time >= interval
  }

  func note(_ key: UInt64, _ place: UInt64, now: UInt64) {
    unsafe (memory + Self.index(key)).pointee = Slot(key: key, place: place, time: now)
  }

  private static func index(_ key: UInt64) -> Int {
    let mixed = (key ^ key >> 29) &* 0x9E37_79B9_7F4A_7C15
    return Int(truncatingIfNeeded: mixed >> 40) & (slots - 1)
  }
}

extension PacketPath {
  /// How often what the tables know already is confirmed, and how often something else is said again, ns.
  public static var confirmInterval: UInt64 { 3_000_000_000 }
  private static var repeatInterval: UInt64 { 100_000_000 }
  private static var resolveInterval: UInt64 { 1_000_000_000 }

  /// The source MAC address of a packet from an interface that learns.
  mutating func learn(_ packet: Packet) {
    let mac = packet.ethernet.mac(Ethernet.source)
    guard Self.isLearnable(mac) else { return }
    var isKnown = false
    let number = tables.bridge.lookup(vrf: packet.vrf, mac: mac)
    if number != 0, let nexthop = tables.nexthop(tables.paths[number].nexthop) {
      isKnown = nexthop.entry.kind == .encap && nexthop.entry.interface == packet.interface
    }
    report(
      Report(kind: .station, vrf: packet.vrf, interface: packet.interface, mac: mac, time: clock),
      key: UInt64(packet.vrf) << 48 | mac, place: UInt64(packet.interface),
      interval: isKnown ? Self.confirmInterval : Self.repeatInterval)
  }

  /// The same behind a VXLAN tunnel (RFC 7348 section 4.1).
  mutating func learn(_ packet: Packet, behind remote: IPAddress, vni: UInt32) {
    let mac = packet.ethernet.mac(Ethernet.source)
    guard Self.isLearnable(mac) else { return }
    var isKnown = false
    let number = tables.bridge.lookup(vrf: packet.vrf, mac: mac)
    if number != 0 {
      let path = tables.paths[number]
      if path.label == vni, let nexthop = tables.nexthop(path.nexthop) {
        isKnown = nexthop.entry.kind == .vxlan && nexthop.entry.remote == remote
      }
    }
    // A place that is no interface's number.
    let place = remote.high &* 31 ^ remote.low ^ UInt64(vni) << 32 | 1 << 63
    report(
      Report(
        kind: .remoteStation, vrf: packet.vrf, interface: packet.interface, label: vni, mac: mac, address: remote,
        time: clock),
      key: UInt64(packet.vrf) << 48 | mac, place: place,
      interval: isKnown ? Self.confirmInterval : Self.repeatInterval)
  }

  /// The agent is asked for the MAC address of where a packet goes.
  mutating func askFor(_ address: IPAddress, of packet: Packet, on interface: UInt32) {
    report(
      Report(kind: .resolve, vrf: packet.vrf, interface: interface, address: address, time: clock),
      key: address.high ^ address.low | 1 << 63, place: UInt64(packet.vrf), interval: Self.resolveInterval)
  }

  private static func isLearnable(_ mac: UInt64) -> Bool {
    mac & 0x0100_0000_0000 == 0 && mac != 0 && mac != MACAddress.virtualRouter.bits
  }

  private mutating func report(_ report: Report, key: UInt64, place: UInt64, interval: UInt64) {
    guard let reports, recent.isDue(key, place, now: clock, interval: interval), reports.write(report) else { return }
    recent.note(key, place, now: clock)
    hasReported = true
  }
}
