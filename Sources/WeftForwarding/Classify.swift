import WeftTables
import WeftWire

extension PacketPath {
  /// Gives each packet its flow. What a flow's first packet found out (does policy let it pass, what are its addresses
  /// translated to) is done to every one after it; the first packet makes both of the flow's entries here, in the worker.
  mutating func classify(_ now: UInt64) {
    let batch = batch
    for index in 0..<batch.count where batch[index].verdict == .forward && !batch[index].isOwn {
      if batch[index].isFragment, !isShared { followFragment(&batch[index], now) }
      flows.prefetchEntry(batch[index].hash)
    }
    let generation = tables.generation
    removals = flows.removals
    let hasFatFlows = !tables.fatFlows.isEmpty
    let isStrict = flows.tcp == .strict
    for index in 0..<batch.count where batch[index].verdict == .forward && !batch[index].isOwn {
      if Self.mayBeError(batch[index]), followError(&batch[index]) { continue }
      var flow = flows.find(batch[index].key, hash: batch[index].hash)
      if hasFatFlows, flow == FlowTable.none { flow = findFat(&batch[index]) }
      if isStrict, flow != FlowTable.none, isStray(batch[index], of: flow) {
        drop(&batch[index], .tcpState)
        continue
      }
      if flow == FlowTable.none || !flows.track(flow, tcpFlags: Self.tcpFlags(batch[index]), now: now) {
        if isShared, passOn(&batch[index]) { continue }
        begin(&batch[index], generation, now)
      } else {
        follow(flow, &batch[index], generation, now)
      }
    }
  }

  @inline(__always) private static func tcpFlags(_ packet: Packet) -> UInt8 {
    packet.proto == IPProtocol.tcp && !packet.isFragment ? packet.transportHeader.u8(13) : 0
  }

  /// A packet of a flow that is there.
  @inline(__always)
  private mutating func follow(_ flow: UInt32, _ packet: inout Packet, _ generation: UInt32, _ now: UInt64) {
    if flows[flow].policyGeneration != generation { judgeAgain(flow, packet, generation, now) }
    packet.flow = flow
    let flags = flows[flow].flags
    guard !flags.isDisjoint(with: [.denied, .nat, .staged, .mirrored]) else { return }
    if flags.contains(.mirrored) { mirrorFlow(packet, to: flows.mirror(of: flow)) }
    if flags.contains(.denied) { return deny(&packet, isRejected: flags.contains(.rejected), now) }
    if flags.contains(.staged) { packet.actions = flows[flow].mark }
    if flags.contains(.nat) { rewrite(&packet, to: flows[flows[flow].reverse].key.reversed) }
  }

  /// Of a flow that is there, before the segment changes its state.
  private func isStray(_ packet: Packet, of flow: UInt32) -> Bool {
    packet.proto == IPProtocol.tcp && !packet.isFragment && packet.fat.isWhole
      && flows.isStray(flow, tcpFlags: Self.tcpFlags(packet))
  }

  /// Drops what policy does not let pass; a rejected packet's sender is told.
  private mutating func deny(_ packet: inout Packet, isRejected: Bool, _ now: UInt64) {
    flows.count(
      packet.flow, bytes: packet.ipLength, packets: packet.segments, nexthop: FlowTable.none, now: now)
    if isRejected { reject(&packet, .policyRejected) } else { drop(&packet, .policyDenied) }
  }

  // MARK: a flow's first packet

  private mutating func begin(_ packet: inout Packet, _ generation: UInt32, _ now: UInt64) {
    let isRouted = packet.link != .other
    var tcpState = TCPState.none
    if packet.proto == IPProtocol.tcp, !packet.isFragment {
      let flags = Self.tcpFlags(packet)
      // Of many sessions that share a flow nobody sees how each begins.
      let isStrict = flows.tcp != .liberal && packet.fat.isWhole
      guard let first = TCPState.first(flags: flags, isStrict: isStrict) else {
        return drop(&packet, TCPState.first(flags: flags, isStrict: false) == nil ? .tcpFlags : .tcpState)
      }
      tcpState = first
    }
    var attempt = 0
    while attempt < Self.translationAttempts {
      let translated = isRouted ? translate(&packet, now: now, attempt: attempt) : nil
      guard packet.verdict == .forward else { return }
      let key = translated?.key ?? packet.key
      // Where it goes nowhere, or to the router itself, there is no flow: routing says what becomes of it.
      let target: UInt32
      if let translated {
        guard let found = self.target(of: translated.key, flow: FlowTable.none, hash: packet.hash) else {
          nat.release(translated.reference)
          return routeWithoutFlow(&packet, to: translated.key)
        }
        target = found
      } else {
        if !packet.isReady { route(&packet) }
        guard packet.verdict == .forward, !packet.isOwn else { return }
        target = interface(behind: packet.path.nexthop, flow: FlowTable.none, hash: packet.hash)
      }
      let isFat = translated == nil && !packet.fat.isWhole
      if isFat, let flow = shared(packet) { return follow(flow, &packet, generation, now) }
      if dropsNewFlows(packet.interface &+ 1) || dropsNewFlows(target) {
        if let translated { nat.release(translated.reference) }
        return drop(&packet, .newFlow)
      }
      let source = packet.fromFabric ? 0 : packet.interface &+ 1
      let (verdict, actions) = judge(
        packet.key, to: key, icmp: Self.icmp(packet), tcpFlags: Self.tcpFlags(packet), from: source,
        toward: target)
      tables.policy.countHit(verdict)
      var flags: FlowFlags = verdict.isLogged ? .logged : []
      if actions != 0 { flags.insert(.staged) }
      packet.actions = actions
      if verdict.mirror != 0 { flags.insert(.mirrored) }
      if verdict.action != .allow { flags.formUnion(verdict.action == .reject ? [.denied, .rejected] : .denied) }
      let isDenied = flags.contains(.denied)
      let reverse = isDenied ? packet.key.reversed : key.reversed
      if isShared, !canTell(packet.key, reverse) {
        if let translated { nat.release(translated.reference) }
        return drop(&packet, .handoverFull)
      }
      let made: FlowInsertion
      if isFat {
        made = insertFat(packet, flags, rule: verdict.rule, generation, now)
      } else if isShared && isElsewhere(reverse) {
        made = .conflict
      } else {
        made = flows.insert(
          forward: packet.key, forwardHash: packet.hash, reverse: reverse, flags: flags,
          tcpState: isDenied ? .none : tcpState, policyRule: verdict.rule, policyGeneration: generation,
          reference: isDenied ? FlowTable.noReference : translated?.reference ?? FlowTable.noReference, now: now)
      }
      if isDenied, let translated { nat.release(translated.reference) }
      switch made {
      case .made(let flow):
        packet.flow = flow
        if isShared, !isFat { tell(flow, packet.key, reverse) }
        if actions != 0, !isDenied { setActions(flow, actions) }
        if verdict.mirror != 0 { flows.setMirror(flow, verdict.mirror) }
        exportStart(flow, hash: packet.hash)
      case .conflict where translated != nil && !isDenied:
        if let translated { nat.release(translated.reference) }
        attempt &+= 1
        continue
      case .conflict, .refused:
        // What needs a flow to be answered rightly does not go without one; the rest goes, uncounted.
        if let translated, !isDenied {
          nat.release(translated.reference)
          if verdict.mirror != 0 { mirrorFlow(packet, to: UInt32(verdict.mirror)) }
          return drop(&packet, .flowTableFull)
        }
      }
      if verdict.mirror != 0 { mirrorFlow(packet, to: UInt32(verdict.mirror)) }
      if isDenied {
        guard packet.flow != FlowTable.none else {
          return flags.contains(.rejected) ? reject(&packet, .policyRejected) : drop(&packet, .policyDenied)
        }
        return deny(&packet, isRejected: flags.contains(.rejected), now)
      }
      if let translated { rewrite(&packet, to: translated.key) }
      return
    }
    drop(&packet, .natExhausted)
  }

  /// A translated packet that has no flow: routing says what becomes of it.
  private mutating func routeWithoutFlow(_ packet: inout Packet, to key: FlowKey) {
    untranslated = packet.key
    rewrite(&packet, to: key)
    if packet.verdict == .forward { route(&packet) }
    untranslated = nil
  }

  /// So many ports are tried for a flow whose answers could be taken for another's.
  private static var translationAttempts: Int { 8 }

  @inline(__always) private static func mayBeError(_ packet: Packet) -> Bool {
    packet.proto == (packet.isV4 ? IPProtocol.icmp : IPProtocol.icmpv6)
  }

  /// An ICMP error belongs to the flow of the packet that it quotes: it passes as that flow does, translated as that is.
  /// False for anything else, and where there is no such flow.
  private mutating func followError(_ packet: inout Packet) -> Bool {
    guard !packet.marks.contains(.itself), let (error, answers) = quoted(packet) else { return false }
    var flow = flows.find(answers, hash: answers.hash(seed: seed))
    if flow == FlowTable.none, !tables.fatFlows.isEmpty { flow = findFat(answers, of: packet) }
    guard flow != FlowTable.none else { return isShared && passOnError(&packet, answers) }
    let flags = flows[flow].flags
    if flags.contains(.mirrored) { mirrorFlow(packet, to: flows.mirror(of: flow)) }
    if flags.contains(.denied) {
      drop(&packet, .policyDenied)
    } else if flags.contains(.nat) {
      rewriteError(&packet, quoting: error, flow: answers, to: flows[flows[flow].reverse].key.reversed)
    }
    return true
  }

  /// Where a packet goes that gets this key: a local interface's number plus one, 0 for elsewhere. Nil: nowhere. `flow`
  /// and `hash` are its own, by which a member of an ECMP nexthop is chosen.
  private func target(of key: FlowKey, flow: UInt32, hash: UInt64) -> UInt32? {
    var vrf = UInt32(truncatingIfNeeded: key.vrf)
    for _ in 0..<4 {
      let number = tables.route(vrf: vrf, to: key.destination)
      guard number != 0 else { return nil }
      let id = tables.paths[number].nexthop
      guard let nexthop = tables.nexthop(id) else { return nil }
      switch nexthop.entry.kind {
      case .vrfTranslate: vrf = nexthop.entry.vrf
      case .discard, .receive: return nil
      default: return interface(behind: id, flow: flow, hash: hash)
      }
    }
    return nil
  }

  /// The local interface that a nexthop leads to, plus one; 0 for a tunnel.
  private func interface(behind id: UInt32, flow: UInt32, hash: UInt64) -> UInt32 {
    guard let nexthop = tables.nexthop(id) else { return 0 }
    switch nexthop.entry.kind {
    case .encap: return nexthop.entry.interface &+ 1
    case .ecmp:
      guard let path = member(of: nexthop.entry.members, flow: flow, hash: hash),
        let chosen = tables.nexthop(path.nexthop), chosen.entry.kind == .encap
      else { return 0 }
      return chosen.entry.interface &+ 1
    default: return 0
    }
  }

  /// `interface` is a number plus one, 0 for none of ours.
  @inline(__always) private func dropsNewFlows(_ interface: UInt32) -> Bool {
    guard interface != 0, let entry = tables.interface(interface &- 1) else { return false }
    return entry.entry.dropsNewFlows
  }

  // MARK: policy

  /// What policy says of a flow: the rules for where it comes from, then those for where it goes. `target` is the key
  /// after translation; interfaces are numbers plus one, 0 for none of ours. `actions`: which of the rules that let it
  /// pass do something to its packets, as in `FlowEntry.mark`.
  mutating func judge(
    _ key: FlowKey, to target: FlowKey, icmp: UInt16, tcpFlags: UInt8, from source: UInt32, toward destination: UInt32
  ) -> (verdict: PolicyVerdict, actions: UInt32) {
    let leaving = policyClass(source)
    var actions: UInt32 = 0
    var first = PolicyVerdict.allowed
    if leaving != InterfaceEntry.noPolicy {
      first = tables.policy.evaluate(
        PolicyQuery(
          subject: leaving, isIngress: false, local: key.source, remote: target.destination, proto: key.proto,
          sourcePort: key.sourcePort, destinationPort: target.destinationPort, icmp: icmp, tcpFlags: tcpFlags))
      if traces.isOn { notePolicy(first, source, isIngress: false, key) }
      if first.action == .allow { actions = tables.policy.actionSlot(first) }
      guard first.action == .allow, policyClass(destination) != InterfaceEntry.noPolicy else { return (first, actions) }
    }
    let entering = policyClass(destination)
    guard entering != InterfaceEntry.noPolicy else { return (.allowed, 0) }
    var verdict = tables.policy.evaluate(
      PolicyQuery(
        subject: entering, isIngress: true, local: target.destination, remote: key.source, proto: key.proto,
        sourcePort: key.sourcePort, destinationPort: target.destinationPort, icmp: icmp, tcpFlags: tcpFlags))
    if traces.isOn { notePolicy(verdict, destination, isIngress: true, key) }
    if verdict.action == .allow { actions |= tables.policy.actionSlot(verdict) << 16 }
    // The rule that let the flow out may want to know of it as well.
    if first.isLogged { verdict.isLogged = true }
    if verdict.mirror == 0 { verdict.mirror = first.mirror }
    return (verdict, actions)
  }

  private func setActions(_ flow: UInt32, _ actions: UInt32) {
    flows.setMark(flow, actions)
    if flows[flow].reverse != FlowTable.none { flows.setMark(flows[flow].reverse, actions) }
  }

  @inline(__always) private func policyClass(_ interface: UInt32) -> UInt32 {
    guard interface != 0, let entry = tables.interface(interface &- 1) else { return InterfaceEntry.noPolicy }
    return entry.entry.policyClass
  }

  /// A rule or a route has changed since the flow was judged: at its next packet, this one, it is judged anew, and where
  /// it goes is looked up anew.
  private mutating func judgeAgain(_ flow: UInt32, _ packet: Packet, _ generation: UInt32, _ now: UInt64) {
    let isForward = flows[flow].isForward || flows[flow].reverse == FlowTable.none
    let forward = isForward ? flow : flows[flow].reverse
    let reverse = flows[forward].reverse
    // Of a flow of many sessions, this packet's stands for all.
    let isFat = flows[forward].flags.contains(.fat)
    let key = isFat ? (isForward ? packet.key : packet.key.reversed) : flows[forward].key
    let isUnchanged = isFat || reverse == FlowTable.none
    let target = isUnchanged ? key : flows[reverse].key.reversed
    let isLocal = !packet.fromFabric
    var source = packet.interface &+ 1
    var destination = source
    if !isForward || !isLocal {
      let back = isUnchanged ? key.reversed : flows[reverse].key
      source = self.target(of: key.reversed, flow: reverse, hash: back.hash(seed: seed)) ?? 0
    }
    if isForward || !isLocal {
      destination = self.target(of: target, flow: forward, hash: key.hash(seed: seed)) ?? 0
    }
    var icmp: UInt16 = 0
    if key.proto == IPProtocol.icmp { icmp = UInt16(ICMP.echoRequest) << 8 }
    if key.proto == IPProtocol.icmpv6 { icmp = UInt16(ICMP.echoRequest6) << 8 }
    let (verdict, actions) = judge(
      key, to: target, icmp: icmp, tcpFlags: key.proto == IPProtocol.tcp ? TCP.syn : 0, from: source,
      toward: destination)
    var flags: FlowFlags = verdict.isLogged ? .logged : []
    if verdict.action == .reject { flags.insert(.rejected) }
    if actions != 0, verdict.action == .allow { flags.insert(.staged) }
    if verdict.mirror != 0 { flags.insert(.mirrored) }
    flows.setMirror(flow, verdict.mirror)
    let before = flows[forward].policyRule
    flows.setPolicy(
      flow, isDenied: verdict.action != .allow, rule: verdict.rule, generation: generation, flags: flags, now: now)
    setActions(forward, verdict.action == .allow ? actions : 0)
    if verdict.isLogged, verdict.rule != before { exportChange(forward) }
  }

  private static func icmp(_ packet: Packet) -> UInt16 {
    let isICMP = packet.proto == (packet.isV4 ? IPProtocol.icmp : IPProtocol.icmpv6)
    return isICMP && !packet.isFragment ? packet.transportHeader.u16(0) : 0
  }

  // MARK: fragments

  /// Fragments go the way of the packet that they are parts of: its first fragment shows the ports, which the later ones
  /// find by the identification. One that comes before the first, or long after, counts as a flow without ports.
  mutating func followFragment(_ packet: inout Packet, _ now: UInt64) {
    let isFirst =
      packet.isV4
      ? packet.ip.u16(6) & IPv4.offsetMask == 0
      : packet.ip.advanced(packet.transport &- 8).u16(2) >> 3 == 0
    let key = fragmentKey(packet)
    let ports: FragmentPorts
    if isFirst {
      guard let shown = Self.ports(packet) else { return }
      ports = shown
      fragments.set(key, ports, now: now)
    } else {
      guard let found = fragments.find(key, now: now) else { return }
      ports = found
    }
    packet.key = FlowKey(
      vrf: packet.vrf, source: packet.key.source, destination: packet.key.destination, proto: packet.proto,
      sourcePort: ports.source, destinationPort: ports.destination)
    packet.hash = packet.key.hash(seed: seed)
  }

  /// What the fragments of a packet have in common.
  func fragmentKey(_ packet: Packet) -> FragmentKey {
    FragmentKey(
      vrf: packet.vrf, source: packet.key.source, destination: packet.key.destination,
      identification: packet.isV4 ? UInt32(packet.ip.u16(4)) : packet.ip.advanced(packet.transport &- 8).u32(4),
      proto: packet.proto)
  }

  /// The ports, or an echo's identifier, in a first fragment.
  private static func ports(_ packet: Packet) -> FragmentPorts? {
    let length = packet.ipLength &- packet.transport
    let header = packet.transportHeader
    switch packet.proto {
    case IPProtocol.tcp, IPProtocol.udp, IPProtocol.sctp:
      guard length >= 4 else { return nil }
      return FragmentPorts(source: header.u16(0), destination: header.u16(2))
    case IPProtocol.icmp where packet.isV4, IPProtocol.icmpv6 where !packet.isV4:
      guard length >= ICMP.minimumBytes, ICMP.isEcho(header.u8(0), isV4: packet.isV4) else { return nil }
      return FragmentPorts(source: header.u16(4), destination: header.u16(4))
    default: return nil
    }
  }

  // MARK: time

  /// How flows are kept, as the control thread has it now.
  mutating func adoptFlowSettings() {
    guard tables.flowSettings.version != flowSettings, let (settings, version) = tables.flowSettings.read() else {
      return
    }
    flows.adopt(settings)
    flowSettings = version
  }

  /// Ends flows that have been idle for too long, gives back what ended flows had: a bounded part of it in a call. True
  /// when nothing was left to do.
  @discardableResult
  public mutating func age(now: UInt64) -> Bool {
    adoptFlowSettings()
    let isDone = flows.age(now: now)
    exportUpdates(now)
    var isLeft = true
    for _ in 0..<256 {
      guard let end = flows.firstEnd else {
        isLeft = false
        break
      }
      guard settle(end) else { break }
      exportEnd(end)
      _ = flows.nextEnd()
    }
    guard isShared else { return isDone && !isLeft }
    let isSettled = settleRefusals(now)
    sharing.publish()
    return isDone && !isLeft && isSettled
  }
}
