import CReference

/// The C packet path, programmed like Weft's.
final class ReferenceSide {
  let path: UnsafeMutableRawPointer

  init(flowEntries: Int, translates: Bool = false) throws {
    guard
      let made = reference_create(
        UInt32(flowEntries), Topology.seed, UInt32(Topology.interfaces), UInt32(Topology.vrfs),
        UInt32(Topology.nexthops), UInt32(Topology.paths), UInt32(Topology.nodes))
    else { throw BenchmarkError("make the C reference's tables: no memory for \(flowEntries) flow entries") }
    path = made
    reference_set_interface(
      path, Topology.fabric, 1, Topology.fabricMTU, 0, Topology.fabricMAC, Topology.fabricAddress)
    for vrf: UInt32 in 1...2 {
      for pod in 0..<Topology.pods {
        let interface = Topology.podInterface(vrf, pod)
        reference_set_interface(path, interface, 0, Topology.podMTU, vrf, Topology.podMAC(vrf, pod), 0)
        var nexthop = reference_nexthop()
        nexthop.kind = reference_encap
        nexthop.interface = interface
        nexthop.mtu = Topology.podMTU
        nexthop.destination_mac = Topology.podMAC(vrf, pod)
        reference_set_nexthop(path, Topology.podNexthop(vrf, pod), &nexthop)
        reference_set_route(path, vrf, Topology.podAddress(pod), 32, Topology.podNexthop(vrf, pod), 0)
      }
      for peer in 0..<Topology.peers {
        var nexthop = reference_nexthop()
        nexthop.kind = vrf == 1 ? reference_vxlan : reference_mpls
        nexthop.interface = Topology.fabric
        nexthop.mtu = Topology.fabricMTU - 28 - (vrf == 1 ? 22 : 4)
        nexthop.destination_mac = Topology.routerMAC
        reference_fill_tunnel(
          &nexthop, Topology.fabricMAC, Topology.peerMAC(peer), Topology.fabricAddress, Topology.peerAddress(peer))
        reference_set_nexthop(path, Topology.peerNexthop(vrf, peer), &nexthop)
      }
      for remote in 0..<Topology.remotes {
        reference_set_route(
          path, vrf, Topology.remoteAddress(remote), 32, Topology.peerNexthop(vrf, remote % Topology.peers),
          Topology.label(vrf, remote))
      }
      var translate = reference_nexthop()
      translate.kind = reference_vrf
      translate.vrf = vrf
      reference_set_nexthop(path, Topology.vrfNexthop(vrf), &translate)
    }
    if translates {
      for remote in 0..<Topology.remotes {
        reference_set_translation(
          path, Topology.serviceAddress(remote), Topology.servicePort, Topology.remoteAddress(remote),
          Topology.targetPort)
      }
    }
    reference_set_vni(path, Topology.end(1), Topology.vrfNexthop(1))
    reference_set_label(path, Topology.end(2), Topology.vrfNexthop(2))
  }

  deinit { reference_destroy(path) }

  /// All frames of a copy, in batches; what is sent is forgotten.
  func pass(_ frames: FrameSet, copy: Int, now: UInt64) {
    let first = frames.reference + copy * FrameSet.count
    let interface = frames.packetCase.interface
    for batch in 0..<FrameSet.batches {
      reference_process(path, first + batch * FrameSet.batch, Int32(FrameSet.batch), interface, now)
      reference_reset(path)
    }
  }

  /// One batch of copy 0, and the frames that leave by each interface.
  func output(_ frames: FrameSet, batch: Int, now: UInt64) -> [UInt32: [[UInt8]]] {
    reference_process(
      path, frames.reference + batch * FrameSet.batch, Int32(FrameSet.batch), frames.packetCase.interface, now)
    var result: [UInt32: [[UInt8]]] = [:]
    for interface in 0..<UInt32(Topology.interfaces) {
      for index in 0..<reference_sent(path, interface) {
        var bytes = [UInt8](repeating: 0, count: 2048)
        let length = reference_copy(path, interface, index, &bytes, 2048)
        result[interface, default: []].append(Array(bytes.prefix(max(0, Int(length)))))
      }
    }
    reference_reset(path)
    return result
  }

  var drops: UInt64 { reference_drops(path) }
}
