import CLinux
import Glibc
import Logging
import Synchronization
import WeftNetlink
import WeftPorts
import WeftRing
import WeftSystem

// Ports of kind tap: queues of a TAP interface, each with a worker that receives from it. A worker sends by its own; one
// that has none sends by another's. The interface may be in another network namespace, a pod's: it was made there to
// stay, so that it outlives the forwarder, and is opened on a thread that has entered the namespace and ends then.

/// What is open of such a port.
final class TapDevice: Sendable {
  private let parts: Mutex<[(worker: Int, queue: Queue<TapPort>)]>
  let interface: TapInterface
  let place: TapPlace
  /// By which its namespace was found; empty: the forwarder's own.
  let path: String

  init(_ interface: TapInterface, _ queues: [(worker: Int, queue: Queue<TapPort>)], _ place: TapPlace, path: String) {
    self.interface = interface
    parts = Mutex(queues)
    self.place = place
    self.path = path
  }

  var queues: [(worker: Int, queue: Queue<TapPort>)] { parts.withLock { $0 } }

  /// The descriptor that a worker sends by.
  func output(worker: Int) -> Int32 {
    parts.withLock { queues in
      let own = queues.first { $0.worker == worker } ?? queues[worker % queues.count]
      return own.queue.source.pointee.descriptor
    }
  }

  /// The interface is there, and in the namespace that the path leads to. An open queue keeps a namespace alive whose
  /// pod has gone, so that this has to be looked after.
  var isThere: Bool { !isGone && isInPlace }

  private var isGone: Bool { parts.withLock { $0.allSatisfy { $0.queue.source.pointee.isGone } } }

  /// One that was moved out of its namespace is up as far as anybody here can see.
  var isUp: Bool { interface.isUp ?? !isGone }

  private var isInPlace: Bool {
    guard !path.isEmpty else { return true }
    var status = stat()
    return stat(path, &status) == 0 && UInt64(status.st_dev) == place.namespace.device
      && UInt64(status.st_ino) == place.namespace.inode
  }

  func letGo() { parts.withLock { $0 = [] } }
}

/// A kernel's interface, wherever it is.
struct TapPlace: Hashable, Sendable {
  var namespace: NetworkNamespace.Identity
  var index: UInt32
}

extension PortManager {
  func makeTap(_ configuration: InterfaceConfiguration) throws(SystemError) -> Port {
    let settings = configuration.tap
    let name = settings.namespace.isEmpty || settings.name.isEmpty ? configuration.device : settings.name
    let owners = tapWorkers(settings.queues)
    let count = owners.count
    let namespace: NetworkNamespace.Identity
    let opened: (interface: TapInterface, queues: [Int32])
    if settings.namespace.isEmpty {
      do throws(NetlinkError) { namespace = try NetworkNamespace.current().identity } catch { throw SystemError(error) }
      let there = try Self.tapPresence(name, in: namespace, endingTaps)
      opened = try TapInterface.open(name, queues: count, there: there)
    } else {
      (namespace, opened) = try openTap(name, queues: count, inNamespace: settings.namespace)
    }
    let queues = zip(owners, opened.queues).map { worker, queue in
      (worker: worker, queue: Queue(TapPort(interface: configuration.id, queue: queue)))
    }
    let interface = opened.interface
    if count > 1 { steer(opened.queues[0], queues: count, name) }
    let place = TapPlace(namespace: namespace, index: interface.index)
    var port = Port(
      configuration: configuration, kernelIndex: interface.index,
      capabilities: PortCapabilities(takesVirtio: true, takesUDPSegmentation: interface.takesUDPSegmentation),
      isUp: interface.isUp ?? false)
    port.tap = TapDevice(interface, queues, place, path: settings.namespace)
    logger.info(
      "interface \(configuration.id) is \(configuration.device)",
      metadata: [
        "role": "\(configuration.role.name)", "port": "tap", "workers": "\(owners)",
        "name": "\(name)", "netns": "\(settings.namespace.isEmpty ? "-" : settings.namespace)",
      ])
    return port
  }

  /// With a queue for each worker packets come to their flows' owners. With fewer they come by the queue that the flow's
  /// packets were last sent by, and are handed over from there where that is not the owner's.
  private func steer(_ queue: Int32, queues: Int, _ name: String) {
    let isComplete = queues == workers.count
    do throws(SystemError) {
      try TapInterface.steer(
        queue: queue, by: isComplete ? TapSteering.program(workers: queues, seed: ownerSeed) : nil)
    } catch {
      logger.info("the kernel chooses the queues of \(name) by itself: \(error)")
    }
  }

  /// Opens queues of an interface that is in another namespace.
  private func openTap(
    _ name: String, queues count: Int, inNamespace path: String
  ) throws(SystemError) -> (NetworkNamespace.Identity, (interface: TapInterface, queues: [Int32])) {
    do {
      let namespace = try NetworkNamespace(path: path)
      let identity = namespace.identity
      let ending = endingTaps
      let opened = try namespace.run {
        guard let there = try Self.tapPresence(name, in: identity, ending) else {
          throw SystemError(
            "open", "TAP interface \(name)", code: ENODEV,
            advice: "it has to be there already: who made the namespace makes it, persistent, with virtio-net headers")
        }
        return try TapInterface.open(name, queues: count, there: there)
      }
      return (identity, opened)
    } catch let error as SystemError {
      throw SystemError(
        error.operation, "\(error.object) in network namespace \(path)", code: error.code, advice: error.advice)
    } catch let error as NetlinkError {
      throw SystemError(error)
    } catch { throw SystemError("open", "\(name) in network namespace \(path)", code: EIO) }
  }

  /// What is there of a name in the calling thread's namespace, with no queue of it open: those that are being closed
  /// are waited for. Nil: nothing.
  private static func tapPresence(
    _ name: String, in namespace: NetworkNamespace.Identity, _ ending: PortEndings<TapPlace>
  ) throws(SystemError) -> TapInterface.Presence? {
    do throws(NetlinkError) {
      let netlink = try Netlink()
      guard var link = try netlink.link(named: name) else { return nil }
      if ending.wait(TapPlace(namespace: namespace, index: link.index)) {
        guard let now = try netlink.link(named: name) else { return nil }
        link = now
      }
      guard link.kind == "tun", link.tun?.isTAP != false else {
        throw NetlinkError(
          "open", name, code: EINVAL,
          kernelText: "it is a \(link.kind ?? "physical") interface and no TAP: remove it, or use another name")
      }
      // Two that share the queues of one would each get a part of its flows.
      if let queues = link.tun?.queues, queues > 0 {
        throw NetlinkError(
          "open", name, code: EBUSY,
          kernelText: "\(queues) of its queues are open already: end the process that has them")
      }
      return TapInterface.Presence(index: link.index, isMultiQueue: link.tun?.isMultiQueue ?? true)
    } catch { throw SystemError(error) }
  }

  /// Those that have fewest queues; 0: all.
  private func tapWorkers(_ queues: UInt16) -> [Int] {
    guard queues != 0, Int(queues) < workers.count else { return Array(workers.indices) }
    return Array(leastLoaded(Int(queues)).sorted())
  }

  /// Whether a port that is open does for a changed configuration.
  func fitsTap(_ new: InterfaceConfiguration, _ old: Port) -> Bool { new.tap == old.configuration.tap }

  /// Once a second. Closes what is no more, so that a namespace whose pod has gone goes too; it is opened anew when it
  /// comes back. Returns interfaces that came up or went down.
  func followTaps() -> [(id: UInt32, isUp: Bool)] {
    var changed: [(id: UInt32, isUp: Bool)] = []
    for (id, port) in ports {
      guard let tap = port.tap else { continue }
      guard tap.isThere else {
        logger.warning("\(port.configuration.device) is gone; it is opened again when it comes back")
        if port.isUp { changed.append((id, false)) }
        close(id)
        keepLost(port)
        continue
      }
      let isUp = tap.isUp
      if isUp != port.isUp {
        setUp(id, isUp)
        changed.append((id, isUp))
      }
    }
    return changed
  }
}

extension SystemError {
  fileprivate init(_ error: NetlinkError) {
    self.init(error.operation, error.object, code: error.code, advice: error.kernelText)
  }
}
