import WeftTables
import WeftWire

// What comes from other workers: frames that belong here, and what they say about keys.

extension PacketPath {
  /// Looks whether other workers have put something into the rings to this one. Then `processHandedOver` is called until
  /// it says 0. After a batch has been received and before it is processed: what a worker did before it sent a packet is
  /// then known here before the answer to that packet.
  public mutating func lookForHandedOver() -> Bool {
    guard isShared, sharing.hasIncoming else { return false }
    sharing.look()
    return true
  }

  /// Takes a batch that others have handed over through all stages, as `process` does; returns how many frames it had, 0
  /// when nothing is left. `tx` points into it: once that has been sent, and before the next one, `releaseHandedOver`.
  public mutating func processHandedOver(now: UInt64) -> Int {
    let isFound = gather(now)
    guard isFound else {
      sharing.publish()
      return 0
    }
    sharing.isHandedOver = true
    let frames = sharing.frames
    process(frames, interface: sharing.interface, now: now)
    sharing.isHandedOver = false
    return frames.count
  }

  public mutating func releaseHandedOver() { sharing.release() }

  private mutating func gather(_ now: UInt64) -> Bool {
    while let (sender, record) = sharing.gather() { hear(sender, record.kind, record.key, record.number, now) }
    return sharing.hasGathered
  }

  /// What another worker says about a key.
  private mutating func hear(
    _ sender: Int, _ kind: HandOverKind, _ key: FlowKey, _ number: UInt32, _ now: UInt64
  ) {
    switch kind {
    case .redirect:
      guard !note(sender, key, number) else { return }
      sharing.refused &+= 1
      _ = refuse(Refusal(worker: sender, key: key, number: number), now)
    case .endRedirect: sharing.removeRedirect(key, worker: sender, serial: number)
    case .forget: sharing.removeRedirect(key, worker: sender, serial: nil)
    case .refuse: _ = refuse(Refusal(worker: sharing.owner.index, key: key, number: number), now)
    case .skip, .frame: return
    }
  }

  /// Has a flow removed. False, and kept for later, where that cannot be told or done now.
  private mutating func refuse(_ refusal: Refusal, _ now: UInt64) -> Bool {
    if refusal.worker != sharing.owner.index {
      if sharing.tell(refusal.worker, .refuse, refusal.key, number: refusal.number) { return true }
    } else {
      let flow = flows.find(refusal.key, hash: refusal.key.hash(seed: seed))
      // Perhaps a later one by now.
      guard flow != FlowTable.none, flows.redirect(flow) == refusal.number else { return true }
      if flows.remove(flow, reason: .revoked, now: now) { return true }
    }
    sharing.put(refusal)
    return false
  }

  /// Tries again what could not be told or done; true when nothing is left.
  mutating func settleRefusals(_ now: UInt64) -> Bool {
    while let refusal = sharing.nextRefusal() {
      guard refuse(refusal, now) else { return false }
    }
    return true
  }

  /// Keeps that `sender` has the flow of a key; false where that cannot be: the key is another flow's.
  private mutating func note(_ sender: Int, _ key: FlowKey, _ number: UInt32) -> Bool {
    guard flows.find(key, hash: key.hash(seed: seed)) == FlowTable.none else { return false }
    switch sharing.addRedirect(key, worker: sender, serial: number) {
    case .added: return true
    case .full: return false
    case .taken(let other):
      // A port that one worker has given back another may have got, before all that the first one said was heard.
      guard sharing.willEnd(other, key) else { return false }
      sharing.removeRedirect(key, worker: other, serial: nil)
      if case .added = sharing.addRedirect(key, worker: sender, serial: number) { return true }
      return false
    }
  }

  // MARK: this worker's flows

  /// A key that this worker owns is that of another's flow.
  func isElsewhere(_ key: FlowKey) -> Bool {
    sharing.owner.worker(key) == sharing.owner.index && sharing.redirect(key) != nil
  }

  /// Those who own a flow's keys can be told that this worker has it, if they are others.
  mutating func canTell(_ forward: FlowKey, _ reverse: FlowKey) -> Bool {
    let (one, two) = (sharing.owner.worker(forward), sharing.owner.worker(reverse))
    let own = sharing.owner.index
    // Two messages, and what is left before the ring's end.
    return (one == own || sharing.hasRoom(one, 4 * HandOverRing.messageBytes))
      && (two == own || sharing.hasRoom(two, 4 * HandOverRing.messageBytes))
  }

  /// Tells them. `canTell` was asked.
  mutating func tell(_ flow: UInt32, _ forward: FlowKey, _ reverse: FlowKey) {
    let (one, two) = (sharing.owner.worker(forward), sharing.owner.worker(reverse))
    let own = sharing.owner.index
    guard one != own || two != own, forward != reverse else { return }
    let serial = sharing.nextSerial()
    flows.setRedirect(flow, serial)
    if one != own { _ = sharing.tell(one, .redirect, forward, number: serial) }
    if two != own { _ = sharing.tell(two, .redirect, reverse, number: serial) }
  }

  /// A flow has ended: what it had is given back, and who was told of it is told. False when that has to wait.
  mutating func settle(_ end: FlowEnd) -> Bool {
    if end.redirect != 0 {
      guard canTell(end.forward, end.reverse) else { return false }
      endRedirect(end.forward, end.redirect)
      endRedirect(end.reverse, end.redirect)
    }
    nat.release(end.reference)
    return true
  }

  private mutating func endRedirect(_ key: FlowKey, _ serial: UInt32) {
    let other = sharing.owner.worker(key)
    guard other != sharing.owner.index else { return }
    _ = sharing.tell(other, .endRedirect, key, number: serial)
    // Before another worker can get the port.
    sharing.show(other)
  }
}
