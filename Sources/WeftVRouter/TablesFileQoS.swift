import WeftRing
import WeftTables
import WeftWire

// Policers, classifiers and marks in TABLES.json, and what interfaces and rules say of them.

extension TablesFileBuilder {
  mutating func readQoS(_ file: TablesFileObject) throws(TablesFileError) {
    for node in try file.optional("policers")?.array() ?? [] { try readPolicer(node) }
    for node in try file.optional("qos-classifiers")?.array() ?? [] { try readClassifier(node) }
    for node in try file.optional("qos-marks")?.array() ?? [] { try readMarks(node) }
  }

  private mutating func readPolicer(_ node: TablesFileNode) throws(TablesFileError) {
    let object = try node.object(keys: [
      "id", "name", "kind", "unit", "rate", "burst", "excess-burst", "peak-rate", "peak-burst", "color-aware",
      "yellow-dscp",
    ])
    let idNode = try object.required("id")
    let id = try idNode.integer(0...UInt32(PolicerTable.capacity - 1))
    try claim(id, in: &policers, node.path, at: idNode, "policer \(id)")
    let kind: PolicerConfiguration.Kind = try object.optional("kind")?.choice { $0.name } ?? .singleRate
    let unit: PolicerConfiguration.Unit = try object.optional("unit")?.choice { $0.name } ?? .bits
    if kind != .singleRateThreeColor {
      try object.refuse(["excess-burst"], "it goes with the kind single-rate-three-color")
    }
    if kind != .twoRateThreeColor {
      try object.refuse(["peak-rate", "peak-burst"], "it goes with the kind two-rate-three-color")
    }
    if kind == .singleRate {
      try object.refuse(["color-aware", "yellow-dscp"], "it goes with a kind of three colors")
    }
    let rates = 1...(unit == .bits ? PolicerSettings.maximumBitRate : PolicerSettings.maximumPacketRate)
    let bursts = (unit == .bits ? 64 : 1)...PolicerSettings.maximumBurst
    var policer = PolicerConfiguration(
      id: id, kind: kind, unit: unit, rate: try object.required("rate").long(rates),
      burst: try object.required("burst").long(bursts))
    if let node = object.optional("name") { policer.name = try name(node) }
    switch kind {
    case .singleRate: break
    case .singleRateThreeColor:
      policer.excessBurst = try object.required("excess-burst").long(1...PolicerSettings.maximumBurst)
    case .twoRateThreeColor:
      policer.peakRate = try object.required("peak-rate").long(policer.rate...rates.upperBound)
      policer.excessBurst = try object.required("peak-burst").long(bursts)
    }
    if let node = object.optional("color-aware") { policer.isColorAware = try node.flag() }
    if let node = object.optional("yellow-dscp") { policer.yellowDSCP = UInt8(try node.integer(0...63)) }
    add(.setPolicer(policer), node)
  }

  private mutating func readClassifier(_ node: TablesFileNode) throws(TablesFileError) {
    let object = try node.object(keys: ["id", "name", "default", "dscp", "pcp", "exp"])
    let idNode = try object.required("id")
    let id = try idNode.integer(0...TableProgrammer.maximumQoSEntries - 1)
    try claim(id, in: &classifiers, node.path, at: idNode, "classifier \(id)")
    var classifier = ClassifierConfiguration(id: id)
    if let node = object.optional("name") { classifier.name = try name(node) }
    if let node = object.optional("default") { classifier.fallback = try forwardingClass(node) }
    classifier.dscp = try classMap(object.optional("dscp"), last: 63)
    classifier.pcp = try classMap(object.optional("pcp"), last: 7)
    classifier.exp = try classMap(object.optional("exp"), last: 7)
    add(.setClassifier(classifier), node)
  }

  private func forwardingClass(_ node: TablesFileNode) throws(TablesFileError) -> UInt8 {
    UInt8(try node.integer(0...UInt32(ClassifierConfiguration.classes - 1)))
  }

  private func classMap(_ node: TablesFileNode?, last: UInt32) throws(TablesFileError) -> [UInt8: UInt8]? {
    guard let node else { return nil }
    var map: [UInt8: UInt8] = [:]
    for row in try node.array() {
      let object = try row.object(keys: ["values", "class"])
      let key = try forwardingClass(object.required("class"))
      for value in try object.required("values").array() {
        let number = UInt8(try value.integer(0...last))
        guard map.updateValue(key, forKey: number) == nil else {
          throw value.fail("\(number) has a class already; each value stands once")
        }
      }
    }
    return map
  }

  private mutating func readMarks(_ node: TablesFileNode) throws(TablesFileError) {
    let object = try node.object(keys: ["id", "name", "classes"])
    let idNode = try object.required("id")
    let id = try idNode.integer(0...TableProgrammer.maximumQoSEntries - 1)
    try claim(id, in: &marks, node.path, at: idNode, "marks \(id)")
    var remark = RemarkConfiguration(id: id)
    if let node = object.optional("name") { remark.name = try name(node) }
    for row in try object.required("classes").array() {
      let fields = try row.object(keys: ["class", "dscp", "outer-dscp", "exp", "pcp"])
      let keyNode = try fields.required("class")
      let key = try forwardingClass(keyNode)
      func mark(_ key: String, _ last: UInt32) throws(TablesFileError) -> UInt8? {
        guard let node = fields.optional(key) else { return nil }
        return UInt8(try node.integer(0...last))
      }
      let marks = ClassMarks(
        dscp: try mark("dscp", 63), outerDSCP: try mark("outer-dscp", 63), exp: try mark("exp", 7),
        pcp: try mark("pcp", 7))
      guard remark.classes.updateValue(marks, forKey: key) == nil else {
        throw keyNode.fail("class \(key) stands here twice; each stands once")
      }
    }
    add(.setRemark(remark), node)
  }

  /// The keys of an interface.
  func readQoS(_ object: TablesFileObject, _ interface: inout InterfaceConfiguration) throws(TablesFileError) {
    interface.qos.ingressPolicer = try policer(object.optional("ingress-policer"))
    interface.qos.egressPolicer = try policer(object.optional("egress-policer"))
    interface.qos.classifier = try reference(
      object.optional("qos-classifier"), classifiers, "classifier", "qos-classifiers")
    interface.qos.remark = try reference(object.optional("qos-marks"), marks, "entry", "qos-marks")
  }

  /// A policer's number where one may be referred to.
  func policer(_ node: TablesFileNode?) throws(TablesFileError) -> UInt32? {
    try reference(node, policers, "policer", "policers")
  }

  private func reference(
    _ node: TablesFileNode?, _ known: [UInt32: String], _ what: String, _ table: String
  ) throws(TablesFileError) -> UInt32? {
    guard let node else { return nil }
    let id = try node.integer(0...UInt32.max)
    guard known[id] != nil else { throw node.fail("there is no \(what) \(id) in $.\(table)") }
    return id
  }
}
