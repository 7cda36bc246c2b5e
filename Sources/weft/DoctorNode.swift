import Glibc
import WeftAPI
import WeftRing
import WeftVRouter

// Cores, and what is left of pods that are gone.

extension Patient {
  func cores() -> [Finding] {
    guard let statistics = forwarder?.ring.statistics else { return [] }
    let cores = statistics.workers().map { Int($0.core) }.filter { $0 >= 0 }
    let placement = Placement(topology, cores: cores)
    var findings = (placement.warnings + fabrics.flatMap { placement.warnings(device: $0.device) })
      .map { Finding("cores", .warn, $0, do: "docs/numa.md: weft-vrouter placement shows where workers belong") }
    let slow = cores.compactMap { core in
      let path = "\(sysRoot == "/" ? "" : sysRoot)/sys/devices/system/cpu/cpu\(core)/cpufreq/scaling_governor"
      return Self.text(path).flatMap { $0 == "performance" ? nil : (core: core, governor: $0) }
    }
    if let first = slow.first {
      findings.append(
        Finding(
          "governor", .warn,
          "core \(first.core) of a worker is run by \"\(first.governor)\": it is slow when packets come",
          do: "cpupower -c \(slow.map { String($0.core) }.joined(separator: ",")) frequency-set -g performance"))
    }
    let online = topology.cores.map(\.number)
    if Set(online).isSubset(of: cores) {
      findings.append(
        Finding(
          "cores", .warn, "workers have every core there is: the host and pods run on them too",
          do: "leave some to others (weft-vrouter run --cores)"))
    }
    guard findings.isEmpty else { return findings }
    let isolated = cores.count { topology.core($0)?.isIsolated == true }
    let list = cores.map(String.init).joined(separator: ", ")
    return [
      Finding("cores", .ok, "workers on \(list)" + (isolated > 0 ? ", \(isolated) isolated" : ""))
    ]
  }

  // MARK: strays

  func strays() -> [Finding] {
    guard let attachments else { return [Finding("strays", .ok, "not looked for: no agent answers")] }
    let known = Set(attachments.map(\.hostInterface))
    var findings: [Finding] = []
    let stray = links.map(\.name).filter { Self.isHostEnd($0) && !known.contains($0) }.sorted()
    if let first = stray.first {
      findings.append(
        Finding(
          "strays", .warn, "interfaces that no attachment has: \(Self.list(stray))",
          do: "their pods are gone or were never finished; ip link delete \(first)"))
    }
    let names = Set(links.map(\.name))
    let missing = attachments.filter {
      $0.state != .reserved && $0.tap == nil && $0.hostInterface.hasPrefix("weft") && !names.contains($0.hostInterface)
    }
    if let first = missing.first {
      findings.append(
        Finding(
          "strays", .bad,
          "attachments whose interface is gone: "
            + Self.list(missing.map { "\($0.podName ?? $0.containerID) (\($0.hostInterface))" }),
          do: "delete their pods; a runtime that has forgotten them: curl -X DELETE "
            + "http://127.0.0.1:9091/v1/attachments/\(first.containerID)/\(first.interface)"))
    }
    let down = ports.filter { $0.configuration.role == .virtual && $0.configuration.port != .vlan && !$0.state.isUp }
      .map(\.configuration.device).filter { names.contains($0) || !Self.isHostEnd($0) }
    if !down.isEmpty {
      findings.append(
        Finding(
          "ports", .warn, "ports without a link: \(Self.list(down))",
          do: "the other end is down: in the pod, ip link set eth0 up; weft vif shows all"))
    }
    findings += records(attachments)
    return findings.isEmpty
      ? [Finding("strays", .ok, "each of \(attachments.count) attachments has its interface, and no other is there")]
      : findings
  }

  /// "weft" and 11 hexadecimal digits.
  private static func isHostEnd(_ name: String) -> Bool {
    name.hasPrefix("weft") && name.utf8.count == 15 && name.dropFirst(4).allSatisfy { $0.isHexDigit }
  }

  /// The plugin's files for which the agent has no attachment.
  private func records(_ attachments: [Attachment]) -> [Finding] {
    guard let folder = opendir(configDir) else { return [] }
    defer { closedir(folder) }
    let known = Set(attachments.map { "\($0.containerID):\($0.interface)" })
    var stray: [String] = []
    while let entry = readdir(folder) {
      let name = withUnsafeBytes(of: entry.pointee.d_name) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
      if name.hasSuffix(".json"), !known.contains(String(name.dropLast(5))) { stray.append(name) }
    }
    guard !stray.isEmpty else { return [] }
    return [
      Finding(
        "records", .warn, "files in \(configDir) without an attachment: \(Self.list(stray.sorted()))",
        do: "a DEL or GC of the runtime removes them; one whose container is gone may be deleted")
    ]
  }
}
