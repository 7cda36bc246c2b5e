import ArgumentParser
import CMeasure
import CReference
import Glibc

extension traffic_kind {
  static let names = ["ring": TRAFFIC_PACKET_RING, "xdp": TRAFFIC_XDP]
}

struct Send: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Sends UDP packets from a packet ring: as many as there can be, or at a rate.")

  @Option(help: "Where they go out.") var interface: String
  @Option(help: "The source MAC address.") var sourceMac: MAC
  @Option(help: "The destination MAC address.") var destinationMac: MAC
  @Option(help: "The source address, IPv4 or IPv6.") var source: Address
  @Option(help: "The destination address, of the same family.") var destination: Address
  @Option(help: "The UDP source port of the first flow; the others follow.") var sourcePort: UInt16 = 10000
  @Option(help: "The UDP destination port.") var port: UInt16
  @Option(help: "Bytes of a frame, without its check sequence.") var bytes: UInt32 = 64
  @Option(help: "How many flows, 1 to 1024.") var flows: UInt32 = 1
  @Option(help: "Packets a second; 0 for as many as there can be.") var rate: UInt64 = 0
  @Option(help: "How long.") var seconds = 1.0
  @Option(help: "How the kernel gets the frames: ring (AF_PACKET) or xdp (AF_XDP).") var kind = "ring"
  @Option(help: "Run on this core.") var core: Int?

  func validate() throws {
    guard traffic_kind.names[kind] != nil else { throw ValidationError("--kind is ring or xdp, not \(kind).") }
    guard source.isV6 == destination.isV6 else {
      throw ValidationError("--source and --destination are of different families.")
    }
    guard seconds > 0, seconds <= 3600 else { throw ValidationError("--seconds is above 0 and at most 3600.") }
    guard UInt32(sourcePort) + flows <= 65536 else { throw ValidationError("--source-port and --flows exceed 65535.") }
  }

  func run() throws {
    stopOnSignals()
    try pin(core)
    guard let kind = traffic_kind.names[kind] else { return }
    var sent = traffic_sent()
    try interface.withCString { name in
      var frames = traffic_frames(
        interface: name, bytes: bytes, flows: flows, source_mac: sourceMac.bytes, destination_mac: destinationMac.bytes,
        source: source.bytes, destination: destination.bytes, is_ipv6: source.isV6 ? 1 : 0, source_port: sourcePort,
        destination_port: port)
      try check(traffic_generate(&frames, kind, rate, UInt64(seconds * 1e9), stop, &sent), interface)
    }
    say("{\"packets\": \(sent.packets), \"seconds\": \(Double(sent.nanoseconds) / 1e9)}")
  }
}

/// Six bytes, "02:00:00:00:00:01".
struct MAC: ExpressibleByArgument {
  var bytes: (UInt8, UInt8, UInt8, UInt8, UInt8, UInt8) = (0, 0, 0, 0, 0, 0)

  init?(argument: String) {
    let parts = argument.split(separator: ":", omittingEmptySubsequences: false).compactMap { UInt8($0, radix: 16) }
    guard parts.count == 6, argument.utf8.count == 17 else { return nil }
    bytes = (parts[0], parts[1], parts[2], parts[3], parts[4], parts[5])
  }
}

/// An IPv4 address in the first four bytes, or an IPv6 one.
struct Address: ExpressibleByArgument {
  typealias Sixteen = (
    UInt8, UInt8, UInt8, UInt8, UInt8, UInt8, UInt8, UInt8, UInt8, UInt8, UInt8, UInt8, UInt8, UInt8, UInt8, UInt8
  )
  var bytes: Sixteen = (0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
  let isV6: Bool

  init?(argument: String) {
    isV6 = argument.contains(":")
    let family = isV6 ? AF_INET6 : AF_INET
    guard withUnsafeMutablePointer(to: &bytes, { inet_pton(family, argument, $0) }) == 1 else { return nil }
  }
}

struct Loop: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Copies frames between two interfaces and does nothing else, until SIGTERM.",
    discussion: "Prints {\"forwarding\": KIND} when it does.")

  @Argument(help: "One interface.") var first: String
  @Argument(help: "The other.") var second: String
  @Option(
    help:
      "messages (recvmmsg, sendmmsg), ring (TPACKET_V2, sendmmsg), xdp (AF_XDP, copy mode) or mixed (ring in, xdp out)."
  )
  var kind = "messages"
  @Option(help: "Run on this core.") var core: Int?

  static let kinds = ["messages": LOOP_MESSAGES, "ring": LOOP_RING, "xdp": LOOP_XDP, "mixed": LOOP_MIXED]

  func validate() throws {
    guard Self.kinds[kind] != nil else { throw ValidationError("--kind is messages, ring, xdp or mixed, not \(kind).") }
  }

  func run() throws {
    stopOnSignals()
    try pin(core)
    guard let chosen = Self.kinds[kind] else { return }
    let error = loop_run(first, second, chosen, stop) { say("{\"forwarding\": true}") }
    guard let call = error.what else { return }
    throw TrafficFailure(
      description: "\(first), \(second): cannot \(String(cString: call)): \(String(cString: strerror(error.code)))")
  }
}
