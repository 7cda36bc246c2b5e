import WeftWire

/// The addresses of a subnet that this node gives out, in turn: what was given back is given out again only after all
/// others. Finding one takes as many steps as there are addresses in use side by side, not as the pool has addresses.
struct AddressPool: Sendable {
  let subnet: Subnet
  /// Never given out, sorted, without overlaps, all within the range.
  private let excluded: [ClosedRange<UInt128>]
  /// Addresses that may be given out, in use or not; at most 2^64 - 1.
  let capacity: UInt64
  /// In use and within what may be given out.
  private(set) var usedCount: UInt64 = 0
  private var used: Set<IPAddress> = []
  /// The address given out last.
  private(set) var last: IPAddress?

  /// `elsewhere`: blocks that are behind peers.
  init(subnet: Subnet, elsewhere: [IPPrefix], last: IPAddress? = nil) {
    self.subnet = subnet
    let range = subnet.range.numbers
    var blocks = elsewhere.map { AddressRange($0).numbers }
    blocks.append(subnet.gateway.number...subnet.gateway.number)
    if subnet.prefix.hostMask > 1 {
      let whole = AddressRange(subnet.prefix).numbers
      blocks.append(whole.lowerBound...whole.lowerBound)
      if subnet.prefix.isV4 { blocks.append(whole.upperBound...whole.upperBound) }
    }
    var merged: [ClosedRange<UInt128>] = []
    for block in blocks.filter({ $0.overlaps(range) }).map({ $0.clamped(to: range) })
      .sorted(by: { $0.lowerBound < $1.lowerBound })
    {
      if let previous = merged.last, block.lowerBound <= previous.upperBound {
        merged[merged.count - 1] = previous.lowerBound...max(previous.upperBound, block.upperBound)
      } else {
        merged.append(block)
      }
    }
    excluded = merged
    // A subnet's prefix has at least one bit, so no count reaches 2^128.
    let free = merged.reduce(range.upperBound - range.lowerBound + 1) { $0 - ($1.upperBound - $1.lowerBound + 1) }
    capacity = UInt64(clamping: free)
    self.last = last
  }

  /// It is one of those that are given out.
  func offers(_ address: IPAddress) -> Bool {
    subnet.range.contains(address) && block(of: address.number) == nil
  }

  /// The excluded block that holds an address: there may be thousands of blocks.
  private func block(of number: UInt128) -> ClosedRange<UInt128>? {
    var low = 0
    var high = excluded.count
    while low < high {
      let middle = (low + high) / 2
      if excluded[middle].upperBound < number { low = middle + 1 } else { high = middle }
    }
    return low < excluded.count && excluded[low].contains(number) ? excluded[low] : nil
  }

  func isUsed(_ address: IPAddress) -> Bool { used.contains(address) }

  /// Notes an address as in use, be it one that would not be given out by itself.
  mutating func take(_ address: IPAddress) {
    if used.insert(address).inserted, offers(address) { usedCount += 1 }
  }

  mutating func giveBack(_ address: IPAddress) {
    if used.remove(address) != nil, offers(address) { usedCount -= 1 }
  }

  /// The next free address, taken; nil when none is left.
  mutating func next() -> IPAddress? {
    guard usedCount < capacity else { return nil }
    let range = subnet.range.numbers
    var candidate = last.map { $0.number &+ 1 } ?? range.lowerBound
    while true {
      if !range.contains(candidate) { candidate = range.lowerBound }
      if let block = block(of: candidate) {
        candidate = block.upperBound &+ 1
        continue
      }
      let address = IPAddress(number: candidate)
      if used.insert(address).inserted {
        usedCount += 1
        last = address
        return address
      }
      candidate &+= 1
    }
  }
}
