import ArgumentParser
import WeftVRouter

/// Shows where workers would run.
struct PlacementCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "placement",
    abstract: "Show which cores workers would take, and which of the NIC's queues each would serve.",
    discussion: """
      Starts nothing and needs no root. Takes the same options as `run`, and says what is placed so that it costs speed. \
      Queues of the NIC are workers' own with AF_XDP; with AF_PACKET every worker receives from all of them.
      """)

  @OptionGroup var placement: PlacementOptions

  func run() throws {
    let chosen = try placement.choose()
    let topology = chosen.topology
    for node in topology.nodes {
      let cores = topology.cores.filter { $0.node == node }.map(\.number)
      let nics = topology.hardware.filter { topology.node(ofDevice: $0) == node }
      print(
        "node \(node): " + (cores.isEmpty ? "no cores" : "cores \(Placement.list(cores))")
          + (nics.isEmpty ? "" : ", \(nics.joined(separator: ", "))"))
    }
    var owners: [Int] = []
    var ports: [String] = []
    if let fabric = placement.fabric {
      owners = chosen.owners(queues: topology.queues(ofDevice: fabric), device: fabric)
      let node = topology.node(ofDevice: fabric).map { "node \($0)" } ?? "of no node"
      ports = ["fabric \(fabric): \(node), \(owners.count) queue\(owners.count == 1 ? "" : "s")"]
    }
    for line in ports { print(line) }
    for (index, worker) in chosen.workers.enumerated() {
      let queues = owners.indices.filter { owners[$0] == index }
      print(
        "worker \(index): core \(worker.core), node \(worker.node)"
          + (owners.isEmpty ? "" : queues.isEmpty ? ", no queue" : ", queues \(Placement.list(queues))"))
    }
    let warnings = chosen.warnings + (placement.fabric.map { chosen.warnings(device: $0) } ?? [])
    for warning in warnings { print("warning: \(warning)") }
  }
}
