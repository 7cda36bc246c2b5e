import Glibc
import NIOCore
import WeftNetlink
import WeftWire

/// Sockets of services: bound to an address and an interface of the namespace that the calling thread is in.
enum ServiceSocket {
  struct Failure: Error, CustomStringConvertible {
    let description: String
  }

  /// A stream socket listens.
  static func open(_ address: IPAddress, port: Int, device: String, isStream: Bool) throws -> Int32 {
    let what = "\(isStream ? "TCP" : "UDP") \(address) port \(port) on \(device)"
    let kind = Int32((isStream ? SOCK_STREAM : SOCK_DGRAM).rawValue) | Int32(SOCK_CLOEXEC.rawValue)
    let socket = socket(address.isV4 ? AF_INET : AF_INET6, kind | Int32(SOCK_NONBLOCK.rawValue), 0)
    guard socket >= 0 else { throw Failure(description: "cannot open a socket for \(what): \(reason())") }
    do {
      try set(socket, SOL_SOCKET, SO_REUSEADDR, what)
      if !address.isV4 { try set(socket, Int32(IPPROTO_IPV6), IPV6_V6ONLY, what) }
      // Its packets go and come by this interface only, whoever else has the same addresses elsewhere.
      let status = device.withCString {
        setsockopt(socket, SOL_SOCKET, SO_BINDTODEVICE, $0, socklen_t(device.utf8.count))
      }
      guard status == 0 else { throw Failure(description: "cannot bind \(what) to its interface: \(reason())") }
      let target = try SocketAddress(ipAddress: address.description, port: port)
      let bound = target.withSockAddr { Glibc.bind(socket, $0, socklen_t($1)) }
      guard bound == 0 else { throw Failure(description: "cannot bind \(what): \(reason())") }
      guard !isStream || listen(socket, 128) == 0 else {
        throw Failure(description: "cannot listen at \(what): \(reason())")
      }
    } catch {
      close(socket)
      throw error
    }
    return socket
  }

  private static func set(_ socket: Int32, _ level: Int32, _ name: Int32, _ what: String) throws {
    var one: Int32 = 1
    guard setsockopt(socket, level, name, &one, 4) == 0 else {
      throw Failure(description: "cannot set up a socket for \(what): \(reason())")
    }
  }

  private static func reason() -> String { String(cString: strerror(errno)) }
}
