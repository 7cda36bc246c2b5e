// What a forwarder would do with a packet, step by step.

/// One stage's findings.
public struct TraceStep: Hashable, Sendable {
  public enum Value: Hashable, Sendable {
    case number(UInt64)
    /// At most 255 bytes.
    case text(String)
  }

  public struct Field: Hashable, Sendable {
    public var name: String
    public var value: Value

    public init(_ name: String, _ value: Value) {
      self.name = name
      self.value = value
    }
  }

  public static let maximumFields = 24
  static let nameBytes = 31

  /// Such as "route"; at most 31 bytes, as are the names of fields.
  public var stage: String
  public var fields: [Field]

  public init(_ stage: String, _ fields: [Field] = []) {
    self.stage = stage
    self.fields = fields
  }
}

/// A frame that would leave, or a part of it.
public struct TraceFrame: Hashable, Sendable {
  /// Most bytes of a part.
  public static let partBytes = 900

  public var interface: UInt32
  /// Counted from 0 in the order in which they leave.
  public var number: UInt32
  /// Bytes of the whole frame, and where this part begins.
  public var length: UInt32
  public var offset: UInt32
  public var bytes: [UInt8]

  public init(interface: UInt32, number: UInt32, length: UInt32, offset: UInt32, bytes: [UInt8]) {
    self.interface = interface
    self.number = number
    self.length = length
    self.offset = offset
    self.bytes = bytes
  }
}

/// What a command takes that does not fit a slot is sent before it, in parts.
public enum StagedBytes {
  /// Most bytes of a part, and of all parts together.
  public static let partBytes = 960
  public static let maximum = 1 << 17

  /// The commands that stage `bytes`.
  public static func commands(_ bytes: [UInt8]) -> [Command] {
    stride(from: 0, to: bytes.count, by: partBytes).map { offset in
      .stage(offset: UInt32(offset), bytes: Array(bytes[offset..<min(bytes.count, offset + partBytes)]))
    }
  }
}

/// A traced packet.
public struct Trace: Hashable, Sendable {
  public struct Frame: Hashable, Sendable {
    public var interface: UInt32
    public var bytes: [UInt8]

    public init(interface: UInt32, bytes: [UInt8]) {
      self.interface = interface
      self.bytes = bytes
    }
  }

  public var steps: [TraceStep]
  public var frames: [Frame]

  public init(steps: [TraceStep] = [], frames: [Frame] = []) {
    self.steps = steps
    self.frames = frames
  }
}

extension SlotWriter {
  mutating func put(_ step: TraceStep) {
    put(step.stage, maximum: TraceStep.nameBytes)
    // As many fields as there is room for.
    var room = 900 - step.stage.utf8.count
    var kept: [TraceStep.Field] = []
    for field in step.fields.prefix(TraceStep.maximumFields) {
      room -= field.name.utf8.count + 10
      if case .text(let text) = field.value { room -= text.utf8.count }
      guard room >= 0 else { break }
      kept.append(field)
    }
    put(UInt8(kept.count))
    for field in kept {
      put(field.name, maximum: TraceStep.nameBytes)
      switch field.value {
      case .number(let number):
        put(UInt8(1))
        put(number)
      case .text(let text):
        put(UInt8(2))
        put(text, maximum: 255)
      }
    }
  }

  mutating func put(_ frame: TraceFrame) {
    put(frame.interface)
    put(frame.number)
    put(frame.length)
    put(frame.offset)
    let bytes = frame.bytes.prefix(TraceFrame.partBytes)
    put(UInt16(bytes.count))
    put(bytes: bytes)
  }
}

extension SlotReader {
  mutating func traceStep() throws(SlotFault) -> TraceStep {
    var step = TraceStep(try text("stage", maximum: TraceStep.nameBytes))
    let count = Int(try get("field count", as: UInt8.self))
    guard count <= TraceStep.maximumFields else { throw SlotFault(what: "field count") }
    for _ in 0..<count {
      let name = try text("field name", maximum: TraceStep.nameBytes)
      switch try get("field kind", as: UInt8.self) {
      case 1: step.fields.append(TraceStep.Field(name, .number(try get("field"))))
      case 2: step.fields.append(TraceStep.Field(name, .text(try text("field", maximum: 255))))
      default: throw SlotFault(what: "field kind")
      }
    }
    return step
  }

  mutating func traceFrame() throws(SlotFault) -> TraceFrame {
    let interface: UInt32 = try get("interface")
    let number: UInt32 = try get("frame number")
    let length: UInt32 = try get("frame length")
    let offset: UInt32 = try get("offset")
    let count = Int(try get("part length", as: UInt16.self))
    return TraceFrame(
      interface: interface, number: number, length: length, offset: offset, bytes: try octets("part", count: count))
  }
}

extension RingClient {
  /// What the forwarder would do with a frame that came in by `interface`. Nothing is sent and nothing changes.
  public func trace(_ frame: [UInt8], interface: UInt32) throws(RingError) -> Result<Trace, Refusal> {
    var trace = Trace()
    var refusal: Refusal?
    let commands = StagedBytes.commands(frame) + [.trace(interface: interface, length: UInt32(clamping: frame.count))]
    try exchange(commands) { _, completion in
      switch completion {
      case .traceStep(_, let step): trace.steps.append(step)
      case .traceFrame(_, let part):
        if Int(part.number) == trace.frames.count {
          trace.frames.append(Trace.Frame(interface: part.interface, bytes: []))
        }
        if Int(part.number) < trace.frames.count { trace.frames[Int(part.number)].bytes += part.bytes }
      case .refused(_, let reason): refusal = refusal ?? reason
      case .entry, .done: break
      }
    }
    return refusal.map { .failure($0) } ?? .success(trace)
  }
}
