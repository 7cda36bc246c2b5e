import WeftRing

/// A trace as people and programs read it.
enum TraceText {
  /// A line a step: the stage, then what was found. Then each frame that would leave.
  static func text(_ trace: Trace, _ devices: [UInt32: String]) -> String {
    let width = trace.steps.map(\.stage.count).max() ?? 0
    var result = ""
    for step in trace.steps {
      let fields = step.fields.map { "\($0.name) \(shown($0.value))" }.joined(separator: ", ")
      result += step.stage + String(repeating: " ", count: width - step.stage.count + 2) + fields + "\n"
    }
    for frame in trace.frames {
      result += "\n\(frame.bytes.count) bytes out of interface \(frame.interface)"
      result += devices[frame.interface].map { " (\($0)):\n" } ?? ":\n"
      result += dump(frame.bytes)
    }
    return result
  }

  private static func shown(_ value: TraceStep.Value) -> String {
    switch value {
    case .number(let number): String(number)
    case .text(let text): text.contains { $0 == " " || $0 == "," } ? "\"\(text)\"" : text
    }
  }

  /// As tcpdump and text2pcap write it: an offset, sixteen bytes a line.
  private static func dump(_ bytes: [UInt8]) -> String {
    stride(from: 0, to: bytes.count, by: 16).map { offset in
      let line = bytes[offset..<min(bytes.count, offset + 16)]
      return hexadecimal(UInt64(offset), 6) + "  " + line.map { hexadecimal(UInt64($0), 2) }.joined(separator: " ")
        + "\n"
    }.joined()
  }

  private static func hexadecimal(_ value: UInt64, _ digits: Int) -> String {
    let text = String(value, radix: 16)
    return String(repeating: "0", count: max(0, digits - text.count)) + text
  }

  static func json(_ trace: Trace, _ devices: [UInt32: String]) -> String {
    let steps = trace.steps.map { step in
      Value.object(
        [Value.Member(key: "stage", value: .text(step.stage))]
          + step.fields.map { field in
            switch field.value {
            case .number(let number): Value.Member(key: field.name, value: .number(number))
            case .text(let text): Value.Member(key: field.name, value: .text(text))
            }
          })
    }
    let frames = trace.frames.map { frame in
      Value.object([
        Value.Member(key: "interface", value: .number(frame.interface)),
        Value.Member(key: "device", value: devices[frame.interface].map(Value.text) ?? .nothing),
        Value.Member(key: "bytes", value: .number(frame.bytes.count)),
        Value.Member(
          key: "frame", value: .text(frame.bytes.map { hexadecimal(UInt64($0), 2) }.joined())),
      ])
    }
    func list(_ values: [Value]) -> String {
      values.isEmpty ? "[]" : "[\n    \(values.map(\.json).joined(separator: ",\n    "))\n  ]"
    }
    return "{\n  \"steps\": \(list(steps)),\n  \"frames\": \(list(frames))\n}\n"
  }
}
