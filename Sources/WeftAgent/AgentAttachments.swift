import Glibc
import WeftAPI
import WeftWire

// What is asked of attachments: each request is done before the next one begins.

extension Agent {
  private func record(where condition: String, _ key: [String], _ what: String) throws(APIError) -> AttachmentRecord {
    guard let record = try store.attachmentsNow(where: condition, .init(key)).first else {
      throw APIError(.notFound, "there is no attachment \(what)")
    }
    return record
  }

  /// Has the forwarder forward for an attachment; it does when this returns.
  func activate(containerID: String, interface: String) throws(APIError) -> AttachmentRecord {
    let record = try record(
      where: "container_id = ? AND interface = ?", [containerID, interface],
      "of container \(containerID) and interface \(interface)")
    return try activate(record, waits: false)
  }

  /// `waits`: it is remembered as to be activated even if it cannot be now.
  func activate(id: String, waits: Bool) throws(APIError) -> AttachmentRecord {
    try activate(try record(where: "id = ?", [id], id), waits: waits)
  }

  private func activate(_ record: AttachmentRecord, waits: Bool) throws(APIError) -> AttachmentRecord {
    if record.state != .active { try store.setState([record.id], .programming) }
    let failure: APIError?
    do {
      try installOrThrow(record)
      failure = nil
    } catch { failure = Store.fault("activate attachment \(record.id)", error) }
    if let failure, !waits, failure.code != .forwarderRefused, failure.code != .conflict, !record.isWanted {
      // Whoever asks is told, and asks again.
      try store.setState([record.id], record.state == .disabled ? .disabled : .reserved)
      throw failure
    }
    // One that forwarded before is as good as active without a forwarder: a replay will put it there.
    let isKept = failure?.code == .forwarderUnavailable && record.isWanted
    let state = isKept ? record.state : .after(failure)
    try store.setState([record.id], state, isWanted: true, reason: isKept ? record.reason : failure?.reason)
    if let failure, !waits { throw failure }
    return try self.record(where: "id = ?", [record.id], record.id)
  }

  /// Stops forwarding for it; its addresses stay its own.
  func deactivate(id: String) throws(APIError) {
    let record = try record(where: "id = ?", [id], id)
    try store.setState([record.id], .disabled, isWanted: false)
    try uninstall(record.id)
  }

  /// What the field's plugin reports: where the interface is. Then it is activated.
  func place(
    id: String, containerID: String, interface: String, netns: String, hostInterface: String
  ) throws(APIError) -> AttachmentRecord {
    var record = try record(where: "id = ?", [id], id)
    // First what may be refused: then nothing has changed.
    try store.setPlace(id, containerID: containerID, interface: interface, netns: netns, hostInterface: hostInterface)
    if record.hostInterface != hostInterface { try uninstall(id) }
    record.containerID = containerID
    record.interface = interface
    record.netns = netns
    record.hostInterface = hostInterface
    return try activate(record, waits: true)
  }

  /// Takes it out of the forwarder and forgets it; its addresses are free. One that is not there is no error.
  /// Without a forwarder it is forgotten all the same: the next replay sweeps it.
  @discardableResult
  func delete(containerID: String, interface: String) throws(APIError) -> Bool {
    try delete(store.attachmentsNow(where: "container_id = ? AND interface = ?", [containerID, interface])) > 0
  }

  /// How many there were.
  func delete(vmUUID: String, onlyContainer containerID: String?) throws(APIError) -> Int {
    try delete(
      store.attachmentsNow(where: "vm_uuid = ?", [vmUUID]).filter {
        containerID == nil || !$0.isWanted || $0.containerID == containerID
      })
  }

  func delete(id: String) throws(APIError) -> Bool { try delete(store.attachmentsNow(where: "id = ?", [id])) > 0 }

  private func delete(_ records: [AttachmentRecord]) throws(APIError) -> Int {
    for record in records {
      // If we die now, the next one goes on with it.
      if record.isWanted { try store.setState([record.id], .deleting) }
      let isClean = try uninstall(record.id)
      try store.remove(record, retire: !isClean)
      logger.info(
        "attachment deleted",
        metadata: ["id": "\(record.id)", "container": "\(record.containerID)", "network": "\(record.network)"])
    }
    return records.count
  }

  /// Goes on with what an agent before this one was deleting when it ended.
  func finishDeletions() throws(APIError) { _ = try delete(store.attachmentsNow(where: "state = 'deleting'")) }

  /// Drops reservations of pods that never came: those older than `seconds`, and the oldest beyond `limit`.
  func expireReservations(olderThan seconds: Int64, limit: Int) throws(APIError) {
    let waiting = try store.attachmentsNow(where: "state = 'reserved' AND origin = 'pod'")
    let now = Int64(WallClock.nanoseconds() / 1_000_000_000)
    let excess = max(0, waiting.count - limit)
    let due = waiting.enumerated().filter { $0 < excess || now - $1.created > seconds }.map(\.element)
    guard !due.isEmpty else { return }
    logger.info("dropping \(due.count) reservations of pods that never came")
    _ = try delete(due)
  }

  /// Drops what only the forwarder knew of (`Recovery`) and whose interface is gone: nobody will delete it.
  func forgetRecovered() throws(APIError) {
    _ = try delete(
      store.attachmentsNow(where: "origin = 'recovered'").filter { record in
        if let vhost = record.vhost { return access(vhost.socket, F_OK) != 0 }
        if record.tapQueues != nil { return access(record.netns, F_OK) != 0 }
        return if_nametoindex(record.parent ?? record.hostInterface) == 0
      })
  }

  /// The interface of something that only the forwarder knew of has an owner again, who is to have its addresses.
  func claim(hostInterface: String, mac: MACAddress?) throws(APIError) -> [IPAddress] {
    let found = try store.attachmentsNow(where: "origin = 'recovered' AND host_interface = ?", [hostInterface])
    guard let record = found.first, mac == nil || mac == record.mac else { return [] }
    _ = try delete(found)
    return record.addresses
  }

  /// Ports are put into the forwarder again.
  func synchronizePorts() throws(APIError) {
    for record in try store.attachmentsNow(where: "\(Self.wanted) AND origin = 'port'") {
      _ = try activate(record, waits: true)
    }
  }
}
