import Glibc
import WeftNetlink
import WeftPorts
import WeftRing

// What stands between the fabric and the forwarder.

extension Patient {
  func fabric() -> [Finding] { offloads() + listeners() + firewall() + reversePath() }

  private func offloads() -> [Finding] {
    let merging = fabrics.map(\.device).filter { Ethtool.mergesForGood($0) }
    guard let first = merging.first else { return [Finding("offloads", .ok, "no LRO on the fabric")] }
    return [
      Finding(
        "offloads", .bad, "\(first) merges packets for good (LRO): what it makes cannot be passed on as it came",
        do: "ethtool -K \(first) lro off")
    ]
  }

  // MARK: others that have the tunnels' ports

  private static let ports: [(port: UInt16, name: String)] = [(4789, "VXLAN"), (6635, "MPLS-over-UDP")]

  private func listeners() -> [Finding] {
    let own = ownSockets()
    var findings: [Finding] = []
    for (port, name) in Self.ports {
      let others = (Self.sockets("/proc/net/udp", port) + Self.sockets("/proc/net/udp6", port)).filter {
        !own.contains($0)
      }
      guard !others.isEmpty else { continue }
      // A socket of the kernel's own has no owner that could be told.
      let device = links.first { $0.kind == "vxlan" || $0.kind == "bareudp" }?.name
      findings.append(
        Finding(
          "listeners", .bad,
          device != nil
            ? "\(device!), a tunnel device of the kernel, or a program has UDP port \(port), \(name)'s: it gets no packets while the forwarder runs"
            : "another program has a socket at UDP port \(port), \(name)'s: it gets no packets while the forwarder runs",
          do: device != nil
            ? "ip -d link show \(device!); remove it, or give it another dstport"
            : "ss -ulnp sport = :\(port) says which"))
    }
    return findings.isEmpty ? [Finding("listeners", .ok, "UDP ports 4789 and 6635 are nobody else's")] : findings
  }

  /// Inodes of sockets at a port (proc_pid_net(5)).
  private static func sockets(_ file: String, _ port: UInt16) -> [UInt64] {
    (text(file) ?? "").split(separator: "\n").dropFirst().compactMap { line in
      let fields = line.split(separator: " ")
      guard fields.count > 9, let colon = fields[1].lastIndex(of: ":"),
        UInt16(fields[1][fields[1].index(after: colon)...], radix: 16) == port
      else { return nil }
      return UInt64(fields[9])
    }
  }

  /// Inodes of the forwarder's sockets.
  private func ownSockets() -> Set<UInt64> {
    guard let pid, let folder = opendir("/proc/\(pid)/fd") else { return [] }
    defer { closedir(folder) }
    var inodes: Set<UInt64> = []
    while let entry = readdir(folder) {
      let name = withUnsafeBytes(of: entry.pointee.d_name) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
      var target = [UInt8](repeating: 0, count: 64)
      let count = unsafe target.withUnsafeMutableBytes {
        unsafe readlink("/proc/\(pid)/fd/\(name)", $0.baseAddress!, $0.count)
      }
      guard count > 0 else { continue }
      let text = String(decoding: target.prefix(count), as: UTF8.self)
      if text.hasPrefix("socket:["), let inode = UInt64(text.dropFirst(8).dropLast()) { inodes.insert(inode) }
    }
    return inodes
  }

  // MARK: rules

  /// Rules of nftables, those of iptables-nft among them, that drop what tunnels are made of.
  private func firewall() -> [Finding] {
    guard let pipe = popen("nft -n list ruleset 2>/dev/null", "re") else {
      return [Finding("firewall", .unknown, "nft cannot be started", do: "look at your firewall's rules yourself")]
    }
    var text = ""
    var piece = [UInt8](repeating: 0, count: 65536)
    while text.utf8.count < 16 << 20 {
      let count = fread(&piece, 1, piece.count, pipe)
      if count == 0 { break }
      text += String(decoding: piece.prefix(count), as: UTF8.self)
    }
    guard pclose(pipe) == 0 else {
      return [Finding("firewall", .ok, "not looked at: there is no nft here, or it may not be asked")]
    }
    var table = ""
    var chain = ""
    var dropping: [String] = []
    for line in text.split(separator: "\n") {
      let words = line.split { " ,{}\t".contains($0) }.map(String.init)
      if words.first == "table" { table = words.dropFirst().joined(separator: " ") }
      if words.first == "chain" { chain = words.count > 1 ? words[1] : "" }
      guard words.contains("drop") || words.contains("reject"), words.first != "type" else { continue }
      if Self.concernsTunnels(words) { dropping.append("chain \(chain) of table \(table): \(line.trimmed)") }
    }
    guard let first = dropping.first else { return [Finding("firewall", .ok, "no rule of nftables drops tunnels")] }
    return [
      Finding(
        "firewall", .warn,
        "\(dropping.count == 1 ? "a rule drops" : "\(dropping.count) rules drop") tunnel packets: \(first)",
        do:
          "let UDP ports 4789 and 6635 and GRE pass: the forwarder takes frames ahead of such rules, but not in every case "
          + "(egress chains, packets in fragments)")
    ]
  }

  private static func concernsTunnels(_ words: [String]) -> Bool {
    for (index, word) in words.enumerated() {
      if word == "4789" || word == "6635" { return true }
      let ends = word.split(separator: "-").compactMap { UInt16($0) }
      if ends.count == 2, ends[0] <= ends[1], ends[0]...ends[1] ~= 4789 || ends[0]...ends[1] ~= 6635 { return true }
      if word == "gre" || word == "47" && index > 0 && ["protocol", "nexthdr", "l4proto"].contains(words[index - 1]) {
        return true
      }
    }
    return false
  }

  private func reversePath() -> [Finding] {
    for fabric in fabrics {
      let values = ["all", fabric.device].compactMap { try? Sysctl.read("net/ipv4/conf/\($0)/rp_filter") }
      guard values.compactMap({ Int(Substring($0).trimmed) }).max() == 1 else { continue }
      return [
        Finding(
          "rp_filter", .warn,
          "strict on \(fabric.device): the kernel drops what comes in by another way than it would go",
          do: "where peers are reached by more than one interface: sysctl net.ipv4.conf.\(fabric.device).rp_filter=2")
      ]
    }
    return [Finding("rp_filter", .ok, "not strict on the fabric")]
  }
}
