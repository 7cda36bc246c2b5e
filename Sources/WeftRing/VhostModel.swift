/// Where the front end of a port of kind vhost-user is. Others have the default.
public struct VhostConfiguration: Hashable, Sendable {
  /// What a Unix socket's address has room for (sun_path, with its end).
  public static let maximumSocketBytes = 107

  /// The path of the Unix socket, in the forwarder's file system.
  public var socket: String
  /// The front end (QEMU) listens there, and the forwarder connects; else the reverse.
  public var frontEndListens: Bool

  public init(socket: String = "", frontEndListens: Bool = false) {
    self.socket = socket
    self.frontEndListens = frontEndListens
  }

  /// What cannot be.
  public var fault: String? {
    let bytes = socket.utf8
    guard bytes.first == UInt8(ascii: "/"), bytes.count <= Self.maximumSocketBytes, !bytes.contains(0) else {
      return "a socket of vhost-user is an absolute path of at most \(Self.maximumSocketBytes) bytes"
    }
    return nil
  }
}

extension SlotWriter {
  mutating func put(_ vhost: VhostConfiguration) {
    put(vhost.socket, maximum: VhostConfiguration.maximumSocketBytes)
    put(UInt8(vhost.frontEndListens ? 1 : 0))
  }
}

extension SlotReader {
  mutating func vhost() throws(SlotFault) -> VhostConfiguration {
    VhostConfiguration(
      socket: try text("vhost-user socket", maximum: VhostConfiguration.maximumSocketBytes),
      frontEndListens: try flag("vhost-user mode"))
  }
}
