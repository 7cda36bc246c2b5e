import Glibc
import WeftWire

/// Where an HTTP server listens.
public enum HTTPEndpoint: Hashable, Sendable, CustomStringConvertible {
  case tcp(IPAddress, UInt16)
  /// The path of a Unix socket.
  case unix(String)

  /// Bytes of a Unix socket's path, its end left out (unix(7)).
  public static let longestSocketPath = 107

  public var description: String {
    switch self {
    case .tcp(let address, let port): address.isV4 ? "\(address):\(port)" : "[\(address)]:\(port)"
    case .unix(let path): path
    }
  }

  /// The Host header's value.
  var host: String {
    if case .tcp = self { description } else { "localhost" }
  }

  /// Calls `body` with a socket address, as connect and bind take it.
  public func withSocketAddress<T>(_ body: (UnsafePointer<sockaddr>, socklen_t) -> T) -> T {
    func call<Address>(_ address: Address) -> T {
      withUnsafePointer(to: address) {
        $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { body($0, socklen_t(MemoryLayout<Address>.size)) }
      }
    }
    switch self {
    case .tcp(let address, let port) where address.isV4:
      var socket = sockaddr_in()
      socket.sin_family = sa_family_t(AF_INET)
      socket.sin_port = port.bigEndian
      socket.sin_addr.s_addr = address.v4.bigEndian
      return call(socket)
    case .tcp(let address, let port):
      var socket = sockaddr_in6()
      socket.sin6_family = sa_family_t(AF_INET6)
      socket.sin6_port = port.bigEndian
      withUnsafeMutableBytes(of: &socket.sin6_addr) { $0.copyBytes(from: address.octets) }
      return call(socket)
    case .unix(let path):
      var socket = sockaddr_un()
      socket.sun_family = sa_family_t(AF_UNIX)
      withUnsafeMutableBytes(of: &socket.sun_path) { $0.copyBytes(from: path.utf8.prefix(Self.longestSocketPath)) }
      return call(socket)
    }
  }

  public var family: Int32 {
    switch self {
    case .tcp(let address, _): address.isV4 ? AF_INET : AF_INET6
    case .unix: AF_UNIX
    }
  }
}
