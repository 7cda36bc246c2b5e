import ArgumentParser
import Glibc
import WeftAPI
import WeftNetlink
import WeftRing
import WeftVRouter

struct DoctorCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "doctor", abstract: "Whether the machine is fit for Weft: kernel, privileges, MTU, cores, strays.",
    discussion: """
      Run it as root, in the network namespace of the node. It changes nothing; it sends two pings to each peer (one as long \
      as the fabric's MTU, not to be fragmented), loads a BPF program and lets it go. Forwarder and agent need not run: what \
      depends on them is then left out.

      Exit status: 0 nothing is bad (there may be warnings), 1 something is, 2 something could not be found out.
      """)

  @OptionGroup var options: ForwarderOptions
  @OptionGroup var node: NodeOptions

  @Flag(inversion: .prefixedNo, help: "Send pings to peers.")
  var ping = true

  // For tests of machines that are not there.
  @Option(name: .long, help: .hidden)
  var sysRoot = "/"

  func run() throws {
    let patient = try Patient(options, node, topology: MachineTopology(root: sysRoot), sysRoot: sysRoot)
    let findings =
      patient.kernel() + patient.privileges() + patient.mtu() + (ping ? patient.paths() : []) + patient.fabric()
      + patient.cores() + patient.strays()
    if options.json {
      try Output.write(Value.list(findings.map(\.value)).json + "\n")
    } else {
      try Output.write(Finding.text(findings))
    }
    let status = Finding.status(findings)
    if status != 0 { throw ExitCode(status) }
  }
}

/// What is known of the node that is looked at.
struct Patient {
  let topology: MachineTopology
  let sysRoot: String
  let configDir: String
  let forwarder: Forwarder?
  let ports: [(configuration: InterfaceConfiguration, state: InterfaceState)]
  let tunnels: [TunnelConfiguration]
  /// nil: no agent answers.
  let attachments: [Attachment]?
  let netlink: Netlink
  let links: [Link]

  init(_ options: ForwarderOptions, _ node: NodeOptions, topology: MachineTopology, sysRoot: String) throws(Failure) {
    self.topology = topology
    self.sysRoot = sysRoot
    configDir = node.configDir
    forwarder = try? options.connect()
    ports = try forwarder?.interfaces() ?? []
    tunnels =
      try forwarder?.nexthops().compactMap { if case .tunnel(let tunnel) = $0.action { tunnel } else { nil } } ?? []
    attachments = try? AgentConnection(node.agent).get([Attachment].self, "/v1/attachments")
    do throws(NetlinkError) {
      netlink = try Netlink()
      links = try netlink.links()
    } catch { throw Failure("cannot \(error)") }
  }

  var fabrics: [InterfaceConfiguration] {
    ports.map(\.configuration).filter { $0.role == .fabric && $0.port != .vlan }
  }
  var pid: Int32? { forwarder?.ring.forwarderPID }

  func link(_ name: String) -> Link? { links.first { $0.name == name } }

  /// A small file of the kernel's without the end of its line.
  static func text(_ path: String) -> String? {
    guard let file = fopen(path, "re") else { return nil }
    defer { fclose(file) }
    var bytes: [UInt8] = []
    var piece = [UInt8](repeating: 0, count: 65536)
    while bytes.count < 16 << 20 {
      let count = fread(&piece, 1, piece.count, file)
      if count == 0 { break }
      bytes += piece.prefix(count)
    }
    while let last = bytes.last, last == 0x0A || last == 0x20 { bytes.removeLast() }
    return String(decoding: bytes, as: UTF8.self)
  }

  /// "a, b, c and 4 more".
  static func list(_ names: [String], most: Int = 3) -> String {
    names.prefix(most).joined(separator: ", ") + (names.count > most ? " and \(names.count - most) more" : "")
  }
}
