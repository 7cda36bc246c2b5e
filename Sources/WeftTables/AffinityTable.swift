import WeftSystem
import WeftWire

/// Which backend a client of a service had last, as one worker remembers it: a fixed number of places, four for each
/// hash; a new client takes the place of the one that was away longest.
@safe public struct AffinityTable {
  private struct Client {
    var address: IPAddress
    var service: UInt32
    var backend: UInt32
    /// CLOCK_MONOTONIC, ns; 0 for a free place.
    var seen: UInt64
  }

  private static let ways = 4
  private static let stride = 32

  private let memory: PortBlockMemory
  private let mask: UInt64

  /// Room for about `capacity` clients.
  public init(capacity: Int) throws(SystemError) {
    precondition(MemoryLayout<Client>.size == Self.stride)
    var buckets = 1
    while buckets * Self.ways < capacity { buckets *= 2 }
    mask = UInt64(buckets - 1)
    memory = try PortBlockMemory(bytes: buckets * Self.ways * Self.stride)
  }

  private func bucket(_ service: UInt32, _ client: IPAddress) -> UnsafeMutablePointer<Client> {
    let hash = Maglev.mix(client.high ^ Maglev.mix(client.low ^ UInt64(service)))
    return unsafe (memory.mapping.base + Int(truncatingIfNeeded: hash & mask) &* Self.ways &* Self.stride)
      .assumingMemoryBound(to: Client.self)
  }

  /// The backend that a client had within `limit` ns.
  public func backend(service: UInt32, client: IPAddress, now: UInt64, limit: UInt64) -> UInt32? {
    let bucket = unsafe bucket(service, client)
    for way in 0..<Self.ways {
      let found = unsafe bucket[way]
      guard found.seen != 0, found.service == service, found.address == client else { continue }
      return now < found.seen || now &- found.seen <= limit ? found.backend : nil
    }
    return nil
  }

  public mutating func remember(service: UInt32, client: IPAddress, backend: UInt32, now: UInt64) {
    let bucket = unsafe bucket(service, client)
    var oldest = 0
    for way in 0..<Self.ways {
      let found = unsafe bucket[way]
      if found.seen != 0, found.service == service, found.address == client {
        oldest = way
        break
      }
      if unsafe found.seen < bucket[oldest].seen { oldest = way }
    }
    unsafe bucket[oldest] = Client(address: client, service: service, backend: backend, seen: max(1, now))
  }
}
