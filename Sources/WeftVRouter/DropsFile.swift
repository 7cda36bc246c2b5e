import Glibc
import WeftForwarding
import WeftPorts
import WeftSystem

/// The packets that a replay drops, written as pcapng: what a capture of a running forwarder writes, without the other
/// program.
final class DropsFile {
  /// One a worker.
  let taps: [CaptureTap]
  private var consumer: CaptureConsumer
  private var writer: PcapngWriter
  private let descriptor: Descriptor

  /// More than a batch of the longest frames.
  private static let ringBytes = 32 << 20

  init(_ path: String, workers: Int, interfaces: Int) throws {
    let memory = try Mapping(
      anonymous: CaptureMemory.bytes(workers: workers, ring: Self.ringBytes), what: "dropped packets")
    CaptureMemory.format(memory, workers: workers, ring: Self.ringBytes)
    taps = (0..<workers).map {
      CaptureTap(
        id: 1, producer: CaptureProducer(memory, worker: $0, ring: Self.ringBytes),
        selection: CaptureSelection(interfaces: nil, arrivals: false, departures: false, drops: true),
        filter: PacketFilter(), interfaces: interfaces, offset: 0)
    }
    do throws(CaptureCorrupt) { consumer = try CaptureConsumer(memory) } catch {
      throw ReplayError("no memory for dropped packets")
    }
    let raw = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o666)
    guard raw >= 0 else { throw ReplayError("--capture-drops \(path): \(SystemError.text(errno))") }
    descriptor = Descriptor(owning: raw)
    writer = PcapngWriter(descriptor: raw, path: path, application: "weft-vrouter replay", snap: 262_144)
  }

  /// Writes what has been dropped so far.
  func take(_ devices: [UInt32: String]) throws {
    for tap in taps.indices { try take(worker: tap, devices) }
  }

  private func take(worker: Int, _ devices: [UInt32: String]) throws {
    var fault: PcapError?
    do throws(CaptureCorrupt) {
      while try consumer.take(
        worker: worker, limit: 4096,
        { record, frame in
          guard fault == nil, let reason = DropReason(rawValue: record.reason) else { return }
          do throws(PcapError) {
            try writer.write(
              frame, length: Int(record.length), interface: record.interface,
              name: { devices[$0] ?? "interface \($0)" }, time: record.time, direction: .inbound,
              comment: "\(reason.name): \(reason.explanation)")
          } catch { fault = error }
        }) > 0
      {}
    } catch { throw ReplayError("dropped packets cannot be read back") }
    if let fault { throw fault }
  }

  func finish() throws { try writer.finish(lost: consumer.lost) }
}
