import Glibc

/// Who may use the HTTP API, by which way, and how much of it.
public struct APISettings: Hashable, Sendable {
  /// What a way in may be used for.
  public enum Access: String, Hashable, Sendable, CaseIterable {
    case all
    /// What changes nothing.
    case read
    case none
  }

  /// A Unix socket to listen at.
  public struct Socket: Hashable, Sendable {
    public var path: String
    /// Permissions of the file.
    public var mode: UInt32 = 0o660
    /// The file's group; nil: the agent's own.
    public var group: String?

    public init(path: String, group: String? = nil) {
      self.path = path
      self.group = group
    }
  }

  public var socket: Socket?
  /// Of the TCP address.
  public var tcp = Access.all
  /// Holds the bearer token that is asked of other machines; nil: none, and then only loopback is listened at.
  public var tokenFile: String?
  /// Requests a second of one client, on average; 0: as many as it likes.
  public var requestsPerSecond = 500
  /// Requests that a client may send at once after it was quiet.
  public var burst = 1000
  /// Connections at a time, of each way in. More wait until one is closed.
  public var connections = 512
  /// Seconds after which a connection is closed on which no request has begun.
  public var idleSeconds = 60
  /// Seconds in which a request's body must have come, and in which an answer must have been taken.
  public var requestSeconds = 10
  /// Bytes of a request's header.
  public static let maximumHeaderBytes = 16 * 1024
}

extension APISettings {
  init(_ node: ConfigurationNode) throws(ConfigurationError) {
    let mapping = try node.mapping([
      "socket", "tcp", "token-file", "requests-per-second", "burst", "connections", "idle-time", "request-time",
    ])
    if let node = mapping["socket"] { socket = try Socket(node) }
    if let node = mapping["tcp"] {
      let names = Access.allCases.map(\.rawValue).joined(separator: ", ")
      let text = try node.text("what TCP may be used for: \(names)")
      guard let access = Access(rawValue: text) else { throw node.error("\"\(text)\" is none of \(names)") }
      guard access != .none || socket != nil else {
        throw node.error("leaves no way to the agent; add a socket, or say \"read\"")
      }
      tcp = access
    }
    if let node = mapping["token-file"] { tokenFile = try node.path("the path of the file with the token", 4000) }
    if let node = mapping["requests-per-second"] {
      requestsPerSecond = try node.integer(0...1_000_000, "a number of requests, or 0 for no limit")
      burst = max(burst, requestsPerSecond)
    }
    if let node = mapping["burst"] {
      burst = try node.integer(
        max(1, requestsPerSecond)...10_000_000, "a number of requests, no less than those of a second")
    }
    if let node = mapping["connections"] { connections = try node.integer(1...65536, "a number of connections") }
    if let node = mapping["idle-time"] { idleSeconds = try node.integer(1...3600, "a time in seconds") }
    if let node = mapping["request-time"] { requestSeconds = try node.integer(1...3600, "a time in seconds") }
  }
}

extension APISettings.Socket {
  /// A path alone, or with mode and group.
  fileprivate init(_ node: ConfigurationNode) throws(ConfigurationError) {
    // What sockaddr_un holds.
    let longest = 107
    if case .scalar = node.node {
      path = try node.path("the path of a Unix socket", longest)
      return
    }
    let mapping = try node.mapping(["path", "mode", "group"])
    path = try mapping.required("path", "the path of a Unix socket").path("the path of a Unix socket", longest)
    if let node = mapping["mode"] {
      let text = try node.text("permissions, as \"0660\"")
      guard let mode = UInt32(text.hasPrefix("0o") ? String(text.dropFirst(2)) : text, radix: 8), mode <= 0o777 else {
        throw node.error("\"\(text)\" are no permissions, as \"0660\"")
      }
      guard mode & 0o200 != 0 else { throw node.error("\"\(text)\" would keep the owner out: it takes 0200") }
      self.mode = mode
    }
    if let node = mapping["group"] { group = try node.text("the name or number of a group") }
  }
}

extension AgentConfiguration {
  /// Other machines only with a token.
  func checkListening() throws(ConfigurationError) {
    guard api.tcp != .none, !listen.isLoopback, api.tokenFile == nil else { return }
    throw ConfigurationError(
      path: "listen",
      "\(listen) can be reached from other machines, which then could attach and detach pods: set api.token-file, or "
        + "listen at 127.0.0.1")
  }
}
