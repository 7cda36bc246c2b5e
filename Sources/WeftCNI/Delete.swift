import WeftNetlink

extension Run {
  /// DEL: the agent first, so that the forwarder lets go of the port before it disappears, then the interface. Whatever
  /// is gone already is fine. Where the agent cannot be told, the interface goes all the same and a later run tells it.
  /// A delegate comes last: an address is nobody else's before the agent and the container have let go of it.
  func delete() throws(CNIError) {
    try deleteOwn()
    try delegate()?.run(.delete)
  }

  private func deleteOwn() throws(CNIError) {
    let host = try kernel { () throws(NetlinkError) in try Netlink() }
    let wasMade = records.exists(key) || records.isBuried(key)
    let record = records.read(key)
    var hostInterface = record?.hostInterface
    var isTap = record?.isTap
    var failure: CNIError?
    do throws(CNIError) {
      if hostInterface == nil && !wasMade {
        // config-dir may have been lost, or be another.
        let attachment = try? agent.attachment(key)
        hostInterface = attachment?.hostInterface
        isTap = attachment.flatMap { $0.tap == nil ? nil : true }
      }
      try release(key)
    } catch {
      failure = error
    }
    if hostInterface == nil {
      (hostInterface, isTap) = lookForEnds(host)
      if let found = hostInterface, !isUnclaimed(found, wasMade: wasMade) { hostInterface = nil }
    }
    if let hostInterface, isTap == true {
      try removeTap(key.interface, hostInterface, netns: netns.isEmpty ? record?.netns ?? "" : netns)
    } else if let hostInterface {
      try removeHostEnd(hostInterface, host)
    }
    if let failure {
      if wasMade {
        try records.bury(key)
        log.log(.warning, "\(failure); \(key) is released by the next run that reaches the agent")
      } else {
        log.log(.warning, "\(failure); this plugin has no record of \(key), so there should be nothing to release")
      }
      return
    }
    records.remove(key)
    handOver()
  }

  /// By the container's end, as long as its namespace is there.
  private func lookForEnds(_ host: Netlink) -> (name: String?, isTap: Bool?) {
    guard !netns.isEmpty, let namespace = try? NetworkNamespace(path: netns), !namespace.isCurrent,
      let container = try? Netlink(in: namespace)
    else { return (nil, nil) }
    if let alias = try? TapEnd.alias(of: key.interface, container: container) { return (alias, true) }
    return (try? VethEnds.hostEnd(of: key.interface, container: container, host: host), nil)
  }

  /// What is found in a namespace may be another container's by now: the DEL of an old sandbox comes late, and paths are
  /// used again. Nobody else's record names it, nor does the agent; one that cannot be asked leaves it to whether there
  /// was a record.
  private func isUnclaimed(_ hostInterface: String, wasMade: Bool) -> Bool {
    let others = records.present().filter { $0 != key }
    guard !others.contains(where: { records.read($0)?.hostInterface == hostInterface }) else { return false }
    guard let known = try? agent.attachments() else { return wasMade }
    return !known.contains {
      $0.hostInterface == hostInterface && ($0.containerID != key.containerID || $0.interface != key.interface)
    }
  }

  func removeTap(_ interface: String, _ alias: String, netns: String) throws(CNIError) {
    guard alias.hasPrefix(VethEnds.prefix) else { return }
    try kernel { () throws(NetlinkError) in try TapEnd.remove(interface, alias: alias, netns: netns) }
  }

  func removeHostEnd(_ name: String, _ host: Netlink) throws(CNIError) {
    // A record may have been tampered with: only names that the agent gives out.
    guard name.hasPrefix(VethEnds.prefix) else { return }
    _ = try kernel { () throws(NetlinkError) in try VethEnds.remove(name, host) }
  }
}
