import WeftTables
import WeftWire

// Sessions that share a flow. Where an interface has a list of such sessions, a tuple's key loses what the list leaves
// out, and so does the key of the packets that come back: both ends' interfaces are asked for either direction. A tuple
// that has a flow of its own keeps that: one that was there before the list, or one that is translated, which needs
// all of the tuple.

extension PacketPath {
  /// The flow that a packet without one of its own shares; `FlowTable.none` where there is none yet, or where it is to be
  /// asked first whether the packet is translated. Notes what of the packet's key counts.
  mutating func findFat(_ packet: inout Packet) -> UInt32 {
    packet.fat = fatMask(packet.key, of: packet)
    guard !packet.fat.isWhole, let flow = shared(packet) else { return FlowTable.none }
    // What the others of the flow are says nothing about the translation of one that goes elsewhere.
    if packet.fat.hidesTranslation, !tables.nat.isEmpty, packet.link != .other, flows[flow].isForward {
      return FlowTable.none
    }
    return flow
  }

  /// The same for the tuple of a packet that an ICMP error stands for.
  func findFat(_ key: FlowKey, of packet: Packet) -> UInt32 {
    let mask = fatMask(key, of: packet)
    guard !mask.isWhole else { return FlowTable.none }
    let key = mask.apply(to: key)
    return flows.find(key, hash: key.hash(seed: seed))
  }

  /// The flow that a packet with `fat` shares.
  func shared(_ packet: Packet) -> UInt32? {
    let key = packet.fat.apply(to: packet.key)
    let flow = flows.find(key, hash: key.hash(seed: seed))
    return flow == FlowTable.none ? nil : flow
  }

  /// Makes a flow for all sessions that have the packet's key but for what is left out.
  mutating func insertFat(
    _ packet: Packet, _ flags: FlowFlags, rule: UInt32, _ generation: UInt32, _ now: UInt64
  ) -> FlowInsertion {
    let key = packet.fat.apply(to: packet.key)
    return flows.insert(
      forward: key, forwardHash: key.hash(seed: seed), reverse: key.reversed, flags: flags.union(.fat),
      timeout: flags.contains(.denied) ? .denied : .fat(proto: key.proto), policyRule: rule,
      policyGeneration: generation, now: now)
  }

  /// What of a tuple counts, by the lists of the interfaces at both its ends. `packet` says where it comes from and how
  /// its way is found.
  private func fatMask(_ key: FlowKey, of packet: Packet) -> FatFlowMask {
    var mask = FatFlowMask()
    guard tables.fatFlows.mayApply(vrf: UInt32(truncatingIfNeeded: key.vrf), proto: key.proto) else { return mask }
    if !packet.fromFabric, let list = tables.interface(packet.interface)?.entry.fatFlows {
      list.narrow(&mask, key, isSource: true)
    }
    if let target = localTarget(of: packet, key), let list = tables.interface(target)?.entry.fatFlows {
      list.narrow(&mask, key, isSource: false)
    }
    return mask
  }

  /// The local interface that a tuple leads to. Of an ECMP nexthop's members, the first local one stands for all.
  private func localTarget(of packet: Packet, _ key: FlowKey) -> UInt32? {
    var id: UInt32
    if packet.hasPath || packet.isReady {
      id = packet.path.nexthop
    } else if packet.link == .other {
      let number = tables.bridge.lookup(vrf: packet.vrf, mac: packet.ethernet.mac(Ethernet.destination))
      guard number != 0 else { return nil }
      id = tables.paths[number].nexthop
    } else {
      var vrf = UInt32(truncatingIfNeeded: key.vrf)
      id = 0
      var isFound = false
      for _ in 0..<4 where !isFound {
        let number = tables.route(vrf: vrf, to: key.destination)
        guard number != 0 else { return nil }
        id = tables.paths[number].nexthop
        guard let nexthop = tables.nexthop(id) else { return nil }
        isFound = nexthop.entry.kind != .vrfTranslate
        vrf = nexthop.entry.vrf
      }
      guard isFound else { return nil }
    }
    guard let nexthop = tables.nexthop(id) else { return nil }
    if nexthop.entry.kind == .encap { return nexthop.entry.interface }
    guard nexthop.entry.kind == .ecmp, let members = nexthop.entry.members else { return nil }
    for index in 0..<members.count {
      if let member = tables.nexthop(members.path(index).nexthop), member.entry.kind == .encap {
        return member.entry.interface
      }
    }
    return nil
  }
}
