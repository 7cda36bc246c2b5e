import WeftRing

/// One client's commands, taken in order. An agent's are applied, an observer may only read.
final class Session {
  let channel: ServerChannel
  let id: UInt64
  var isOver = false
  /// A barrier that waits until all workers have passed its mark.
  private(set) var barrier: (sequence: UInt64, mark: UInt64)?
  /// It gets what is told of flows.
  private(set) var watchesFlows: Bool
  /// Of flows, since the last one that it was told of.
  private var missedFlows: UInt32 = 0
  /// What commands take that does not fit a slot.
  private var staged: [UInt8] = []
  /// Commands may still wait though nobody will say so.
  private(set) var hasMore = false

  /// Commands in one go, so that one client does not keep the others waiting.
  private static let share = 512

  init(_ channel: ServerChannel, id: UInt64) {
    self.channel = channel
    self.id = id
    watchesFlows = channel.role == .agent
  }

  func serve(_ programmer: TableProgrammer, _ forwarder: Forwarder) throws(RingCorrupt) {
    channel.acknowledgeWakeup()
    hasMore = false
    if let barrier {
      guard forwarder.hasPassed(barrier.mark) else { return }
      try channel.complete(.done(sequence: barrier.sequence, cursor: 0))
      self.barrier = nil
      channel.wakeClient()
    }
    var taken = 0
    // One completion for the command, and one kept for a barrier's.
    while taken < Self.share, try channel.canComplete(2) {
      guard let (sequence, command) = try channel.next() else { break }
      taken += 1
      switch command {
      case .failure(let refusal): try channel.complete(.refused(sequence: sequence, refusal))
      case .success(.barrier):
        programmer.commit()
        barrier = (sequence, forwarder.mark())
        hasMore = true
        channel.wakeClient()
        return
      case .success(.dump(let table, let cursor, let limit)):
        try dump(table, cursor, Int(limit), sequence, programmer, forwarder)
      case .success(.stage(let offset, let bytes)): try channel.complete(stage(Int(offset), bytes, sequence))
      case .success(.startCapture(let capture)): try channel.complete(start(capture, sequence, forwarder))
      case .success(.stopCapture(let id)): try channel.complete(stop(id, sequence, forwarder))
      case .success(.transmit(let interface, let length)):
        try channel.complete(transmit(interface, Int(length), sequence, forwarder))
      case .success(.watchFlows):
        watchesFlows = true
        try channel.complete(.done(sequence: sequence, cursor: 0))
      case .success(.trace(let interface, let length)): try trace(interface, Int(length), sequence, forwarder)
      case .success(let command):
        try channel.complete(apply(command, sequence, programmer))
      }
    }
    if taken > 0 {
      programmer.commitIfDue()
      channel.wakeClient()
    }
    // Without room for completions the client has to read first; it signals when it has.
    let hasRoom = try channel.canComplete(2)
    hasMore = try channel.hasCommands() ? hasRoom : false
  }

  /// Tells a client of a flow, where its ring has room for that; else with the next one, that there was more.
  func tell(_ report: FlowReport) {
    var report = report
    report.missed = UInt32(clamping: UInt64(report.missed) + UInt64(missedFlows))
    do throws(RingCorrupt) {
      if try channel.freeEvents() > RingLayout.eventSlots / 4 {
        try channel.emit(.flow(report))
        missedFlows = 0
      } else {
        missedFlows = report.missed == .max ? .max : report.missed + 1
      }
    } catch { isOver = true }
  }

  private func apply(_ command: Command, _ sequence: UInt64, _ programmer: TableProgrammer) -> Completion {
    guard channel.role == .agent else {
      return .refused(sequence: sequence, Refusal(.readOnly, "this channel may only read; only an agent's may change"))
    }
    do throws(Refusal) {
      try programmer.apply(command)
      return .done(sequence: sequence, cursor: 0)
    } catch {
      return .refused(sequence: sequence, error)
    }
  }

  private func stage(_ offset: Int, _ bytes: [UInt8], _ sequence: UInt64) -> Completion {
    if offset == 0 { staged = [] }
    guard offset == staged.count, offset + bytes.count <= StagedBytes.maximum else {
      return .refused(
        sequence: sequence,
        Refusal(
          .outOfRange,
          "\(bytes.count) bytes for offset \(offset), but \(staged.count) have come and \(StagedBytes.maximum) is the most"
        ))
    }
    staged += bytes
    return .done(sequence: sequence, cursor: 0)
  }

  private func start(_ capture: CaptureConfiguration, _ sequence: UInt64, _ forwarder: Forwarder) -> Completion {
    let filter = staged
    staged = []
    do throws(Refusal) {
      return .done(sequence: sequence, cursor: UInt64(try forwarder.startCapture(capture, filter: filter, self)))
    } catch {
      return .refused(sequence: sequence, error)
    }
  }

  private func stop(_ id: UInt32, _ sequence: UInt64, _ forwarder: Forwarder) -> Completion {
    do throws(Refusal) {
      try forwarder.stopCapture(id, self)
      return .done(sequence: sequence, cursor: 0)
    } catch {
      return .refused(sequence: sequence, error)
    }
  }

  private func transmit(
    _ interface: UInt32, _ length: Int, _ sequence: UInt64, _ forwarder: Forwarder
  ) -> Completion {
    let frame = staged
    staged = []
    do throws(Refusal) {
      guard channel.role == .agent else {
        throw Refusal(.readOnly, "this channel may only read; only an agent's may send")
      }
      guard frame.count == length else {
        throw Refusal(.malformed, "a frame of \(length) bytes, of which \(frame.count) have been staged")
      }
      try forwarder.transmit(frame, interface: interface)
      return .done(sequence: sequence, cursor: 0)
    } catch {
      return .refused(sequence: sequence, error)
    }
  }

  private func trace(
    _ interface: UInt32, _ length: Int, _ sequence: UInt64, _ forwarder: Forwarder
  ) throws(RingCorrupt) {
    let frame = staged
    staged = []
    do throws(Refusal) {
      guard frame.count == length else {
        throw Refusal(.malformed, "a frame of \(length) bytes, of which \(frame.count) have been staged")
      }
      let trace = try forwarder.trace(frame, interface: interface)
      let parts = trace.frames.map { max(1, ($0.bytes.count + TraceFrame.partBytes - 1) / TraceFrame.partBytes) }
      let needed = trace.steps.count + parts.reduce(0, +)
      let room: Int
      do { room = try channel.freeCompletions() - 2 } catch { throw Refusal(.malformed, "the ring holds no sense") }
      guard needed <= room else {
        throw Refusal(.tableFull, "\(needed) answers, for which the ring has no room; trace a shorter frame")
      }
      for step in trace.steps { complete(.traceStep(sequence: sequence, step)) }
      for (number, frame) in trace.frames.enumerated() {
        for part in 0..<parts[number] {
          let offset = part * TraceFrame.partBytes
          let bytes = frame.bytes[offset..<min(frame.bytes.count, offset + TraceFrame.partBytes)]
          complete(
            .traceFrame(
              sequence: sequence,
              TraceFrame(
                interface: frame.interface, number: UInt32(number), length: UInt32(frame.bytes.count),
                offset: UInt32(offset), bytes: Array(bytes))))
        }
      }
      complete(.done(sequence: sequence, cursor: 0))
    } catch {
      try channel.complete(.refused(sequence: sequence, error))
    }
  }

  /// Where there is room; a ring that is damaged meanwhile is found by the next look at it.
  private func complete(_ completion: Completion) { try? channel.complete(completion) }

  private func dump(
    _ table: TableName, _ cursor: UInt64, _ limit: Int, _ sequence: UInt64, _ programmer: TableProgrammer,
    _ forwarder: Forwarder
  ) throws(RingCorrupt) {
    let room = max(1, min(limit, try channel.freeCompletions() - 2))
    var entries: [TableEntry] = []
    let next: UInt64
    if table == .flows {
      let (records, following) = forwarder.flows(cursor: cursor, limit: room)
      entries = records.map(TableEntry.flow)
      next = following
    } else {
      next = programmer.dump(table, cursor: cursor, limit: room) { entries.append($0) }
    }
    for entry in entries { try channel.complete(.entry(sequence: sequence, entry)) }
    try channel.complete(.done(sequence: sequence, cursor: next))
  }
}
