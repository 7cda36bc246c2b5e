import WeftTables
import WeftWire

extension PacketPath {
  /// Finds the flow of a packet whose candidate was another one, or makes it where all there is to it is a route and
  /// policy's leave: no translation, nothing to be logged, marked or mirrored, no answer of the router's own. Else false,
  /// and nothing has been done.
  @inline(never)
  mutating func beginFast(
    _ index: Int, _ id: UInt32, _ source: EntryReference<InterfaceEntry>, _ generation: UInt32, _ now: UInt64
  ) -> Bool {
    let key = fast[index].key
    let known = flows.find(key, hash: fast[index].hash)
    if known != FlowTable.none {
      guard !fast[index].isOpening else { return false }
      fast[index].flow = flows.places.place(known)
      return true
    }
    let isFromFabric = source.entry.isFabric
    if isShared, !isOwnFast(index, key) { return false }
    let isTCP = key.proto == IPProtocol.tcp
    let isOpening = fast[index].isOpening
    // Those are not forwarded (Trap.swift).
    if !isTCP, source.entry.conditions.contains(.served), Self.isDHCP(key) { return false }
    guard tables.nat.isEmpty, isTCP == isOpening, !isTCP || flows.tcp != .strict, Self.isHost(v4: key.source.v4),
      Self.isHost(v4: key.destination.v4)
    else { return false }
    let number = tables.route(vrf: UInt32(truncatingIfNeeded: key.vrf), v4: key.destination.v4)
    let path = tables.paths[number]
    guard number != 0, let nexthop = tables.nexthop(of: path), nexthop.entry.short != .none,
      let interface = tables.interface(nexthop.entry.interface), interface.entry.isPlain,
      !source.entry.dropsNewFlows, !interface.entry.dropsNewFlows
    else { return false }
    let isLocal = nexthop.entry.short == .deliver
    guard isLocal || !isFromFabric, !isOpening || !interface.entry.clampsMSS && !source.entry.clampsMSS else {
      return false
    }
    let (verdict, actions) = judge(
      key, to: key, icmp: 0, tcpFlags: isOpening ? TCP.syn : 0, from: isFromFabric ? 0 : id &+ 1,
      toward: isLocal ? nexthop.entry.interface &+ 1 : 0)
    guard verdict.isPlain, actions == 0 else { return false }
    let flow = flows.insertPlain(
      addresses: fast[index].addresses, transport: fast[index].transport, hash: fast[index].hash,
      tcpState: isOpening ? .synSent : .none, policyRule: verdict.rule, policyGeneration: generation, mark: number,
      nexthop: path.nexthop, now: now)
    guard flow != FlowTable.none else { return false }
    tables.policy.countHit(verdict)
    exportPlainStart(flow, hash: fast[index].hash)
    fast[index].flow = flows.places.place(flow)
    fast[index].special.remove(.isOpening)
    return true
  }
}
