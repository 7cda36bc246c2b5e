import CLinux
import Glibc
import WeftForwarding
import WeftRing
import WeftSystem
import WeftTables

/// Starts and ends captures. Used by the control thread.
final class CaptureManager {
  private struct Capture {
    let session: UInt64
    /// Workers write into it.
    let memory: SharedMemory
    let taps: [CaptureTap]
  }

  /// Memory that is mapped as long as this is.
  private final class SharedMemory {
    let descriptor: Descriptor
    let mapping: Mapping

    init(workers: Int, ring: Int) throws(SystemError) {
      let bytes = CaptureMemory.bytes(workers: workers, ring: ring)
      descriptor = try Descriptor(
        memfd_create("weft-capture", UInt32(MFD_CLOEXEC) | UInt32(MFD_ALLOW_SEALING)), "make", "capture memory")
      guard ftruncate(descriptor.raw, bytes) == 0, weft_seal(descriptor.raw) == 0 else {
        throw SystemError("size", "capture memory")
      }
      mapping = try Mapping(descriptor: descriptor.raw, bytes: bytes, writable: true, what: "capture memory")
      CaptureMemory.format(mapping, workers: workers, ring: ring)
    }
  }

  /// Bytes that a worker can be ahead of the reader.
  private static let ringBytes = 4 << 20

  private let programmer: TableProgrammer
  private let ports: PortManager
  private let workers: [Worker]
  private var captures: [UInt32: Capture] = [:]
  /// A worker that hangs may still write into them.
  private var abandoned: [Capture] = []
  private var last: UInt32 = 0

  init(programmer: TableProgrammer, ports: PortManager, workers: [Worker]) {
    self.programmer = programmer
    self.ports = ports
    self.workers = workers
  }

  func start(
    _ new: CaptureConfiguration, filter: [UInt8], session: UInt64, channel: ServerChannel
  ) throws(Refusal) -> UInt32 {
    try check(new, filter)
    last &+= 1
    let id = last
    let memory: SharedMemory
    do throws(SystemError) {
      memory = try SharedMemory(workers: workers.count, ring: Self.ringBytes)
    } catch { throw Refusal(.tableFull, "no memory for a capture: \(error)") }
    let ids = new.interfaces.isEmpty ? nil : Set(new.interfaces)
    let selection = CaptureSelection(
      interfaces: ids, arrivals: new.arrivals, departures: new.departures, drops: new.drops,
      reasons: (new.reasonsLow, new.reasonsHigh), snap: Int(new.snap))
    var taps: [CaptureTap] = []
    let offset = Self.clockOffset()
    for worker in workers {
      taps.append(
        CaptureTap(
          id: id, producer: CaptureProducer(memory.mapping, worker: worker.index, ring: Self.ringBytes),
          selection: selection, filter: try Self.program(filter), interfaces: Int(programmer.limits.interfaces),
          offset: offset))
    }
    do throws(SystemError) {
      try channel.handOver(capture: id, memory: memory.descriptor)
    } catch { throw Refusal(.device, "\(error)") }
    captures[id] = Capture(session: session, memory: memory, taps: taps)
    for worker in workers { worker.post([.startCapture(taps[worker.index])]) }
    if new.arrivals || new.departures { programmer.setCaptured(id, CapturedInterfaces(ids: ids)) }
    ports.settle([])
    return id
  }

  private func check(_ new: CaptureConfiguration, _ filter: [UInt8]) throws(Refusal) {
    guard captures.count < CaptureConfiguration.maximum else {
      throw Refusal(.tableFull, "\(captures.count) captures run already; end one first")
    }
    guard new.arrivals || new.departures || new.drops else {
      throw Refusal(.outOfRange, "a capture of nothing: neither frames in, nor out, nor drops")
    }
    guard (1...CaptureConfiguration.maximumSnap).contains(new.snap) else {
      throw Refusal(
        .outOfRange, "a snap length of \(new.snap) bytes; it is 1 to \(CaptureConfiguration.maximumSnap)")
    }
    for interface in new.interfaces where !programmer.interfaces.contains(interface) {
      throw Refusal(.notFound, "interface \(interface) is not there")
    }
    guard filter.count == Int(new.instructions) * CaptureConfiguration.instructionBytes else {
      throw Refusal(
        .malformed, "a filter of \(new.instructions) instructions, for which \(filter.count) bytes have been staged")
    }
    try Self.program(filter).deallocate()
  }

  private static func program(_ bytes: [UInt8]) throws(Refusal) -> PacketFilter {
    let size = CaptureConfiguration.instructionBytes
    var instructions: [FilterInstruction] = []
    for at in stride(from: 0, to: bytes.count - bytes.count % size, by: size) {
      let code = UInt16(bytes[at]) | UInt16(bytes[at + 1]) << 8
      var k: UInt32 = 0
      for byte in 0..<4 { k |= UInt32(bytes[at + 4 + byte]) << UInt32(8 * byte) }
      instructions.append(
        FilterInstruction(code: code, jumpTrue: bytes[at + 2], jumpFalse: bytes[at + 3], k: k))
    }
    do throws(FilterFault) { return try PacketFilter(instructions) } catch {
      throw Refusal(.outOfRange, "the filter: \(error)")
    }
  }

  func stop(_ id: UInt32, session: UInt64) throws(Refusal) {
    guard captures[id]?.session == session else {
      throw Refusal(.notFound, "this channel has no capture \(id)")
    }
    end(id)
  }

  func stop(ofSession session: UInt64) {
    for (id, capture) in captures where capture.session == session { end(id) }
  }

  private func end(_ id: UInt32) {
    programmer.setCaptured(id, nil)
    // The memory goes when no worker writes into it any more.
    let late = ports.settle([.stopCapture(id: id)])
    guard let capture = captures.removeValue(forKey: id), late != nil else { return }
    abandoned.append(capture)
  }

  /// From CLOCK_MONOTONIC to the time of day.
  static func clockOffset() -> UInt64 {
    var now = timespec()
    clock_gettime(CLOCK_REALTIME, &now)
    let day = UInt64(now.tv_sec) * 1_000_000_000 + UInt64(now.tv_nsec)
    return day &- weft_monotonic_ns()
  }
}
