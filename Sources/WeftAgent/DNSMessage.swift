/// What a proxy needs to know of a DNS message (RFC 1035 section 4.1): its header, and where its question is.
///
///     offset  0  id          2 bytes
///             2  QR 1 bit, opcode 4, AA 1, TC 1, RD 1
///             3  RA 1 bit, Z 3, RCODE 4
///             4  QDCOUNT, ANCOUNT, NSCOUNT, ARCOUNT, 2 bytes each
///            12  question: labels, type, class
package struct DNSMessage: Sendable {
  static let headerBytes = 12
  /// RFC 1035 section 3.1: a name's labels with their lengths.
  static let maximumName = 255

  package enum ResponseCode: UInt8 {
    case formatError = 1
    case serverFailure = 2
    case notImplemented = 4
    case refused = 5
  }

  package private(set) var bytes: [UInt8]

  /// Nil: not even a header.
  package init?(_ bytes: [UInt8]) {
    guard bytes.count >= Self.headerBytes else { return nil }
    self.bytes = bytes
  }

  var id: UInt16 {
    get { UInt16(bytes[0]) << 8 | UInt16(bytes[1]) }
    set {
      bytes[0] = UInt8(newValue >> 8)
      bytes[1] = UInt8(truncatingIfNeeded: newValue)
    }
  }

  package var isResponse: Bool { bytes[2] & 0x80 != 0 }
  var opcode: UInt8 { bytes[2] >> 3 & 0x0F }
  private var questions: Int { Int(bytes[4]) << 8 | Int(bytes[5]) }

  /// The one question, name, type and class; nil where there is not exactly one, or where it is malformed.
  package var question: ArraySlice<UInt8>? {
    guard questions == 1 else { return nil }
    var at = Self.headerBytes
    while at < bytes.count {
      let length = Int(bytes[at])
      if length == 0 {
        guard bytes.count >= at + 5, at + 1 - Self.headerBytes <= Self.maximumName else { return nil }
        return bytes[Self.headerBytes..<at + 5]
      }
      // A name in the first question has nothing before it that it could point to.
      guard length < 64 else { return nil }
      at += 1 + length
    }
    return nil
  }

  /// An answer without records.
  package func failure(_ code: ResponseCode) -> [UInt8] {
    let question = question
    var answer = Array(bytes[0..<Self.headerBytes]) + (question.map(Array.init) ?? [])
    // The question's opcode and RD; QR and RA.
    answer[2] = 0x80 | bytes[2] & 0x79
    answer[3] = 0x80 | code.rawValue
    for index in 4..<Self.headerBytes { answer[index] = 0 }
    if question != nil { answer[5] = 1 }
    return answer
  }

  /// What is said at once to a question that is not passed on: an answer, or nothing at all.
  package enum Verdict {
    case forward
    case answer([UInt8])
    case drop
  }

  /// Whether a message of a client's is a question that a resolver could be asked.
  package var verdict: Verdict {
    // Answering answers could go on for ever.
    if isResponse { return .drop }
    if opcode != 0 { return .answer(failure(.notImplemented)) }
    guard question != nil else { return .answer(failure(.formatError)) }
    return .forward
  }

  /// Whether it answers this question, whatever the ids are. Resolvers may leave the question out of an error.
  package func answers(_ query: DNSMessage) -> Bool {
    guard isResponse, opcode == query.opcode else { return false }
    if questions == 0 { return bytes[3] & 0x0F != 0 }
    return question == query.question
  }
}
