import CLinux
import Glibc

/// The program around the plugin.
public enum Program {
  /// Reads the environment and standard input, runs, writes; answers the exit status.
  public static func main(_ arguments: [String]) -> Int32 {
    // A reader that is gone shows as EPIPE.
    signal(SIGPIPE, SIG_IGN)
    let environment = readEnvironment()
    let isAsked = arguments.dropFirst().contains { $0 == "--help" || $0 == "-h" || $0 == "help" }
    if isAsked || (environment["CNI_COMMAND"] == nil && isatty(STDIN_FILENO) == 1) {
      return Files.writeAll(STDOUT_FILENO, Array(usage.utf8)) ? 0 : 1
    }
    if environment["CNI_COMMAND"] == nil, let argument = arguments.dropFirst().first {
      complain("it takes no argument \"\(argument)\": a container runtime runs it. weft-cni --help says how.\n")
      return 64
    }
    guard let stdin = Files.readAll(STDIN_FILENO, limit: 8 << 20) else {
      complain("cannot read standard input: \(Files.errorText(errno))\n")
      return 1
    }
    let outcome = Plugin.run(environment: environment, stdin: stdin)
    _ = Files.writeAll(STDERR_FILENO, Array(outcome.stderr.utf8))
    guard Files.writeAll(STDOUT_FILENO, Array(outcome.stdout.utf8)) else {
      complain("cannot write to standard output: \(Files.errorText(errno))\n")
      return 1
    }
    return outcome.exitCode
  }

  private static func complain(_ text: String) { _ = Files.writeAll(STDERR_FILENO, Array("weft-cni: \(text)".utf8)) }

  private static func readEnvironment() -> [String: String] {
    var environment: [String: String] = [:]
    for name in Invocation.variables {
      if let value = getenv(name) { environment[name] = String(cString: value) }
    }
    return environment
  }

  static let usage = """
    weft-cni: connects containers to Weft's virtual networks. It is a CNI plugin: a container runtime (containerd,
    CRI-O, podman) runs it, with CNI_* variables and a network configuration on standard input. Install it, under this
    name or as contrail-k8s-cni, in the runtime's plugin folder (/opt/cni/bin), and in /etc/cni/net.d/10-weft.conflist:

      { "cniVersion": "1.0.0", "cniVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"], "name": "weft",
        "plugins": [ { "type": "weft-cni",
          "weft": { "vrouter-ip": "127.0.0.1", "vrouter-port": 9091, "poll-timeout": 5, "poll-retries": 15,
            "config-dir": "/var/lib/contrail/ports/vm", "log-file": "/var/log/contrail/cni/opencontrail.log",
            "log-level": "4" }, "capabilities": { "bandwidth": true, "ips": true, "mac": true } } ] }

    All keys may be left out. More: network (of the agent's), mtu, vrouter-socket (a Unix socket in place of ip and port).
    "contrail" in place of "weft", as Tungsten Fabric writes it, is the same.

    Verbs (CNI_COMMAND): ADD, DEL, CHECK, STATUS, GC, VERSION. CNI spec 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0.
    Exit status: 0, or 1 with the error as JSON on standard output. weft-agent must run on the node.

    By hand, what a runtime does (as root, with a namespace made by `ip netns add pod1`):
      CNI_COMMAND=ADD CNI_CONTAINERID=pod1 CNI_NETNS=/run/netns/pod1 CNI_IFNAME=eth0 weft-cni <<<'
        {"cniVersion": "1.0.0", "name": "weft", "type": "weft-cni"}'
    and with CNI_COMMAND=DEL to remove it again.

    """
}
