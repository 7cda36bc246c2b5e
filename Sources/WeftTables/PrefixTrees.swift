import CLinux
import WeftSystem
import WeftWire

/// Longest-prefix match for the IPv4 routes of all VRFs: multibit trees of 8 bits a step.
///
/// A node is 256 slots of 8 bytes: the path of the longest prefix that ends in this node and covers the slot (low 32
/// bits), and the node of the next step (high 32 bits); 0 for none. A lookup walks down and keeps the last path it
/// met, one load a step. An update writes at most 256 slots of one node, whatever the size of the table, each slot
/// whole, so that a worker sees the route before or after, and nothing else.
public final class PrefixTrees: @unchecked Sendable {
  static let nodeBytes = 2048

  public let capacity: Int
  private let memory: Mapping
  /// For each slot, the length within the node (0...8) of the prefix whose path stands there. Writer's own.
  private let owners: Mapping
  private var uses: [UInt32] = [0]
  private var free: [UInt32] = []
  private let epochs: Epochs

  public init(nodes: Int, epochs: Epochs) throws(SystemError) {
    capacity = nodes
    self.epochs = epochs
    memory = try Mapping(anonymous: (nodes + 1) * Self.nodeBytes, what: "routes")
    memory.preferHugePages()
    owners = try Mapping(anonymous: (nodes + 1) * 256, what: "routes")
  }

  public var reader: PrefixTreesReader { unsafe PrefixTreesReader(base: memory.base) }
  public var nodesUsed: Int { uses.count - 1 - free.count }
  public var nodesFree: Int { capacity - nodesUsed }

  /// An empty tree; nil when no node is free.
  public func makeRoot() -> UInt32? { makeNode() }

  /// Gives an empty tree back; the caller has made it unreachable.
  public func releaseRoot(_ root: UInt32) { retire(root) }

  /// Nodes that a new prefix of this length may need, at most.
  public static func nodesNeeded(length: Int) -> Int { max(0, (length - 1) / 8) }

  /// Sets the path of a prefix; `number` is not 0. The caller has made sure of `nodesNeeded` free nodes.
  /// `isNew`: the prefix was not in the tree.
  public func set(root: UInt32, _ prefix: IPPrefix, path number: UInt32, isNew: Bool) {
    var node = root
    let depth = max(0, (prefix.length - 1) / 8)
    for level in 0..<depth {
      let slot = octet(prefix.address, level)
      let entry = load(node, slot)
      var child = UInt32(truncatingIfNeeded: entry >> 32)
      if child == 0 {
        guard let made = makeNode() else { preconditionFailure("no node where room was promised") }
        child = made
        store(node, slot, UInt64(child) << 32 | entry & 0xFFFF_FFFF)
        uses[Int(node)] += 1
      }
      node = child
    }
    let within = prefix.length - depth * 8
    let first = prefix.length == 0 ? 0 : octet(prefix.address, depth)
    let end = first + (1 << (8 - within))
    for slot in first..<end where owner(node, slot) <= within {
      setOwner(node, slot, within)
      store(node, slot, load(node, slot) & 0xFFFF_FFFF_0000_0000 | UInt64(number))
    }
    if isNew { uses[Int(node)] += 1 }
  }

  /// Takes a prefix out. `covering` answers the path of a prefix of the same tree, or nil if it is not there.
  public func remove(root: UInt32, _ prefix: IPPrefix, covering: (IPPrefix) -> UInt32?) {
    let depth = max(0, (prefix.length - 1) / 8)
    var trail: [(node: UInt32, slot: Int)] = []
    var node = root
    for level in 0..<depth {
      let slot = octet(prefix.address, level)
      trail.append((node, slot))
      node = UInt32(truncatingIfNeeded: load(node, slot) >> 32)
      guard node != 0 else { return }
    }
    let within = prefix.length - depth * 8
    // What shows instead: the next shorter prefix that ends in this node. Length 0 ends in the root alone.
    var shorter = within - 1
    var replacement: UInt32 = 0
    let lowest = depth == 0 ? 0 : 1
    while shorter >= lowest {
      if let candidate = IPPrefix(prefix.address, length: depth * 8 + shorter), let path = covering(candidate) {
        replacement = path
        break
      }
      shorter -= 1
    }
    if replacement == 0 { shorter = 0 }
    let first = prefix.length == 0 ? 0 : octet(prefix.address, depth)
    let end = first + (1 << (8 - within))
    for slot in first..<end where owner(node, slot) == within {
      setOwner(node, slot, shorter)
      store(node, slot, load(node, slot) & 0xFFFF_FFFF_0000_0000 | UInt64(replacement))
    }
    uses[Int(node)] -= 1
    while let (parent, slot) = trail.popLast(), uses[Int(node)] == 0 {
      store(parent, slot, load(parent, slot) & 0xFFFF_FFFF)
      uses[Int(parent)] -= 1
      retire(node)
      node = parent
    }
  }

  private func octet(_ address: IPAddress, _ level: Int) -> Int {
    Int(UInt8(truncatingIfNeeded: address.v4 >> UInt32(24 - 8 * level)))
  }

  private func makeNode() -> UInt32? {
    if let reused = free.popLast() { return reused }
    guard uses.count <= capacity else { return nil }
    uses.append(0)
    return UInt32(uses.count - 1)
  }

  /// The node goes back, zeroed, when no worker can be in it.
  private func retire(_ node: UInt32) {
    epochs.retire { [self] in
      unsafe memset(memory.base + Int(node) * Self.nodeBytes, 0, Self.nodeBytes)
      unsafe memset(owners.base + Int(node) * 256, 0, 256)
      uses[Int(node)] = 0
      free.append(node)
    }
  }

  private func load(_ node: UInt32, _ slot: Int) -> UInt64 {
    unsafe weft_load_relaxed_u64(memory.base + Int(node) * Self.nodeBytes + slot * 8)
  }
  private func store(_ node: UInt32, _ slot: Int, _ value: UInt64) {
    unsafe weft_store_release_u64(memory.base + Int(node) * Self.nodeBytes + slot * 8, value)
  }
  private func owner(_ node: UInt32, _ slot: Int) -> Int {
    Int(unsafe owners.base.load(fromByteOffset: Int(node) * 256 + slot, as: UInt8.self))
  }
  private func setOwner(_ node: UInt32, _ slot: Int, _ length: Int) {
    unsafe owners.base.storeBytes(of: UInt8(length), toByteOffset: Int(node) * 256 + slot, as: UInt8.self)
  }
}

/// The workers' view of `PrefixTrees`.
@safe @frozen public struct PrefixTreesReader: @unchecked Sendable {
  @usableFromInline let base: UnsafeMutableRawPointer

  init(base: UnsafeMutableRawPointer) { unsafe self.base = unsafe base }

  @inlinable @inline(__always) func load(_ node: UInt32, _ octet: UInt32) -> UInt64 {
    let offset = Int(node) &* 2048 &+ Int(octet) &* 8
    return unsafe weft_load_acquire_u64(base + offset)
  }

  /// The number of the path of the longest prefix that covers an IPv4 address (host order); 0 for none.
  @inlinable @inline(__always) public func lookup(root: UInt32, v4 address: UInt32) -> UInt32 {
    var node = root
    var best: UInt32 = 0
    var rest = address
    for _ in 0..<4 {
      let entry = load(node, rest >> 24)
      let path = UInt32(truncatingIfNeeded: entry)
      if path != 0 { best = path }
      node = UInt32(truncatingIfNeeded: entry >> 32)
      if node == 0 { break }
      rest <<= 8
    }
    return best
  }

  // For `RouteBatch`.

  @inlinable @inline(__always) func begin(root: UInt32, _ address: UInt32) -> RouteWalk {
    var walk = RouteWalk(high: UInt64(address) << 32, low: 0, node: root, path: 0)
    step(&walk)
    return walk
  }

  @inlinable @inline(__always) func step(_ walk: inout RouteWalk) {
    let entry = load(walk.node, UInt32(truncatingIfNeeded: walk.high >> 56))
    let path = UInt32(truncatingIfNeeded: entry)
    walk.path = path == 0 ? walk.path : path
    walk.node = UInt32(truncatingIfNeeded: entry >> 32)
    walk.high <<= 8
  }

  @inlinable @inline(__always) func prefetch(_ walk: RouteWalk) {
    let offset = Int(walk.node) &* 2048 &+ Int(truncatingIfNeeded: walk.high >> 56) &* 8
    unsafe weft_prefetch(base + offset)
  }
}
