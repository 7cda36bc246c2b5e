import WeftRing

extension Samples {
  static let captures = [
    CaptureConfiguration(),
    CaptureConfiguration(
      interfaces: Array(repeating: .max, count: CaptureConfiguration.maximumInterfaces), arrivals: false,
      departures: false, drops: true, reasonsLow: 0, reasonsHigh: .max - 1, snap: 0, instructions: .max),
    CaptureConfiguration(interfaces: [0], arrivals: true, departures: false, snap: .max),
    CaptureConfiguration(arrivals: false, departures: true, drops: true),
  ]

  static let captureCommands: [Command] =
    captures.map(Command.startCapture) + numbers.map { .stopCapture(id: $0) }
}
