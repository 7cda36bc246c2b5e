import ArgumentParser
import CMeasure
import Glibc

struct Bench: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "weft-bench",
    abstract: "Measures Weft's data plane in memory: no kernel, no root. tools/bench runs it and judges what it says.",
    discussion: "Each measured value is a line of JSON on standard output.",
    subcommands: [Measure.self, Count.self])
}

/// The parts that can be asked for.
enum Part: String, CaseIterable, ExpressibleByArgument {
  case pipeline, flows, lpm, policy, ring, memory
}

struct Measure: ParsableCommand {
  static let configuration = CommandConfiguration(abstract: "Times, allocations, memory.")

  @Flag(help: "Fewer rounds and no table of 8 M flows: under a minute.")
  var quick = false

  @Argument(help: "What to measure; everything where nothing is named.")
  var parts: [Part] = []

  func run() throws {
    pin(1)
    for part in parts.isEmpty ? Part.allCases : parts {
      switch part {
      case .pipeline:
        for packetCase in PacketCase.allCases { try Pipeline.measure(packetCase, rounds: quick ? 41 : 201) }
      case .flows: try Flows.measureAll(quick: quick)
      case .lpm: try Routes.measure(quick: quick)
      case .policy: try PolicyRules.measure(quick: quick)
      case .ring: try Ring.measure(quick: quick)
      case .memory: try Memory.measure(quick: quick)
      }
    }
  }
}

struct Count: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Runs what callgrind counts: marked passes of each case, by Weft and by the C reference.")

  func run() throws {
    for packetCase in PacketCase.allCases { try Pipeline.count(packetCase) }
    try Pipeline.countNewFlows()
  }
}
