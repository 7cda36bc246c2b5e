import WeftNetlink
import WeftRing

// Whether what pods may send fits into tunnels, the fabric and the way to each peer.

extension Patient {
  func mtu() -> [Finding] {
    var findings: [Finding] = []
    for fabric in fabrics {
      guard let link = link(fabric.device) else {
        findings.append(
          Finding(
            "MTU", .bad, "\(fabric.device), the fabric, does not exist",
            do: "fabric.interface of the agent's file names an interface of this namespace"))
        continue
      }
      if Int(link.mtu) < Int(fabric.mtu) {
        findings.append(
          Finding(
            "MTU", .bad, "\(fabric.device) has MTU \(link.mtu), but the forwarder reckons with \(fabric.mtu)",
            do: "restart weft-agent, or let fabric.mtu of its file be \(link.mtu)"))
      }
    }
    findings += podMTUs()
    guard findings.isEmpty else { return findings }
    guard let fabric = fabrics.first, let link = link(fabric.device) else {
      return [Finding("MTU", .ok, "nothing to compare: the forwarder has no fabric")]
    }
    return [
      Finding("MTU", .ok, "\(fabric.device) carries \(link.mtu) bytes, which pods' packets fit with their tunnels")
    ]
  }

  /// Pods' interfaces that are longer than what the forwarder passes on: the fabric's MTU was lowered after they were made.
  private func podMTUs() -> [Finding] {
    var long: [(port: InterfaceConfiguration, mtu: UInt32)] = []
    for port in ports.map(\.configuration) where port.role == .virtual && (port.port == .packet || port.port == .xdp) {
      guard let link = link(port.device), link.mtu > UInt32(port.mtu) else { continue }
      long.append((port, link.mtu))
    }
    guard let first = long.first else { return [] }
    return [
      Finding(
        "MTU", .warn,
        "\(long.count == 1 ? "a pod sends" : "\(long.count) pods send") more than their network carries, such as "
          + "\(first.port.device): MTU \(first.mtu), \(first.port.mtu) pass",
        do: "make these pods anew, or raise the fabric's MTU again; until then they depend on ICMP errors")
    ]
  }

  // MARK: the way to peers

  private static let mostPeers = 64

  func paths() -> [Finding] {
    let fabric = Dictionary(fabrics.map { ($0.id, $0) }, uniquingKeysWith: { $1 })
    var peers: [PathProbe.Peer] = []
    for tunnel in tunnels where !peers.contains(where: { $0.address == tunnel.destination }) {
      guard peers.count < Self.mostPeers else { break }
      let device = fabric[tunnel.interface]
      peers.append(
        PathProbe.Peer(address: tunnel.destination, source: tunnel.source, mtu: Int(device?.mtu ?? 1500)))
    }
    guard !peers.isEmpty else { return [Finding("paths", .ok, "no peers to ask")] }
    var findings: [Finding] = []
    for peer in peers {
      guard let route = try? netlink.route(to: peer.address) else {
        findings.append(
          Finding("path", .bad, "the kernel has no route to peer \(peer.address)", do: "ip route get \(peer.address)"))
        continue
      }
      if let mtu = route.mtu, mtu > 0, Int(mtu) < peer.mtu {
        findings.append(
          Finding(
            "path", .bad, "the kernel knows that the way to peer \(peer.address) carries \(mtu) bytes, not \(peer.mtu)",
            do: "let fabric.mtu of the agent's file be \(mtu), or mend the network between"))
      }
    }
    do {
      for (peer, outcome) in zip(peers, try PathProbe.run(peers)) {
        switch outcome {
        case .whole: break
        case .short:
          findings.append(
            Finding(
              "path", .bad,
              "peer \(peer.address) answers, but not to packets of \(peer.mtu) bytes that may not be fragmented",
              do: "raise the MTU between, or let fabric.mtu of the agents' files be what passes (ping -M do -s BYTES)"))
        case .silent:
          findings.append(
            Finding(
              "path", .warn, "peer \(peer.address) does not answer to pings",
              do: "is it up, and may it be pinged? the MTU of the way to it is not known"))
        }
      }
    } catch {
      findings.append(Finding("path", .unknown, "pings cannot be sent: \(error)", do: "run it as root"))
    }
    guard findings.isEmpty else { return findings }
    return [Finding("paths", .ok, "\(peers.count) of \(peers.count) peers take the longest packets")]
  }
}
