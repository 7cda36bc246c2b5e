import Synchronization

/// How many requests each client has sent of late: a bucket for each, filled at a steady rate.
package final class RequestRate: Sendable {
  /// Clients remembered at most; beyond that the one that was quiet for longest is forgotten.
  package static let maximumClients = 4096

  private struct Bucket {
    /// Requests that it may send now.
    var tokens: Double
    var time: UInt64
  }

  private let perSecond: Double
  private let burst: Double
  private let buckets = Mutex<[String: Bucket]>([:])

  /// 0 a second: no limit.
  package init(perSecond: Int, burst: Int) {
    self.perSecond = Double(perSecond)
    self.burst = Double(max(burst, 1))
  }

  /// Nil: the request may pass; else the whole seconds after which the next one may. `now` is in nanoseconds.
  package func delay(_ client: String, now: UInt64) -> Int? {
    guard perSecond > 0 else { return nil }
    return buckets.withLock { buckets in
      if buckets[client] == nil, buckets.count >= Self.maximumClients { makeRoom(&buckets, now) }
      var bucket = buckets[client] ?? Bucket(tokens: burst, time: now)
      let seconds = Double(now &- min(bucket.time, now)) / 1e9
      bucket.tokens = min(burst, bucket.tokens + seconds * perSecond)
      bucket.time = max(now, bucket.time)
      defer { buckets[client] = bucket }
      guard bucket.tokens >= 1 else { return max(1, Int(((1 - bucket.tokens) / perSecond).rounded(.up))) }
      bucket.tokens -= 1
      return nil
    }
  }

  private func makeRoom(_ buckets: inout [String: Bucket], _ now: UInt64) {
    // Those whose bucket is full again say nothing; seldom, so that looking at all of them costs little.
    let full = UInt64(burst / perSecond * 1e9)
    buckets = buckets.filter { now &- $0.value.time < full }
    guard buckets.count >= Self.maximumClients else { return }
    let times = buckets.values.map(\.time).sorted()
    let middle = times[times.count / 2]
    buckets = buckets.filter { $0.value.time > middle }
  }
}
