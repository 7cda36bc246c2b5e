/// One thing that was looked at: how it is, and what to do where it is not well.
struct Finding {
  enum State: String {
    case ok, warn, bad
    /// It could not be found out.
    case unknown
  }

  var name: String
  var state: State
  var text: String
  /// Empty where there is nothing to do.
  var advice: String

  init(_ name: String, _ state: State, _ text: String, do advice: String = "") {
    self.name = name
    self.state = state
    self.text = text
    self.advice = state == .ok ? "" : advice
  }

  var value: Value {
    .object([
      .init(key: "name", value: .text(name)), .init(key: "state", value: .text(state.rawValue)),
      .init(key: "text", value: .text(text)), .init(key: "advice", value: advice.isEmpty ? .nothing : .text(advice)),
    ])
  }

  /// Aligned lines, advice under what it is for.
  static func text(_ findings: [Finding]) -> String {
    let width = findings.map(\.name.count).max() ?? 0
    return findings.map { finding in
      let name = finding.name + String(repeating: " ", count: width - finding.name.count)
      let state = finding.state == .unknown ? "?" : finding.state.rawValue
      let line = "\(name)  \(state)\(String(repeating: " ", count: max(0, 4 - state.count)))  \(finding.text)\n"
      guard !finding.advice.isEmpty else { return line }
      return line + String(repeating: " ", count: width + 8) + "-> \(finding.advice)\n"
    }.joined()
  }

  /// 0: all is well, though there may be warnings; 1: something is bad; 2: nothing is bad that is known, but not all is
  /// known.
  static func status(_ findings: [Finding]) -> Int32 {
    if findings.contains(where: { $0.state == .bad }) { return 1 }
    return findings.contains { $0.state == .unknown } ? 2 : 0
  }
}
