import WeftRing
import WeftWire

/// Flows as the forwarder tells of them, until Ctrl-C.
struct FlowFollower {
  let ring: RingClient
  let json: Bool
  /// Which flows are shown.
  let shows: (FlowReport) -> Bool

  func run() throws(Failure) {
    Interruption.take()
    do throws(RingError) {
      let results = try ring.apply([.watchFlows])
      if case .failure(let refusal)? = results.first {
        throw RingError.rejected(path: ring.path, reason: refusal.reason)
      }
      var export = FlowExportConfiguration()
      if case .flowExport(let set)? = try ring.dump(.flowExport).first { export = set }
      Output.note(Self.explanation(export))
      while !Interruption.came {
        var text = ""
        for event in try ring.nextEvents(timeoutMilliseconds: 200) {
          switch event {
          case .flow(let report) where shows(report): text += json ? Self.json(report) + "\n" : Self.text(report) + "\n"
          case .flow(let report) where report.missed > 0: Output.note("\(report.missed) events were not told of")
          case .lost(let count): Output.note("\(count) events were lost")
          default: break
          }
        }
        guard !text.isEmpty else { continue }
        do throws(Failure) { try Output.write(text) } catch {
          Output.fail(error.description)
        }
      }
    } catch {
      throw Failure("\(error)")
    }
  }

  /// What the forwarder has been told to tell of.
  private static func explanation(_ export: FlowExportConfiguration) -> String {
    guard export.rate > 0 else { return "the forwarder tells of no flows: flow export has a rate of 0" }
    let which =
      export.selection == .logged
      ? "flows that a rule logs"
      : export.sample == 1 ? "all flows" : "one flow of \(export.sample), and those that a rule logs"
    return "\(which), at most \(export.rate) events a second; Ctrl-C ends it"
  }

  private static func end(_ address: IPAddress, _ port: UInt16, _ proto: UInt8) -> String {
    let hasPort = proto == IPProtocol.tcp || proto == IPProtocol.udp || proto == IPProtocol.sctp
    return !hasPort ? address.description : address.isV4 ? "\(address):\(port)" : "[\(address)]:\(port)"
  }

  private static func text(_ report: FlowReport) -> String {
    let (forward, reverse) = (report.forward, report.reverse)
    var line = "\(clock(report.kind == .started ? report.firstSeen : report.lastSeen)) \(report.kind.name)"
    if report.kind == .ended { line += " (\(report.endReason.name))" }
    line += " VRF \(forward.vrf) \(TransportProtocol(number: report.proto)) "
    line += "\(end(forward.source, forward.sourcePort, report.proto)) > "
    line += end(forward.destination, forward.destinationPort, report.proto)
    if reverse.source != forward.destination || reverse.sourcePort != forward.destinationPort {
      line += ", translated to \(end(reverse.source, reverse.sourcePort, report.proto))"
    }
    if reverse.destination != forward.source || reverse.destinationPort != forward.sourcePort {
      line += ", from \(end(reverse.destination, reverse.destinationPort, report.proto))"
    }
    if report.action != .allow || report.rule != nil { line += ", \(report.action.name)" }
    if let rule = report.rule { line += " by rule \(rule)" }
    if report.kind != .started {
      line += ", \(report.packets) packets \(report.bytes) bytes"
      line += ", back \(report.reversePackets) packets \(report.reverseBytes) bytes"
    }
    if report.missed > 0 { line += " (\(report.missed) events before it were not told of)" }
    return line
  }

  /// Time of day (UTC) to the millisecond.
  private static func clock(_ time: UInt64) -> String {
    func two(_ value: UInt64, _ width: Int = 2) -> String {
      let text = String(value)
      return String(repeating: "0", count: max(0, width - text.count)) + text
    }
    let seconds = time / 1_000_000_000 % 86400
    return "\(two(seconds / 3600)):\(two(seconds / 60 % 60)):\(two(seconds % 60)).\(two(time / 1_000_000 % 1000, 3))"
  }

  private static func json(_ report: FlowReport) -> String {
    func members(_ tuple: FlowTuple) -> [Value.Member] {
      [
        Value.Member(key: "vrf", value: .number(tuple.vrf)),
        Value.Member(key: "source", value: .text(tuple.source.description)),
        Value.Member(key: "destination", value: .text(tuple.destination.description)),
        Value.Member(key: "source-port", value: .number(tuple.sourcePort)),
        Value.Member(key: "destination-port", value: .number(tuple.destinationPort)),
      ]
    }
    return Value.object(
      [
        Value.Member(key: "event", value: .text(report.kind.name)),
        Value.Member(key: "reason", value: report.kind == .ended ? .text(report.endReason.name) : .nothing),
        Value.Member(key: "worker", value: .number(report.worker)),
        Value.Member(key: "protocol", value: .number(report.proto)),
      ] + members(report.forward) + [
        Value.Member(key: "answers", value: .object(members(report.reverse))),
        Value.Member(key: "packets", value: .number(report.packets)),
        Value.Member(key: "bytes", value: .number(report.bytes)),
        Value.Member(key: "reverse-packets", value: .number(report.reversePackets)),
        Value.Member(key: "reverse-bytes", value: .number(report.reverseBytes)),
        Value.Member(key: "first-seen", value: .number(report.firstSeen)),
        Value.Member(key: "last-seen", value: .number(report.lastSeen)),
        Value.Member(key: "action", value: .text(report.action.name)),
        Value.Member(key: "rule", value: report.rule.map { .number($0) } ?? .nothing),
        Value.Member(key: "logged", value: .flag(report.isLogged)),
        Value.Member(key: "missed", value: .number(report.missed)),
      ]
    ).json
  }
}
