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
  private let ports = ReplayPorts()
  private let statistics: StatisticsRegion

  /// Programs the tables of a file. Throws where an entry is refused, with its JSON path.
  public init(_ file: TablesFile) throws {
    limits = file.limits
    tables = try TableMemory(
      sizes: TableSizes(
        interfaces: Int(limits.interfaces), vrfs: Int(limits.vrfs), nexthops: Int(limits.nexthops),
        routes: Int(limits.routes), routeNodes: Int(limits.routeNodes), bridge: Int(limits.bridge)),
      workers: 1)
    let reasons = DropReason.allCases
    statistics = try StatisticsRegion(
      layout: StatisticsLayout(workers: 1, interfaces: Int(limits.interfaces), reasons: reasons.count),
      reasons: reasons.map { ($0.name, $0.explanation) })
    programmer = TableProgrammer(memory: tables, limits: limits, ports: ports)
    for (command, source) in zip(file.commands, file.sources) {
      do throws(Refusal) { try programmer.apply(command) } catch {
        throw ReplayError("TABLES.json: at \(source): \(error.reason)")
      }
    }
    programmer.commit()
  }

  private static let seed: UInt64 = 0x5745_4654_5345_4544

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
        let known = ports.names.keys.sorted().joined(separator: ", ")
        throw ReplayError(
          "--in \(port)=\(file): the tables have no interface with the device \"\(port)\"; they have \(known)")
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
    let seed = Self.seed
    let worker = statistics.worker(0)
    let counters = Counters(
      drops: worker.drops, interfaces: worker.interfaces, interfaceCount: Int(limits.interfaces))
    var path = PacketPath(
      tables: tables.reader, flows: try FlowTable(capacity: Int(limits.flows), seed: seed),
      fragments: try FragmentTable(seed: seed), nat: try NATWorker(worker: 0, seed: seed), counters: counters,
      interfaces: Int(limits.interfaces), seed: seed)
    let drops = try dropsFile.map { try DropsFile($0, interfaces: Int(limits.interfaces)) }
    if let drops { path.add(drops.tap) }
    var writers: [UInt32: PcapWriter] = [:]
    var last: UInt64 = 0
    // A capture that is cut short ends the replay: what came of it so far is kept.
    var fault: (any Error)?
    while fault == nil,
      let first = sources.indices.filter({ sources[$0].next != nil }).min(by: { a, b in
        (sources[a].next?.time ?? 0, a) < (sources[b].next?.time ?? 0, b)
      })
    {
      var packets: [PcapPacket] = []
      let limit = sources.indices.compactMap { $0 == first ? nil : sources[$0].next?.time }.min() ?? .max
      do {
        repeat {
          if let packet = sources[first].next { packets.append(packet) }
          try sources[first].advance()
        } while packets.count < RxFrames.capacity && (sources[first].next.map { $0.time < limit } ?? false)
      } catch { fault = error }
      last = packets.last?.time ?? last
      try process(packets, sources[first].id, &path, counters) { interface, frame, time in
        let name = ports.devices[interface] ?? String(interface)
        let writer = try writers[interface] ?? PcapWriter(path: "\(output)/\(name).pcap")
        writers[interface] = writer
        writer.write(frame, time: time)
      }
      try drops?.take(ports.devices)
    }
    try drops?.finish()
    for writer in writers.values { try writer.finish() }
    try writeReport(output, path, last)
    if let fault { throw fault }
  }

  private struct Source {
    let id: UInt32
    let reader: PcapReader
    var next: PcapPacket?

    mutating func advance() throws(PcapError) { next = try reader.next() }
  }

  private func process(
    _ packets: [PcapPacket], _ interface: UInt32, _ path: inout PacketPath, _ counters: Counters,
    _ send: (UInt32, [UInt8], UInt64) throws -> Void
  ) throws {
    guard let time = packets.first?.time else { return }
    var frames = RxFrames()
    defer { frames.deallocate() }
    // Each in memory of its own size, so that a read beyond a frame's end shows with a sanitizer.
    var memory: [UnsafeMutableRawPointer] = []
    defer { for pointer in memory { pointer.deallocate() } }
    for packet in packets {
      let pointer = UnsafeMutableRawPointer.allocate(byteCount: max(1, packet.frame.count), alignment: 16)
      packet.frame.withUnsafeBytes { bytes in
        if let base = bytes.baseAddress { pointer.copyMemory(from: base, byteCount: bytes.count) }
      }
      memory.append(pointer)
      frames.append(RxFrame(bytes: Bytes(pointer), length: packet.frame.count, virtio: VirtioNetHeader()))
    }
    path.process(frames, interface: interface, now: time)
    path.age(now: time)
    for index in 0..<path.tx.touchedCount {
      let target = path.tx.touched(index)
      var total = 0
      var count = 0
      var number = path.tx.head(target)
      while number != TxFrames.none {
        let frame = path.tx.frame(number)
        var bytes = [UInt8](repeating: 0, count: Int(frame.length))
        bytes.withUnsafeMutableBytes { if let base = $0.baseAddress { path.tx.copy(frame, to: base) } }
        try send(target, bytes, time)
        total += bytes.count
        count += Int(frame.packets)
        number = frame.next
      }
      counters.sent(target, packets: count, bytes: total)
    }
    path.tx.reset()
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

  private func writeReport(_ output: String, _ path: borrowing PacketPath, _ now: UInt64) throws {
    let reader = try statistics.reader()
    var flows: [FlowRecord] = []
    _ = path.flows.dump(cursor: 0, limit: .max) { flows.append(flowRecord($0, 0, now)) }
    var mirrors: [UInt32: MirrorState] = [:]
    _ = programmer.dump(.mirrors, cursor: 0, limit: .max) {
      if case .mirror(let mirror, let state) = $0 { mirrors[mirror.id] = state }
    }
    let report = ReplayReport(
      ports: Dictionary(uniqueKeysWithValues: ports.names.map { ($0.key, reader.interface($0.value)) }),
      drops: reader.drops(), flows: flows, made: path.made, mirrors: mirrors)
    let file = "\(output)/report.json"
    do { try report.json().write(to: URL(filePath: file)) } catch { throw ReplayError("\(file): \(error)") }
  }
}

/// The ports of a replay: capture files. Which one has packets is said on the command line.
private final class ReplayPorts: PortProvider {
  private(set) var names: [String: UInt32] = [:]
  private(set) var devices: [UInt32: String] = [:]

  func open(_ interface: InterfaceConfiguration) throws(Refusal) -> PortCapabilities {
    guard interface.port == .pcap else {
      throw Refusal(.device, "a replay opens no device: \"port\" of \(interface.device) must be \"pcap\"")
    }
    names[interface.device] = interface.id
    devices[interface.id] = interface.device
    return PortCapabilities(takesVirtio: false, takesUDPSegmentation: false)
  }

  func start(_ id: UInt32) {}
  func close(_ id: UInt32) { if let name = devices.removeValue(forKey: id) { names[name] = nil } }
  func state(_ id: UInt32) -> InterfaceState { InterfaceState(isUp: true, kernelIndex: 0) }
  func isStale(_ interface: InterfaceConfiguration) -> Bool { false }
}
