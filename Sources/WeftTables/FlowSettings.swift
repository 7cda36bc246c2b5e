import CLinux
import WeftSystem
import WeftWire

/// What is asked of TCP segments, by their flags and the state of their connection; sequence numbers are not looked at.
@frozen public enum TCPStrictness: UInt8, Sendable, CaseIterable {
  /// Any segment begins a flow that a TCP could send: connections outlive a restart of the forwarder.
  case liberal = 0
  /// Only a SYN does.
  case opened
  /// And a segment that does not fit the state of its connection is dropped (`TCPState.isStray`).
  case strict
}

/// How flows are kept.
public struct FlowSettings: Equatable, Sendable {
  public var tcp = TCPStrictness.liberal
  public var timeouts = FlowTimeouts()

  public init() {}
}

/// The settings in force, where workers find them. One writer; readers find out that they have changed by the version.
@safe public final class FlowSettingsCell: @unchecked Sendable {
  private static let words = 2 + FlowTimeout.allCases.count
  private let memory: UnsafeMutablePointer<UInt64>

  public init() {
    unsafe memory = .allocate(capacity: Self.words)
    unsafe memory.initialize(repeating: 0, count: Self.words)
    publish(FlowSettings())
  }

  deinit { unsafe memory.deallocate() }

  /// Version in the first word: odd while the others are being written.
  public func publish(_ settings: FlowSettings) {
    let version = unsafe weft_load_relaxed_u64(memory)
    unsafe weft_store_relaxed_u64(memory, version &+ 1)
    weft_fence()
    unsafe weft_store_relaxed_u64(memory + 1, UInt64(settings.tcp.rawValue))
    for kind in FlowTimeout.allCases {
      unsafe weft_store_relaxed_u64(memory + 2 + Int(kind.rawValue), settings.timeouts[kind])
    }
    unsafe weft_store_release_u64(memory, version &+ 2)
  }

  public var reader: FlowSettingsReader { unsafe FlowSettingsReader(memory: memory) }
}

@safe @frozen public struct FlowSettingsReader: @unchecked Sendable {
  @usableFromInline let memory: UnsafeMutablePointer<UInt64>

  init(memory: UnsafeMutablePointer<UInt64>) { unsafe self.memory = unsafe memory }

  /// Another one than that of the settings that are known: they have changed, or are being changed.
  @inlinable @inline(__always) public var version: UInt64 { unsafe weft_load_relaxed_u64(memory) }

  /// The settings and their version; nil while they are being changed.
  public func read() -> (settings: FlowSettings, version: UInt64)? {
    let version = unsafe weft_load_acquire_u64(memory)
    guard version & 1 == 0 else { return nil }
    var settings = FlowSettings()
    settings.tcp =
      TCPStrictness(rawValue: UInt8(truncatingIfNeeded: unsafe weft_load_relaxed_u64(memory + 1))) ?? .liberal
    for kind in FlowTimeout.allCases {
      settings.timeouts[kind] = unsafe weft_load_relaxed_u64(memory + 2 + Int(kind.rawValue))
    }
    weft_acquire_fence()
    return unsafe weft_load_relaxed_u64(memory) == version ? (settings, version) : nil
  }
}

extension FlowTable {
  /// The settings for flows that begin from here on, and, as far as times go, for those that are there.
  public mutating func adopt(_ settings: FlowSettings) {
    tcp = settings.tcp
    if timeouts != settings.timeouts { timeouts = settings.timeouts }
  }

  /// The segment is one to be dropped, as strict as this table is. The index is one that `find` gave.
  @inline(__always) public func isStray(_ index: UInt32, tcpFlags: UInt8) -> Bool {
    tcp == .strict && TCPState.isStray(self[index].tcpState, tcpFlags, isForward: self[index].isForward)
  }
}
