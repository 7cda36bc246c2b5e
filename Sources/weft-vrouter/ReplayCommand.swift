import ArgumentParser
import FoundationEssentials
import WeftVRouter

/// Sends captured packets through the packet path.
struct ReplayCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "replay",
    abstract: "Send captured packets through the packet path, with tables from a file. Needs no root.",
    discussion: """
      TABLES.json states every table (docs/tables.schema.json is its schema). A port is an interface of it with \
      "port": "pcap", named by its "device". Packets of all inputs go in the order of their times. DIR gets PORT.pcap for \
      each port that something was sent to, and report.json: counters of each port, drops by reason, flows. The same \
      input gives the same output.

      Exit status: 0 when all packets went through, 1 when tables or captures cannot be read, 64 for wrong usage.
      """)

  @Option(name: .long, help: ArgumentHelp("The tables.", valueName: "tables.json"))
  var tables: String

  @Option(
    name: .customLong("in"),
    help: ArgumentHelp("A port and the capture that comes in by it; repeatable.", valueName: "port=file"))
  var inputs: [PortInput]

  @Option(name: .long, help: ArgumentHelp("The folder for the results; made if it is not there.", valueName: "dir"))
  var out: String

  @Option(
    name: .long,
    help: ArgumentHelp(
      "How many workers share the packets, 1 to \(Replay.maximumWorkers): as a forwarder does on so many cores.",
      valueName: "count"))
  var workers = 1

  @Option(
    name: .customLong("super-frames"),
    help: ArgumentHelp(
      """
      A port with virtio-net headers, as a pod's; repeatable. TCP and UDP packets come in by it with unfinished \
      checksums, those with more payload than BYTES (1 to 65535) as super-frames of such segments; what leaves by it is \
      cut and finished as the kernel would.
      """,
      valueName: "port=bytes"))
  var superFrames: [PortSize] = []

  @Option(
    name: .long,
    help: ArgumentHelp("Write packets that are dropped as pcapng, the reason as their comment.", valueName: "file"))
  var captureDrops: String?

  func validate() throws {
    guard (1...Replay.maximumWorkers).contains(workers) else {
      throw ValidationError("--workers is 1 to \(Replay.maximumWorkers), not \(workers).")
    }
    guard !inputs.isEmpty else { throw ValidationError("Nothing to replay: give at least one --in PORT=FILE.") }
    for (index, each) in superFrames.enumerated() where superFrames[..<index].contains(where: { $0.port == each.port })
    {
      throw ValidationError("--super-frames \(each.port)=\(each.bytes): the port \(each.port) is given twice.")
    }
  }

  func run() throws {
    let replay = try Replay(
      TablesFile.read(tables), workers: workers,
      superFrames: Dictionary(uniqueKeysWithValues: superFrames.map { ($0.port, $0.bytes) }))
    try replay.run(inputs: inputs.map { ($0.port, $0.file) }, output: out, dropsFile: captureDrops)
  }
}

extension TablesFile {
  static func read(_ path: String) throws -> TablesFile {
    let bytes: [UInt8]
    do { bytes = Array(try Data(contentsOf: URL(filePath: path))) } catch {
      throw CommandFailure("cannot read \(path): \(error)")
    }
    return try TablesFile(json: bytes)
  }
}

/// "PORT=FILE".
struct PortInput: ExpressibleByArgument {
  let port: String
  let file: String

  init?(argument: String) {
    let parts = argument.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
    guard parts.count == 2, !parts[0].isEmpty, !parts[1].isEmpty else { return nil }
    port = String(parts[0])
    file = String(parts[1])
  }
}

/// "PORT=BYTES".
struct PortSize: ExpressibleByArgument {
  let port: String
  let bytes: Int

  init?(argument: String) {
    let parts = argument.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
    guard parts.count == 2, !parts[0].isEmpty, let bytes = Int(parts[1]), (1...65535).contains(bytes) else {
      return nil
    }
    port = String(parts[0])
    self.bytes = bytes
  }
}
