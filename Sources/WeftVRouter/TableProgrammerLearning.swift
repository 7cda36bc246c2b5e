import WeftForwarding
import WeftRing
import WeftTables
import WeftWire

// MAC addresses that workers report: learned, moved, damped, aged.

extension TableProgrammer {
  /// Of the bridge's places learned entries leave a quarter to those that somebody sets.
  private var learnedMaximum: Int { Int(limits.bridge) - Int(limits.bridge) / 4 }

  func checkLearning(of vrf: VRFConfiguration) throws(Refusal) {
    guard (10...1_000_000).contains(vrf.learning.ageing) else {
      throw Refusal(.outOfRange, "VRF \(vrf.id): \(vrf.learning.ageing) s of ageing are not within 10 to 1000000")
    }
    guard vrf.learning.moves > 0, vrf.learning.moveSeconds > 0 else {
      throw Refusal(.outOfRange, "VRF \(vrf.id): moves and the seconds that they are counted in are above 0")
    }
    guard vrf.flags.isEmpty || vrf.id < BridgeTable.maximumVRFs else {
      throw Refusal(.outOfRange, "VRF \(vrf.id) is too high for the bridge table (below \(BridgeTable.maximumVRFs))")
    }
  }

  /// How a VRF bridges is in force.
  func applyBridging(of new: VRFConfiguration, _ old: VRFConfiguration?) {
    var bits: VRFBits = []
    if new.flags.contains(.floodUnknown) { bits.insert(.floodsUnknown) }
    if new.flags.contains(.learning) { bits.insert(.learns) }
    if new.flags.contains(.suppression) { bits.insert(.suppresses) }
    memory.vrfBits.set(Int(new.id), bits.rawValue)
    let learned = old?.flags.contains(.learning) == true
    if new.flags.contains(.learning) != learned { countLearning(learned ? -1 : 1) }
    guard learned, !new.flags.contains(.learning) else { return }
    for key in learning.byVRF[new.id] ?? [] where bridge[key]?.value.learned?.interface == nil { forget(key) }
  }

  /// One more or one less VRF that learns behind tunnels. Where there is one, packets of tunnels take all stages.
  func countLearning(_ change: Int) {
    let before = learning.vrfs
    learning.vrfs += change
    guard (before > 0) != (learning.vrfs > 0) else { return }
    _ = interfaces.read(from: 0, limit: .max) { entry in
      if entry.value.configuration.role == .fabric { publish(entry.value.configuration, entry.value.capabilities) }
    }
  }

  func noteTunnel(_ id: UInt32, _ tunnel: TunnelConfiguration, _ change: Int) {
    guard tunnel.encapsulation == .vxlan else { return }
    if change > 0 {
      learning.tunnels[tunnel.destination, default: []].insert(id)
    } else {
      learning.tunnels[tunnel.destination]?.remove(id)
      if learning.tunnels[tunnel.destination]?.isEmpty == true { learning.tunnels[tunnel.destination] = nil }
    }
  }

  func state(of entry: Bridge) -> BridgeState {
    guard let learned = entry.learned else { return BridgeState() }
    let idle = learning.now > learned.lastSeen ? (learning.now - learned.lastSeen) / 1_000_000_000 : 0
    return BridgeState(
      isLearned: true, isDamped: (learned.dampedUntil ?? 0) > learning.now, idleSeconds: UInt32(clamping: idle),
      moves: learned.moves)
  }

  // MARK: reports

  /// Takes what a worker has seen. It may be about things that are no longer there.
  public func take(_ report: Report) {
    learning.now = max(learning.now, report.time)
    switch report.kind {
    case .station:
      guard let interface = interfaces[report.interface]?.value.configuration, interface.flags.contains(.learning),
        interface.vrf == report.vrf, let nexthop = encap(to: report.interface)
      else { return }
      learn(report, nexthop: nexthop, label: 0, interface: report.interface)
    case .remoteStation:
      guard vrfs[report.vrf]?.value.configuration.flags.contains(.learning) == true,
        let nexthop = learning.tunnels[report.address]?.min()
      else { return }
      learn(report, nexthop: nexthop, label: report.label, interface: nil)
    case .resolve:
      learning.tell(.resolve(interface: report.interface, vrf: report.vrf, address: report.address))
    }
  }

  /// What the agent is to be told.
  public func takeEvents() -> [Event] { learning.takeEvents() }

  private func encap(to interface: UInt32) -> UInt32? {
    leaving[interface]?.filter {
      if case .encap = nexthops[$0]?.value.action { true } else { false }
    }.min()
  }

  private func learn(_ report: Report, nexthop: UInt32, label: UInt32, interface: UInt32?) {
    let new = BridgeConfiguration(vrf: report.vrf, mac: MACAddress(bits: report.mac), nexthop: nexthop, label: label)
    let key = BridgeKey(vrf: new.vrf, mac: new.mac)
    guard !new.mac.isZero, !new.mac.isGroup, new.mac != .virtualRouter, new.vrf < BridgeTable.maximumVRFs,
      let settings = vrfs[new.vrf]?.value.configuration.learning
    else { return }
    guard let old = bridge[key]?.value else {
      guard hasRoom(new, interface), keep(new) else { return refuse(new, report.time) }
      insert(new, LearnedStation(lastSeen: report.time, interface: interface, ticket: 0), settings)
      learning.tell(.station(.learned, new))
      return
    }
    // Who has set an entry knows better than a packet.
    guard var station = old.learned else { return }
    if old.configuration == new {
      station.lastSeen = max(station.lastSeen, report.time)
      bridge.update(key) { $0.learned = station }
      return
    }
    guard mayMove(&station, new, report.time, settings) else {
      bridge.update(key) { $0.learned = station }
      return
    }
    guard station.interface == interface && interface != nil || hasRoom(new, interface), keep(new) else {
      return refuse(new, report.time)
    }
    release(key, old)
    station.lastSeen = report.time
    station.interface = interface
    station.moves &+= 1
    insert(new, station, settings)
    learning.tell(.station(.moved, new))
  }

  /// A MAC address is heard of in another place: it moves there, unless it does so all the time (RFC 7432 section 15.1).
  private func mayMove(
    _ station: inout LearnedStation, _ new: BridgeConfiguration, _ time: UInt64, _ settings: LearningConfiguration
  ) -> Bool {
    let window = UInt64(settings.moveSeconds) * 1_000_000_000
    if let until = station.dampedUntil {
      guard time >= until else {
        station.dampedUntil = time &+ window
        return false
      }
      station.dampedUntil = nil
      station.recentMoves = 0
    }
    if station.recentMoves == 0 || time - min(time, station.windowStart) > window {
      station.windowStart = time
      station.recentMoves = 0
    }
    station.recentMoves += 1
    guard station.recentMoves > UInt32(settings.moves) else { return true }
    station.dampedUntil = time &+ window
    learning.tell(.station(.damped, new))
    return false
  }

  private func hasRoom(_ new: BridgeConfiguration, _ interface: UInt32?) -> Bool {
    guard bridge.count < learnedMaximum else { return false }
    if let interface {
      let limit = interfaces[interface]?.value.configuration.macLimit ?? 0
      return learning.behindInterface[interface]?.count ?? 0 < Int(limit)
    }
    let limit = vrfs[new.vrf]?.value.configuration.learning.limit ?? 0
    return learning.remote[new.vrf] ?? 0 < Int(limit)
  }

  /// Told once a second at most: who sends from ever new addresses fills nobody's log.
  private func refuse(_ new: BridgeConfiguration, _ time: UInt64) {
    if let last = learning.lastRefusal, time >= last, time - last < 1_000_000_000 { return }
    learning.lastRefusal = time
    learning.tell(.station(.refused, new))
  }

  /// The path in force for an entry; false where there is no room.
  private func keep(_ new: BridgeConfiguration) -> Bool {
    guard let path = try? acquirePath(new.nexthop, new.label) else { return false }
    guard memory.bridge.set(vrf: new.vrf, mac: new.mac, path: path) else {
      memory.paths.release(path)
      return false
    }
    return true
  }

  /// Writes down an entry that is in force.
  private func insert(_ new: BridgeConfiguration, _ station: LearnedStation, _ settings: LearningConfiguration) {
    let key = BridgeKey(vrf: new.vrf, mac: new.mac)
    var station = station
    learning.tickets += 1
    station.ticket = learning.tickets
    let path = memory.reader.bridge.lookup(vrf: new.vrf, mac: new.mac.bits)
    bridge.set(key, Bridge(configuration: new, path: path, learned: station), generation: generation)
    learning.byNexthop[new.nexthop, default: []].insert(key)
    learning.byVRF[new.vrf, default: []].insert(key)
    if let interface = station.interface {
      learning.behindInterface[interface, default: []].insert(key)
    } else {
      learning.remote[new.vrf, default: 0] += 1
    }
    learning.queue.insert(
      .init(time: Self.due(station, settings), key: key, ticket: station.ticket))
  }

  /// When a station has not been heard of for too long. Packets since the last report may be that much younger.
  private static func due(_ station: LearnedStation, _ settings: LearningConfiguration) -> UInt64 {
    let (due, isBeyond) = station.lastSeen.addingReportingOverflow(
      UInt64(settings.ageing) * 1_000_000_000 + PacketPath.confirmInterval)
    return isBeyond ? .max : due
  }

  // MARK: forgetting

  /// An entry is no longer what is known of its MAC address; its place in the bridge is another's.
  func release(_ key: BridgeKey, _ old: Bridge) {
    memory.paths.release(old.path)
    let nexthop = old.configuration.nexthop
    learning.byNexthop[nexthop]?.remove(key)
    if learning.byNexthop[nexthop]?.isEmpty == true { learning.byNexthop[nexthop] = nil }
    learning.byVRF[key.vrf]?.remove(key)
    if learning.byVRF[key.vrf]?.isEmpty == true { learning.byVRF[key.vrf] = nil }
    if let interface = old.learned?.interface {
      learning.behindInterface[interface]?.remove(key)
      if learning.behindInterface[interface]?.isEmpty == true { learning.behindInterface[interface] = nil }
    } else {
      learning.remote[key.vrf, default: 1] -= 1
      if learning.remote[key.vrf] == 0 { learning.remote[key.vrf] = nil }
    }
  }

  func forget(_ key: BridgeKey) {
    guard let old = bridge[key]?.value, old.learned != nil else { return }
    memory.bridge.remove(vrf: key.vrf, mac: key.mac)
    release(key, old)
    bridge.remove(key)
  }

  /// What was learned does not keep anybody from removing what it leads to.
  func forget(learnedBy nexthop: UInt32) { for key in learning.byNexthop[nexthop] ?? [] { forget(key) } }
  func forget(learnedIn vrf: UInt32) { for key in learning.byVRF[vrf] ?? [] { forget(key) } }
  func forget(learnedBehind interface: UInt32) {
    for key in learning.behindInterface[interface] ?? [] { forget(key) }
  }

  /// Forgets MAC addresses that nobody has heard of for too long: a bounded part of it in a call. `now` is
  /// CLOCK_MONOTONIC in ns.
  public func age(now: UInt64) {
    learning.now = max(learning.now, now)
    for _ in 0..<4096 {
      guard let first = learning.queue.first, first.time <= now else { return }
      learning.queue.removeFirst()
      guard let entry = bridge[first.key]?.value, let station = entry.learned, station.ticket == first.ticket,
        let settings = vrfs[first.key.vrf]?.value.configuration.learning
      else { continue }
      let due = Self.due(station, settings)
      if due > now {
        learning.queue.insert(.init(time: due, key: first.key, ticket: station.ticket))
      } else {
        forget(first.key)
        learning.tell(.station(.aged, entry.configuration))
      }
    }
  }
}
