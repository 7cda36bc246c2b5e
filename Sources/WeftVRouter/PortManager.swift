import CLinux
import Glibc
import Logging
import Synchronization
import WeftPorts
import WeftRing
import WeftSystem

/// Opens the devices of interfaces and shares them out to the workers. A fabric interface has a queue for each worker,
/// between which the kernel divides flows; any other has one, which one worker owns. Used by the control thread.
final class PortManager: PortProvider {
  struct Port {
    var configuration: InterfaceConfiguration
    var kernelIndex: UInt32
    var capabilities: PortCapabilities
    var packetQueues: [(worker: Int, queue: Queue<PacketReceiver>)] = []
    var tap: TapDevice?
    /// The kernel brings packets to the worker that owns their flow.
    var isSteered = false
    var xdp: XDPPort?
    var vhost: VhostPort?
    /// What workers send frames of ordinary size by.
    var fast: FastPort?
    var guardian: Guardian?
    var isStarted = false
    var isUp: Bool
    /// Interfaces of VLANs whose frames these are.
    var vlans: [UInt32: VLANConfiguration] = [:]
    /// Of these, those towards the underlay.
    var fabricVLANs: Set<UInt32> = []
    /// Frames to whatever MAC address come in.
    var isOpen = false
  }

  let workers: [Worker]
  let placement: Placement
  let nodeMemory: NodeMemory
  let fastNews: FastNews
  let logger: Logger
  /// Seed of the choice of flows' owners (`FlowSteering`).
  let ownerSeed: UInt64
  let background: Background
  /// By NUMA node.
  private var spares: [Int: SpareReceivers] = [:]
  private(set) var ports: [UInt32: Port] = [:]
  private var byKernelIndex: [UInt32: UInt32] = [:]
  /// Interfaces of VLANs, and those whose ports they share.
  private var parents: [UInt32: UInt32] = [:]
  /// Queues of each worker, to give the next one to whom has fewest.
  private var load: [Int]
  private(set) var takesUDPSegmentation: Bool

  /// Ports of kinds af_xdp and tap that could not be opened anew, as they were.
  var lost: [UInt32: Port] = [:]
  /// By the kernel's index.
  var ending = PortEndings<UInt32>()
  var endingTaps = PortEndings<TapPlace>()
  let youth = Youth()
  /// Sockets of vhost-user, by which the control thread is woken.
  let vhostPoller: Descriptor
  /// Why those in `lost` could not be, as it has been said.
  var complaints: [UInt32: String] = [:]

  private static let fabricSlots = 4096
  private static let spareCount = 16

  init(
    workers: [Worker], placement: Placement, memory: NodeMemory, ownerSeed: UInt64, reported: ReportSignal,
    logger: Logger
  ) throws(SystemError) {
    self.workers = workers
    self.placement = placement
    self.ownerSeed = ownerSeed
    fastNews = FastNews(signal: reported)
    nodeMemory = memory
    self.logger = logger
    background = try Background(threads: 48)
    vhostPoller = try Descriptor(epoll_create1(Int32(EPOLL_CLOEXEC)), "make", "epoll descriptor")
    load = Array(repeating: 0, count: workers.count)
    takesUDPSegmentation = kernelRelease() >= (6, 2)
    for node in Set(workers.map(\.node)) {
      spares[node] = SpareReceivers(node: node, memory: memory, count: Self.spareCount, background: background)
    }
  }

  // MARK: PortProvider

  func open(_ interface: InterfaceConfiguration) throws(Refusal) -> PortCapabilities {
    if let vlan = interface.vlan { return try openVLAN(interface, vlan) }
    if let old = ports[interface.id] {
      let fits: Bool
      switch interface.port {
      case .xdp: fits = fitsXDP(interface, old)
      case .tap: fits = fitsTap(interface, old)
      case .vhostUser: fits = fitsVhost(interface, old)
      default: fits = PacketReceiver.fits(mtu: Int(interface.mtu), openFor: Int(old.configuration.mtu))
      }
      if !isStale(interface), fits {
        ports[interface.id]?.configuration = interface
        if interface.addresses != old.configuration.addresses, var port = ports[interface.id] {
          do throws(SystemError) { try selectXDP(port) } catch {
            port.configuration = old.configuration
            ports[interface.id] = port
            throw Refusal(.device, "\(error)")
          }
        }
        return old.capabilities
      }
      // A queue has one AF_XDP socket, an interface one program or one who has its queues, a path one who listens: the
      // old ones go first.
      let isFirst = old.xdp != nil || old.tap != nil || old.vhost != nil
      if isFirst {
        close(interface.id)
        keepLost(old)
      }
      // A queue that one is sent by cannot be opened a second time: it goes on with the new port.
      let isSame = !isFirst && XDPTransmitter.fits(mtu: Int(interface.mtu)) && !isStale(interface)
      var new = try make(interface, fast: isSame ? old.fast : nil)
      new.vlans = old.vlans
      new.fabricVLANs = old.fabricVLANs
      if isSame { ports[interface.id]?.fast = nil }
      if !isFirst { close(interface.id) }
      keep(new)
      do throws(SystemError) { try selectVLANs(interface.id) } catch {
        logger.error("frames with tags do not come in by \(interface.device): \(error)")
      }
      return new.capabilities
    }
    var new = try make(interface)
    let before = lost[interface.id]
    new.vlans = before?.vlans ?? [:]
    new.fabricVLANs = before?.fabricVLANs ?? []
    keep(new)
    if before != nil {
      do throws(SystemError) { try selectVLANs(interface.id) } catch {
        logger.error("frames with tags do not come in by \(interface.device): \(error)")
      }
    }
    return new.capabilities
  }

  /// Closed to be opened anew: what is needed for that.
  func keepLost(_ port: Port) {
    var port = port
    port.xdp = nil
    port.tap = nil
    port.vhost = nil
    port.guardian = nil
    port.isStarted = false
    lost[port.configuration.id] = port
  }

  private func keep(_ port: Port) {
    ports[port.configuration.id] = port
    lost[port.configuration.id] = nil
    // Another namespace counts for itself.
    if port.tap == nil, port.vhost == nil { byKernelIndex[port.kernelIndex] = port.configuration.id }
    count(port, 1)
  }

  /// Its queues, in or out of the workers' load.
  private func count(_ port: Port, _ change: Int) {
    for (worker, _) in port.packetQueues { load[worker] += change }
    for (worker, _) in port.tap?.queues ?? [] { load[worker] += change }
    for (worker, _) in port.xdp?.sockets ?? [] { load[worker] += change }
  }

  func setUp(_ id: UInt32, _ isUp: Bool) { ports[id]?.isUp = isUp }
  func setStarted(_ id: UInt32) { ports[id]?.isStarted = true }

  func setCapabilities(_ id: UInt32, _ capabilities: PortCapabilities) { ports[id]?.capabilities = capabilities }

  /// Workers let go of a port's queues, to be given others by `start`. Not nil where that takes too long: it tells when
  /// they have.
  func pause(_ id: UInt32) -> Acknowledgement? {
    guard let port = ports[id], port.isStarted else { return nil }
    ports[id]?.isStarted = false
    return settle(([id] + port.vlans.keys).map { .detach(interface: $0) })
  }

  /// `fast`: sockets that send out of this very interface already.
  private func make(_ interface: InterfaceConfiguration, fast: FastPort? = nil) throws(Refusal) -> Port {
    do throws(SystemError) {
      switch interface.port {
      case .packet: return try makePacket(interface, fast)
      case .tap: return try youth.tryWhileTaken { () throws(SystemError) in try makeTap(interface) }
      case .xdp: return try youth.tryWhileTaken { () throws(SystemError) in try makeXDP(interface) }
      case .vhostUser: return try youth.tryWhileTaken { () throws(SystemError) in try makeVhost(interface) }
      case .pcap, .vlan: break
      }
    } catch {
      throw Refusal(.device, "\(error)")
    }
    throw Refusal(.device, "interface \(interface.id): pcap ports are for replay; a running forwarder has none")
  }

  private func makePacket(_ interface: InterfaceConfiguration, _ fast: FastPort?) throws(SystemError) -> Port {
    let kernelIndex = KernelInterface.index(interface.device)
    guard kernelIndex != 0 else {
      throw SystemError("open", "\(interface.device) in the forwarder's network namespace", code: ENODEV)
    }
    let isFabric = interface.role == .fabric
    var port = Port(
      configuration: interface, kernelIndex: kernelIndex,
      capabilities: PortCapabilities(takesVirtio: true, takesUDPSegmentation: takesUDPSegmentation),
      isUp: linkIsUp(interface.device))
    if isFabric {
      (port.packetQueues, port.isSteered) = try fabricReceivers(interface, kernelIndex)
    } else {
      let worker = leastLoaded()
      let queue = try receiver(interface, node: workers[worker].node)
      try queue.source.pointee.bind(
        interface: interface.id, device: interface.device, kernelIndex: kernelIndex, selection: .everything)
      port.packetQueues = [(worker, queue)]
    }
    if isFabric {
      // From the first packet on: the kernel would answer it.
      port.guardian = Guardian(try KernelGuard.fabric(device: interface.device, kernelIndex: kernelIndex))
    } else {
      // The kernel drops frames to other MAC addresses than the interface's own anyway; nothing waits for this.
      let guardian = Guardian(nil)
      background.run { guardian.set(KernelGuard.virtual(kernelIndex: kernelIndex)) }
      port.guardian = guardian
    }
    port.fast = fast ?? openFast(interface, kernelIndex, worker: port.packetQueues[0].worker)
    logger.info(
      "interface \(interface.id) is \(interface.device)",
      metadata: [
        "role": "\(interface.role.name)", "workers": "\(port.packetQueues.map(\.worker))",
      ].merging(port.packetQueues.count > 1 ? ["flows": port.isSteered ? "to their workers" : "hashed"] : [:]) { $1 })
    if isFabric { warn(interface.device) }
    return port
  }

  func leastLoaded() -> Int { placement.next(load: load) }

  /// So many different ones.
  func leastLoaded(_ count: Int) -> ArraySlice<Int> { load.indices.sorted { load[$0] < load[$1] }.prefix(count) }

  /// A receiver for one worker's node: one that is ready where its size fits, else made now.
  func receiver(_ interface: InterfaceConfiguration, node: Int) throws(SystemError) -> Queue<PacketReceiver> {
    let isUsual = PacketReceiver.fits(mtu: Int(interface.mtu), openFor: SpareReceivers.mtu)
    if interface.role == .virtual, isUsual, let spare = spares[node]?.take() { return spare }
    let slots = interface.role == .fabric ? Self.fabricSlots : SpareReceivers.slots
    return try nodeMemory.on(node) { () throws(SystemError) in
      Queue(try PacketReceiver(mtu: Int(interface.mtu), slots: slots))
    }
  }

  func output(_ port: Port, _ worker: Int) -> Output {
    if let own = port.xdp?.sockets.first(where: { $0.worker == worker && $0.queue.source.pointee.sends }) {
      return .xdp(XDPSender(socket: own.queue.source))
    }
    if let vhost = port.vhost { return .vhost(vhost.sender(worker: worker)) }
    if let tap = port.tap { return .tap(descriptor: tap.output(worker: worker)) }
    return .packet(kernelIndex: port.kernelIndex, fast: port.fast?.sender(worker: worker))
  }

  func start(_ id: UInt32) {
    if let parent = parents[id], let port = ports[parent] {
      for (index, worker) in workers.enumerated() { worker.post([.output(interface: id, output(port, index))]) }
      return
    }
    guard let port = ports[id], !port.isStarted else { return }
    ports[id]?.isStarted = true
    for (index, worker) in workers.enumerated() {
      var mail: [Mail] = ([id] + port.vlans.keys).map { .output(interface: $0, output(port, index)) }
      mail += port.packetQueues.filter { $0.worker == index }.map { .receivePackets($0.queue) }
      for (worker, queue) in port.tap?.queues ?? [] where worker == index { mail.append(.receiveTap(queue)) }
      for (worker, queue) in port.xdp?.sockets ?? [] where worker == index { mail.append(.receiveXDP(queue)) }
      for (worker, queue) in port.vhost?.queues ?? [] where worker == index { mail.append(.receiveVhost(queue)) }
      worker.post(mail)
    }
  }

  func close(_ id: UInt32) {
    if let parent = parents.removeValue(forKey: id) { return closeVLAN(id, parent) }
    lost[id] = nil
    guard let port = ports.removeValue(forKey: id) else { return }
    if byKernelIndex[port.kernelIndex] == id { byKernelIndex[port.kernelIndex] = nil }
    count(port, -1)
    let late = port.isStarted ? settle(([id] + port.vlans.keys).map { .detach(interface: $0) }) : nil
    if let vhost = port.vhost {
      vhost.endListening()
      release(vhost, late)
    }
    // The kernel takes its time over a socket's end: not here.
    let leftovers = Leftovers(
      packets: port.packetQueues.map(\.queue), tap: port.tap, xdp: port.xdp, fast: port.fast,
      guardian: port.guardian)
    let ended = port.xdp == nil && port.tap == nil && port.fast == nil ? nil : Acknowledgement(workers: 1)
    if port.xdp != nil || port.fast != nil { ending.add(port.kernelIndex, ended) }
    if let tap = port.tap { endingTaps.add(tap.place, ended) }
    background.run {
      late?.wait()
      leftovers.letGo()
      ended?.give()
    }
  }

  func state(_ id: UInt32) -> InterfaceState {
    if let parent = parents[id] { return InterfaceState(isUp: ports[parent]?.isUp ?? false, kernelIndex: 0) }
    guard let port = ports[id] else { return InterfaceState(isUp: false, kernelIndex: 0) }
    return InterfaceState(isUp: port.tap?.isUp ?? port.isUp, kernelIndex: port.kernelIndex)
  }

  func isStale(_ interface: InterfaceConfiguration) -> Bool {
    if interface.vlan != nil { return parents[interface.id] == nil }
    guard let port = ports[interface.id] else { return true }
    if port.vhost != nil { return false }
    if let tap = port.tap { return !tap.isThere }
    return KernelInterface.index(interface.device) != port.kernelIndex
  }

  // MARK: VLANs

  /// Frames with these tags come in by the parent's port, and go out by it.
  private func openVLAN(
    _ interface: InterfaceConfiguration, _ vlan: VLANConfiguration
  ) throws(Refusal) -> PortCapabilities {
    guard let port = ports[vlan.parent] else {
      throw Refusal(.device, "interface \(interface.id): its parent \(vlan.parent) has no port")
    }
    guard port.xdp?.losesTags != true else {
      throw Refusal(
        .device,
        "interface \(interface.id): \(port.configuration.device) hands tags over beside frames, where AF_XDP does not "
          + "see them; give interface \(vlan.parent) the port kind packet")
    }
    let old = port.vlans[interface.id]
    ports[vlan.parent]?.vlans[interface.id] = vlan
    if interface.role == .fabric { ports[vlan.parent]?.fabricVLANs.insert(interface.id) }
    do throws(SystemError) { try selectVLANs(vlan.parent) } catch {
      ports[vlan.parent]?.vlans[interface.id] = old
      if old == nil { ports[vlan.parent]?.fabricVLANs.remove(interface.id) }
      throw Refusal(.device, "\(error)")
    }
    parents[interface.id] = vlan.parent
    return port.capabilities
  }

  private func closeVLAN(_ id: UInt32, _ parent: UInt32) {
    settle([.detach(interface: id)])
    ports[parent]?.vlans[id] = nil
    ports[parent]?.fabricVLANs.remove(id)
    lost[parent]?.vlans[id] = nil
    lost[parent]?.fabricVLANs.remove(id)
    do throws(SystemError) { try selectVLANs(parent) } catch {
      logger.error("frames of VLANs that are gone still come in: \(error)")
    }
  }

  /// A fabric interface takes frames of its VLANs, beside tunnels, and of no others: those are the host's.
  private func selectVLANs(_ id: UInt32) throws(SystemError) {
    guard let port = ports[id], port.configuration.role == .fabric else { return }
    try selectXDP(port)
    guard !port.packetQueues.isEmpty else { return }
    let kernels = port.vlans.values.filter { $0.proto != 0x9100 }.map(\.outer)
    let isOpen = port.vlans.count > port.fabricVLANs.count
    for (_, queue) in port.packetQueues {
      try PacketReceiver.select(
        queue.source.pointee.descriptor, vlans: Array(Set(kernels)).sorted(),
        takesOld: port.vlans.values.contains { $0.proto == 0x9100 }, isOpen: isOpen == port.isOpen ? nil : isOpen,
        kernelIndex: port.kernelIndex)
    }
    ports[id]?.isOpen = isOpen
    let fabric = Set(port.fabricVLANs.compactMap { port.vlans[$0]?.outer }).sorted()
    if port.isSteered { try steer(port.packetQueues, port.configuration.device, tunnelVLANs: fabric) }
    port.guardian?.set(
      try KernelGuard.fabric(device: port.configuration.device, kernelIndex: port.kernelIndex, vlans: fabric))
  }

  // MARK: for the control thread

  /// The worker that receives from an interface; of those of several queues the first.
  func owner(of id: UInt32) -> Int? {
    guard let port = ports[parents[id] ?? id] else { return nil }
    return port.packetQueues.first?.worker ?? port.tap?.queues.first?.worker ?? port.xdp?.sockets.first?.worker ?? 0
  }

  /// Once a second.
  func settleSpares() { for spare in spares.values { spare.settle() } }

  /// Puts mail to all workers and waits until all have read it. Not nil where that takes too long: it tells when they have.
  @discardableResult
  func settle(_ mail: [Mail]) -> Acknowledgement? {
    let acknowledgement = Acknowledgement(workers: workers.count)
    for worker in workers { worker.post(mail + [.acknowledge(acknowledgement)]) }
    if acknowledgement.wait(milliseconds: 5000) { return nil }
    logger.error("a worker has not read its mail for 5 s")
    return acknowledgement
  }

  /// An interface's link has changed; its number where that is news.
  func linkChanged(kernelIndex: UInt32, isUp: Bool) -> UInt32? {
    guard let id = byKernelIndex[kernelIndex], ports[id]?.isUp != isUp else { return nil }
    ports[id]?.isUp = isUp
    return id
  }

  /// The kernel takes no UDP super-frames after all: interfaces whose abilities changed by that.
  func withoutUDPSegmentation() -> [(id: UInt32, capabilities: PortCapabilities)] {
    takesUDPSegmentation = false
    var changed: [(UInt32, PortCapabilities)] = []
    for (id, port) in ports where port.capabilities.takesUDPSegmentation && port.configuration.port == .packet {
      ports[id]?.capabilities.takesUDPSegmentation = false
      changed.append((id, PortCapabilities(takesVirtio: true, takesUDPSegmentation: false)))
    }
    return changed
  }

  /// Everything is closed when this returns. The workers have stopped.
  func closeAll() {
    for id in ports.keys { ports[id]?.isStarted = false }
    for id in Array(ports.keys) { close(id) }
    for spare in spares.values { spare.closeAll() }
    background.finish()
    spares = [:]
  }
}

/// What is left of a port, to be closed.
private final class Leftovers: Sendable {
  private let packets: Mutex<[Queue<PacketReceiver>]>
  private let fast: FastPort?
  private let tap: TapDevice?
  private let xdp: XDPPort?
  private let guardian: Guardian?

  init(packets: [Queue<PacketReceiver>], tap: TapDevice?, xdp: XDPPort?, fast: FastPort?, guardian: Guardian?) {
    self.packets = Mutex(packets)
    self.fast = fast
    self.tap = tap
    self.xdp = xdp
    self.guardian = guardian
  }

  func letGo() {
    guardian?.letGo()
    xdp?.letGo()
    tap?.letGo()
    fast?.letGo()
    packets.withLock { $0 = [] }
  }
}

func linkIsUp(_ device: String) -> Bool { weft_link_running(device) != 0 }

private func kernelRelease() -> (Int, Int) {
  var name = utsname()
  guard uname(&name) == 0 else { return (0, 0) }
  let text = withUnsafeBytes(of: &name.release) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
  let parts = text.split { !$0.isNumber }.prefix(2).compactMap { Int($0) }
  return parts.count == 2 ? (parts[0], parts[1]) : (0, 0)
}
