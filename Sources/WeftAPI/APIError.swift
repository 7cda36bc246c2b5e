/// The body of every answer that is no success: a code for programs, a sentence for people.
public struct APIError: Error, Hashable, Sendable, Codable, CustomStringConvertible {
  /// What went wrong, for programs.
  public struct Code: RawRepresentable, Hashable, Sendable, Codable, CustomStringConvertible {
    public let rawValue: String
    public init(rawValue: String) { self.rawValue = rawValue }
    public var description: String { rawValue }

    /// 400: the body or path is not what it should be.
    public static let badRequest = Code(rawValue: "bad_request")
    /// 404: no such attachment, port, pod or path.
    public static let notFound = Code(rawValue: "not_found")
    /// 404: no network of that name in the agent's configuration.
    public static let unknownNetwork = Code(rawValue: "unknown_network")
    /// 405: the path is there, the method is not.
    public static let methodNotAllowed = Code(rawValue: "method_not_allowed")
    /// 409: an asked-for address is somebody else's.
    public static let addressInUse = Code(rawValue: "address_in_use")
    /// 400: an asked-for address is in no subnet of the network, or is its gateway or network address.
    public static let addressNotInNetwork = Code(rawValue: "address_not_in_network")
    /// 409: it contradicts what is there.
    public static let conflict = Code(rawValue: "conflict")
    /// 413: the body is too large.
    public static let tooLarge = Code(rawValue: "too_large")
    /// 507: no address is free.
    public static let poolExhausted = Code(rawValue: "pool_exhausted")
    /// 503: no forwarder answers.
    public static let forwarderUnavailable = Code(rawValue: "forwarder_unavailable")
    /// 503: the forwarder refused an entry.
    public static let forwarderRefused = Code(rawValue: "forwarder_refused")
    /// 503: the host interface does not exist (yet).
    public static let hostInterfaceMissing = Code(rawValue: "host_interface_missing")
    /// 503: the agent is stopping, or took too long.
    public static let unavailable = Code(rawValue: "unavailable")
    /// 500: the database would not do as it should.
    public static let database = Code(rawValue: "database")
    /// 500: anything else.
    public static let internalError = Code(rawValue: "internal")
  }

  public var code: Code
  public var reason: String

  public init(_ code: Code, _ reason: String) {
    self.code = code
    self.reason = reason
  }

  public var description: String { "\(code): \(reason)" }
}
