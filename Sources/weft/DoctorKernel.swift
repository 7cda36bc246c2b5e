import CLinux
import Glibc
import WeftSystem

// What the kernel can do, and what it lets us do.

extension Patient {
  func kernel() -> [Finding] { [version(), afXDP(), bpf(), ingress(), udpSegmentation(), tap()] }

  private static var release: (text: String, major: Int, minor: Int) {
    var name = utsname()
    uname(&name)
    let text = withUnsafeBytes(of: name.release) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
    let numbers = text.split { !$0.isNumber }.prefix(2).compactMap { Int($0) }
    return (text, numbers.first ?? 0, numbers.count > 1 ? numbers[1] : 0)
  }

  private func version() -> Finding {
    let kernel = Self.release
    guard (kernel.major, kernel.minor) >= (5, 10) else {
      return Finding("kernel", .bad, "Linux \(kernel.text)", do: "Linux 5.10 or later is needed, 6.6 is better")
    }
    return Finding("kernel", .ok, "Linux \(kernel.text)")
  }

  private static func reason(_ code: Int32) -> String { SystemError.text(code) }
  private static let asRoot = "run it as root; weft-vrouter needs CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF and CAP_IPC_LOCK"

  private static func isForbidden(_ code: Int32) -> Bool { code == EPERM || code == EACCES }

  private func afXDP() -> Finding {
    let descriptor = socket(AF_XDP, Int32(SOCK_RAW.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
    let code = errno
    guard descriptor < 0 else {
      close(descriptor)
      return Finding("AF_XDP", .ok, "there; docs/af-xdp.md says for which ports")
    }
    return Finding(
      "AF_XDP", .warn, "no sockets of it: \(Self.reason(code))",
      do: Self.isForbidden(code)
        ? Self.asRoot : "ports of kind packet do without; a kernel with CONFIG_XDP_SOCKETS has them")
  }

  /// r0 = -1 (let it pass on); exit.
  private static let nothing = [
    bpf_insn(code: 0xB7, dst_reg: 0, src_reg: 0, off: 0, imm: -1),
    bpf_insn(code: 0x95, dst_reg: 0, src_reg: 0, off: 0, imm: 0),
  ]

  private func bpf() -> Finding {
    let program = unsafe weft_load_classifier(Self.nothing, 2)
    let code = errno
    guard program < 0 else {
      close(program)
      return Finding("BPF", .ok, "programs can be loaded")
    }
    return Finding(
      "BPF", .bad, "no programs can be loaded: \(Self.reason(code))",
      do: Self.isForbidden(code) ? Self.asRoot : "a kernel with CONFIG_BPF_SYSCALL is needed")
  }

  /// Tried on the loopback interface, for a moment, with a program that changes nothing.
  private func ingress() -> Finding {
    let name = "ingress"
    let program = unsafe weft_load_classifier(Self.nothing, 2)
    guard program >= 0 else { return Finding(name, .warn, "not tried: no BPF program can be loaded", do: Self.asRoot) }
    defer { close(program) }
    let link = weft_attach_ingress(program, if_nametoindex("lo"))
    let code = errno
    guard link < 0 else {
      close(link)
      return Finding(name, .ok, "the kernel is kept from seeing pods' frames and tunnels")
    }
    return Finding(
      name, .warn, "no programs at an interface's ingress: \(Self.reason(code))",
      do: Self.isForbidden(code)
        ? Self.asRoot : "Linux 6.6 has them; older kernels look at pods' frames and drop them by their MAC address")
  }

  private func udpSegmentation() -> Finding {
    let kernel = Self.release
    guard (kernel.major, kernel.minor) >= (6, 2) else {
      return Finding(
        "UDP super-frames", .warn, "packets to the fabric go one by one",
        do: "Linux 6.2 cuts UDP super-frames of packet sockets: fewer, longer packets for the forwarder")
    }
    return Finding("UDP super-frames", .ok, "packets to the fabric go many at a time")
  }

  private func tap() -> Finding {
    let descriptor = open("/dev/net/tun", O_RDWR | O_CLOEXEC)
    let code = errno
    guard descriptor < 0 else {
      close(descriptor)
      return Finding("TAP", .ok, "/dev/net/tun opens")
    }
    return Finding(
      "TAP", .warn, "/dev/net/tun: \(Self.reason(code))",
      do: Self.isForbidden(code)
        ? Self.asRoot : "ports of kind tap and VMs need it: modprobe tun, or give the container the device")
  }

  // MARK: privileges

  private static let needed: [(name: String, number: Int)] = [
    ("CAP_NET_ADMIN", 12), ("CAP_NET_RAW", 13), ("CAP_IPC_LOCK", 14),
  ]

  /// Of the forwarder where it can be seen, else of who asks.
  func privileges() -> [Finding] {
    let seen = pid.flatMap { Self.text("/proc/\($0)/status") }
    let who = seen == nil ? "this user" : "weft-vrouter (pid \(pid ?? 0))"
    guard let status = seen ?? Self.text("/proc/self/status"),
      let line = status.split(separator: "\n").first(where: { $0.hasPrefix("CapEff:") }),
      let set = UInt64(line.dropFirst(7).trimmed, radix: 16)
    else { return [Finding("privileges", .unknown, "/proc/\(pid ?? 0)/status says nothing", do: "mount /proc")] }
    var missing = Self.needed.filter { set & 1 << UInt64($0.number) == 0 }.map(\.name)
    // CAP_BPF, or CAP_SYS_ADMIN that had its rights before Linux 5.8.
    if set & (1 << 39 | 1 << 21) == 0 { missing.append("CAP_BPF") }
    var findings = [
      missing.isEmpty
        ? Finding("privileges", .ok, "\(who) has what it takes")
        : Finding(
          "privileges", .bad, "\(who) lacks \(missing.joined(separator: ", "))",
          do: "start weft-vrouter as root, or with these capabilities (AmbientCapabilities= of its unit)")
    ]
    if seen != nil, let finding = descriptors() { findings.append(finding) }
    return findings
  }

  /// A port has some descriptors for each worker.
  private func descriptors() -> Finding? {
    guard let pid, let limits = Self.text("/proc/\(pid)/limits"),
      let line = limits.split(separator: "\n").first(where: { $0.hasPrefix("Max open files") }),
      let limit = line.split(separator: " ").compactMap({ Int($0) }).first
    else { return nil }
    var open = 0
    if let folder = opendir("/proc/\(pid)/fd") {
      while readdir(folder) != nil { open += 1 }
      closedir(folder)
      open -= 2
    }
    guard open * 5 >= limit * 4 else {
      return Finding("descriptors", .ok, "\(open) of \(limit) open")
    }
    return Finding(
      "descriptors", .bad, "\(open) of \(limit) open: ports that come now may not get any",
      do: "raise LimitNOFILE= of weft-vrouter's unit")
  }
}

extension Substring {
  /// Without space around it.
  var trimmed: Substring {
    var text = drop { $0.isWhitespace }
    while text.last?.isWhitespace == true { text.removeLast() }
    return text
  }
}
