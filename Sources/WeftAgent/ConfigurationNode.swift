import WeftWire
import Yams

/// A value of a YAML file that knows its path, so that what is wrong with it can be told where it stands.
struct ConfigurationNode {
  let node: Node
  let path: String

  func error(_ reason: String) -> ConfigurationError {
    ConfigurationError(path: path, line: node.mark?.line, reason)
  }

  /// A mapping with no keys but these.
  func mapping(_ known: [String]) throws(ConfigurationError) -> ConfigurationMapping {
    guard case .mapping(let mapping) = node else {
      throw error("must be a mapping with the keys \(known.joined(separator: ", "))")
    }
    var values: [String: ConfigurationNode] = [:]
    for (key, value) in mapping {
      guard case .scalar(let scalar) = key, known.contains(scalar.string) else {
        let name = key.scalar?.string ?? "(no text)"
        let nearest = known.min { distance($0, name) < distance($1, name) }
        let guess = nearest.flatMap { distance($0, name) <= 2 ? "; is \"\($0)\" meant?" : nil } ?? ""
        throw ConfigurationError(
          path: path.isEmpty ? name : "\(path).\(name)", line: key.mark?.line,
          "is no key that is known here\(guess) Known are \(known.joined(separator: ", "))")
      }
      values[scalar.string] = ConfigurationNode(
        node: value, path: path.isEmpty ? scalar.string : "\(path).\(scalar.string)")
    }
    return ConfigurationMapping(owner: self, values: values)
  }

  func list() throws(ConfigurationError) -> [ConfigurationNode] {
    guard case .sequence(let sequence) = node else { throw error("must be a list") }
    return sequence.enumerated().map { ConfigurationNode(node: $1, path: "\(path)[\($0)]") }
  }

  func text(_ what: String) throws(ConfigurationError) -> String {
    guard case .scalar(let scalar) = node, !scalar.string.isEmpty, node.null == nil else {
      throw error("must be \(what)")
    }
    return scalar.string
  }

  func integer(_ range: ClosedRange<Int>, _ what: String) throws(ConfigurationError) -> Int {
    let text = try text("\(what), a number")
    guard let value = Int(text) else { throw error("\"\(text)\" is no number; it must be \(what)") }
    guard range.contains(value) else {
      throw error("\(value) is not \(what): \(range.lowerBound) to \(range.upperBound)")
    }
    return value
  }

  /// A name of a network, node or peer: it becomes part of messages and keys, never of a path.
  func name(_ what: String) throws(ConfigurationError) -> String {
    let text = try text(what)
    guard Names.isValid(text), text.utf8.count <= 63 else {
      throw error(
        "\"\(text)\" is not \(what): at most 63 letters, digits, '.', '_' and '-', the first a letter or digit")
    }
    return text
  }

  func address() throws(ConfigurationError) -> IPAddress {
    let text = try text("an IPv4 or IPv6 address")
    guard let address = IPAddress(text) else { throw error("\"\(text)\" is not an IPv4 or IPv6 address") }
    return address
  }

  /// A block of addresses. One with bits beyond its length is somebody's slip.
  func prefix() throws(ConfigurationError) -> IPPrefix {
    let text = try text("a prefix such as 10.1.0.0/16 or fd00:1::/64")
    guard let prefix = IPPrefix(text), text.contains("/") || IPAddress(text) != nil else {
      throw error("\"\(text)\" is not a prefix such as 10.1.0.0/16 or fd00:1::/64")
    }
    let given = text.split(separator: "/").first.flatMap { IPAddress(String($0)) }
    guard given == prefix.address else { throw error("\"\(text)\" has bits beyond its length: \(prefix) is meant?") }
    return prefix
  }

  func mac() throws(ConfigurationError) -> MACAddress {
    let text = try text("a MAC address such as \"02:00:00:00:00:01\"")
    guard let mac = MACAddress(text) else { throw error("\"\(text)\" is not a MAC address such as 02:00:00:00:00:01") }
    guard !mac.isGroup, !mac.isZero else { throw error("\(mac) is no single interface's MAC address") }
    return mac
  }

  /// Levenshtein's, for guesses at what was meant.
  private func distance(_ a: String, _ b: String) -> Int {
    let a = Array(a.utf8)
    let b = Array(b.utf8.prefix(64))
    var row = Array(0...b.count)
    for (i, x) in a.enumerated() {
      var diagonal = row[0]
      row[0] = i + 1
      for (j, y) in b.enumerated() {
        let replaced = diagonal + (x == y ? 0 : 1)
        diagonal = row[j + 1]
        row[j + 1] = min(replaced, row[j] + 1, row[j + 1] + 1)
      }
    }
    return row[b.count]
  }
}

struct ConfigurationMapping {
  let owner: ConfigurationNode
  let values: [String: ConfigurationNode]

  subscript(key: String) -> ConfigurationNode? { values[key] }

  func required(_ key: String, _ what: String) throws(ConfigurationError) -> ConfigurationNode {
    guard let value = values[key] else {
      throw ConfigurationError(
        path: owner.path.isEmpty ? key : "\(owner.path).\(key)", line: owner.node.mark?.line, "is missing: \(what)")
    }
    return value
  }

  /// The items of a list that may be left out.
  func items(_ key: String) throws(ConfigurationError) -> [ConfigurationNode] { try values[key]?.list() ?? [] }
}
