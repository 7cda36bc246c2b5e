import ArgumentParser
import WeftRing
import WeftWire

struct InterfacesCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "vif",
    abstract: "Interfaces, their links and counters.",
    discussion: """
      Counters run from the interface's creation: rx is what the forwarder took from it, tx what it gave to it, drops \
      what came from it and went no further. LINK is what the kernel says of the device.
      """)

  @Argument(help: ArgumentHelp("Only this one, by number or device.", valueName: "interface"))
  var interface: String?

  @Option(name: .long, help: ArgumentHelp("Only interfaces of this VRF, by number or name.", valueName: "vrf"))
  var vrf: String?

  @OptionGroup var options: ForwarderOptions

  private typealias Row = (
    configuration: InterfaceConfiguration, state: InterfaceState, counters: StatisticsReader.Interface?
  )

  func run() throws {
    let forwarder = try options.connect()
    let counters = Dictionary(
      forwarder.ring.statistics.interfaces().map { ($0.id, $0) }, uniquingKeysWith: { _, last in last })
    var rows: [Row] = try forwarder.interfaces().map { ($0.configuration, $0.state, counters[$0.configuration.id]) }
    if let vrf {
      let id = try forwarder.vrf(vrf)
      rows.removeAll { !$0.configuration.role.isLocal || $0.configuration.vrf != id }
    }
    if let interface {
      rows.removeAll { $0.configuration.device != interface && String($0.configuration.id) != interface }
      if rows.isEmpty {
        throw Failure(
          "no interface \"\(interface)\" in the forwarder at \(options.socket); `weft vif` lists those there are")
      }
    }
    try options.print(Table(columns: Self.columns, rows: rows))
  }

  private static var columns: [Column<Row>] {
    [
      Column("ID") { .number($0.configuration.id) },
      Column("device") { .text($0.configuration.device) },
      Column("role") { .text($0.configuration.role.name) },
      Column("port") { .text($0.configuration.port.name) },
      Column("link") { .text($0.state.isUp ? "up" : "down") },
      .keyed("kernel-index") { $0.state.kernelIndex == 0 ? .nothing : .number($0.state.kernelIndex) },
      Column("VRF") { $0.configuration.role.isLocal ? .number($0.configuration.vrf) : .nothing },
      Column("MAC") { .described($0.configuration.mac) },
      Column("MTU") { .number($0.configuration.mtu) },
      Column("rx packets") { .number($0.counters?.rxPackets ?? 0) },
      Column("rx bytes") { .number($0.counters?.rxBytes ?? 0) },
      Column("tx packets") { .number($0.counters?.txPackets ?? 0) },
      Column("tx bytes") { .number($0.counters?.txBytes ?? 0) },
      Column("drops") { .number($0.counters?.drops ?? 0) },
      .keyed("trapped") { .number($0.counters?.trapped ?? 0) },
      Column("flags") { .list($0.configuration.flags.names.map { .text($0) }) },
      Column("tags") { .list($0.configuration.tags.map { .number($0) }) },
      .shown("VLAN") {
        guard let vlan = $0.configuration.vlan else { return .nothing }
        let inner = vlan.inner.map { ".\($0)" } ?? ""
        return .text("\(vlan.outer)\(inner) on \(vlan.parent)")
      },
      .keyed("parent") { $0.configuration.vlan.map { .number($0.parent) } ?? .nothing },
      .keyed("vlan") { $0.configuration.vlan.map { .number($0.outer) } ?? .nothing },
      .keyed("inner-vlan") { $0.configuration.vlan?.inner.map { .number($0) } ?? .nothing },
      .keyed("tpid") { $0.configuration.vlan.map { .text("0x" + String($0.proto, radix: 16)) } ?? .nothing },
      .keyed("mac-limit") {
        $0.configuration.flags.contains(.learning) ? .number($0.configuration.macLimit) : .nothing
      },
      .shown("TAP") {
        guard $0.configuration.port == .tap else { return .nothing }
        let tap = $0.configuration.tap
        let name = tap.name.isEmpty ? $0.configuration.device : tap.name
        let queues = tap.queues == 1 ? "" : tap.queues == 0 ? ", a queue a worker" : ", \(tap.queues) queues"
        return .text((tap.namespace.isEmpty ? name : "\(name) in \(tap.namespace)") + queues)
      },
      .keyed("queues") { $0.configuration.port == .tap ? .number($0.configuration.tap.queues) : .nothing },
      .keyed("netns") {
        $0.configuration.tap.namespace.isEmpty ? .nothing : .text($0.configuration.tap.namespace)
      },
      .keyed("netns-device") { $0.configuration.tap.name.isEmpty ? .nothing : .text($0.configuration.tap.name) },
      .keyed("socket") { $0.configuration.port == .vhostUser ? .text($0.configuration.vhost.socket) : .nothing },
      .keyed("vhostuser-mode") {
        guard $0.configuration.port == .vhostUser else { return .nothing }
        return .text($0.configuration.vhost.frontEndListens ? "server" : "client")
      },
      Column("ingress policer") { $0.configuration.qos.ingressPolicer.map(Value.number) ?? .nothing },
      Column("egress policer") { $0.configuration.qos.egressPolicer.map(Value.number) ?? .nothing },
      Column("QoS classifier") { $0.configuration.qos.classifier.map(Value.number) ?? .nothing },
      Column("QoS marks") { $0.configuration.qos.remark.map(Value.number) ?? .nothing },
      Column("fat flows") { .list($0.configuration.fatFlows.map { .text(text(of: $0)) }) },
      Column("addresses") { .list($0.configuration.addresses.map { .described($0) }) },
    ]
  }
}

/// "udp 53", "tcp any remote ignored", "udp 53 local 10.0.0.0/8 by 24".
private func text(of flow: FatFlow) -> String {
  var text = "\(TransportProtocol(number: flow.proto)) \(flow.port == 0 ? "any" : String(flow.port))"
  for (name, end) in [("local", flow.local), ("remote", flow.remote)] {
    switch end {
    case .kept: break
    case .ignored: text += " \(name) ignored"
    case .aggregated(let prefix, let length): text += " \(name) \(prefix) by \(length)"
    }
  }
  return text
}

struct VRFsCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "vrf", abstract: "VRFs: one routing and bridging table a virtual network.")

  @OptionGroup var options: ForwarderOptions

  func run() throws {
    let forwarder = try options.connect()
    let interfaces = try forwarder.interfaces()
    let columns: [Column<VRFConfiguration>] = [
      Column("ID") { .number($0.id) },
      Column("name") { .text($0.name) },
      Column("interfaces") { vrf in
        .number(interfaces.count { $0.configuration.role.isLocal && $0.configuration.vrf == vrf.id })
      },
      Column("flags") { .list($0.flags.names.map { .text($0) }) },
      Column("ageing") { .number($0.learning.ageing) },
      .keyed("moves") { .number($0.learning.moves) },
      .keyed("move-seconds") { .number($0.learning.moveSeconds) },
      .keyed("mac-limit") { .number($0.learning.limit) },
    ]
    try options.print(Table(columns: columns, rows: try forwarder.vrfs()))
  }
}
