/// Where the copies go that a multicast nexthop makes. Never changed once made.
@safe public struct ReplicaList: @unchecked Sendable {
  /// One copy, or those of another multicast nexthop.
  public struct Replica: Hashable, Sendable {
    public var path: Path
    /// Of tunnels: the split-horizon group.
    public var group: UInt16

    public init(path: Path, group: UInt16) {
      self.path = path
      self.group = group
    }
  }

  /// How deep multicast nexthops may stand in each other.
  public static let maximumDepth = 4

  private let base: UnsafeMutablePointer<Replica>
  public let count: Int

  public init(_ replicas: [Replica]) {
    count = replicas.count
    unsafe base = .allocate(capacity: max(1, replicas.count))
    for (index, replica) in replicas.enumerated() { unsafe (base + index).initialize(to: replica) }
  }

  /// Frees the memory; nothing may be used afterwards.
  public func deallocate() { unsafe base.deallocate() }

  /// `index` is below `count`.
  public subscript(index: Int) -> Replica { unsafe base[index] }
}
