import ArgumentParser
import Logging

/// The forwarder.
@main
struct WeftVRouterCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "weft-vrouter",
    abstract: "Weft's forwarder: virtual networks over VXLAN and MPLS-over-UDP, from user space.",
    discussion: """
      Examples:
        weft-vrouter run --cores 2,3
        weft-vrouter placement --cores auto:4 --fabric eth0
        weft-vrouter replay --tables tables.json --in pod=in.pcap --out results
      """,
    subcommands: [RunCommand.self, PlacementCommand.self, ReplayCommand.self])
}

/// An error of a command: its text is all there is to say.
struct CommandFailure: Error, CustomStringConvertible {
  let description: String
  init(_ description: String) { self.description = description }
}
