import CLinux

/// How a channel's memory is laid out. Both ends use these numbers, not what the memory says; the header only lets
/// two versions find out that they differ.
///
///     0     magic 8, version 4, slot bytes 4, command slots 4, completion slots 4, event slot bytes 4, event slots 4
///     32    bytes in all 8, forwarder's pid 4, client's pid 4
///     64    forwarder's heartbeat (CLOCK_MONOTONIC, ns)        128  client's heartbeat
///     192   commands: written by the client                    256  commands: taken by the forwarder
///     320   completions: written by the forwarder              384  completions: taken by the client
///     448   events: written by the forwarder                   512  events: taken by the client
///     4096  command slots, completion slots, event slots
public enum RingLayout {
  public static let magic: UInt64 = 0x474E_4952_5446_4557  // "WEFTRING"
  public static let version: UInt32 = 5
  public static let slotBytes = 1024
  public static let commandSlots = 1024
  public static let completionSlots = 1024
  public static let eventSlotBytes = 2048
  public static let eventSlots = 256

  static let forwarderPID = 40
  static let clientPID = 44
  static let forwarderHeartbeat = 64
  static let clientHeartbeat = 128
  static let commands = 4096
  static let completions = commands + commandSlots * slotBytes
  static let events = completions + completionSlots * slotBytes
  public static let totalBytes = events + eventSlots * eventSlotBytes

  /// Messages in a ring whose producer's and consumer's positions stand there; nil: they make no sense.
  static func depth(_ base: UnsafeMutableRawPointer, head: Int, slots: Int) -> Int? {
    // In this order: the consumer never passes the producer, so that what is read second is not behind.
    let tail = unsafe weft_load_acquire_u64(base + head + 64)
    let waiting = unsafe weft_load_acquire_u64(base + head) &- tail
    // Between the two more may have been written and taken than fit.
    return waiting <= UInt64(slots) ? Int(waiting) : waiting < 1 << 32 ? slots : nil
  }

  static func commandRing(_ base: UnsafeMutableRawPointer) -> SPSCRing {
    unsafe SPSCRing(
      head: base + 192, tail: base + 256, slots: base + commands, slotBytes: slotBytes, slotCount: commandSlots)
  }

  static func completionRing(_ base: UnsafeMutableRawPointer) -> SPSCRing {
    unsafe SPSCRing(
      head: base + 320, tail: base + 384, slots: base + completions, slotBytes: slotBytes, slotCount: completionSlots)
  }

  static func eventRing(_ base: UnsafeMutableRawPointer) -> SPSCRing {
    unsafe SPSCRing(
      head: base + 448, tail: base + 512, slots: base + events, slotBytes: eventSlotBytes, slotCount: eventSlots)
  }

  static func writeHeader(_ base: UnsafeMutableRawPointer) {
    unsafe base.storeBytes(of: version, toByteOffset: 8, as: UInt32.self)
    unsafe base.storeBytes(of: UInt32(slotBytes), toByteOffset: 12, as: UInt32.self)
    unsafe base.storeBytes(of: UInt32(commandSlots), toByteOffset: 16, as: UInt32.self)
    unsafe base.storeBytes(of: UInt32(completionSlots), toByteOffset: 20, as: UInt32.self)
    unsafe base.storeBytes(of: UInt32(eventSlotBytes), toByteOffset: 24, as: UInt32.self)
    unsafe base.storeBytes(of: UInt32(eventSlots), toByteOffset: 28, as: UInt32.self)
    unsafe base.storeBytes(of: UInt64(totalBytes), toByteOffset: 32, as: UInt64.self)
    unsafe weft_store_release_u64(base, magic)
  }

  static func headerMatches(_ base: UnsafeMutableRawPointer) -> Bool {
    unsafe weft_load_acquire_u64(base) == magic && base.load(fromByteOffset: 8, as: UInt32.self) == version
      && base.load(fromByteOffset: 12, as: UInt32.self) == UInt32(slotBytes)
      && base.load(fromByteOffset: 16, as: UInt32.self) == UInt32(commandSlots)
      && base.load(fromByteOffset: 20, as: UInt32.self) == UInt32(completionSlots)
      && base.load(fromByteOffset: 24, as: UInt32.self) == UInt32(eventSlotBytes)
      && base.load(fromByteOffset: 28, as: UInt32.self) == UInt32(eventSlots)
      && base.load(fromByteOffset: 32, as: UInt64.self) == UInt64(totalBytes)
  }
}

/// What passes over the Unix socket once, at the start (SOCK_SEQPACKET): the client's hello, then the forwarder's
/// answer with five descriptors: the channel's memory, the statistics (read-only), and eventfds for commands,
/// completions and events.
enum Handshake {
  static let magic: UInt32 = 0x5446_4557  // "WEFT"
  static let descriptors = 5
  static let helloBytes = 16
  static let answerBytes = 16

  static let agent: UInt32 = 1
  static let observer: UInt32 = 2

  static let accepted: UInt32 = 0
  static let busy: UInt32 = 1
  static let incompatible: UInt32 = 2
  static let failed: UInt32 = 3
  static let notPermitted: UInt32 = 4
}
