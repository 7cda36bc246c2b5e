import CLinux
import FoundationEssentials
import Glibc
import WeftAPI
import WeftRing

/// What can be found out of a node in a moment, and what it means.
final class NodeLook {
  private let socket: String
  private let agent: AgentConnection
  private let configDir: String
  private let interval: Double
  private(set) var ring: RingClient?
  private(set) var status: AgentStatus?

  /// Workers beat every 100 ms even when they sleep.
  static let longestHeartbeat: UInt64 = 3000

  init(socket: String, agent: AgentAddress, configDir: String, interval: Double) {
    self.socket = socket
    self.agent = AgentConnection(agent)
    self.configDir = configDir
    self.interval = interval
  }

  func findings() -> [Finding] {
    var findings = [forwarder()]
    let before = ring?.statistics.drops()
    let workersBefore = ring?.statistics.workers()
    let start = weft_monotonic_ns()
    findings += agentFindings()
    if let ring, let before, let workersBefore {
      let left = Int64(start) + Int64(interval * 1e9) - Int64(weft_monotonic_ns())
      if left > 0 { usleep(useconds_t(left / 1000)) }
      let seconds = Double(weft_monotonic_ns() - start) / 1e9
      findings.insert(workers(ring.statistics, workersBefore, seconds), at: 1)
      findings.append(drops(ring.statistics, before, workersBefore, seconds))
      findings.append(tables(ring.statistics))
    }
    findings.append(leftovers())
    return findings
  }

  // MARK: the forwarder

  private func forwarder() -> Finding {
    do throws(RingError) {
      let ring = try RingClient.connect(path: socket, role: .observer)
      self.ring = ring
      let uptime = seconds(ring.statistics.uptimeNanoseconds / 1_000_000)
      let age = ring.statistics.controlHeartbeatAgeMilliseconds
      guard age < Self.longestHeartbeat else {
        return Finding(
          "forwarder", .bad, "pid \(ring.forwarderPID): its control thread has not moved for \(seconds(age))",
          do: "is the process stopped, or its core taken? its log may say; restart weft-vrouter")
      }
      return Finding("forwarder", .ok, "pid \(ring.forwarderPID), up \(uptime), \(socket)")
    } catch {
      if geteuid() != 0, access(socket, F_OK) == 0 || errno == EACCES, access(socket, R_OK | W_OK) != 0 {
        return Finding("forwarder", .unknown, "\(socket) may not be used by this user", do: "run it as root")
      }
      return Finding(
        "forwarder", .bad, error.description,
        do: "start weft-vrouter, or say with --socket where its socket is; pods are cut off meanwhile")
    }
  }

  private func workers(
    _ statistics: StatisticsReader, _ before: [StatisticsReader.Worker], _ time: Double
  ) -> Finding {
    let now = statistics.workers()
    if let stalled = now.first(where: { $0.heartbeatAgeMilliseconds > Self.longestHeartbeat }) {
      return Finding(
        "workers", .bad,
        "worker \(stalled.index) on core \(stalled.core) has not moved for \(seconds(stalled.heartbeatAgeMilliseconds))",
        do: "something else may have its core (top -H, weft doctor); restart weft-vrouter if it stays so")
    }
    let loads = zip(now, before).map { new, old in
      min(100, Int(Double(new.busyNanoseconds &- old.busyNanoseconds) / (time * 1e7)))
    }
    let text = "\(now.count) at work, busy \(loads.map { "\($0) %" }.joined(separator: ", "))"
    guard let most = loads.max(), most >= 95 else { return Finding("workers", .ok, text) }
    return Finding(
      "workers", .warn, text, do: "a worker has all it can do: give weft-vrouter more --cores (docs/numa.md)")
  }

  private func tables(_ statistics: StatisticsReader) -> Finding {
    let fills = statistics.tables().filter { $0.limit > 0 }
      .map { (table: $0, percent: Int($0.entries * 100 / $0.limit)) }
    guard let fullest = fills.max(by: { $0.percent < $1.percent }) else { return Finding("tables", .ok, "empty") }
    let full = fills.filter { $0.percent >= 90 }
    guard let first = full.first else {
      return Finding(
        "tables", .ok,
        "the fullest is \(fullest.table.table.name), \(fullest.percent) % of \(fullest.table.limit)")
    }
    let text = full.map { "\($0.table.table.name) \($0.percent) % of \($0.table.limit)" }.joined(separator: ", ")
    return Finding(
      "tables", full.contains { $0.table.entries >= $0.table.limit } ? .bad : .warn, text,
      do: first.table.table == .flows
        ? "start weft-vrouter with a larger --max-flows; weft top shows who makes so many"
        : "start weft-vrouter with a larger --max-\(first.table.table.name)")
  }

  /// Of all packets that workers took, so many per cent dropped for want of something make a node unwell.
  private static let badPercent = 1.0

  private func drops(
    _ statistics: StatisticsReader, _ before: [StatisticsReader.Drop], _ workers: [StatisticsReader.Worker],
    _ time: Double
  ) -> Finding {
    let now = statistics.drops()
    let total = now.reduce(UInt64(0)) { $0 &+ $1.count }
    let growing = zip(now, before).map { (drop: $0, count: $0.count &- $1.count) }.filter { $0.count > 0 }
      .sorted { $0.count > $1.count }
    guard let first = growing.first(where: { DropAdvice.isNodes($0.drop.name) }) ?? growing.first else {
      return Finding("drops", .ok, "none in \(rounded(time)) s; \(total) since it started (weft drops)")
    }
    let shown = growing.prefix(3).map { "\($0.drop.name) \(rate(Double($0.count) / time)) (\($0.drop.explanation))" }
    var text = shown.joined(separator: "; ")
    if growing.count > 3 { text += "; and \(growing.count - 3) other reasons" }
    guard DropAdvice.isNodes(first.drop.name) else {
      return Finding("drops", .ok, "\(text): what senders have to mend, if anybody")
    }
    let own = growing.filter { DropAdvice.isNodes($0.drop.name) }.reduce(UInt64(0)) { $0 + $1.count }
    let packets = zip(statistics.workers(), workers).reduce(UInt64(0)) { $0 &+ ($1.0.packets &- $1.1.packets) }
    let percent = Double(own) * 100 / Double(max(1, packets + own))
    return Finding(
      "drops", percent >= Self.badPercent ? .bad : .warn, text, do: DropAdvice.advice(first.drop.name))
  }

  // MARK: the agent

  private func agentFindings() -> [Finding] {
    do throws(AgentConnection.Fault) {
      let status = try agent.get(AgentStatus.self, "/v1/status")
      self.status = status
      let health = try agent.get(Health.self, "/readyz", also: [503])
      let failed = try agent.get([Attachment].self, "/v1/attachments?state=failed")
      let waiting = try agent.get([Attachment].self, "/v1/attachments?state=waiting")
      return [
        agentFinding(status, health), synchronized(status), underlay(health), peers(status),
        ports(status, failed, waiting),
        addresses(status),
      ]
    } catch {
      return [
        Finding(
          "agent", error.isForbidden ? .unknown : .bad, error.reason,
          do: error.isForbidden
            ? "run it as who may ask the agent"
            : "start weft-agent, or say with --agent where it listens; pods go on, but none can be made or deleted")
      ]
    }
  }

  private struct Health: Decodable {
    struct Check: Decodable {
      var name: String
      var ok: Bool
      var reason: String
    }
    var checks: [Check]

    /// Why a check fails; nil when it does not.
    func fault(_ name: String) -> String? { checks.first { $0.name == name && !$0.ok }?.reason }
    func said(_ name: String) -> String { checks.first { $0.name == name }?.reason ?? "" }
  }

  private func agentFinding(_ status: AgentStatus, _ health: Health) -> Finding {
    if let fault = health.fault("store") ?? health.fault("core") {
      return Finding(
        "agent", .bad, fault, do: "see weft-agent's log; /healthz of \(agent.address) says when it is mended")
    }
    return Finding("agent", .ok, "\(agent.address), version \(status.version)")
  }

  private func synchronized(_ status: AgentStatus) -> Finding {
    let forwarder = status.forwarder
    if !forwarder.connected {
      return Finding(
        "in step", .bad, "the agent has no forwarder at \(forwarder.socket): \(forwarder.reason ?? "it went away")",
        do: ring == nil
          ? "start weft-vrouter" : "forwarder.socket of the agent's file must be the socket of weft-vrouter")
    }
    if let pid = ring?.forwarderPID, let other = forwarder.pid, pid != other {
      return Finding(
        "in step", .bad, "the agent programs forwarder \(other), not \(pid) at \(socket)",
        do: "let --socket and the agent's forwarder.socket be the same")
    }
    guard forwarder.synchronized else {
      return Finding(
        "in step", .bad, "the forwarder does not hold all it should: \(forwarder.reason ?? "a replay is under way")",
        do: "it is tried again every few seconds; if it stays so, weft-agent's log names the entry")
    }
    return Finding("in step", .ok, "the forwarder holds all it should")
  }

  private func underlay(_ health: Health) -> Finding {
    if let fault = health.fault("underlay") {
      return Finding("underlay", .bad, fault, do: "other nodes are cut off until it is up, with its address")
    }
    return Finding("underlay", .ok, health.said("underlay"))
  }

  private func peers(_ status: AgentStatus) -> Finding {
    let lost = status.peers.filter { $0.nextHopMAC == nil }
    guard let first = lost.first else {
      return Finding(
        "peers", .ok, status.peers.isEmpty ? "none" : "\(status.peers.count) of \(status.peers.count) reached")
    }
    let named = lost.prefix(3).map { "\($0.name) (\($0.address)): \($0.reason ?? "not resolved")" }
    return Finding(
      "peers", lost.count == status.peers.count ? .bad : .warn,
      "\(status.peers.count - lost.count) of \(status.peers.count) reached; not "
        + named.joined(separator: "; ") + (lost.count > 3 ? "; and \(lost.count - 3) more" : ""),
      do: "is it up? ping \(first.address), ip route get \(first.address)")
  }

  /// Those that wait are to forward as well, and do not.
  private func ports(_ status: AgentStatus, _ failed: [Attachment], _ waiting: [Attachment]) -> Finding {
    let bad = failed + waiting
    let others = status.attachments - status.activeAttachments - bad.count
    var text = "\(status.activeAttachments) active, \(failed.count) failed"
    if !waiting.isEmpty { text += ", \(waiting.count) waiting" }
    if others > 0 { text += ", \(others) reserved or disabled" }
    guard !bad.isEmpty else { return Finding("ports", .ok, text) }
    let named = bad.prefix(2).map {
      "\($0.podName ?? $0.containerID) \($0.interface): \($0.reason ?? "no reason given")"
    }
    return Finding(
      "ports", .bad,
      "\(text); \(named.joined(separator: "; "))" + (bad.count > 2 ? "; and \(bad.count - 2) more" : ""),
      do: "they are tried again every few seconds; delete those whose pods are gone, or make the pods anew")
  }

  private func addresses(_ status: AgentStatus) -> Finding {
    let fills = status.pools.filter { $0.capacity > 0 }
      .map {
        (pool: $0, percent: Int($0.used.multipliedFullWidth(by: 100).high == 0 ? $0.used * 100 / $0.capacity : 0))
      }
    let full = fills.filter { $0.percent >= 90 }
    guard full.isEmpty else {
      let text = full.map { "\($0.pool.network) \($0.pool.range): \($0.pool.used) of \($0.pool.capacity) in use" }
      return Finding(
        "addresses", full.contains { $0.pool.used >= $0.pool.capacity } ? .bad : .warn, text.joined(separator: "; "),
        do: "give this node a larger range in the agent's file; a full one lets no pod start")
    }
    let most = fills.max { $0.percent < $1.percent }
    return Finding(
      "addresses", .ok,
      most.map { "the fullest is \($0.pool.network) \($0.pool.range), \($0.pool.used) of \($0.pool.capacity) in use" }
        ?? "none to give out")
  }

  // MARK: the plugin

  /// Deletions that the agent has not heard of.
  private func leftovers() -> Finding {
    guard let folder = opendir(configDir) else {
      if errno == ENOENT { return Finding("left over", .ok, "nothing in \(configDir)") }
      return Finding(
        "left over", .unknown, "\(configDir) cannot be read: \(unsafe String(cString: strerror(errno)))",
        do: "run it as root, or say with --config-dir where the plugin keeps its files")
    }
    defer { closedir(folder) }
    var count = 0
    var first = ""
    while let entry = readdir(folder) {
      let name = withUnsafeBytes(of: entry.pointee.d_name) {
        String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
      }
      guard name.hasSuffix(".deleted") else { continue }
      count += 1
      if first.isEmpty || name < first { first = name }
    }
    guard count > 0 else { return Finding("left over", .ok, "nothing in \(configDir)") }
    return Finding(
      "left over", .warn,
      "\(count) \(count == 1 ? "deletion" : "deletions") that the agent has not heard of, such as \(first)",
      do: "the next pod that is made or deleted hands them over once the agent answers; until then they hold addresses")
  }

  private func rounded(_ value: Double) -> String { "\(Int(value * 10) / 10).\(Int(value * 10) % 10)" }
}

/// "12/s", "1.5k/s".
func rate(_ perSecond: Double) -> String {
  "\(scaled(perSecond))/s"
}

/// "0.3", "12", "1.5k", "20.1M".
func scaled(_ value: Double) -> String {
  func tenths(_ value: Double) -> String {
    let number = Int((value * 10).rounded())
    return number >= 1000 || number % 10 == 0 ? "\(number / 10)" : "\(number / 10).\(number % 10)"
  }
  for (unit, size) in [("G", 1e9), ("M", 1e6), ("k", 1e3)] where value >= size { return tenths(value / size) + unit }
  return tenths(value)
}
