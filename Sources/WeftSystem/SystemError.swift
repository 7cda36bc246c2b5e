import Glibc

/// A system call that failed: what was being done, to what, and errno.
public struct SystemError: Error, Sendable, CustomStringConvertible {
  public let operation: String
  public let object: String
  public let code: Int32
  /// What to do about it, where that is known.
  public let advice: String?

  public init(_ operation: String, _ object: String, code: Int32 = errno, advice: String? = nil) {
    self.operation = operation
    self.object = object
    self.code = code
    self.advice = advice
  }

  public static func text(_ code: Int32) -> String {
    var buffer = [CChar](repeating: 0, count: 128)
    guard unsafe strerror_r(code, &buffer, buffer.count) == 0 else { return "error \(code)" }
    return String(decoding: buffer.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }

  public var description: String { "\(operation) \(object): \(Self.text(code))\(advice.map { "; \($0)" } ?? "")" }
}
