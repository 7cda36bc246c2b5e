import CLinux
import Glibc
import WeftAPI
import WeftNetlink
import WeftWire

extension Run {
  /// ADD: an attachment from the agent, the veth, and the agent's word that it forwards. Whatever fails after the agent
  /// was asked is undone; a run that is killed leaves its record, by which DEL removes the rest.
  func add() throws(CNIError) -> JSON {
    let wishes = try self.wishes()
    let namespace = try openNamespace()
    let container = try kernel { () throws(NetlinkError) in try Netlink(in: namespace) }
    let host = try kernel { () throws(NetlinkError) in try Netlink() }
    let interface = key.interface
    if try kernel({ () throws(NetlinkError) in try container.link(named: interface) }) != nil {
      throw CNIError(
        .environment, "CNI_IFNAME \(interface) exists in the container already",
        details: "in \(netns); nothing was changed")
    }
    handOver()
    guard !records.isBuried(key) else {
      throw CNIError(
        .tryAgainLater, "\(key) was deleted, but the agent at \(settings.agent) could not be told yet",
        details: "an attachment made now would be taken for the old one; does weft-agent run, what does its log say?")
    }
    var record = PluginRecord(
      configuration: configuration.name, containerID: key.containerID, interface: interface, netns: netns,
      bandwidth: wishes.bandwidth, podName: wishes.podName, podNamespace: wishes.podNamespace, podUID: wishes.podUID)
    let isRetry = records.exists(key)
    record.hostInterface = records.read(key)?.hostInterface
    let delegate = try delegate()
    try records.write(record)
    guard let delegate else { return try attach(wishes, nil, &record, isRetry, namespace, host, container) }

    // What an earlier run that was killed may have got.
    if isRetry { takeBack(delegate) }
    let assignment: Delegate.Assignment
    do throws(CNIError) { assignment = try delegate.add() } catch {
      takeBack(delegate)
      if !isRetry { records.remove(key) }
      throw error
    }
    do throws(CNIError) {
      var wishes = wishes
      wishes.addresses = assignment.addresses
      wishes.addressesOnly = true
      return try attach(wishes, assignment, &record, isRetry, namespace, host, container)
    } catch {
      takeBack(delegate)
      throw error
    }
  }

  /// With addresses of a delegate's, or of the agent's choice where there is none.
  private func attach(
    _ wishes: AttachmentRequest, _ assignment: Delegate.Assignment?, _ record: inout PluginRecord, _ isRetry: Bool,
    _ namespace: borrowing NetworkNamespace, _ host: Netlink, _ container: Netlink
  ) throws(CNIError) -> JSON {
    var attachment = try reserve(wishes, isRetry: isRetry)
    attachment = assignment?.applied(to: attachment) ?? attachment
    do throws(CNIError) {
      let mtu = try mtu(for: attachment)
      record.hostInterface = attachment.hostInterface
      record.isTap = attachment.tap == nil ? nil : true
      record.network = attachment.network
      record.mac = attachment.mac
      record.mtu = mtu
      record.addresses = attachment.addresses.map(\.address)
      record.routes = attachment.routes
      // Before there is anything that a DEL would have to find.
      try records.write(record)
      var made = try makeEnds(attachment, mtu, namespace, host, container)
      do throws(CNIError) {
        if made.routes != attachment.routes {
          record.routes = made.routes
          try records.write(record)
        }
        try activate()
        if attachment.tap != nil {
          made.routes = try raiseTap(attachment, container)
          record.routes = made.routes
          try records.write(record)
        }
      } catch {
        removeEnds(attachment, host, container)
        throw error
      }
      return AddResult(
        version: configuration.version, attachment: attachment, hostMAC: made.hostMAC, sandbox: netns, mtu: mtu,
        routes: made.routes, dns: assignment?.dns
      ).json(after: configuration.previousResult)
    } catch {
      withdraw()
      throw error
    }
  }

  /// What is asked of the agent.
  private func wishes() throws(CNIError) -> AttachmentRequest {
    let arguments = try Arguments(self.arguments)
    let wishes = try configuration.wishes(arguments)
    return AttachmentRequest(
      containerID: key.containerID, interface: key.interface, netns: netns, network: settings.network,
      podName: arguments.podName, podNamespace: arguments.podNamespace, podUID: arguments.podUID,
      addresses: wishes.addresses.isEmpty ? nil : wishes.addresses, bandwidth: try configuration.bandwidth(),
      mac: wishes.mac)
  }

  func openNamespace() throws(CNIError) -> NetworkNamespace {
    let namespace: NetworkNamespace
    do throws(NetlinkError) {
      namespace = try NetworkNamespace(path: netns)
    } catch {
      throw CNIError(.namespace, "CNI_NETNS: cannot \(error)")
    }
    if namespace.isCurrent {
      throw CNIError(
        .namespace, "CNI_NETNS \(netns) is the plugin's own network namespace",
        details: "a container needs one of its own")
    }
    return namespace
  }

  private func reserve(_ request: AttachmentRequest, isRetry: Bool) throws(CNIError) -> Attachment {
    let attachment: Attachment
    do throws(AgentFailure) {
      attachment = try agent.reserve(request)
    } catch {
      switch error {
      // Nothing was asked for: nothing is left, unless an earlier run left it.
      case .unreachable where !isRetry: records.remove(key)
      // It may hold something.
      default: withdraw()
      }
      throw agent.error(error, "make an attachment for \(key)")
    }
    guard attachment.containerID == key.containerID, attachment.interface == key.interface,
      LinkName.isValid(attachment.hostInterface), attachment.hostInterface.hasPrefix(VethEnds.prefix),
      !attachment.addresses.isEmpty
    else {
      withdraw()
      throw CNIError(
        .io, "the agent at \(settings.agent) answered an attachment that cannot be used",
        details: "\(attachment.containerID)/\(attachment.interface), host interface \"\(attachment.hostInterface)\", "
          + "\(attachment.addresses.count) addresses; is it weft-agent that listens there?")
    }
    return attachment
  }

  /// The network's, or less where the configuration says so: more would not fit the tunnels.
  private func mtu(for attachment: Attachment) throws(CNIError) -> Int {
    guard (68...65535).contains(attachment.mtu) else {
      throw CNIError(
        .internal, "the agent answered an MTU of \(attachment.mtu) bytes", details: "68 to 65535 can be set")
    }
    let mtu = min(settings.mtu ?? attachment.mtu, attachment.mtu)
    if let asked = settings.mtu, asked > mtu {
      log.log(
        .warning, "mtu \(asked) of the configuration is more than network \(attachment.network) carries: set to \(mtu)")
    }
    guard mtu >= 1280 || attachment.addresses.allSatisfy({ $0.address.address.isV4 }) else {
      throw CNIError(
        .configuration, "an MTU of \(mtu) bytes is too small for IPv6", details: "RFC 8200 section 5: 1280 at least")
    }
    return mtu
  }

  private func makeEnds(
    _ attachment: Attachment, _ mtu: Int, _ namespace: borrowing NetworkNamespace, _ host: Netlink, _ container: Netlink
  ) throws(CNIError) -> (hostMAC: MACAddress?, routes: [AttachmentRoute]) {
    do {
      if let tap = attachment.tap {
        try TapEnd.make(attachment, tap, mtu: mtu, namespace: namespace, container: container)
        return (nil, [])
      }
      // A run that was killed, for a container whose namespace is another now, may have left the host's end.
      if try VethEnds.remove(attachment.hostInterface, host) {
        log.log(.notice, "\(attachment.hostInterface), left by an earlier run, is removed")
      }
      return try VethEnds.make(attachment, mtu: mtu, namespace: namespace, host: host, container: container)
    } catch {
      throw CNIError(
        .io, "cannot \(error)",
        details: "while making \(key.interface) in \(netns)"
          + (attachment.tap == nil ? " with \(attachment.hostInterface) as its other end" : ", a TAP interface"))
    }
  }

  private func raiseTap(_ attachment: Attachment, _ container: Netlink) throws(CNIError) -> [AttachmentRoute] {
    do { return try TapEnd.raise(attachment, container: container) } catch {
      throw CNIError(.io, "cannot \(error)", details: "while setting up \(key.interface) in \(netns)")
    }
  }

  private func removeEnds(_ attachment: Attachment, _ host: Netlink, _ container: Netlink) {
    if attachment.tap == nil {
      _ = try? VethEnds.remove(attachment.hostInterface, host)
    } else {
      _ = try? TapEnd.remove(attachment.interface, alias: attachment.hostInterface, container: container)
    }
  }

  /// Asks again while the agent says that it is not ready: at most poll-retries times, and for poll-timeout seconds.
  private func activate() throws(CNIError) {
    let end = weft_monotonic_ns() + UInt64(settings.pollTimeout) * 1_000_000_000
    var pause: UInt64 = 20_000_000
    var retries = settings.pollRetries
    while true {
      do throws(AgentFailure) {
        let attachment = try agent.activate(key)
        guard attachment.state == .active else {
          throw .refused(
            APIError(
              .forwarderRefused, "it is \(attachment.state.rawValue): \(attachment.reason ?? "no reason given")"),
            status: 200)
        }
        return
      } catch {
        let now = weft_monotonic_ns()
        guard error.isPassing, retries > 0, now + pause < end else {
          throw agent.error(error, "activate the attachment of \(key)")
        }
        log.log(.info, "\(agent.error(error, "activate the attachment")); asking again")
        usleep(useconds_t(pause / 1000))
        pause = min(pause * 2, 1_000_000_000)
        retries -= 1
      }
    }
  }

  /// Gives the attachment back. What the agent cannot be told now, a later run tells it.
  private func withdraw() {
    do throws(CNIError) {
      try release(key)
      records.remove(key)
      return
    } catch {
      log.log(.warning, "\(error); the next run that reaches the agent will")
    }
    do throws(CNIError) {
      try records.bury(key)
    } catch {
      log.log(.error, error.description)
    }
  }
}
