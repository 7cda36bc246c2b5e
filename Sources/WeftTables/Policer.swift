import CLinux
import WeftSystem
import WeftWire

/// What a policer says of a packet (RFC 2697, RFC 2698).
@frozen public enum PolicerColor: UInt8, Sendable, CaseIterable {
  /// It conforms.
  case green
  /// It exceeds the rate or the burst, and passes.
  case yellow
  /// It violates, and is dropped.
  case red
}

/// How a policer meters.
@frozen public enum PolicerKind: UInt8, Sendable, CaseIterable {
  /// One bucket: green or red.
  case singleRate = 1
  /// One rate, two buckets (RFC 2697): what a committed bucket that is full does not take fills a second one.
  case singleRateThreeColor = 2
  /// Two rates with a bucket each (RFC 2698).
  case twoRateThreeColor = 3
}

/// A policer's rates and bursts. They are in bits a second and bytes, or in packets a second and packets.
public struct PolicerSettings: Hashable, Sendable {
  public var kind: PolicerKind
  public var countsPackets: Bool
  /// The committed rate and burst.
  public var rate: UInt64
  public var burst: UInt64
  /// twoRateThreeColor: the peak rate.
  public var peakRate: UInt64
  /// What the second bucket holds: the excess burst, or the peak burst.
  public var excessBurst: UInt64
  /// The packet's own colour, by its DSCP's drop precedence (RFC 2597), is the best that it gets.
  public var isColorAware: Bool
  /// What yellow packets are marked with; `PolicyRule.keepDSCP` for nothing.
  public var yellowDSCP: UInt8

  public init(
    kind: PolicerKind, countsPackets: Bool = false, rate: UInt64, burst: UInt64, peakRate: UInt64 = 0,
    excessBurst: UInt64 = 0, isColorAware: Bool = false, yellowDSCP: UInt8 = PolicyRule.keepDSCP
  ) {
    self.kind = kind
    self.countsPackets = countsPackets
    self.rate = rate
    self.burst = burst
    self.peakRate = peakRate
    self.excessBurst = excessBurst
    self.isColorAware = isColorAware
    self.yellowDSCP = yellowDSCP
  }

  public static let maximumBitRate: UInt64 = 1_000_000_000_000
  public static let maximumPacketRate: UInt64 = 1_000_000_000
  /// Bytes or packets.
  public static let maximumBurst: UInt64 = 1 << 32
}

/// A bucket that all workers draw from.
///
/// Its level is a difference: the tokens that have come by a time, `rate * time`, less a word that says how many of those
/// are gone, those that found the bucket full included. So nothing is added up that could be rounded, and over any time
/// as many tokens come as the rate says. The word is modulo 2^64 and moved by `origin`, so that 0, which is a bucket that
/// nobody has drawn from, full, is nothing that comes of small numbers.
@safe @frozen public struct TokenBucket {
  /// A token is a bit or a thousandth of a packet.
  @usableFromInline let rate: UInt64
  @usableFromInline let capacity: Int64
  @usableFromInline let word: UnsafeMutableRawPointer

  private static let origin: UInt64 = 0x9E37_79B9_7F4A_7C15

  init(rate: UInt64, capacity: UInt64, word: UnsafeMutableRawPointer) {
    self.rate = rate
    self.capacity = Int64(clamping: capacity)
    unsafe self.word = unsafe word
  }

  /// The tokens that have come by `now` (ns), modulo 2^64.
  @inline(__always) func come(by now: UInt64) -> UInt64 {
    let product = now.multipliedFullWidth(by: rate)
    // What the remainder leaves out is a multiple of 2^64.
    return UInt64(1_000_000_000).dividingFullWidth((product.high % 1_000_000_000, product.low)).quotient
  }

  /// The level after `total` tokens have come, and the word that says so. Below zero: a worker whose clock is ahead has
  /// drawn what comes next.
  @inline(__always) func level(_ total: UInt64) -> (level: Int64, word: UInt64, seen: UInt64) {
    let seen = unsafe weft_load_relaxed_u64(word)
    let moved = total &+ Self.origin
    let level = Int64(bitPattern: moved &- seen)
    guard seen == 0 || level > capacity else { return (level, seen, seen) }
    return (capacity, moved &- UInt64(bitPattern: capacity), seen)
  }

  /// Takes `count` from a bucket that was seen so; false when somebody else was faster.
  @inline(__always) func take(_ count: Int64, _ state: (level: Int64, word: UInt64, seen: UInt64)) -> Bool {
    let next = state.word &+ UInt64(bitPattern: count)
    return unsafe weft_replace_u64(word, state.seen, next == 0 ? 1 : next)
  }

  /// Up to `wanted` tokens.
  @inline(__always) func draw(_ wanted: Int64, _ total: UInt64) -> Int64 {
    while true {
      let state = level(total)
      let taken = min(state.level, wanted)
      guard taken > 0 else { return 0 }
      if take(taken, state) { return taken }
    }
  }

  @inline(__always) func giveBack(_ count: Int64) {
    if count != 0 { _ = unsafe weft_fetch_add_u64(word, UInt64(bitPattern: 0 &- count)) }
  }

  /// So that the word's distance never comes near 2^63, which takes 100 days at the highest rate.
  func settle(_ now: UInt64) {
    let state = level(come(by: now))
    if state.word != state.seen { _ = take(0, state) }
  }
}

/// What the packet path knows of a policer. Never changed once published; what the pointers lead to is.
@safe @frozen public struct PolicerEntry {
  public let kind: PolicerKind
  public let countsPackets: Bool
  public let isColorAware: Bool
  public let yellowDSCP: UInt8
  /// Drained by green packets.
  let committed: TokenBucket
  /// Drained by green and yellow ones. One rate: it holds the committed and the excess burst, so that its level less the
  /// committed bucket's is the excess bucket's.
  let all: TokenBucket
  /// For each worker a cache line: packets and bytes by colour, 8 bytes each.
  let counters: UnsafeMutableRawPointer

  static let lineBytes = 64

  /// Tokens for a packet of `bytes`.
  @inline(__always) func cost(_ bytes: Int) -> Int64 { countsPackets ? 1000 : Int64(bytes) &* 8 }
}

/// The workers' view of the policers. Numbers begin with 1; 0 is none.
@safe @frozen public struct PolicerReader: Sendable {
  let table: PointerTableReader

  @inline(__always) public subscript(number: UInt32) -> EntryReference<PolicerEntry>? {
    guard number != 0, let raw = unsafe table[number &- 1] else { return nil }
    return unsafe EntryReference(raw)
  }
}

/// What a policer has counted, all workers together.
@frozen public struct PolicerCounters: Hashable, Sendable {
  public var packets: InlineArray<3, UInt64> = .init(repeating: 0)
  public var bytes: InlineArray<3, UInt64> = .init(repeating: 0)

  public init() {}

  public static func == (a: PolicerCounters, b: PolicerCounters) -> Bool {
    (0..<3).allSatisfy { a.packets[$0] == b.packets[$0] && a.bytes[$0] == b.bytes[$0] }
  }

  public func hash(into hasher: inout Hasher) {
    for color in 0..<3 {
      hasher.combine(packets[color])
      hasher.combine(bytes[color])
    }
  }
}

/// The policers as their one writer sees them.
@safe public final class PolicerTable: @unchecked Sendable {
  public static let capacity = 1 << 16

  private let table: PointerTable
  private let workers: Int
  private let epochs: Epochs
  @safe private struct Published {
    let entry: UnsafeMutablePointer<PolicerEntry>
    let buckets: UnsafeMutableRawPointer
    let counters: UnsafeMutableRawPointer
  }
  private var published: [UInt32: Published] = [:]

  public init(workers: Int, epochs: Epochs) throws(SystemError) {
    table = try PointerTable(capacity: Self.capacity, what: "policers")
    self.workers = workers
    self.epochs = epochs
  }

  public var reader: PolicerReader { PolicerReader(table: table.reader) }

  /// Publishes a policer with full buckets, or takes it out (nil). Counters go on as long as it is there.
  public func publish(_ id: UInt32, _ settings: PolicerSettings?) {
    let old = published[id]
    guard let settings else {
      _ = unsafe table.replace(Int(id), nil)
      published[id] = nil
      if let old {
        epochs.retire {
          unsafe old.entry.deallocate()
          unsafe old.buckets.deallocate()
          unsafe old.counters.deallocate()
        }
      }
      return
    }
    let counters: UnsafeMutableRawPointer
    if let old {
      unsafe counters = old.counters
    } else {
      let bytes = workers * PolicerEntry.lineBytes
      unsafe counters = .allocate(byteCount: bytes, alignment: PolicerEntry.lineBytes)
      unsafe counters.initializeMemory(as: UInt8.self, repeating: 0, count: bytes)
    }
    // Both words on a line of their own.
    let buckets = UnsafeMutableRawPointer.allocate(byteCount: 64, alignment: 64)
    unsafe buckets.initializeMemory(as: UInt8.self, repeating: 0, count: 64)
    let scale: (rate: UInt64, burst: UInt64) = settings.countsPackets ? (1000, 1000) : (1, 8)
    let isTwoRate = settings.kind == .twoRateThreeColor
    let entry = UnsafeMutablePointer<PolicerEntry>.allocate(capacity: 1)
    unsafe entry.initialize(
      to: PolicerEntry(
        kind: settings.kind, countsPackets: settings.countsPackets, isColorAware: settings.isColorAware,
        yellowDSCP: settings.yellowDSCP,
        committed: TokenBucket(
          rate: settings.rate * scale.rate, capacity: settings.burst * scale.burst, word: buckets),
        all: TokenBucket(
          rate: (isTwoRate ? settings.peakRate : settings.rate) * scale.rate,
          capacity: (isTwoRate ? settings.excessBurst : settings.burst + settings.excessBurst) * scale.burst,
          word: buckets + 8),
        counters: counters))
    published[id] = unsafe Published(entry: entry, buckets: buckets, counters: counters)
    _ = unsafe table.replace(Int(id), UnsafeMutableRawPointer(entry))
    if let old {
      epochs.retire {
        unsafe old.entry.deallocate()
        unsafe old.buckets.deallocate()
      }
    }
  }

  public func counters(of id: UInt32) -> PolicerCounters {
    var sum = PolicerCounters()
    guard let policer = published[id] else { return sum }
    for worker in 0..<workers {
      let line = unsafe policer.counters + worker * PolicerEntry.lineBytes
      for color in 0..<3 {
        sum.packets[color] &+= unsafe weft_load_relaxed_u64(line + color * 16)
        sum.bytes[color] &+= unsafe weft_load_relaxed_u64(line + color * 16 + 8)
      }
    }
    return sum
  }

  /// To be called every few hours. `now`: CLOCK_MONOTONIC, ns.
  public func settle(_ now: UInt64) {
    for policer in published.values {
      unsafe policer.entry.pointee.committed.settle(now)
      unsafe policer.entry.pointee.all.settle(now)
    }
  }
}
