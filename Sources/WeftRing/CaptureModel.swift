import CLinux
import Glibc
import WeftSystem

// Captures: copies of frames in shared memory of their own.

/// What a capture takes.
public struct CaptureConfiguration: Hashable, Sendable {
  /// Captures that a forwarder runs at once.
  public static let maximum = 8
  public static let maximumInterfaces = 64
  public static let maximumSnap: UInt32 = 262_144
  public static let maximumInstructions = 4096
  /// Bytes of an instruction as it is staged: code 2, jump if true 1, if false 1, k 4, little-endian.
  public static let instructionBytes = 8

  /// Empty for all.
  public var interfaces: [UInt32]
  /// Frames as they come in, and as they go out.
  public var arrivals: Bool
  public var departures: Bool
  /// Packets that go no further, of the drop reasons whose bits are set (their numbers are the places in the
  /// forwarder's statistics).
  public var drops: Bool
  public var reasonsLow: UInt64
  public var reasonsHigh: UInt64
  /// Bytes of frame that are kept.
  public var snap: UInt32
  /// Instructions of the filter that has been staged; 0 for none.
  public var instructions: UInt32

  public init(
    interfaces: [UInt32] = [], arrivals: Bool = true, departures: Bool = true, drops: Bool = false,
    reasonsLow: UInt64 = .max, reasonsHigh: UInt64 = .max, snap: UInt32 = maximumSnap, instructions: UInt32 = 0
  ) {
    self.interfaces = interfaces
    self.arrivals = arrivals
    self.departures = departures
    self.drops = drops
    self.reasonsLow = reasonsLow
    self.reasonsHigh = reasonsHigh
    self.snap = snap
    self.instructions = instructions
  }
}

extension SlotWriter {
  mutating func put(_ capture: CaptureConfiguration) {
    let interfaces = capture.interfaces.prefix(CaptureConfiguration.maximumInterfaces)
    put(UInt8(interfaces.count))
    for interface in interfaces { put(interface) }
    put(UInt8((capture.arrivals ? 1 : 0) | (capture.departures ? 2 : 0) | (capture.drops ? 4 : 0)))
    put(capture.reasonsLow)
    put(capture.reasonsHigh)
    put(capture.snap)
    put(capture.instructions)
  }
}

extension SlotReader {
  mutating func capture() throws(SlotFault) -> CaptureConfiguration {
    let count = Int(try get("interface count", as: UInt8.self))
    guard count <= CaptureConfiguration.maximumInterfaces else { throw SlotFault(what: "interface count") }
    var interfaces: [UInt32] = []
    for _ in 0..<count { interfaces.append(try get("interface")) }
    let kinds: UInt8 = try get("kinds")
    guard kinds < 8 else { throw SlotFault(what: "kinds") }
    return CaptureConfiguration(
      interfaces: interfaces, arrivals: kinds & 1 != 0, departures: kinds & 2 != 0, drops: kinds & 4 != 0,
      reasonsLow: try get("reasons"), reasonsHigh: try get("reasons"), snap: try get("snap length"),
      instructions: try get("instruction count"))
  }
}

/// A running capture as its client sees it. It ends with this, with the client, or with the forwarder.
public struct CaptureReader: ~Copyable {
  public let id: UInt32
  public var frames: CaptureConsumer
}

extension RingClient {
  /// Starts a capture. `filter`: a classic BPF program, `CaptureConfiguration.instructionBytes` for each instruction.
  public func startCapture(
    _ configuration: CaptureConfiguration, filter: [UInt8] = []
  ) throws(RingError) -> Result<CaptureStart, Refusal> {
    var capture = configuration
    capture.instructions = UInt32(filter.count / CaptureConfiguration.instructionBytes)
    var refusal: Refusal?
    var id: UInt64 = 0
    try exchange(StagedBytes.commands(filter) + [.startCapture(capture)]) { _, completion in
      switch completion {
      case .refused(_, let reason): refusal = refusal ?? reason
      case .done(_, let cursor): id = cursor
      case .entry, .traceStep, .traceFrame: break
      }
    }
    if let refusal { return .failure(refusal) }
    return .success(
      CaptureStart(id: UInt32(truncatingIfNeeded: id), memory: try receiveMemory(UInt32(truncatingIfNeeded: id))))
  }

  public func stopCapture(_ id: UInt32) throws(RingError) { _ = try apply([.stopCapture(id: id)]) }
}

/// A capture that has been started: its memory waits to be mapped.
public final class CaptureStart: Sendable {
  public let id: UInt32
  private let memory: Descriptor

  init(id: UInt32, memory: consuming Descriptor) {
    self.id = id
    self.memory = memory
  }

  /// Maps the memory.
  public func reader() throws(RingError) -> CaptureReader {
    var status = stat()
    guard unsafe fstat(memory.raw, &status) == 0, status.st_size > 0 else {
      throw .corrupt("the memory of a capture has no size")
    }
    let mapping: Mapping
    do throws(SystemError) {
      mapping = try Mapping(descriptor: memory.raw, bytes: Int(status.st_size), writable: true, what: "a capture")
    } catch { throw .corrupt("\(error)") }
    do throws(CaptureCorrupt) {
      return CaptureReader(id: id, frames: try CaptureConsumer(mapping))
    } catch { throw .corrupt("the memory of a capture is of another version") }
  }
}
