import CLinux
import WeftSystem
import WeftWire

/// What a translation is looked up by.
@frozen public enum TranslationKind: UInt8, Sendable {
  /// An address, protocol and port that packets are sent to: a service, or a destination NAT.
  case destination = 1
  /// A whole address that stands for one inside: packets to it.
  case outside
  /// The address inside: packets from it.
  case inside
}

/// The key of a translation. 24 bytes, compared as three words.
@frozen public struct TranslationKey: Hashable, Sendable {
  public let address: IPAddress
  /// VRF 32 bits, port 16, protocol 8, kind 8, from the top.
  @usableFromInline let rest: UInt64

  /// `proto` and `port` are 0 for whole addresses.
  @inlinable public init(_ kind: TranslationKind, vrf: UInt32, address: IPAddress, proto: UInt8 = 0, port: UInt16 = 0) {
    self.address = address
    rest = UInt64(vrf) << 32 | UInt64(port) << 16 | UInt64(proto) << 8 | UInt64(kind.rawValue)
  }

  @inlinable public var vrf: UInt32 { UInt32(truncatingIfNeeded: rest >> 32) }
  @inlinable public var port: UInt16 { UInt16(truncatingIfNeeded: rest >> 16) }
  @inlinable public var proto: UInt8 { UInt8(truncatingIfNeeded: rest >> 8) }

  @inlinable var hash: UInt64 {
    Maglev.mix(address.high ^ Maglev.mix(address.low ^ rest &* 0xD6E8_FEB8_6659_FD93))
  }

  @inlinable func equals(_ other: TranslationKey) -> Bool {
    (address.high ^ other.address.high) | (address.low ^ other.address.low) | (rest ^ other.rest) == 0
  }
}

/// A server that a service leads to.
@frozen public struct ServiceBackend: Hashable, Sendable {
  public var address: IPAddress
  public var vrf: UInt32
  /// Which of the service's backends it is: stays while the backend does, whatever comes and goes beside it.
  public var number: UInt32
  public var port: UInt16
  public var weight: UInt32

  public init(address: IPAddress, vrf: UInt32, port: UInt16, number: UInt32, weight: UInt32 = 1) {
    self.address = address
    self.vrf = vrf
    self.number = number
    self.port = port
    self.weight = weight
  }

  /// Who it is, the same on every node.
  var identity: UInt64 {
    Maglev.mix(address.high ^ Maglev.mix(address.low ^ Maglev.mix(UInt64(vrf) << 16 | UInt64(port))))
  }
}

/// What is done with packets of a key. Never changed once published.
@frozen public struct TranslationEntry: Sendable {
  public let key: TranslationKey
  /// Where to: destination NAT, the inside address; for `inside` the outside one. Services: the source address of a
  /// hairpin (the service's own as a rule).
  public var target: IPAddress
  public var targetVRF: UInt32
  /// Destination NAT: 0 leaves the port.
  public var targetPort: UInt16 = 0
  public var isService = false
  /// Services: clients get an address of `pool` towards the backend.
  public var translatesSource = false
  public var pool: UInt32 = 0
  /// Services: which one, for affinity; differs between a service and one made later under its key.
  public var serial: UInt32 = 0
  /// Services: how long a client keeps its backend, ns; 0 without affinity.
  public var affinity: UInt64 = 0
  public internal(set) var backendCount = 0
  var choices = 0
  /// Where, from the entry's start, backends and the choice table lie.
  static let tail = 192

  /// A whole address or a port of it that stands for `target`.
  public init(key: TranslationKey, target: IPAddress, vrf: UInt32, port: UInt16 = 0) {
    self.key = key
    self.target = target
    targetVRF = vrf
    targetPort = port
  }
}

extension EntryReference<TranslationEntry> {
  private var backends: UnsafeMutablePointer<ServiceBackend> {
    unsafe (UnsafeMutableRawPointer(pointer) + TranslationEntry.tail).assumingMemoryBound(to: ServiceBackend.self)
  }

  /// The backend for a hash; nil where the service has none.
  public func backend(hash: UInt64) -> ServiceBackend? {
    let choices = entry.choices
    guard choices > 0 else { return nil }
    let table = unsafe UnsafeRawPointer(backends + entry.backendCount).assumingMemoryBound(to: UInt16.self)
    // The upper half of a product: as even as the remainder, without the division.
    let choice = Int(truncatingIfNeeded: hash.multipliedFullWidth(by: UInt64(choices)).high)
    return unsafe backends[Int(table[choice])]
  }

  /// The backend with a number, unless it gets nothing any more.
  public func backend(number: UInt32) -> ServiceBackend? {
    for index in 0..<entry.backendCount where unsafe backends[index].number == number {
      let backend = unsafe backends[index]
      return backend.weight > 0 ? backend : nil
    }
    return nil
  }
}

/// Translations by key: open addressing, one writer, readers without locks. A lookup is one probe as a rule: a slot
/// holds a tag and the entry's place, and at most half of the slots are taken.
///
///     slot      bits 48...63  tag, never 0
///               bits 0...47   address of the entry
///     0 is a free slot, 1 one that a removed entry left.
@safe public final class TranslationTable: @unchecked Sendable {
  @usableFromInline static let headerBytes = 64

  private let place: Mapping
  private let epochs: Epochs
  private var memory: UnsafeMutableRawPointer
  private var slots = 0
  private var used = 0
  public private(set) var count = 0
  /// Bytes of entries, with their backends and choice tables.
  public private(set) var entryBytes = 0

  public init(epochs: Epochs) throws(SystemError) {
    self.epochs = epochs
    place = try Mapping(anonymous: 64, what: "translations")
    (unsafe memory, slots) = unsafe Self.make(slots: 64)
    unsafe weft_store_release_ptr(place.base, memory)
  }

  deinit {
    for slot in 0..<slots {
      let word = unsafe weft_load_relaxed_u64(memory + Self.headerBytes + slot * 8)
      if word > 1 { unsafe Self.entry(word).deallocate() }
    }
    unsafe memory.deallocate()
  }

  public var reader: TranslationTableReader { unsafe TranslationTableReader(place: place.base) }

  private static func make(slots: Int) -> (UnsafeMutableRawPointer, Int) {
    let memory = UnsafeMutableRawPointer.allocate(byteCount: headerBytes + slots * 8, alignment: 64)
    unsafe memset(memory, 0, headerBytes + slots * 8)
    unsafe memory.storeBytes(of: UInt64(slots - 1), as: UInt64.self)
    return unsafe (memory, slots)
  }

  private static func entry(_ word: UInt64) -> UnsafeMutableRawPointer {
    // Addresses of a process have 47 bits (x86-64, and arm64 with 48-bit addresses).
    unsafe UnsafeMutableRawPointer(bitPattern: UInt(word & 0xFFFF_FFFF_FFFF)).unsafelyUnwrapped
  }

  /// Publishes an entry in place of what stands under its key. `backends` are a service's that get new flows.
  public func set(_ entry: TranslationEntry, backends: [ServiceBackend] = []) {
    let weights = backends.map { Maglev.Backend(identity: $0.identity, weight: $0.weight) }
    let active = weights.count { $0.weight > 0 }
    let choices = entry.isService && active > 0 ? Maglev.size(backends: active) : 0
    let bytes = Self.bytes(backends: backends.count, choices: choices)
    let raw = UnsafeMutableRawPointer.allocate(byteCount: bytes, alignment: 64)
    var made = entry
    made.backendCount = backends.count
    made.choices = choices
    unsafe raw.initializeMemory(as: TranslationEntry.self, to: made)
    let list = unsafe (raw + TranslationEntry.tail).bindMemory(to: ServiceBackend.self, capacity: backends.count)
    for (index, backend) in backends.enumerated() { unsafe (list + index).initialize(to: backend) }
    let table = unsafe UnsafeMutableRawPointer(list + backends.count).bindMemory(to: UInt16.self, capacity: choices)
    if choices > 0 { _ = unsafe Maglev.fill(UnsafeMutableBufferPointer(start: table, count: choices), weights) }
    unsafe publish(entry.key, raw)
    entryBytes += bytes
  }

  private static func bytes(backends: Int, choices: Int) -> Int {
    precondition(MemoryLayout<TranslationEntry>.size <= TranslationEntry.tail)
    return TranslationEntry.tail + backends * MemoryLayout<ServiceBackend>.stride + choices * 2
  }

  private func publish(_ key: TranslationKey, _ raw: UnsafeMutableRawPointer) {
    let hash = key.hash
    let word = UInt64(TranslationTableReader.tag(hash)) << 48 | UInt64(UInt(bitPattern: raw))
    if let slot = find(key, hash) {
      let old = unsafe weft_load_relaxed_u64(address(slot))
      unsafe weft_store_release_u64(address(slot), word)
      retire(old)
      return
    }
    if (used + 1) * 2 > slots { renew() }
    var slot = Int(hash & UInt64(slots - 1))
    while unsafe weft_load_relaxed_u64(address(slot)) > 1 { slot = (slot + 1) & (slots - 1) }
    if unsafe weft_load_relaxed_u64(address(slot)) == 0 { used += 1 }
    unsafe weft_store_release_u64(address(slot), word)
    count += 1
  }

  public func remove(_ key: TranslationKey) {
    guard let slot = find(key, key.hash) else { return }
    let old = unsafe weft_load_relaxed_u64(address(slot))
    // Before a free slot no mark is needed.
    let next = unsafe weft_load_relaxed_u64(address((slot + 1) & (slots - 1)))
    unsafe weft_store_release_u64(address(slot), next == 0 ? 0 : 1)
    if next == 0 { used -= 1 }
    count -= 1
    retire(old)
  }

  private func address(_ slot: Int) -> UnsafeMutableRawPointer { unsafe memory + Self.headerBytes + slot * 8 }

  private func find(_ key: TranslationKey, _ hash: UInt64) -> Int? {
    var slot = Int(hash & UInt64(slots - 1))
    while true {
      let word = unsafe weft_load_relaxed_u64(address(slot))
      if word == 0 { return nil }
      if word > 1, unsafe Self.entry(word).assumingMemoryBound(to: TranslationEntry.self).pointee.key == key {
        return slot
      }
      slot = (slot + 1) & (slots - 1)
    }
  }

  private func retire(_ word: UInt64) {
    let entry = unsafe Self.entry(word)
    let old = unsafe EntryReference<TranslationEntry>(entry)
    entryBytes -= Self.bytes(backends: old.entry.backendCount, choices: old.entry.choices)
    epochs.retire { unsafe entry.deallocate() }
  }

  /// Moves all entries into slots without marks, of which a quarter is taken.
  private func renew() {
    let old = unsafe memory
    let oldSlots = slots
    var wanted = 64
    while wanted < (count + 1) * 4 { wanted *= 2 }
    let (new, newSlots) = unsafe Self.make(slots: wanted)
    unsafe memory = unsafe new
    slots = newSlots
    for slot in 0..<oldSlots {
      let word = unsafe weft_load_relaxed_u64(old + Self.headerBytes + slot * 8)
      guard word > 1 else { continue }
      let key = unsafe Self.entry(word).assumingMemoryBound(to: TranslationEntry.self).pointee.key
      var target = Int(key.hash & UInt64(slots - 1))
      while unsafe weft_load_relaxed_u64(address(target)) != 0 { target = (target + 1) & (slots - 1) }
      unsafe weft_store_relaxed_u64(address(target), word)
    }
    used = count
    unsafe weft_store_release_ptr(place.base, memory)
    epochs.retire { unsafe old.deallocate() }
  }
}

/// The workers' view of `TranslationTable`.
@safe @frozen public struct TranslationTableReader: @unchecked Sendable {
  private let place: UnsafeMutableRawPointer

  init(place: UnsafeMutableRawPointer) { unsafe self.place = unsafe place }

  static func tag(_ hash: UInt64) -> UInt16 {
    let tag = UInt16(truncatingIfNeeded: hash >> 48)
    return tag == 0 ? 1 : tag
  }

  public func find(_ key: TranslationKey) -> EntryReference<TranslationEntry>? {
    let hash = key.hash
    let tag = UInt64(Self.tag(hash))
    let memory = unsafe weft_load_acquire_ptr(place).unsafelyUnwrapped
    let mask = unsafe memory.load(as: UInt64.self)
    var slot = hash & mask
    for _ in 0...mask {
      let word = unsafe weft_load_acquire_u64(
        memory + TranslationTable.headerBytes + Int(truncatingIfNeeded: slot) &* 8)
      if word >> 48 == tag {
        let raw = unsafe UnsafeMutableRawPointer(bitPattern: UInt(word & 0xFFFF_FFFF_FFFF)).unsafelyUnwrapped
        let entry = unsafe EntryReference<TranslationEntry>(raw)
        if entry.entry.key.equals(key) { return entry }
      } else if word == 0 {
        return nil
      }
      slot = (slot &+ 1) & mask
    }
    return nil
  }
}
