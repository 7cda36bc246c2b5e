import CReference
import WeftForwarding
import WeftRing
import WeftTables
import WeftVRouter
import WeftWire

// The one file that knows how Weft's packet path is made, programmed and driven.

/// The frames of a `FrameSet` as a port would hand them over.
final class WeftFrames {
  let set: FrameSet
  fileprivate let batches: UnsafeMutablePointer<RxFrames>

  init(_ set: FrameSet) {
    self.set = set
    batches = .allocate(capacity: set.copies * FrameSet.batches)
    for number in 0..<set.copies * FrameSet.batches {
      var frames = RxFrames()
      for index in 0..<FrameSet.batch {
        let frame = number * FrameSet.batch + index
        frames.append(
          RxFrame(
            bytes: Bytes(set.frame(frame / FrameSet.count, frame % FrameSet.count)), length: set.length,
            virtio: VirtioNetHeader(), headroom: FrameSet.headroom))
      }
      (batches + number).initialize(to: frames)
    }
  }

  deinit {
    for number in 0..<set.copies * FrameSet.batches { batches[number].deallocate() }
    batches.deallocate()
  }
}

/// Weft's packet path with its tables, programmed through the same commands as an agent's.
final class WeftSide {
  let tables: TableMemory
  let programmer: TableProgrammer
  private let dropCounters: UnsafeMutableRawPointer
  private let interfaceCounters: UnsafeMutableRawPointer
  private let ports = BenchmarkPorts()
  private var path: PacketPath
  /// A worker's end of the tables' reclamation.
  let epoch: WorkerEpoch

  /// `rules`: pods' flows are put to so many.
  init(
    flowEntries: Int, routes: Int = 4096, routeNodes: Int = Topology.nodes, translates: Bool = false, rules: Int = 0
  ) throws {
    tables = try TableMemory(
      sizes: TableSizes(
        interfaces: Topology.interfaces, vrfs: Topology.vrfs, nexthops: Topology.nexthops, routes: routes,
        routeNodes: routeNodes, bridge: 1024),
      workers: 1)
    var limits = TableLimits()
    limits.interfaces = UInt32(Topology.interfaces)
    limits.vrfs = UInt32(Topology.vrfs)
    limits.nexthops = UInt32(Topology.nexthops)
    limits.routes = UInt32(routes)
    limits.routeNodes = UInt32(routeNodes)
    limits.bridge = 1024
    programmer = TableProgrammer(memory: tables, limits: limits, ports: ports)
    let reasons = DropReason.allCases.count
    dropCounters = .allocate(byteCount: reasons * 8, alignment: 64)
    dropCounters.initializeMemory(as: UInt8.self, repeating: 0, count: reasons * 8)
    let bytes = Topology.interfaces * Counters.interfaceBytes
    interfaceCounters = .allocate(byteCount: bytes, alignment: 64)
    interfaceCounters.initializeMemory(as: UInt8.self, repeating: 0, count: bytes)
    path = PacketPath(
      tables: tables.reader, flows: try FlowTable(capacity: flowEntries, seed: Topology.seed),
      fragments: try FragmentTable(seed: Topology.seed), nat: try NATWorker(worker: 0, seed: Topology.seed),
      counters: Counters(
        drops: dropCounters, interfaces: interfaceCounters, interfaceCount: Topology.interfaces),
      interfaces: Topology.interfaces, seed: Topology.seed)
    epoch = tables.epochs.worker(0)
    var commands = Self.commands(flags: rules > 0 ? [.usual, .policy] : .usual)
    if translates { commands += Self.translations }
    if rules > 0 { commands += PolicyRules.commands(rules) }
    for command in commands {
      do throws(Refusal) { try programmer.apply(command) } catch {
        throw BenchmarkError("program Weft's tables: \(command) is refused: \(error)")
      }
    }
    programmer.commit()
  }

  deinit {
    dropCounters.deallocate()
    interfaceCounters.deallocate()
  }

  private static func commands(flags: InterfaceFlags) -> [Command] {
    var commands: [Command] = [
      .begin(generation: 1),
      .setInterface(
        InterfaceConfiguration(
          id: Topology.fabric, role: .fabric, port: .packet, device: "fabric",
          mac: MACAddress(bits: Topology.fabricMAC), mtu: Topology.fabricMTU,
          addresses: [IPAddress(v4: Topology.fabricAddress)])),
    ]
    for vrf: UInt32 in 1...2 {
      commands.append(.setVRF(VRFConfiguration(id: vrf, name: "vrf\(vrf)")))
      for pod in 0..<Topology.pods {
        let interface = Topology.podInterface(vrf, pod)
        let mac = MACAddress(bits: Topology.podMAC(vrf, pod))
        commands.append(
          .setInterface(
            InterfaceConfiguration(
              id: interface, role: .virtual, port: .packet, device: "pod\(interface)", mac: mac, vrf: vrf,
              mtu: Topology.podMTU, flags: flags, tags: flags.contains(.policy) ? [PolicyRules.tag] : [])))
        commands.append(
          .setNexthop(
            NexthopConfiguration(
              id: Topology.podNexthop(vrf, pod), action: .encap(interface: interface, destinationMAC: mac))))
        commands.append(route(vrf, Topology.podAddress(pod), Topology.podNexthop(vrf, pod), 0))
      }
      for peer in 0..<Topology.peers {
        commands.append(
          .setNexthop(
            NexthopConfiguration(
              id: Topology.peerNexthop(vrf, peer),
              action: .tunnel(
                TunnelConfiguration(
                  encapsulation: vrf == 1 ? .vxlan : .mplsOverUDP, interface: Topology.fabric,
                  source: IPAddress(v4: Topology.fabricAddress), destination: IPAddress(v4: Topology.peerAddress(peer)),
                  destinationMAC: MACAddress(bits: Topology.peerMAC(peer)))))))
      }
      for remote in 0..<Topology.remotes {
        commands.append(
          route(
            vrf, Topology.remoteAddress(remote), Topology.peerNexthop(vrf, remote % Topology.peers),
            Topology.label(vrf, remote)))
      }
      commands.append(
        .setNexthop(NexthopConfiguration(id: Topology.vrfNexthop(vrf), action: .vrfTranslate(vrf: vrf))))
    }
    commands.append(.setVNI(VNIConfiguration(vni: Topology.end(1), nexthop: Topology.vrfNexthop(1))))
    commands.append(.setLabel(LabelConfiguration(label: Topology.end(2), nexthop: Topology.vrfNexthop(2))))
    return commands
  }

  private static var translations: [Command] {
    (0..<Topology.remotes).map { remote in
      .setDestinationNAT(
        DestinationNATConfiguration(
          key: ServiceKey(
            vrf: 1, address: IPAddress(v4: Topology.serviceAddress(remote)), proto: IPProtocol.udp,
            port: Topology.servicePort),
          target: IPAddress(v4: Topology.remoteAddress(remote)), targetVRF: 1, targetPort: Topology.targetPort))
    }
  }

  private static func route(_ vrf: UInt32, _ address: UInt32, _ nexthop: UInt32, _ label: UInt32) -> Command {
    .setRoute(
      RouteConfiguration(vrf: vrf, prefix: IPPrefix(host: IPAddress(v4: address)), nexthop: nexthop, label: label))
  }

  /// All frames of a copy, in batches; what is sent is forgotten.
  func pass(_ frames: WeftFrames, copy: Int, now: UInt64) {
    let first = copy * FrameSet.batches
    let interface = frames.set.packetCase.interface
    for batch in 0..<FrameSet.batches {
      path.process(frames.batches[first + batch], interface: interface, now: now)
      path.tx.reset()
    }
  }

  /// One batch of copy 0.
  func batch(_ frames: WeftFrames, _ number: Int, now: UInt64) {
    path.process(frames.batches[number], interface: frames.set.packetCase.interface, now: now)
    path.tx.reset()
  }

  /// One batch of copy 0, and the frames that leave by each interface.
  func output(_ frames: WeftFrames, batch: Int, now: UInt64) -> [UInt32: [[UInt8]]] {
    path.process(frames.batches[batch], interface: frames.set.packetCase.interface, now: now)
    var result: [UInt32: [[UInt8]]] = [:]
    for index in 0..<path.tx.touchedCount {
      let interface = path.tx.touched(index)
      var number = path.tx.head(interface)
      while number != TxFrames.none {
        let frame = path.tx.frame(number)
        var bytes = [UInt8](repeating: 0, count: Int(frame.length))
        bytes.withUnsafeMutableBytes { if let base = $0.baseAddress { path.tx.copy(frame, to: base) } }
        result[interface, default: []].append(bytes)
        number = frame.next
      }
    }
    path.tx.reset()
    return result
  }

  /// Flow entries, two for each flow.
  var flowEntries: Int { path.flows.count }

  /// What was dropped, by reason.
  var drops: [String: UInt64] {
    var found: [String: UInt64] = [:]
    for reason in DropReason.allCases {
      let count = dropCounters.load(fromByteOffset: Int(reason.rawValue) * 8, as: UInt64.self)
      if count > 0 { found[reason.name] = count }
    }
    return found
  }
}

/// Ports that carry virtio-net headers, as AF_PACKET's do; nothing is opened.
private final class BenchmarkPorts: PortProvider {
  func open(_ interface: InterfaceConfiguration) throws(Refusal) -> PortCapabilities {
    PortCapabilities(takesVirtio: true, takesUDPSegmentation: true)
  }
  func start(_ id: UInt32) {}
  func close(_ id: UInt32) {}
  func state(_ id: UInt32) -> InterfaceState { InterfaceState(isUp: true, kernelIndex: 0) }
  func isStale(_ interface: InterfaceConfiguration) -> Bool { false }
}
