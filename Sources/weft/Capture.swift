import ArgumentParser
import Glibc
import Synchronization
import WeftPorts
import WeftRing
import WeftSystem
import WeftWire

struct CaptureCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "capture", abstract: "Show or write frames as they come in and go out, or packets that are dropped.",
    discussion: """
      Without --write, a line a frame; with it, pcapng as Wireshark and tcpdump read it, with the interfaces' names, the \
      direction of each frame, and of a dropped packet the reason as its comment. Frames are as the forwarder has them: \
      super-frames whole, checksums perhaps left to the NIC. On a fabric interface they have their outer headers; a \
      packet that is dropped after its tunnel's headers were taken off is captured without them.

      The filter (as tcpdump's, see pcap-filter(7)) runs in the forwarder. What the tool is too slow to take is counted \
      as lost, and does not slow the forwarder. Ends with Ctrl-C, after --count frames or --seconds.

      Examples:
        weft capture --interface pod-eth0 --filter 'udp port 53'
        weft capture --drops --reason policy_denied --reason no_route
        weft capture --interface 0 --interface 3 --write both.pcapng --seconds 10
        weft capture --drops --write - | tshark -r -
      """)

  enum Direction: String, CaseIterable, ExpressibleByArgument {
    case `in`, out, both
  }

  @Option(
    name: .long, help: ArgumentHelp("Only this interface, by number or device; repeatable.", valueName: "interface"))
  var interface: [String] = []

  @Option(name: .long, help: "Frames that come in, go out, or both (default: both, with --drops none).")
  var direction: Direction?

  @Flag(name: .long, help: "Packets that go no further.")
  var drops = false

  @Option(
    name: .long,
    help: ArgumentHelp("Only drops for this reason, as `weft drops` names it; repeatable.", valueName: "reason"))
  var reason: [String] = []

  @Option(name: .long, help: ArgumentHelp("Only frames that this expression matches.", valueName: "expression"))
  var filter: String?

  @Option(name: .long, help: ArgumentHelp("Keep so many bytes of each frame.", valueName: "bytes"))
  var snap = CaptureConfiguration.maximumSnap

  @Option(name: .long, help: ArgumentHelp("End after so many frames.", valueName: "frames"))
  var count: Int?

  @Option(name: .long, help: ArgumentHelp("End after so many seconds.", valueName: "seconds"))
  var seconds: Double?

  @Option(name: .long, help: ArgumentHelp("Write pcapng; - for standard output.", valueName: "file"))
  var write: String?

  @OptionGroup var options: ForwarderOptions

  func validate() throws {
    guard (1...CaptureConfiguration.maximumSnap).contains(snap) else {
      throw ValidationError("--snap is 1 to \(CaptureConfiguration.maximumSnap), not \(snap).")
    }
    if let count, count < 1 { throw ValidationError("--count is at least 1, not \(count).") }
    if let seconds, !(seconds > 0) { throw ValidationError("--seconds is above 0, not \(seconds).") }
    guard reason.isEmpty || drops else { throw ValidationError("--reason goes with --drops.") }
    guard write == nil || !options.json else { throw ValidationError("--json and --write exclude each other.") }
    guard interface.count <= CaptureConfiguration.maximumInterfaces else {
      throw ValidationError("--interface at most \(CaptureConfiguration.maximumInterfaces) times; without it, all.")
    }
  }

  func run() throws {
    let program: [UInt8]
    do { program = try filter.map { try Self.bytes(FilterCompiler.compile($0, snap: Int(snap))) } ?? [] } catch {
      throw Failure("--filter \(error)")
    }
    let forwarder = try options.connect()
    let interfaces = try forwarder.interfaces().map(\.configuration)
    let reasons = forwarder.ring.statistics.drops()
    var names = Dictionary(interfaces.map { ($0.id, $0.device) }) { first, _ in first }
    let capture = try configuration(interfaces, reasons)
    // From here on Ctrl-C ends the capture, not the program.
    Interruption.take()
    let start: CaptureStart
    do throws(RingError) {
      switch try forwarder.ring.startCapture(capture, filter: program) {
      case .success(let started): start = started
      case .failure(let refusal): throw RingError.rejected(path: options.socket, reason: refusal.reason)
      }
    } catch { throw Failure("cannot capture: \(error)") }
    var reader: CaptureReader
    do throws(RingError) { reader = try start.reader() } catch { throw Failure("cannot capture: \(error)") }
    Output.note("capturing; Ctrl-C ends it")
    var sink = try CaptureSink(write: write, json: options.json, snap: snap)
    let deadline = seconds.map { monotonic() + UInt64($0 * 1_000_000_000) } ?? .max
    var taken = 0
    var failure: Failure?
    while failure == nil {
      let isLast = Interruption.came || monotonic() >= deadline
      var found = 0
      for worker in 0..<reader.frames.workers where failure == nil && taken < count ?? .max {
        do throws(CaptureCorrupt) {
          found += try reader.frames.take(worker: worker, limit: min(256, (count ?? .max) - taken)) { record, frame in
            guard failure == nil else { return }
            taken += 1
            if names[record.interface] == nil {
              names[record.interface] = Self.name(of: record.interface, forwarder)
            }
            do throws(Failure) {
              try sink.add(record, frame, name: names[record.interface] ?? "\(record.interface)", reasons)
            } catch { failure = error }
          }
        } catch { failure = Failure("the forwarder's capture holds no sense; are both of one version?") }
      }
      if taken >= count ?? .max || isLast && found == 0 { break }
      if found == 0 {
        if failure == nil { do throws(Failure) { try sink.flush() } catch { failure = error } }
        guard forwarder.ring.isConnected else {
          failure = failure ?? Failure("the forwarder went away")
          break
        }
        usleep(10_000)
      }
    }
    try? forwarder.ring.stopCapture(start.id)
    let lost = reader.frames.lost
    do throws(Failure) { try sink.finish(lost: lost) } catch { failure = failure ?? error }
    if write != nil || lost > 0 { Output.note("\(taken) frames captured, \(lost) lost") }
    if let failure { throw failure }
  }

  private func configuration(
    _ interfaces: [InterfaceConfiguration], _ reasons: [StatisticsReader.Drop]
  ) throws(Failure) -> CaptureConfiguration {
    var capture = CaptureConfiguration(drops: drops, snap: snap)
    let direction = direction
    capture.arrivals = direction == .in || direction == .both || direction == nil && !drops
    capture.departures = direction == .out || direction == .both || direction == nil && !drops
    for text in interface {
      guard
        let found = interfaces.first(where: { String($0.id) == text }) ?? interfaces.first(where: { $0.device == text })
      else { throw Failure("no interface \"\(text)\"; `weft vif` lists those there are") }
      capture.interfaces.append(found.id)
    }
    guard !reason.isEmpty else { return capture }
    capture.reasonsLow = 0
    capture.reasonsHigh = 0
    for name in reason {
      guard let number = reasons.firstIndex(where: { $0.name == name }) else {
        throw Failure("no drop reason \"\(name)\"; `weft drops --all` lists them")
      }
      if number < 64 {
        capture.reasonsLow |= 1 << UInt64(number)
      } else {
        capture.reasonsHigh |= 1 << UInt64(number - 64)
      }
    }
    return capture
  }

  private static func bytes(_ program: [FilterCompiler.Instruction]) -> [UInt8] {
    var bytes: [UInt8] = []
    for instruction in program {
      bytes += [UInt8(truncatingIfNeeded: instruction.code), UInt8(instruction.code >> 8)]
      bytes += [instruction.jumpTrue, instruction.jumpFalse]
      for byte in 0..<4 { bytes.append(UInt8(truncatingIfNeeded: instruction.k >> UInt32(8 * byte))) }
    }
    return bytes
  }

  /// Of an interface that has come since.
  private static func name(of id: UInt32, _ forwarder: Forwarder) -> String? {
    (try? forwarder.interfaces())?.first { $0.configuration.id == id }?.configuration.device
  }
}

/// CLOCK_MONOTONIC, ns.
private func monotonic() -> UInt64 {
  var now = timespec()
  clock_gettime(CLOCK_MONOTONIC, &now)
  return UInt64(now.tv_sec) * 1_000_000_000 + UInt64(now.tv_nsec)
}

/// Ctrl-C, or being told to end.
enum Interruption {
  static var came: Bool { interrupted.load(ordering: .relaxed) }

  static func take() {
    // Made before a signal can ask for it.
    interrupted.store(false, ordering: .relaxed)
    // Who started the program may have had them blocked.
    var set = sigset_t()
    sigemptyset(&set)
    for number in [SIGINT, SIGTERM, SIGHUP] { sigaddset(&set, number) }
    pthread_sigmask(SIG_UNBLOCK, &set, nil)
    for number in [SIGINT, SIGTERM, SIGHUP] {
      _ = signal(number) { _ in interrupted.store(true, ordering: .relaxed) }
    }
  }
}

private let interrupted = Atomic<Bool>(false)
