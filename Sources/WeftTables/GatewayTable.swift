import WeftSystem
import WeftWire

/// The router's own addresses in each VRF, from which it sends what it makes itself: the host routes that lead to a
/// receive nexthop. One writer, any number of readers.
public final class GatewayTable: @unchecked Sendable {
  private let lists: PointerTable
  private let epochs: Epochs

  init(vrfs: Int, epochs: Epochs) throws(SystemError) {
    lists = try PointerTable(capacity: vrfs, what: "gateways")
    self.epochs = epochs
  }

  public var reader: GatewayReader { GatewayReader(lists: lists.reader) }

  /// Replaces a VRF's addresses; none takes its list away.
  public func set(vrf: UInt32, _ addresses: some Sequence<IPAddress>) {
    let sorted = addresses.sorted { ($0.high, $0.low) < ($1.high, $1.low) }
    var raw: UnsafeMutableRawPointer?
    if !sorted.isEmpty {
      let memory = UnsafeMutableRawPointer.allocate(byteCount: 16 + sorted.count * 16, alignment: 16)
      unsafe memory.storeBytes(of: sorted.count, as: Int.self)
      for (index, address) in sorted.enumerated() {
        unsafe memory.storeBytes(of: address, toByteOffset: 16 + index * 16, as: IPAddress.self)
      }
      unsafe raw = memory
    }
    guard let old = unsafe lists.replace(Int(vrf), raw) else { return }
    epochs.retire { unsafe old.deallocate() }
  }
}

@safe @frozen public struct GatewayReader: @unchecked Sendable {
  @usableFromInline let lists: PointerTableReader

  /// The address of the router in a VRF that shares the longest prefix with `address`, of the same family: the gateway of
  /// the subnet, where subnets have one. nil where the router has none.
  public func nearest(vrf: UInt32, to address: IPAddress) -> IPAddress? {
    guard let list = unsafe lists[vrf] else { return nil }
    let count = unsafe list.load(as: Int.self)
    func entry(_ index: Int) -> IPAddress { unsafe list.load(fromByteOffset: 16 + index * 16, as: IPAddress.self) }
    // The first that is not below: of a sorted list, one of the two neighbours shares the longest prefix.
    var low = 0
    var high = count
    while low < high {
      let middle = (low + high) / 2
      let other = entry(middle)
      if (other.high, other.low) < (address.high, address.low) { low = middle + 1 } else { high = middle }
    }
    let above = low < count ? entry(low) : nil
    let below = low > 0 ? entry(low - 1) : nil
    let candidates = (
      above.flatMap { $0.isV4 == address.isV4 ? $0 : nil }, below.flatMap { $0.isV4 == address.isV4 ? $0 : nil }
    )
    switch candidates {
    case (nil, nil): return nil
    case (let one?, nil), (nil, let one?): return one
    case (let above?, let below?):
      return Self.common(above, address) >= Self.common(below, address) ? above : below
    }
  }

  private static func common(_ a: IPAddress, _ b: IPAddress) -> Int {
    let high = a.high ^ b.high
    return high != 0 ? high.leadingZeroBitCount : 64 + (a.low ^ b.low).leadingZeroBitCount
  }
}
