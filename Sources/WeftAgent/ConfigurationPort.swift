import WeftRing

/// How the forwarder opens kernel interfaces.
public struct PortSettings: Hashable, Sendable {
  /// `.packet` or `.xdp`; of pods also `.tap`.
  public var kind = PortKind.packet
  public var xdp = XDPConfiguration()
  /// Of a TAP interface; 0: one for each worker of the forwarder.
  public var queues: UInt16 = 1

  public init() {}
}

extension PortSettings {
  static let fabricKeys = ["port", "xdp"]
  static let podKeys = fabricKeys + ["queues"]
  static let fabricKinds = [PortKind.packet, .xdp]
  static let podKinds = fabricKinds + [.tap]

  /// How pods are opened whose interfaces are veths: those that somebody else made, or that are there from before.
  var vethKind: PortKind { kind == .tap ? .packet : kind }

  /// The keys of a mapping that are about ports.
  init(_ mapping: ConfigurationMapping, _ kinds: [PortKind]) throws(ConfigurationError) {
    if let node = mapping["port"] { kind = try node.choice(kinds, "a kind of port") { $0.name } }
    if let node = mapping["queues"] {
      guard kind == .tap else { throw node.error("is for ports of kind tap; set port to tap or remove it") }
      queues = UInt16(
        try node.integer(
          0...Int(TapConfiguration.maximumQueues),
          "a number of queues, or 0 for one for each of the forwarder's workers"))
    }
    guard let node = mapping["xdp"] else { return }
    guard kind == .xdp else { throw node.error("is for ports of kind af_xdp; set port to af_xdp or remove it") }
    let settings = try node.mapping(["mode", "copy", "busy-poll", "busy-poll-budget"])
    if let mode = settings["mode"] { xdp.mode = try mode.choice(XDPConfiguration.Mode.allCases, "a mode") { $0.name } }
    if let copying = settings["copy"] {
      xdp.copying = try copying.choice(XDPConfiguration.Copying.allCases, "a way to copy") { $0.name }
    }
    if let time = settings["busy-poll"] {
      xdp.busyPoll = UInt16(try time.integer(0...Int(XDPConfiguration.maximumBusyPoll), "a time in microseconds"))
    }
    if let budget = settings["busy-poll-budget"] {
      let range = XDPConfiguration.budgets
      xdp.busyPollBudget = UInt16(
        try budget.integer(Int(range.lowerBound)...Int(range.upperBound), "a number of packets"))
    }
    if let fault = xdp.fault { throw node.error(fault) }
  }
}

extension ConfigurationNode {
  fileprivate func choice<T>(_ all: [T], _ what: String, _ name: (T) -> String) throws(ConfigurationError) -> T {
    let names = all.map(name)
    let text = try text("\(what): \(names.joined(separator: " or "))")
    guard let index = names.firstIndex(of: text) else {
      throw error("\"\(text)\" is not \(what): \(names.joined(separator: " or "))")
    }
    return all[index]
  }
}
