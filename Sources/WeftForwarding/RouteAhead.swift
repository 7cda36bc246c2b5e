import WeftTables
import WeftWire

/// Routes of a batch's packets, looked up side by side before any of them is needed: in a large table each lookup waits
/// for memory, but they wait together.
@safe struct RouteAhead {
  /// What a packet has that is not among them.
  static let none = UInt8.max

  private var v4 = RouteBatch()
  private var v6 = RouteBatch()
  /// VRF and address of each lookup, IPv6 behind IPv4.
  private let wanted: UnsafeMutablePointer<Wanted>

  private struct Wanted {
    var vrf: UInt32
    var address: IPAddress
  }

  init() { unsafe wanted = .allocate(capacity: RouteBatch.capacity * 2) }

  func deallocate() {
    v4.deallocate()
    v6.deallocate()
    unsafe wanted.deallocate()
  }

  @inline(__always) mutating func removeAll() {
    v4.removeAll()
    v6.removeAll()
  }

  /// Begins a lookup; answers its number, `none` without a VRF, or where there is no room.
  @inline(__always)
  mutating func add(_ tables: Tables, vrf: UInt32, _ address: IPAddress, isV4: Bool) -> UInt8 {
    let root = tables.roots[vrf &* 2 &+ (isV4 ? 0 : 1)]
    guard root != 0 else { return Self.none }
    let number: Int
    if isV4 {
      guard v4.count < RouteBatch.capacity else { return Self.none }
      number = v4.count
      v4.add(tables.routes, root: root, v4: address.v4)
    } else {
      guard v6.count < RouteBatch.capacity else { return Self.none }
      number = RouteBatch.capacity &+ v6.count
      v6.add(tables.routes6, root: root, v6: address)
    }
    unsafe wanted[number] = Wanted(vrf: vrf, address: address)
    return UInt8(truncatingIfNeeded: number)
  }

  @inline(__always) mutating func finish(_ tables: Tables) {
    v4.finish(tables.routes)
    v6.finish(tables.routes6)
  }

  /// The path found by a lookup, if it was for this address in this VRF; nil otherwise.
  @inline(__always) func path(_ number: UInt8, vrf: UInt32, _ address: IPAddress) -> UInt32? {
    guard number != Self.none, unsafe wanted[Int(number)].vrf == vrf, unsafe wanted[Int(number)].address == address
    else { return nil }
    let index = Int(number)
    return index < RouteBatch.capacity ? v4.path(index) : v6.path(index &- RouteBatch.capacity)
  }
}

extension PacketPath {
  /// Looks up where the batch's routed packets go, as they are now. Translated ones, and those that a route leads to
  /// another VRF, are looked up again.
  mutating func lookAhead() {
    let batch = batch
    ahead.removeAll()
    for index in 0..<batch.count
    where batch[index].verdict == .forward && batch[index].link == .router && !batch[index].hasPath
      && !batch[index].isOwn
    {
      batch[index].ahead = ahead.add(
        tables, vrf: batch[index].vrf, batch[index].key.destination, isV4: batch[index].isV4)
    }
    ahead.finish(tables)
  }

  /// The number of the path to an address in a packet's VRF; 0 for none.
  @inline(__always) func routeNumber(_ packet: Packet, _ address: IPAddress) -> UInt32 {
    if let number = ahead.path(packet.ahead, vrf: packet.vrf, address) { return number }
    return packet.isV4 ? tables.route(vrf: packet.vrf, v4: address.v4) : tables.route(vrf: packet.vrf, v6: address)
  }
}
