import CLinux

/// Where a packet path counts. Plain 64-bit counters with one writer, whose memory is somebody else's: a worker's part
/// of the statistics region, or a replay's own.
@safe public struct Counters: @unchecked Sendable {
  /// Bytes of an interface's counters: rx packets, rx bytes, tx packets, tx bytes, drops, 8 bytes each; at 48
  /// packets left to the agent.
  public static let interfaceBytes = 64

  let drops: UnsafeMutableRawPointer
  let interfaces: UnsafeMutableRawPointer
  let interfaceCount: Int

  /// `drops`: 8 bytes for each `DropReason`. `interfaces`: `interfaceBytes` for each interface.
  public init(drops: UnsafeMutableRawPointer, interfaces: UnsafeMutableRawPointer, interfaceCount: Int) {
    unsafe self.drops = unsafe drops
    unsafe self.interfaces = unsafe interfaces
    self.interfaceCount = interfaceCount
  }

  @inline(__always) public func received(_ interface: UInt32, packets: Int, bytes: Int) {
    add(interface, 0, packets)
    add(interface, 8, bytes)
  }

  @inline(__always) public func sent(_ interface: UInt32, packets: Int, bytes: Int) {
    add(interface, 16, packets)
    add(interface, 24, bytes)
  }

  /// Counts packets that came in by `interface` and went no further.
  @inline(__always) public func dropped(_ reason: DropReason, _ interface: UInt32, packets: Int) {
    unsafe weft_count(drops + Int(reason.rawValue) &* 8, UInt64(truncatingIfNeeded: packets))
    add(interface, 32, packets)
  }

  /// Counts a packet that came in by `interface` and was left to the agent.
  func trapped(_ interface: UInt32) { add(interface, 48, 1) }

  /// Counts packets that the port of `interface` did not take.
  public func unsent(_ reason: DropReason, packets: Int) {
    unsafe weft_count(drops + Int(reason.rawValue) &* 8, UInt64(truncatingIfNeeded: packets))
  }

  @inline(__always) private func add(_ interface: UInt32, _ field: Int, _ value: Int) {
    let slot = Int(interface)
    guard slot < interfaceCount else { return }
    let at = slot &* Self.interfaceBytes &+ field
    unsafe weft_count(interfaces + at, UInt64(truncatingIfNeeded: value))
  }
}
