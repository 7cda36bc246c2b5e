import WeftNetlink

/// What the plugin is asked to do (CNI spec 1.1, section 2, CNI_COMMAND).
public enum Verb: String, Sendable, CaseIterable {
  case add = "ADD"
  case delete = "DEL"
  case check = "CHECK"
  case gc = "GC"
  case status = "STATUS"
  case version = "VERSION"

  /// The oldest version that knows it.
  var since: SpecVersion {
    switch self {
    case .add, .delete, .version: .v030
    case .check: .v040
    case .gc, .status: .v110
    }
  }
}

/// A container's interface: what an attachment is known by.
public struct InterfaceKey: Hashable, Sendable, CustomStringConvertible {
  /// The runtime's id of the container.
  public let containerID: String
  /// The interface's name inside it.
  public let interface: String

  public init(containerID: String, interface: String) {
    self.containerID = containerID
    self.interface = interface
  }

  public var description: String { "\(containerID)/\(interface)" }

  /// A file of ours is named after the id, ":", the interface and an ending of at most 9 bytes: 255 bytes in all.
  static let longestContainerID = 230

  /// The spec's identifiers: `^[A-Za-z0-9][A-Za-z0-9_.-]*$`.
  static func isIdentifier(_ text: String) -> Bool {
    guard let first = text.utf8.first, isAlphanumeric(first) else { return false }
    return text.utf8.allSatisfy { isAlphanumeric($0) || $0 == 0x5F || $0 == 0x2E || $0 == 0x2D }
  }

  private static func isAlphanumeric(_ byte: UInt8) -> Bool {
    (0x30...0x39).contains(byte) || (0x41...0x5A).contains(byte) || (0x61...0x7A).contains(byte)
  }
}

/// The CNI_* variables of one run, judged by what its verb needs.
public struct Invocation: Hashable, Sendable {
  /// The variables that are read.
  public static let variables = [
    "CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS", "CNI_PATH",
  ]

  public let verb: Verb
  /// Empty for the verbs that are about no container: VERSION, STATUS, GC.
  public let key: InterfaceKey
  /// Path of the container's network namespace; DEL may come without.
  public let netns: String
  /// CNI_ARGS as it came.
  public let arguments: String

  /// Refuses with code 4 and names each variable that is missing or invalid.
  public init(environment: [String: String]) throws(CNIError) {
    let command = environment["CNI_COMMAND"] ?? ""
    guard let verb = Verb(rawValue: command) else {
      let known = Verb.allCases.map(\.rawValue).joined(separator: ", ")
      throw CNIError(
        .environment, command.isEmpty ? "CNI_COMMAND is missing" : "CNI_COMMAND \"\(command)\" is no verb",
        details: "the verbs are \(known); a container runtime sets it, `weft-cni --help` says more")
    }
    self.verb = verb
    let containerID = environment["CNI_CONTAINERID"] ?? ""
    let interface = environment["CNI_IFNAME"] ?? ""
    netns = environment["CNI_NETNS"] ?? ""
    arguments = environment["CNI_ARGS"] ?? ""
    key = InterfaceKey(containerID: containerID, interface: interface)
    guard [.add, .delete, .check].contains(verb) else { return }

    var problems: [String] = []
    if containerID.isEmpty {
      problems.append("CNI_CONTAINERID is missing")
    } else if !InterfaceKey.isIdentifier(containerID) {
      problems.append(
        "CNI_CONTAINERID \"\(containerID)\" is no container id: letters, digits, '_', '.', '-', and the first of them a "
          + "letter or digit")
    } else if containerID.utf8.count > InterfaceKey.longestContainerID {
      problems.append(
        "CNI_CONTAINERID has \(containerID.utf8.count) bytes, at most \(InterfaceKey.longestContainerID) are taken")
    }
    if verb != .delete {
      if netns.isEmpty {
        problems.append("CNI_NETNS is missing")
      } else if !netns.utf8.starts(with: "/".utf8) {
        problems.append("CNI_NETNS \"\(netns)\" is no absolute path")
      }
    }
    if interface.isEmpty {
      problems.append("CNI_IFNAME is missing")
    } else if !LinkName.isValid(interface) || interface.contains("%") {
      // The kernel takes "%" for a place to put a number.
      problems.append(
        "CNI_IFNAME \"\(interface)\" is no interface's name: 1 to 15 bytes without space, '/', ':' or '%', not \".\" or \"..\""
      )
    }
    guard problems.isEmpty else {
      throw CNIError(.environment, problems.joined(separator: "; "), details: "for CNI_COMMAND \(command)")
    }
  }
}

/// CNI_ARGS: "KEY=VALUE;KEY=VALUE".
public struct Arguments: Hashable, Sendable {
  public var podName: String?
  public var podNamespace: String?
  public var podUID: String?
  /// IP: one address or several, with or without prefix length, separated by commas.
  public var addresses: [String] = []
  public var mac: String?

  /// Refuses what is no pair, and keys that it does not know unless IgnoreUnknown is set, with code 4.
  public init(_ text: String) throws(CNIError) {
    var unknown: [String] = []
    var ignoresUnknown = false
    for pair in text.split(separator: ";") {
      guard let equals = pair.firstIndex(of: "="), equals != pair.startIndex else {
        throw CNIError(.environment, "CNI_ARGS: \"\(pair)\" is no KEY=VALUE", details: "pairs are separated by ';'")
      }
      let key = String(pair[..<equals])
      let value = String(pair[pair.index(after: equals)...])
      let given = value.isEmpty ? nil : value
      switch key {
      case "IgnoreUnknown":
        switch value.lowercased() {
        case "1", "true": ignoresUnknown = true
        case "0", "false", "": ignoresUnknown = false
        default:
          throw CNIError(.environment, "CNI_ARGS: IgnoreUnknown is \"\(value)\"", details: "it is 1, true, 0 or false")
        }
      case "K8S_POD_NAME": podName = given
      case "K8S_POD_NAMESPACE": podNamespace = given
      case "K8S_POD_UID": podUID = given
      case "K8S_POD_INFRA_CONTAINER_ID": break
      case "IP": addresses = value.split(separator: ",").map(String.init)
      case "MAC": mac = given
      default: unknown.append(key)
      }
    }
    if !unknown.isEmpty && !ignoresUnknown {
      throw CNIError(
        .environment, "CNI_ARGS: unknown key \(unknown.joined(separator: ", "))",
        details: "IgnoreUnknown=1 in CNI_ARGS makes the plugin pass over it")
    }
  }
}
