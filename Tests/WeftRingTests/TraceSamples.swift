import WeftRing

extension Samples {
  static let traceCommands: [Command] =
    numbers.flatMap { number in
      [
        Command.trace(interface: number, length: ~number), .transmit(interface: number, length: ~number),
        .stage(offset: number, bytes: []),
        .stage(offset: number, bytes: Array(repeating: 0xA5, count: StagedBytes.partBytes)),
      ]
    }

  static let traceSteps = [
    TraceStep(""),
    TraceStep("route", [TraceStep.Field("nexthop", .number(.max)), TraceStep.Field("prefix", .text("10.0.0.0/8"))]),
    TraceStep(
      String(repeating: "s", count: 31),
      Array(repeating: TraceStep.Field("name", .number(0)), count: TraceStep.maximumFields)),
    TraceStep("text", [TraceStep.Field(String(repeating: "n", count: 31), .text(String(repeating: "t", count: 255)))]),
  ]
}
