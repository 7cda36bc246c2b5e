import WeftWire

/// Marks of a packet that nobody set.
public let noMark: UInt8 = 0xFF

/// By what packets that come in are divided into forwarding classes (0 to 15). Never changed once published.
@frozen public struct ClassifierEntry: Sendable {
  public static let classes = 16

  /// The class of what the maps do not tell.
  public var fallback: UInt8
  /// The class by each value; `noMark` for one that is not told apart.
  public var dscp: InlineArray<64, UInt8> = .init(repeating: noMark)
  public var pcp: InlineArray<8, UInt8> = .init(repeating: noMark)
  public var exp: InlineArray<8, UInt8> = .init(repeating: noMark)
  /// The maps that are there.
  public var usesDSCP = false
  public var usesPCP = false
  public var usesEXP = false

  public init(fallback: UInt8) { self.fallback = fallback }

  /// The class by a DSCP (RFC 2474), 0...63.
  @inline(__always) public func forwardingClass(ofDSCP value: UInt8) -> UInt8 { told(dscp[Int(value & 63)]) }
  /// By a VLAN tag's priority code point (IEEE 802.1Q clause 6.9.3), 0...7.
  @inline(__always) public func forwardingClass(ofPCP value: UInt8) -> UInt8 { told(pcp[Int(value & 7)]) }
  /// By an MPLS label's traffic class (RFC 5462), 0...7.
  @inline(__always) public func forwardingClass(ofEXP value: UInt8) -> UInt8 { told(exp[Int(value & 7)]) }

  @inline(__always) private func told(_ value: UInt8) -> UInt8 { value == noMark ? fallback : value }

  /// The class of a packet by the first of label, tag and DSCP that it has and that there is a map for. `noMark` for a label or tag that it has not.
  public func forwardingClass(dscp: UInt8, pcp: UInt8, exp: UInt8) -> UInt8 {
    if usesEXP, exp != noMark { return forwardingClass(ofEXP: exp) }
    if usesPCP, pcp != noMark { return forwardingClass(ofPCP: pcp) }
    return usesDSCP ? forwardingClass(ofDSCP: dscp) : fallback
  }
}

/// What packets of each forwarding class are marked with where they go out. Never changed once published.
@frozen public struct RemarkEntry: Sendable {
  /// `noMark` for what stays as it is.
  @frozen public struct Marks: Hashable, Sendable {
    /// The packet's own.
    public var dscp: UInt8 = noMark
    /// The tunnel's.
    public var outerDSCP: UInt8 = noMark
    /// The label's.
    public var exp: UInt8 = noMark
    /// The VLAN tag's.
    public var pcp: UInt8 = noMark

    public init() {}
  }

  public var marks: InlineArray<16, Marks> = .init(repeating: Marks())

  public init() {}

  @inline(__always) public subscript(forwardingClass: UInt8) -> Marks { marks[Int(forwardingClass & 15)] }
}

/// How many classifiers and how many tables of marks there may be.
public enum QoSTables {
  public static let capacity = 4096
}
