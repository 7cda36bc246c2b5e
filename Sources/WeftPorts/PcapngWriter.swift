import Glibc
import WeftSystem

/// Writes Ethernet frames as pcapng (draft-ietf-opsawg-pcapng): a section, an interface block for each interface when
/// its first frame comes, frames with direction and comment, statistics at the end. Times have nanoseconds.
public struct PcapngWriter {
  public enum Direction: UInt32, Sendable {
    case unknown = 0
    case inbound = 1
    case outbound = 2
  }

  private let descriptor: Int32
  private let path: String
  private let snap: UInt32
  private var buffer: [UInt8] = []
  /// The block's number of each interface.
  private var numbers: [UInt32: UInt32] = [:]
  private var order: [UInt32] = []
  private var counts: [UInt32: UInt64] = [:]
  private var start: UInt64?
  private var end: UInt64 = 0

  private enum Block {
    static let section: UInt32 = 0x0A0D_0D0A
    static let interface: UInt32 = 1
    static let statistics: UInt32 = 5
    static let packet: UInt32 = 6
  }
  private static let flushBytes = 1 << 16

  /// Writes to a descriptor that stays open as long as this is used. `path` is for error messages.
  public init(descriptor: Int32, path: String, application: String, snap: UInt32) {
    self.descriptor = descriptor
    self.path = path
    self.snap = snap
    var body: [UInt8] = []
    Self.put(UInt32(0x1A2B_3C4D), &body)
    Self.put(UInt16(1), &body)
    Self.put(UInt16(0), &body)
    // The section's length is not known beforehand.
    Self.put(UInt64.max, &body)
    Self.option(4, Array(application.utf8), &body)
    Self.option(0, [], &body)
    block(Block.section, body)
  }

  /// Adds a frame. `name` is the interface's, asked for when its first frame comes. `time`: ns since 1970.
  public mutating func write(
    _ frame: UnsafeRawBufferPointer, length: Int, interface: UInt32, name: (UInt32) -> String, time: UInt64,
    direction: Direction, comment: String? = nil
  ) throws(PcapError) {
    let number = numbers[interface] ?? describe(interface, name(interface))
    if start == nil { start = time }
    end = max(end, time)
    counts[interface, default: 0] += 1
    var body: [UInt8] = []
    body.reserveCapacity(frame.count + 64)
    Self.put(number, &body)
    Self.put(UInt32(truncatingIfNeeded: time >> 32), &body)
    Self.put(UInt32(truncatingIfNeeded: time), &body)
    Self.put(UInt32(frame.count), &body)
    Self.put(UInt32(length), &body)
    unsafe body.append(contentsOf: frame)
    Self.pad(&body)
    if let comment { Self.option(1, Array(comment.utf8), &body) }
    if direction != .unknown {
      var flags: [UInt8] = []
      Self.put(direction.rawValue, &flags)
      Self.option(2, flags, &body)
    }
    if comment != nil || direction != .unknown { Self.option(0, [], &body) }
    block(Block.packet, body)
    if buffer.count >= Self.flushBytes { try flush() }
  }

  private mutating func describe(_ interface: UInt32, _ name: String) -> UInt32 {
    let number = UInt32(order.count)
    numbers[interface] = number
    order.append(interface)
    var body: [UInt8] = []
    // LINKTYPE_ETHERNET.
    Self.put(UInt16(1), &body)
    Self.put(UInt16(0), &body)
    Self.put(snap, &body)
    Self.option(2, Array(name.utf8), &body)
    Self.option(3, Array("Weft interface \(interface)".utf8), &body)
    // Nanoseconds: ten to the minus ninth of a second.
    Self.option(9, [9], &body)
    Self.option(0, [], &body)
    block(Block.interface, body)
    return number
  }

  /// Writes what is there.
  public mutating func flush() throws(PcapError) {
    var offset = 0
    while offset < buffer.count {
      let sent = unsafe buffer.withUnsafeBytes { bytes in
        unsafe Glibc.write(descriptor, bytes.baseAddress! + offset, bytes.count - offset)
      }
      if sent >= 0 {
        offset += sent
      } else if errno == EAGAIN {
        var wait = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
        _ = unsafe poll(&wait, 1, -1)
      } else if errno != EINTR {
        throw PcapError(path: path, reason: SystemError.text(errno))
      }
    }
    buffer.removeAll(keepingCapacity: true)
  }

  /// Ends the file with statistics. `lost`: frames for which there was no room, of all interfaces.
  public mutating func finish(lost: UInt64) throws(PcapError) {
    for (number, interface) in order.enumerated() {
      var body: [UInt8] = []
      Self.put(UInt32(number), &body)
      Self.put(UInt32(truncatingIfNeeded: end >> 32), &body)
      Self.put(UInt32(truncatingIfNeeded: end), &body)
      for (code, value) in [(2, start ?? end), (3, end)] as [(UInt16, UInt64)] {
        var time: [UInt8] = []
        Self.put(UInt32(truncatingIfNeeded: value >> 32), &time)
        Self.put(UInt32(truncatingIfNeeded: value), &time)
        Self.option(code, time, &body)
      }
      // Received; those lost are told once, with the first interface: a worker does not tell whose they were.
      for (code, value) in [
        (4, (counts[interface] ?? 0) + (number == 0 ? lost : 0)), (5, number == 0 ? lost : 0),
        (8, counts[interface] ?? 0),
      ] as [(UInt16, UInt64)] {
        var bytes: [UInt8] = []
        Self.put(value, &bytes)
        Self.option(code, bytes, &body)
      }
      Self.option(0, [], &body)
      block(Block.statistics, body)
    }
    try flush()
  }

  // MARK: format

  private mutating func block(_ type: UInt32, _ body: [UInt8]) {
    let length = UInt32(body.count + 12)
    Self.put(type, &buffer)
    Self.put(length, &buffer)
    buffer += body
    Self.put(length, &buffer)
  }

  private static func put<T: FixedWidthInteger>(_ value: T, _ bytes: inout [UInt8]) {
    var rest = value.littleEndian
    unsafe withUnsafeBytes(of: &rest) { unsafe bytes.append(contentsOf: $0) }
  }

  /// Options and packets end at a multiple of 4.
  private static func pad(_ bytes: inout [UInt8]) { while bytes.count % 4 != 0 { bytes.append(0) } }

  private static func option(_ code: UInt16, _ value: [UInt8], _ bytes: inout [UInt8]) {
    put(code, &bytes)
    put(UInt16(value.count), &bytes)
    bytes += value
    pad(&bytes)
  }
}
