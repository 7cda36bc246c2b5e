import Synchronization
import WeftWire

/// Who asks: the network's members on this node by their addresses.
final class ServiceMembers: Sendable {
  let network: String
  private let store: Store
  /// Whether an address is a member's, as it was within the last two seconds: a flood of questions is no flood of reads.
  private let known = Mutex<[IPAddress: (isMember: Bool, until: UInt64)]>([:])

  private static let memory: UInt64 = 2_000_000_000
  private static let limit = 4096

  init(_ network: String, store: Store) {
    self.network = network
    self.store = store
  }

  /// The attachment that has an address now.
  func record(_ address: IPAddress) throws -> AttachmentRecord? {
    try store.attachmentsNow(
      where: "wanted AND id = (SELECT attachment FROM address WHERE network = ? AND address = ?)",
      [network, address.description]
    ).first
  }

  /// A server may be asked on behalf of members only, not of whoever can send into the network.
  func contains(_ address: IPAddress) -> Bool {
    let now = UnderlayWatcher.now()
    if let there = known.withLock({ $0[address] }), now < there.until { return there.isMember }
    guard let record = try? record(address) else {
      remember(address, false, now)
      return false
    }
    _ = record
    remember(address, true, now)
    return true
  }

  private func remember(_ address: IPAddress, _ isMember: Bool, _ now: UInt64) {
    known.withLock { known in
      if known.count >= Self.limit { known.removeAll(keepingCapacity: true) }
      known[address] = (isMember, now + Self.memory)
    }
  }
}
