import ArgumentParser
import Glibc

/// The operator's tool: reads a running forwarder and prints what it finds. It changes nothing.
@main
struct Weft: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "weft",
    abstract: "Look into a running Weft forwarder.",
    discussion: """
      Each command reads one table from the forwarder's socket and prints it, for people by default, for programs with \
      --json (keys do not change between releases; a table is an array with one object a row).

      Exit status: 0 when the table was read (even if it is empty), 1 when that failed or what was asked for is not \
      there, 64 for wrong usage.

      Examples:
        weft status                             is this node well, and what to do if not
        weft doctor                             is the machine fit for it
        weft top                                ports and flows that move most
        weft worker                             workers: cores, NUMA nodes, ports, what they hand over
        weft vif                                interfaces, their links and counters
        weft route --vrf blue                   routes of one virtual network
        weft route get 10.1.2.3 --vrf blue      the route to an address
        weft bridge --learned                   MAC addresses that were learned from packets
        weft service                            services and how many backends they have
        weft flow --address 10.1.2.3            flows from or to an address
        weft policy                             rules, and how many flows each has decided on
        weft policer                            policers, and what each has let pass and dropped
        weft drops                              why packets went no further
        weft trace --interface 3 --udp 10.0.0.2:1234 10.0.0.3:53   what would become of a packet
        weft capture --drops                    packets that are dropped, with the reason
      """,
    subcommands: [
      StatusCommand.self, TopCommand.self, DoctorCommand.self, WorkersCommand.self, InterfacesCommand.self,
      VRFsCommand.self, NexthopsCommand.self,
      LabelsCommand.self,
      VNIsCommand.self, RoutesCommand.self, BridgeCommand.self, NeighborsCommand.self, NATCommand.self,
      ServicesCommand.self, FlowsCommand.self, SettingsCommand.self, PolicyCommand.self, PolicersCommand.self,
      QoSCommand.self,
      MirrorsCommand.self, DropsCommand.self, TraceCommand.self, CaptureCommand.self,
    ])

  static func main() {
    // A reader that stops early (`weft flow | head`) is no failure: writes then fail with EPIPE, see `Output`.
    _ = signal(SIGPIPE, SIG_IGN)
    do {
      var command = try parseAsRoot()
      try command.run()
    } catch let failure as Failure {
      Output.fail(failure.description)
    } catch {
      exit(withError: error)
    }
  }
}
