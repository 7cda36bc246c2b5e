import Foundation
import Synchronization
import WeftNetlink
import WeftWire

/// Source NAT of what goes from networks through the host to elsewhere: a table of nftables that is only ours.
final class Masquerade: Sendable {
  struct Rule: Hashable, Sendable {
    /// What came in by it.
    var interface: String
    var sources: [IPPrefix]
  }

  struct Failure: Error, CustomStringConvertible {
    let description: String
  }

  private let table: String
  private let state = Mutex(State())

  private struct State {
    /// What is in force; nil: not known, as at first, when an agent before us may have left its table.
    var rules: [Rule]?
    var checked: UInt64 = 0
  }

  init(table: String) { self.table = table }

  /// Replaces the table in one transaction where it is not what it should be, and looks now and then whether somebody
  /// has flushed it.
  func ensure(_ rules: [Rule]) throws {
    try state.withLock { state in
      let now = UnderlayWatcher.now()
      if state.rules == rules {
        guard !rules.isEmpty, now >= state.checked + Self.pause else { return }
        state.checked = now
        if (try? Self.run(["list", "table", "inet", table], "")) != nil { return }
      }
      if rules.isEmpty {
        // Without nft there is no table of ours either.
        if Self.program == nil {
          state.rules = rules
          return
        }
        _ = try Self.run(["-f", "-"], "table inet \(table)\ndelete table inet \(table)\n")
      } else {
        _ = try Self.run(["-f", "-"], script(rules))
      }
      state.rules = rules
      state.checked = now
    }
  }

  private static let pause: UInt64 = 20_000_000_000

  private func script(_ rules: [Rule]) -> String {
    var lines = [
      "table inet \(table)", "delete table inet \(table)", "table inet \(table) {", "chain postrouting {",
      "type nat hook postrouting priority srcnat; policy accept;",
    ]
    for rule in rules {
      for (family, isV4) in [("ip", true), ("ip6", false)] {
        let sources = rule.sources.filter { $0.isV4 == isV4 }.map(\.description)
        guard !sources.isEmpty else { continue }
        let device = Self.quote(rule.interface)
        lines.append(
          "iifname \(device) oifname != \(device) \(family) saddr { \(sources.joined(separator: ", ")) } masquerade")
      }
    }
    return (lines + ["}", "}", ""]).joined(separator: "\n")
  }

  /// A name that the kernel takes may hold what nft's grammar does not; a quote ends the string whatever precedes it.
  private static func quote(_ name: String) -> String { "\"\(name.filter { $0 != "\"" })\"" }

  private static let program = ["/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft", "/usr/local/sbin/nft"].first {
    FileManager.default.isExecutableFile(atPath: $0)
  }

  private static func run(_ arguments: [String], _ input: String) throws -> String {
    guard let program else {
      throw Failure(description: "there is no nft: install nftables, or set masquerade: false")
    }
    let process = Process()
    process.executableURL = URL(fileURLWithPath: program)
    process.arguments = arguments
    let (standardInput, output) = (Pipe(), Pipe())
    process.standardInput = standardInput
    process.standardOutput = output
    process.standardError = output
    try process.run()
    // Far less than a pipe holds.
    try standardInput.fileHandleForWriting.write(contentsOf: Data(input.utf8))
    try standardInput.fileHandleForWriting.close()
    let text = String(decoding: (try output.fileHandleForReading.readToEnd()) ?? Data(), as: UTF8.self)
    process.waitUntilExit()
    guard process.terminationStatus == 0 else {
      throw Failure(
        description: "nft \(arguments.joined(separator: " ")): "
          + (text.split(separator: "\n").first.map(String.init) ?? "status \(process.terminationStatus)"))
    }
    return text
  }
}
