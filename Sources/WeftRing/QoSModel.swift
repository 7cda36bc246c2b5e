import WeftWire

// Quality of service: forwarding classes (0 to 15) by the marks that packets come with, marks by class where they go out.

/// How an interface's packets are metered and marked; each by number, nil for none.
public struct InterfaceQoS: Hashable, Sendable {
  /// Policers of what comes in and of what goes out.
  public var ingressPolicer: UInt32?
  public var egressPolicer: UInt32?
  /// The classifier of what comes in.
  public var classifier: UInt32?
  /// The marks of what goes out.
  public var remark: UInt32?

  public init(
    ingressPolicer: UInt32? = nil, egressPolicer: UInt32? = nil, classifier: UInt32? = nil, remark: UInt32? = nil
  ) {
    self.ingressPolicer = ingressPolicer
    self.egressPolicer = egressPolicer
    self.classifier = classifier
    self.remark = remark
  }
}

/// Which forwarding class packets get that come in by an interface. Of the maps that are there, the first of these
/// marks that a packet has decides: an MPLS label's traffic class, a VLAN tag's priority, the DSCP (of the tunnel, if it
/// comes by one).
public struct ClassifierConfiguration: Hashable, Sendable {
  public static let classes = 16

  public var id: UInt32
  /// For people; at most 63 bytes, may be empty.
  public var name: String
  /// Of what the maps do not tell.
  public var fallback: UInt8
  /// Classes by value; nil where the mark is not looked at.
  public var dscp: [UInt8: UInt8]?
  public var pcp: [UInt8: UInt8]?
  public var exp: [UInt8: UInt8]?

  public init(
    id: UInt32, name: String = "", fallback: UInt8 = 0, dscp: [UInt8: UInt8]? = nil, pcp: [UInt8: UInt8]? = nil,
    exp: [UInt8: UInt8]? = nil
  ) {
    self.id = id
    self.name = name
    self.fallback = fallback
    self.dscp = dscp
    self.pcp = pcp
    self.exp = exp
  }
}

/// What packets of a forwarding class are marked with where they go out; nil for what stays as it is.
public struct ClassMarks: Hashable, Sendable {
  /// The packet's own.
  public var dscp: UInt8?
  /// The tunnel's.
  public var outerDSCP: UInt8?
  /// An MPLS label's traffic class (RFC 5462).
  public var exp: UInt8?
  /// A VLAN tag's priority code point.
  public var pcp: UInt8?

  public init(dscp: UInt8? = nil, outerDSCP: UInt8? = nil, exp: UInt8? = nil, pcp: UInt8? = nil) {
    self.dscp = dscp
    self.outerDSCP = outerDSCP
    self.exp = exp
    self.pcp = pcp
  }
}

/// Marks by forwarding class.
public struct RemarkConfiguration: Hashable, Sendable {
  public var id: UInt32
  /// For people; at most 63 bytes, may be empty.
  public var name: String
  /// By class, those that have marks.
  public var classes: [UInt8: ClassMarks]

  public init(id: UInt32, name: String = "", classes: [UInt8: ClassMarks] = [:]) {
    self.id = id
    self.name = name
    self.classes = classes
  }
}

private let nameBytes = 63

extension SlotWriter {
  mutating func put(_ qos: InterfaceQoS) {
    putOptional(qos.ingressPolicer)
    putOptional(qos.egressPolicer)
    putOptional(qos.classifier)
    putOptional(qos.remark)
  }

  mutating func put(_ classifier: ClassifierConfiguration) {
    put(classifier.id)
    put(classifier.name, maximum: nameBytes)
    put(classifier.fallback)
    put(classifier.dscp, values: 64)
    put(classifier.pcp, values: 8)
    put(classifier.exp, values: 8)
  }

  /// A flag, then the number of values and each with its class, in their order.
  private mutating func put(_ map: [UInt8: UInt8]?, values: Int) {
    put(UInt8(map == nil ? 0 : 1))
    guard let map else { return }
    let kept = map.keys.sorted().prefix(values)
    put(UInt8(kept.count))
    for value in kept {
      put(value)
      put(map[value] ?? 0)
    }
  }

  mutating func put(_ remark: RemarkConfiguration) {
    put(remark.id)
    put(remark.name, maximum: nameBytes)
    let kept = remark.classes.keys.sorted().prefix(ClassifierConfiguration.classes)
    put(UInt8(kept.count))
    for key in kept {
      let marks = remark.classes[key] ?? ClassMarks()
      put(key)
      putOptional(marks.dscp)
      putOptional(marks.outerDSCP)
      putOptional(marks.exp)
      putOptional(marks.pcp)
    }
  }
}

extension SlotReader {
  mutating func interfaceQoS() throws(SlotFault) -> InterfaceQoS {
    InterfaceQoS(
      ingressPolicer: try optional("ingress policer"), egressPolicer: try optional("egress policer"),
      classifier: try optional("classifier"), remark: try optional("remark"))
  }

  mutating func classifier() throws(SlotFault) -> ClassifierConfiguration {
    ClassifierConfiguration(
      id: try get("classifier id"), name: try text("classifier name", maximum: nameBytes),
      fallback: try get("default class"), dscp: try classMap("dscp map", values: 64),
      pcp: try classMap("pcp map", values: 8), exp: try classMap("exp map", values: 8))
  }

  private mutating func classMap(_ what: StaticString, values: Int) throws(SlotFault) -> [UInt8: UInt8]? {
    guard try flag(what) else { return nil }
    let count = Int(try get(what, as: UInt8.self))
    guard count <= values else { throw SlotFault(what: what) }
    var map: [UInt8: UInt8] = [:]
    for _ in 0..<count {
      let value: UInt8 = try get(what)
      guard map.updateValue(try get(what), forKey: value) == nil else { throw SlotFault(what: what) }
    }
    return map
  }

  mutating func remark() throws(SlotFault) -> RemarkConfiguration {
    var remark = RemarkConfiguration(id: try get("remark id"), name: try text("remark name", maximum: nameBytes))
    let count = Int(try get("class count", as: UInt8.self))
    guard count <= ClassifierConfiguration.classes else { throw SlotFault(what: "class count") }
    for _ in 0..<count {
      let key: UInt8 = try get("class")
      let marks = ClassMarks(
        dscp: try optional("inner dscp"), outerDSCP: try optional("outer dscp"), exp: try optional("exp"),
        pcp: try optional("pcp"))
      guard remark.classes.updateValue(marks, forKey: key) == nil else { throw SlotFault(what: "class") }
    }
    return remark
  }
}
