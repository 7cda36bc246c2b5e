import ArgumentParser
import CCloser
import Glibc
import Logging
import WeftLogging
import WeftRing
import WeftVRouter

/// Forwards until it is told to stop.
struct RunCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "run",
    abstract: "Forward packets, as an agent says.",
    discussion: """
      Starts with empty tables; an agent fills them through the socket. Without an agent, --tables gives it what it is \
      to forward (docs/replay.md explains the file); an agent that connects replaces all of that by its own. Runs until \
      SIGTERM or SIGINT (exit status 0).
      Needs root, or CAP_NET_RAW, CAP_NET_ADMIN, CAP_BPF and CAP_IPC_LOCK. Logs go to standard error.

      SIGUSR1 has it log more, a step each time, SIGUSR2 as much as it was started with.

      Limits are fixed at start; memory is taken as entries are made. A full table refuses more with a reason.
      """)

  @Option(name: .long, help: ArgumentHelp("Where agents and tools ask for their channel.", valueName: "path"))
  var socket = "/run/weft/forwarder.sock"

  @Option(
    name: .long,
    help: ArgumentHelp(
      "Tables to start with; its ports open kernel interfaces: packet, af_xdp, tap or vlan.", valueName: "tables.json"))
  var tables: String?

  @OptionGroup var placement: PlacementOptions

  @Option(
    name: .long,
    help: "What workers do when nothing comes in: adaptive (look a while, then sleep), event (sleep) or poll (spin).")
  var idle = IdleMode.adaptive

  @Option(
    name: .customLong("spin"), help: ArgumentHelp("adaptive: look so long before sleeping.", valueName: "microseconds"))
  var spin: UInt64 = 5

  @Option(
    name: .long,
    help: ArgumentHelp(
      """
      adaptive and event: while packets come, how long workers' cores may take to wake up (0: they stay awake, at their \
      idle's cost), or off: as long as they like.
      """, valueName: "microseconds"))
  var wakeLatency = WakeLatencyOption(microseconds: 0)

  @Option(
    name: .long, help: ArgumentHelp("Most interfaces. (default: \(TableLimits().interfaces))", valueName: "count"))
  var maxInterfaces: UInt32?
  @Option(name: .long, help: ArgumentHelp("Most VRFs. (default: \(TableLimits().vrfs))", valueName: "count"))
  var maxVrfs: UInt32?
  @Option(name: .long, help: ArgumentHelp("Most nexthops. (default: \(TableLimits().nexthops))", valueName: "count"))
  var maxNexthops: UInt32?
  @Option(
    name: .long,
    help: ArgumentHelp(
      "Most routes, of all VRFs and both families. (default: \(TableLimits().routes))", valueName: "count"))
  var maxRoutes: UInt32?
  @Option(
    name: .long,
    help: ArgumentHelp(
      "Most inner nodes of the routes' trees, for each family (IPv4: 2 KiB each). (default: \(TableLimits().routeNodes))",
      valueName: "count")
  )
  var maxRouteNodes: UInt32?
  @Option(
    name: .long, help: ArgumentHelp("Most bridge entries. (default: \(TableLimits().bridge))", valueName: "count"))
  var maxBridge: UInt32?
  @Option(
    name: .long,
    help: ArgumentHelp(
      "Most flow entries of a worker, two for each flow. (default: \(TableLimits().flows))", valueName: "count"))
  var maxFlows: UInt32?

  @Option(
    name: .customLong("icmp-errors"),
    help: ArgumentHelp("Most ICMP errors and TCP resets of a worker's own in a second.", valueName: "count"))
  var icmpErrors: UInt64 = 1000

  @Option(
    name: .customLong("traps"),
    help: ArgumentHelp(
      "Most DHCP requests and router solicitations of one interface that a worker leaves to the agent in a second.",
      valueName: "count"))
  var traps: UInt64 = 50

  @Option(name: .long, help: "How much to log: trace, debug, info, notice, warning, error or critical.")
  var logLevel = LogLevel.info

  @Option(name: .long, help: "What lines of the log look like: text, or json for an object a line.")
  var logFormat = LogFormat.text

  func validate() throws {
    for (name, value, most) in [
      ("--max-interfaces", maxInterfaces, 1 << 20), ("--max-vrfs", maxVrfs, 1 << 15),
      ("--max-nexthops", maxNexthops, 1 << 24),
      ("--max-routes", maxRoutes, 1 << 26), ("--max-route-nodes", maxRouteNodes, 1 << 24),
      ("--max-bridge", maxBridge, 1 << 24),
      ("--max-flows", maxFlows, 1 << 28),
    ] as [(String, UInt32?, UInt32)] {
      guard let value else { continue }
      guard (1...most).contains(value) else { throw ValidationError("\(name) must be 1 to \(most), not \(value).") }
    }
    guard icmpErrors <= 1_000_000 else {
      throw ValidationError("--icmp-errors is at most 1000000 in a second, not \(icmpErrors).")
    }
    guard (1...100_000).contains(traps) else {
      throw ValidationError("--traps is 1 to 100000 in a second, not \(traps).")
    }
    guard spin <= 1_000_000 else {
      throw ValidationError("--spin is in microseconds and at most 1000000, not \(spin).")
    }
    try placement.check()
  }

  func run() throws {
    let format = logFormat
    LoggingSystem.bootstrap { LogLines(label: $0, format: format) }
    LogLevels.shared.start(logLevel.level)
    let logger = Logger(label: "weft-vrouter")
    // Now: there is one thread still, and little memory.
    let hasCloser = weft_start_closer() > 0
    if !hasCloser {
      let reason = String(cString: strerror(errno))
      logger.warning("no closer (\(reason)): this forwarder's end will take long")
    }
    let start = try tables.map { try TablesFile.read($0) }
    var limits = start?.limits ?? TableLimits()
    for (chosen, field) in [
      (maxInterfaces, \.interfaces), (maxVrfs, \.vrfs), (maxNexthops, \.nexthops), (maxRoutes, \.routes),
      (maxRouteNodes, \.routeNodes), (maxBridge, \.bridge), (maxFlows, \.flows),
    ] as [(UInt32?, WritableKeyPath<TableLimits, UInt32>)] {
      if let chosen { limits[keyPath: field] = chosen }
    }
    let chosen = try placement.choose()
    let settings = ForwarderSettings(
      socket: socket, cores: chosen.workers.map(\.core), idle: idle, spinMicroseconds: spin,
      wakeLatencyMicroseconds: wakeLatency.microseconds, limits: limits, errorsPerSecond: icmpErrors,
      trapsPerSecond: traps, topology: chosen.topology)
    let forwarder: Forwarder
    do {
      forwarder = try Forwarder(settings: settings, tables: start, logger: logger)
    } catch let refusal as Refusal {
      throw CommandFailure("cannot start: \(refusal.reason)")
    } catch {
      throw CommandFailure("cannot start: \(error)")
    }
    forwarder.run(leavesPorts: hasCloser)
    // Without deinitialising, which would close one socket after the other.
    if hasCloser { withExtendedLifetime(forwarder) { Glibc.exit(0) } }
  }
}

extension IdleMode: ExpressibleByArgument {}
extension LogFormat: ExpressibleByArgument {}

/// Microseconds, or "off".
struct WakeLatencyOption: ExpressibleByArgument, CustomStringConvertible {
  let microseconds: UInt32?
  var description: String { microseconds.map { "\($0)" } ?? "off" }

  init(microseconds: UInt32?) { self.microseconds = microseconds }

  init?(argument: String) {
    if argument == "off" {
      microseconds = nil
    } else {
      // What the kernel takes: a signed number.
      guard let value = UInt32(argument), value <= 1_000_000 else { return nil }
      microseconds = value
    }
  }
}

/// swift-log's levels as an argument.
enum LogLevel: String, CaseIterable, ExpressibleByArgument {
  case trace, debug, info, notice, warning, error, critical

  var level: Logger.Level { Logger.Level(rawValue: rawValue) ?? .info }
}
