import Glibc

/// The file of the Unix socket that the agent listens at.
package enum UnixListener {
  /// Makes way: a socket that nobody serves is removed. What somebody serves, or what is no socket, is in the way.
  package static func prepare(_ socket: APISettings.Socket) throws(AgentFailure) {
    _ = try group(socket)
    var status = stat()
    guard lstat(socket.path, &status) == 0 else {
      if errno == ENOENT { return try makeFolder(socket.path) }
      throw AgentFailure("cannot listen at \(socket.path): \(String(cString: strerror(errno)))")
    }
    guard status.st_mode & S_IFMT == S_IFSOCK else {
      throw AgentFailure("cannot listen at \(socket.path): it is there and no socket; remove it, or change api.socket")
    }
    guard !isServed(socket.path) else {
      throw AgentFailure(
        "cannot listen at \(socket.path): another process serves it; is another weft-agent running? api.socket takes "
          + "another path")
    }
    guard unlink(socket.path) == 0 || errno == ENOENT else {
      throw AgentFailure("cannot remove the old socket \(socket.path): \(String(cString: strerror(errno)))")
    }
  }

  /// Gives the file its group and mode. Until then nobody but the owner gets in (bind gives it the umask's).
  static func open(_ socket: APISettings.Socket) throws(AgentFailure) {
    if let group = try group(socket), chown(socket.path, .max, group) != 0 {
      throw AgentFailure(
        "cannot give \(socket.path) to group \(socket.group ?? ""): \(String(cString: strerror(errno)))")
    }
    guard chmod(socket.path, socket.mode) == 0 else {
      throw AgentFailure("cannot set the mode of \(socket.path): \(String(cString: strerror(errno)))")
    }
  }

  static func close(_ socket: APISettings.Socket) { unlink(socket.path) }

  private static func makeFolder(_ path: String) throws(AgentFailure) {
    // The last part alone: /run/weft is new after each boot.
    let folder = String(path[..<(path.lastIndex(of: "/") ?? path.startIndex)])
    guard folder.isEmpty || mkdir(folder, 0o755) == 0 || errno == EEXIST else {
      throw AgentFailure("cannot make the folder \(folder) of api.socket: \(String(cString: strerror(errno)))")
    }
  }

  private static func group(_ socket: APISettings.Socket) throws(AgentFailure) -> gid_t? {
    guard let name = socket.group else { return nil }
    if let number = gid_t(name) { return number }
    var entry = Glibc.group()
    var found: UnsafeMutablePointer<Glibc.group>?
    var buffer = [CChar](repeating: 0, count: 64 * 1024)
    guard getgrnam_r(name, &entry, &buffer, buffer.count, &found) == 0, found != nil else {
      throw AgentFailure("api.socket.group: there is no group \"\(name)\" on this machine")
    }
    return entry.gr_gid
  }

  private static func isServed(_ path: String) -> Bool {
    let client = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
    guard client >= 0 else { return true }
    defer { Glibc.close(client) }
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8.prefix($0.count - 1)) }
    let isRefused = withUnsafePointer(to: &address) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        connect(client, $0, socklen_t(MemoryLayout<sockaddr_un>.size)) != 0
          && (errno == ECONNREFUSED || errno == ENOENT)
      }
    }
    return !isRefused
  }
}
