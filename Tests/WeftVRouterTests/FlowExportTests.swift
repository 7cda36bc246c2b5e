import Foundation
import Glibc
import Testing
import WeftRing
import WeftWire

/// The real program: what it tells of flows reaches the agent and `weft flow --follow`.
@Suite(
  "Telling of flows", .enabled(if: Sandbox.isRoot, "needs root for network namespaces"), .serialized)
struct FlowExportTests {
  private static let weft = Sandbox.program("weft")

  @Test("the agent is told, and who follows", arguments: [1, 2])
  func follows(_ workers: Int) throws {
    let sandbox = try Sandbox()
    let cores = min(workers, ProcessInfo.processInfo.activeProcessorCount)
    let agent = try sandbox.start("--cores", cores == 1 ? "0" : "0,1")
    let (tap, _) = try ForwarderTests.pods(sandbox, agent)
    let export = FlowExportConfiguration(selection: .all, updateSeconds: 0)
    #expect(try agent.apply([.setFlowExport(export)]).allSatisfy { if case .success = $0 { true } else { false } })
    #expect(try agent.dump(.flowExport) == [.flowExport(export)])
    let process = Process()
    process.executableURL = URL(filePath: Self.weft)
    process.arguments = ["flow", "--follow", "--json", "--socket", sandbox.socket, "--protocol", "icmp"]
    let (output, errors) = (Pipe(), Pipe())
    process.standardOutput = output
    process.standardError = errors
    try process.run()
    var said = ""
    while !said.contains("Ctrl-C ends it") {
      let more = errors.fileHandleForReading.availableData
      if more.isEmpty { break }
      said += String(decoding: more, as: UTF8.self)
    }
    #expect(said.contains("all flows, at most 1000 events a second"), "\(said)")
    let before = UInt64(Date().timeIntervalSince1970 * 1_000_000_000)
    let ping = try run("ip", "netns", "exec", tap, "ping", "-c", "2", "-i", "0.02", "-W", "2", "10.0.0.3")
    #expect(ping.output.contains("2 received"), "\(ping.output)")
    let line = try #require(
      JSONSerialization.jsonObject(with: firstLine(output)) as? [String: Any])
    #expect(line["event"] as? String == "started" && line["destination"] as? String == "10.0.0.3")
    #expect(line["protocol"] as? Int == 1 && line["action"] as? String == "allow")
    let seen = UInt64(line["first-seen"] as? Int ?? 0)
    #expect(seen > before - 1_000_000_000 && seen < before + 60_000_000_000, "\(seen), \(before)")
    var report: FlowReport?
    for _ in 0..<100 where report == nil {
      for case .flow(let flow) in try agent.nextEvents(timeoutMilliseconds: 100)
      where flow.proto == IPProtocol.icmp { report = report ?? flow }
    }
    #expect(report?.kind == .started && report?.forward.source == IPAddress("10.0.0.2"))
    kill(process.processIdentifier, SIGINT)
    process.waitUntilExit()
    #expect(process.terminationStatus == 0)
    #expect(sandbox.stop() == 0)
  }

  @Test("what makes no sense is refused; another generation's is swept away")
  func setting() throws {
    let sandbox = try Sandbox()
    let agent = try sandbox.start("--cores", "0")
    for (export, words) in [
      (FlowExportConfiguration(sample: 0), "one flow of 0"),
      (FlowExportConfiguration(rate: FlowExportConfiguration.maximumRate + 1), "1000001 events a second"),
      (FlowExportConfiguration(updateSeconds: 65_536), "every 65536 s"),
    ] {
      guard case .failure(let refusal)? = try agent.apply([.setFlowExport(export)]).first else {
        Issue.record("not refused: \(export)")
        continue
      }
      #expect(refusal.code == .outOfRange && refusal.reason.contains(words), "\(refusal)")
    }
    let export = FlowExportConfiguration(selection: .all, sample: 7, rate: 9, updateSeconds: 3)
    _ = try agent.apply([.begin(generation: 1), .setFlowExport(export), .begin(generation: 2), .sweep(generation: 2)])
    #expect(try agent.dump(.flowExport).isEmpty)
    var settings = FlowSettingsConfiguration(tcp: .strict)
    settings[.udp] = 0
    guard case .failure(let wrong)? = try agent.apply([.setFlowSettings(settings)]).first else {
      Issue.record("a timeout of 0 is not refused")
      return
    }
    #expect(wrong.code == .outOfRange && wrong.reason.contains("udp of 0 s"), "\(wrong)")
    settings[.udp] = 7
    _ = try agent.apply([.setFlowSettings(settings)])
    #expect(try agent.dump(.flowSettings) == [.flowSettings(settings)])
    let shown = try run(Self.weft, "settings", "--json", "--socket", sandbox.socket)
    #expect(shown.output.contains("\"strict\"") && shown.output.contains("timeout udp"), "\(shown.output)")
    _ = try agent.apply([.begin(generation: 3), .sweep(generation: 3)])
    #expect(try agent.dump(.flowSettings).isEmpty)
    let observer = try RingClient.connect(path: sandbox.socket, role: .observer)
    guard case .failure(let refusal)? = try observer.apply([.setFlowExport(export)]).first else {
      Issue.record("an observer may not set it")
      return
    }
    #expect(refusal.code == .readOnly)
    #expect(sandbox.stop() == 0)
  }

  private func firstLine(_ output: Pipe) -> Data {
    var line = Data()
    while !line.contains(10) {
      let more = output.fileHandleForReading.availableData
      if more.isEmpty { break }
      line += more
    }
    return line.prefix { $0 != 10 }
  }
}
