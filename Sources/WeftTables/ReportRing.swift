import CLinux
import WeftSystem
import WeftWire

/// What a worker tells the control thread about: it has seen something that the tables should know.
public struct Report: Hashable, Sendable {
  public enum Kind: UInt32, Sendable {
    /// A MAC address behind an interface.
    case station = 1
    /// A MAC address behind the tunnel that ends at `address`, which sends with the VNI `label`.
    case remoteStation
    /// Somebody of the VRF sends to `address`, on the subnet of `interface`, whose MAC address is not known.
    case resolve
  }

  public var kind: Kind
  public var vrf: UInt32
  public var interface: UInt32
  public var label: UInt32
  public var mac: UInt64
  public var address: IPAddress
  /// CLOCK_MONOTONIC, ns.
  public var time: UInt64

  public init(
    kind: Kind, vrf: UInt32, interface: UInt32 = 0, label: UInt32 = 0, mac: UInt64 = 0,
    address: IPAddress = IPAddress(high: 0, low: 0), time: UInt64
  ) {
    self.kind = kind
    self.vrf = vrf
    self.interface = interface
    self.label = label
    self.mac = mac
    self.address = address
    self.time = time
  }
}

/// Reports of one worker on their way to the control thread: one writer, one reader, neither waits for the other. What
/// finds no room is not written; whoever reports does so again.
public final class ReportRing: @unchecked Sendable {
  static let slots: UInt64 = 4096
  static let slotBytes = 64
  private let memory: Mapping
  private var taken: UInt64 = 0

  public init() throws(SystemError) {
    memory = try Mapping(anonymous: 128 + Int(Self.slots) * Self.slotBytes, what: "workers' reports")
  }

  /// The worker's end. Good for as long as this lives.
  public var writer: ReportWriter { unsafe ReportWriter(base: memory.base) }

  /// The next report; nil when none waits.
  public func next() -> Report? {
    let written = unsafe weft_load_acquire_u64(memory.base)
    guard taken != written else { return nil }
    let at = unsafe memory.base + 128 + Int(taken & (Self.slots - 1)) * Self.slotBytes
    let report = unsafe at.load(as: Report.self)
    taken &+= 1
    unsafe weft_store_release_u64(memory.base + 64, taken)
    return report
  }
}

/// A worker's end of a `ReportRing`.
@safe public struct ReportWriter: @unchecked Sendable {
  private let base: UnsafeMutableRawPointer

  init(base: UnsafeMutableRawPointer) { unsafe self.base = unsafe base }

  /// False when there is no room.
  public func write(_ report: Report) -> Bool {
    let written = unsafe weft_load_relaxed_u64(base)
    guard written &- (unsafe weft_load_acquire_u64(base + 64)) < ReportRing.slots else { return false }
    let at = unsafe base + 128 + Int(written & (ReportRing.slots - 1)) &* ReportRing.slotBytes
    unsafe at.storeBytes(of: report, as: Report.self)
    unsafe weft_store_release_u64(base, written &+ 1)
    return true
  }
}
