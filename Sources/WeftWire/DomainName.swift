/// A domain name such as "pods.example.org", without the root's dot: labels of 1 to 63 letters, digits, '-' and '_', at most
/// 253 octets together (RFC 1035 section 2.3.4; '_' as RFC 2181 section 11 lets it).
public struct DomainName: Hashable, Sendable, CustomStringConvertible {
  public let labels: [String]

  /// Nil for anything else. A dot at the end is left out.
  public init?(_ text: String) {
    var text = Substring(text)
    if text.hasSuffix(".") { text.removeLast() }
    let labels = text.split(separator: ".", omittingEmptySubsequences: false).map(String.init)
    guard text.utf8.count <= 253, labels.allSatisfy(Self.isLabel) else { return nil }
    self.labels = labels
  }

  public static func isLabel(_ label: String) -> Bool {
    (1...63).contains(label.utf8.count) && label.first != "-" && label.last != "-"
      && label.utf8.allSatisfy {
        (0x30...0x39).contains($0) || (0x61...0x7A).contains($0 | 0x20) || $0 == 0x2D || $0 == 0x5F
      }
  }

  public var description: String { labels.joined(separator: ".") }

  /// As it travels, uncompressed (RFC 1035 section 3.1): a length octet before each label, and 0.
  public var octets: [UInt8] { labels.flatMap { [UInt8($0.utf8.count)] + Array($0.utf8) } + [0] }
}
