import Foundation
import Synchronization
import WeftWire

/// The resolvers that questions are passed on to: configured ones, or those of the host's resolv.conf as it is now.
package final class DNSServers: Sendable {
  package static let file = "/etc/resolv.conf"
  /// As many as the C library asks (resolv.conf(5) MAXNS).
  static let maximum = 3

  private let configured: [IPAddress]
  private let path: String
  private let state = Mutex(State())

  private struct State {
    var checked: UInt64 = 0
    var modified: Date?
    var servers: [IPAddress] = []
  }

  package init(_ configured: [IPAddress], path: String = DNSServers.file) {
    self.configured = configured
    self.path = path
  }

  /// Looks at the file again when a second has passed.
  package var current: [IPAddress] {
    guard configured.isEmpty else { return configured }
    return state.withLock { state in
      let now = UnderlayWatcher.now()
      guard state.checked == 0 || now >= state.checked + 1_000_000_000 else { return state.servers }
      state.checked = now
      let modified = try? FileManager.default.attributesOfItem(atPath: path)[.modificationDate] as? Date
      if modified != nil, modified == state.modified { return state.servers }
      state.modified = modified
      state.servers = (try? String(contentsOfFile: path, encoding: .utf8)).map(Self.servers) ?? []
      return state.servers
    }
  }

  /// The servers of a resolv.conf. Those with a zone (link-local addresses) are left out.
  package static func servers(_ text: String) -> [IPAddress] {
    let servers = text.split(separator: "\n").compactMap { line -> IPAddress? in
      let words = line.split { $0 == " " || $0 == "\t" }
      guard words.count >= 2, words[0] == "nameserver" else { return nil }
      return IPAddress(String(words[1]))
    }
    return Array(servers.prefix(maximum))
  }
}
