import WeftWire

/// How a flow's state changes: replies, TCP, policy.
extension FlowTable {
  /// Notes that a packet of the reverse direction has come: what is not TCP is established by that. `track` does it.
  public mutating func markReplied(_ index: UInt32, now: UInt64) {
    guard isInUse(index) else { return }
    let forward = forwardIndex(index)
    let flags = unsafe entries[Int(forward)].flags
    guard !flags.contains(.replied), !flags.contains(.denied) else { return }
    set(forward, .replied)
    settle(forward)
    guard unsafe entries[Int(forward)].tcp == TCPState.none.rawValue else { return }
    establish(forward)
    if unsafe entries[Int(forward)].timeout == .udp { setTimeout(forward, .udpStream, now) }
  }

  /// Stores policy's verdict on both directions. `flags` are those that policy gives (logged, mirrored, rejected).
  public mutating func setPolicy(
    _ index: UInt32, isDenied: Bool, rule: UInt32, generation: UInt32, flags: FlowFlags = [], now: UInt64
  ) {
    guard isInUse(index) else { return }
    let forward = forwardIndex(index)
    let wasDenied = unsafe entries[Int(forward)].flags.contains(.denied)
    clear(forward, .ofPolicy)
    set(forward, flags.intersection(.ofPolicy).subtracting(.denied))
    both(forward) { entry in
      entry.policyRule = rule
      entry.policyGeneration = generation
    }
    if isDenied {
      set(forward, .denied)
      clear(forward, .established)
      if unsafe !entries[Int(forward)].flags.contains(.listed) { list(forward) }
      setTimeout(forward, .denied, now)
    } else if wasDenied {
      restore(forward, now)
    }
  }

  /// What `track` leaves: a first reply, or another TCP state.
  @usableFromInline mutating func change(_ index: UInt32, _ next: UInt8, _ now: UInt64) -> Bool {
    if unsafe !isInUse(index) || entries[Int(index)].flags.contains(.denied) { return true }
    let state = TCPState(rawValue: next) ?? .none
    if state == .over {
      remove(index, reason: .renewed, now: now)
      return false
    }
    if unsafe entries[Int(index)].flags.isDisjoint(with: [.forward, .replied]) { markReplied(index, now: now) }
    let forward = forwardIndex(index)
    let old = unsafe entries[Int(forward)].tcpState
    guard state != old else { return true }
    if old.isDying, !state.isDying { renew(forward, now) }
    both(forward) { $0.tcp = next }
    settle(forward)
    if state.isDying {
      set(forward, .dying)
      clear(forward, .established)
      if unsafe !entries[Int(forward)].flags.contains(.listed) { list(forward) }
    } else if state.isEstablished {
      establish(forward)
    }
    setTimeout(forward, state.timeout, now)
    return true
  }

  /// A connection that has ended begins anew in the same flow: what it counted is recorded as an end, what translation
  /// holds for it stays, and policy is asked again.
  private mutating func renew(_ forward: UInt32, _ now: UInt64) {
    var end = end(forward, .renewed, now)
    end.reference = Self.noReference
    end.redirect = 0
    _ = ends.put(end)
    clear(forward, [.replied, .established, .dying])
    both(forward) { entry in
      entry.packets = 0
      entry.bytes = 0
      entry.created = now
      entry.lastSeen = now
      entry.policyGeneration &-= 1
    }
    if unsafe entries[Int(forward)].flags.contains(.listed) { unlist(forward) }
    list(forward)
  }

  /// Policy lets a flow pass that it denied.
  private mutating func restore(_ forward: UInt32, _ now: UInt64) {
    var state = unsafe entries[Int(forward)].tcpState
    let proto = unsafe entries[Int(forward)].key.proto
    let isFat = unsafe entries[Int(forward)].flags.contains(.fat)
    if proto == IPProtocol.tcp, state == .none, !isFat {
      state = .pickedUp
      both(forward) { $0.tcp = TCPState.pickedUp.rawValue }
    }
    // The next reply establishes it again.
    clear(forward, .replied)
    settle(forward)
    if state.isEstablished { establish(forward) }
    let kind = isFat ? FlowTimeout.fat(proto: proto) : FlowTimeout.first(proto: proto)
    setTimeout(forward, state == .none ? kind : state.timeout, now)
  }

  private mutating func establish(_ forward: UInt32) {
    set(forward, .established)
    if unsafe entries[Int(forward)].flags.contains(.listed) { unlist(forward) }
  }

  private mutating func setTimeout(_ forward: UInt32, _ kind: FlowTimeout, _ now: UInt64) {
    let entry = unsafe entries + Int(forward)
    let old = unsafe entry.pointee.timeout
    guard kind != old else { return }
    unsafe entry.pointee.timeout = kind
    // A longer time is found when the old one is over.
    guard limits[kind] < limits[old] else { return }
    wheel.disarm(forward)
    wheel.arm(forward, deadline: max(deadline(forward), Self.after(now, limits[kind])), now: now)
  }
}
