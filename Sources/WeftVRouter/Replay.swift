import FoundationEssentials
import Glibc
import WeftForwarding
import WeftPorts
import WeftRing
import WeftSystem
import WeftTables
import WeftWire

/// Why a replay did not run, or not to its end.
public struct ReplayError: Error, Sendable, CustomStringConvertible {
  public let description: String
  init(_ description: String) { self.description = description }
}

/// Sends captured packets through the packet path that a running forwarder has, with tables from a file: the same
/// stages, without a kernel, root or time of its own (packets bring theirs).
public struct Replay {
  private let tables: TableMemory
  private let programmer: TableProgrammer
  private let limits: TableLimits
  private let ports: ReplayPorts
  private let statistics: StatisticsRegion
  private let workerCount: Int

  /// Most workers of a replay.
  public static let maximumWorkers = 64

  /// Programs the tables of a file. Throws where an entry is refused, with its JSON path. `workers`: 1 to
  /// `maximumWorkers`. `superFrames`: ports that carry virtio-net headers as a pod's interface does, and how many bytes of
  /// payload a segment of what comes in by them has.
  public init(_ file: TablesFile, workers: Int = 1, superFrames: [String: Int] = [:]) throws {
    ports = ReplayPorts(superFrames)
    precondition(workers >= 1 && workers <= Self.maximumWorkers)
    limits = file.limits
    workerCount = workers
    tables = try TableMemory(
      sizes: TableSizes(
        interfaces: Int(limits.interfaces), vrfs: Int(limits.vrfs), nexthops: Int(limits.nexthops),
        routes: Int(limits.routes), routeNodes: Int(limits.routeNodes), bridge: Int(limits.bridge)),
      workers: workers)
    let reasons = DropReason.allCases
    statistics = try StatisticsRegion(
      layout: StatisticsLayout(workers: workers, interfaces: Int(limits.interfaces), reasons: reasons.count),
      reasons: reasons.map { ($0.name, $0.explanation) })
    programmer = TableProgrammer(memory: tables, limits: limits, ports: ports)
    do throws(Refusal) { try programmer.load(file) } catch { throw ReplayError(error.reason) }
    for (port, size) in superFrames.sorted(by: { $0.key < $1.key }) where ports.names[port] == nil {
      throw ReplayError("--super-frames \(port)=\(size): \(ports.unknown(port))")
    }
  }

  private static let seed: UInt64 = 0x5745_4654_5345_4544
  /// Packets that are further apart, ns, are of two batches: a batch has one time.
  private static let batchTime: UInt64 = 100_000_000

  /// What would become of a frame that came in by an interface, as the first of its flow.
  public func trace(_ frame: [UInt8], interface: UInt32) throws(Refusal) -> Trace {
    try Tracer(programmer, seed: Self.seed).trace(frame, interface: interface, now: 1_000_000_000) { _ in nil }
  }

  /// Sends the packets of `inputs` (port, capture file) in the order of their times; writes PORT.pcap for each port that
  /// something was sent to, and report.json, into the folder `output`, which is made if it is not there.
  /// `dropsFile`: packets that are dropped, as pcapng with the reason as their comment.
  public func run(inputs: [(port: String, file: String)], output: String, dropsFile: String? = nil) throws {
    var sources: [Source] = []
    for (port, file) in inputs {
      guard let id = ports.names[port] else {
        throw ReplayError("--in \(port)=\(file): \(ports.unknown(port))")
      }
      guard !sources.contains(where: { $0.id == id }) else {
        throw ReplayError("--in \(port)=\(file): port \(port) is given twice; merge the files first (mergecap)")
      }
      sources.append(Source(id: id, reader: try PcapReader(path: file)))
    }
    for index in sources.indices { try sources[index].advance() }
    try makeFolder(output)
    // Of an earlier replay.
    for port in ports.names.keys { unlink("\(output)/\(port).pcap") }
    let workers = try ReplayWorkers(
      count: workerCount, tables: tables.reader, statistics: statistics, limits: limits, seed: Self.seed,
      segments: ports.segments)
    defer { workers.stop() }
    let drops = try dropsFile.map { try DropsFile($0, workers: workerCount, interfaces: Int(limits.interfaces)) }
    if let drops { workers.add(drops.taps) }
    // By the port's name: interfaces of VLANs have that of another.
    var writers: [String: PcapWriter] = [:]
    var events: [Event] = []
    var flowEvents: [FlowReport] = []
    var last: UInt64 = 0
    // A capture that is cut short ends the replay: what came of it so far is kept.
    var fault: (any Error)?
    while fault == nil,
      let first = sources.indices.filter({ sources[$0].next != nil }).min(by: { a, b in
        (sources[a].next?.time ?? 0, a) < (sources[b].next?.time ?? 0, b)
      })
    {
      var packets: [PcapPacket] = []
      let others = sources.indices.compactMap { $0 == first ? nil : sources[$0].next?.time }.min() ?? .max
      let start = sources[first].next?.time ?? 0
      let limit = min(others, start > .max - Self.batchTime ? .max : start + Self.batchTime)
      do {
        repeat {
          if let packet = sources[first].next { packets.append(packet) }
          try sources[first].advance()
        } while packets.count < RxFrames.capacity && (sources[first].next.map { $0.time < limit } ?? false)
      } catch { fault = error }
      last = packets.last?.time ?? last
      // What comes of a batch has the time of its first packet.
      guard let time = packets.first?.time else { break }
      programmer.age(now: time)
      for frame in workers.round(packets.map(\.frame), interface: sources[first].id, time: time) {
        let name = ports.devices[frame.interface] ?? String(frame.interface)
        guard !frame.isMalformed else {
          throw ReplayError(
            "port \(name): a frame's virtio-net header does not fit it; this is a defect of weft-vrouter")
        }
        let writer = try writers[name] ?? PcapWriter(path: "\(output)/\(name).pcap")
        writers[name] = writer
        writer.write(frame.bytes, time: time)
      }
      // In a running forwarder the control thread does this meanwhile.
      workers.takeReports { programmer.take($0) }
      tables.epochs.reclaim()
      events += programmer.takeEvents() + workers.takeTraps()
      flowEvents += workers.takeFlowEvents()
      try drops?.take(ports.devices)
    }
    try drops?.finish()
    for writer in writers.values { try writer.finish() }
    try writeReport(output, workers, last, events, flowEvents)
    if let fault { throw fault }
  }

  private struct Source {
    let id: UInt32
    let reader: PcapReader
    var next: PcapPacket?

    mutating func advance() throws(PcapError) { next = try reader.next() }
  }

  private func makeFolder(_ path: String) throws(ReplayError) {
    if mkdir(path, 0o777) != 0, errno != EEXIST {
      throw ReplayError("--out \(path): \(SystemError.text(errno))")
    }
    var status = stat()
    guard stat(path, &status) == 0, status.st_mode & S_IFMT == S_IFDIR else {
      throw ReplayError("--out \(path): it is there and is no folder")
    }
    guard access(path, W_OK) == 0 else { throw ReplayError("--out \(path): \(SystemError.text(errno))") }
  }

  private func policers() -> [ReplayReport.Policer] {
    var rows: [ReplayReport.Policer] = []
    _ = programmer.dump(.policers, cursor: 0, limit: .max) {
      if case .policer(let policer, let state) = $0 { rows.append(ReplayReport.Policer(policer.id, state)) }
    }
    return rows.sorted { $0.id < $1.id }
  }

  private func writeReport(
    _ output: String, _ workers: ReplayWorkers, _ now: UInt64, _ events: [Event],
    _ flowEvents: [FlowReport]
  ) throws {
    programmer.age(now: now)
    var stations: [ReplayReport.Station] = []
    _ = programmer.dump(.bridge, cursor: 0, limit: .max) {
      if case .bridge(let entry, let state) = $0, state.isLearned { stations.append(.init(entry, state)) }
    }
    let reader = try statistics.reader()
    let (flows, made) = workers.flows(now: now)
    var mirrors: [UInt32: MirrorState] = [:]
    _ = programmer.dump(.mirrors, cursor: 0, limit: .max) {
      if case .mirror(let mirror, let state) = $0 { mirrors[mirror.id] = state }
    }
    let report = ReplayReport(
      ports: Dictionary(uniqueKeysWithValues: ports.all.map { ($0.key, reader.interface($0.value)) }),
      drops: reader.drops(), flows: flows, made: made, sharing: workers.sharing, stations: stations,
      events: (events + programmer.takeEvents()).map(ReplayReport.Occurrence.init), policers: policers(),
      mirrors: mirrors, flowEvents: flowEvents)
    let file = "\(output)/report.json"
    do { try report.json().write(to: URL(filePath: file)) } catch { throw ReplayError("\(file): \(error)") }
  }
}

/// The ports of a replay: capture files. Which one has packets is said on the command line.
private final class ReplayPorts: PortProvider {
  private(set) var names: [String: UInt32] = [:]
  /// With interfaces of VLANs, which have no captures of their own.
  private(set) var all: [String: UInt32] = [:]
  /// The port that an interface's frames come in and go out by.
  private(set) var devices: [UInt32: String] = [:]
  /// Ports that carry virtio-net headers, by name, and interfaces on them: payload bytes of a segment.
  private let superFrames: [String: Int]
  private(set) var segments: [UInt32: Int] = [:]

  init(_ superFrames: [String: Int]) { self.superFrames = superFrames }

  /// Why there is no such port.
  func unknown(_ port: String) -> String {
    let known = names.keys.sorted().joined(separator: ", ")
    return "the tables have no interface with the device \"\(port)\"; they have \(known)"
  }

  private func capabilities(_ id: UInt32, _ port: String?) -> PortCapabilities {
    segments[id] = port.flatMap { superFrames[$0] }
    return PortCapabilities(takesVirtio: segments[id] != nil, takesUDPSegmentation: segments[id] != nil)
  }

  func open(_ interface: InterfaceConfiguration) throws(Refusal) -> PortCapabilities {
    if let vlan = interface.vlan {
      all[interface.device] = interface.id
      devices[interface.id] = devices[vlan.parent]
      return capabilities(interface.id, devices[vlan.parent])
    }
    guard interface.port == .pcap else {
      throw Refusal(.device, "a replay opens no device: \"port\" of \(interface.device) must be \"pcap\"")
    }
    names[interface.device] = interface.id
    all[interface.device] = interface.id
    devices[interface.id] = interface.device
    return capabilities(interface.id, interface.device)
  }

  func start(_ id: UInt32) {}
  func close(_ id: UInt32) {
    devices[id] = nil
    segments[id] = nil
    names = names.filter { $0.value != id }
    all = all.filter { $0.value != id }
  }
  func state(_ id: UInt32) -> InterfaceState { InterfaceState(isUp: true, kernelIndex: 0) }
  func isStale(_ interface: InterfaceConfiguration) -> Bool { false }
}
