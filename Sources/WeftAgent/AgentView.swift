import WeftAPI
import WeftRing

// What may be asked of the core while it is busy: nothing here waits for it.

extension Agent {
  public nonisolated var forwarderStatus: AgentStatus.Forwarder {
    shared.withLock {
      $0.forwarder
        ?? AgentStatus.Forwarder(connected: false, synchronized: false, socket: configuration.forwarderSocket)
    }
  }

  /// For what only reads, and waits for nobody.
  nonisolated var openChannel: RingClient? { shared.withLock { $0.channel } }
  nonisolated var currentUnderlay: Underlay { shared.withLock { $0.underlay } }

  public nonisolated var fabricMTU: Int {
    shared.withLock { $0.fabricMTU } ?? Underlay().fabricMTU(configuration)
  }

  nonisolated func attachment(_ record: AttachmentRecord) -> Attachment {
    configuration.attachment(record, fabricMTU: fabricMTU)
  }

  nonisolated var peerStatus: [AgentStatus.Peer] {
    let peers = shared.withLock { $0.peers }
    return configuration.peers.map { peer in
      let mac = peers[peer.name]?.mac ?? .zero
      return AgentStatus.Peer(
        name: peer.name, address: peer.address.description, nextHopMAC: mac.isZero ? nil : mac.description,
        reason: mac.isZero ? peers[peer.name]?.reason ?? "not looked for yet" : nil)
    }
  }

  /// How long the core has waited for an answer of the forwarder's; nil: it does not wait.
  nonisolated var waitingNanoseconds: UInt64? {
    shared.withLock { $0.waitingSince }.map { UnderlayWatcher.now() &- $0 }
  }

  /// Ends a channel whose forwarder answers nothing. Whoever waits for it is told why.
  nonisolated func giveUp(_ channel: RingClient, reason: String) {
    shared.withLock { $0.givenUp = reason }
    channel.close()
  }
}
