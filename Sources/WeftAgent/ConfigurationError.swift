/// What is wrong with a configuration file: where, what, and what would be right.
public struct ConfigurationError: Error, Hashable, Sendable, CustomStringConvertible {
  public var file: String
  /// The place in the file, such as "networks[1].subnets[0].range"; "" for the file as a whole.
  public var path: String
  /// Counted from 1; nil when it is not known.
  public var line: Int?
  public var reason: String

  public init(file: String = "", path: String = "", line: Int? = nil, _ reason: String) {
    self.file = file
    self.path = path
    self.line = line
    self.reason = reason
  }

  public var description: String {
    var place = file.isEmpty ? "the configuration" : file
    if let line { place += ", line \(line)" }
    return path.isEmpty ? "\(place): \(reason)" : "\(place): \(path): \(reason)"
  }
}
