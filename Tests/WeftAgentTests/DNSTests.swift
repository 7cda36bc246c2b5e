import Foundation
import Testing
import WeftAgent
import WeftWire

struct DNSTests {
  /// id 7, RD, one question: name.test A.
  private let question: [UInt8] =
    [0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0] + [4] + Array("name".utf8) + [4] + Array("test".utf8) + [0, 0, 1, 0, 1]

  @Test func whatIsPassedOn() throws {
    let message = try #require(DNSMessage(question))
    guard case .forward = message.verdict else {
      Issue.record("a question is not passed on")
      return
    }
    #expect(message.question.map(Array.init) == Array(question[12...]))
    #expect(DNSMessage(Array(question.prefix(11))) == nil)
  }

  @Test func whatIsAnsweredAtOnce() throws {
    func changed(_ at: Int, _ value: UInt8) -> [UInt8] {
      var bytes = question
      bytes[at] = value
      return bytes
    }
    let rows: [(String, [UInt8], UInt8?)] = [
      ("an answer", changed(2, 0x81), nil), ("an update", changed(2, 0x28), 4), ("no question", changed(5, 0), 1),
      ("two questions", changed(5, 2), 1), ("a pointer", changed(12, 0xC0), 1), ("cut", question.dropLast(), 1),
      ("header alone", Array(question.prefix(12)), 1),
      (
        "a name of 256 bytes",
        Array(question.prefix(12)) + (0..<4).flatMap { _ in [63] + [UInt8](repeating: 97, count: 63) }
          + [0, 0, 1, 0, 1], 1
      ),
    ]
    for (what, bytes, code) in rows {
      let message = try #require(DNSMessage(bytes))
      switch (message.verdict, code) {
      case (.drop, nil): break
      case (.answer(let answer), let code?):
        #expect(Array(answer.prefix(2)) == [0, 7] && answer[2] & 0x80 != 0 && answer[3] & 15 == code, "\(what)")
      default: Issue.record("\(what): \(message.verdict)")
      }
    }
  }

  @Test func whichAnswersAreTaken() throws {
    let query = try #require(DNSMessage(question))
    var answer = question
    answer[2] = 0x81
    #expect(try #require(DNSMessage(answer)).answers(query))
    #expect(!query.answers(query))
    answer[13] = UInt8(ascii: "N")
    #expect(!(try #require(DNSMessage(answer)).answers(query)))
    // An error without the question.
    #expect(try #require(DNSMessage([0, 7, 0x81, 0x82, 0, 0, 0, 0, 0, 0, 0, 0])).answers(query))
    #expect(!(try #require(DNSMessage([0, 7, 0x81, 0x80, 0, 0, 0, 0, 0, 0, 0, 0])).answers(query)))
    let failure = try #require(DNSMessage(query.failure(.serverFailure)))
    #expect(failure.answers(query) && failure.bytes[3] & 15 == 2)
  }

  /// Mutants of a question: no trap, and what is passed on has a question within the message.
  @Test func mutants() throws {
    var random = SystemRandomNumberGenerator()
    for _ in 0..<200_000 {
      var bytes = question
      for _ in 0..<Int.random(in: 1...5, using: &random) {
        bytes[Int.random(in: 0..<bytes.count, using: &random)] = .random(in: 0 ... .max, using: &random)
      }
      bytes = Array(bytes.prefix(Int.random(in: 0...bytes.count, using: &random)))
      guard let message = DNSMessage(bytes) else { continue }
      switch message.verdict {
      case .drop: #expect(message.isResponse)
      case .answer(let answer): #expect(answer.count >= 12 && answer.count <= bytes.count + 5)
      case .forward: #expect(message.question.map { $0.startIndex == 12 && $0.endIndex <= bytes.count } == true)
      }
      _ = message.answers(message)
    }
  }

  @Test func serversOfAFile() async throws {
    let text = """
      # nameserver 192.0.2.9
      search example.org
      nameserver 192.0.2.1
      nameserver\t2001:db8::1  # comment
      nameserver fe80::1%eth0
      nameserver nonsense
      options ndots:5
      """
    #expect(DNSServers.servers(text).map(\.description) == ["192.0.2.1", "2001:db8::1"])
    let folder = try TemporaryFolder()
    let path = folder.path + "/resolv.conf"
    let servers = DNSServers([], path: path)
    #expect(servers.current.isEmpty)
    try "nameserver 192.0.2.7\n".write(toFile: path, atomically: true, encoding: .utf8)
    // Looked at again after a second; a slow machine only makes it later.
    while servers.current.isEmpty { try await Task.sleep(for: .milliseconds(50)) }
    #expect(servers.current == [IPAddress("192.0.2.7")!])
  }

  @Test func signatures() throws {
    // RFC 4231 section 4.3 is of HMAC; this one is `printf %s ID | openssl dgst -sha256 -hmac secret`.
    var record = AttachmentRecord(
      id: "a", containerID: "c", interface: "eth0", netns: "", network: "blue", hostInterface: "h",
      mac: MACAddress("02:00:00:00:00:01")!, addresses: [], vmUUID: "what do ya want for nothing?", origin: .cni,
      isWanted: true, created: 0)
    let headers = MetadataResponder.identity(
      record, client: IPAddress("10.0.0.1")!, tenant: "t", secret: Array("Jefe".utf8))
    #expect(
      headers["X-Instance-ID-Signature"] == ["5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"])
    #expect(headers["X-Tenant-ID"] == ["t"] && headers["X-Forwarded-For"] == ["10.0.0.1"])
    record.podName = "x"
    #expect(
      MetadataResponder.identity(record, client: record.addresses.first ?? IPAddress("::1")!, tenant: nil, secret: [])[
        "X-Tenant-ID"] == [])
  }
}
