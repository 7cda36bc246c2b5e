import Foundation
import GRDB
import Testing
import WeftAPI
import WeftAgent
import WeftWire

struct LifeCycleTests {
  static let all: [AttachmentState] = [.reserved, .waiting, .programming, .active, .failed, .disabled, .deleting]

  private func store(_ folder: TemporaryFolder) throws -> Store {
    try Store(AgentConfiguration(yaml: configurationText(folder.path)))
  }

  private func reserve(_ store: Store, _ container: String = "a") async throws -> AttachmentRecord {
    let record = AttachmentRecord(
      id: "id-\(container)", containerID: container, interface: "eth0", netns: "/n", network: "blue",
      hostInterface: "weft\(container)", mac: MACAddress(bits: 0x0200_0000_0000 + UInt64(container.utf8.first ?? 0)),
      addresses: [], vmUUID: "u", origin: .cni, isWanted: false, created: 1_700_000_000)
    try await store.database.write { try record.insert($0) }
    return record
  }

  /// Every step from every state: the table of docs/life-cycle.md, and nothing else.
  @Test(arguments: all) func onlyTheStatedStepsArePossible(_ from: AttachmentState) async throws {
    let allowed: [AttachmentState: Set<AttachmentState>] = [
      .reserved: [.reserved, .programming, .waiting, .disabled, .deleting],
      .programming: [.programming, .active, .waiting, .failed, .reserved, .disabled, .deleting],
      .active: [.active, .programming, .waiting, .failed, .disabled, .deleting],
      .waiting: [.waiting, .active, .programming, .failed, .disabled, .deleting],
      .failed: [.failed, .active, .programming, .waiting, .disabled, .deleting],
      .disabled: [.disabled, .programming, .waiting, .deleting],
      .deleting: [.deleting],
    ]
    let folder = try TemporaryFolder()
    let store = try store(folder)
    let record = try await reserve(store)
    for to in Self.all {
      try await store.database.write {
        try $0.execute(sql: "UPDATE attachment SET state = ?, since = 1", arguments: [from.rawValue])
      }
      if allowed[from]?.contains(to) == true {
        try store.setState([record.id], to, reason: "why")
        let after = try #require(try store.attachmentsNow().first)
        #expect(after.state == to && after.reason == "why")
        #expect((after.since == 1) == (from == to), "\(from) to \(to)")
      } else {
        let error = #expect(throws: APIError.self, "\(from) to \(to)") { try store.setState([record.id], to) }
        #expect(error?.code == .conflict && error?.reason.contains("cannot become \(to.rawValue)") == true)
        #expect(try store.attachmentsNow().first?.state == from)
      }
    }
  }

  /// Of several all change or none does.
  @Test func oneThatMayNotChangeKeepsTheOthers() async throws {
    let folder = try TemporaryFolder()
    let store = try store(folder)
    let (one, other) = (try await reserve(store, "a"), try await reserve(store, "b"))
    try store.setState([other.id], .deleting)
    #expect(throws: APIError.self) { try store.setState([one.id, other.id], .programming) }
    #expect(try store.attachmentsNow().map(\.state) == [.reserved, .deleting])
  }

  /// An agent that dies while it programs or deletes: the next one begins with it anew, or finishes it.
  @Test func whatWasUnderWayIsTakenUpAgain() async throws {
    let folder = try TemporaryFolder()
    do {
      let store = try store(folder)
      for (container, isWanted) in [("new", false), ("again", true)] {
        let record = try await reserve(store, container)
        try store.setState([record.id], .programming, isWanted: isWanted)
      }
      try store.setState([try await reserve(store, "going").id], .deleting)
    }
    do {
      let store = try store(folder)
      #expect(try store.attachmentsNow().map(\.state) == [.reserved, .waiting, .deleting])
    }
    let agent = TestAgent(folder, configurationText(folder.path))
    try await agent.start()
    let left: [WeftAPI.Attachment] = try await agent.request("GET", "/v1/attachments").decode()
    #expect(left.map(\.containerID) == ["new", "again"])
    #expect(left.allSatisfy { $0.since != nil })
    await agent.stop()
  }

  /// A database as the first release made it opens, with all that was in it.
  @Test func databaseOfTheFirstSchema() async throws {
    let folder = try TemporaryFolder()
    let path = folder.path + "/agent.db"
    do {
      let queue = try DatabaseQueue(path: path)
      try Schema.migrator.migrate(queue, upTo: "1")
      try await queue.write { db in
        for (number, row) in [
          ("cni", "1", nil), ("cni", "1", "no such interface"), ("cni", "0", nil), ("port", "0", nil),
        ]
        .enumerated() as EnumeratedSequence<[(String, String, String?)]> {
          try db.execute(
            sql: """
              INSERT INTO attachment (id, container_id, interface, netns, network, host_interface, mac, vm_uuid, origin,
              wanted, reason, created) VALUES (?, ?, 'eth0', '/n', 'blue', ?, ?, 'u', ?, ?, ?, 1700000000)
              """,
            arguments: ["id\(number)", "c\(number)", "weft\(number)", "02:00:00:00:00:0\(number)", row.0, row.1, row.2])
          try db.execute(
            sql: "INSERT INTO address VALUES ('blue', ?, ?, 0)", arguments: ["10.1.1.\(number + 1)", "id\(number)"])
        }
      }
    }
    let store = try store(folder)
    let records = try store.attachmentsNow()
    #expect(records.map(\.state) == [.active, .failed, .reserved, .disabled])
    #expect(records.allSatisfy { $0.since == 1_700_000_000 && $0.tapQueues == nil })
    #expect(
      records.map { $0.addresses.map(\.description) } == [["10.1.1.1"], ["10.1.1.2"], ["10.1.1.3"], ["10.1.1.4"]])
  }
}
