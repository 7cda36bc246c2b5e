import Glibc
import WeftPorts
import WeftRing
import WeftSystem

// How the kernel divides the packets of a fabric interface of kind packet between workers.

extension PortManager {
  typealias PacketQueues = [(worker: Int, queue: Queue<PacketReceiver>)]

  /// A receiver for each worker, and whether flows come to their workers at once. Where the kernel does not take the program
  /// for that, it divides packets by its own hash, and workers hand over what is others'.
  func fabricReceivers(
    _ interface: InterfaceConfiguration, _ kernelIndex: UInt32
  ) throws(SystemError) -> (PacketQueues, Bool) {
    guard workers.count > 1 else { return (try fabricReceivers(interface, kernelIndex, isSteered: false), false) }
    do throws(SystemError) {
      let program = try FlowSteering(workers: workers.count, seed: ownerSeed).load()
      let queues = try fabricReceivers(interface, kernelIndex, isSteered: true)
      try PacketReceiver.steer(queues[0].queue.source.pointee.descriptor, by: program, device: interface.device)
      return (queues, true)
    } catch {
      logger.warning(
        "flows of \(interface.device) come to workers by the kernel's hash, and are handed over to those they belong to",
        metadata: ["reason": "\(error)"])
      return (try fabricReceivers(interface, kernelIndex, isSteered: false), false)
    }
  }

  private func fabricReceivers(
    _ interface: InterfaceConfiguration, _ kernelIndex: UInt32, isSteered: Bool
  ) throws(SystemError) -> PacketQueues {
    var queues: PacketQueues = []
    var group: Int32?
    for worker in workers.indices {
      let queue = try receiver(interface, node: workers[worker].node)
      try queue.source.pointee.bind(
        interface: interface.id, device: interface.device, kernelIndex: kernelIndex, selection: .tunnels)
      if workers.count > 1 {
        group = try queue.source.pointee.share(group: group, byProgram: isSteered, device: interface.device)
      }
      queues.append((worker, queue))
    }
    return queues
  }

  /// VLANs have come or gone in which there are tunnels.
  func steer(_ queues: PacketQueues, _ device: String, tunnelVLANs: [UInt16]) throws(SystemError) {
    guard let first = queues.first else { return }
    let program = try FlowSteering(workers: workers.count, seed: ownerSeed, tunnelVLANs: tunnelVLANs).load()
    try PacketReceiver.steer(first.queue.source.pointee.descriptor, by: program, device: device)
  }

  /// Says what of a fabric's NIC is placed badly.
  func warn(_ device: String, ofInterrupts: Bool = true) {
    for warning in placement.warnings(device: device, ofInterrupts: ofInterrupts) { logger.warning("\(warning)") }
  }
}
