import WeftAPI
import WeftNetlink
import WeftWire

/// The network configuration: what the runtime writes to standard input (CNI spec 1.1, section 1). Of what only ADD
/// needs, nothing is judged here: a DEL must not fail for it.
public struct Configuration: Hashable, Sendable {
  public let version: SpecVersion
  /// The network's name: what GC is about.
  public let name: String
  public let settings: Settings
  /// The result of the plugins before this one, or for CHECK and DEL that of ADD.
  public let previousResult: JSON?
  /// The IPAM plugin that gives out addresses; nil: the agent does.
  public let delegate: String?
  /// The whole, for runtimeConfig, args and the keys of GC.
  private let json: JSON

  /// Code 6 for what is no JSON object, 1 for another version, 7 for what is wrong in it, 2 for what is not supported.
  public init(_ bytes: [UInt8]) throws(CNIError) {
    json = try Self.object(bytes)
    switch json["cniVersion"] {
    case .string(let text)?:
      guard let version = SpecVersion(rawValue: text) else { throw Self.unsupported("cniVersion \"\(text)\"") }
      self.version = version
    case nil: throw Self.unsupported("a configuration without cniVersion")
    case let other?: throw CNIError(.decoding, "cniVersion is \(other.kind), not a string")
    }
    guard let name = json["name"] else {
      throw CNIError(.configuration, "name is missing in the network configuration")
    }
    guard let name = name.text, InterfaceKey.isIdentifier(name) else {
      throw CNIError(
        .configuration, "name \(name.text.map { "\"\($0)\"" } ?? "(\(name.kind))") is no network's name",
        details: "letters, digits, '_', '.', '-', and the first of them a letter or digit")
    }
    self.name = name
    previousResult = json["prevResult"]
    if let previousResult, previousResult.members == nil {
      throw CNIError(.decoding, "prevResult is \(previousResult.kind), not an object")
    }
    delegate = try Self.delegate(json)
    settings = try Settings(json)
  }

  /// `ipam.type`. An empty one and an empty object name none, as configurations in the field have it.
  private static func delegate(_ json: JSON) throws(CNIError) -> String? {
    let fields = try Fields(json["ipam"], path: "ipam")
    guard let type = try fields.string("type"), !type.isEmpty else { return nil }
    guard !type.contains("/"), type != ".", type != ".." else {
      throw fields.wrong("type", .string(type), "is a plugin's name, which is looked for in CNI_PATH")
    }
    return type
  }

  /// The cniVersion, if the bytes have one that is a string: to answer in when the rest is wrong, and for VERSION.
  public static func version(in bytes: [UInt8]) throws(CNIError) -> String? { try object(bytes)["cniVersion"]?.text }

  private static func object(_ bytes: [UInt8]) throws(CNIError) -> JSON {
    let meant = "a network configuration as a JSON object is expected on standard input"
    guard bytes.contains(where: { $0 > 0x20 }) else {
      throw CNIError(.decoding, "standard input is empty", details: meant)
    }
    switch Coding.decode(JSON.self, from: bytes) {
    case .failure(let reason):
      throw CNIError(.decoding, "standard input is no JSON: \(reason)", details: meant)
    case .success(let json):
      guard json.members != nil else { throw CNIError(.decoding, "standard input is \(json.kind)", details: meant) }
      return json
    }
  }

  private static func unsupported(_ what: String) -> CNIError {
    let known = SpecVersion.allCases.map(\.rawValue).joined(separator: ", ")
    return CNIError(.version, "\(what) is not supported", details: "cniVersion may be \(known)")
  }

  /// `runtimeConfig.bandwidth`; nil: no limit.
  public func bandwidth() throws(CNIError) -> Bandwidth? {
    guard let value = json["runtimeConfig"]?.member(anyCase: "bandwidth") else { return nil }
    let fields = try Fields(value, path: "runtimeConfig.bandwidth")
    func number(_ key: String) throws(CNIError) -> UInt64? { try fields.integer(key, 0...Int.max).map { UInt64($0) } }
    let bandwidth = Bandwidth(
      ingressRate: try number("ingressRate"), ingressBurst: try number("ingressBurst"),
      egressRate: try number("egressRate"), egressBurst: try number("egressBurst"))
    return bandwidth.isUnlimited ? nil : bandwidth
  }

  /// What a container asks for itself: of each, the first source that says something.
  public func wishes(_ arguments: Arguments) throws(CNIError) -> (addresses: [IPAddress], mac: MACAddress?) {
    let runtime = try Fields(json["runtimeConfig"], path: "runtimeConfig")
    let convention = try Fields(
      Fields(json["args"], path: "args").value("cni"), path: "args.cni")
    var addresses: [IPAddress] = []
    for (texts, source) in [
      (try runtime.strings("ips"), "runtimeConfig.ips"), (try convention.strings("ips"), "args.cni.ips"),
      (arguments.addresses, "CNI_ARGS IP"),
    ] where addresses.isEmpty {
      for text in texts {
        guard let address = IPAddress(text) ?? InterfaceAddress(text)?.address else {
          throw CNIError(
            source.hasPrefix("CNI") ? .environment : .configuration, "\(source): \"\(text)\" is no IP address",
            details: "an address such as 10.1.1.3 or fd00::3, with or without prefix length")
        }
        addresses.append(address)
      }
    }
    for (text, source) in [
      (try runtime.string("mac"), "runtimeConfig.mac"), (try convention.string("mac"), "args.cni.mac"),
      (arguments.mac, "CNI_ARGS MAC"),
    ] {
      guard let text, !text.isEmpty else { continue }
      guard let mac = MACAddress(text), !mac.isGroup, !mac.isZero else {
        throw CNIError(
          source.hasPrefix("CNI") ? .environment : .configuration,
          "\(source): \"\(text)\" is no MAC address that an interface can have", details: "such as 02:00:00:00:00:01")
      }
      return (addresses, mac)
    }
    return (addresses, nil)
  }

  /// The attachments that GC is to keep: `cni.dev/valid-attachments`, or `cni.dev/attachments` as libcni writes it.
  /// Neither is an error: a GC that keeps nothing must say so with an empty list.
  public func validAttachments() throws(CNIError) -> Set<InterfaceKey> {
    for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
      guard let value = json[key] else { continue }
      guard let elements = value.elements else {
        throw CNIError(.configuration, "\(key) is \(value.kind), not an array")
      }
      var keys: Set<InterfaceKey> = []
      for (index, element) in elements.enumerated() {
        guard let containerID = element.member(anyCase: "containerID")?.text,
          let interface = element.member(anyCase: "ifname")?.text
        else {
          throw CNIError(.configuration, "\(key)[\(index)] lacks containerID or ifname", details: "both are strings")
        }
        keys.insert(InterfaceKey(containerID: containerID, interface: interface))
      }
      return keys
    }
    throw CNIError(
      .configuration, "GC without cni.dev/valid-attachments",
      details: "nothing is removed; a runtime that has no attachments sends an empty list")
  }
}

/// The plugin's own part of the configuration: the object under "contrail", or the same keys under "weft".
public struct Settings: Hashable, Sendable {
  public var clusterName = ""
  public var metaPlugin = ""
  /// Where the agent listens.
  public var agent = HTTPEndpoint.tcp(IPAddress(v4: 0x7F00_0001), 9091)
  /// Where the plugin keeps a file for each interface it made.
  public var stateDirectory = "/var/lib/contrail/ports/vm"
  /// Seconds that the agent has for an answer.
  public var pollTimeout = 5
  /// How often the agent is asked again to activate an interface when it says that it is not ready.
  public var pollRetries = 15
  /// Empty: no log file.
  public var logFile = "/var/log/contrail/cni/opencontrail.log"
  public var logLevel = LogLevel.warning
  /// Bytes; nil: the network's.
  public var mtu: Int?
  /// A network of the agent's; nil: the agent's default.
  public var network: String?
  /// Nested mode (vif-type macvlan): the interface of the virtual machine that pods' frames leave by.
  public var nestedParent: String?

  public init() {}

  init(_ configuration: JSON) throws(CNIError) {
    let sections = ["weft", "contrail"].filter { configuration[$0] != nil }
    guard sections.count < 2 else {
      throw CNIError(
        .configuration, "the configuration has both \"weft\" and \"contrail\"", details: "keep one of them")
    }
    guard let section = sections.first else { return }
    let fields = try Fields(configuration[section], path: section)
    clusterName = try fields.string("cluster-name") ?? clusterName
    metaPlugin = try fields.string("meta-plugin") ?? metaPlugin
    stateDirectory = try fields.path("config-dir") ?? stateDirectory
    pollTimeout = try fields.integer("poll-timeout", 1...3600) ?? pollTimeout
    pollRetries = try fields.integer("poll-retries", 0...10_000) ?? pollRetries
    if try fields.string("log-file") == "" { logFile = "" } else { logFile = try fields.path("log-file") ?? logFile }
    if let value = fields.value("log-level") {
      guard let level = LogLevel(value) else {
        throw fields.wrong(
          "log-level", value,
          "is \"0\" (nothing but emergencies) to \"7\" (debug), or a name: error, warning, info, debug")
      }
      logLevel = level
    }
    network = try fields.string("network").flatMap { $0.isEmpty ? nil : $0 }
    mtu = try fields.integer("mtu", 0...65535).flatMap { $0 == 0 ? nil : $0 }
    if let mtu, mtu < 68 { throw fields.wrong("mtu", .integer(Int64(mtu)), "is at least 68 (RFC 791)") }
    agent = try Self.endpoint(fields)
    try Self.refuseUnsupported(fields)
    nestedParent = try Self.nestedParent(fields)
  }

  private static func endpoint(_ fields: Fields) throws(CNIError) -> HTTPEndpoint {
    var address = IPAddress(v4: 0x7F00_0001)
    if let text = try fields.string("vrouter-ip"), !text.isEmpty {
      guard let given = IPAddress(text) else {
        throw fields.wrong("vrouter-ip", .string(text), "is the agent's IP address, such as 127.0.0.1")
      }
      address = given
    }
    let port = try fields.integer("vrouter-port", 1...65535) ?? 9091
    if let path = try fields.path("vrouter-socket") {
      guard path.utf8.count <= HTTPEndpoint.longestSocketPath else {
        throw fields.wrong(
          "vrouter-socket", .string(path), "has at most \(HTTPEndpoint.longestSocketPath) bytes (unix(7))")
      }
      return .unix(path)
    }
    return .tcp(address, UInt16(port))
  }

  private static func refuseUnsupported(_ fields: Fields) throws(CNIError) {
    let mode = try fields.string("mode") ?? ""
    guard ["", "k8s", "mesos"].contains(mode.lowercased()) else {
      throw CNIError(
        .unsupportedField, "\(fields.path).mode \"\(mode)\" is not supported", details: "it is \"k8s\" or left out")
    }
  }
}

/// An object of the configuration, read key by key; what has the wrong type is refused under its full name.
struct Fields {
  let path: String
  private let object: JSON

  init(_ value: JSON?, path: String) throws(CNIError) {
    self.path = path
    object = value ?? .object([:])
    if object.members == nil { throw CNIError(.configuration, "\(path) is \(object.kind), not an object") }
  }

  /// Nil when it is absent or null.
  func value(_ key: String) -> JSON? { object.member(anyCase: key) }

  func wrong(_ key: String, _ value: JSON, _ rule: String) -> CNIError {
    let shown = value.text.map { "\"\($0)\"" } ?? value.integer.map(String.init) ?? value.kind
    return CNIError(.configuration, "\(path).\(key): \(shown) is not allowed", details: "\(path).\(key) \(rule)")
  }

  func string(_ key: String) throws(CNIError) -> String? {
    guard let value = value(key) else { return nil }
    guard let text = value.text else { throw wrong(key, value, "is a string") }
    return text
  }

  /// An absolute path. Empty counts as absent.
  func path(_ key: String) throws(CNIError) -> String? {
    guard let text = try string(key), !text.isEmpty else { return nil }
    guard text.utf8.starts(with: "/".utf8), !text.utf8.contains(0) else {
      throw wrong(key, .string(text), "is an absolute path")
    }
    return text
  }

  /// A number, or a string that holds one: the field writes both.
  func integer(_ key: String, _ range: ClosedRange<Int>) throws(CNIError) -> Int? {
    guard let value = value(key) else { return nil }
    if value.text == "" { return nil }
    guard let number = value.integer.flatMap({ Int(exactly: $0) }) ?? value.text.flatMap({ Int($0) }),
      range.contains(number)
    else { throw wrong(key, value, "is a whole number from \(range.lowerBound) to \(range.upperBound)") }
    return number
  }

  /// Absent and null are empty.
  func strings(_ key: String) throws(CNIError) -> [String] {
    guard let value = value(key) else { return [] }
    guard let elements = value.elements else { throw wrong(key, value, "is an array of strings") }
    var texts: [String] = []
    for element in elements where element != .null {
      guard let text = element.text else { throw wrong(key, element, "is an array of strings") }
      texts.append(text)
    }
    return texts
  }
}
