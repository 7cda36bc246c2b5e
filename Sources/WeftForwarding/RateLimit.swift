/// How often something may be done: a token bucket.
@frozen public struct RateLimit: Sendable {
  public var perSecond: UInt64
  public var burst: UInt64
  /// Thousand-millionths.
  private var tokens: UInt64
  private var last: UInt64 = 0

  public init(perSecond: UInt64 = 1000, burst: UInt64 = 100) {
    self.perSecond = min(perSecond, 1_000_000)
    self.burst = min(burst, 1_000_000)
    tokens = self.burst &* 1_000_000_000
  }

  /// Takes one, if there is one. `now` is CLOCK_MONOTONIC in ns.
  mutating func take(_ now: UInt64) -> Bool {
    guard has(now) else { return false }
    tokens &-= 1_000_000_000
    return true
  }

  /// There is one to take.
  mutating func has(_ now: UInt64) -> Bool {
    if now > last {
      let elapsed = min(now &- last, 1_000_000_000)
      tokens = min(burst &* 1_000_000_000, tokens &+ elapsed &* perSecond)
      last = now
    }
    return tokens >= 1_000_000_000
  }
}
