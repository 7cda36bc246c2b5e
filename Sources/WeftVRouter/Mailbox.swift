import Synchronization
import WeftForwarding
import WeftPorts
import WeftRing
import WeftSystem
import WeftTables

/// How a worker sends out of an interface.
enum Output: Sendable {
  /// `fast`: what sends frames of ordinary size.
  case packet(kernelIndex: UInt32, fast: FastSender?)
  case tap(descriptor: Int32)
  /// By a socket of the worker's own.
  case xdp(XDPSender)
  /// Into a guest's buffers, by queues that are the worker's.
  case vhost(VhostSender)
}

/// An AF_XDP socket that a worker sends by, which it holds for receiving too: nothing that would have to be retained.
struct XDPSender: @unchecked Sendable {
  let socket: UnsafeMutablePointer<XDPSocket>
}

/// The same for an AF_XDP socket that only sends.
struct FastSender: @unchecked Sendable {
  let transmitter: UnsafeMutablePointer<XDPTransmitter>
}

/// An AF_XDP socket that only sends, made and freed by the control thread, used by one worker in between.
final class FastQueue: @unchecked Sendable {
  let transmitter: UnsafeMutablePointer<XDPTransmitter>
  var sender: FastSender { FastSender(transmitter: transmitter) }

  init(_ transmitter: consuming XDPTransmitter) {
    self.transmitter = .allocate(capacity: 1)
    self.transmitter.initialize(to: transmitter)
  }

  deinit {
    transmitter.deinitialize(count: 1)
    transmitter.deallocate()
  }
}

/// An open source of frames, made by the control thread, used by one worker, freed by the control thread after the
/// worker has let go of it.
final class Queue<Source: Receiver & ~Copyable>: @unchecked Sendable {
  let source: UnsafeMutablePointer<Source>

  init(_ source: consuming Source) {
    self.source = .allocate(capacity: 1)
    self.source.initialize(to: source)
  }

  deinit {
    source.deinitialize(count: 1)
    source.deallocate()
  }
}

/// What the control thread asks of a worker, which looks between two batches.
enum Mail: Sendable {
  /// Sends to an interface go this way from now on.
  case output(interface: UInt32, Output)
  case receivePackets(Queue<PacketReceiver>)
  case receiveTap(Queue<TapPort>)
  case receiveXDP(Queue<XDPSocket>)
  case receiveVhost(Queue<VhostReceiver>)
  /// No frames from or to an interface any more.
  case detach(interface: UInt32)
  case readFlows(cursor: Int, limit: Int, FlowAnswer)
  case findFlow(FlowKey, FlowFound)
  case startCapture(CaptureTap)
  case stopCapture(id: UInt32)
  /// A frame of the agent's goes out of an interface.
  case transmit(interface: UInt32, frame: [UInt8], InjectBudget)
  case acknowledge(Acknowledgement)
}

/// How many frames of the agent's wait for workers.
final class InjectBudget: Sendable {
  static let maximum = 512
  private let waiting = Atomic<Int>(0)

  /// One more; false where there are too many.
  func take() -> Bool {
    guard waiting.wrappingAdd(1, ordering: .relaxed).newValue <= Self.maximum else {
      giveBack()
      return false
    }
    return true
  }
  func giveBack() { waiting.wrappingSubtract(1, ordering: .relaxed) }
}

/// Flows that a worker has read out of its table.
final class FlowAnswer: Sendable {
  let records = Mutex<(records: [FlowRecord], next: Int)>(([], 0))
}

/// A flow that a worker has looked up in its table.
final class FlowFound: Sendable {
  let flow = Mutex<FlowSnapshot?>(nil)

  /// Where several workers have it, the one counts that has the packets.
  func offer(_ new: FlowSnapshot) {
    flow.withLock { old in if (old?.asked.packets ?? 0) <= new.asked.packets { old = new } }
  }
}

/// Workers tell the control thread that they have reported something.
final class ReportSignal: Sendable {
  private let event: Descriptor
  var descriptor: Int32 { event.raw }

  init() throws(SystemError) { event = try .event() }
  func signal() { event.signal() }
  func drain() { event.drain() }
}

/// Mail for one worker.
final class Mailbox: Sendable {
  private let letters = Mutex<[Mail]>([])
  private let waiting = Atomic<Bool>(false)

  /// Cheap: a load.
  @inline(__always) var hasMail: Bool { waiting.load(ordering: .relaxed) }

  func put(_ mail: [Mail]) {
    letters.withLock { $0 += mail }
    waiting.store(true, ordering: .releasing)
  }

  func take() -> [Mail] {
    waiting.store(false, ordering: .sequentiallyConsistent)
    return letters.withLock {
      let taken = $0
      $0 = []
      return taken
    }
  }
}
