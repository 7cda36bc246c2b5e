import WeftWire

/// Which worker a flow belongs to: the same for both directions, and in whatever VRF they are.
///
/// A hash of the two ends, in either order, and the protocol. It is seeded, so that who does not know the seed cannot
/// choose flows that all go to one worker. `FlowSteering` has the kernel compute the same, so that packets come to their
/// worker at once: what is changed here is changed there.
@frozen public struct FlowOwner: Sendable {
  public let workers: Int
  /// This worker.
  public let index: Int
  @usableFromInline let seed: UInt64

  @inlinable public init(index: Int = 0, workers: Int = 1, seed: UInt64 = 0) {
    self.index = index
    self.workers = workers
    self.seed = seed
  }

  /// The number of the worker that a flow of this key, in either direction, belongs to.
  @inlinable @inline(__always) public func worker(_ key: FlowKey) -> Int {
    let source = end(key.source, key.transport >> 48)
    let destination = end(key.destination, key.transport >> 32 & 0xFFFF)
    return place(
      FlowKey.fold(source &+ destination, key.transport >> 24 & 0xFF ^ seed ^ 0x8EBC_6AF0_9C88_C6E3))
  }

  /// The one that keeps the ports which a fragmented packet's first fragment showed: all fragments of it meet there,
  /// in whatever VRF they are.
  @inlinable public func worker(_ fragment: FragmentKey) -> Int {
    let ends = end(fragment.source, fragment.identification >> 32) &+ end(fragment.destination, 0)
    return place(FlowKey.fold(ends, fragment.proto ^ seed ^ 0x5899_65CC_7537_4CC3))
  }

  /// The one that decides about what a client has in common with its other flows: which backend it keeps.
  @inlinable public func worker(client: IPAddress) -> Int { place(end(client, 0)) }

  @inlinable @inline(__always) func end(_ address: IPAddress, _ port: UInt64) -> UInt64 {
    FlowKey.fold(
      address.high ^ port &* 0xA076_1D64_78BD_642F ^ seed, address.low ^ 0xE703_7ED1_A0B4_28DB ^ seed << 32)
  }

  @inlinable @inline(__always) func place(_ hash: UInt64) -> Int {
    Int(truncatingIfNeeded: (hash >> 32 &* UInt64(truncatingIfNeeded: workers)) >> 32)
  }
}
