import WeftRing
import WeftWire

extension Samples {
  static let flowExports = numbers.flatMap { number in
    FlowExportConfiguration.Selection.allCases.map {
      FlowExportConfiguration(selection: $0, sample: number, rate: ~number, updateSeconds: number ^ 0x5555)
    }
  }

  static let flowSettings = numbers.flatMap { number in
    FlowSettingsConfiguration.TCPStrictness.allCases.map { strictness in
      var settings = FlowSettingsConfiguration(tcp: strictness)
      for timeout in FlowSettingsConfiguration.Timeout.allCases {
        settings[timeout] = number &+ UInt32(timeout.rawValue)
      }
      return settings
    }
  }

  static let flowReports = addresses.flatMap { address in
    FlowReport.Kind.allCases.flatMap { kind in
      FlowReport.EndReason.allCases.map { reason in
        FlowReport(
          kind: kind, endReason: reason, worker: 3, proto: 17,
          forward: FlowTuple(vrf: 7, source: address, destination: addresses[0], sourcePort: 1, destinationPort: .max),
          reverse: FlowTuple(
            vrf: .max, source: addresses[0], destination: address, sourcePort: .max, destinationPort: 2),
          packets: .max, bytes: 1, reversePackets: 2, reverseBytes: .max - 1, firstSeen: 3, lastSeen: .max - 2,
          action: reason == .aged ? .deny : .allow, rule: reason == .none ? nil : .max, isLogged: kind == .ended,
          missed: .max)
      }
    }
  }

  static let flowExportCommands: [Command] =
    flowExports.map(Command.setFlowExport) + flowSettings.map(Command.setFlowSettings)
    + [.setFlowExport(nil), .watchFlows, .setFlowSettings(nil)]
}
