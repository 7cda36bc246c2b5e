import CNuma
import Glibc
import Synchronization

/// On which NUMA nodes memory comes into being (set_mempolicy(2), mbind(2)). A page belongs to the node that the policy of
/// whoever touches it first says: a worker's to its own node, what the control thread makes for all workers, the tables
/// above all, to the workers' nodes in turn, so that none is far from all of it.
final class NodeMemory: Sendable {
  /// The workers' nodes, in order.
  let nodes: [Int]
  private let refusal = Mutex<Int32>(0)

  init(nodes: [Int]) { self.nodes = nodes }

  /// The calling thread's memory comes from a node, from others when that is full.
  func prefer(_ node: Int) { set(MPOL_PREFERRED, [node]) }

  /// The calling thread's memory comes from all workers' nodes, page by page.
  func share() {
    if nodes.count == 1 { prefer(nodes[0]) } else { set(MPOL_INTERLEAVE, nodes) }
  }

  /// Runs `body` with the memory that it asks the kernel for taken from a node, and with `share` after that.
  func on<T, Failure: Error>(_ node: Int, _ body: () throws(Failure) -> T) throws(Failure) -> T {
    prefer(node)
    defer { share() }
    return try body()
  }

  /// Pages that have not been touched yet come from a node, whoever touches them. The memory begins on a page.
  func place(_ memory: UnsafeMutableRawBufferPointer, on node: Int) {
    guard let base = memory.baseAddress else { return }
    let mask = Self.mask([node])
    note(mbind(base, UInt(memory.count), MPOL_PREFERRED, mask, Self.bits, 0))
  }

  /// Why the kernel has refused the last thing that it did refuse: an errno; 0 where it has not. What it refuses costs speed
  /// and nothing else.
  var lastRefusal: Int32 { refusal.withLock { $0 } }

  private static let bits: UInt = 1024

  private static func mask(_ nodes: [Int]) -> [UInt] {
    var mask = [UInt](repeating: 0, count: Int(bits) / UInt.bitWidth)
    for node in nodes where node >= 0 && node < Int(bits) - 1 {
      mask[node / UInt.bitWidth] |= 1 << UInt(node % UInt.bitWidth)
    }
    return mask
  }

  private func set(_ policy: Int32, _ nodes: [Int]) {
    note(set_mempolicy(policy, Self.mask(nodes), Self.bits))
  }

  private func note(_ result: Int) {
    guard result != 0 else { return }
    let code = errno
    refusal.withLock { $0 = code }
  }
}
