import CLinux
import WeftSystem
import WeftWire

/// A rule of source NAT. The first one of a VRF that fits decides.
@frozen public struct SourceRule: Sendable {
  var source: PrefixMatch
  var destination: PrefixMatch
  /// The VRF in which the way of the packet must end; `any` for all.
  var egress: UInt32
  /// `any` leaves the source as it is.
  var pool: UInt32

  public static let any = UInt32.max

  /// Both prefixes are of one family.
  public init(source: IPPrefix, destination: IPPrefix?, egress: UInt32?, pool: UInt32?) {
    self.source = PrefixMatch(source)
    self.destination = destination.map(PrefixMatch.init) ?? PrefixMatch(all: source.isV4)
    self.egress = egress ?? Self.any
    self.pool = pool ?? Self.any
  }

  func fits(_ source: IPAddress, _ destination: IPAddress, egress: UInt32) -> Bool {
    (self.egress == Self.any || self.egress == egress) && self.source.contains(source)
      && self.destination.contains(destination)
  }
}

/// A prefix as two masks, IPv4 within IPv6's space.
@frozen public struct PrefixMatch: Sendable {
  let high: UInt64
  let low: UInt64
  let highMask: UInt64
  let lowMask: UInt64
  let isV4: Bool

  init(_ prefix: IPPrefix) {
    let bits = prefix.isV4 ? 96 + prefix.length : prefix.length
    high = prefix.address.high
    low = prefix.address.low
    highMask = bits >= 64 ? .max : bits == 0 ? 0 : ~(.max >> UInt64(bits))
    lowMask = bits >= 128 ? .max : bits <= 64 ? 0 : ~(.max >> UInt64(bits - 64))
    isV4 = prefix.isV4
  }

  init(all isV4: Bool) {
    high = 0
    low = 0
    highMask = 0
    lowMask = 0
    self.isV4 = isV4
  }

  func contains(_ address: IPAddress) -> Bool {
    address.high & highMask == high && address.low & lowMask == low && address.isV4 == isV4
  }
}

/// What a VRF has of address translation. Never changed once published; a VRF without any has none.
@frozen public struct VRFTranslation: Sendable {
  /// Services and destination NAT.
  public var hasDestinations = false
  /// One-to-one translations, by their outside and by their inside address.
  public var hasOutside = false
  public var hasInside = false
  var ruleCount = 0
  static let tail = 64

  init() {}
}

extension EntryReference<VRFTranslation> {
  private var tail: UnsafeMutableRawPointer { unsafe UnsafeMutableRawPointer(pointer) + VRFTranslation.tail }

  /// The pool of the first rule that fits; `SourceRule.any` for none.
  func pool(source: IPAddress, destination: IPAddress, egress: UInt32) -> UInt32 {
    let rules = unsafe tail.assumingMemoryBound(to: SourceRule.self)
    for index in 0..<entry.ruleCount where unsafe rules[index].fits(source, destination, egress: egress) {
      return unsafe rules[index].pool
    }
    return SourceRule.any
  }
}

/// Address translation as its one writer sees it. Everything here is called by one thread.
public final class NATMemory: @unchecked Sendable {
  /// Pools are numbered below this.
  public static let maximumPools = 4096

  /// What a VRF has.
  private struct Summary {
    var destinations = 0
    var outside = 0
    var inside = 0
    var rules: [SourceRule] = []

    var isEmpty: Bool { destinations == 0 && outside == 0 && inside == 0 && rules.isEmpty }
  }

  private let epochs: Epochs
  private let workers: Int
  private let vrfs: PointerTable
  private let poolTable: PointerTable
  /// How many VRFs have any of it.
  private let anything: Mapping
  public let translations: TranslationTable
  private var summaries: [UInt32: Summary] = [:]
  private var kinds: [TranslationKey: TranslationKind] = [:]
  private var pools: [UInt32: PortPool] = [:]
  /// Pools that nobody finds any more, but of which flows may still have ports.
  private var leaving: [PortPool] = []

  public init(vrfs: Int, epochs: Epochs, workers: Int) throws(SystemError) {
    self.epochs = epochs
    self.workers = workers
    self.vrfs = try PointerTable(capacity: vrfs, what: "NAT of VRFs")
    poolTable = try PointerTable(capacity: Self.maximumPools, what: "NAT pools")
    translations = try TranslationTable(epochs: epochs)
    anything = try Mapping(anonymous: 64, what: "NAT")
  }

  public var reader: NATReader {
    unsafe NATReader(
      vrfs: vrfs.reader, pools: poolTable.reader, translations: translations.reader, anything: anything.base)
  }

  // MARK: translations

  /// Publishes a translation, for a service with the backends that get new flows.
  public func set(_ kind: TranslationKind, _ entry: TranslationEntry, backends: [ServiceBackend] = []) {
    translations.set(entry, backends: backends)
    guard kinds.updateValue(kind, forKey: entry.key) == nil else { return }
    change(entry.key.vrf) { Self.count(kind, &$0, 1) }
  }

  public func remove(_ key: TranslationKey) {
    guard let kind = kinds.removeValue(forKey: key) else { return }
    translations.remove(key)
    change(key.vrf) { Self.count(kind, &$0, -1) }
  }

  private static func count(_ kind: TranslationKind, _ summary: inout Summary, _ change: Int) {
    switch kind {
    case .destination: summary.destinations += change
    case .outside: summary.outside += change
    case .inside: summary.inside += change
    }
  }

  // MARK: source NAT

  /// The rules of a VRF, the first to be looked at first.
  public func setRules(vrf: UInt32, _ rules: [SourceRule]) { change(vrf, always: true) { $0.rules = rules } }

  /// Makes a pool in place of the one of that number; flows of that one keep their ports to their end.
  public func setPool(
    _ id: UInt32, vrf: UInt32, first: IPAddress, count: UInt32, firstPort: UInt16, lastPort: UInt16, blockPorts: UInt32
  ) throws(SystemError) {
    let pool = try PortPool(
      id: id, vrf: vrf, first: first, count: count, firstPort: firstPort, lastPort: lastPort, blockPorts: blockPorts,
      workers: workers)
    removePool(id)
    pools[id] = pool
    _ = unsafe poolTable.replace(Int(id), UnsafeMutableRawPointer(pool.published))
  }

  public func removePool(_ id: UInt32) {
    guard let old = pools.removeValue(forKey: id) else { return }
    _ = unsafe poolTable.replace(Int(id), nil)
    epochs.retire { [self] in leaving.append(old) }
    collect()
  }

  /// Blocks of a pool that workers have, and that there are.
  public func use(pool id: UInt32, _ portClass: PortClass) -> (taken: UInt64, all: UInt64) {
    pools[id]?.use(portClass) ?? (0, 0)
  }

  /// Frees pools that are gone and whose last flow has ended. Cheap when there is none.
  public func collect() { if !leaving.isEmpty { leaving.removeAll { $0.isIdle } } }

  /// Pools that are gone but for the flows that have their ports.
  public var leavingPools: Int { leaving.count }

  // MARK: what a VRF has

  private func change(_ vrf: UInt32, always: Bool = false, _ body: (inout Summary) -> Void) {
    let wasThere = summaries[vrf] != nil
    let before = summaries[vrf] ?? Summary()
    var after = before
    body(&after)
    summaries[vrf] = after.isEmpty ? nil : after
    let isSame =
      (before.destinations > 0) == (after.destinations > 0) && (before.outside > 0) == (after.outside > 0)
      && (before.inside > 0) == (after.inside > 0)
    if isSame, !always { return }
    publish(vrf, after)
    if wasThere == after.isEmpty {
      unsafe weft_store_release_u32(anything.base, UInt32(summaries.count))
    }
  }

  private func publish(_ vrf: UInt32, _ summary: Summary) {
    var raw: UnsafeMutableRawPointer?
    if !summary.isEmpty {
      let rules = summary.rules.count
      let bytes = VRFTranslation.tail + rules * MemoryLayout<SourceRule>.stride
      let memory = UnsafeMutableRawPointer.allocate(byteCount: bytes, alignment: 64)
      var entry = VRFTranslation()
      entry.hasDestinations = summary.destinations > 0
      entry.hasOutside = summary.outside > 0
      entry.hasInside = summary.inside > 0
      entry.ruleCount = rules
      unsafe memory.initializeMemory(as: VRFTranslation.self, to: entry)
      let list = unsafe (memory + VRFTranslation.tail).bindMemory(to: SourceRule.self, capacity: rules)
      for (index, rule) in summary.rules.enumerated() { unsafe (list + index).initialize(to: rule) }
      unsafe raw = memory
    }
    guard let old = unsafe vrfs.replace(Int(vrf), raw) else { return }
    epochs.retire { unsafe old.deallocate() }
  }
}

/// The workers' view of `NATMemory`.
@safe @frozen public struct NATReader: @unchecked Sendable {
  let vrfs: PointerTableReader
  let pools: PointerTableReader
  public let translations: TranslationTableReader
  @usableFromInline let anything: UnsafeMutableRawPointer

  init(
    vrfs: PointerTableReader, pools: PointerTableReader, translations: TranslationTableReader,
    anything: UnsafeMutableRawPointer
  ) {
    self.vrfs = vrfs
    self.pools = pools
    self.translations = translations
    unsafe self.anything = unsafe anything
  }

  /// No VRF has any address translation.
  @inlinable @inline(__always) public var isEmpty: Bool { unsafe weft_load_relaxed_u32(anything) == 0 }

  public func vrf(_ vrf: UInt32) -> EntryReference<VRFTranslation>? {
    guard let raw = unsafe vrfs[vrf] else { return nil }
    return unsafe EntryReference(raw)
  }

  public func pool(_ id: UInt32) -> EntryReference<PortPoolEntry>? {
    guard let raw = unsafe pools[id] else { return nil }
    return unsafe EntryReference(raw)
  }

  /// The service or destination NAT that packets to an address and port of a VRF meet.
  public func service(
    vrf: UInt32, address: IPAddress, proto: UInt8, port: UInt16
  ) -> EntryReference<TranslationEntry>? {
    guard let summary = self.vrf(vrf), summary.entry.hasDestinations else { return nil }
    return translations.find(TranslationKey(.destination, vrf: vrf, address: address, proto: proto, port: port))
  }
}
