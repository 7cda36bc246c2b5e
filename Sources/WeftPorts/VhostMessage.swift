import CLinux
import Glibc
import WeftSystem

/// What front ends ask (QEMU's docs/interop/vhost-user.rst, "Front-end message types").
enum VhostRequest: UInt32 {
  case getFeatures = 1
  case setFeatures
  case setOwner
  case resetOwner
  case setMemoryTable
  case setLogBase
  case setLogDescriptor
  case setRingSize
  case setRingAddresses
  case setRingBase
  case getRingBase
  case setRingKick
  case setRingCall
  case setRingError
  case getProtocolFeatures
  case setProtocolFeatures
  case getQueueCount
  case setRingEnable
  case sendRARP
  case setMTU
}

/// A message: request 4, flags 4 (version 1 in two bits, 4 it is a reply, 8 a reply is wanted), size 4, then so many bytes.
struct VhostMessage {
  static let headerBytes = 12
  /// The largest that is known is a memory table of eight regions.
  static let maximumBytes = 8 + VhostMemory.maximumRegions * 32
  static let version: UInt32 = 1
  static let reply: UInt32 = 4
  static let wantsReply: UInt32 = 8

  var request: UInt32
  var flags: UInt32
  var body: [UInt8] = []

  func u32(_ offset: Int) -> UInt32 {
    unsafe body.withUnsafeBytes { unsafe $0.loadUnaligned(fromByteOffset: offset, as: UInt32.self) }
  }
  func u64(_ offset: Int) -> UInt64 {
    unsafe body.withUnsafeBytes { unsafe $0.loadUnaligned(fromByteOffset: offset, as: UInt64.self) }
  }
}

/// A front end's socket: messages in pieces or many at once, each with its descriptors.
struct VhostSocket: ~Copyable {
  private let socket: Descriptor
  private var header: [UInt8] = []
  private var body: [UInt8] = []
  private var descriptors: [Int32] = []

  var raw: Int32 { socket.raw }

  init(_ socket: consuming Descriptor) { self.socket = socket }

  deinit { for descriptor in descriptors { _ = close(descriptor) } }

  enum Outcome {
    case nothing
    case ended
    /// The descriptors are the taker's to close.
    case message(VhostMessage, [Int32])
  }

  mutating func next() throws(VhostFault) -> Outcome {
    while true {
      let isHeader = header.count < VhostMessage.headerBytes
      let size = isHeader ? VhostMessage.headerBytes : Int(Self.word(header, 8))
      let missing = size - (isHeader ? header.count : body.count)
      if missing == 0 {
        let message = VhostMessage(request: Self.word(header, 0), flags: Self.word(header, 4), body: body)
        let taken = descriptors
        header = []
        body = []
        descriptors = []
        return .message(message, taken)
      }
      var buffer = [UInt8](repeating: 0, count: missing)
      var received = [Int32](repeating: -1, count: 8)
      var number: Int32 = 0
      let count = unsafe weft_receive_fds(socket.raw, &buffer, missing, &received, &number)
      descriptors += received.prefix(Int(number))
      guard descriptors.count <= VhostMemory.maximumRegions else {
        throw VhostFault("a message has too many descriptors")
      }
      if count < 0 { return errno == EAGAIN || errno == EINTR ? .nothing : .ended }
      guard count > 0 else { return .ended }
      guard isHeader else {
        body += buffer.prefix(count)
        continue
      }
      header += buffer.prefix(count)
      guard header.count == VhostMessage.headerBytes else { continue }
      guard Self.word(header, 4) & 3 == VhostMessage.version else {
        throw VhostFault("a message is of version \(Self.word(header, 4) & 3) of the protocol, not 1")
      }
      guard Self.word(header, 8) <= VhostMessage.maximumBytes else {
        throw VhostFault("a message (request \(Self.word(header, 0))) has \(Self.word(header, 8)) bytes")
      }
    }
  }

  private static func word(_ bytes: [UInt8], _ offset: Int) -> UInt32 {
    unsafe bytes.withUnsafeBytes { unsafe $0.loadUnaligned(fromByteOffset: offset, as: UInt32.self) }
  }

  /// Sends an answer. Who does not take it is not waited for.
  func answer(_ message: VhostMessage, _ body: [UInt8]) throws(VhostFault) {
    var bytes: [UInt8] = []
    for word in [message.request, VhostMessage.version | VhostMessage.reply, UInt32(body.count)] {
      for shift in stride(from: 0, to: 32, by: 8) { bytes.append(UInt8(truncatingIfNeeded: word >> shift)) }
    }
    bytes += body
    guard unsafe send(socket.raw, bytes, bytes.count, Int32(MSG_NOSIGNAL)) == bytes.count else {
      throw VhostFault("its answers are not taken")
    }
  }

  func answer(_ message: VhostMessage, _ value: UInt64) throws(VhostFault) {
    try answer(message, (0..<8).map { UInt8(truncatingIfNeeded: value >> ($0 * 8)) })
  }
}
