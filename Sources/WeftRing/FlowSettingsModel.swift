// How flows are kept: what is asked of TCP, and how long they may be idle.

public struct FlowSettingsConfiguration: Hashable, Sendable {
  /// What is asked of TCP segments, by their flags and the state of their connection.
  public enum TCPStrictness: UInt8, Sendable, CaseIterable {
    /// Any segment begins a flow that a TCP could send: connections outlive a restart of the forwarder.
    case liberal = 1
    /// Only a SYN does.
    case opened = 2
    /// And a segment that does not fit the state of its connection is dropped.
    case strict = 3

    public var name: String { "\(self)" }
  }

  /// Kinds of flows by how long they may be idle.
  public enum Timeout: Int, Sendable, CaseIterable {
    /// TCP before its handshake is done.
    case tcpOpening = 0
    case tcpEstablished
    /// TCP after RST or both FINs.
    case tcpClosing
    /// UDP of which one direction was seen.
    case udp
    /// UDP of which both directions were seen.
    case udpStream
    case icmp
    case other
    /// A flow that policy denies is remembered for this long.
    case denied

    public var name: String {
      switch self {
      case .tcpOpening: "tcp-opening"
      case .tcpEstablished: "tcp-established"
      case .tcpClosing: "tcp-closing"
      case .udp: "udp"
      case .udpStream: "udp-stream"
      case .icmp: "icmp"
      case .other: "other"
      case .denied: "denied"
      }
    }
  }

  /// Seconds: 30 days.
  public static let maximumTimeout: UInt32 = 2_592_000

  public var tcp: TCPStrictness
  /// Seconds, by `Timeout`.
  private var seconds: [UInt32]

  /// What holds as long as nothing is set.
  public init(tcp: TCPStrictness = .liberal) {
    self.tcp = tcp
    seconds = [30, 7200, 20, 30, 180, 15, 120, 10]
  }

  public subscript(timeout: Timeout) -> UInt32 {
    get { seconds[timeout.rawValue] }
    set { seconds[timeout.rawValue] = newValue }
  }
}

// How they lie in a slot. Writer and reader stand together.

extension SlotWriter {
  mutating func put(_ entry: FlowSettingsConfiguration) {
    put(entry.tcp.rawValue)
    for timeout in FlowSettingsConfiguration.Timeout.allCases { put(entry[timeout]) }
  }
}

extension SlotReader {
  mutating func flowSettings() throws(SlotFault) -> FlowSettingsConfiguration {
    var entry = FlowSettingsConfiguration(tcp: try option("tcp"))
    for timeout in FlowSettingsConfiguration.Timeout.allCases { entry[timeout] = try get("timeout") }
    return entry
  }
}
