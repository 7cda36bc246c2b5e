import WeftAPI
import WeftNetlink

extension Run {
  /// STATUS: whether an ADD now could succeed. 50: no agent, no such network, no address; 51: the forwarder is down, so
  /// that running containers are cut off as well.
  func status() throws(CNIError) {
    let status: AgentStatus
    do throws(AgentFailure) {
      status = try agent.status()
    } catch {
      let reason = agent.error(error, "tell its status")
      throw CNIError(.unavailable, reason.message, details: reason.details)
    }
    guard status.forwarder.connected else {
      throw CNIError(
        .unavailableAndLimited, "the forwarder does not run: \(status.forwarder.reason ?? "no reason given")",
        details: "the agent at \(settings.agent) looks for it at \(status.forwarder.socket)")
    }
    handOver()
    let network = settings.network ?? status.defaultNetwork
    let pools = status.pools.filter { $0.network == network }
    guard !pools.isEmpty else {
      throw CNIError(.unavailable, "the agent has no network \"\(network)\"", details: "the agent at \(settings.agent)")
    }
    // Then the agent's own addresses do not count.
    if let delegate = try delegate() {
      do throws(CNIError) { try delegate.run(.status) } catch {
        let code = error.code == .unavailableAndLimited ? error.code : .unavailable
        throw CNIError(code, error.message, details: error.details)
      }
      return
    }
    if let full = pools.first(where: { $0.used >= $0.capacity }) {
      throw CNIError(
        .unavailable, "network \(network) has no free address in \(full.range)",
        details: "\(full.used) of \(full.capacity) are in use")
    }
  }

  /// GC: of the interfaces made under this network configuration, those that the runtime does not list go, with their
  /// addresses. Others' stay: the same agent serves other configurations and virtual machines too. What nobody has a
  /// record of goes once its network namespace is gone.
  func collectGarbage() throws(CNIError) {
    let valid = try configuration.validAttachments()
    let host = try kernel { () throws(NetlinkError) in try Netlink() }
    let known = try ask("list its attachments") { () throws(AgentFailure) in try agent.attachments() }
    handOver()
    let recorded = Set(records.present())
    var hostInterfaces: [InterfaceKey: String] = [:]
    /// Of TAP interfaces: where they are.
    var namespaces: [InterfaceKey: String] = [:]
    var stale: Set<InterfaceKey> = []
    for attachment in known {
      let key = InterfaceKey(containerID: attachment.containerID, interface: attachment.interface)
      hostInterfaces[key] = attachment.hostInterface
      if attachment.tap != nil { namespaces[key] = attachment.netns }
      // Ports of virtual machines have no namespace, and are not the plugin's.
      if !recorded.contains(key), !attachment.netns.isEmpty, !isNamespace(attachment.netns) { stale.insert(key) }
    }
    for key in recorded {
      let record = records.read(key)
      if record == nil || record?.configuration == configuration.name { stale.insert(key) }
      if let name = record?.hostInterface { hostInterfaces[key] = name }
      if record?.isTap == true { namespaces[key] = record?.netns }
    }
    var failures: [CNIError] = []
    for key in stale.subtracting(valid).sorted(by: { $0.description < $1.description }) {
      do throws(CNIError) {
        try release(key)
        if let name = hostInterfaces[key] {
          if let netns = namespaces[key] {
            try removeTap(key.interface, name, netns: netns)
          } else {
            try removeHostEnd(name, host)
          }
        }
        records.remove(key)
        log.log(.notice, "\(key) is no longer valid and removed")
      } catch {
        failures.append(error)
      }
    }
    do throws(CNIError) { try delegate()?.run(.gc) } catch { failures.append(error) }
    if let first = failures.first {
      throw CNIError(first.code, first.message, details: "\(failures.count) of what is to go remain; \(first.details)")
    }
  }

  private func isNamespace(_ path: String) -> Bool {
    guard let namespace = try? NetworkNamespace(path: path) else { return false }
    _ = namespace.identity
    return true
  }
}
