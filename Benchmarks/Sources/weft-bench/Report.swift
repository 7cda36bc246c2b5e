import CMeasure
import Glibc

struct BenchmarkError: Error, CustomStringConvertible {
  let description: String
  init(_ description: String) { self.description = description }
}

/// A measured value, written as a line of JSON as soon as it is known. tools/bench adds the bars.
enum Report {
  static func value(_ name: String, _ value: Double, _ unit: String) {
    // Six significant digits say all that is known; %g writes no more.
    let text = withUnsafeTemporaryAllocation(of: CChar.self, capacity: 64) { buffer in
      let length = withVaList([value]) { vsnprintf(buffer.baseAddress!, 64, "%.6g", $0) }
      return String(decoding: buffer.prefix(Int(length)).map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }
    line("{\"name\": \"\(name)\", \"value\": \(text), \"unit\": \"\(unit)\"}")
  }

  /// What the reader of the table should know beside a value.
  static func note(_ name: String, _ text: String) { line("{\"name\": \"\(name)\", \"note\": \"\(text)\"}") }

  private static func line(_ text: String) {
    let bytes = Array((text + "\n").utf8)
    var sent = 0
    while sent < bytes.count {
      let count = bytes.withUnsafeBytes { write(1, $0.baseAddress! + sent, bytes.count - sent) }
      if count <= 0 { return }
      sent += count
    }
  }
}

func median(_ values: [Double]) -> Double {
  let sorted = values.sorted()
  guard !sorted.isEmpty else { return 0 }
  let middle = sorted.count / 2
  return sorted.count % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
}

/// Nanoseconds that `body` takes.
@inline(__always) func elapsed(_ body: () -> Void) -> Double {
  let start = measure_now()
  body()
  return Double(measure_now() - start)
}

/// Numbers that are the same each time (SplitMix64).
struct Random {
  private var state: UInt64
  init(_ seed: UInt64) { state = seed }
  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var z = state
    z = (z ^ z >> 30) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ z >> 27) &* 0x94D0_49BB_1331_11EB
    return z ^ z >> 31
  }
  /// Below `limit`.
  mutating func below(_ limit: Int) -> Int { Int(next() % UInt64(limit)) }
}
