/// How a port of kind af_xdp works. Others have the default one.
public struct XDPConfiguration: Hashable, Sendable {
  /// Where the kernel runs the port's program.
  public enum Mode: UInt8, Sendable, CaseIterable {
    /// In the driver where it can, else in the kernel's stack.
    case auto = 0
    /// In the driver, or not at all.
    case native = 1
    /// In the kernel's stack.
    case skb = 2

    public var name: String { "\(self)" }
  }

  /// Whether the kernel copies frames.
  public enum Copying: UInt8, Sendable, CaseIterable {
    /// Where the driver cannot have the NIC use the forwarder's memory.
    case auto = 0
    case copy = 1
    /// Never: the port is refused where it would have to.
    case zeroCopy = 2

    public var name: String {
      switch self {
      case .auto: "auto"
      case .copy: "copy"
      case .zeroCopy: "zero-copy"
      }
    }
  }

  public static let maximumBusyPoll: UInt16 = 1000
  public static let budgets: ClosedRange<UInt16> = 1...1024

  public var mode: Mode
  public var copying: Copying
  /// Microseconds that the kernel looks at the NIC's queue when a worker asks; 0: the NIC interrupts. At most
  /// `maximumBusyPoll`.
  public var busyPoll: UInt16
  /// Packets that it takes then, `budgets`.
  public var busyPollBudget: UInt16

  public init(
    mode: Mode = .auto, copying: Copying = .auto, busyPoll: UInt16 = 0, busyPollBudget: UInt16 = 64
  ) {
    self.mode = mode
    self.copying = copying
    self.busyPoll = busyPoll
    self.busyPollBudget = busyPollBudget
  }

  /// It can be so, and not both in the stack and without copies.
  public var fault: String? {
    if mode == .skb, copying == .zeroCopy { return "zero-copy takes a program in the driver; mode skb has none there" }
    if busyPoll > Self.maximumBusyPoll { return "busy polling takes at most \(Self.maximumBusyPoll) microseconds" }
    if !Self.budgets.contains(busyPollBudget) {
      return "a budget of \(Self.budgets.lowerBound) to \(Self.budgets.upperBound) packets is what busy polling takes"
    }
    return nil
  }
}

extension SlotWriter {
  mutating func put(_ xdp: XDPConfiguration) {
    put(xdp.mode.rawValue)
    put(xdp.copying.rawValue)
    put(xdp.busyPoll)
    put(xdp.busyPollBudget)
  }
}

extension SlotReader {
  mutating func xdp() throws(SlotFault) -> XDPConfiguration {
    XDPConfiguration(
      mode: try option("xdp mode"), copying: try option("xdp copying"), busyPoll: try get("busy poll"),
      busyPollBudget: try get("busy poll budget"))
  }
}
