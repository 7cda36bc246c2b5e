import ArgumentParser
import FoundationEssentials
import WeftPorts
import WeftRing
import WeftVRouter
import WeftWire

struct TraceCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "trace", abstract: "What would become of a packet, stage by stage. Nothing is sent or changed.",
    discussion: """
      The packet is described (--udp, --tcp or --icmp, with a source and a destination), or given whole as a frame: \
      --hex, or a packet of a capture (--read). A described packet goes to the router's MAC address unless \
      --destination-mac says another. The forwarder's own packet path decides, with the tables as they are and with \
      the flow that a worker has for the packet; a source NAT's port is one that might be given.

      With --tables, no forwarder is asked: the tables come from a TABLES.json (docs/replay.md).

      Examples:
        weft trace --interface 3 --udp 10.0.0.2:1234 10.0.0.3:53
        weft trace --interface pod-eth0 --tcp [fd00::2]:40000 [fd00::3]:80 --flags syn
        weft trace --interface 0 --read underlay.pcap --packet 7 --write out.pcap
        weft trace --tables tables.json --interface a --icmp 10.1.0.1 10.1.0.254 --json
      """)

  @Option(
    name: .long, help: ArgumentHelp("Where the packet comes in, by number or device.", valueName: "interface"))
  var interface: String

  @Option(
    name: .long, parsing: .upToNextOption,
    help: ArgumentHelp("A UDP packet: source and destination, address:port each.", valueName: "source destination"))
  var udp: [String] = []

  @Option(
    name: .long, parsing: .upToNextOption,
    help: ArgumentHelp("A TCP packet, a SYN unless --flags says otherwise.", valueName: "source destination"))
  var tcp: [String] = []

  @Option(
    name: .long, parsing: .upToNextOption,
    help: ArgumentHelp("An echo request: source and destination address.", valueName: "source destination"))
  var icmp: [String] = []

  @Option(name: .long, help: ArgumentHelp("TCP flags, such as syn,ack.", valueName: "flags"))
  var flags: String?

  @Option(name: .long, help: ArgumentHelp("Bytes of IP packet of a described packet.", valueName: "bytes"))
  var length: Int?

  @Option(name: .long, help: ArgumentHelp("TTL or hop limit of a described packet.", valueName: "hops"))
  var ttl: UInt8 = 64

  @Option(name: .long, help: ArgumentHelp("DSCP of a described packet.", valueName: "0-63"))
  var dscp: UInt8 = 0

  @Option(name: .long, help: ArgumentHelp("A described packet has an 802.1Q tag.", valueName: "1-4094"))
  var vlan: UInt16?

  @Option(name: .long, help: ArgumentHelp("The source MAC (default: the interface's).", valueName: "mac"))
  var sourceMac: MACAddress?

  @Option(name: .long, help: ArgumentHelp("The destination MAC (default: the router's).", valueName: "mac"))
  var destinationMac: MACAddress?

  @Option(
    name: .long, help: ArgumentHelp("The frame in hexadecimal; - reads it from standard input.", valueName: "hex"))
  var hex: String?

  @Option(name: .long, help: ArgumentHelp("A capture that the frame is in.", valueName: "file"))
  var read: String?

  @Option(name: .long, help: ArgumentHelp("Which packet of the capture, from 1.", valueName: "number"))
  var packet = 1

  @Option(name: .long, help: ArgumentHelp("Write what would be sent into a capture.", valueName: "file"))
  var write: String?

  @Option(name: .long, help: ArgumentHelp("Tables from a file in place of a forwarder's.", valueName: "tables.json"))
  var tables: String?

  @OptionGroup var options: ForwarderOptions

  func validate() throws {
    let given = [!udp.isEmpty, !tcp.isEmpty, !icmp.isEmpty, hex != nil, read != nil].filter { $0 }.count
    guard given == 1 else {
      throw ValidationError("Give the packet in one way: --udp, --tcp, --icmp, --hex or --read.")
    }
    for (name, ends) in [("--udp", udp), ("--tcp", tcp), ("--icmp", icmp)] where !ends.isEmpty && ends.count != 2 {
      throw ValidationError("\(name) takes two ends, source and destination, not \(ends.count).")
    }
    guard flags == nil || !tcp.isEmpty else { throw ValidationError("--flags goes with --tcp.") }
    guard dscp <= 63 else { throw ValidationError("--dscp is 0 to 63, not \(dscp).") }
    if let vlan, !(1...4094).contains(vlan) { throw ValidationError("--vlan is 1 to 4094, not \(vlan).") }
    guard packet >= 1 else { throw ValidationError("--packet counts from 1.") }
  }

  func run() throws {
    let source: any TraceSource = try tables.map { try FileTables($0) } ?? RingTables(options.connect())
    let target = try source.interface(interface)
    let frame = try frame(target)
    let trace = try source.trace(frame, target.id)
    let devices = Dictionary(try source.interfaces().map { ($0.id, $0.device) }) { first, _ in first }
    if let write { try save(trace, to: write) }
    try Output.write(options.json ? TraceText.json(trace, devices) : TraceText.text(trace, devices))
  }

  private func frame(_ interface: InterfaceConfiguration) throws -> [UInt8] {
    if let hex { return try Self.bytes(hex == "-" ? Self.standardInput() : hex) }
    if let read { return try Self.packet(packet, of: read) }
    guard interface.role != .fabric else {
      throw Failure(
        "a packet from the fabric (interface \(interface.id), \(interface.device)) has a tunnel's headers: give it whole, "
          + "with --hex or --read")
    }
    let kind: DescribedPacket.Kind = !udp.isEmpty ? .udp : !tcp.isEmpty ? .tcp : .icmp
    var described = try DescribedPacket(kind, ends: udp + tcp + icmp)
    if let flags { described.tcpFlags = try DescribedPacket.flags(flags) }
    described.length = length
    described.ttl = ttl
    described.dscp = dscp
    described.vlan = vlan
    described.sourceMAC = sourceMac ?? interface.mac
    described.destinationMAC = destinationMac ?? .virtualRouter
    return try described.frame()
  }

  private static func bytes(_ text: String) throws(Failure) -> [UInt8] {
    let digits = text.utf8.filter { ![0x20, 0x0A, 0x0D, 0x09, 0x3A].contains($0) }
    guard digits.count % 2 == 0, !digits.isEmpty else {
      throw Failure("--hex: \(digits.count) digits; a byte has two")
    }
    return try stride(from: 0, to: digits.count, by: 2).map { at throws(Failure) in
      let pair = String(decoding: digits[at..<at + 2], as: UTF8.self)
      guard let byte = UInt8(pair, radix: 16) else { throw Failure("--hex: \"\(pair)\" is no hexadecimal number") }
      return byte
    }
  }

  private static func standardInput() -> String {
    var text = ""
    while let line = readLine() { text += line + "\n" }
    return text
  }

  private static func packet(_ number: Int, of file: String) throws -> [UInt8] {
    do {
      let reader = try PcapReader(path: file)
      var count = 0
      while let packet = try reader.next() {
        count += 1
        if count == number { return packet.frame }
      }
      throw Failure("--read \(file): packet \(number) is asked for, but it has \(count)")
    } catch let error as PcapError {
      throw Failure("--read \(error)")
    }
  }

  private func save(_ trace: Trace, to file: String) throws(Failure) {
    do throws(PcapError) {
      let writer = try PcapWriter(path: file)
      let time = UInt64(Date().timeIntervalSince1970 * 1000) * 1_000_000
      for frame in trace.frames { writer.write(frame.bytes, time: time) }
      try writer.finish()
    } catch { throw Failure("--write \(error)") }
  }
}

extension MACAddress: ExpressibleByArgument {
  public init?(argument: String) { self.init(argument) }
}

/// Who answers: a forwarder, or tables from a file.
private protocol TraceSource {
  func interfaces() throws -> [InterfaceConfiguration]
  func trace(_ frame: [UInt8], _ interface: UInt32) throws -> Trace
}

extension TraceSource {
  func interface(_ text: String) throws -> InterfaceConfiguration {
    let known = try interfaces()
    if let id = UInt32(text), let found = known.first(where: { $0.id == id }) { return found }
    guard let found = known.first(where: { $0.device == text }) else {
      let names = known.prefix(20).map { "\($0.id) (\($0.device))" }.joined(separator: ", ")
      throw Failure("no interface \"\(text)\"; there are \(names.isEmpty ? "none" : names)")
    }
    return found
  }
}

private struct RingTables: TraceSource {
  let forwarder: Forwarder

  init(_ forwarder: Forwarder) { self.forwarder = forwarder }

  func interfaces() throws -> [InterfaceConfiguration] { try forwarder.interfaces().map(\.configuration) }

  func trace(_ frame: [UInt8], _ interface: UInt32) throws -> Trace {
    let result: Result<Trace, Refusal>
    do throws(RingError) { result = try forwarder.ring.trace(frame, interface: interface) } catch {
      throw Failure("cannot trace: \(error)")
    }
    switch result {
    case .success(let trace): return trace
    case .failure(let refusal): throw Failure("the forwarder refused: \(refusal.reason)")
    }
  }
}

private struct FileTables: TraceSource {
  let replay: Replay
  let configurations: [InterfaceConfiguration]

  init(_ path: String) throws {
    let bytes: [UInt8]
    do { bytes = Array(try Data(contentsOf: URL(filePath: path))) } catch {
      throw Failure("cannot read \(path): \(error)")
    }
    do {
      let file = try TablesFile(json: bytes)
      replay = try Replay(file)
      configurations = file.commands.compactMap { if case .setInterface(let entry) = $0 { entry } else { nil } }
    } catch {
      throw Failure("\(error)")
    }
  }

  func interfaces() throws -> [InterfaceConfiguration] { configurations }

  func trace(_ frame: [UInt8], _ interface: UInt32) throws -> Trace {
    do throws(Refusal) { return try replay.trace(frame, interface: interface) } catch {
      throw Failure(error.reason)
    }
  }
}
