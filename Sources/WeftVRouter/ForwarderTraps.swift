import WeftForwarding
import WeftRing
import WeftTables

// Frames between workers and the agent.

extension Forwarder {
  /// Events of a client's ring that frames leave to others.
  private static let reserve = RingLayout.eventSlots / 8

  private var agent: Session? { sessions.first { $0.channel.role == .agent && !$0.isOver } }

  /// Frames wait for room in the agent's ring.
  var hasTraps: Bool { workers.contains { !$0.traps.isEmpty } }

  /// Workers leave frames to the agent while there is one.
  func openTraps() {
    let isOpen = agent != nil
    for worker in workers {
      worker.traps.setOpen(isOpen)
      // What the last one did not take is old news to the next one.
      if !isOpen { while worker.traps.next() != nil {} }
    }
  }

  /// What workers have left to the agent, one of each in turn, as long as its ring has room; the rest waits for it with the
  /// workers.
  func followTraps() {
    guard hasTraps, let agent else { return }
    do throws(RingCorrupt) {
      var room = try agent.channel.freeEvents() - Self.reserve
      while room > 0 {
        let before = room
        for worker in workers where room > 0 {
          guard let (interface, vrf, frame) = worker.traps.next() else { continue }
          try agent.channel.emit(.trap(interface: interface, vrf: vrf, frame: frame))
          room -= 1
        }
        if room == before { return }
      }
    } catch { agent.isOver = true }
  }

  /// A frame of the agent's goes out of an interface, by the worker that has its queue.
  func transmit(_ frame: [UInt8], interface: UInt32) throws(Refusal) {
    guard let worker = ports.owner(of: interface) else {
      throw Refusal(.notFound, "interface \(interface) is not there; set it first")
    }
    guard (14...TrapRing.maximumFrame).contains(frame.count) else {
      throw Refusal(
        .outOfRange, "a frame of \(frame.count) bytes; it has 14 to \(TrapRing.maximumFrame)")
    }
    guard injected.take() else {
      throw Refusal(
        .tableFull, "\(InjectBudget.maximum) frames wait for the workers; send it again when some have gone")
    }
    workers[worker].post([.transmit(interface: interface, frame: frame, injected)])
  }
}
