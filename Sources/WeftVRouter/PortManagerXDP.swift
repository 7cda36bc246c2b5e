import CLinux
import Glibc
import Logging
import Synchronization
import WeftNetlink
import WeftPorts
import WeftRing
import WeftSystem

// Ports of kind af_xdp: a program, and a socket for each of the interface's queues. A fabric interface's queues are dealt
// out to the workers, between which the NIC divides flows; another one's belong all to one worker. A worker sends by the
// first of its sockets; one that has none sends by AF_PACKET, as it does for any kernel interface.

/// What is open of such a port.
final class XDPPort: Sendable {
  private struct Parts: ~Copyable {
    var program: XDPProgram?
    var sockets: [(worker: Int, queue: Queue<XDPSocket>)]
    var promiscuity: Promiscuity?
  }

  private let parts: Mutex<Parts>
  let layout: XDPLayout
  /// Super-frames come in, of segments as large as the MTU that it was opened for.
  let cuts: Bool
  /// The interface's queues, all of which have a socket.
  let queues: Int
  /// The device keeps tags beside frames, where AF_XDP does not see them.
  let losesTags: Bool

  init(
    _ program: consuming XDPProgram, _ sockets: [(worker: Int, queue: Queue<XDPSocket>)], layout: XDPLayout,
    queues: Int, losesTags: Bool, cuts: Bool
  ) {
    parts = Mutex(Parts(program: consume program, sockets: sockets, promiscuity: nil))
    self.layout = layout
    self.queues = queues
    self.cuts = cuts
    self.losesTags = losesTags
  }

  var sockets: [(worker: Int, queue: Queue<XDPSocket>)] { parts.withLock { $0.sockets } }

  /// `isOpen`: frames to whatever MAC address come in.
  func select(_ selection: XDPSelection, isOpen: Bool, kernelIndex: UInt32) throws(SystemError) {
    try parts.withLock { parts throws(SystemError) in
      try parts.program?.select(selection)
      if !isOpen {
        parts.promiscuity = nil
      } else if parts.promiscuity == nil {
        parts.promiscuity = try Promiscuity(kernelIndex: kernelIndex)
      }
    }
  }

  /// The program goes first: what comes then is the kernel's.
  func letGo() {
    parts.withLock {
      $0.program = nil
      $0.sockets = []
      $0.promiscuity = nil
    }
  }
}

extension PortManager {
  /// Frames that a queue receives into, and that its worker sends from: of a fabric interface, of others.
  private static let fabricShare = XDPLayout.Share(receive: 2048, send: 1024)
  private static let podShare = XDPLayout.Share(receive: 512, send: 512)
  /// A super-frame with its Ethernet header: what a program in the stack is given on a veth.
  private static let superFrame = 65_536 + 14

  func makeXDP(_ interface: InterfaceConfiguration) throws(SystemError) -> Port {
    let device = interface.device
    let kernelIndex = KernelInterface.index(device)
    guard kernelIndex != 0 else {
      throw SystemError("open", "\(device) in the forwarder's network namespace", code: ENODEV)
    }
    // One that was there before has to have gone.
    let wasOpen = ending.wait(kernelIndex)
    let settings = interface.xdp
    let modes: [XDPMode]
    switch settings.mode {
    case .auto: modes = [.native, .skb]
    case .native: modes = [.native]
    case .skb: modes = [.skb]
    }
    var opened: XDPPort?
    var mode: XDPMode?
    for (number, candidate) in modes.enumerated() {
      do throws(SystemError) {
        opened = try openXDP(interface, kernelIndex, candidate, patience: wasOpen ? 1000 : 0)
        mode = candidate
        break
      } catch {
        // In the stack it would be no better where something else has the interface.
        guard number + 1 < modes.count, error.code != EBUSY, error.code != EEXIST else { throw error }
        logger.info(
          "\(device) takes no XDP program in its driver; it goes into the kernel's stack",
          metadata: ["reason": "\(error)"])
      }
    }
    guard let opened, let mode else { throw SystemError("open", device, code: EINVAL) }
    var port = Port(
      configuration: interface, kernelIndex: kernelIndex,
      capabilities: PortCapabilities(takesVirtio: false, takesUDPSegmentation: false), isUp: linkIsUp(device))
    port.xdp = opened
    // What the program does not redirect, or finds no socket for, the kernel must not answer either.
    if interface.role == .fabric {
      port.guardian = Guardian(try KernelGuard.fabric(device: device, kernelIndex: kernelIndex))
    }
    logger.info(
      "interface \(interface.id) is \(device)",
      metadata: [
        "role": "\(interface.role.name)", "port": "af_xdp", "mode": "\(mode.name)",
        "zero-copy": "\(opened.sockets.allSatisfy { $0.queue.source.pointee.isZeroCopy })",
        "queues": "\(opened.queues)", "workers": "\(opened.sockets.map(\.worker))",
      ])
    if interface.role == .fabric { warn(device, ofInterrupts: settings.busyPoll == 0) }
    return port
  }

  private func openXDP(
    _ interface: InterfaceConfiguration, _ kernelIndex: UInt32, _ mode: XDPMode, patience: Int
  ) throws(SystemError) -> XDPPort {
    let device = interface.device
    let isFabric = interface.role == .fabric
    let queues = Ethtool.receiveQueues(device)
    let isVeth = Ethtool.driver(device) == "veth"
    let single = leastLoaded()
    let owners =
      isFabric ? placement.owners(queues: queues, device: device) : Array(repeating: single, count: queues)
    // A worker sends by its first.
    let whole = isFabric ? Self.fabricShare : Self.podShare
    let shares = owners.enumerated().map { queue, worker in
      owners.firstIndex(of: worker) == queue ? whole : XDPLayout.Share(receive: whole.receive, send: 0)
    }
    let takesSuperFrames = isVeth && mode == .skb
    let layout = XDPLayout(
      mtu: Int(interface.mtu), largest: takesSuperFrames ? Self.superFrame : 0, shares: shares)
    let program = try XDPProgram(
      device: device, kernelIndex: kernelIndex, queues: queues, selection: selection(of: interface, vlans: []),
      takesFragments: layout.usesFragments, mode: mode)
    let memory = try XDPMemory(layout, device: device)
    var options = XDPSocketOptions()
    switch interface.xdp.copying {
    case .auto: options.copying = mode == .native ? .whereNeeded : .always
    case .copy: options.copying = .always
    case .zeroCopy: options.copying = .never
    }
    options.busyPoll = UInt32(interface.xdp.busyPoll)
    options.busyPollBudget = UInt32(interface.xdp.busyPollBudget)
    options.completes = isVeth || mode == .skb
    // Elsewhere nothing comes in that is larger than a packet, whatever MTU either end has later.
    options.mtu = takesSuperFrames ? Int(interface.mtu) : .max
    options.isFabric = isFabric
    options.patience = patience
    var sockets: [(worker: Int, queue: Queue<XDPSocket>)] = []
    var first: Int32?
    for queue in 0..<queues {
      let worker = owners[queue]
      nodeMemory.place(memory.region(queue), on: workers[worker].node)
      let socket = try XDPSocket(
        interface: interface.id, device: device, kernelIndex: kernelIndex, queue: queue, memory: memory, first: first,
        options: options)
      if first == nil { first = socket.descriptor }
      sockets.append((worker, Queue(socket)))
    }
    for (_, queue) in sockets {
      try program.connect(queue: queue.source.pointee.queue, socket: queue.source.pointee.descriptor)
    }
    // On the wire a tag is in its place; a veth's other end leaves it beside the frame.
    let losesTags = isVeth || !Ethtool.keepTags(device)
    return XDPPort(
      program, sockets, layout: layout, queues: queues, losesTags: losesTags, cuts: takesSuperFrames)
  }

  private func selection(of interface: InterfaceConfiguration, vlans: [UInt16]) -> XDPSelection {
    interface.role == .fabric ? .tunnels(addresses: interface.addresses, vlans: vlans) : .everything
  }

  /// Addresses of the fabric have changed, or the VLANs whose frames are the forwarder's.
  func selectXDP(_ port: Port) throws(SystemError) {
    guard let xdp = port.xdp, port.configuration.role == .fabric else { return }
    let device = port.configuration.device
    let vlans = Array(Set(port.vlans.values.map(\.outer))).sorted()
    guard vlans.count <= XDPSelection.maximumVLANs else {
      throw SystemError(
        "take frames of \(vlans.count) VLANs from", "\(device) (af_xdp takes \(XDPSelection.maximumVLANs))", code: E2BIG
      )
    }
    try xdp.select(
      selection(of: port.configuration, vlans: vlans), isOpen: port.vlans.count > port.fabricVLANs.count,
      kernelIndex: port.kernelIndex)
    let fabric = Set(port.fabricVLANs.compactMap { port.vlans[$0]?.outer }).sorted()
    port.guardian?.set(try KernelGuard.fabric(device: device, kernelIndex: port.kernelIndex, vlans: fabric))
  }

  /// Whether a port that is open does for a changed configuration.
  func fitsXDP(_ new: InterfaceConfiguration, _ old: Port) -> Bool {
    guard let xdp = old.xdp else { return false }
    let layout = XDPLayout(mtu: Int(new.mtu), largest: 0, shares: xdp.layout.shares)
    let isSame = new.mtu == old.configuration.mtu || !xdp.cuts && layout == xdp.layout
    return isSame && new.xdp == old.configuration.xdp
      && xdp.queues == Ethtool.receiveQueues(new.device)
  }

  /// Fabric interfaces that have another number of queues than when they were opened, so that some have no socket, are
  /// opened anew; so are ports of whatever kind with which that did not succeed before.
  func followQueues() {
    let changed = ports.values.filter { port in
      guard let xdp = port.xdp, port.configuration.role == .fabric,
        KernelInterface.index(port.configuration.device) == port.kernelIndex
      else { return false }
      return Ethtool.receiveQueues(port.configuration.device) != xdp.queues
    }
    for interface in changed.map(\.configuration) + lost.values.map(\.configuration) {
      do throws(Refusal) {
        _ = try open(interface)
        start(interface.id)
        complaints[interface.id] = nil
      } catch {
        // Once a reason, not once a second.
        guard complaints.updateValue(error.reason, forKey: interface.id) != error.reason else { continue }
        logger.error("\(interface.device) is not open: \(error.reason)")
      }
    }
  }
}
