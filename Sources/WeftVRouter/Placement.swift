/// Which cores workers take, and which worker gets what: pure choices over a topology, the same for the same machine.
public struct Placement: Sendable {
  public struct Worker: Hashable, Sendable {
    public let core: Int
    public let node: Int
  }

  public let topology: MachineTopology
  public let workers: [Worker]

  /// Workers on these cores.
  public init(_ topology: MachineTopology, cores: [Int]) {
    self.topology = topology
    workers = cores.map { Worker(core: $0, node: topology.node(ofCore: $0)) }
  }

  /// Nodes on which there are workers, in order.
  public var nodes: [Int] { Set(workers.map(\.node)).sorted() }

  // MARK: cores

  /// Why cores cannot be chosen.
  public struct Refusal: Error, CustomStringConvertible {
    public let description: String
  }

  /// Cores to run workers on, best first: isolated ones before others; of these a physical core's first thread, then threads
  /// that share a core with another worker or with core 0, then core 0, to which the kernel brings most of its own work;
  /// of these the node nearest to `node` (nil: to none in particular), then lower numbers. `allowed`: cores that the
  /// process may run on. `count` nil: a quarter of the physical cores of the nearest node, 1 to 8.
  public static func choose(
    _ topology: MachineTopology, allowed: Set<Int>, near node: Int?, count: Int?
  ) throws(Refusal) -> [Int] {
    let cores = topology.cores.filter { allowed.contains($0.number) }
    guard !cores.isEmpty else { throw Refusal(description: "there is no core that this process may run on") }
    func rank(_ core: MachineTopology.Core) -> Int {
      if core.number == 0 { return 2 }
      return core.siblings.contains(0) || core.siblings.contains { $0 < core.number && allowed.contains($0) } ? 1 : 0
    }
    // Without one in particular, all of one node all the same: tables and rings are nearer.
    let home = node ?? cores.map(\.node).min() ?? 0
    let ordered = cores.sorted { a, b in
      let one = (a.isIsolated ? 0 : 1, rank(a), topology.distance(home, a.node), a.node, a.number)
      let two = (b.isIsolated ? 0 : 1, rank(b), topology.distance(home, b.node), b.node, b.number)
      return one < two
    }
    if let count, count > ordered.count {
      throw Refusal(
        description: "there are only \(ordered.count) cores that this process may run on, not \(count): "
          + list(ordered.map(\.number).sorted()))
    }
    let nearest = ordered[0].node
    let physical = Set(cores.filter { $0.node == nearest }.map { $0.siblings[0] }).count
    return ordered.prefix(count ?? min(8, max(1, physical / 4))).map(\.number)
  }

  // MARK: queues and ports

  /// The worker of each of a NIC's `queues`, evenly: no worker has two more than another, and those of the NIC's node have
  /// the odd ones. A queue goes to a worker of the node that its interrupt comes to, or else of the NIC's, if one of those
  /// has room. `interruptNodes`: the node of each queue's interrupt, where it is known.
  public func owners(queues: Int, node: Int?, interruptNodes: [Int: Int] = [:]) -> [Int] {
    guard !workers.isEmpty else { return [] }
    let order = workers.indices.sorted { a, b in
      (workers[a].node == node ? 0 : 1, a) < (workers[b].node == node ? 0 : 1, b)
    }
    var room = Array(repeating: queues / workers.count, count: workers.count)
    for worker in order.prefix(queues % workers.count) { room[worker] += 1 }
    return (0..<queues).map { queue in
      let wanted = interruptNodes[queue] ?? node
      // Those that have most room left come first.
      let worker =
        order.filter { room[$0] > 0 }.min { a, b in
          let one = (wanted == nil || workers[a].node == wanted ? 0 : 1, -room[a])
          let two = (wanted == nil || workers[b].node == wanted ? 0 : 1, -room[b])
          return one < two
        } ?? order[0]
      room[worker] -= 1
      return worker
    }
  }

  /// The same for a NIC as the machine has it.
  public func owners(queues: Int, device: String) -> [Int] {
    var nodes: [Int: Int] = [:]
    for interrupt in topology.interrupts(ofDevice: device) {
      guard let queue = interrupt.queue else { continue }
      let found = Set(interrupt.cores.map { topology.node(ofCore: $0) })
      if found.count == 1 { nodes[queue] = found.first }
    }
    return owners(queues: queues, node: topology.node(ofDevice: device), interruptNodes: nodes)
  }

  /// The worker for the next port: of those with the fewest queues (`load`, one count for each worker) the first on the
  /// node whose workers have the fewest, so that ports spread over nodes.
  public func next(load: [Int]) -> Int {
    var queues: [Int: Int] = [:]
    var count: [Int: Int] = [:]
    for (index, worker) in workers.enumerated() {
      queues[worker.node, default: 0] += load[index]
      count[worker.node, default: 0] += 1
    }
    return workers.indices.min { a, b in
      let (one, two) = (workers[a].node, workers[b].node)
      guard load[a] == load[b] else { return load[a] < load[b] }
      return queues[one, default: 0] * count[two, default: 1] < queues[two, default: 0] * count[one, default: 1]
    } ?? 0
  }

  /// "0-3,8".
  public static func list(_ numbers: [Int]) -> String {
    var parts: [String] = []
    var index = 0
    while index < numbers.count {
      var last = index
      while last + 1 < numbers.count, numbers[last + 1] == numbers[last] + 1 { last += 1 }
      parts.append(last == index ? "\(numbers[index])" : "\(numbers[index])-\(numbers[last])")
      index = last + 1
    }
    return parts.joined(separator: ",")
  }
}
