/// The choice among weighted backends by hash, as Google's Maglev makes it (Eisenbud and others, NSDI 2016, section
/// 3.4): a table of backend numbers in which every backend has about its share, made so that taking one backend out or
/// putting one in moves few of the others' entries. It depends on who the backends are, not on their order or on what
/// was there before: every worker and every node makes the same table.
public enum Maglev {
  /// Prime sizes, roughly doubling.
  public static let sizes = [251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521]
  /// The least entries for each backend that a size is chosen for: shares are then within a percent or so.
  public static let entriesPerBackend = 100

  /// A backend as the table sees it: 64 bits that say who it is, and its share. Weight 0 gets nothing.
  public struct Backend: Hashable, Sendable {
    public var identity: UInt64
    public var weight: UInt32

    public init(identity: UInt64, weight: UInt32 = 1) {
      self.identity = identity
      self.weight = weight
    }
  }

  /// Entries of the table for `count` backends.
  public static func size(backends count: Int) -> Int {
    sizes.first { $0 >= count * entriesPerBackend } ?? sizes[sizes.count - 1]
  }

  /// Fills `table`, whose size is one of `sizes`, with indexes into `backends`; false, and nothing is written, where no
  /// backend has a weight.
  static func fill(_ table: UnsafeMutableBufferPointer<UInt16>, _ backends: [Backend]) -> Bool {
    let active = backends.indices.filter { backends[$0].weight > 0 }.sorted {
      backends[$0].identity < backends[$1].identity
    }
    guard let heaviest = active.map({ backends[$0].weight }).max() else { return false }
    let size = UInt64(table.count)
    var positions: [UInt64] = []
    var steps: [UInt64] = []
    for index in active {
      let mixed = mix(backends[index].identity)
      positions.append(mixed % size)
      steps.append(mix(mixed) % (size - 1) + 1)
    }
    let free = UInt16.max
    unsafe table.initialize(repeating: free)
    // Each backend in its turn takes the next free entry of its own permutation. A light backend sits out: it has a
    // turn whenever its credit reaches the heaviest one's weight, and one in the first round, so that none gets nothing.
    var credits = active.map { UInt64(heaviest - backends[$0].weight) }
    var left = table.count
    while true {
      for turn in active.indices {
        credits[turn] += UInt64(backends[active[turn]].weight)
        guard credits[turn] >= UInt64(heaviest) else { continue }
        credits[turn] -= UInt64(heaviest)
        var position = positions[turn]
        while unsafe table[Int(position)] != free { position = next(position, steps[turn], size) }
        unsafe table[Int(position)] = UInt16(active[turn])
        positions[turn] = next(position, steps[turn], size)
        left -= 1
        if left == 0 { return true }
      }
    }
  }

  private static func next(_ position: UInt64, _ step: UInt64, _ size: UInt64) -> UInt64 {
    let sum = position + step
    return sum >= size ? sum - size : sum
  }

  /// The table as an array, empty where no backend has a weight.
  public static func table(_ backends: [Backend]) -> [UInt16] {
    let size = size(backends: backends.count { $0.weight > 0 })
    return unsafe [UInt16](unsafeUninitializedCapacity: size) { buffer, count in
      count = unsafe fill(UnsafeMutableBufferPointer(rebasing: buffer[..<size]), backends) ? size : 0
    }
  }

  /// Spreads 64 bits (the finalizer of SplitMix64).
  @inlinable static func mix(_ value: UInt64) -> UInt64 {
    var z = value &+ 0x9E37_79B9_7F4A_7C15
    z = (z ^ z >> 30) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ z >> 27) &* 0x94D0_49BB_1331_11EB
    return z ^ z >> 31
  }
}
