import Glibc

/// Between which paths an ECMP nexthop divides flows. Each of a fixed number of slots belongs to the member with the
/// highest random weight for it (Thaler and Ravishankar 1998; RFC 2991 section 4), so that a member that goes gives away
/// its own slots and no others, and one that comes takes only what becomes its own. Never changed once made.
@safe @frozen public struct MemberTable: @unchecked Sendable {
  public static let maximumMembers = 64
  /// A power of two: a member of 64 has 64 slots, give or take 8.
  public static let slots = 4096

  public struct Member: Hashable, Sendable {
    public var path: Path
    /// Its share: 1 to 65535.
    public var weight: UInt16

    public init(path: Path, weight: UInt16 = 1) {
      self.path = path
      self.weight = weight
    }
  }

  /// `maximumMembers` paths, then a byte for each slot.
  @usableFromInline let base: UnsafeMutableRawPointer
  public let count: Int

  /// 1 to `maximumMembers` members.
  public init(_ members: [Member]) {
    precondition((1...Self.maximumMembers).contains(members.count))
    count = members.count
    unsafe base = .allocate(byteCount: Self.maximumMembers * 8 + Self.slots, alignment: 64)
    for (index, member) in members.enumerated() {
      unsafe base.storeBytes(of: member.path.bits, toByteOffset: index * 8, as: UInt64.self)
    }
    let identities = members.map { Maglev.mix($0.path.bits) }
    let isEven = members.allSatisfy { $0.weight == members[0].weight }
    for slot in 0..<Self.slots {
      let salt = Maglev.mix(UInt64(slot))
      var best = 0
      var bestHash: UInt64 = 0
      var bestScore = -1.0
      for (index, identity) in identities.enumerated() {
        let hash = Maglev.mix(identity ^ salt)
        if isEven {
          guard index == 0 || hash > bestHash else { continue }
          bestHash = hash
        } else {
          // Uniform in (0, 1): the highest of -weight / ln(u) is a member's with a probability as its weight.
          let uniform = (Double(hash >> 11) + 0.5) / Double(1 << 53 as UInt64)
          let score = -Double(members[index].weight) / log(uniform)
          guard score > bestScore else { continue }
          bestScore = score
        }
        best = index
      }
      unsafe base.storeBytes(of: UInt8(best), toByteOffset: Self.maximumMembers * 8 + slot, as: UInt8.self)
    }
  }

  /// Frees the memory; nothing may be used afterwards.
  public func deallocate() { unsafe base.deallocate() }

  /// The member whose flow a hash is. The bits used choose neither flow buckets nor tunnels' source ports.
  @inlinable @inline(__always) public func member(hash: UInt64) -> Int {
    let slot = Int(truncatingIfNeeded: hash >> 48) & (Self.slots &- 1)
    return unsafe Int(base.load(fromByteOffset: Self.maximumMembers &* 8 &+ slot, as: UInt8.self))
  }

  /// Where a member's packets go; `index` is below `count`.
  @inlinable @inline(__always) public func path(_ index: Int) -> Path {
    unsafe Path(bits: base.load(fromByteOffset: index &* 8, as: UInt64.self))
  }

  /// The first member with a nexthop.
  public func index(nexthop: UInt32) -> Int? { (0..<count).first { path($0).nexthop == nexthop } }
}
