import ArgumentParser
import Logging
import WeftAgent
import WeftLogging

@main
struct WeftAgentCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "weft-agent",
    abstract: "Attaches pods and virtual machines of this node to virtual networks.",
    discussion: """
      One a node, beside weft-vrouter. It answers the CNI plugin (weft-cni, or Tungsten Fabric's) over HTTP, gives out \
      addresses, remembers them in an SQLite file, and programs the forwarder: interfaces, routes, and tunnels to the \
      peers that the configuration names.

      It may be stopped, killed and started again at any time: the forwarder goes on without it, and is brought up to \
      date by the next one. What it does is logged to stderr; GET /v1/status says how it is:

        curl -s http://127.0.0.1:9091/v1/status
      """,
    version: AgentProgram.version, subcommands: [Run.self, Check.self])
}

struct ConfigurationOption: ParsableArguments {
  @Option(
    name: .long, help: ArgumentHelp("The configuration, a YAML file (docs/agent.example.yaml).", valueName: "file"))
  var config: String

  func read() throws -> AgentConfiguration {
    do { return try AgentConfiguration.read(file: config) } catch {
      throw ValidationFailure(description: error.description)
    }
  }
}

/// Ends the program with a message and status 1.
struct ValidationFailure: Error, CustomStringConvertible {
  let description: String
}

struct Run: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Run the agent until SIGTERM or SIGINT.",
    discussion: """
      Exit status: 0 after a signal, 1 when it cannot start (the configuration is wrong, the database or the address is \
      in use). A forwarder that is not there is waited for.

      SIGUSR1 has it log more, a step each time, SIGUSR2 as much as it was started with; PUT /v1/log-level sets the level of \
      all or of a part.
      """)

  @OptionGroup var options: ConfigurationOption

  @Option(
    name: .long,
    help: ArgumentHelp(
      """
      Where to serve HTTP; overrides `listen` of the file (default 127.0.0.1:9091). Anything but loopback takes a token \
      (api.token-file) in the file.
      """,
      valueName: "host:port"))
  var listen: String?

  @Option(
    name: .long,
    help: ArgumentHelp("trace, debug, info, notice, warning, error or critical.", valueName: "level"))
  var logLevel: LogLevel = LogLevel(level: .info)

  @Option(name: .long, help: "What lines of the log look like: text, or json for an object a line.")
  var logFormat = LogFormat.text

  func validate() throws {
    if let listen, ListenAddress(listen) == nil {
      throw ValidationError("--listen \(listen): must be HOST:PORT, such as 127.0.0.1:9091 or [::1]:9091")
    }
  }

  func run() async throws {
    var configuration = try options.read()
    if let address = listen.flatMap({ ListenAddress($0) }) { configuration.listen = address }
    let format = logFormat
    LoggingSystem.bootstrap { LogLines(label: $0, format: format) }
    LogLevels.shared.start(logLevel.level)
    let logger = Logger(label: "weft-agent")
    logger.info(
      "starting", metadata: ["node": "\(configuration.node)", "version": "\(AgentProgram.version)"])
    try await AgentProgram(configuration, logger: logger).run()
  }
}

struct Check: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Check a configuration and say what it means. Changes nothing.")

  @OptionGroup var options: ConfigurationOption

  func run() throws { print(try options.read().summary) }
}

extension LogFormat: ExpressibleByArgument {}

struct LogLevel: ExpressibleByArgument {
  let level: Logger.Level

  init(level: Logger.Level) { self.level = level }

  init?(argument: String) {
    guard let level = Logger.Level(rawValue: argument.lowercased()) else { return nil }
    self.level = level
  }

  var defaultValueDescription: String { level.rawValue }
}
