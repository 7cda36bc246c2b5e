import Logging
import Synchronization
import WeftPorts
import WeftRing
import WeftSystem

// Ports of kind packet send frames of ordinary size by AF_XDP where the interface has one queue and the kernel lets them. It is
// one worker's; the others send by AF_PACKET, as do all where there are several queues. The sockets are opened in the
// background: a port forwards without them at first, and nobody waits for those of a forwarder before this one.

/// What is open for sending of a port.
final class FastPort: Sendable {
  private enum State {
    case opening
    case open(FastQueue)
    case over
  }
  private let state = Mutex(State.opening)
  /// Whose queue it is.
  let worker: Int

  init(worker: Int) { self.worker = worker }

  /// False: the port has been closed.
  func use(_ queue: FastQueue) -> Bool {
    state.withLock {
      if case .over = $0 { return false }
      $0 = .open(queue)
      return true
    }
  }

  /// What a worker sends by; nil: by AF_PACKET.
  func sender(worker: Int) -> FastSender? {
    guard worker == self.worker else { return nil }
    return state.withLock { if case .open(let queue) = $0 { queue.sender } else { nil } }
  }

  var isOpen: Bool { state.withLock { if case .open = $0 { true } else { false } } }

  var isOver: Bool { state.withLock { if case .over = $0 { true } else { false } } }

  func letGo() { state.withLock { $0 = .over } }
}

/// Interfaces whose sockets have been opened, for the control thread, which is woken.
final class FastNews: Sendable {
  private let interfaces = Mutex<[UInt32]>([])
  private let signal: ReportSignal

  init(signal: ReportSignal) { self.signal = signal }

  func tell(_ interface: UInt32) {
    interfaces.withLock { $0.append(interface) }
    signal.signal()
  }

  func take() -> [UInt32] {
    interfaces.withLock { interfaces in
      defer { interfaces = [] }
      return interfaces
    }
  }
}

extension PortManager {
  /// Frames on their way: out of a NIC, which takes its time; into a pod, where they are at once.
  private static let fabricFrames = 1024
  private static let podFrames = 64
  /// Milliseconds that a queue may take to become free.
  private static let patience = 1000

  /// Nil where frames of ordinary size are too large.
  func openFast(_ interface: InterfaceConfiguration, _ kernelIndex: UInt32, worker: Int) -> FastPort? {
    guard XDPTransmitter.fits(mtu: Int(interface.mtu)) else { return nil }
    let port = FastPort(worker: worker)
    let frames = interface.role == .fabric ? Self.fabricFrames : Self.podFrames
    let (id, device) = (interface.id, interface.device)
    let node = workers[worker].node
    background.run { [nodeMemory, logger, fastNews] in
      // Of several queues the kernel chooses one for super-frames, and a flow's single frames could overtake them in another.
      guard Ethtool.transmitQueues(device) == 1, !port.isOver else { return }
      do throws(SystemError) {
        let opened = try nodeMemory.on(node) { () throws(SystemError) in
          FastQueue(
            try XDPTransmitter(
              device: device, kernelIndex: kernelIndex, queue: 0, frames: frames, patience: Self.patience))
        }
        guard port.use(opened) else { return }
      } catch {
        logger.info("worker \(worker) sends to \(device) by AF_PACKET alone", metadata: ["reason": "\(error)"])
      }
      fastNews.tell(id)
    }
    return port
  }

  /// Has workers send by what has been opened since.
  func useFast() {
    for id in fastNews.take() {
      guard let port = ports[id], let fast = port.fast else { continue }
      guard fast.isOpen else { continue }
      logger.info(
        "interface \(id) sends single frames by AF_XDP",
        metadata: ["device": "\(port.configuration.device)", "worker": "\(fast.worker)"])
      guard port.isStarted else { continue }
      workers[fast.worker].post(
        ([id] + port.vlans.keys).map { .output(interface: $0, output(port, fast.worker)) })
    }
  }
}
