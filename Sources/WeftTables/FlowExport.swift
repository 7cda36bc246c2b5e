import CLinux
import WeftSystem
import WeftWire

/// Which flows workers tell of, and how often. 64 bits, so that they are read and written as one.
@frozen public struct FlowExportSettings: Hashable, Sendable {
  @usableFromInline let bits: UInt64

  /// `perSecond`: events of a worker, 0 for none. `sample`: one flow of so many, by its key; 0 for those alone that a rule
  /// logs. `updateSeconds`: how often a flow that goes on is told of; 0 for never.
  public init(perSecond: UInt32, sample: UInt32, updateSeconds: UInt32) {
    bits =
      UInt64(min(perSecond, 0xF_FFFF)) | UInt64(min(updateSeconds, 0xFFFF)) << 20
      | UInt64(min(sample, 0xFFF_FFFF)) << 36
  }

  @inlinable init(bits: UInt64) { self.bits = bits }

  @inlinable @inline(__always) public var isOn: Bool { perSecond != 0 }
  @inlinable @inline(__always) public var perSecond: UInt64 { bits & 0xF_FFFF }
  @inlinable @inline(__always) public var updateSeconds: UInt64 { bits >> 20 & 0xFFFF }
  /// More flows than those that a rule logs.
  @inlinable @inline(__always) public var takesUnlogged: Bool { bits >> 36 != 0 }

  /// Whether a flow is told of, from its beginning to its end: what decides does not change. `hash` is that of its forward
  /// key.
  @inlinable @inline(__always) public func takes(_ flags: FlowFlags, hash: UInt64) -> Bool {
    flags.contains(.logged) || takesUnlogged && (hash >> 32 &* (bits >> 36)) >> 32 == 0
  }
}

/// The settings in force, where workers find them.
@safe public final class FlowExportCell: @unchecked Sendable {
  private let memory: UnsafeMutablePointer<UInt64>

  public init() {
    unsafe memory = .allocate(capacity: 1)
    unsafe memory.initialize(to: FlowExportSettings(perSecond: 0, sample: 0, updateSeconds: 0).bits)
  }

  deinit { unsafe memory.deallocate() }

  public func publish(_ settings: FlowExportSettings) { unsafe weft_store_release_u64(memory, settings.bits) }
  public var reader: FlowExportReader { unsafe FlowExportReader(memory: memory) }
}

@safe @frozen public struct FlowExportReader: @unchecked Sendable {
  @usableFromInline let memory: UnsafeMutablePointer<UInt64>

  init(memory: UnsafeMutablePointer<UInt64>) { unsafe self.memory = unsafe memory }

  @inlinable @inline(__always) public var settings: FlowExportSettings {
    FlowExportSettings(bits: unsafe weft_load_relaxed_u64(memory))
  }
}

/// What a worker tells of a flow.
public struct FlowEvent: Sendable {
  public enum Kind: UInt8, Sendable, CaseIterable {
    case started = 1
    /// It goes on, or policy says something else of it.
    case updated
    case ended
  }

  public var kind: Kind
  /// Events that the worker has not told of since the last one that it did.
  public var missed: UInt32
  /// How far the flow has got: `reason` and `ended` mean something when it has ended.
  public var flow: FlowEnd

  public init(kind: Kind, missed: UInt32, flow: FlowEnd) {
    self.kind = kind
    self.missed = missed
    self.flow = flow
  }
}

extension FlowTable {
  /// How far a flow has got, given either of its entries.
  public func progress(_ index: UInt32, now: UInt64) -> FlowEnd { end(forwardIndex(index), .aged, now) }

  /// The next flow from entry `position` on, its forward entry, within `limit` entries; where to go on, 0 at the end.
  public func next(from position: inout UInt32, limit: inout Int) -> UInt32 {
    while limit > 0, position < highWater {
      let index = position
      position &+= 1
      limit &-= 1
      if unsafe entries[Int(index)].flags.isSuperset(of: [.inUse, .forward]) { return index }
    }
    return Self.none
  }

  /// Entries that have ever been in use: how far `next` goes.
  public var extent: UInt32 { highWater }
}
