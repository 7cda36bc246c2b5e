import WeftSystem
import WeftWire

/// What a worker keeps for address translation: its blocks of ports, and which backends clients had. Its own alone.
@safe public struct NATWorker {
  public var ports: PortBlocks
  public var affinity: AffinityTable
  /// Which worker this is, of how many.
  public var owner = FlowOwner()
  /// The flow in hand is this worker's to decide, whosesoever it would be.
  var isDecided = false

  public init(worker: Int, seed: UInt64, clients: Int = 1 << 14) throws(SystemError) {
    ports = try PortBlocks(worker: worker, seed: seed)
    affinity = try AffinityTable(capacity: clients)
  }

  /// The worker that decides about what must be known of all flows of a client; nil where that is this one.
  func other(client: IPAddress) -> Int? { isDecided || owner.workers == 1 ? nil : other(owner.worker(client: client)) }

  /// The worker that has all flows of a pool, where that cannot be divided: it has too few blocks for all workers, or
  /// the flow shows no port (`hasPorts`), so that only the address keeps its answers apart. nil: this one, or any.
  func other(pool: EntryReference<PortPoolEntry>, hasPorts: Bool) -> Int? {
    guard !isDecided, owner.workers > 1, !hasPorts || pool.entry.isSmall(workers: owner.workers) else { return nil }
    return other(Int(pool.entry.id) % owner.workers)
  }

  private func other(_ worker: Int) -> Int? { worker == owner.index ? nil : worker }

  /// For finding out what would be done: takes no port where others look, remembers no client.
  public init(trial seed: UInt64) throws(SystemError) {
    ports = try PortBlocks(worker: 0, seed: seed, isTrial: true)
    affinity = try AffinityTable(capacity: 4)
  }

  /// Gives back what a flow had: the reference of its translation, when the flow has ended or was never made.
  public mutating func release(_ reference: UInt32) { if reference != 0 { ports.release(reference) } }
}

/// What becomes of a new flow's addresses.
@frozen public struct Translation: Sendable {
  @frozen public enum Outcome: UInt8, Sendable {
    /// Nothing: the flow stays as it is.
    case none
    case translated
    /// A pool has no port left.
    case exhausted
    /// A service has no backend that takes new flows.
    case noBackend
    /// A packet that shows no ports, where ports decide.
    case unsupported
    /// Another worker is to make the flow.
    case elsewhere
  }

  /// What was translated.
  @frozen public struct Flags: OptionSet, Sendable {
    public let rawValue: UInt32
    @inlinable public init(rawValue: UInt32) { self.rawValue = rawValue }
    public static let source = Flags(rawValue: 1)
    public static let destination = Flags(rawValue: 2)
    public static let service = Flags(rawValue: 4)
    public static let hairpin = Flags(rawValue: 8)
  }

  public var outcome: Outcome
  /// The addresses, ports and VRF with which the flow goes on: reversed, the key of its answers.
  public var key: FlowKey
  /// What `NATWorker.release` takes when the flow ends; 0 for nothing.
  public var reference: UInt32 = 0
  public var flags: Flags = []
  /// Of `elsewhere`.
  public var worker = 0

  init(_ outcome: Outcome, _ key: FlowKey) {
    self.outcome = outcome
    self.key = key
  }
}

extension Tables {
  /// Where the way to an address ends.
  private struct End {
    var vrf: UInt32
    /// At the router itself.
    var isReceived = false
  }

  /// The end of the way to an address, through VRF translations; `vrf` itself where there is no way.
  private func end(_ vrf: UInt32, _ address: IPAddress) -> End {
    var place = vrf
    for _ in 0..<4 {
      let number = address.isV4 ? route(vrf: place, v4: address.v4) : route(vrf: place, v6: address)
      guard number != 0, let nexthop = nexthop(paths[number].nexthop) else { break }
      guard nexthop.entry.kind == .vrfTranslate else {
        return End(vrf: place, isReceived: nexthop.entry.kind == .receive)
      }
      place = nexthop.entry.vrf
    }
    return End(vrf: vrf)
  }

  /// Decides about the addresses of a new flow: first where it goes to (a service, destination NAT, an address that
  /// stands for another), then, knowing by which VRF that leaves, whom it comes from (an address that another stands
  /// for, then the rules of source NAT).
  ///
  /// `hasPorts`: the packet shows ports, or an echo's identifier. `attempt` counts from 0; a higher one, after the flow
  /// table said that the answers' key is another flow's, gives another port. `isDecided`: this worker makes the flow,
  /// though another might be asked to. `now` is CLOCK_MONOTONIC, ns.
  public func translate(
    _ key: FlowKey, hasPorts: Bool, worker: inout NATWorker, now: UInt64, attempt: Int = 0, isDecided: Bool = false
  ) -> Translation {
    guard !nat.isEmpty else { return Translation(.none, key) }
    worker.isDecided = isDecided
    let vrf = UInt32(truncatingIfNeeded: key.vrf)
    var result = Translation(.translated, key)
    var destination = Destination(vrf: vrf, address: key.destination, port: key.destinationPort)
    // Where the flow leaves its VRF by, what matters for its source.
    var egress: End
    if find(key, vrf, hasPorts, &worker, now, &destination) {
      egress = end(destination.vrf, destination.address)
    } else {
      egress = end(vrf, key.destination)
      if egress.vrf != vrf { _ = find(key, egress.vrf, hasPorts, &worker, now, &destination) }
    }
    guard destination.outcome == .none || destination.outcome == .translated else {
      result = Translation(destination.outcome, key)
      result.worker = destination.worker
      return result
    }
    if destination.outcome == .translated { result.flags.insert(.destination) }
    if destination.isService { result.flags.insert(.service) }
    var source = Source(address: key.source, port: key.sourcePort)
    // Whoever speaks to the router itself goes nowhere.
    if !destination.isService || !translateClient(key, destination, &worker, attempt, &source), !egress.isReceived {
      translateSource(key, vrf, egress.vrf, destination, hasPorts, &worker, attempt, &source)
    }
    guard source.outcome == .none || source.outcome == .translated else {
      result = Translation(source.outcome, key)
      result.worker = source.worker
      return result
    }
    if source.outcome == .translated { result.flags.insert(.source) }
    if source.isHairpin { result.flags.insert(.hairpin) }
    guard !result.flags.isEmpty else { return Translation(.none, key) }
    // Without a way of its own for the source, it goes on where the destination is.
    let base = destination.outcome == .translated ? destination.vrf : source.vrf ?? egress.vrf
    result.key = FlowKey(
      vrf: end(base, destination.address).vrf, source: source.address, destination: destination.address,
      proto: key.proto, sourcePort: source.port, destinationPort: destination.port)
    // An echo has one identifier, and which side chose it does not matter.
    if key.proto == IPProtocol.icmp || key.proto == IPProtocol.icmpv6 {
      result.key = FlowKey(
        vrf: UInt32(truncatingIfNeeded: result.key.vrf), source: source.address, destination: destination.address,
        proto: key.proto, sourcePort: source.port, destinationPort: source.port)
    }
    result.reference = source.reference
    return result
  }

  private struct Destination {
    var outcome: Translation.Outcome = .none
    var vrf: UInt32
    var address: IPAddress
    var port: UInt16
    var isService = false
    var translatesSource = false
    var pool: UInt32 = 0
    /// Of the outcome `elsewhere`.
    var worker = 0
    /// Source of a hairpin.
    var hairpin = IPAddress(high: 0, low: 0)

    init(vrf: UInt32, address: IPAddress, port: UInt16) {
      self.vrf = vrf
      self.address = address
      self.port = port
    }
  }

  private struct Source {
    var outcome: Translation.Outcome = .none
    /// Of the outside address.
    var vrf: UInt32?
    var address: IPAddress
    var port: UInt16
    var reference: UInt32 = 0
    var isHairpin = false
    /// Of the outcome `elsewhere`.
    var worker = 0

    init(address: IPAddress, port: UInt16) {
      self.address = address
      self.port = port
    }
  }

  // MARK: destination

  /// What stands in `vrf` for the flow's destination; false for nothing.
  private func find(
    _ key: FlowKey, _ vrf: UInt32, _ hasPorts: Bool, _ worker: inout NATWorker, _ now: UInt64,
    _ result: inout Destination
  ) -> Bool {
    guard let summary = nat.vrf(vrf) else { return false }
    if summary.entry.hasDestinations, hasPorts {
      let found = nat.translations.find(
        TranslationKey(
          .destination, vrf: vrf, address: key.destination, proto: key.proto, port: key.destinationPort))
      if let found {
        choose(found, key, &worker, now, &result)
        return true
      }
    }
    guard summary.entry.hasOutside,
      let found = nat.translations.find(TranslationKey(.outside, vrf: vrf, address: key.destination))
    else { return false }
    result.outcome = .translated
    result.vrf = found.entry.targetVRF
    result.address = found.entry.target
    return true
  }

  private func choose(
    _ found: EntryReference<TranslationEntry>, _ key: FlowKey, _ worker: inout NATWorker, _ now: UInt64,
    _ result: inout Destination
  ) {
    result.outcome = .translated
    guard found.entry.isService else {
      result.vrf = found.entry.targetVRF
      result.address = found.entry.target
      if found.entry.targetPort != 0 { result.port = found.entry.targetPort }
      return
    }
    result.isService = true
    result.translatesSource = found.entry.translatesSource
    result.pool = found.entry.pool
    result.hairpin = found.entry.target
    var chosen: ServiceBackend?
    let affinity = found.entry.affinity
    if affinity > 0 {
      if let other = decider(found, key, worker) {
        result.outcome = .elsewhere
        result.worker = other
        return
      }
      let number = worker.affinity.backend(
        service: found.entry.serial, client: key.source, now: now, limit: affinity)
      if let number { chosen = found.backend(number: number) }
    }
    // By the client alone where it is to keep its backend: then other workers and nodes choose the same for it.
    let hash =
      affinity > 0
      ? Maglev.mix(key.source.high ^ Maglev.mix(key.source.low))
      : Maglev.mix(
        key.source.high ^ Maglev.mix(key.source.low ^ Maglev.mix(key.transport ^ Maglev.mix(key.destination.low))))
    guard let backend = chosen ?? found.backend(hash: hash) else {
      result.outcome = .noBackend
      return
    }
    if affinity > 0 {
      worker.affinity.remember(
        service: found.entry.serial, client: key.source, backend: backend.number, now: now)
    }
    result.vrf = backend.vrf
    result.address = backend.address
    if backend.port != 0 { result.port = backend.port }
  }

  /// The other worker that knows which backend the client of a service keeps: one for all services of a client, and
  /// where its address is translated by a pool that cannot be divided, the one that has that.
  private func decider(_ found: EntryReference<TranslationEntry>, _ key: FlowKey, _ worker: NATWorker) -> Int? {
    if found.entry.translatesSource, let pool = nat.pool(found.entry.pool),
      pool.entry.isSmall(workers: worker.owner.workers)
    {
      return worker.other(pool: pool, hasPorts: true)
    }
    return worker.other(client: key.source)
  }

  // MARK: source

  /// A service's client towards the backend: where the client is the backend, its answers would never leave it; where
  /// the service says so, they would not find back here. False where the client stays as it is.
  private func translateClient(
    _ key: FlowKey, _ destination: Destination, _ worker: inout NATWorker, _ attempt: Int, _ source: inout Source
  ) -> Bool {
    if destination.address == key.source, destination.vrf == UInt32(truncatingIfNeeded: key.vrf) {
      guard attempt < 64 else {
        source.outcome = .exhausted
        return true
      }
      // Only one worker can see that none of its hairpins are taken for each other.
      if let other = worker.other(client: key.source) {
        source.outcome = .elsewhere
        source.worker = other
        return true
      }
      source.outcome = .translated
      source.address = destination.hairpin
      // The client's own port, unless the client has another flow to itself from that.
      source.port = attempt == 0 ? key.sourcePort : 1024 &+ (key.sourcePort &+ UInt16(attempt) &* 1021) % 64512
      source.isHairpin = true
      return true
    }
    guard destination.translatesSource else { return false }
    lease(destination.pool, key, hasPorts: true, &worker, attempt, &source)
    source.vrf = nil
    return true
  }

  private func translateSource(
    _ key: FlowKey, _ vrf: UInt32, _ egress: UInt32, _ destination: Destination, _ hasPorts: Bool,
    _ worker: inout NATWorker, _ attempt: Int, _ source: inout Source
  ) {
    guard let summary = nat.vrf(vrf) else { return }
    if summary.entry.hasInside,
      let found = nat.translations.find(TranslationKey(.inside, vrf: vrf, address: key.source)),
      found.entry.targetVRF == egress
    {
      source.outcome = attempt == 0 ? .translated : .exhausted
      source.vrf = found.entry.targetVRF
      source.address = found.entry.target
      return
    }
    let pool = summary.pool(source: key.source, destination: destination.address, egress: egress)
    guard pool != SourceRule.any else { return }
    lease(pool, key, hasPorts: hasPorts, &worker, attempt, &source)
  }

  /// An address and port of a pool.
  private func lease(
    _ number: UInt32, _ key: FlowKey, hasPorts: Bool, _ worker: inout NATWorker, _ attempt: Int, _ source: inout Source
  ) {
    guard let pool = nat.pool(number), pool.entry.first.isV4 == key.source.isV4 else {
      source.outcome = .exhausted
      return
    }
    source.vrf = pool.entry.vrf
    let spread = Maglev.mix(key.source.high ^ Maglev.mix(key.source.low ^ key.vrf))
    guard let portClass = PortClass(proto: key.proto), hasPorts else {
      // TCP, UDP and SCTP have ports: a packet without is a fragment whose first one was not seen.
      guard PortClass(proto: key.proto) == nil || key.proto == IPProtocol.icmp || key.proto == IPProtocol.icmpv6 else {
        source.outcome = .unsupported
        return
      }
      if let other = worker.other(pool: pool, hasPorts: false) {
        source.outcome = .elsewhere
        source.worker = other
        return
      }
      // No port tells two insiders apart that speak to one outsider: the second needs an address of its own.
      let count = pool.entry.count
      guard attempt < min(Int(count), 64) else {
        source.outcome = .exhausted
        return
      }
      let index = UInt32(truncatingIfNeeded: spread.multipliedFullWidth(by: UInt64(count)).high)
      source.outcome = .translated
      source.address = pool.entry.address((index &+ UInt32(attempt)) % count)
      return
    }
    if let other = worker.other(pool: pool, hasPorts: true) {
      source.outcome = .elsewhere
      source.worker = other
      return
    }
    guard attempt < 64,
      let lease = worker.ports.lease(pool, portClass, spread: spread, wanted: attempt == 0 ? key.sourcePort : 0)
    else {
      source.outcome = .exhausted
      return
    }
    source.outcome = .translated
    source.address = lease.address
    source.port = lease.port
    source.reference = lease.reference
  }
}
