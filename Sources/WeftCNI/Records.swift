import Glibc
import WeftAPI
import WeftNetlink
import WeftWire

/// The files under config-dir. An interface has one, "CONTAINERID:IFNAME.json", from before the agent is asked until DEL
/// is done with it; its name alone is enough to have everything removed. Where the agent could not be told of a DEL the
/// file becomes "CONTAINERID:IFNAME.deleted", and the next run that reaches the agent makes it good.
struct Records {
  let directory: String

  private enum Ending: String {
    case present = ".json"
    case deleted = ".deleted"
    case new = ".new"
  }

  private func path(_ key: InterfaceKey, _ ending: Ending) -> String {
    "\(directory)/\(key.containerID):\(key.interface)\(ending.rawValue)"
  }

  /// Nil when there is none, or nothing legible.
  func read(_ key: InterfaceKey) -> PluginRecord? {
    let descriptor = open(path(key, .present), O_RDONLY | O_CLOEXEC | O_NOFOLLOW)
    guard descriptor >= 0 else { return nil }
    defer { close(descriptor) }
    guard let bytes = Files.readAll(descriptor, limit: 1 << 20) else { return nil }
    return try? Coding.decode(PluginRecord.self, from: bytes).get()
  }

  /// There is a file, legible or not.
  func exists(_ key: InterfaceKey) -> Bool { access(path(key, .present), F_OK) == 0 }

  /// Whole or not at all: a new file takes the old one's place.
  func write(_ record: PluginRecord) throws(CNIError) {
    let key = InterfaceKey(containerID: record.containerID, interface: record.interface)
    let new = path(key, .new)
    let flags = O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW
    var descriptor = open(new, flags, 0o640)
    if descriptor < 0 && errno == ENOENT {
      Files.makeDirectories(directory)
      descriptor = open(new, flags, 0o640)
    }
    guard descriptor >= 0 else { throw Self.failure("write", new) }
    let isWritten = Files.writeAll(descriptor, Coding.encode(record))
    let code = errno
    close(descriptor)
    guard isWritten, rename(new, path(key, .present)) == 0 else {
      let error = isWritten ? Self.failure("rename", new) : Self.failure("write", new, code)
      unlink(new)
      throw error
    }
  }

  /// Nothing is to be remembered any more.
  func remove(_ key: InterfaceKey) {
    unlink(path(key, .present))
    unlink(path(key, .deleted))
    unlink(path(key, .new))
  }

  /// What remains is to tell the agent.
  func bury(_ key: InterfaceKey) throws(CNIError) {
    unlink(path(key, .new))
    if rename(path(key, .present), path(key, .deleted)) != 0 && errno != ENOENT {
      throw Self.failure("rename", path(key, .present))
    }
  }

  func isBuried(_ key: InterfaceKey) -> Bool { access(path(key, .deleted), F_OK) == 0 }

  /// Those the agent must yet be told of.
  func buried() -> [InterfaceKey] { keys(.deleted) }

  func present() -> [InterfaceKey] { keys(.present) }

  private func keys(_ ending: Ending) -> [InterfaceKey] {
    guard let stream = opendir(directory) else { return [] }
    defer { closedir(stream) }
    var keys: [InterfaceKey] = []
    while let entry = readdir(stream) {
      let name = withUnsafePointer(to: &entry.pointee.d_name) {
        $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
      }
      guard name.hasSuffix(ending.rawValue), let colon = name.firstIndex(of: ":") else { continue }
      let interface = String(name[name.index(after: colon)...].dropLast(ending.rawValue.count))
      let containerID = String(name[..<colon])
      if InterfaceKey.isIdentifier(containerID) && LinkName.isValid(interface) {
        keys.append(InterfaceKey(containerID: containerID, interface: interface))
      }
    }
    return keys
  }

  /// Runs `body` while no other run of the plugin does the same, or not at all: nil when another one holds on for longer
  /// than `milliseconds`. The lock goes with the process.
  func exclusively<T>(milliseconds: Int, _ body: () -> T) -> T? {
    // The folder itself is locked: no file of its own is left behind.
    let descriptor = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    guard descriptor >= 0 else { return nil }
    defer { close(descriptor) }
    for _ in 0...(milliseconds / 10) {
      if flock(descriptor, LOCK_EX | LOCK_NB) == 0 { return body() }
      usleep(10_000)
    }
    return nil
  }

  private static func failure(_ operation: String, _ path: String, _ code: Int32 = errno) -> CNIError {
    CNIError(
      .io, "cannot \(operation) \(path): \(Files.errorText(code))",
      details: "config-dir must be a folder that the plugin may write to")
  }
}
