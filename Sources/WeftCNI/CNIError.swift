/// What the plugin answers when a verb fails: CNI spec 1.1, section 5, "Error".
public struct CNIError: Error, Hashable, Sendable, CustomStringConvertible {
  /// 1 to 99 are the spec's, from 100 on ours.
  public enum Code: Int, Sendable, CaseIterable {
    /// The configuration's cniVersion is not supported, or too old for the verb.
    case version = 1
    /// A key of the configuration has a value that this plugin does not support.
    case unsupportedField = 2
    /// A CNI_* variable is missing or invalid; the message names each.
    case environment = 4
    /// The kernel, a file or the agent's connection failed.
    case io = 5
    /// Standard input is not the JSON that it should be.
    case decoding = 6
    /// The network configuration is wrong; the message names the key.
    case configuration = 7
    /// CNI_NETNS names no network namespace that can be used.
    case namespace = 8
    /// The agent is down or not ready: the same again later may succeed.
    case tryAgainLater = 11
    /// STATUS: ADD cannot be served.
    case unavailable = 50
    /// STATUS: ADD cannot be served, and containers that run may have lost their connection.
    case unavailableAndLimited = 51
    /// An asked-for address is in use.
    case addressInUse = 100
    /// An asked-for address is in no subnet of the network.
    case addressNotInNetwork = 101
    /// The network has no free address.
    case poolExhausted = 102
    /// The agent refused: it contradicts what is there.
    case conflict = 103
    /// The forwarder refused an entry.
    case forwarderRefused = 104
    /// CHECK: the interface is not as ADD left it.
    case checkFailed = 105
    /// Anything else that the agent could not do.
    case `internal` = 999
  }

  public let code: Code
  /// One sentence: what was wrong.
  public let message: String
  /// What more is known, and what to try.
  public let details: String

  public init(_ code: Code, _ message: String, details: String = "") {
    self.code = code
    self.message = message
    self.details = details
  }

  public var description: String { details.isEmpty ? message : "\(message) (\(details))" }

  /// The error as it goes to standard output.
  public func json(version: SpecVersion) -> JSON {
    var members: [String: JSON] = [
      "cniVersion": .string(version.rawValue), "code": .integer(Int64(code.rawValue)), "msg": .string(message),
    ]
    if !details.isEmpty { members["details"] = .string(details) }
    return .object(members)
  }
}

/// The versions of the CNI spec that the plugin speaks.
public enum SpecVersion: String, Sendable, CaseIterable, Comparable {
  case v030 = "0.3.0"
  case v031 = "0.3.1"
  case v040 = "0.4.0"
  case v100 = "1.0.0"
  case v110 = "1.1.0"

  public static let newest = SpecVersion.v110

  public static func < (a: SpecVersion, b: SpecVersion) -> Bool { a.rawValue < b.rawValue }

  /// The answer to VERSION.
  static func report(echoing version: String?) -> JSON {
    .object([
      "cniVersion": .string(version ?? newest.rawValue),
      "supportedVersions": .array(allCases.map { .string($0.rawValue) }),
    ])
  }
}
