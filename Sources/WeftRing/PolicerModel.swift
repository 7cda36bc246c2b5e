import WeftWire

/// A token bucket, or two, that interfaces and rules refer to: all that refer to one share its rate.
public struct PolicerConfiguration: Hashable, Sendable {
  /// How it meters.
  public enum Kind: UInt8, Sendable, CaseIterable {
    /// A rate and a burst: what conforms passes, the rest is dropped.
    case singleRate = 1
    /// RFC 2697 (srTCM): within the burst green, within the excess burst yellow, the rest red, which is dropped.
    case singleRateThreeColor = 2
    /// RFC 2698 (trTCM): within the rate green, within the peak rate yellow, the rest red, which is dropped.
    case twoRateThreeColor = 3

    public var name: String {
      switch self {
      case .singleRate: "single-rate"
      case .singleRateThreeColor: "single-rate-three-color"
      case .twoRateThreeColor: "two-rate-three-color"
      }
    }
  }

  /// What is metered.
  public enum Unit: UInt8, Sendable, CaseIterable {
    /// Rates in bit/s, bursts in bytes: of Ethernet frames without preamble and check sequence.
    case bits = 1
    /// Rates in packets/s, bursts in packets.
    case packets = 2

    public var name: String {
      switch self {
      case .bits: "bits"
      case .packets: "packets"
      }
    }
  }

  public var id: UInt32
  /// For people; at most 63 bytes, may be empty.
  public var name: String
  public var kind: Kind
  public var unit: Unit
  /// The committed rate and burst.
  public var rate: UInt64
  public var burst: UInt64
  /// twoRateThreeColor: not below `rate`. 0 otherwise.
  public var peakRate: UInt64
  /// The excess burst (single rate), or the peak burst (two rates); 0 for one colour.
  public var excessBurst: UInt64
  /// Three colours: packets that come with the drop precedence of yellow or red (RFC 2597) get no better one.
  public var isColorAware: Bool
  /// Three colours: what yellow packets are marked with (0...63).
  public var yellowDSCP: UInt8?

  public init(
    id: UInt32, name: String = "", kind: Kind = .singleRate, unit: Unit = .bits, rate: UInt64, burst: UInt64,
    peakRate: UInt64 = 0, excessBurst: UInt64 = 0, isColorAware: Bool = false, yellowDSCP: UInt8? = nil
  ) {
    self.id = id
    self.name = name
    self.kind = kind
    self.unit = unit
    self.rate = rate
    self.burst = burst
    self.peakRate = peakRate
    self.excessBurst = excessBurst
    self.isColorAware = isColorAware
    self.yellowDSCP = yellowDSCP
  }
}

/// What a policer has counted since it was set first.
public struct PolicerState: Hashable, Sendable {
  /// Green, yellow and red.
  public var conformingPackets: UInt64 = 0
  public var conformingBytes: UInt64 = 0
  public var exceedingPackets: UInt64 = 0
  public var exceedingBytes: UInt64 = 0
  public var violatingPackets: UInt64 = 0
  public var violatingBytes: UInt64 = 0

  public init() {}
}

private let nameBytes = 63

extension SlotWriter {
  mutating func put(_ policer: PolicerConfiguration) {
    put(policer.id)
    put(policer.name, maximum: nameBytes)
    put(policer.kind.rawValue)
    put(policer.unit.rawValue)
    put(policer.rate)
    put(policer.burst)
    put(policer.peakRate)
    put(policer.excessBurst)
    put(UInt8(policer.isColorAware ? 1 : 0))
    putOptional(policer.yellowDSCP)
  }

  mutating func put(_ state: PolicerState) {
    put(state.conformingPackets)
    put(state.conformingBytes)
    put(state.exceedingPackets)
    put(state.exceedingBytes)
    put(state.violatingPackets)
    put(state.violatingBytes)
  }
}

extension SlotReader {
  mutating func policer() throws(SlotFault) -> PolicerConfiguration {
    PolicerConfiguration(
      id: try get("policer id"), name: try text("policer name", maximum: nameBytes), kind: try option("policer kind"),
      unit: try option("policer unit"), rate: try get("rate"), burst: try get("burst"), peakRate: try get("peak rate"),
      excessBurst: try get("excess burst"), isColorAware: try flag("color-aware"),
      yellowDSCP: try optional("yellow dscp")
    )
  }

  mutating func policerState() throws(SlotFault) -> PolicerState {
    var state = PolicerState()
    state.conformingPackets = try get("conforming packets")
    state.conformingBytes = try get("conforming bytes")
    state.exceedingPackets = try get("exceeding packets")
    state.exceedingBytes = try get("exceeding bytes")
    state.violatingPackets = try get("violating packets")
    state.violatingBytes = try get("violating bytes")
    return state
  }
}
