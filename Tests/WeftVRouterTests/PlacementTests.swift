import Testing
import WeftVRouter

@Suite("Placement on cores and nodes")
struct PlacementTests {
  private static func choose(
    _ machine: MadeMachine, near node: Int? = nil, count: Int? = nil, allowed: Set<Int>? = nil
  ) throws -> [Int] {
    let topology = machine.topology
    return try Placement.choose(
      topology, allowed: allowed ?? Set(topology.cores.map(\.number)), near: node, count: count)
  }

  @Test("Two nodes of eight cores with two threads each")
  func twoNodes() throws {
    let machine = try MadeMachine.twoNodes()
    let topology = machine.topology
    #expect(topology.nodes == [0, 1] && topology.cores.count == 32)
    #expect(topology.core(20)?.siblings == [4, 20] && topology.node(ofCore: 25) == 1)
    #expect(topology.distance(0, 1) == 21 && topology.distance(1, 1) == 10)
    #expect(topology.node(ofDevice: "eth0") == 0 && topology.node(ofDevice: "eth1") == 1)
    #expect(topology.hardware == ["eth0", "eth1"] && topology.hardwareNode == nil)
    // A quarter of the physical cores of the node; core 0 is left alone.
    #expect(try Self.choose(machine, near: 0) == [1, 2])
    #expect(try Self.choose(machine, near: 1) == [8, 9])
    // Physical cores of the node, those of the other one, threads of both, what shares with core 0, core 0.
    let all = try Self.choose(machine, near: 1, count: 32)
    #expect(Array(all[..<15]) == Array(8..<16) + Array(1..<8))
    #expect(Array(all[15..<31]) == Array(24..<32) + Array(16..<24) && all[31] == 0)
    #expect(try Self.choose(machine, near: 0, count: 8) == [1, 2, 3, 4, 5, 6, 7, 8])
  }

  @Test("Only cores that the process may run on, as a container has them")
  func allowed() throws {
    let machine = try MadeMachine.twoNodes()
    // Second threads whose first ones are not ours are as good as any.
    #expect(try Self.choose(machine, near: 0, count: 3, allowed: [0, 17, 18, 9]) == [17, 18, 9])
    let error = #expect(throws: Placement.Refusal.self) {
      _ = try Self.choose(machine, near: 0, count: 5, allowed: [1, 2, 3, 9])
    }
    #expect(error?.description == "there are only 4 cores that this process may run on, not 5: 1-3,9")
    #expect(throws: Placement.Refusal.self) { _ = try Self.choose(machine, allowed: []) }
  }

  @Test("Isolated cores come first")
  func isolated() throws {
    let machine = try MadeMachine(nodes: [Array(0..<8), Array(8..<16)], isolated: "6-7,14")
    #expect(try Self.choose(machine, near: 0, count: 5) == [6, 7, 14, 1, 2])
    #expect(try Self.choose(machine, near: 1, count: 3) == [14, 6, 7])
  }

  @Test("One node, and a machine that shows no nodes at all")
  func oneNode() throws {
    let machine = try MadeMachine(nodes: [[0, 1]])
    #expect(try Self.choose(machine) == [1])
    #expect(try Self.choose(machine, count: 2) == [1, 0])
    let single = try MadeMachine(nodes: [[0]])
    #expect(try Self.choose(single) == [0])
    let bare = try MadeMachine(nodes: [])
    try bare.write("sys/devices/system/cpu/online", "0-3")
    try? bare.write("sys/devices/system/node/online", "nonsense")
    #expect(bare.topology.nodes == [0] && bare.topology.cores.map(\.node) == [0, 0, 0, 0])
    #expect(MachineTopology(root: "/nowhere").cores.map(\.number) == [0])
    // The machine that this runs on.
    #expect(
      !MachineTopology().cores.isEmpty && MachineTopology().hasDevice("lo")
        && MachineTopology().node(ofDevice: "lo") == nil)
  }

  @Test("A node without cores takes no worker; the next one does")
  func nodeWithoutCores() throws {
    let machine = try MadeMachine(
      nodes: [[0, 1, 2, 3], [], [4, 5, 6, 7]], distances: [[10, 30, 40], [30, 10, 12], [40, 12, 10]])
    try machine.addNIC("eth0", node: 1, interrupts: ["5"])
    #expect(machine.topology.nodes == [0, 1, 2])
    #expect(try Self.choose(machine, near: 1, count: 3) == [4, 5, 6])
    let placement = Placement(machine.topology, cores: [4])
    let warnings = placement.warnings(device: "eth0")
    #expect(warnings.count == 1 && warnings[0].contains("that node has no cores"))
  }

  @Test("A NIC without a node: none in particular, and no warning")
  func noNode() throws {
    let machine = try MadeMachine(nodes: [[0, 1, 2, 3], [4, 5, 6, 7]])
    try machine.addNIC("eth0", node: nil, interrupts: ["0", "4"])
    try machine.addNIC("eth1", node: -1, interrupts: [], first: 300)
    let placement = Placement(machine.topology, cores: [1, 5])
    for device in ["eth0", "eth1", "tap0"] {
      #expect(machine.topology.node(ofDevice: device) == nil)
      #expect(placement.warnings(device: device) == [])
    }
    #expect(try Self.choose(machine, near: machine.topology.hardwareNode, count: 4) == [1, 2, 3, 4])
    // By interrupts alone.
    #expect(placement.owners(queues: 2, device: "eth0") == [0, 1])
  }

  @Test("A bond is where its NICs are, if they are at one place")
  func bond() throws {
    let machine = try MadeMachine.twoNodes()
    try machine.write("sys/class/net/bond0/lower_eth1/mtu", "1500")
    for name in ["bond0", "bond0.7"] { try machine.write("sys/class/net/\(name)/mtu", "1500") }
    try machine.write("sys/class/net/bond0.7/lower_bond0/mtu", "1500")
    #expect(machine.topology.node(ofDevice: "bond0") == 1 && machine.topology.node(ofDevice: "bond0.7") == 1)
    try machine.write("sys/class/net/bond0/lower_eth0/mtu", "1500")
    #expect(machine.topology.node(ofDevice: "bond0.7") == nil)
  }

  @Test("Queues are shared out evenly, near ones first")
  func queues() throws {
    let machine = try MadeMachine.twoNodes()
    let placement = Placement(machine.topology, cores: [1, 9, 2, 10])
    func counts(_ owners: [Int]) -> [Int] { (0..<4).map { worker in owners.count { $0 == worker } } }
    // Fewer queues than workers: the NIC's node has them.
    #expect(placement.owners(queues: 1, node: 1) == [1])
    #expect(placement.owners(queues: 2, node: 1) == [1, 3])
    #expect(placement.owners(queues: 3, node: 1) == [1, 3, 0])
    // More: no worker has two more than another.
    #expect(counts(placement.owners(queues: 6, node: 1)) == [1, 2, 1, 2])
    #expect(placement.owners(queues: 8, node: 0) == [0, 2, 0, 2, 1, 3, 1, 3])
    #expect(counts(placement.owners(queues: 7, node: nil)) == [2, 2, 2, 1])
    #expect(placement.owners(queues: 0, node: 0) == [])
    for queues in 0..<40 {
      for node in [nil, 0, 1, 5] as [Int?] {
        let counts = counts(placement.owners(queues: queues, node: node, interruptNodes: [3: 1, 4: 0, 9: 1]))
        #expect(counts.reduce(0, +) == queues && (counts.max() ?? 0) - (counts.min() ?? 0) <= 1)
      }
    }
    // A queue's worker is where its interrupt is.
    #expect(placement.owners(queues: 4, device: "eth0") == [0, 2, 1, 3])
    let mixed = placement.owners(queues: 4, device: "eth1")
    #expect(machine.topology.interrupts(ofDevice: "eth1").map(\.queue) == [0, 1, 2, 3, nil])
    #expect(mixed == [1, 3, 0, 2])
  }

  @Test("Names of interrupts, as drivers give them")
  func names() {
    for (name, queue) in [
      ("eth0-TxRx-3", 3), ("i40e-eth0-TxRx-12", 12), ("eth0-rx-7", 7), ("virtio1-input.2", 2),
      ("mlx5_comp5@pci:0000:3b:00.0", 5), ("ens5-Tx-Rx-0", 0), ("virtio1-output.2", nil), ("virtio1-config", nil),
      ("mlx5_async0@pci:0000:3b:00.0", nil), ("eth0", nil), ("eth0-tx-1", nil), ("", nil),
    ] as [(String, Int?)] {
      #expect(MachineTopology.queue(inName: name) == queue, "\(name)")
    }
  }

  @Test("Ports go to who has fewest, and spread over nodes")
  func ports() throws {
    let machine = try MadeMachine.twoNodes()
    // Three workers here, one there.
    let placement = Placement(machine.topology, cores: [1, 2, 3, 9])
    var load = [1, 1, 1, 1]
    var order: [Int] = []
    for _ in 0..<8 {
      let worker = placement.next(load: load)
      order.append(worker)
      load[worker] += 1
    }
    #expect(load == [3, 3, 3, 3])
    #expect(order[..<4].sorted() == [0, 1, 2, 3] && order[0] == 0 && order[1] == 3)
    let even = Placement(machine.topology, cores: [1, 2, 9, 10])
    #expect(even.next(load: [1, 0, 0, 0]) == 2)
    #expect(even.next(load: [1, 0, 1, 1]) == 1)
  }

  @Test("What costs speed is said by name")
  func warnings() throws {
    let machine = try MadeMachine.twoNodes()
    let placement = Placement(machine.topology, cores: [3, 9, 25])
    #expect(
      placement.warnings == [
        "workers 1 and 2 share a physical core: 9 and 25 are threads of one; choose one of 9,25"
      ])
    let near = placement.warnings(device: "eth1")
    #expect(
      near == [
        "eth1 is on NUMA node 1, but worker 0 on node 0 (core 3): packets cross between nodes; cores of node 1 are "
          + "8-15,24-31",
        "interrupt 200 (eth1-TxRx-0) comes to core 9, where worker 1 runs: they take time from each other; write another "
          + "core of node 1 into /proc/irq/200/smp_affinity_list",
        "interrupt 202 (eth1-TxRx-2) comes to core 3, where worker 0 runs: they take time from each other; write another "
          + "core of node 0 into /proc/irq/202/smp_affinity_list",
      ])
    #expect(placement.warnings(device: "eth1", ofInterrupts: false).count == 1)
    let far = placement.warnings(device: "eth0", ofInterrupts: false)
    #expect(far.count == 1 && far[0].contains("workers 1-2 on node 1 (cores 9,25)"))
    #expect(Placement(machine.topology, cores: [8, 12]).warnings == [])
  }

  @Test("128 cores on eight nodes")
  func large() throws {
    let machine = try MadeMachine(
      nodes: (0..<8).map { node in Array(node * 8..<node * 8 + 8) + Array(64 + node * 8..<64 + node * 8 + 8) },
      threads: (0..<64).map { [$0, $0 + 64] },
      distances: (0..<8).map { a in (0..<8).map { b in a == b ? 10 : a / 4 == b / 4 ? 12 : 32 } })
    try machine.addNIC("eth0", node: 5, interrupts: (0..<63).map { "\(40 + $0 % 8)" })
    #expect(try Self.choose(machine, near: 5) == [40, 41])
    let cores = try Self.choose(machine, near: 5, count: 128)
    #expect(Set(cores).count == 128 && cores.last == 0)
    #expect(Array(cores[..<8]) == Array(40..<48) && cores[8] == 32, "then the other nodes of its socket")
    #expect(Set(cores[..<32].map { machine.topology.node(ofCore: $0) }) == [4, 5, 6, 7])
    #expect(Set(cores[..<63]) == Set(1..<64))
    let placement = Placement(machine.topology, cores: Array(cores[..<32]))
    let owners = placement.owners(queues: 63, device: "eth0")
    #expect((0..<32).allSatisfy { worker in [1, 2].contains(owners.count { $0 == worker }) })
    #expect(owners[..<16].allSatisfy { placement.workers[$0].node == 5 })
    #expect(Placement.list([0, 1, 2, 4, 6, 7]) == "0-2,4,6-7" && Placement.list([]) == "")
  }
}
