import FoundationEssentials

/// Figures as Prometheus reads them: its text format 0.0.4. A family is begun once, then its samples follow.
struct MetricsText {
  enum Kind: String { case counter, gauge, histogram }

  /// A label and its value.
  typealias Label = (String, String)

  static let contentType = "text/plain; version=0.0.4; charset=utf-8"

  private(set) var text = ""
  private var name = ""

  /// Begins a family. The name is written as it is: letters, digits and '_'.
  mutating func family(_ name: String, _ kind: Kind, _ help: String) {
    self.name = name
    text += "# HELP \(name) \(Self.escaped(help, quotes: false))\n# TYPE \(name) \(kind.rawValue)\n"
  }

  mutating func sample(_ value: some BinaryInteger, _ labels: [Label] = [], suffix: String = "") {
    line(suffix, labels, "\(value)")
  }

  mutating func sample(_ value: Double, _ labels: [Label] = [], suffix: String = "") {
    line(suffix, labels, Self.number(value))
  }

  /// A family with one sample.
  mutating func single(_ name: String, _ kind: Kind, _ help: String, _ value: some BinaryInteger) {
    family(name, kind, help)
    sample(value)
  }

  mutating func single(_ name: String, _ kind: Kind, _ help: String, _ value: Double) {
    family(name, kind, help)
    sample(value)
  }

  private mutating func line(_ suffix: String, _ labels: [Label], _ value: String) {
    text += name
    text += suffix
    if !labels.isEmpty {
      text += "{"
      for (index, label) in labels.enumerated() {
        if index > 0 { text += "," }
        text += label.0
        text += "=\""
        text += Self.escaped(label.1, quotes: true)
        text += "\""
      }
      text += "}"
    }
    text += " "
    text += value
    text += "\n"
  }

  static func number(_ value: Double) -> String {
    if value.isInfinite { return value < 0 ? "-Inf" : "+Inf" }
    return value.isNaN ? "NaN" : value == value.rounded() && abs(value) < 1e15 ? "\(Int64(value))" : "\(value)"
  }

  private static func escaped(_ text: String, quotes: Bool) -> String {
    guard text.utf8.contains(where: { $0 == 0x5C || $0 == 0x0A || $0 == 0x22 }) else { return text }
    var result = ""
    for scalar in text.unicodeScalars {
      switch scalar {
      case "\\": result += "\\\\"
      case "\n": result += "\\n"
      case "\"" where quotes: result += "\\\""
      default: result.unicodeScalars.append(scalar)
      }
    }
    return result
  }
}
