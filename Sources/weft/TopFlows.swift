import CLinux
import WeftRing
import WeftWire

/// What something moves in a second.
struct Rate {
  var packets: Double
  var bytes: Double

  func value(_ order: TopOrder) -> Double { order == .bytes ? bytes : packets }
}

enum TopOrder: String, CaseIterable {
  case bytes, packets
}

/// The `most` greatest of what is offered: a heap whose root is the least of those, so that each offer costs little.
struct Greatest<Element> {
  private let most: Int
  private let value: (Element) -> Double
  private var heap: [(value: Double, element: Element)] = []

  init(_ most: Int, by value: @escaping (Element) -> Double) {
    self.most = most
    self.value = value
    heap.reserveCapacity(most)
  }

  mutating func offer(_ element: Element) {
    let value = value(element)
    guard value > 0, most > 0 else { return }
    if heap.count < most {
      heap.append((value, element))
      var child = heap.count - 1
      while child > 0, heap[child].value < heap[(child - 1) / 2].value {
        heap.swapAt(child, (child - 1) / 2)
        child = (child - 1) / 2
      }
    } else if value > heap[0].value {
      heap[0] = (value, element)
      sink()
    }
  }

  private mutating func sink() {
    var parent = 0
    while true {
      var least = parent
      for child in [2 * parent + 1, 2 * parent + 2]
      where child < heap.count && heap[child].value < heap[least].value {
        least = child
      }
      guard least != parent else { return }
      heap.swapAt(parent, least)
      parent = least
    }
  }

  /// The greatest first.
  var sorted: [Element] { heap.sorted { $0.value > $1.value }.map(\.element) }
}

/// Finds the flows that move most, with a bounded number of entries read each time however many there are: it looks at one
/// part of the table after the other, twice each, and keeps looking at the parts where the greatest were found. A table
/// that is no larger than the bound is read whole each time.
final class FlowSampler {
  struct Row {
    var flow: FlowRecord
    var rate: Rate
    /// Where in the table it is.
    fileprivate var part: UInt64
  }

  struct Result {
    var rows: [Row]
    /// Entries whose rates are known, and entries there are.
    var seen: Int
    var entries: UInt64
  }

  private struct Key: Hashable {
    let worker: UInt32
    let vrf: UInt32
    let source: IPAddress
    let destination: IPAddress
    let proto: UInt8
    let ports: UInt32

    init(_ flow: FlowRecord) {
      worker = flow.worker
      vrf = flow.vrf
      source = flow.source
      destination = flow.destination
      proto = flow.proto
      ports = UInt32(flow.sourcePort) << 16 | UInt32(flow.destinationPort)
    }
  }

  /// Up to `RingClient.share` entries from a cursor on, as they were.
  private struct Part {
    var time: UInt64
    var counters: [Key: (packets: UInt64, bytes: UInt64)]
  }

  private let ring: RingClient
  /// Entries in a window.
  private let window: Int
  private let isWanted: (FlowRecord) -> Bool
  private var parts: [UInt64: Part] = [:]
  /// Where the next window begins.
  private var next: UInt64 = 0
  private var isWhole = false

  init(_ ring: RingClient, sample: Int, isWanted: @escaping (FlowRecord) -> Bool) {
    self.ring = ring
    window = max(RingClient.share, sample / 2)
    self.isWanted = isWanted
  }

  /// Rates since the last call; none the first time.
  func refresh(rows most: Int, order: TopOrder) throws(RingError) -> Result {
    var greatest = Greatest<Row>(most) { $0.rate.value(order) }
    var seen = 0
    var end: UInt64 = 0
    for cursor in parts.keys.sorted() {
      guard let before = parts[cursor] else { continue }
      let (flows, following) = try read(cursor)
      let seconds = Double((parts[cursor]?.time ?? before.time) - before.time) / 1e9
      guard seconds > 0 else { continue }
      for flow in flows {
        guard let rate = Self.rate(flow, before.counters[Key(flow)], seconds) else { continue }
        seen += 1
        if isWanted(flow) { greatest.offer(Row(flow: flow, rate: rate, part: cursor)) }
      }
      end = following
    }
    // A part that has lost entries reaches into the next one.
    var shown: Set<Key> = []
    let rows = greatest.sorted.filter { shown.insert(Key($0.flow)).inserted }
    // Entries that came since the last part was read, at the end of a table that is read whole.
    if isWhole, end != 0 { isWhole = false }
    if !isWhole {
      let kept = Set(rows.map(\.part))
      parts = parts.filter { kept.contains($0.key) }
      try readWindow()
    }
    return Result(
      rows: rows, seen: seen, entries: ring.statistics.workers().reduce(0) { $0 &+ $1.flows })
  }

  private func readWindow() throws(RingError) {
    let first = next
    var left = window
    repeat {
      let (flows, following) = try read(next)
      left -= flows.count
      next = following
    } while left > 0 && next != 0
    isWhole = first == 0 && next == 0
  }

  /// Reads a part and notes how it is.
  private func read(_ cursor: UInt64) throws(RingError) -> ([FlowRecord], UInt64) {
    let (entries, following) = try ring.dump(.flows, from: cursor)
    let flows = entries.compactMap { if case .flow(let flow) = $0 { flow } else { nil } }
    parts[cursor] = Part(
      time: weft_monotonic_ns(),
      counters: Dictionary(flows.map { (Key($0), ($0.packets, $0.bytes)) }, uniquingKeysWith: { $1 }))
    return (flows, following)
  }

  /// Nil where nothing is known of before. One that began since then moved all that it has since then.
  private static func rate(
    _ flow: FlowRecord, _ before: (packets: UInt64, bytes: UInt64)?, _ seconds: Double
  ) -> Rate? {
    guard let before else {
      guard Double(flow.ageMilliseconds) <= seconds * 1000 else { return nil }
      return Rate(packets: Double(flow.packets) / seconds, bytes: Double(flow.bytes) / seconds)
    }
    // Another flow of the same ends may have come in between.
    guard flow.packets >= before.packets, flow.bytes >= before.bytes else { return nil }
    return Rate(
      packets: Double(flow.packets - before.packets) / seconds, bytes: Double(flow.bytes - before.bytes) / seconds)
  }
}
