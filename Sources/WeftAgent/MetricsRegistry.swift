import CoreMetrics
import Synchronization

/// Where swift-metrics puts what the agent counts and times, for `GET /metrics` to read. Who wants something counted makes
/// `Counter(label:dimensions:factory:)` and so on with it; a label is the family's name, as Prometheus has them
/// (`weft_replays_total`), dimensions are its labels. Timers and aggregating recorders are histograms.
///
/// Dimensions come from small fixed sets only: each combination is kept for as long as the agent runs.
public final class MetricsRegistry: MetricsFactory, Sendable {
  private struct Family: Sendable {
    var kind: MetricsText.Kind
    var help: String
    var series: [String: any Series] = [:]
  }
  private let families = Mutex<[String: Family]>([:])

  /// The upper ends of histograms' buckets, s.
  static let bounds: [Double] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30,
  ]
  /// The most combinations of dimensions of a family; more are counted as one, whose labels all say "other".
  static let mostSeries = 512

  public init() {}

  /// What a family is about, for people. Before its first use, so that it is there from the start.
  func describe(_ label: String, _ kind: MetricsText.Kind, _ help: String) {
    families.withLock { families in
      families[label, default: Family(kind: kind, help: help)].help = help
    }
  }

  private func series<S: Series>(
    _ label: String, _ kind: MetricsText.Kind, _ dimensions: [(String, String)], _ make: ([(String, String)]) -> S
  ) -> S {
    families.withLock { families in
      var family = families[label] ?? Family(kind: kind, help: "Told by a library as \(label).")
      var dimensions = dimensions
      var key = dimensions.map { "\($0.0)=\($0.1)" }.joined(separator: "\u{1F}")
      if family.series[key] == nil, family.series.count >= Self.mostSeries {
        dimensions = dimensions.map { ($0.0, "other") }
        key = "\u{1F}other"
      }
      if let there = family.series[key] as? S { return there }
      let made = make(dimensions)
      // One name is one kind: what came as another first stays.
      if family.kind == kind, family.series[key] == nil {
        family.series[key] = made
        families[label] = family
      }
      return made
    }
  }

  public func makeCounter(label: String, dimensions: [(String, String)]) -> CounterHandler {
    series(label, .counter, dimensions) { CounterSeries($0) }
  }

  public func makeFloatingPointCounter(
    label: String, dimensions: [(String, String)]
  ) -> FloatingPointCounterHandler {
    series(label, .counter, dimensions) { GaugeSeries($0) }
  }

  public func makeMeter(label: String, dimensions: [(String, String)]) -> MeterHandler {
    series(label, .gauge, dimensions) { GaugeSeries($0) }
  }

  public func makeRecorder(label: String, dimensions: [(String, String)], aggregate: Bool) -> RecorderHandler {
    if aggregate { return series(label, .histogram, dimensions) { HistogramSeries($0) } }
    return series(label, .gauge, dimensions) { GaugeSeries($0) }
  }

  public func makeTimer(label: String, dimensions: [(String, String)]) -> TimerHandler {
    series(label, .histogram, dimensions) { HistogramSeries($0) }
  }

  // What was counted stays counted.
  public func destroyCounter(_ handler: CounterHandler) {}
  public func destroyFloatingPointCounter(_ handler: FloatingPointCounterHandler) {}
  public func destroyMeter(_ handler: MeterHandler) {}
  public func destroyRecorder(_ handler: RecorderHandler) {}
  public func destroyTimer(_ handler: TimerHandler) {}

  func write(to text: inout MetricsText) {
    let families = families.withLock { $0 }
    for (name, family) in families.sorted(by: { $0.key < $1.key }) {
      text.family(name, family.kind, family.help)
      for (_, series) in family.series.sorted(by: { $0.key < $1.key }) { series.write(to: &text) }
    }
  }
}

private protocol Series: AnyObject, Sendable {
  func write(to text: inout MetricsText)
}

private final class CounterSeries: CounterHandler, Series {
  private let dimensions: [(String, String)]
  private let value = Atomic<Int64>(0)

  init(_ dimensions: [(String, String)]) { self.dimensions = dimensions }

  func increment(by amount: Int64) { value.wrappingAdd(max(0, amount), ordering: .relaxed) }
  func reset() { value.store(0, ordering: .relaxed) }
  func write(to text: inout MetricsText) { text.sample(value.load(ordering: .relaxed), dimensions) }
}

private final class GaugeSeries: FloatingPointCounterHandler, MeterHandler, RecorderHandler, Series {
  private let dimensions: [(String, String)]
  private let value = Mutex<Double>(0)

  init(_ dimensions: [(String, String)]) { self.dimensions = dimensions }

  func increment(by amount: Double) { value.withLock { $0 += amount } }
  func decrement(by amount: Double) { value.withLock { $0 -= amount } }
  func reset() { value.withLock { $0 = 0 } }
  func set(_ new: Int64) { set(Double(new)) }
  func set(_ new: Double) { value.withLock { $0 = new } }
  func record(_ new: Int64) { set(Double(new)) }
  func record(_ new: Double) { set(new) }
  func write(to text: inout MetricsText) { text.sample(value.withLock { $0 }, dimensions) }
}

/// Seconds by how many they were.
private final class HistogramSeries: TimerHandler, RecorderHandler, Series {
  private struct State {
    var counts = [UInt64](repeating: 0, count: MetricsRegistry.bounds.count + 1)
    var sum = 0.0
  }
  private let dimensions: [(String, String)]
  private let state = Mutex(State())

  init(_ dimensions: [(String, String)]) { self.dimensions = dimensions }

  func recordNanoseconds(_ duration: Int64) { record(Double(duration) / 1e9) }
  func record(_ value: Int64) { record(Double(value)) }
  func record(_ value: Double) {
    let bucket = MetricsRegistry.bounds.firstIndex { value <= $0 } ?? MetricsRegistry.bounds.count
    state.withLock {
      $0.counts[bucket] += 1
      $0.sum += value
    }
  }

  func write(to text: inout MetricsText) {
    let (counts, sum) = state.withLock { ($0.counts, $0.sum) }
    var total: UInt64 = 0
    for (index, count) in counts.enumerated() {
      total += count
      let bound = index < MetricsRegistry.bounds.count ? MetricsText.number(MetricsRegistry.bounds[index]) : "+Inf"
      text.sample(total, dimensions + [("le", bound)], suffix: "_bucket")
    }
    text.sample(sum, dimensions, suffix: "_sum")
    text.sample(total, dimensions, suffix: "_count")
  }
}
