import ArgumentParser
import CMeasure
import CReference
import Glibc

/// The programs that the wire benchmark runs in pods and nodes. Each result is a line of JSON on standard output.
struct Traffic: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "weft-traffic",
    abstract: "Makes and counts packets for tools/bench wire.",
    discussion: "Needs root. Results are lines of JSON on standard output; SIGTERM and SIGINT end it in order.",
    subcommands: [Send.self, Receive.self, Respond.self, Request.self, Loop.self])
}

struct TrafficFailure: Error, CustomStringConvertible {
  let description: String
}

func check(_ error: traffic_error, _ what: String) throws {
  guard let call = error.what else { return }
  throw TrafficFailure(
    description: "\(what): cannot \(String(cString: call)): \(String(cString: strerror(error.code)))")
}

/// Set by SIGTERM and SIGINT. C reads it while it runs.
nonisolated(unsafe) let stop: UnsafeMutablePointer<Int32> = {
  let pointer = UnsafeMutablePointer<Int32>.allocate(capacity: 1)
  pointer.pointee = 0
  return pointer
}()

func stopOnSignals() {
  _ = stop
  for number in [SIGTERM, SIGINT] { signal(number) { _ in stop.pointee = 1 } }
}

func say(_ line: String) {
  print(line)
  fflush(nil)
}

/// Keeps this thread on a core.
func pin(_ core: Int?) throws {
  guard let core else { return }
  guard measure_pin(Int32(clamping: core)) == 0 else {
    throw ValidationError("--core: this process may not run on core \(core).")
  }
}

struct Receive: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Counts UDP packets to a port until standard input ends.",
    discussion:
      "Prints {\"listening\": PORT} when it counts, and the counts at the end. A super-frame counts as its packets.")

  @Option(help: "Where they come in.") var interface: String
  @Option(help: "The UDP destination port; 4789 or 6635 counts a tunnel's packets.") var port: UInt16
  @Flag(help: "Take the port from the kernel too, so that it answers nothing.") var sink = false
  @Option(help: "Run on this core.") var core: Int?

  func run() throws {
    stopOnSignals()
    try pin(core)
    var made: OpaquePointer?
    try withUnsafeMutablePointer(to: &made) { try check(traffic_open(interface, port, sink ? 1 : 0, $0), interface) }
    guard let receiver = made else { return }
    defer { traffic_close(receiver) }
    var counts = traffic_counts()
    say("{\"listening\": \(port)}")
    var input = pollfd(fd: 0, events: Int16(POLLIN), revents: 0)
    while stop.pointee == 0 {
      traffic_count(receiver, 5, &counts)
      if poll(&input, 1, 0) > 0 { break }
    }
    // What the kernel still holds in a block that is not full.
    for _ in 0..<4 { traffic_count(receiver, 5, &counts) }
    let seconds = Double(counts.last - counts.first) / 1e9
    say(
      "{\"packets\": \(counts.packets), \"bytes\": \(counts.bytes), \"missed\": \(counts.missed), \"seconds\": \(seconds), "
        + "\"longest-gap\": \(Double(counts.longest_gap) / 1e9)}")
  }
}

struct Respond: ParsableCommand {
  static let configuration = CommandConfiguration(abstract: "Sends UDP datagrams back until SIGTERM.")
  @Option(help: "The UDP port.") var port: UInt16

  func run() throws {
    stopOnSignals()
    try check(traffic_respond(port, stop), "port \(port)")
  }
}

struct Request: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Round trips of UDP datagrams to a responder: average and percentiles in microseconds.")
  @Argument(help: "The responder's address.") var address: String
  @Option(help: "Its UDP port.") var port: UInt16
  @Option(help: "Bytes of payload.") var bytes: UInt32 = 64
  @Option(help: "How many.") var count: UInt32 = 1000
  @Option(help: "Microseconds from one to the next, at least.") var interval: UInt64 = 1000

  func run() throws {
    guard (1...10_000_000).contains(count) else { throw ValidationError("--count is 1 to 10000000, not \(count).") }
    var times = [UInt64](repeating: 0, count: Int(count))
    try times.withUnsafeMutableBufferPointer { buffer in
      guard let base = buffer.baseAddress else { return }
      try check(traffic_request(address, port, bytes, count, interval * 1000, base), address)
    }
    let answered = times.filter { $0 > 0 }.sorted()
    func at(_ share: Double) -> Double {
      answered.isEmpty ? 0 : Double(answered[min(answered.count - 1, Int(Double(answered.count) * share))]) / 1000
    }
    let average = answered.isEmpty ? 0 : Double(answered.reduce(0, +)) / Double(answered.count) / 1000
    say(
      "{\"sent\": \(count), \"answered\": \(answered.count), \"average\": \(average), \"p50\": \(at(0.5)), "
        + "\"p99\": \(at(0.99)), \"p99.9\": \(at(0.999)), \"max\": \(at(1))}")
  }
}
