import FoundationEssentials
import Testing
import WeftForwarding

/// docs/drop-reasons.md is made from the enum; WEFT_WRITE_DOCS=1 writes it anew.
@Suite("Documentation")
struct DocumentationTests {
  private static let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
    .deletingLastPathComponent()

  @Test("docs/drop-reasons.md has every reason")
  func dropReasons() throws {
    let file = Self.root.appending(path: "docs/drop-reasons.md")
    var text = """
      # Why packets go no further

      Made from `Sources/WeftForwarding/DropReason.swift`. `weft drops` shows the counters of a running forwarder, a
      replay's report.json those of a replay. `outer_…` is about the packet that carries a tunnel, the others about a
      pod's own packet.

      | reason | what it means |
      |---|---|

      """
    for reason in DropReason.allCases { text += "| `\(reason.name)` | \(reason.explanation) |\n" }
    if ProcessInfo.processInfo.environment["WEFT_WRITE_DOCS"] != nil {
      try Data(text.utf8).write(to: file)
    }
    #expect(String(decoding: try Data(contentsOf: file), as: UTF8.self) == text)
  }

  @Test("names are distinct, lower case, and fit the statistics region")
  func names() {
    let names = DropReason.allCases.map(\.name)
    #expect(Set(names).count == names.count)
    for reason in DropReason.allCases {
      #expect(reason.name.utf8.allSatisfy { (0x61...0x7A).contains($0) || $0 == 0x5F || (0x30...0x39).contains($0) })
      #expect(reason.name.utf8.count < 32 && reason.explanation.utf8.count < 128)
    }
  }
}
