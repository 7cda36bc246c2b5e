import WeftNetlink

extension Run {
  /// DEL: the agent first, so that the forwarder lets go of the port before it disappears, then the veth. Whatever is
  /// gone already is fine. Where the agent cannot be told, the veth goes all the same and a later run tells it.
  func delete() throws(CNIError) {
    let host = try kernel { () throws(NetlinkError) in try Netlink() }
    let wasMade = records.exists(key) || records.isBuried(key)
    var hostInterface = records.read(key)?.hostInterface
    var failure: CNIError?
    do throws(CNIError) {
      if hostInterface == nil && !wasMade {
        // config-dir may have been lost, or be another.
        hostInterface = try? agent.attachment(key)?.hostInterface
      }
      try release(key)
    } catch {
      failure = error
    }
    if hostInterface == nil { hostInterface = lookForHostEnd(host) }
    if let hostInterface { try removeHostEnd(hostInterface, host) }
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
  private func lookForHostEnd(_ host: Netlink) -> String? {
    guard !netns.isEmpty, let namespace = try? NetworkNamespace(path: netns), !namespace.isCurrent,
      let container = try? Netlink(in: namespace)
    else { return nil }
    return try? VethEnds.hostEnd(of: key.interface, container: container, host: host)
  }

  func removeHostEnd(_ name: String, _ host: Netlink) throws(CNIError) {
    // A record may have been tampered with: only names that the agent gives out.
    guard name.hasPrefix(VethEnds.prefix) else { return }
    _ = try kernel { () throws(NetlinkError) in try VethEnds.remove(name, host) }
  }
}
