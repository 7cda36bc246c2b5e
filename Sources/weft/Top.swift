import ArgumentParser
import CLinux
import Glibc
import WeftRing

struct TopCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "top", abstract: "Ports and flows that move most, now.",
    discussion: """
      Ports by both directions together; of flows each direction is one. Rates are of the time since the last look, bits of \
      IP packets (flows) or of frames (ports). In a terminal it goes on until q; keys: b by bytes, p by packets, f flows \
      alone, i ports alone, a both, space halts, + and - change the interval.

      Of many flows a part is looked at each time (--sample entries), another one the next time, and those that moved most \
      go on being looked at: the greatest are found after some time, and the forwarder does not notice. The last line says \
      which part was seen.
      """)

  enum Subject: String, CaseIterable, ExpressibleByArgument {
    case flows, ports, both
  }

  @Argument(help: "flows, ports or both.")
  var subject = Subject.both

  @Option(name: .long, help: "By bytes or packets.")
  var sort = TopOrder.bytes

  @Option(name: .long, help: ArgumentHelp("Of each, at most so many, 1 to 1000.", valueName: "count"))
  var rows: Int?

  @Option(name: .long, help: ArgumentHelp("Between two looks, 0.1 to 60.", valueName: "seconds"))
  var interval = 1.0

  @Option(name: .long, help: ArgumentHelp("Read so many flow entries each time at most.", valueName: "entries"))
  var sample = 65536

  @Option(name: .long, help: ArgumentHelp("Only of this VRF, by number or name.", valueName: "vrf"))
  var vrf: String?

  @Flag(name: .long, help: "Print one look and end, as --json does.")
  var once = false

  @Option(
    name: .long,
    help: ArgumentHelp("With --once and --json: print the last of so many looks, 1 to 100000.", valueName: "looks"))
  var count = 1

  @OptionGroup var options: ForwarderOptions

  func validate() throws {
    guard (0.1...60).contains(interval) else { throw ValidationError("--interval must be 0.1 to 60 seconds.") }
    guard (1...1000).contains(rows ?? 1) else { throw ValidationError("--rows must be 1 to 1000.") }
    guard (1...100_000).contains(count) else { throw ValidationError("--count must be 1 to 100000.") }
    guard (1024...16_777_216).contains(sample) else { throw ValidationError("--sample must be 1024 to 16777216.") }
  }

  func run() throws {
    let forwarder = try options.connect()
    let id = try vrf.map { try forwarder.vrf($0) }
    let flows = FlowSampler(forwarder.ring, sample: sample) { id == nil || $0.vrf == id }
    let look = Look(forwarder: forwarder, flows: flows, ports: PortSampler(forwarder), vrf: id)
    if once || options.json {
      var taken = try look.take(subject, sort, rows ?? 20)
      for _ in 0..<count {
        usleep(useconds_t(interval * 1e6))
        taken = try look.take(subject, sort, rows ?? 20)
      }
      try Output.write(options.json ? taken.json + "\n" : taken.text)
      return
    }
    guard isatty(STDIN_FILENO) == 1, isatty(STDOUT_FILENO) == 1 else {
      throw Failure("this is no terminal: --once prints one look, --json the same for programs")
    }
    try TopScreen(look: look, subject: subject, order: sort, interval: interval, rows: rows).run()
  }

  /// What is looked at again and again.
  final class Look {
    private let forwarder: Forwarder
    private let flows: FlowSampler
    private let ports: PortSampler
    private let vrf: UInt32?
    private var last = weft_monotonic_ns()

    init(forwarder: Forwarder, flows: FlowSampler, ports: PortSampler, vrf: UInt32?) {
      self.forwarder = forwarder
      self.flows = flows
      self.ports = ports
      self.vrf = vrf
    }

    func take(_ subject: Subject, _ order: TopOrder, _ rows: Int) throws(Failure) -> Taken {
      let now = weft_monotonic_ns()
      defer { last = now }
      var taken = Taken(seconds: Double(now - last) / 1e9)
      if subject != .flows { taken.ports = try ports.refresh(rows: rows, order: order, vrf: vrf) }
      if subject != .ports {
        do throws(RingError) { taken.flows = try flows.refresh(rows: rows, order: order) } catch {
          throw Failure("cannot read the flow table: \(error)")
        }
      }
      return taken
    }
  }

  struct Taken {
    var seconds: Double
    var ports: [PortSampler.Row]?
    var flows: FlowSampler.Result?

    private static var portColumns: [Column<PortSampler.Row>] {
      [
        Column("port") { .text($0.port.device) },
        Column("VRF") { $0.port.role.isLocal ? .number($0.port.vrf) : .nothing },
        .shown("rx bit/s") { .text(scaled($0.rx.bytes * 8)) },
        .shown("rx packet/s") { .text(scaled($0.rx.packets)) },
        .shown("tx bit/s") { .text(scaled($0.tx.bytes * 8)) },
        .shown("tx packet/s") { .text(scaled($0.tx.packets)) },
        .shown("drop/s") { .text(scaled($0.drops)) },
        .keyed("rx-bits-per-second") { .whole($0.rx.bytes * 8) },
        .keyed("rx-packets-per-second") { .whole($0.rx.packets) },
        .keyed("tx-bits-per-second") { .whole($0.tx.bytes * 8) },
        .keyed("tx-packets-per-second") { .whole($0.tx.packets) },
        .keyed("drops-per-second") { .whole($0.drops) },
      ]
    }

    private static var flowColumns: [Column<FlowSampler.Row>] {
      [
        Column("VRF") { .number($0.flow.vrf) },
        .shown("protocol") { .described(TransportProtocol(number: $0.flow.proto)) },
        .keyed("protocol") { .number($0.flow.proto) },
        Column("source") { .described($0.flow.source) },
        Column("source port") { .number($0.flow.sourcePort) },
        Column("destination") { .described($0.flow.destination) },
        Column("destination port") { .number($0.flow.destinationPort) },
        .shown("bit/s") { .text(scaled($0.rate.bytes * 8)) },
        .shown("packet/s") { .text(scaled($0.rate.packets)) },
        .keyed("bits-per-second") { .whole($0.rate.bytes * 8) },
        .keyed("packets-per-second") { .whole($0.rate.packets) },
        .shown("age") { .text(age($0.flow.ageMilliseconds)) },
        .keyed("age-milliseconds") { .number($0.flow.ageMilliseconds) },
        Column("worker") { .number($0.flow.worker) },
      ]
    }

    var text: String {
      var parts: [String] = []
      if let ports { parts.append(Table(columns: Self.portColumns, rows: ports).text) }
      if let flows {
        let share = flows.entries == 0 ? 100 : min(100, UInt64(flows.seen) * 100 / flows.entries)
        parts.append(
          Table(columns: Self.flowColumns, rows: flows.rows).text
            + "\(flows.seen) of \(flows.entries) flow entries seen (\(share) %)\n")
      }
      return parts.joined(separator: "\n")
    }

    var json: String {
      var members: [Value.Member] = [.init(key: "milliseconds", value: .whole(seconds * 1000))]
      if let ports {
        members.append(.init(key: "ports", value: .list(Table(columns: Self.portColumns, rows: ports).objects)))
      }
      if let flows {
        members += [
          .init(key: "flows", value: .list(Table(columns: Self.flowColumns, rows: flows.rows).objects)),
          .init(key: "flow-entries", value: .number(flows.entries)),
          .init(key: "flow-entries-seen", value: .number(flows.seen)),
        ]
      }
      return Value.object(members).json
    }
  }
}

extension TopOrder: ExpressibleByArgument {}

private func age(_ milliseconds: UInt64) -> String { seconds(milliseconds) }
