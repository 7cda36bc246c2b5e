import Logging
import WeftPorts
import WeftRing
import WeftSystem

// Ports of kind packet send frames of ordinary size by AF_XDP where the kernel lets them: a queue of the interface for each
// worker, as far as there are any; the others send by AF_PACKET, as do all where it does not.

extension PortManager {
  /// Frames on their way: out of a NIC, which takes its time; into a pod, where they are at once.
  private static let fabricFrames = 1024
  private static let podFrames = 64

  /// `first`: the worker that gets the first queue.
  func openFast(
    _ interface: InterfaceConfiguration, _ kernelIndex: UInt32, first: Int
  ) -> [(worker: Int, queue: FastQueue)] {
    guard XDPTransmitter.fits(mtu: Int(interface.mtu)) else { return [] }
    let frames = interface.role == .fabric ? Self.fabricFrames : Self.podFrames
    var queues: [(worker: Int, queue: FastQueue)] = []
    for queue in 0..<min(workers.count, Ethtool.transmitQueues(interface.device)) {
      let worker = (first + queue) % workers.count
      do throws(SystemError) {
        let opened = try nodeMemory.on(workers[worker].node) { () throws(SystemError) in
          FastQueue(
            try XDPTransmitter(device: interface.device, kernelIndex: kernelIndex, queue: queue, frames: frames))
        }
        queues.append((worker, opened))
      } catch {
        logger.info(
          "worker \(worker) sends to \(interface.device) by AF_PACKET alone", metadata: ["reason": "\(error)"])
      }
    }
    return queues
  }
}
