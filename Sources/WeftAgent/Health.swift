import GRDB
import Glibc
import WeftAPI

/// One of the things that have to be right.
struct HealthCheck: Sendable, Encodable {
  var name: String
  var ok: Bool
  /// What is wrong and what to do, or how it is.
  var reason: String

  init(_ name: String, _ fault: String?, otherwise: String) {
    self.name = name
    ok = fault == nil
    reason = fault ?? otherwise
  }
}

/// The answer of /healthz and /readyz.
struct HealthReport: Sendable, Encodable {
  /// "ok" or "failing".
  var status: String
  var checks: [HealthCheck]

  init(_ checks: [HealthCheck]) {
    self.checks = checks
    status = checks.allSatisfy(\.ok) ? "ok" : "failing"
  }
}

extension Agent {
  /// Whether the agent itself works: what a restart of it could mend, and nothing else.
  nonisolated func liveness() async -> HealthReport { HealthReport([await storeCheck(), coreCheck()]) }

  /// Whether pods that are made now would be served.
  nonisolated func readiness() async -> HealthReport {
    HealthReport([
      await storeCheck(), coreCheck(), forwarderCheck(), workersCheck(), synchronizedCheck(), underlayCheck(),
    ])
  }

  private nonisolated func storeCheck() async -> HealthCheck {
    var fault: String?
    do {
      _ = try await store.database.read { try Int.fetchOne($0, sql: "SELECT COUNT(*) FROM setting") }
    } catch { fault = "the database \(configuration.database) cannot be read: \(error)" }
    return HealthCheck("store", fault, otherwise: configuration.database)
  }

  /// The core waits for a forwarder at most as long as `ForwarderLink` lets it.
  private nonisolated func coreCheck() -> HealthCheck {
    let waiting = (waitingNanoseconds ?? 0) / 1_000_000_000
    return HealthCheck(
      "core", waiting < 30 ? nil : "it has waited for \(waiting) s for the forwarder to answer; restart weft-agent",
      otherwise: "answers")
  }

  private nonisolated func forwarderCheck() -> HealthCheck {
    let status = forwarderStatus
    return HealthCheck(
      "forwarder",
      status.connected
        ? nil : "no channel to \(status.socket): \(status.reason ?? "it went away"); is weft-vrouter running?",
      otherwise: "pid \(status.pid ?? 0) at \(status.socket)")
  }

  private nonisolated func workersCheck() -> HealthCheck {
    guard let statistics = openChannel?.statistics else {
      return HealthCheck("workers", "there is no forwarder to have any", otherwise: "")
    }
    let workers = statistics.workers()
    let stalled = workers.filter { $0.heartbeatAgeMilliseconds > Self.longestHeartbeat }
    var fault: String?
    if statistics.controlHeartbeatAgeMilliseconds > Self.longestHeartbeat {
      fault = "the control thread has not moved for \(statistics.controlHeartbeatAgeMilliseconds / 1000) s"
    } else if let one = stalled.first {
      fault = "worker \(one.index) on core \(one.core) has not moved for \(one.heartbeatAgeMilliseconds / 1000) s"
    }
    return HealthCheck(
      "workers", fault.map { "\($0); is its core taken, or the process stopped? else restart weft-vrouter" },
      otherwise: "\(workers.count) at work")
  }

  /// Workers beat every 100 ms even when they sleep, ms.
  private static let longestHeartbeat: UInt64 = 3000

  private nonisolated func synchronizedCheck() -> HealthCheck {
    let status = forwarderStatus
    return HealthCheck(
      "synchronized",
      status.synchronized
        ? nil : "the forwarder does not hold everything yet: \(status.reason ?? "a replay is under way")",
      otherwise: "replay \(status.generation ?? 0)")
  }

  private nonisolated func underlayCheck() -> HealthCheck {
    let name = configuration.fabric.interface
    var fault: String?
    if if_nametoindex(name) == 0 {
      fault = "interface \(name) does not exist; fabric.interface of the configuration names it"
    } else if !Self.isRunning(name) {
      fault = "interface \(name) is down, or has no carrier; ip link set \(name) up"
    } else if let fabric = currentUnderlay.fabric {
      if fabric.addresses.isEmpty { fault = "interface \(name) has no global address for tunnels to end at" }
    } else {
      fault = "interface \(name) has no Ethernet address, or is not known yet"
    }
    return HealthCheck(
      "underlay", fault,
      otherwise: "\(name) \(currentUnderlay.fabric?.addresses.map(\.description).joined(separator: " ") ?? "")")
  }

  /// IFF_UP and IFF_RUNNING (netdevice(7)). Not by rtnetlink, which waits for whoever changes interfaces.
  private static func isRunning(_ name: String) -> Bool {
    let descriptor = socket(AF_INET, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
    guard descriptor >= 0 else { return false }
    defer { close(descriptor) }
    var request = ifreq()
    withUnsafeMutableBytes(of: &request) { $0.copyBytes(from: name.utf8.prefix(15)) }
    guard ioctl(descriptor, UInt(SIOCGIFFLAGS), &request) == 0 else { return false }
    let flags = withUnsafeBytes(of: request) { $0.load(fromByteOffset: 16, as: UInt16.self) }
    return flags & 0x41 == 0x41
  }
}
