import WeftWire

/// What a network's members are told by DHCP and router advertisements.
public struct DHCPSettings: Hashable, Sendable {
  /// How IPv6 hosts get their addresses.
  public enum Mode: String, Hashable, Sendable, CaseIterable {
    /// By DHCPv6 (RFC 8415).
    case stateful
    /// Addresses otherwise, name servers by DHCPv6.
    case stateless
    /// Router advertisements, and no DHCPv6.
    case off
  }

  /// What boots over the network: by IPv4 TFTP server and file (options 66 and 67), by IPv6 a URL (RFC 5970).
  public struct Boot: Hashable, Sendable {
    public var server: IPAddress?
    public var serverName: String?
    public var file: String?
    public var url: String?
  }

  /// Virtual machines' ports have it, pods' interfaces.
  public var ports = true
  public var pods = false
  /// Seconds.
  public var leaseTime: UInt32 = 86_400
  public var domain: DomainName?
  public var search: [DomainName] = []
  public var timeServers: [IPAddress] = []
  public var boot = Boot()
  public var mode = Mode.stateful
  /// Hosts may make the address that they have of their MAC address (RFC 4862).
  public var slaac = false
  /// Seconds: how long hosts go by a router advertisement, and at most between two that nobody asked for.
  public var routerLifetime: UInt16 = 1800
  public var interval: UInt16 = 600

  public init() {}
}

extension DHCPSettings {
  init(_ node: ConfigurationNode) throws(ConfigurationError) {
    let mapping = try node.mapping([
      "ports", "pods", "lease-time", "domain", "search", "ntp", "boot", "ipv6", "slaac", "router-lifetime", "interval",
    ])
    ports = try mapping["ports"]?.flag() ?? true
    pods = try mapping["pods"]?.flag() ?? false
    if let time = mapping["lease-time"] {
      leaseTime = UInt32(try time.integer(60...31_536_000, "a time in seconds, a minute to a year"))
    }
    domain = try mapping["domain"]?.domainName()
    for node in try mapping.items("search") { search.append(try node.domainName()) }
    guard search.count <= 16 else { throw mapping["search"]!.error("has \(search.count) domains; at most 16") }
    for node in try mapping.items("ntp") {
      let address = try node.address()
      guard !address.isMulticast, !address.isUnspecified else { throw node.error("\(address) is no host's address") }
      timeServers.append(address)
    }
    guard timeServers.count <= 8 else { throw mapping["ntp"]!.error("has \(timeServers.count) servers; at most 8") }
    if let node = mapping["boot"] { boot = try Boot(node) }
    if let node = mapping["ipv6"] {
      let text = try node.text("stateful, stateless or off")
      guard let known = Mode(rawValue: text == "false" ? "off" : text) else {
        throw node.error("\"\(text)\" is not stateful, stateless or off")
      }
      mode = known
    }
    slaac = try mapping["slaac"]?.flag() ?? false
    if let node = mapping["interval"] {
      interval = UInt16(try node.integer(4...1800, "a time in seconds (RFC 4861 section 6.2.1)"))
      routerLifetime = UInt16(max(1800, 3 * Int(interval)))
    }
    if let node = mapping["router-lifetime"] {
      routerLifetime = UInt16(try node.integer(0...9000, "a time in seconds (RFC 4861 section 6.2.1), 0 for no router"))
      guard routerLifetime == 0 || routerLifetime >= interval else {
        throw node.error("\(routerLifetime) s are less than the \(interval) s between advertisements (interval)")
      }
    }
  }
}

extension DHCPSettings.Boot {
  fileprivate init(_ node: ConfigurationNode) throws(ConfigurationError) {
    let mapping = try node.mapping(["server", "server-name", "file", "url"])
    if let node = mapping["server"] {
      let address = try node.address()
      guard address.isV4, !address.isMulticast, !address.isUnspecified else {
        throw node.error("\(address) is no IPv4 host's address; for IPv6 the server stands in url")
      }
      server = address
    }
    serverName = try mapping["server-name"]?.printable(63)
    file = try mapping["file"]?.printable(127)
    url = try mapping["url"]?.printable(255)
    if serverName == nil { serverName = server?.description }
    guard file == nil || serverName != nil else {
      throw node.error("has a file and no server to get it from; add server or server-name")
    }
  }
}

extension ConfigurationNode {
  /// YAML's words for it.
  func flag() throws(ConfigurationError) -> Bool {
    let text = try text("true or false")
    switch text.lowercased() {
    case "true", "yes", "on": return true
    case "false", "no", "off": return false
    default: throw error("\"\(text)\" is neither true nor false; it must be true or false")
    }
  }

  fileprivate func domainName() throws(ConfigurationError) -> DomainName {
    let text = try text("a domain name such as pods.example.org")
    guard let name = DomainName(text) else {
      throw error("\"\(text)\" is not a domain name: labels of 1 to 63 letters, digits and '-', at most 253 bytes")
    }
    return name
  }

  fileprivate func printable(_ maximum: Int) throws(ConfigurationError) -> String {
    let text = try text("text")
    guard text.utf8.count <= maximum, text.utf8.allSatisfy({ (0x21...0x7E).contains($0) }) else {
      throw error("\"\(text)\" must be at most \(maximum) ASCII characters without spaces")
    }
    return text
  }
}
