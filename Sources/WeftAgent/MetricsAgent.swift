import FoundationEssentials
import Glibc
import WeftAPI

extension HTTPInterface {
  /// Everything that there is to tell, for Prometheus.
  func metricsText() async throws -> String {
    var text = MetricsText()
    text.family("weft_build_info", .gauge, "Always 1; the labels say which agent this is.")
    text.sample(1, [("version", AgentProgram.version), ("node", configuration.node)])
    text.process()
    let channel = agent.openChannel
    text.single("weft_forwarder_up", .gauge, "1 while the agent has a channel to a forwarder.", channel == nil ? 0 : 1)
    let status = agent.forwarderStatus
    text.single(
      "weft_forwarder_synchronized", .gauge, "1 when everything that should be in the forwarder is in it.",
      status.synchronized ? 1 : 0)
    let records = try await store.attachments()
    text.family("weft_attachments", .gauge, "Attachments, by state.")
    for state in AttachmentState.allCases {
      text.sample(records.count { $0.state == state }, [("state", state.rawValue)])
    }
    text.family("weft_pool_addresses", .gauge, "Addresses that may be given out, by subnet.")
    let pools = store.pools()
    for pool in pools { text.sample(pool.capacity, [("network", pool.network), ("prefix", pool.prefix)]) }
    text.family("weft_pool_addresses_used", .gauge, "Addresses that are given out, by subnet.")
    for pool in pools { text.sample(pool.used, [("network", pool.network), ("prefix", pool.prefix)]) }
    text.family("weft_peer_reached", .gauge, "1 when the next hop to a peer answers.")
    for peer in agent.peerStatus {
      text.sample(peer.nextHopMAC == nil ? 0 : 1, [("peer", peer.name), ("address", peer.address)])
    }
    if let channel { text.forwarder(channel, ports: portLabels(records)) }
    agent.metrics.registry.write(to: &text)
    return text.text
  }

  /// The ports that the forwarder was told of, the fabric first.
  private func portLabels(_ records: [AttachmentRecord]) -> [PortLabels] {
    let numbers = store.knownNumbers(.interface)
    var ports: [PortLabels] = []
    if let fabric = numbers["fabric"] {
      ports.append(
        PortLabels(
          id: fabric, device: configuration.fabric.interface, role: "fabric", network: "", namespace: "", pod: ""))
    }
    for record in records where record.isWanted {
      guard let id = numbers["vmi/\(record.id)"] else { continue }
      ports.append(
        PortLabels(
          id: id, device: record.hostInterface, role: "virtual", network: record.network,
          namespace: record.podNamespace ?? "", pod: record.podName ?? ""))
    }
    return ports
  }
}

extension Store {
  /// The numbers of entries of a kind, by name.
  func knownNumbers(_ kind: IdentifierKind) -> [String: UInt32] {
    memory.withLock { memory in
      var result: [String: UInt32] = [:]
      for (identifier, number) in memory.numbers where identifier.kind == kind { result[identifier.name] = number }
      return result
    }
  }
}

extension MetricsText {
  /// The agent's process, by the names that Prometheus' own libraries use.
  mutating func process() {
    var usage = rusage()
    guard getrusage(Int32(RUSAGE_SELF.rawValue), &usage) == 0 else { return }
    func seconds(_ time: timeval) -> Double { Double(time.tv_sec) + Double(time.tv_usec) / 1e6 }
    single(
      "process_cpu_seconds_total", .counter, "Time of processors that the agent has taken.",
      seconds(usage.ru_utime) + seconds(usage.ru_stime))
    let fields = (try? String(contentsOfFile: "/proc/self/statm", encoding: .utf8))?.split(separator: " ") ?? []
    if fields.count > 1, let pages = Int(fields[1]) {
      single(
        "process_resident_memory_bytes", .gauge, "Memory of the agent that is there.",
        pages * Int(sysconf(Int32(_SC_PAGESIZE))))
    }
    if let open = try? FileManager.default.contentsOfDirectory(atPath: "/proc/self/fd").count {
      single("process_open_fds", .gauge, "Descriptors that the agent has open.", open)
    }
    single("process_start_time_seconds", .gauge, "When the agent started, since 1970.", AgentProgram.started)
  }
}
