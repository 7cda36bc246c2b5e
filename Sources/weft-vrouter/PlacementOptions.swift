import ArgumentParser
import WeftVRouter

/// Where workers run.
struct PlacementOptions: ParsableArguments {
  @Option(
    name: .long,
    help: ArgumentHelp(
      """
      Cores to pin a worker to each: numbers and ranges, such as 2,4-6; or auto:COUNT for the best so many, auto for a \
      quarter of the cores of the NIC's NUMA node, 1 to 8 (docs/numa.md; default: auto:1).
      """, valueName: "list"),
    transform: CoreChoice.parse)
  var cores = CoreChoice.automatic(1)

  @Option(
    name: .long,
    help: ArgumentHelp(
      "The fabric's NIC: auto takes cores near it (default: near the machine's NICs, where all are on one node).",
      valueName: "device"))
  var fabric: String?

  @Option(
    name: .long,
    help: ArgumentHelp(
      "For tests: read cores, nodes and NICs from below this folder instead of /.", valueName: "dir",
      visibility: .hidden))
  var topology = "/"

  /// Refuses what cannot be, before anything is done.
  func check() throws { _ = try choose() }

  func choose() throws -> Placement {
    let topology = MachineTopology(root: topology)
    if let fabric, !topology.hasDevice(fabric) {
      let known = topology.hardware
      throw ValidationError(
        "--fabric: there is no interface \(fabric); NICs of this machine: "
          + (known.isEmpty ? "none." : "\(known.joined(separator: ", "))."))
    }
    // A made machine has the cores that it says.
    let isMade = self.topology != "/"
    let allowed = isMade ? topology.cores.map(\.number) : ForwarderSettings.allowedCores
    switch cores {
    case .list(let numbers):
      if let wrong = numbers.first(where: { !allowed.contains($0) }) {
        throw ValidationError(
          "--cores: this process may not run on core \(wrong); it may on \(Placement.list(allowed)).")
      }
      return Placement(topology, cores: numbers)
    case .automatic(let count):
      let node = fabric.map { topology.node(ofDevice: $0) } ?? topology.hardwareNode
      do throws(Placement.Refusal) {
        let cores = try Placement.choose(topology, allowed: Set(allowed), near: node, count: count)
        return Placement(topology, cores: cores)
      } catch {
        throw ValidationError("--cores: \(error).")
      }
    }
  }
}

/// "0", "2,4-6": distinct numbers in the order given; "auto", "auto:3".
enum CoreChoice {
  case list([Int])
  /// nil: as many as seem good.
  case automatic(Int?)

  static func parse(_ argument: String) throws -> CoreChoice {
    if argument == "auto" { return .automatic(nil) }
    if argument.hasPrefix("auto:") {
      guard let count = Int(argument.dropFirst(5)), (1...4096).contains(count) else {
        throw ValidationError("auto: is followed by how many cores to take, 1 to 4096, such as auto:2.")
      }
      return .automatic(count)
    }
    var numbers: [Int] = []
    for part in argument.split(separator: ",", omittingEmptySubsequences: false) {
      let ends = part.split(separator: "-", omittingEmptySubsequences: false).map { Int($0) }
      guard let first = ends.first ?? nil, let last = ends.last ?? nil, ends.count <= 2 else {
        throw ValidationError("\"\(part)\" is neither a core nor a range; write such as 2,4-6, auto or auto:2.")
      }
      guard first >= 0, first <= last, last < 4096 else {
        throw ValidationError("\"\(part)\": cores are 0 to 4095, and a range goes upwards.")
      }
      numbers += first...last
    }
    if let twice = Dictionary(grouping: numbers, by: { $0 }).filter({ $0.value.count > 1 }).keys.min() {
      throw ValidationError("core \(twice) is there twice; each has one worker.")
    }
    return .list(numbers)
  }
}

extension CoreChoice: CustomStringConvertible {
  var description: String {
    switch self {
    case .list(let numbers): Placement.list(numbers)
    case .automatic(nil): "auto"
    case .automatic(let count?): "auto:\(count)"
    }
  }
}
