import CLinux
import Glibc
import Synchronization
import WeftSystem
import WeftWire

/// A NETLINK_ROUTE socket: reads and changes links, addresses, routes and neighbors of one network namespace, the one
/// that it was opened in, whichever the calling thread is in later. Calls may come from any thread; they wait for one
/// another. Each blocks for as long as the kernel takes, which is microseconds.
public final class Netlink: Sendable {
  private let descriptor: Descriptor
  private let sequence = Mutex<UInt32>(0)

  /// A socket in the calling thread's network namespace.
  public convenience init() throws(NetlinkError) { try self.init(Self.open()) }

  /// A socket in another network namespace; the calling thread stays where it is.
  public convenience init(in namespace: borrowing NetworkNamespace) throws(NetlinkError) {
    let raw: Int32
    do {
      raw = try namespace.run { try Self.openRaw() }
    } catch {
      throw error as? NetlinkError ?? NetlinkError("open", "a netlink route socket", code: EIO)
    }
    self.init(Descriptor(owning: raw))
  }

  private init(_ descriptor: consuming Descriptor) {
    self.descriptor = descriptor
    // Filters of dumps are honoured (and nonsense in requests is refused) from Linux 4.20 on.
    Self.option(self.descriptor.raw, NETLINK_GET_STRICT_CHK, 1)
    Self.option(self.descriptor.raw, NETLINK_EXT_ACK, 1)
    Self.option(self.descriptor.raw, NETLINK_CAP_ACK, 1)
    // The kernel always answers; the limit keeps a defect from turning into a hang.
    var limit = timeval(tv_sec: 10, tv_usec: 0)
    _ = unsafe setsockopt(self.descriptor.raw, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
  }

  static func open() throws(NetlinkError) -> Descriptor { try Descriptor(owning: openRaw()) }

  private static func openRaw() throws(NetlinkError) -> Int32 {
    let raw = socket(AF_NETLINK, Int32(SOCK_RAW.rawValue) | Int32(SOCK_CLOEXEC.rawValue), NETLINK_ROUTE)
    guard raw >= 0 else { throw NetlinkError("open", "a netlink route socket") }
    return raw
  }

  static func option(_ descriptor: Int32, _ name: Int32, _ value: Int32) {
    var value = value
    _ = unsafe setsockopt(descriptor, SOL_NETLINK, name, &value, 4)
  }

  /// Sends a request and collects the messages that answer it, the acknowledgement left out.
  /// A dump that changed while it was read is asked for again.
  @discardableResult
  func exchange(_ request: Request, _ operation: String, _ object: String) throws(NetlinkError) -> [Message] {
    for _ in 0..<16 {
      let answer = sequence.withLock { next in
        next &+= 1
        return Self.transact(descriptor.raw, request.sealed(sequence: next), next, operation, object)
      }
      if let messages = try answer.get() { return messages }
    }
    throw NetlinkError(operation, object, code: EAGAIN, kernelText: "the list changed each time it was read")
  }

  /// Nil: the dump was interrupted by a change (NLM_F_DUMP_INTR).
  private static func transact(
    _ descriptor: Int32, _ bytes: [UInt8], _ sequence: UInt32, _ operation: String, _ object: String
  ) -> Result<[Message]?, NetlinkError> {
    guard unsafe send(descriptor, bytes, bytes.count, 0) == bytes.count else {
      return .failure(NetlinkError(operation, object))
    }
    var messages: [Message] = []
    var interrupted = false
    while true {
      let received: [Message]
      do { received = try receive(descriptor, operation, object) } catch { return .failure(error) }
      for message in received where message.sequence == sequence {
        interrupted = interrupted || message.flags & UInt16(NLM_F_DUMP_INTR) != 0
        switch Int32(message.type) {
        case NLMSG_ERROR, NLMSG_DONE:
          let code = message.payload.host(UInt32.self, at: 0).map { -Int32(bitPattern: $0) } ?? 0
          if code > 0 {
            return .failure(NetlinkError(operation, object, code: code, kernelText: kernelText(message)))
          }
          return .success(interrupted ? nil : messages)
        case NLMSG_NOOP: continue
        default: messages.append(message)
        }
      }
    }
  }

  /// What one read brings; what does not come from the kernel is thrown away.
  static func receive(
    _ descriptor: Int32, _ operation: String, _ object: String, flags: Int32 = 0
  ) throws(NetlinkError) -> [Message] {
    // The kernel fills at most 32 KiB a read of a dump (linux/netlink.h NLMSG_GOODSIZE and its use in af_netlink.c).
    var buffer = [UInt8](repeating: 0, count: 65536)
    while true {
      var sender = sockaddr_nl()
      var size = socklen_t(MemoryLayout<sockaddr_nl>.size)
      let count = unsafe withUnsafeMutablePointer(to: &sender) { pointer in
        unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
          unsafe recvfrom(descriptor, &buffer, buffer.count, flags, $0, &size)
        }
      }
      if count < 0 {
        if errno == EINTR { continue }
        throw NetlinkError(operation, object)
      }
      guard sender.nl_pid == 0 else { continue }
      return Message.split(buffer.prefix(count))
    }
  }

  /// The text of an extended acknowledgement.
  private static func kernelText(_ message: Message) -> String? {
    guard Int32(message.type) == NLMSG_ERROR, message.flags & UInt16(NLM_F_ACK_TLVS) != 0 else { return nil }
    // errno, then the request's header, with the rest of the request where it was not capped.
    var fixed = 4 + Request.headerBytes
    if message.flags & UInt16(NLM_F_CAPPED) == 0, let length = message.payload.host(UInt32.self, at: 4) {
      fixed = 4 + Int(length)
    }
    return message.attributes(after: fixed).text(Int(NLMSGERR_ATTR_MSG.rawValue))
  }
}
