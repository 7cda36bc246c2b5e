import FoundationEssentials
import Testing
import WeftVRouter

/// A machine that is not there: the files that the kernel would show.
final class MadeMachine {
  let root: String

  /// `nodes`: the cores of each node. `threads`: cores that are one physical core, each; others are alone.
  init(nodes: [[Int]], threads: [[Int]] = [], isolated: String = "", distances: [[Int]]? = nil) throws {
    root = "/tmp/weft-machine-\(UInt64.random(in: 0 ... .max))"
    let cores = nodes.flatMap { $0 }.sorted()
    let system = "sys/devices/system"
    try write("\(system)/cpu/online", Placement.list(cores))
    try write("\(system)/cpu/isolated", isolated)
    for core in cores {
      let siblings = threads.first { $0.contains(core) } ?? [core]
      try write("\(system)/cpu/cpu\(core)/topology/thread_siblings_list", Placement.list(siblings))
    }
    try write("\(system)/node/online", nodes.isEmpty ? "" : Placement.list(Array(nodes.indices)))
    for (node, cores) in nodes.enumerated() {
      try write("\(system)/node/node\(node)/cpulist", Placement.list(cores))
      let row = distances?[node] ?? nodes.indices.map { $0 == node ? 10 : 21 }
      try write("\(system)/node/node\(node)/distance", row.map(String.init).joined(separator: " "))
    }
  }

  deinit { try? FileManager.default.removeItem(atPath: root) }

  var topology: MachineTopology { MachineTopology(root: root) }

  func write(_ path: String, _ text: String) throws {
    let path = "\(root)/\(path)"
    let folder = path.split(separator: "/").dropLast().joined(separator: "/")
    try FileManager.default.createDirectory(atPath: "/\(folder)", withIntermediateDirectories: true)
    try Data((text + "\n").utf8).write(to: URL(filePath: path))
  }

  /// A NIC with a queue and an interrupt for each of `interrupts`, which says the cores that it comes to.
  func addNIC(_ name: String, node: Int?, interrupts: [String], first: Int = 40) throws {
    if let node { try write("sys/class/net/\(name)/device/numa_node", "\(node)") }
    try write("sys/class/net/\(name)/device/vendor", "0x15b3")
    try write("sys/class/net/\(name)/queues/tx-0/xps_cpus", "0")
    for (queue, cores) in interrupts.enumerated() {
      try write("sys/class/net/\(name)/queues/rx-\(queue)/rps_cpus", "0")
      try write("sys/class/net/\(name)/device/msi_irqs/\(first + queue)", "msix")
      try write("proc/irq/\(first + queue)/\(name)-TxRx-\(queue)/x", "")
      try write("proc/irq/\(first + queue)/smp_affinity_list", "0-127")
      try write("proc/irq/\(first + queue)/effective_affinity_list", cores)
    }
    // One for events of the device.
    try write("sys/class/net/\(name)/device/msi_irqs/\(first + 100)", "msix")
    try write("proc/irq/\(first + 100)/\(name)/x", "")
    try write("proc/irq/\(first + 100)/smp_affinity_list", "0")
  }

  /// Two nodes of eight cores with two threads each, as the kernel numbers them: 0-7 and 16-23 on node 0, 8-15 and 24-31
  /// on node 1; core n and n + 16 are one. A NIC of four queues on each node.
  static func twoNodes() throws -> MadeMachine {
    let machine = try MadeMachine(
      nodes: [Array(0..<8) + Array(16..<24), Array(8..<16) + Array(24..<32)], threads: (0..<16).map { [$0, $0 + 16] })
    try machine.addNIC("eth0", node: 0, interrupts: ["1", "2", "3", "4"], first: 40)
    try machine.addNIC("eth1", node: 1, interrupts: ["9", "10", "3", "9-12"], first: 200)
    return machine
  }
}
