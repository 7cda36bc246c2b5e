import WeftRing
import WeftTables
import WeftWire

// Classifiers and marks, and what interfaces refer to of them and of policers.

extension TableProgrammer {
  static let maximumQoSEntries: UInt32 = UInt32(QoSTables.capacity)

  // MARK: classifiers

  func set(_ new: ClassifierConfiguration) throws(Refusal) {
    if let reason = Self.fault(of: new) { throw Refusal(.outOfRange, "classifier \(new.id): \(reason)") }
    classifiers.set(new.id, new, generation: generation)
    var entry = ClassifierEntry(fallback: new.fallback)
    entry.usesDSCP = new.dscp != nil
    entry.usesPCP = new.pcp != nil
    entry.usesEXP = new.exp != nil
    for (value, key) in new.dscp ?? [:] { entry.dscp[Int(value)] = key }
    for (value, key) in new.pcp ?? [:] { entry.pcp[Int(value)] = key }
    for (value, key) in new.exp ?? [:] { entry.exp[Int(value)] = key }
    memory.publish(classifier: new.id, entry)
  }

  func remove(classifier id: UInt32) throws(Refusal) {
    guard let entry = classifiers[id] else { throw Refusal(.notFound, "classifier \(id) is not there") }
    guard entry.uses == 0 else { throw inUse("classifier \(id) (\(entry.value.name))", entry.uses) }
    memory.publish(classifier: id, nil)
    classifiers.remove(id)
  }

  /// What is wrong with a classifier, or nil.
  static func fault(of classifier: ClassifierConfiguration) -> String? {
    let maps =
      [("DSCP", classifier.dscp, 63), ("PCP", classifier.pcp, 7), ("EXP", classifier.exp, 7)]
      as [(String, [UInt8: UInt8]?, UInt8)]
    return faultOf(id: classifier.id) ?? faultOf(class: classifier.fallback)
      ?? first(maps) { name, map, last in
        first(map ?? [:]) { value, key in fault(name, value, last) ?? faultOf(class: key) }
      }
  }

  // MARK: marks

  func set(_ new: RemarkConfiguration) throws(Refusal) {
    if let reason = Self.fault(of: new) { throw Refusal(.outOfRange, "marks \(new.id): \(reason)") }
    remarks.set(new.id, new, generation: generation)
    var entry = RemarkEntry()
    for (key, marks) in new.classes {
      var row = RemarkEntry.Marks()
      row.dscp = marks.dscp ?? noMark
      row.outerDSCP = marks.outerDSCP ?? noMark
      row.exp = marks.exp ?? noMark
      row.pcp = marks.pcp ?? noMark
      entry.marks[Int(key)] = row
    }
    memory.publish(remark: new.id, entry)
  }

  func remove(remark id: UInt32) throws(Refusal) {
    guard let entry = remarks[id] else { throw Refusal(.notFound, "marks \(id) are not there") }
    guard entry.uses == 0 else { throw inUse("marks \(id) (\(entry.value.name))", entry.uses) }
    memory.publish(remark: id, nil)
    remarks.remove(id)
  }

  /// What is wrong with marks, or nil.
  static func fault(of remark: RemarkConfiguration) -> String? {
    faultOf(id: remark.id)
      ?? first(remark.classes) { key, marks in
        faultOf(class: key) ?? fault("DSCP", marks.dscp, 63) ?? fault("outer DSCP", marks.outerDSCP, 63)
          ?? fault("EXP", marks.exp, 7) ?? fault("PCP", marks.pcp, 7)
      }
  }

  // MARK: what both have

  private static func first<S: Sequence>(_ rows: S, _ fault: (S.Element) -> String?) -> String? {
    for row in rows { if let reason = fault(row) { return reason } }
    return nil
  }

  private static func faultOf(id: UInt32) -> String? {
    id < maximumQoSEntries ? nil : "the number is not below \(maximumQoSEntries)"
  }

  private static func faultOf(class key: UInt8) -> String? {
    fault("class", key, UInt8(ClassifierConfiguration.classes - 1))
  }

  private static func fault(_ name: String, _ value: UInt8?, _ last: UInt8) -> String? {
    guard let value, value > last else { return nil }
    return "\(name) \(value) is not within 0 to \(last)"
  }

  // MARK: interfaces

  func checkQoS(_ interface: InterfaceConfiguration) throws(Refusal) {
    for id in [interface.qos.ingressPolicer, interface.qos.egressPolicer] { if let id { try requirePolicer(id) } }
    if let id = interface.qos.classifier, !classifiers.contains(id) {
      throw Refusal(.notFound, "classifier \(id) is not there; set it first")
    }
    if let id = interface.qos.remark, !remarks.contains(id) {
      throw Refusal(.notFound, "marks \(id) are not there; set them first")
    }
  }

  /// What the interface refers to has one use more or less.
  func countQoS(_ interface: InterfaceConfiguration, _ change: Int) {
    for id in [interface.qos.ingressPolicer, interface.qos.egressPolicer] { if let id { policers.use(id, change) } }
    if let id = interface.qos.classifier { classifiers.use(id, change) }
    if let id = interface.qos.remark { remarks.use(id, change) }
  }

  /// In the packet path 0 is none.
  func setQoS(_ entry: inout InterfaceEntry, _ interface: InterfaceConfiguration) {
    entry.ingressPolicer = interface.qos.ingressPolicer.map { $0 + 1 } ?? 0
    entry.egressPolicer = interface.qos.egressPolicer.map { $0 + 1 } ?? 0
    entry.classifier = interface.qos.classifier.map { $0 + 1 } ?? 0
    entry.remark = interface.qos.remark.map { $0 + 1 } ?? 0
    entry.isPlain = entry.isPlain && interface.qos == InterfaceQoS()
  }
}
