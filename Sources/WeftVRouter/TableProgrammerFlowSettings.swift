import WeftRing
import WeftTables

// How workers keep flows: one setting for the forwarder.

extension TableProgrammer {
  /// nil: what holds as long as nothing is set.
  func set(_ new: FlowSettingsConfiguration?) throws(Refusal) {
    if let new { try check(new) }
    flowSettings = new.map { ($0, generation) }
    publishFlowSettings()
  }

  private func check(_ new: FlowSettingsConfiguration) throws(Refusal) {
    for timeout in FlowSettingsConfiguration.Timeout.allCases {
      guard (1...FlowSettingsConfiguration.maximumTimeout).contains(new[timeout]) else {
        throw Refusal(
          .outOfRange,
          "flow settings: a timeout \(timeout.name) of \(new[timeout]) s; it is 1 to "
            + "\(FlowSettingsConfiguration.maximumTimeout)")
      }
    }
  }

  private func publishFlowSettings() {
    let new = flowSettings?.configuration ?? FlowSettingsConfiguration()
    var settings = FlowSettings()
    settings.tcp =
      switch new.tcp {
      case .liberal: .liberal
      case .opened: .opened
      case .strict: .strict
      }
    for timeout in FlowSettingsConfiguration.Timeout.allCases {
      let kind: FlowTimeout =
        switch timeout {
        case .tcpOpening: .tcpOpening
        case .tcpEstablished: .tcpEstablished
        case .tcpClosing: .tcpClosing
        case .udp: .udp
        case .udpStream: .udpStream
        case .icmp: .icmp
        case .other: .other
        case .denied: .denied
        }
      settings.timeouts[kind] = UInt64(new[timeout]) * 1_000_000_000
    }
    memory.flowSettings.publish(settings)
  }
}
